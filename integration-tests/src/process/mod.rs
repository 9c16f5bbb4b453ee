//! Programs of this workspace as child processes: real processes over real sockets, that a test can kill.
//!
//! ```no_run
//! # async fn example() {
//! use std::time::Duration;
//! use integration_tests::{Port, Program};
//!
//! let port = Port::reserve();
//! let mut coordinator = Program::assent().args(["serve", "--listen"]).arg(port.address().to_string()).start();
//! coordinator.line_with("listening", Duration::from_secs(10)).await;
//! coordinator.kill();
//! coordinator.restart();
//! # }
//! ```
//!
//! A process that is started once listens on port 0, and the test reads the address that it prints
//! ([`Process::address_after`]): no port is guessed. One that is to come back at the same address gets a [`Port`](crate::Port).

mod build;
mod output;

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

pub use build::executable;
use output::Output;

use crate::eventually::eventually_now;

/// A program and how to start it.
#[derive(Debug, Clone)]
pub struct Program {
    name: String,
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Program {
    /// The binary `assent` of this workspace, built from the current sources.
    ///
    /// # Panics
    /// When it does not build.
    #[must_use]
    pub fn assent() -> Self {
        Self::built("assent")
    }

    /// A binary of this workspace by its name, built from the current sources.
    ///
    /// # Panics
    /// When there is no such binary or it does not build.
    #[must_use]
    pub fn built(name: &str) -> Self {
        Self::at(executable(name))
    }

    /// Any program.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Self { name, path, arguments: Vec::new(), environment: Vec::new() }
    }

    /// What its output is marked with, where a test starts several of one program.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// One more variable of its environment, which apart from these is the test's.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The same program, started by another one with these arguments. That one becomes it (`exec`), so that it is still the one that is killed.
    pub(crate) fn started_by(mut self, starter: impl Into<PathBuf>, arguments: [&str; 3]) -> Self {
        let program = std::mem::replace(&mut self.path, starter.into());
        let arguments = arguments.into_iter().map(OsString::from);
        self.arguments = arguments.chain([program.into()]).chain(self.arguments).collect();
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(self) -> Process {
        let output = Arc::new(Output::new(self.name.clone()));
        let child = self.spawn(&output);
        Process { program: self, child, ended: None, output }
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be started, or does not end before the deadline.
    pub async fn run(self, deadline: Duration) -> Finished {
        let mut process = self.start();
        let status = process.exit(deadline).await;
        // The pipes are read to their ends a moment after the process has ended.
        process.output.closed(deadline).await;
        Finished { status, stdout: process.output.stdout(), stderr: process.output.stderr() }
    }

    fn spawn(&self, output: &Arc<Output>) -> Child {
        let mut child = Command::new(&self.path)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.path.display()));
        output.follow(&mut child);
        child
    }
}

/// What became of a program that ran to its end.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// A running program. It is killed when this value is dropped.
///
/// What it writes goes on to the test's standard error, line by line and marked with its name; test runners show that when
/// the test fails.
#[derive(Debug)]
pub struct Process {
    program: Program,
    child: Child,
    ended: Option<ExitStatus>,
    output: Arc<Output>,
}

impl Process {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of its output, either stream, that contains `text`, and returns that line. Lines from before the
    /// latest [`restart`](Self::restart) do not count.
    ///
    /// # Panics
    /// When the deadline passes, or the process ends without having written it.
    pub async fn line_with(&mut self, text: &str, deadline: Duration) -> String {
        let what = format!("{} writes a line with '{text}'", self.program.name);
        let output = Arc::clone(&self.output);
        let outcome = eventually_now(&what, deadline, || {
            // In this order: what was written before the end is seen.
            let ended = self.try_exit().filter(|_| output.is_closed());
            match (output.find(text), ended) {
                (Some(line), _) => Ok(Ok(line)),
                (None, Some(status)) => Ok(Err(status)),
                (None, None) => Err(format!("its last line was {:?}", output.last().unwrap_or_default())),
            }
        })
        .await;
        outcome.unwrap_or_else(|status| panic!("{} ended ({status}) without a line with '{text}'", self.program.name))
    }

    /// Waits for a line that contains `text`, and reads the socket address that stands after it there.
    ///
    /// # Panics
    /// As [`line_with`](Self::line_with), and when no address stands there.
    pub async fn address_after(&mut self, text: &str, deadline: Duration) -> SocketAddr {
        let line = self.line_with(text, deadline).await;
        let rest = line.split_once(text).map_or("", |(_, rest)| rest);
        rest.split(|character: char| !(character.is_ascii_alphanumeric() || ".:[]".contains(character)))
            .find_map(|word| word.trim_end_matches(['.', ':']).parse().ok())
            .unwrap_or_else(|| panic!("{} wrote no address after '{text}': {line}", self.program.name))
    }

    /// Ends it with SIGKILL, and returns when it is gone. Done again, it does nothing.
    pub fn kill(&mut self) {
        // It may just have ended by itself; either way it is gone after the wait.
        let _ = self.child.kill();
        if let Ok(status) = self.child.wait() {
            self.ended = Some(status);
        }
    }

    /// Asks it to end, with SIGTERM.
    ///
    /// # Panics
    /// When it has ended already.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Freezes it, with SIGSTOP: its connections stay open and nothing answers.
    ///
    /// # Panics
    /// When it has ended.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends a pause, with SIGCONT.
    ///
    /// # Panics
    /// When it has ended.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Starts the same program with the same arguments again.
    ///
    /// # Panics
    /// When it runs, or cannot be started.
    pub fn restart(&mut self) {
        assert!(self.try_exit().is_some(), "{} runs: kill it first", self.program.name);
        self.output.forget();
        self.child = self.program.spawn(&self.output);
        self.ended = None;
    }

    /// As [`restart`](Self::restart), with a variable of its environment set, or no longer.
    ///
    /// # Panics
    /// When it runs, or cannot be started.
    pub fn restart_with(&mut self, name: &str, value: Option<&str>) {
        self.program.environment.retain(|(known, _)| known != name);
        self.program.environment.extend(value.map(|value| (name.into(), value.into())));
        self.restart();
    }

    /// How it ended, or `None` while it runs.
    pub fn try_exit(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("the state of a child process");
        }
        self.ended
    }

    /// Waits until it ends.
    ///
    /// # Panics
    /// When the deadline passes first.
    pub async fn exit(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} ends", self.program.name);
        eventually_now(&what, deadline, || self.try_exit().ok_or("it runs")).await
    }

    /// What it has written since it was started last, both streams, at most the last ten thousand lines.
    #[must_use]
    pub fn output(&self) -> String {
        self.output.both()
    }

    fn signal(&self, signal: Signal) {
        let running = self.ended.is_none();
        // A child that nobody has waited for keeps its id, so this reaches no stranger.
        let sent = running.then(|| kill_process(Pid::from_child(&self.child), signal));
        assert!(matches!(sent, Some(Ok(()))), "cannot send {signal:?} to {}: {sent:?}", self.program.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Program {
        Program::at("sh").arg("-c").arg(script)
    }

    #[tokio::test]
    async fn reads_the_address_that_a_process_prints() {
        for printed in
            ["listening on 127.0.0.1:4711", "listening on http://127.0.0.1:4711, ready", "listening on=127.0.0.1:4711"]
        {
            let mut process = shell(&format!("echo '{printed}'; sleep 60")).start();
            assert_eq!(process.address_after("listening on", DEADLINE).await, SocketAddr::from(([127, 0, 0, 1], 4711)));
        }
    }

    #[tokio::test]
    async fn a_killed_process_starts_again_with_the_same_arguments() {
        let mut process = shell("echo \"run $VALUE as $$\"; sleep 60").env("VALUE", "7").start();
        let first = process.line_with("run 7", DEADLINE).await;
        process.kill();
        assert!(!process.try_exit().expect("it has ended").success());
        process.restart();
        assert_ne!(process.line_with("run 7", DEADLINE).await, first);
    }

    #[tokio::test]
    #[should_panic(expected = "without a line with 'ready'")]
    async fn a_process_that_ends_too_early_is_reported_as_that() {
        shell("echo no luck; exit 3").start().line_with("ready", DEADLINE).await;
    }

    #[tokio::test]
    async fn runs_a_program_to_its_end() {
        let finished = shell("echo out; echo err >&2; exit 4").run(DEADLINE).await;
        assert_eq!(
            (finished.status.code(), finished.stdout.as_str(), finished.stderr.as_str()),
            (Some(4), "out\n", "err\n")
        );
    }

    #[tokio::test]
    async fn a_task_may_wait_for_a_process() {
        let mut process = shell("echo ready").start();
        let waiting = tokio::spawn(async move {
            process.line_with("ready", DEADLINE).await;
            process.exit(DEADLINE).await
        });
        assert!(waiting.await.expect("the task ends").success());
    }

    #[tokio::test]
    async fn a_dropped_process_is_gone() {
        let process = shell("sleep 60").start();
        let pid = Pid::from_child(&process.child);
        drop(process);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }
}
