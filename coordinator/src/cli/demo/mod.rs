//! `assent demo`: what Assent does, played by real processes over real sockets.
//!
//! | file | subject |
//! |---|---|
//! | `mod.rs` | the command: directory, signals, end |
//! | `acts.rs`, `acts/` | the six acts |
//! | `stage.rs` | the processes of the play, what they tell, what their ledgers say |
//! | `process.rs` | one child process |
//! | `wire.rs` | the wire between a service and the coordinator, which can be cut |
//! | `part.rs` | what the children do: coordinator and services |
//! | `services.rs` | who plays, with what they own |
//! | `ledger.rs`, `ledger.sql` | a service's durable ledger |
//! | `event.rs` | what a service tells |
//! | `books.rs` | all accounts at one moment, and how they differ from what is expected |
//! | `story.rs` | the story for people, the object for programs |
//!
//! The coordinator is `assent serve`, and the services are written with the SDK like anybody's: no path of the product is
//! there for the demo alone. The children are this same program once more, with a hidden subcommand. They end when their stdin
//! does, so that nothing is left behind even when the demo itself is killed.

mod acts;
mod books;
mod event;
mod ledger;
mod part;
mod process;
mod services;
mod stage;
mod story;
mod wire;

use std::time::{Duration, Instant};

use clap::Args;

use super::{Exit, Failure, Global, Output, on_runtime};
use part::Part;
use stage::Stage;
use story::{Report, Story};

/// How long all of it may take. A few seconds are usual.
const DEMO_MAX: Duration = Duration::from_secs(300);

/// See it work: a coordinator and three services on this machine, in six acts.
#[derive(Debug, Args)]
#[command(disable_help_subcommand = true, args_conflicts_with_subcommands = true)]
pub struct Demo {
    /// Keep the log, the ledgers and the output of all processes, and say where.
    #[arg(long)]
    keep: bool,
    /// Tell more: process ids, files, the coordinator's own record of each transaction.
    #[arg(short, long)]
    verbose: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

/// An error that should not happen in a demo, with what lies beneath it.
fn failure(error: impl Into<anyhow::Error>) -> Failure {
    failed(format!("{:#}", error.into()))
}

/// Something that should not happen in a demo.
fn failed(what: impl Into<String>) -> Failure {
    let next = "run it again with --keep, and look at the logs in the directory that it names";
    Failure::new(Exit::Failed, what.into().replace('\n', ", "), next)
}

impl Demo {
    /// Plays the demo, or one part in it.
    pub(super) fn run(self, global: &Global, output: &mut Output) -> Result<(), Failure> {
        match self.part {
            Some(part) => part.run(),
            None if global.endpoint.is_some() => {
                let next = "leave out --endpoint; `assent tx` and `assent bench` use a coordinator that runs";
                Err(Failure::new(Exit::Usage, "the demo starts a coordinator of its own", next))
            }
            None => on_runtime(self.perform(output)),
        }
    }

    async fn perform(self, output: &mut Output) -> Result<(), Failure> {
        let mut signals = Signals::new()?;
        let began = Instant::now();
        let directory = tempfile::Builder::new().prefix("assent-demo-").tempdir().map_err(|error| {
            let next = "make room or set TMPDIR to a directory that this user may write to";
            Failure::new(Exit::Failed, format!("cannot create a temporary directory: {error}"), next)
        })?;
        let mut stage = Stage::new(directory.path());
        let mut story = Story::new(output, self.verbose);
        let mut acts = Vec::new();
        let played = tokio::select! {
            played = tokio::time::timeout(DEMO_MAX, acts::play(&mut stage, &mut story, &mut acts)) => match played {
                Ok(played) => played,
                Err(_) => Err(failed(format!("not finished within {} s", DEMO_MAX.as_secs()))),
            },
            () = signals.next() => Err(Failure::new(Exit::Failed, "interrupted before the end", "")),
        };
        stage.end().await;
        let kept = if self.keep {
            Some(directory.keep())
        } else {
            directory.close().map_err(|error| {
                Failure::new(Exit::Failed, format!("cannot remove the temporary directory: {error}"), "remove it")
            })?;
            None
        };
        let (took, balances) = (began.elapsed(), acts.last().map(|act| act.balances.clone()));
        if let Some(balances) = balances {
            let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            story.report(&Report { passed: played.is_ok(), acts, balances, took_ms, directory: kept.clone() })?;
        }
        if played.is_ok() {
            story.end(took)?;
        }
        if let Some(kept) = kept {
            story.kept(&kept)?;
        }
        played
    }
}

/// What asks this process to stop, a terminal that goes away included.
#[cfg(unix)]
struct Signals([tokio::signal::unix::Signal; 3]);

#[cfg(unix)]
impl Signals {
    fn new() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).map_err(failure);
        Ok(Self([listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// What asks this process to stop.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Result<Self, Failure> {
        Ok(Self)
    }

    async fn next(&mut self) {
        tokio::signal::ctrl_c().await.ok();
    }
}
