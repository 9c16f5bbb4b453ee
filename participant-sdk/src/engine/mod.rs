//! The engine: one task that owns a process's session, its branches and its requests.
//!
//! Everything that happens is an event that it takes in turn: frames from the replica, requests of
//! the process, hooks that finished, timers. After each turn it sends one frame with all that there
//! is to say. Hooks run in tasks of their own, in the order that `calls` gives them, and so do
//! questions to the own voter's store and to peers. When the session breaks it dials again, repeats
//! the requests that may be repeated, and asks about every branch in doubt. Meanwhile elections of
//! three-phase transactions go on.

mod branches;
mod calls;
mod doubts;
mod hooks;
mod link;
mod requests;
mod steps;
#[cfg(test)]
mod tests;
mod timers;
mod voting;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use assent_crash::crash_point;
use assent_proto::session::{Ask, FromClient, FromReplica, Hello, PROTOCOL_VERSIONS, Reply, VoterPlace};
use assent_proto::v1::ServerMessage;
use assent_protocol::three_phase::PeerAddress;
use assent_protocol::two_phase::EarlyVote;
use assent_protocol::{BranchId, BranchKey, Gtid, InstanceId, ParticipantName};
use assent_transport::{Dialer, ServerTls};
use rand::RngExt;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::error::ConnectError;
use crate::participant::Coordinator;
use crate::voter::store::AnyStore;
use crate::voter::{Asked, Overheard, OwnVoter};
use calls::Purpose;
use link::Outbox;
use steps::Work;

pub(crate) use hooks::{AnyParticipant, AnySagaParticipant, Finished};
pub(crate) use link::request_bytes;

/// What a process brings along.
pub(crate) struct Settings {
    pub(crate) address: String,
    pub(crate) dialer: Dialer,
    pub(crate) name: Option<ParticipantName>,
    pub(crate) branches: Option<Arc<dyn AnyParticipant>>,
    pub(crate) steps: Option<Arc<dyn AnySagaParticipant>>,
    pub(crate) connect_timeout: Duration,
    /// How many hooks of each purpose run at a time.
    pub(crate) hooks_max: usize,
    /// How often it is looked for branches that were left prepared; give or take a quarter.
    pub(crate) in_doubt_interval: Duration,
    /// How long such a branch has been listed when it is asked about.
    pub(crate) in_doubt_grace: Duration,
    pub(crate) voter: Option<VoterSettings>,
}

/// The participant's voter.
pub(crate) struct VoterSettings {
    pub(crate) store: AnyStore,
    /// Where its peers reach it.
    pub(crate) address: PeerAddress,
    /// With what they are answered there; in clear on this machine.
    pub(crate) tls: Option<Arc<ServerTls>>,
}

/// What the process asks of its engine.
pub(crate) enum Command {
    /// A request, to be answered.
    Request { gtid: Gtid, ask: Ask, answer: oneshot::Sender<Reply> },
    /// A branch that is prepared, to be enlisted. Answers false if this process knows that very
    /// branch already.
    Enlist { key: BranchKey, vote: EarlyVote, is_first: oneshot::Sender<bool>, answer: oneshot::Sender<Reply> },
    /// A branch that was not enlisted, and is undone by the service that prepared it.
    Withdraw { key: BranchKey },
    /// A peer has asked the own voter, which answered.
    VoterWasAsked { gtid: Gtid, overheard: Box<Overheard> },
    /// Finish what runs, and end.
    Shutdown,
}

/// What others may know of the engine without asking.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) coordinator: Arc<Coordinator>,
    pub(crate) payload_bytes_max: AtomicUsize,
    /// The epoch of the replica behind the present session, or the last one.
    pub(crate) epoch: AtomicU64,
    /// The participant's voter, if it has one.
    pub(crate) voter: Option<Arc<OwnVoter>>,
    /// With what its peers are answered.
    pub(crate) peer_tls: Option<Arc<ServerTls>>,
}

/// A task of the engine that finished.
enum Done {
    /// A branch's hook.
    Branch(BranchKey, Finished),
    /// A step's hook.
    Step(steps::Key, hooks::StepEnd),
    /// A look for branches that were left prepared.
    Look(Vec<doubts::Left>),
    /// Questions to the own voter; each has its answer, or has to be asked alone.
    Voter(Vec<voting::Question>, Vec<Option<Asked>>),
    /// A question to the own voter, or to its store, or to a peer.
    Voting(Gtid, voting::Answered),
}

pub(crate) struct Engine {
    settings: Settings,
    instance: InstanceId,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    finished: mpsc::UnboundedReceiver<Done>,
    finish: mpsc::UnboundedSender<Done>,
    requests: requests::Requests,
    branches: branches::Branches,
    steps: steps::Steps,
    voting: Option<voting::Voting>,
    calls: calls::Calls,
    /// A look is to begin, as soon as the present one is over.
    look_is_wanted: Arc<Notify>,
    is_shutting_down: bool,
}

/// Why a session ended.
enum Over {
    Broken(String),
    Shutdown,
}

/// The largest payload of a branch, until the first replica has said; it judges.
const PAYLOAD_BYTES_ASSUMED: usize = 1024 * 1024;
/// Events taken in one turn.
const TURN_MAX: usize = 1_024;
/// Commands that may wait for the engine; a full queue makes callers wait.
const COMMANDS_MAX: usize = 4_096;
/// The bounds of the waits between attempts to dial.
const REDIAL_INITIAL: Duration = Duration::from_millis(50);
const REDIAL_MAX: Duration = Duration::from_secs(5);
/// While at least so many hooks run, frames go out at least this far apart: each of them is about
/// to have something to say. Whoever does one thing after the other never waits.
const PACED_FROM: usize = 8;
const FRAME_PACE: Duration = Duration::from_millis(1);
/// How often requests that were refused for the moment are looked at.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

impl Engine {
    /// Dials, lets the participant check itself and list its branches in doubt, and starts the
    /// engine's task.
    pub(crate) async fn start(
        settings: Settings,
    ) -> Result<(mpsc::Sender<Command>, Arc<Shared>, tokio::task::JoinHandle<()>), ConnectError> {
        let instance = InstanceId(rand::rng().random_range(1..u64::MAX));
        let voting = voting::Voting::open(&settings).await?;
        let place = voting.as_ref().map(voting::Voting::place);
        let dial = async |name| {
            let hello = hello(&settings, instance, name, place.clone());
            link::Link::dial(&target(&settings)?, hello).await
        };
        // The participant checks itself before anybody is sent to it; its name joins only then.
        let mut link = match (dial(None).await, voting.as_ref().and_then(voting::Voting::coordinator)) {
            (Ok(link), _) => Some(link),
            // Its peers may need it to end what the coordinator has left behind.
            (Err(ConnectError::Unreachable { .. }), Some(known)) => {
                tracing::warn!(coordinator = known, address = %settings.address, "no coordinator answers; starting without it");
                None
            }
            (Err(error), _) => return Err(error),
        };
        let id = match (&link, &voting) {
            (Some(link), Some(voting)) => voting.bind(&link.welcome.coordinator_id).await?,
            (Some(link), None) => link.welcome.coordinator_id.clone(),
            (None, voting) => voting.as_ref().and_then(voting::Voting::coordinator).unwrap_or_default().to_owned(),
        };
        let coordinator = Arc::new(Coordinator { id, address: settings.address.clone() });
        let mut doubts = Vec::new();
        if let Some(participant) = &settings.branches {
            let about = || (Arc::clone(participant), Arc::clone(&coordinator));
            let (participant, about_it) = about();
            participant.start(about_it).await.map_err(ConnectError::Start)?;
            let (participant, about_it) = about();
            doubts = participant.in_doubt(about_it).await.map_err(ConnectError::InDoubt)?;
        }
        let records = match &voting {
            Some(voting) => voting.records().await?,
            None => Vec::new(),
        };
        if settings.name.is_some() && link.is_some() {
            link = Some(dial(settings.name.clone()).await?);
        }
        let payload_bytes_max =
            link.as_ref().map_or(PAYLOAD_BYTES_ASSUMED, |link| link.welcome.payload_bytes_max as usize);
        let shared = Arc::new(Shared {
            coordinator,
            payload_bytes_max: AtomicUsize::new(payload_bytes_max),
            epoch: AtomicU64::new(link.as_ref().map_or(0, |link| link.welcome.epoch.0)),
            voter: voting.as_ref().map(voting::Voting::own),
            peer_tls: settings.voter.as_ref().and_then(|voter| voter.tls.clone()),
        });
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let (finish, finished) = mpsc::unbounded_channel();
        let mut engine = Self {
            instance,
            shared: Arc::clone(&shared),
            commands,
            finished,
            finish,
            requests: requests::Requests::default(),
            branches: branches::Branches::default(),
            steps: steps::Steps::default(),
            voting,
            calls: calls::Calls::new(settings.hooks_max),
            look_is_wanted: Arc::default(),
            is_shutting_down: false,
            settings,
        };
        if !doubts.is_empty() {
            tracing::info!(branches = doubts.len(), "found branches in doubt; asking about them");
        }
        // One without a record may have voted in two phases, and nobody can tell: it waits to be
        // told.
        for key in &doubts {
            engine.found_in_doubt(*key);
        }
        for record in &records {
            let found = doubts.iter().find(|key| key.gtid == record.gtid);
            engine.found_recorded(record, found.map_or(BranchId::NONE, |key| key.id));
        }
        engine.keep_notes();
        engine.keep_looking();
        let task = tokio::spawn(engine.run(link));
        Ok((sender, shared, task))
    }

    async fn run(mut self, link: Option<link::Link>) {
        let mut link = match link {
            Some(link) => link,
            None => match self.redial().await {
                Some(link) => link,
                None => return,
            },
        };
        loop {
            let mut outbox = self.resume(&link);
            match self.exchange(&mut link, &mut outbox).await {
                Over::Shutdown => {
                    voting::Voting::forget_the_last(&mut self.voting).await;
                    return link.finish().await;
                }
                Over::Broken(why) => {
                    self.requests.session_broke(outbox.unwritten());
                    tracing::warn!(address = %self.settings.address, why, "the session broke; dialling again");
                }
            }
            drop(link);
            match self.redial().await {
                Some(next) => link = next,
                None => return,
            }
        }
    }

    /// What a new session has to be told.
    fn resume(&mut self, link: &link::Link) -> Outbox {
        self.shared.payload_bytes_max.store(link.welcome.payload_bytes_max as usize, Relaxed);
        self.shared.epoch.store(link.welcome.epoch.0, Relaxed);
        let mut outbox = Outbox::default();
        for message in self.requests.over_a_new_session(link.welcome.epoch) {
            outbox.send(message);
        }
        self.ask_about_doubts(&mut outbox);
        self.look_for_kept();
        outbox
    }

    /// Dials until somebody answers, or the process wants to end. Meanwhile requests are kept, and
    /// hooks go on; what branches and steps would say is dropped, as it would be on a broken
    /// session, and asked for again over the next one.
    async fn redial(&mut self) -> Option<link::Link> {
        let mut bound = REDIAL_INITIAL;
        let mut dropped = Outbox::default();
        loop {
            let wait = bound.mul_f64(rand::rng().random_range(0.0..=1.0));
            let place = self.voting.as_ref().map(voting::Voting::place);
            let hello = hello(&self.settings, self.instance, self.settings.name.clone(), place);
            // Read anew: a token or certificate may have been replaced.
            let target = target(&self.settings);
            let mut dialling = std::pin::pin!(async move {
                tokio::time::sleep(wait).await;
                link::Link::dial(&target?, hello).await
            });
            let dialled = loop {
                if self.is_shutting_down && self.calls.is_idle() {
                    return None;
                }
                tokio::select! {
                    dialled = &mut dialling => break dialled,
                    command = self.commands.recv(), if !self.is_shutting_down => match command {
                        Some(command) => self.command(&mut dropped, command),
                        None => self.is_shutting_down = true,
                    },
                    Some(done) = self.finished.recv() => self.task_finished(&mut dropped, done),
                    (key, timer) = self.branches.next_timer() => self.branch_timer(&mut dropped, key, timer),
                    () = voting::Voting::forgetting(&mut self.voting) => {}
                }
                self.ask_voter();
                dropped = Outbox::default();
            };
            match dialled {
                Ok(link) if link.welcome.coordinator_id != self.shared.coordinator.id => {
                    // Its transactions are not ours, and it would presume ours aborted.
                    tracing::error!(
                        expected = %self.shared.coordinator.id,
                        found = %link.welcome.coordinator_id,
                        "another coordinator answers at this address; not joining it"
                    );
                }
                Ok(link) => {
                    crash_point!(REDIALLED, continue);
                    tracing::info!(address = %self.settings.address, "joined again");
                    // The coordinator may have restarted, and forgotten what an instance that is
                    // gone has prepared.
                    self.look_is_wanted.notify_one();
                    return Some(link);
                }
                Err(ConnectError::Refused { source, .. }) => {
                    tracing::warn!(address = %self.settings.address, error = %source, "refused; dialling again");
                }
                Err(error @ ConnectError::Dial(_)) => {
                    tracing::warn!(address = %self.settings.address, %error, "cannot dial; dialling again");
                }
                Err(error) => tracing::debug!(address = %self.settings.address, %error, "dialling again"),
            }
            bound = (bound * 2).min(REDIAL_MAX);
        }
    }

    /// Takes events until the session is over.
    async fn exchange(&mut self, link: &mut link::Link, outbox: &mut Outbox) -> Over {
        let heartbeat_interval = Duration::from_millis(u64::from(link.welcome.heartbeat_interval_ms.max(10)));
        let silence_max = Duration::from_millis(u64::from(link.welcome.silence_max_ms.max(100)));
        let mut ticks = tokio::time::interval(heartbeat_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut has_spoken = true;
        let mut commands = Vec::with_capacity(TURN_MAX);
        let mut finished = Vec::with_capacity(TURN_MAX);
        let gate = link.gate();
        let mut flushed = Instant::now();
        let mut pause = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        let mut is_pausing = false;
        let mut retries = tokio::time::interval(RETRY_INTERVAL);
        retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if let Err(over) = self.frame(outbox, std::mem::take(&mut link.early)) {
            return over;
        }
        self.ask_voter();
        link.flush(outbox);
        loop {
            let is_behind = outbox.is_behind();
            tokio::select! {
                frame = link.incoming.message() => match frame {
                    Ok(Some(frame)) => {
                        heard = Instant::now();
                        if let Err(over) = self.frame(outbox, frame.messages) {
                            return over;
                        }
                    }
                    Ok(None) => return Over::Broken("the replica has closed it".to_owned()),
                    Err(status) => return Over::Broken(status.message().to_owned()),
                },
                _ = self.finished.recv_many(&mut finished, TURN_MAX) => {
                    // One flush ends many waits, whose tasks are woken one by one: what they have
                    // to say shares a frame.
                    tokio::task::yield_now().await;
                    while finished.len() < TURN_MAX
                        && let Ok(done) = self.finished.try_recv()
                    {
                        finished.push(done);
                    }
                    for done in finished.drain(..) {
                        self.task_finished(outbox, done);
                    }
                }
                taken = self.commands.recv_many(&mut commands, TURN_MAX), if !self.is_shutting_down => {
                    if taken == 0 {
                        self.is_shutting_down = true;
                    }
                    for command in commands.drain(..) {
                        self.command(outbox, command);
                    }
                }
                (key, timer) = self.branches.next_timer() => self.branch_timer(outbox, key, timer),
                () = voting::Voting::forgetting(&mut self.voting) => {}
                () = gate.room(), if is_behind && !is_pausing => {}
                () = &mut pause, if is_pausing => {}
                _ = retries.tick() => {
                    for message in self.requests.due() {
                        outbox.send(message);
                    }
                }
                _ = ticks.tick() => {
                    if heard.elapsed() > silence_max {
                        return Over::Broken(format!("nothing was heard for {} ms", silence_max.as_millis()));
                    }
                    if !has_spoken {
                        outbox.send(FromClient::Heartbeat);
                    }
                    has_spoken = false;
                    self.requests.sweep();
                }
            }
            self.ask_voter();
            let left = FRAME_PACE.saturating_sub(flushed.elapsed());
            if self.calls.running() >= PACED_FROM && !left.is_zero() {
                if outbox.is_behind() && !is_pausing {
                    is_pausing = true;
                    pause.as_mut().reset(tokio::time::Instant::now() + left);
                }
                continue;
            }
            is_pausing = false;
            if link.flush(outbox) {
                flushed = Instant::now();
                has_spoken = true;
            }
            if self.is_shutting_down && self.calls.is_idle() && !outbox.is_behind() {
                return Over::Shutdown;
            }
        }
    }

    fn frame(&mut self, outbox: &mut Outbox, messages: Vec<ServerMessage>) -> Result<(), Over> {
        for message in messages {
            let message = FromReplica::try_from(message).map_err(|malformed| Over::Broken(malformed.to_string()))?;
            if !matches!(message, FromReplica::Reply { .. } | FromReplica::Heartbeat) {
                crash_point!(ORDER_HEARD, return Err(Over::Broken("a crash point".to_owned())));
            }
            self.heard(outbox, message);
        }
        Ok(())
    }

    fn command(&mut self, outbox: &mut Outbox, command: Command) {
        match command {
            Command::Request { gtid, ask, answer } => {
                let message = self.requests.add(gtid, ask, answer);
                outbox.send(message);
            }
            Command::Enlist { key, vote, is_first, answer } => {
                let is_new = vote == EarlyVote::ReadOnly || self.prepared_early(key);
                // The caller may have given up; the branch is in doubt then.
                is_first.send(is_new).ok();
                if is_new {
                    let message = self.requests.add(key.gtid, Ask::Enlist { branch: key.id, vote }, answer);
                    outbox.send(message);
                }
            }
            Command::Withdraw { key } => self.withdraw(key),
            Command::VoterWasAsked { gtid, overheard } => self.voter_was_asked(outbox, gtid, *overheard),
            Command::Shutdown => self.is_shutting_down = true,
        }
    }

    fn heard(&mut self, outbox: &mut Outbox, message: FromReplica) {
        match message {
            FromReplica::Reply { request_id, reply } => self.requests.answer(request_id, reply),
            FromReplica::Prepare { .. }
            | FromReplica::CommitBranch { .. }
            | FromReplica::AbortBranch { .. }
            | FromReplica::AskVoter { .. }
            | FromReplica::LogAnswered { .. }
            | FromReplica::AwaitDecision { .. }
            | FromReplica::ForgetVoters { .. } => self.branch_order(outbox, message),
            FromReplica::ExecuteStep { order, outputs, pivot } => {
                self.step_order(outbox, order, Work::Execute { outputs, pivot });
            }
            FromReplica::CompensateStep { order, output } => {
                self.step_order(outbox, order, Work::Compensate { output });
            }
            FromReplica::GoAway { reason } => tracing::info!(reason, "the replica is leaving"),
            FromReplica::Welcome(_) | FromReplica::Heartbeat => {}
        }
    }

    fn task_finished(&mut self, outbox: &mut Outbox, done: Done) {
        match done {
            Done::Branch(key, finished) => {
                self.calls.finished(match &finished {
                    Finished::Prepare(_) => Purpose::Work,
                    Finished::End(_) => Purpose::End,
                });
                self.branch_hook_finished(outbox, key, finished);
            }
            Done::Step(key, end) => {
                self.calls.finished(key.purpose());
                self.step_hook_finished(outbox, key, end);
            }
            Done::Look(found) => self.looked(outbox, found),
            Done::Voter(questions, answers) => self.voter_answered(outbox, questions, answers),
            Done::Voting(gtid, answered) => self.voting_answered(outbox, gtid, answered),
        }
    }
}

fn target(settings: &Settings) -> Result<assent_transport::Target, ConnectError> {
    link::target(&settings.dialer, &settings.address, settings.connect_timeout)
}

fn hello(
    settings: &Settings,
    instance: InstanceId,
    participant: Option<ParticipantName>,
    place: Option<VoterPlace>,
) -> Hello {
    // Whoever joins without its name takes no part yet.
    let voter = place.filter(|_| participant.is_some());
    Hello {
        participant,
        instance,
        protocol_versions: PROTOCOL_VERSIONS,
        // The link shows it.
        token: String::new(),
        one_phase: settings.branches.as_ref().is_some_and(|participant| participant.one_phase()),
        sdk: concat!("assent-sdk/", env!("CARGO_PKG_VERSION")).to_owned(),
        voter,
    }
}
