//! The child processes: the coordinator, and the services.
//!
//! Each ends when its stdin does, so that none outlives the stage, however that may end.

use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use assent_sdk::saga::{Compensated, Executed, SagaParticipant, Step};
use assent_sdk::voter::FileVoters;
use assent_sdk::{Assent, BoxError, Branch, BranchKey, Coordinator, Gtid, Participant, Vote};
use clap::Subcommand;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::event::{Event, tell};
use super::failure;
use super::ledger::{Answer, Change, Key, Ledger};
use super::services::{Order, Spec};
use crate::cli::{Exit, Failure, on_runtime};
use crate::{config, telemetry};

/// What the stage says to a service that is to stop committing.
pub(super) const HOLD_COMMITS: &str = "hold commits";
/// What the stage says to a service that is to wait with its votes.
pub(super) const HOLD_VOTES: &str = "hold votes";
/// What the stage says to a service that may vote again.
pub(super) const GO_ON: &str = "go on";

/// A child process of the demo.
#[derive(Debug, Subcommand)]
pub(super) enum Part {
    /// The coordinator: `assent serve`, until stdin ends.
    #[command(hide = true)]
    Coordinator {
        #[arg(long)]
        listen: String,
        #[arg(long)]
        log: String,
    },
    /// A service, until stdin ends.
    #[command(hide = true)]
    Service {
        #[arg(long)]
        name: String,
        #[arg(long)]
        ledger: PathBuf,
        #[arg(long)]
        voters: PathBuf,
        #[arg(long)]
        coordinator: String,
    },
}

impl Part {
    /// Plays until the process is killed, or stdin ends.
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Coordinator { listen, log } => {
                leash(|_| ());
                match crate::cli::run(["assent", "serve", "--listen", &listen, "--log", &log]) {
                    Exit::Ok => Ok(()),
                    // It has said why.
                    exit => Err(Failure::new(exit, "", "")),
                }
            }
            Self::Service { name, ledger, voters, coordinator } => {
                on_runtime(serve(&name, ledger, voters, coordinator))
            }
        }
    }
}

/// Reads lines from stdin, and ends the process where they do.
fn leash(on_line: impl Fn(&str) + Send + 'static) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            on_line(&line);
        }
        std::process::exit(0);
    });
}

async fn serve(name: &str, ledger: PathBuf, voters: PathBuf, coordinator: String) -> Result<(), Failure> {
    let Some(spec) = Spec::named(name) else {
        return Err(Failure::new(Exit::Usage, format!("the demo has no service {name}"), "run `assent demo`"));
    };
    // Kept to the end: dropping it could end what it keeps going.
    let _telemetry = telemetry::init(&config::Config::default().telemetry, name)?;
    let holds_commits = Arc::new(AtomicBool::new(false));
    let holds = Arc::clone(&holds_commits);
    let (hold_votes, holds_votes) = watch::channel(false);
    leash(move |line| match line {
        HOLD_COMMITS => {
            holds.store(true, Ordering::SeqCst);
            tell(spec.name, Event::HoldsCommits);
        }
        HOLD_VOTES => {
            hold_votes.send_replace(true);
            tell(spec.name, Event::HoldsVotes);
        }
        GO_ON => {
            hold_votes.send_replace(false);
        }
        _ => {}
    });
    let ledger = Ledger::open(&ledger, spec).await.map_err(failure)?;
    let service = Service { spec, ledger, holds_commits, holds_votes };
    let peers = TcpListener::bind("127.0.0.1:0").await.map_err(failure)?;
    let address = format!("http://{}", peers.local_addr().map_err(failure)?);
    let session = Assent::dial(coordinator)
        .participant(name, service.clone())
        .saga_participant(name, service)
        .voter(FileVoters::open(voters).await.map_err(failure)?, address)
        .connect()
        .await
        .map_err(failure)?;
    tokio::spawn(session.serve_peers(peers).map_err(failure)?);
    tell(spec.name, Event::Joined);
    session.closed().await;
    Ok(())
}

/// A service over its ledger.
#[derive(Clone, Debug)]
struct Service {
    spec: &'static Spec,
    ledger: Ledger,
    /// Once set, no branch is committed any more by this process.
    holds_commits: Arc<AtomicBool>,
    /// While it is set, no vote leaves this process.
    holds_votes: watch::Receiver<bool>,
}

impl Service {
    fn tell(&self, event: Event) {
        tell(self.spec.name, event);
    }
}

impl Participant for Service {
    async fn prepare(&self, branch: &Branch) -> Result<Vote, BoxError> {
        let (order, gtid): (Order, Gtid) = (branch.json()?, branch.gtid());
        self.holds_votes.clone().wait_for(|holds| !holds).await?;
        match self.ledger.prepare(&Key::branch(branch.key()), &order.movements).await? {
            Answer::Yes => {
                self.tell(Event::VotedYes { gtid, movements: self.spec.describe(&order.movements) });
                Ok(Vote::Yes)
            }
            Answer::No(reason) => {
                self.tell(Event::VotedNo { gtid, reason: reason.clone() });
                Ok(Vote::No(reason))
            }
        }
    }

    async fn commit(&self, branch: &Branch) -> Result<(), BoxError> {
        let gtid = branch.gtid();
        if self.holds_commits.load(Ordering::SeqCst) {
            // As slow as a service can be: it is killed before it has committed.
            self.tell(Event::CommitHeld { gtid });
            std::future::pending::<()>().await;
        }
        let again = self.ledger.commit(&Key::branch(branch.key())).await? == Change::Before;
        self.tell(Event::Committed { gtid, again });
        Ok(())
    }

    async fn abort(&self, branch: &Branch) -> Result<(), BoxError> {
        let gtid = branch.gtid();
        let again = self.ledger.abort(&Key::branch(branch.key())).await? == Change::Before;
        self.tell(Event::Aborted { gtid, again });
        Ok(())
    }

    async fn in_doubt(&self, _about: &Coordinator) -> Result<Vec<BranchKey>, BoxError> {
        let mut keys = Vec::new();
        for (gtid, branch) in self.ledger.in_doubt().await? {
            let key = BranchKey { gtid: gtid.parse()?, id: branch.parse()? };
            self.tell(Event::FoundInDoubt { gtid: key.gtid });
            keys.push(key);
        }
        Ok(keys)
    }
}

impl SagaParticipant for Service {
    async fn execute(&self, step: &Step) -> Result<Executed, BoxError> {
        let (order, gtid, name): (Order, Gtid, String) = (step.input_json()?, step.gtid(), step.name().to_string());
        match self.ledger.execute(&Key::step(gtid, &name), &order.movements).await? {
            Answer::Yes => {
                let movements = self.spec.describe(&order.movements);
                self.tell(Event::Executed { gtid, step: name, movements });
                Ok(Executed::done())
            }
            Answer::No(reason) => {
                self.tell(Event::Refused { gtid, step: name, reason: reason.clone() });
                Ok(Executed::Refused(reason))
            }
        }
    }

    async fn compensate(&self, step: &Step) -> Result<Compensated, BoxError> {
        let (gtid, name) = (step.gtid(), step.name().to_string());
        let again = self.ledger.compensate(&Key::step(gtid, &name)).await? == Change::Before;
        self.tell(Event::Compensated { gtid, step: name, again });
        Ok(Compensated::Done)
    }
}
