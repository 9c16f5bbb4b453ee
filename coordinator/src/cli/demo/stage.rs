//! The stage: the coordinator and the services as processes, what they tell, and what their ledgers say.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use assent_proto::v1::{GetTransactionRequest, Transaction, TransactionState};
use assent_sdk::{Assent, Gtid};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::books::{Books, Line};
use super::event::{Event, Told};
use super::ledger::Ledger;
use super::part::{GO_ON, HOLD_COMMITS, HOLD_VOTES};
use super::process::{Heard, Process, log_path};
use super::services::{SERVICES, Spec};
use super::wire::Wire;
use super::{failed, failure};
use crate::cli::{Exit, Failure, Target};

/// The name under which the coordinator is shown.
pub(super) const COORDINATOR: &str = "coordinator";

/// How long any one thing may take that takes milliseconds on an idle machine.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How often the coordinator is asked for a state that is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(25);
/// Where the coordinator's port is looked for: below the ports that systems hand out to outgoing connections. One of those could be given
/// to a client that dials that very port while the coordinator is dead, and the client would then talk to itself.
const PORTS: Range<u16> = 21_000..30_000;
/// How many ports are tried.
const PORTS_MAX: usize = 64;
/// Lines that may wait to be heard; a full queue makes the services wait.
const HEARD_MAX: usize = 1_024;

/// All that plays.
#[derive(Debug)]
pub(super) struct Stage {
    directory: PathBuf,
    /// The coordinator's, the same after it was killed.
    port: u16,
    is_listening: bool,
    processes: BTreeMap<&'static str, Process>,
    wires: BTreeMap<&'static str, Wire>,
    hear: mpsc::Sender<Heard>,
    heard: mpsc::Receiver<Heard>,
    told: Vec<Told>,
}

impl Stage {
    /// An empty stage. The directory is its own.
    pub(super) fn new(directory: &Path) -> Self {
        let (hear, heard) = mpsc::channel(HEARD_MAX);
        let directory = directory.to_owned();
        let (processes, wires) = (BTreeMap::new(), BTreeMap::new());
        Self { directory, port: 0, is_listening: false, processes, wires, hear, heard, told: Vec::new() }
    }

    /// Where everything is written.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The coordinator's URL.
    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The process id of a process that runs.
    pub(super) fn process_id(&self, name: &str) -> Option<u32> {
        self.processes.get(name).map(Process::id)
    }

    // ---- processes ---------------------------------------------------------------------------------------------------

    /// Starts the coordinator at a port that is free, and then the services.
    pub(super) async fn start(&mut self) -> Result<(), Failure> {
        let first = rand::random_range(PORTS);
        let candidates = (first..PORTS.end).chain(PORTS.start..first);
        let free = candidates.filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
        let mut last = Failure::new(Exit::Conflict, "no port of this machine is free", "close what listens on so many");
        for port in free.take(PORTS_MAX) {
            self.port = port;
            match self.start_coordinator().await {
                // Somebody else was faster.
                Err(failure) if failure.exit == Exit::Conflict => last = failure,
                Err(failure) => return Err(failure),
                Ok(()) => {
                    for service in &SERVICES {
                        self.wires.insert(service.name, Wire::lay(port).await?);
                        self.start_service(service)?;
                    }
                    let joined = |told: &Told| told.event == Event::Joined;
                    return self
                        .until("all services have joined", |stage| {
                            SERVICES
                                .iter()
                                .all(|service| stage.told.iter().any(|t| t.service == service.name && joined(t)))
                        })
                        .await;
                }
            }
        }
        Err(last)
    }

    /// Starts the coordinator on its log, at its port, and waits until it serves.
    pub(super) async fn start_coordinator(&mut self) -> Result<(), Failure> {
        self.is_listening = false;
        let listen = format!("127.0.0.1:{}", self.port);
        self.launch(COORDINATOR, &["coordinator", "--listen", &listen, "--log", "sqlite:assent.db"])?;
        self.until("the coordinator serves", |stage| stage.is_listening).await
    }

    /// Starts a service on its ledger.
    pub(super) fn start_service(&mut self, service: &Spec) -> Result<(), Failure> {
        let ledger = ledger_name(service.name);
        let voters = format!("{}.voters", service.name);
        let endpoint = self.wires.get(service.name).map_or_else(|| self.endpoint(), |wire| wire.endpoint().to_owned());
        let arguments =
            ["service", "--name", service.name, "--ledger", &ledger, "--voters", &voters, "--coordinator", &endpoint];
        self.launch(service.name, &arguments)
    }

    fn launch(&mut self, name: &'static str, arguments: &[&str]) -> Result<(), Failure> {
        let process = Process::start(name, arguments, &self.directory, self.hear.clone())?;
        self.processes.insert(name, process);
        Ok(())
    }

    /// Ends a process with SIGKILL. Answers its process id.
    pub(super) async fn kill(&mut self, name: &str) -> Result<u32, Failure> {
        let Some(process) = self.processes.remove(name) else { return Err(failed(format!("{name} does not run"))) };
        let id = process.id();
        process.kill().await?;
        Ok(id)
    }

    /// Tells a service to commit nothing any more, and waits until it has understood.
    pub(super) async fn hold_commits(&mut self, service: &'static str) -> Result<(), Failure> {
        if let Some(process) = self.processes.get_mut(service) {
            process.say(HOLD_COMMITS).await?;
        }
        self.until(&format!("{service} holds its commits"), |stage| {
            stage.told.iter().any(|told| told.service == service && told.event == Event::HoldsCommits)
        })
        .await
    }

    /// Tells a service to vote on nothing until it may go on, and waits until it has understood.
    pub(super) async fn hold_votes(&mut self, service: &'static str) -> Result<(), Failure> {
        if let Some(process) = self.processes.get_mut(service) {
            process.say(HOLD_VOTES).await?;
        }
        self.until(&format!("{service} holds its votes"), |stage| {
            stage.told.iter().any(|told| told.service == service && told.event == Event::HoldsVotes)
        })
        .await
    }

    /// Tells a service to go on.
    pub(super) async fn go_on(&mut self, service: &'static str) -> Result<(), Failure> {
        match self.processes.get_mut(service) {
            Some(process) => process.say(GO_ON).await,
            None => Ok(()),
        }
    }

    /// Cuts the wires of these services towards the coordinator, or mends them.
    pub(super) fn cut(&self, services: &[&str], is_cut: bool) {
        for service in services {
            if let Some(wire) = self.wires.get(service) {
                wire.cut(is_cut);
            }
        }
    }

    /// Ends everything.
    pub(super) async fn end(mut self) {
        while let Some((_, process)) = self.processes.pop_first() {
            // One that has ended already is what is wanted.
            process.kill().await.ok();
        }
    }

    // ---- what they tell ----------------------------------------------------------------------------------------------

    /// What was told so far about a transaction, in the order in which it happened.
    pub(super) fn told_about(&self, gtid: Gtid) -> Vec<Told> {
        let mut told: Vec<Told> = self.told.iter().filter(|told| told.event.gtid() == Some(gtid)).cloned().collect();
        told.sort_by_key(|told| told.at_us);
        told
    }

    /// Waits until each of these services has told such a thing about a transaction.
    pub(super) async fn until_told(
        &mut self,
        gtid: Gtid,
        what: &str,
        services: &[&str],
        is_it: impl Fn(&Event) -> bool,
    ) -> Result<(), Failure> {
        self.until(what, |stage| {
            let has_told = |service: &&str| {
                let mut about_it = stage.told.iter().filter(|told| told.event.gtid() == Some(gtid));
                about_it.any(|told| told.service == **service && is_it(&told.event))
            };
            services.iter().all(has_told)
        })
        .await
    }

    /// Listens until a condition holds.
    async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + WAIT_MAX;
        while !condition(self) {
            match timeout_at(deadline, self.heard.recv()).await {
                Ok(Some(heard)) => self.take(heard).await?,
                // The stage itself holds a sender.
                Ok(None) => unreachable!("a channel with a sender is open"),
                Err(_) => return Err(failed(format!("not within {} s: {what}", WAIT_MAX.as_secs()))),
            }
        }
        Ok(())
    }

    async fn take(&mut self, heard: Heard) -> Result<(), Failure> {
        let Heard { id, name, line } = heard;
        // The last words of one that was killed count, its end does not.
        let is_current = self.process_id(name) == Some(id);
        match line {
            Some(line) if name == COORDINATOR => {
                self.is_listening |= is_current && line.starts_with("assent listening on");
            }
            Some(line) => {
                if let Ok(told) = serde_json::from_str(&line) {
                    self.told.push(told);
                }
            }
            None if is_current => {
                let Some(process) = self.processes.remove(name) else { return Ok(()) };
                let status = process.ended().await?;
                let exit =
                    if status.code() == Some(i32::from(Exit::Conflict.code())) { Exit::Conflict } else { Exit::Failed };
                let problem = format!("the process of {name} ended by itself ({status}){}", self.last_words(name));
                return Err(Failure { exit, ..failed(problem) });
            }
            None => {}
        }
        Ok(())
    }

    /// The last line of a process's log.
    fn last_words(&self, name: &str) -> String {
        let log = std::fs::read_to_string(log_path(&self.directory, name)).unwrap_or_default();
        // An error is told in a line, and what to do about it in another one.
        let line = log.lines().rfind(|line| !line.trim().is_empty() && !line.starts_with(" next:"));
        line.map_or_else(String::new, |line| format!(": {}", line.trim().trim_start_matches("error: ")))
    }

    // ---- what is so --------------------------------------------------------------------------------------------------

    /// All accounts, out of the services' ledgers.
    pub(super) async fn books(&self) -> Result<Books, Failure> {
        let mut lines = Vec::new();
        for service in &SERVICES {
            let accounts = Ledger::read(&self.directory.join(ledger_name(service.name))).await.map_err(failure)?;
            lines.extend(accounts.into_iter().map(|account| Line { service: service.name, account }));
        }
        Ok(Books { lines })
    }

    /// A session for whoever begins transactions.
    pub(super) async fn initiator(&self) -> Result<Assent, Failure> {
        Assent::dial(self.endpoint()).patience(WAIT_MAX).connect().await.map_err(failure)
    }

    /// A transaction as the coordinator has it: what `assent tx show` asks for.
    pub(super) async fn transaction(&self, gtid: Gtid) -> Result<Transaction, Failure> {
        let mut admin = Target::open(self.endpoint()).admin().await?;
        let answer = admin.get_transaction(GetTransactionRequest { gtid: gtid.to_string() }).await?;
        Ok(answer.into_inner().transaction.unwrap_or_default())
    }

    /// Waits until the coordinator has these branches of a transaction in this state.
    pub(super) async fn until_branches(
        &self,
        gtid: Gtid,
        what: &str,
        services: &[&str],
        wanted: &str,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let branches = self.transaction(gtid).await?.branches;
            let is_so = |service: &&str| {
                branches.iter().any(|branch| branch.participant == **service && branch.state == wanted)
            };
            if services.iter().all(is_so) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let found: Vec<_> = branches.iter().map(|one| format!("{} {}", one.participant, one.state)).collect();
                let problem = format!("not within {} s: {what}; there is: {}", WAIT_MAX.as_secs(), found.join(", "));
                return Err(failed(problem));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until a transaction is in this state.
    pub(super) async fn until_state(&self, gtid: Gtid, wanted: TransactionState) -> Result<Transaction, Failure> {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let transaction = self.transaction(gtid).await?;
            if transaction.state() == wanted {
                return Ok(transaction);
            }
            if Instant::now() > deadline {
                let (state, wanted) = (state_word(transaction.state()), state_word(wanted));
                let waits = transaction.waiting_for;
                let problem = format!("{gtid} is {state} after {} s, and not {wanted}: {waits}", WAIT_MAX.as_secs());
                return Err(failed(problem));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// A service's ledger within the directory.
pub(super) fn ledger_name(service: &str) -> String {
    format!("{service}.db")
}

/// The word for a state.
pub(super) fn state_word(state: TransactionState) -> String {
    state.as_str_name().trim_start_matches("TRANSACTION_STATE_").to_ascii_lowercase()
}
