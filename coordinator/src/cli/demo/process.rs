//! A child process, from the stage's side.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

use super::failure;
use crate::cli::Failure;

/// A running child: this program, once more. It is killed when this value is dropped.
#[derive(Debug)]
pub(super) struct Process {
    id: u32,
    child: Child,
    /// Ends the child when it is closed, be it by the end of this process.
    stdin: ChildStdin,
}

/// What a process was heard to say.
#[derive(Debug)]
pub(super) struct Heard {
    /// Which process: one that was started anew has another id.
    pub(super) id: u32,
    /// Who it plays.
    pub(super) name: &'static str,
    /// A line of its stdout; `None` at its end.
    pub(super) line: Option<String>,
}

/// Where the stderr of a process goes, over all its starts.
pub(super) fn log_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.log"))
}

impl Process {
    /// Starts `assent demo ARGUMENTS` within the directory.
    pub(super) fn start(
        name: &'static str,
        arguments: &[&str],
        directory: &Path,
        heard: mpsc::Sender<Heard>,
    ) -> Result<Self, Failure> {
        let log = File::options().create(true).append(true).open(log_path(directory, name)).map_err(failure)?;
        let mut command = Command::new(std::env::current_exe().map_err(failure)?);
        command
            .arg("demo")
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true);
        // What configures the coordinators of this machine is not for this one.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("ASSENT_") {
                command.env_remove(variable);
            }
        }
        // A Ctrl-C is for the stage alone, which then ends them in order.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(failure)?;
        let (Some(id), Some(stdin), Some(stdout)) = (child.id(), child.stdin.take(), child.stdout.take()) else {
            unreachable!("a child that was not waited for has an id, and both pipes were asked for");
        };
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            loop {
                let line = lines.next_line().await.ok().flatten();
                let is_end = line.is_none();
                // Nobody listens any more at the end of the demo.
                if heard.send(Heard { id, name, line }).await.is_err() || is_end {
                    return;
                }
            }
        });
        Ok(Self { id, child, stdin })
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Says a line to it.
    pub(super) async fn say(&mut self, line: &str) -> Result<(), Failure> {
        self.stdin.write_all(format!("{line}\n").as_bytes()).await.map_err(failure)?;
        self.stdin.flush().await.map_err(failure)
    }

    /// Ends it with SIGKILL, and returns when it is gone.
    pub(super) async fn kill(mut self) -> Result<(), Failure> {
        self.child.kill().await.map_err(failure)
    }

    /// How it ended, after it has closed its stdout.
    pub(super) async fn ended(mut self) -> Result<ExitStatus, Failure> {
        drop(self.stdin);
        self.child.wait().await.map_err(failure)
    }
}
