//! The state of the model, and its steps.

use std::collections::BTreeSet;

use assent_protocol::branch::{self, Acknowledgement, Branch, Hook, HookEnd, Message};
use assent_protocol::ids::BranchId;
use assent_protocol::record::Member;
use assent_protocol::two_phase::{
    BranchResult, CarriedBranch, EarlyVote, Effect, Event, Order, Patience, Reply, Route, State, Timer, TwoPhase, Vote,
    invariant,
};
use assent_protocol::{
    Appended, BodyDigest, Caller, Decision, Epoch, InstanceId, Outcome, Output, ParticipantName, Parts, Record, Wait,
};

use super::cells::{self, CELLS};
use super::judge::I1;
use super::log::{Kind, Log};
use crate::append::{Answer, Append};
use crate::gtid;
use crate::shared::Shared;

/// What a participant's prepare answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Says {
    Yes,
    ReadOnly,
    No,
    /// An error, after it has taken effect.
    UnknownPrepared,
    /// An error, before it takes effect.
    UnknownNot,
    /// It has committed by itself.
    Committed,
}

/// What can go wrong, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Faults {
    pub(crate) replica_crashes: u8,
    pub(crate) participant_crashes: u8,
    /// Appends whose answer is lost: applied, or not yet.
    pub(crate) lost_answers: u8,
    /// Leases that lapse while their replica goes on.
    pub(crate) take_overs: u8,
    /// Requests beyond the first: the commit again, or an abort.
    pub(crate) requests: u8,
    /// Hooks that fail and are called again.
    pub(crate) hooks: u8,
    /// Deadlines that pass.
    pub(crate) deadlines: u8,
    /// Questions that a branch in doubt asks although the transaction is under way.
    pub(crate) inquiries: u8,
    /// Retentions that are over.
    pub(crate) retentions: u8,
}

#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) participants: usize,
    pub(crate) replicas: usize,
    /// What a prepare may answer.
    pub(crate) says: &'static [Says],
    /// The commit asks its only branch to commit by itself.
    pub(crate) one_phase: bool,
    /// Services prepare while they are called, and enlist.
    pub(crate) early: bool,
    /// A commit or abort hook runs for a while, rather than within the step that calls it.
    pub(crate) slow_hooks: bool,
    pub(crate) log: Kind,
    /// The network repeats orders to prepare too, which sessions never do.
    pub(crate) repeats_prepare: bool,
    pub(crate) faults: Faults,
}

/// A message. `instance` is the participant's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Packet {
    Prepare { to: usize, instance: u8, branch: BranchId, epoch: u64, replica: usize, one_phase: bool },
    Decide { to: usize, instance: u8, branch: BranchId, epoch: u64, replica: usize, commit: bool },
    Enlisted { to: usize, instance: u8, branch: BranchId, ok: bool },
    Vote { from: usize, instance: u8, branch: BranchId, replica: usize, says: Says },
    Acknowledge { from: usize, branch: BranchId, replica: usize, epoch: u64, commit: bool, heuristic: bool },
    Inquire { from: usize, instance: u8, branch: BranchId, replica: usize },
    Enlist { from: usize, instance: u8, branch: BranchId },
}

/// A process of a participant, and its database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Participant {
    pub(crate) instance: u8,
    pub(crate) is_up: bool,
    /// The id of its branch: of the last one that it had.
    id: BranchId,
    pub(crate) branch: Option<Shared<Branch>>,
    hook: Option<(bool, Option<bool>)>,
    /// The replica whose order counts: that of the highest epoch.
    replica: usize,
    enlisted: Option<bool>,
    // The database:
    pub(crate) is_prepared: bool,
    pub(crate) applied: u8,
    /// Its answer to a one-phase prepare, recorded with its work; or that it was told to abort before.
    alone: Option<Says>,
    keeps_records: bool,
    // For judgement:
    /// It has durably promised to commit, or has nothing to.
    pub(crate) agreed: bool,
    /// Its work was undone, or refused.
    pub(crate) undone: bool,
    pub(crate) told_yes: bool,
    pub(crate) heard_abort: bool,
}

/// A process of the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Replica {
    life: u8,
    epoch: u64,
    pub(crate) machine: Option<Shared<TwoPhase>>,
    append: Option<Shared<Append<Effect>>>,
    lazy: Vec<Shared<Record>>,
    timers: BTreeSet<Timer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) log: Log,
    pub(crate) net: BTreeSet<Packet>,
    pub(crate) replicas: Vec<Option<Replica>>,
    pub(crate) participants: Vec<Participant>,
    /// Appends whose writers have lost the connection, and that the storage may still carry out.
    limbo: Vec<((usize, u8), Shared<Record>)>,
    /// The initiator: its requests, the one whose answer it still hears, what it was told.
    requests: u8,
    listens: Option<(u8, usize)>,
    wants_abort: bool,
    pub(crate) told: Option<Outcome>,
    pub(crate) left: Faults,
    next_epoch: u64,
    /// The first decision that was durable.
    pub(crate) decided: Option<Decision>,
    /// What was broken, and how.
    pub(crate) broken: Option<(&'static str, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Action {
    Deliver(Packet),
    Prepare { packet: Packet, says: Says },
    PrepareReturns { at: usize, says: Says },
    HookReturns { at: usize },
    HookFails { at: usize },
    Apply { replica: usize },
    Answer { replica: usize },
    LoseAnswer { replica: usize },
    ApplyLate,
    Flush { replica: usize },
    Deadline { replica: usize },
    Absence { replica: usize },
    Resend { replica: usize },
    Join { replica: usize, at: usize },
    Left { replica: usize, at: usize, instance: u8 },
    Inquire { at: usize },
    Retry { at: usize },
    CallService { at: usize },
    AskCommit { replica: usize },
    AskAbort { replica: usize },
    AskOutcome { replica: usize },
    CrashReplica { replica: usize },
    StartReplica { replica: usize },
    TakeOver,
    Resume { replica: usize },
    Retention,
    CrashParticipant { at: usize },
    StartParticipant { at: usize },
    FailOver,
}

/// What the initiator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Commit,
    Abort,
    /// Nothing but the outcome: it was told *in doubt* before.
    Outcome,
}

type Step = Result<(), (&'static str, String)>;

pub(crate) const MACHINE: &str = "the machines' own invariants hold";

fn instance_id(at: usize, instance: u8) -> InstanceId {
    InstanceId(at as u64 * 100 + u64::from(instance))
}

fn name(at: usize) -> ParticipantName {
    ParticipantName::new(["p0", "p1", "p2"][at]).expect("valid")
}

fn index(name: &ParticipantName) -> usize {
    ["p0", "p1", "p2"].iter().position(|known| *known == name.as_str()).expect("one of ours")
}

const DIGEST: BodyDigest = BodyDigest(7);
/// The session under which participants enlist.
const ENLISTING: u64 = 99;

impl World {
    pub(crate) fn new(setup: &Setup) -> Self {
        let participant = Participant {
            instance: 1,
            is_up: true,
            id: BranchId::NONE,
            branch: None,
            hook: None,
            replica: 0,
            enlisted: None,
            is_prepared: false,
            applied: 0,
            alone: None,
            keeps_records: setup.one_phase && setup.participants == 1,
            agreed: false,
            undone: false,
            told_yes: false,
            heard_abort: false,
        };
        let mut world = Self {
            log: Log::new(),
            net: BTreeSet::new(),
            replicas: vec![None; setup.replicas],
            participants: vec![participant; setup.participants],
            limbo: Vec::new(),
            requests: 0,
            listens: None,
            wants_abort: false,
            told: None,
            left: setup.faults,
            next_epoch: 0,
            decided: None,
            broken: None,
        };
        for replica in 0..setup.replicas {
            world.start_replica(replica).expect("nothing has happened yet");
        }
        if setup.early {
            // The home replica has it open.
            let patience = Patience { timeout_ms: 30_000, absence_ms: 5_000 };
            let replica = &world.replicas[0].as_ref().expect("up");
            let begun = TwoPhase::begin(gtid(), Epoch(replica.epoch), 0, patience);
            world.install(0, begun).expect("nothing has happened yet");
        }
        world
    }

    // ---- what can happen -------------------------------------------------------------------------------------------

    pub(crate) fn actions(&self, setup: &Setup, actions: &mut Vec<Action>) {
        self.progress(setup, actions);
        self.faults(setup, actions);
    }

    /// What happens without faults.
    pub(crate) fn progress(&self, setup: &Setup, actions: &mut Vec<Action>) {
        for packet in &self.net {
            match packet {
                // Nobody sees a quick prepare at work, so its start and its end are one step.
                Packet::Prepare { to, instance, .. } if !setup.slow_hooks && self.would_prepare(*to, *instance) => {
                    actions.extend(setup.says.iter().map(|says| Action::Prepare { packet: *packet, says: *says }));
                }
                Packet::Prepare { .. }
                | Packet::Decide { .. }
                | Packet::Enlisted { .. }
                | Packet::Vote { .. }
                | Packet::Acknowledge { .. }
                | Packet::Inquire { .. }
                | Packet::Enlist { .. } => actions.push(Action::Deliver(*packet)),
            }
        }
        for (at, participant) in self.participants.iter().enumerate() {
            if !participant.is_up {
                actions.push(Action::StartParticipant { at });
                continue;
            }
            match participant.hook {
                Some((_, None)) => {
                    actions.extend(setup.says.iter().map(|says| Action::PrepareReturns { at, says: *says }));
                }
                Some((_, Some(_))) => actions.push(Action::HookReturns { at }),
                None => {}
            }
            if participant.branch.as_ref().is_some_and(|branch| branch.state() == branch::State::InDoubt) {
                let (instance, branch) = (participant.instance, participant.id);
                let asks = Packet::Inquire { from: at, instance, branch, replica: 0 };
                let nobody_knows = self.replicas.iter().flatten().all(|process| process.machine.is_none());
                if nobody_knows && !self.net.contains(&asks) {
                    actions.push(Action::Inquire { at });
                }
            }
            let is_ending = participant
                .branch
                .as_ref()
                .is_some_and(|branch| matches!(branch.state(), branch::State::Committing | branch::State::Aborting));
            if participant.hook.is_none() && is_ending {
                actions.push(Action::Retry { at });
            }
        }
        for replica in 0..self.replicas.len() {
            let Some(process) = &self.replicas[replica] else {
                actions.push(Action::StartReplica { replica });
                continue;
            };
            match &process.append {
                Some(append) if append.answer.is_none() => actions.push(Action::Apply { replica }),
                Some(_) => actions.push(Action::Answer { replica }),
                None => {}
            }
            if process.append.is_none() && !process.lazy.is_empty() {
                actions.push(Action::Flush { replica });
            }
            match &process.machine {
                Some(machine) => {
                    for at in 0..self.participants.len() {
                        if self.participants[at].is_up && !matches!(machine.state(), State::Active) {
                            actions.push(Action::Join { replica, at });
                        }
                        for instance in 1..=self.participants[at].instance {
                            let is_gone = instance < self.participants[at].instance || !self.participants[at].is_up;
                            if is_gone && matches!(machine.state(), State::Preparing | State::OnePhase) {
                                actions.push(Action::Left { replica, at, instance });
                            }
                        }
                    }
                    if process.timers.contains(&Timer::Absence) {
                        actions.push(Action::Absence { replica });
                    }
                    if process.timers.contains(&Timer::Resend) && machine.resends() < 1 {
                        actions.push(Action::Resend { replica });
                    }
                }
                None if self.log.is_open() && self.log.owner == replica && self.may_write(replica) => {
                    actions.push(Action::Resume { replica });
                }
                None => {}
            }
        }
        self.wishes(setup, actions);
    }

    fn wishes(&self, setup: &Setup, actions: &mut Vec<Action>) {
        if self.told.is_some() || self.listens.is_some() {
            return;
        }
        let Some(replica) = self.asked_replica() else { return };
        if setup.early && self.requests == 0 {
            for at in 0..self.participants.len() {
                let participant = &self.participants[at];
                if participant.is_up && participant.enlisted.is_none() && participant.branch.is_none() {
                    actions.push(Action::CallService { at });
                }
            }
            if self.participants.iter().all(|participant| participant.enlisted == Some(true)) {
                actions.push(Action::AskCommit { replica });
            } else {
                actions.push(Action::AskAbort { replica });
            }
        } else if self.requests == 0 {
            actions.push(Action::AskCommit { replica });
        }
    }

    /// A request goes home while the home replica's lease lives, and elsewhere once it has lapsed.
    fn asked_replica(&self) -> Option<usize> {
        let home_lives = self.log.lives[0] != 0;
        match (home_lives, self.replicas.len()) {
            (false, 2) => self.replicas[1].is_some().then_some(1),
            _ => self.replicas[0].is_some().then_some(0),
        }
    }

    fn may_write(&self, replica: usize) -> bool {
        self.replicas[replica].as_ref().is_some_and(|process| self.log.lives[replica] == process.life)
    }

    pub(crate) fn faults(&self, setup: &Setup, actions: &mut Vec<Action>) {
        let left = self.left;
        if !self.limbo.is_empty() {
            actions.push(Action::ApplyLate);
        }
        if setup.log == Kind::LosesItsTail && self.log.may_lose_its_tail() {
            actions.push(Action::FailOver);
        }
        for (replica, process) in self.replicas.iter().enumerate() {
            let Some(process) = process else { continue };
            if left.replica_crashes > 0 {
                actions.push(Action::CrashReplica { replica });
            }
            if left.lost_answers > 0 && process.append.is_some() {
                actions.push(Action::LoseAnswer { replica });
            }
            // It is ignored once there is a decision, even one on its way.
            let may_pass = process.machine.as_ref().is_some_and(|machine| !machine.is_ended());
            if left.deadlines > 0 && may_pass {
                actions.push(Action::Deadline { replica });
            }
        }
        if left.take_overs > 0 && self.replicas.len() == 2 && self.replicas[1].is_some() && self.log.lives[0] != 0 {
            actions.push(Action::TakeOver);
        }
        if left.retentions > 0 && self.may_be_removed() {
            actions.push(Action::Retention);
        }
        for (at, participant) in self.participants.iter().enumerate() {
            if left.participant_crashes > 0 && participant.is_up {
                actions.push(Action::CrashParticipant { at });
            }
            let is_in_doubt = participant.branch.as_ref().is_some_and(|it| it.state() == branch::State::InDoubt);
            if left.inquiries > 0 && is_in_doubt {
                actions.push(Action::Inquire { at });
            }
            if left.hooks > 0 && matches!(participant.hook, Some((_, Some(_)))) {
                actions.push(Action::HookFails { at });
            }
        }
        if left.requests > 0
            && self.requests > 0
            && self.told.is_none()
            && let Some(replica) = self.asked_replica()
        {
            if !self.wants_abort {
                actions.push(Action::AskCommit { replica });
            }
            actions.push(Action::AskAbort { replica });
            actions.push(Action::AskOutcome { replica });
        }
    }

    /// Everybody who drove it or asked for it is long gone, and so is whatever they sent.
    fn may_be_removed(&self) -> bool {
        let is_idle =
            |process: &Replica| process.machine.is_none() && process.append.is_none() && process.lazy.is_empty();
        self.log.ended.is_some()
            && self.told.is_some()
            && self.limbo.is_empty()
            && self.replicas.iter().flatten().all(is_idle)
    }

    // ---- steps -----------------------------------------------------------------------------------------------------

    pub(crate) fn act(&mut self, setup: &Setup, action: Action) -> Step {
        match action {
            Action::Deliver(packet) => self.deliver(setup, packet),
            Action::Prepare { packet, says } => {
                self.deliver(setup, packet)?;
                let Packet::Prepare { to, .. } = packet else { return Ok(()) };
                self.prepare_returns(to, says)
            }
            Action::PrepareReturns { at, says } => self.prepare_returns(at, says),
            Action::HookReturns { at } => self.hook_returns(at),
            Action::HookFails { at } => {
                self.left.hooks -= 1;
                self.participants[at].hook = None;
                self.branch_takes(setup, at, branch::Event::EndFinished(HookEnd::Failed("busy".into())))
            }
            Action::Apply { replica } => {
                self.apply(setup, replica);
                // Where nothing can come between them and nobody else looks, the answer belongs to the same step.
                let is_one_step =
                    self.replicas.len() == 1 && self.left.replica_crashes == 0 && self.left.lost_answers == 0;
                if is_one_step { self.answer(replica) } else { Ok(()) }
            }
            Action::Answer { replica } => self.answer(replica),
            Action::LoseAnswer { replica } => {
                self.left.lost_answers -= 1;
                let Some(process) = &mut self.replicas[replica] else { return Ok(()) };
                let Some(append) = process.append.take() else { return Ok(()) };
                if append.answer.is_none() {
                    let record = append.output.forced().expect("forced").clone();
                    self.limbo.push(((replica, process.life), Shared::new(record)));
                }
                // The driver repeats the batch until the log answers.
                process.append = Some(Shared::new(Append { output: append.output.clone(), answer: None }));
                Ok(())
            }
            Action::ApplyLate => {
                let (writer, record) = self.limbo.remove(0);
                self.log.append(setup.log, writer, &[], Some(&record));
                Ok(())
            }
            Action::Flush { replica } => {
                self.flush(setup, replica);
                Ok(())
            }
            Action::Deadline { replica } => {
                let before = self.machine(replica).cloned();
                self.takes(replica, Event::TimerFired(Timer::Deadline))?;
                // One that changes nothing does not count.
                let has_changed = self.machine(replica) != before.as_ref();
                self.left.deadlines = self.left.deadlines.saturating_sub(u8::from(has_changed));
                Ok(())
            }
            Action::Absence { replica } => self.fire(replica, Timer::Absence),
            Action::Resend { replica } => self.fire(replica, Timer::Resend),
            Action::Join { replica, at } => self.takes(replica, Event::Joined { participant: name(at) }),
            Action::Left { replica, at, instance } => {
                self.takes(replica, Event::Left { participant: name(at), instance: instance_id(at, instance) })
            }
            Action::Inquire { at } => {
                self.left.inquiries = self.left.inquiries.saturating_sub(1);
                self.branch_takes(setup, at, branch::Event::TimerFired(branch::Timer::Inquire))
            }
            Action::Retry { at } => self.branch_takes(setup, at, branch::Event::TimerFired(branch::Timer::Retry)),
            Action::CallService { at } => {
                let participant = &mut self.participants[at];
                participant.is_prepared = true;
                participant.agreed = true;
                participant.told_yes = true;
                let instance = participant.instance;
                let branch = BranchId { epoch: Epoch(0), number: instance_id(at, instance).0 };
                participant.id = branch;
                self.is_in_doubt(at)?;
                self.net.insert(Packet::Enlist { from: at, instance, branch });
                Ok(())
            }
            Action::AskCommit { replica } => self.ask(setup, replica, Ask::Commit),
            Action::AskAbort { replica } => self.ask(setup, replica, Ask::Abort),
            Action::AskOutcome { replica } => self.ask(setup, replica, Ask::Outcome),
            Action::CrashReplica { replica } => {
                self.left.replica_crashes -= 1;
                let process = self.replicas[replica].take();
                // What it had sent to the storage may still be carried out.
                if let Some((life, append)) = process.and_then(|process| Some((process.life, process.append?)))
                    && append.answer.is_none()
                {
                    let record = append.output.forced().expect("forced").clone();
                    self.limbo.push(((replica, life), Shared::new(record)));
                }
                self.stop_listening(replica);
                Ok(())
            }
            Action::StartReplica { replica } => self.start_replica(replica),
            Action::TakeOver => {
                self.left.take_overs -= 1;
                self.log.lives[0] = 0;
                self.log.owner = 1;
                let epoch = self.draw_epoch();
                if let Some(process) = &mut self.replicas[1] {
                    process.epoch = epoch;
                }
                // The initiator goes where the lease is.
                if self.told.is_none() {
                    self.listens = None;
                }
                Ok(())
            }
            Action::Resume { replica } => {
                let Some(process) = &self.replicas[replica] else { return Ok(()) };
                let epoch = Epoch(process.epoch);
                let recovered = match (&self.log.open, &self.log.delegated) {
                    (Some(decided), _) => TwoPhase::recover(decided, epoch),
                    (None, Some(delegated)) => TwoPhase::recover_delegated(delegated, epoch),
                    (None, None) => return Ok(()),
                };
                self.install(replica, recovered)
            }
            Action::Retention => {
                self.left.retentions -= 1;
                self.net.clear();
                self.log.remove();
                Ok(())
            }
            Action::CrashParticipant { at } => {
                self.left.participant_crashes -= 1;
                let participant = &mut self.participants[at];
                participant.is_up = false;
                participant.branch = None;
                participant.hook = None;
                self.net.retain(|packet| match packet {
                    Packet::Prepare { to, .. } | Packet::Decide { to, .. } | Packet::Enlisted { to, .. } => *to != at,
                    Packet::Vote { .. }
                    | Packet::Acknowledge { .. }
                    | Packet::Inquire { .. }
                    | Packet::Enlist { .. } => true,
                });
                Ok(())
            }
            Action::StartParticipant { at } => {
                let participant = &mut self.participants[at];
                participant.is_up = true;
                participant.instance += 1;
                if participant.is_prepared { self.is_in_doubt(at) } else { Ok(()) }
            }
            Action::FailOver => {
                self.log.lose_its_tail();
                Ok(())
            }
        }
    }

    fn fire(&mut self, replica: usize, timer: Timer) -> Step {
        if let Some(process) = &mut self.replicas[replica] {
            process.timers.remove(&timer);
        }
        self.takes(replica, Event::TimerFired(timer))
    }

    fn stop_listening(&mut self, replica: usize) {
        if self.listens.is_some_and(|(_, asked)| asked == replica) {
            self.listens = None;
        }
    }

    fn deliver(&mut self, setup: &Setup, packet: Packet) -> Step {
        match packet {
            Packet::Prepare { to, instance, branch, epoch, replica, one_phase } => {
                if !setup.repeats_prepare {
                    self.net.remove(&packet);
                }
                if !self.is_process(to, instance) {
                    return Ok(());
                }
                if !self.is_ordered(to, branch, epoch, replica) {
                    return Err((MACHINE, format!("p{to} is asked to prepare {branch} beside another branch")));
                }
                let payload = "work".into();
                self.branch_takes(setup, to, branch::Event::PrepareOrdered { epoch: Epoch(epoch), payload, one_phase })
            }
            Packet::Decide { to, instance, branch, epoch, replica, commit } => {
                if !self.is_process(to, instance) {
                    return Ok(());
                }
                if !self.is_ordered(to, branch, epoch, replica) {
                    if commit {
                        return Err((I1, format!("p{to} is told to commit {branch}, which it does not have")));
                    }
                    // There is nothing to undo.
                    self.net.insert(Packet::Acknowledge { from: to, branch, replica, epoch, commit, heuristic: false });
                    return Ok(());
                }
                self.participants[to].heard_abort |= !commit;
                let decision = if commit { Decision::Commit } else { Decision::Abort };
                self.branch_takes(setup, to, branch::Event::Decided { epoch: Epoch(epoch), decision })
            }
            Packet::Enlisted { to, instance, branch, ok } => {
                let is_heard = self.is_process(to, instance) && self.participants[to].id == branch;
                if !is_heard || self.participants[to].enlisted.is_some() {
                    return Ok(());
                }
                self.participants[to].enlisted = Some(ok);
                match &self.participants[to].branch {
                    Some(branch) if !ok => {
                        // Who is not part of it undoes its work.
                        let epoch = branch.epoch();
                        self.participants[to].heard_abort = true;
                        self.branch_takes(setup, to, branch::Event::Decided { epoch, decision: Decision::Abort })
                    }
                    Some(_) | None => Ok(()),
                }
            }
            Packet::Vote { from, instance, branch, replica, says } => {
                let (participant, id) = (name(from), instance_id(from, instance));
                match self.machine(replica) {
                    Some(_) => {
                        self.takes(replica, Event::Voted { participant, branch, instance: id, vote: vote(says) })
                    }
                    // A yes of which nobody knows is as good as an inquiry. An unknown is not: it may be an only branch's.
                    None if says == Says::Yes => self.inquired(replica, from, instance, branch),
                    None => Ok(()),
                }
            }
            Packet::Acknowledge { from, branch, replica, epoch, commit, heuristic } => {
                let result = if heuristic { BranchResult::HeuristicCommitted } else { BranchResult::Done };
                let decision = if commit { Decision::Commit } else { Decision::Abort };
                let acknowledgement = Acknowledgement { decision, epoch: Epoch(epoch), end: HookEnd::Ended(result) };
                self.takes(replica, Event::Acknowledged { participant: name(from), branch, acknowledgement })
            }
            Packet::Inquire { from, instance, branch, replica } => match self.machine(replica) {
                Some(_) => {
                    let (participant, instance) = (name(from), instance_id(from, instance));
                    self.takes(replica, Event::Inquired { participant, branch, instance })
                }
                None => self.inquired(replica, from, instance, branch),
            },
            Packet::Enlist { from, instance, branch } => match self.machine(0) {
                Some(_) => {
                    let caller = Caller { session: ENLISTING, request: from as u64 * 100 + u64::from(instance) };
                    let (participant, instance) = (name(from), instance_id(from, instance));
                    self.takes(0, Event::Enlisted { participant, branch, instance, vote: EarlyVote::Yes, caller })
                }
                None if self.replicas[0].is_some() => {
                    self.net.insert(Packet::Enlisted { to: from, instance, branch, ok: false });
                    Ok(())
                }
                None => Ok(()),
            },
        }
    }

    /// Whether an order is about the branch that the participant has, or about one that it meets with this order.
    /// An order of a lower epoch than the branch has seen is ignored, and so is whoever gave it.
    fn is_ordered(&mut self, to: usize, branch: BranchId, epoch: u64, replica: usize) -> bool {
        let participant = &mut self.participants[to];
        let known = participant.branch.as_ref().map(|branch| branch.epoch());
        if known.is_none() && !participant.is_prepared {
            participant.id = branch;
        }
        if participant.id == branch && known.is_none_or(|known| Epoch(epoch) >= known) {
            participant.replica = replica;
        }
        participant.id == branch
    }

    fn would_prepare(&self, at: usize, instance: u8) -> bool {
        self.is_process(at, instance) && self.participants[at].branch.is_none()
    }

    fn is_process(&self, at: usize, instance: u8) -> bool {
        self.participants[at].is_up && self.participants[at].instance == instance
    }

    fn machine(&self, replica: usize) -> Option<&TwoPhase> {
        self.replicas[replica].as_ref()?.machine.as_deref()
    }

    /// Somebody who may be prepared asks about a transaction that is not in memory.
    fn inquired(&mut self, replica: usize, from: usize, instance: u8, branch: BranchId) -> Step {
        let Some(process) = &self.replicas[replica] else { return Ok(()) };
        let epoch = process.epoch;
        if let Some(decision) = self.log.answer_for(&Member { participant: name(from), branch }) {
            let commit = decision == Decision::Commit;
            if self.is_process(from, instance) {
                self.net.insert(Packet::Decide { to: from, instance, branch, epoch, replica, commit });
            }
            return Ok(());
        }
        if self.log.delegated.is_some() {
            // Its owner recalls it.
            return Ok(());
        }
        let inquirer = Member { participant: name(from), branch };
        let presumed = TwoPhase::presume_abort(gtid(), Epoch(epoch), 0, inquirer, instance_id(from, instance));
        self.install(replica, presumed)
    }

    fn ask(&mut self, setup: &Setup, replica: usize, ask: Ask) -> Step {
        if self.requests > 0 {
            self.left.requests = self.left.requests.saturating_sub(1);
        }
        // Whoever asks again has given up on the first answer: its session is gone.
        if let Some((request, at)) = self.listens.take() {
            self.takes(at, Event::CallerLeft { session: u64::from(request) })?;
        }
        let is_first = self.requests == 0;
        self.requests += 1;
        self.wants_abort |= ask == Ask::Abort;
        self.listens = Some((self.requests, replica));
        let caller = Caller { session: u64::from(self.requests), request: 1 };
        let carried = (0..self.participants.len())
            .map(|at| CarriedBranch { participant: name(at), payload: "work".into() })
            .collect();
        let event = match ask {
            Ask::Abort => Event::AbortRequested { reason: "enough".into(), caller },
            Ask::Outcome => Event::OutcomeAwaited { caller, wait: Wait::Decided },
            Ask::Commit => Event::CommitRequested {
                first_id: self.first_id(replica),
                branches: if setup.early { Vec::new() } else { carried },
                digest: DIGEST,
                one_phase: setup.one_phase,
                may_recur: !is_first,
                caller,
                wait: Wait::Decided,
            },
        };
        if self.machine(replica).is_some() {
            return self.takes(replica, event);
        }
        if let Some(decision) = self.log.decision() {
            return self.hear(
                caller,
                match decision {
                    Decision::Commit => Outcome::Committed,
                    Decision::Abort => Outcome::Aborted,
                },
            );
        }
        if self.log.delegated.is_some() {
            // The replica refuses it until it has taken up the delegation.
            return self.hear_nothing();
        }
        let Some(process) = &self.replicas[replica] else { return Ok(()) };
        let epoch = Epoch(process.epoch);
        let is_lone = setup.one_phase && setup.participants == 1;
        match ask {
            Ask::Commit => {}
            // Not found: who was told that it is in doubt learns by this that it was aborted without a trace.
            Ask::Outcome => return self.hear(caller, Outcome::Aborted),
            // Begun and unknown is aborted; of a carried one only its commit request finds out.
            Ask::Abort if setup.early => return self.hear(caller, Outcome::Aborted),
            Ask::Abort => return self.hear_nothing(),
        }
        if setup.early || (!is_first && !is_lone) {
            self.install(replica, TwoPhase::forgotten(gtid(), epoch, 0, "lost"))?;
        } else {
            let patience = Patience { timeout_ms: 30_000, absence_ms: 5_000 };
            self.install(replica, TwoPhase::begin(gtid(), epoch, 0, patience))?;
        }
        self.takes(replica, event)
    }

    /// A process drives the transaction once, so its epoch tells the branches of one run from those of another.
    fn first_id(&self, replica: usize) -> BranchId {
        let epoch = self.replicas[replica].as_ref().map_or(0, |process| process.epoch);
        BranchId { epoch: Epoch(epoch), number: 0 }
    }

    fn hear_nothing(&mut self) -> Step {
        self.listens = None;
        Ok(())
    }

    fn hear(&mut self, caller: Caller, outcome: Outcome) -> Step {
        if self.listens.is_none_or(|(request, _)| u64::from(request) != caller.session) {
            return Ok(());
        }
        self.listens = None;
        self.told = Some(outcome);
        Ok(())
    }

    // ---- replicas --------------------------------------------------------------------------------------------------

    fn draw_epoch(&mut self) -> u64 {
        self.next_epoch += 1;
        self.next_epoch
    }

    fn start_replica(&mut self, replica: usize) -> Step {
        let epoch = self.draw_epoch();
        let life = u8::try_from(epoch).expect("few");
        self.log.lives[replica] = life;
        self.replicas[replica] =
            Some(Replica { life, epoch, machine: None, append: None, lazy: Vec::new(), timers: BTreeSet::new() });
        Ok(())
    }

    fn install(&mut self, replica: usize, (machine, output): (TwoPhase, Output<Effect>)) -> Step {
        invariant::check_begun(&machine, &output).map_err(|violation| (MACHINE, violation.to_string()))?;
        if let Some(process) = &mut self.replicas[replica] {
            process.machine = Some(Shared::new(machine));
        }
        self.carry_out(replica, output)
    }

    fn takes(&mut self, replica: usize, event: Event) -> Step {
        let Some(before) = self.replicas[replica].as_ref().and_then(|process| process.machine.clone()) else {
            return Ok(());
        };
        CELLS.hit(cells::word(before.state()), cells::kind(&event));
        let mut machine = TwoPhase::clone(&before);
        let output = machine.handle(event.clone());
        invariant::check(&before, &event, &machine, &output).map_err(|violation| (MACHINE, violation.to_string()))?;
        if let Some(process) = &mut self.replicas[replica] {
            process.machine = Some(Shared::new(machine));
        }
        self.carry_out(replica, output)
    }

    fn carry_out(&mut self, replica: usize, output: Output<Effect>) -> Step {
        if output.forced().is_some() {
            let Some(process) = &mut self.replicas[replica] else { return Ok(()) };
            if process.append.is_some() {
                return Err((MACHINE, "two forced records at a time".to_owned()));
            }
            process.append = Some(Shared::new(Append { output, answer: None }));
            return Ok(());
        }
        match output.split() {
            Parts::Free { lazy, effects } => self.perform(replica, lazy, effects),
            Parts::AfterAppend { .. } => unreachable!("handled above"),
        }
    }

    fn perform(&mut self, replica: usize, lazy: Vec<Record>, effects: Vec<Effect>) -> Step {
        let Some(process) = &mut self.replicas[replica] else { return Ok(()) };
        process.lazy.extend(lazy.into_iter().map(Shared::new));
        let epoch = process.machine.as_ref().map_or(process.epoch, |machine| machine.epoch().0);
        let mut routed = Vec::new();
        for effect in effects {
            match effect {
                Effect::Send { to: participant, branch, prefer: _, order } => {
                    let to = index(&participant);
                    let Participant { instance, is_up, .. } = self.participants[to];
                    let route = if is_up { Route::Instance(instance_id(to, instance)) } else { Route::Absent };
                    if is_up {
                        self.net.insert(match order {
                            Order::Prepare { one_phase, .. } => {
                                Packet::Prepare { to, instance, branch, epoch, replica, one_phase }
                            }
                            Order::Commit => Packet::Decide { to, instance, branch, epoch, replica, commit: true },
                            Order::Abort => Packet::Decide { to, instance, branch, epoch, replica, commit: false },
                        });
                    }
                    routed.push(Event::Routed { participant, to: route });
                }
                Effect::Reply { to, reply } if to.session == ENLISTING => {
                    let (at, instance) = ((to.request / 100) as usize, (to.request % 100) as u8);
                    let branch = BranchId { epoch: Epoch(0), number: instance_id(at, instance).0 };
                    self.net.insert(Packet::Enlisted { to: at, instance, branch, ok: reply == Reply::Enlisted });
                }
                Effect::Reply { to, reply: Reply::Outcome { outcome, .. } } => self.hear(to, outcome)?,
                Effect::Reply { to: _, reply } => return Err((MACHINE, format!("{reply:?} was not asked for"))),
                Effect::SetTimer { timer, .. } => {
                    if let Some(process) = &mut self.replicas[replica]
                        && timer != Timer::Deadline
                    {
                        process.timers.insert(timer);
                    }
                }
                Effect::CancelTimer(timer) => {
                    if let Some(process) = &mut self.replicas[replica] {
                        process.timers.remove(&timer);
                    }
                }
            }
        }
        for event in routed {
            self.takes(replica, event)?;
        }
        self.forget_if_logged(replica);
        Ok(())
    }

    fn forget_if_logged(&mut self, replica: usize) {
        if let Some(process) = &mut self.replicas[replica]
            && process.machine.as_ref().is_some_and(|machine| machine.is_ended())
        {
            process.timers.clear();
            if process.lazy.is_empty() {
                process.machine = None;
            }
        }
    }

    fn apply(&mut self, setup: &Setup, replica: usize) {
        let Some(process) = &mut self.replicas[replica] else { return };
        let Some(append) = process.append.take() else { return };
        let lazy: Vec<Record> = process.lazy.drain(..).map(|record| Record::clone(&record)).collect();
        let answer = self.log.append(setup.log, (replica, process.life), &lazy, append.output.forced());
        process.append = Some(Shared::new(Append { output: append.output.clone(), answer: Some(answer) }));
    }

    fn answer(&mut self, replica: usize) -> Step {
        let Some(process) = &mut self.replicas[replica] else { return Ok(()) };
        let Some(append) = process.append.take() else { return Ok(()) };
        match append.answer.clone() {
            None | Some(Answer::Nothing) => Ok(()),
            Some(Answer::Fenced) => {
                self.stops_driving(replica);
                Ok(())
            }
            Some(Answer::Appended(appended)) => {
                if let (Appended::Durable(receipt), Parts::AfterAppend { lazy, held, .. }) =
                    (&appended, append.output.clone().split())
                {
                    self.perform(replica, lazy, held.release(receipt))?;
                }
                self.takes(replica, Event::Appended(appended))?;
                self.forget_if_logged(replica);
                Ok(())
            }
        }
    }

    /// A fenced replica ends.
    fn stops_driving(&mut self, replica: usize) {
        self.replicas[replica] = None;
        self.stop_listening(replica);
    }

    fn flush(&mut self, setup: &Setup, replica: usize) {
        let Some(process) = &mut self.replicas[replica] else { return };
        let lazy: Vec<Record> = process.lazy.drain(..).map(|record| Record::clone(&record)).collect();
        let answer = self.log.append(setup.log, (replica, process.life), &lazy, None);
        match answer {
            Answer::Fenced => self.stops_driving(replica),
            Answer::Appended(_) | Answer::Nothing => self.forget_if_logged(replica),
        }
    }

    // ---- participants ----------------------------------------------------------------------------------------------

    fn is_in_doubt(&mut self, at: usize) -> Step {
        let (branch, output) = Branch::in_doubt(gtid());
        branch::invariant::check_in_doubt(&branch, &output).map_err(|violation| (MACHINE, violation.to_string()))?;
        self.participants[at].branch = Some(Shared::new(branch));
        Ok(())
    }

    fn branch_takes(&mut self, setup: &Setup, at: usize, event: branch::Event) -> Step {
        let before = self.participants[at].branch.clone();
        if before.is_none() && matches!(event, branch::Event::TimerFired(_) | branch::Event::SessionUp) {
            return Ok(());
        }
        let (after, output) = match before.as_deref() {
            Some(branch) => {
                let mut after = branch.clone();
                let output = after.handle(event.clone());
                (after, output)
            }
            None => Branch::meet(gtid(), event.clone()),
        };
        branch::invariant::check(before.as_deref(), &event, &after, &output)
            .map_err(|violation| (MACHINE, violation.to_string()))?;
        CELLS.hit(cells::branch_word(before.as_deref()), cells::branch_kind(&event));
        let is_ended = after.is_ended();
        self.participants[at].branch = (!is_ended).then(|| Shared::new(after));
        for effect in output.peek_effects() {
            match effect {
                branch::Effect::Call(hook) => self.call(setup, at, hook)?,
                branch::Effect::Send(message) => self.send(at, message),
                branch::Effect::SetTimer { .. } => {}
                branch::Effect::Contradiction { .. } => {
                    return Err(("I3 a decision never changes", format!("p{at} was told both")));
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, from: usize, message: &Message) {
        let Participant { instance, replica, id: branch, .. } = self.participants[from];
        match message {
            Message::Vote(vote) => {
                let says = said(vote);
                self.participants[from].told_yes |= says == Says::Yes;
                self.net.insert(Packet::Vote { from, instance, branch, replica, says });
            }
            Message::Acknowledge(Acknowledgement { decision, epoch, end: HookEnd::Ended(result) }) => {
                let (epoch, commit) = (epoch.0, *decision == Decision::Commit);
                let heuristic = *result == BranchResult::HeuristicCommitted;
                self.net.insert(Packet::Acknowledge { from, branch, replica, epoch, commit, heuristic });
            }
            // It is for operators, and moves no machine.
            Message::Acknowledge(Acknowledgement { end: HookEnd::Failed(_), .. }) => {}
            // Any replica may be asked.
            Message::Inquire => {
                for replica in 0..self.replicas.len() {
                    self.net.insert(Packet::Inquire { from, instance, branch, replica });
                }
            }
        }
    }

    fn call(&mut self, setup: &Setup, at: usize, hook: &Hook) -> Step {
        let is_quick = !setup.slow_hooks;
        match hook {
            Hook::Prepare { one_phase, .. } => {
                self.participants[at].hook = Some((*one_phase, None));
                Ok(())
            }
            Hook::Commit | Hook::Abort => {
                self.participants[at].hook = Some((false, Some(*hook == Hook::Commit)));
                if is_quick { self.hook_returns(at) } else { Ok(()) }
            }
        }
    }

    fn prepare_returns(&mut self, at: usize, says: Says) -> Step {
        let participant = &mut self.participants[at];
        let Some((one_phase, None)) = participant.hook.take() else { return Ok(()) };
        let says = match (participant.alone, participant.is_prepared, one_phase) {
            // Asked again, it answers from its record.
            (Some(recorded), _, _) => recorded,
            (None, true, false) => Says::UnknownNot,
            (None, true, true) => Says::Yes,
            (None, false, true) => participant.commits_alone(says),
            (None, false, false) => participant.prepares(says),
        };
        // Setups have no slow hooks behind a prepare: the next order calls them.
        self.branch_takes(&PLAIN, at, branch::Event::PrepareFinished(vote(says)))
    }

    fn hook_returns(&mut self, at: usize) -> Step {
        let participant = &mut self.participants[at];
        let Some((_, Some(commits))) = participant.hook.take() else { return Ok(()) };
        let mut result = BranchResult::Done;
        if commits {
            if participant.is_prepared {
                participant.is_prepared = false;
                participant.applied += 1;
            }
        } else if participant.alone == Some(Says::Committed) {
            result = BranchResult::HeuristicCommitted;
        } else {
            participant.undone |= participant.is_prepared;
            participant.is_prepared = false;
            if participant.keeps_records {
                // A late order to commit by itself finds this, and does nothing.
                participant.alone = Some(Says::No);
            }
        }
        self.branch_takes(&PLAIN, at, branch::Event::EndFinished(HookEnd::Ended(result)))
    }
}

/// For hooks that follow at once on another.
const PLAIN: Setup = Setup {
    participants: 0,
    replicas: 0,
    says: &[],
    one_phase: false,
    early: false,
    slow_hooks: false,
    log: Kind::Sound,
    repeats_prepare: false,
    faults: Faults {
        replica_crashes: 0,
        participant_crashes: 0,
        lost_answers: 0,
        take_overs: 0,
        requests: 0,
        hooks: 0,
        deadlines: 0,
        inquiries: 0,
        retentions: 0,
    },
};

impl Participant {
    fn prepares(&mut self, says: Says) -> Says {
        match says {
            Says::Yes | Says::UnknownPrepared => {
                self.is_prepared = true;
                self.agreed = true;
            }
            Says::ReadOnly => self.agreed = true,
            Says::No => self.undone = true,
            Says::UnknownNot | Says::Committed => {}
        }
        says
    }

    fn commits_alone(&mut self, says: Says) -> Says {
        match says {
            Says::Committed | Says::Yes | Says::UnknownPrepared => {
                self.applied += 1;
                self.agreed = true;
                self.alone = Some(Says::Committed);
                if says == Says::UnknownPrepared { says } else { Says::Committed }
            }
            Says::ReadOnly => {
                self.agreed = true;
                // There is nothing to record; it finds nothing to do again.
                self.alone = Some(says);
                says
            }
            Says::No | Says::UnknownNot => {
                self.undone = true;
                self.alone = Some(Says::No);
                if says == Says::UnknownNot { says } else { Says::No }
            }
        }
    }
}

fn vote(says: Says) -> Vote {
    match says {
        Says::Yes => Vote::Yes,
        Says::ReadOnly => Vote::ReadOnly,
        Says::No => Vote::No("no".into()),
        Says::UnknownPrepared | Says::UnknownNot => Vote::Unknown("error".into()),
        Says::Committed => Vote::Committed,
    }
}

fn said(vote: &Vote) -> Says {
    match vote {
        Vote::Yes => Says::Yes,
        Vote::ReadOnly => Says::ReadOnly,
        Vote::No(_) => Says::No,
        Vote::Unknown(_) => Says::UnknownNot,
        Vote::Committed => Says::Committed,
    }
}
