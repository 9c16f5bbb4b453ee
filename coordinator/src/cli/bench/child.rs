//! A child process of a benchmark, from the parent's side.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child as Process, ChildStdin, ChildStdout, Command};

use super::plan::{Mark, Plan};
use crate::cli::{Exit, Failure};

/// How long a child may take to get ready, or to answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// A running child; killed when it is dropped.
pub(super) struct Child {
    what: &'static str,
    /// Ends the child when it is closed.
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    process: Process,
}

impl Child {
    /// Starts this program again with other arguments.
    pub(super) fn start(what: &'static str, arguments: &[String]) -> Result<Self, Failure> {
        let program = std::env::current_exe()?;
        let mut process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(stdin), Some(stdout)) = (process.stdin.take(), process.stdout.take()) else {
            unreachable!("both were asked for");
        };
        Ok(Self { what, stdin, stdout: BufReader::new(stdout).lines(), process })
    }

    /// Starts a worker with its plan, and waits until it is ready.
    pub(super) async fn worker(what: &'static str, plan: &Plan) -> Result<Self, Failure> {
        let mut child = Self::start(what, &["bench-worker".to_owned()])?;
        child.say(&serde_json::to_string(plan).unwrap_or_default()).await?;
        child.hear().await?;
        Ok(child)
    }

    pub(super) async fn mark(&mut self) -> Result<Mark, Failure> {
        self.say("mark").await?;
        let line = self.hear().await?;
        serde_json::from_str(&line)
            .map_err(|error| Failure::new(Exit::Failed, format!("the {} said {line:?}: {error}", self.what), ""))
    }

    /// Lets what is under way end.
    pub(super) async fn stop(&mut self) -> Result<(), Failure> {
        self.say("stop").await?;
        self.hear().await?;
        Ok(())
    }

    /// Kills it, and waits until it is gone.
    pub(super) async fn end(mut self) {
        // It may be gone already.
        self.process.kill().await.ok();
    }

    async fn say(&mut self, line: &str) -> Result<(), Failure> {
        self.stdin.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(self.stdin.flush().await?)
    }

    /// The next line of its stdout.
    pub(super) async fn hear(&mut self) -> Result<String, Failure> {
        let failed = |why: &str| {
            let next = "its own messages are above";
            Failure::new(Exit::Failed, format!("the {} {why}", self.what), next)
        };
        match tokio::time::timeout(ANSWER_MAX, self.stdout.next_line()).await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(Ok(None)) => Err(failed("ended")),
            Ok(Err(error)) => Err(failed(&format!("cannot be heard: {error}"))),
            Err(_) => Err(failed("did not answer in time")),
        }
    }
}
