//! What a child process writes: passed on to the test's standard error, and kept for the test to look at.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::eventually::eventually_now;

/// How much is kept. A process under load may write without end.
const LINES_MAX: usize = 10_000;

/// The output of one process, over its restarts.
#[derive(Debug)]
pub(super) struct Output {
    name: String,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<(Stream, String)>,
    /// Counts the starts. Readers of an earlier one may still be draining their pipe.
    run: u64,
    /// Streams of this run that are not at their end.
    open: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

impl Output {
    pub(super) fn new(name: String) -> Self {
        Self { name, kept: Mutex::default() }
    }

    /// Reads both streams of a child that has just been started, until it closes them.
    pub(super) fn follow(self: &Arc<Self>, child: &mut Child) {
        let stdout = child.stdout.take().expect("standard output is a pipe");
        let stderr = child.stderr.take().expect("standard error is a pipe");
        let run = {
            let mut kept = self.kept();
            kept.open = 2;
            kept.run
        };
        self.read(Stream::Out, run, stdout);
        self.read(Stream::Err, run, stderr);
    }

    /// On a thread: processes are started and read outside of any runtime too, and outlive a test's.
    fn read(self: &Arc<Self>, stream: Stream, run: u64, pipe: impl Read + Send + 'static) {
        let this = Arc::clone(self);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut bytes = Vec::new();
            while matches!(reader.read_until(b'\n', &mut bytes), Ok(length) if length > 0) {
                let line = String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
                bytes.clear();
                eprintln!("{}| {line}", this.name);
                let mut kept = this.kept();
                if kept.run == run {
                    kept.lines.push_back((stream, line));
                    if kept.lines.len() > LINES_MAX {
                        kept.lines.pop_front();
                    }
                }
            }
            let mut kept = this.kept();
            if kept.run == run {
                kept.open -= 1;
            }
        });
    }

    /// Forgets everything: the process is about to start again.
    pub(super) fn forget(&self) {
        let mut kept = self.kept();
        kept.lines.clear();
        kept.run += 1;
    }

    /// Whether both streams are at their ends. A grandchild that inherited them may keep them open.
    pub(super) fn is_closed(&self) -> bool {
        self.kept().open == 0
    }

    /// Waits until both streams are at their ends.
    pub(super) async fn closed(&self, deadline: Duration) {
        let what = format!("{} closes its output", self.name);
        eventually_now(&what, deadline, || if self.is_closed() { Ok(()) } else { Err("it is open") }).await;
    }

    pub(super) fn find(&self, text: &str) -> Option<String> {
        self.kept().lines.iter().map(|(_, line)| line).find(|line| line.contains(text)).cloned()
    }

    pub(super) fn last(&self) -> Option<String> {
        self.kept().lines.back().map(|(_, line)| line.clone())
    }

    pub(super) fn stdout(&self) -> String {
        self.text(|stream| stream == Stream::Out)
    }

    pub(super) fn stderr(&self) -> String {
        self.text(|stream| stream == Stream::Err)
    }

    pub(super) fn both(&self) -> String {
        self.text(|_| true)
    }

    fn text(&self, wanted: impl Fn(Stream) -> bool) -> String {
        let kept = self.kept();
        kept.lines.iter().filter(|(stream, _)| wanted(*stream)).map(|(_, line)| format!("{line}\n")).collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
