//! The branches of this process: machines of the protocol, driven by the session's orders and the
//! participant's hooks.
//!
//! What is particular to three-phase transactions is in `voting`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use assent_crash::crash_point;
use assent_proto::session::{FromClient, FromReplica};
use assent_protocol::branch::{self, Branch as TwoPhase, Effect, Event, Hook, HookEnd, State};
use assent_protocol::three_phase::participant::{self, Stage, Timer};
use assent_protocol::three_phase::{self, Request};
use assent_protocol::{BranchId, BranchKey, BranchMap, Decision, Epoch, Gtid, GtidMap, Output, Parts};
use rand::RngExt;

use super::calls::Purpose;
use super::link::Outbox;
use super::timers::{Running, Timers};
use super::{Done, Engine, Finished};
use crate::participant::Branch;

/// One branch.
pub(super) struct Entry {
    pub(super) machine: Machine,
    /// Those that run, each at its [`place`].
    timers: [Option<Running>; 4],
    /// How long a vote is of use; from the order to prepare.
    pub(super) timeout: Duration,
    /// What the own voter has yet to be asked, in order. There is nothing while no question is
    /// under way.
    pub(super) asks: VecDeque<Request>,
    /// The question before those is under way.
    pub(super) is_asking: bool,
    /// A look has found it prepared, and it may be another instance's.
    pub(super) is_left_behind: bool,
    /// So many questions of the coordinator to the own voter are under way.
    pub(super) asked_by_log: u32,
}

/// Where a branch has a timer.
const fn place(timer: Timer) -> usize {
    match timer {
        Timer::Branch(branch::Timer::Inquire) => 0,
        Timer::Branch(branch::Timer::Retry) => 1,
        Timer::Election => 2,
        Timer::Round => 3,
    }
}

/// By which protocol a branch agrees.
pub(super) enum Machine {
    TwoPhase(TwoPhase),
    ThreePhase(Box<three_phase::Participant>),
}

impl Machine {
    fn is_ended(&self) -> bool {
        match self {
            Self::TwoPhase(machine) => machine.is_ended(),
            Self::ThreePhase(machine) => machine.is_ended(),
        }
    }
}

impl Entry {
    /// Whether a question to the own voter is under way.
    pub(super) fn is_asked(&self) -> bool {
        self.is_asking || self.asked_by_log > 0
    }

    pub(super) fn new(machine: Machine, timeout: Duration) -> Self {
        Self {
            machine,
            timers: [None; 4],
            timeout,
            asks: VecDeque::new(),
            is_asking: false,
            is_left_behind: false,
            asked_by_log: 0,
        }
    }
}

/// All of them that have not ended.
#[derive(Default)]
pub(super) struct Branches {
    pub(super) entries: BranchMap<Entry>,
    /// Which branch of a transaction the participant's voter votes for: at most one of them agrees
    /// in three phases.
    voting: GtidMap<BranchId>,
    /// Orders about branches whose voter's record is being looked up.
    pub(super) lookups: GtidMap<Vec<(BranchId, FromReplica)>>,
    timers: Timers,
}

impl Branches {
    /// Takes a branch into memory, in place of what is known of it.
    pub(super) fn insert(&mut self, key: BranchKey, entry: Entry) {
        if let Machine::ThreePhase(_) = entry.machine {
            self.voting.insert(key.gtid, key.id);
        }
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: BranchKey) {
        self.entries.remove(&key);
        if self.voting.get(&key.gtid) == Some(&key.id) {
            self.voting.remove(&key.gtid);
        }
    }

    /// The branch of a transaction that agrees in three phases, if one is in memory.
    pub(super) fn voting(&self, gtid: Gtid) -> Option<BranchKey> {
        self.voting.get(&gtid).map(|id| BranchKey { gtid, id: *id })
    }

    /// The same, to change it.
    pub(super) fn voting_mut(&mut self, gtid: Gtid) -> Option<(BranchKey, &mut Entry)> {
        let key = self.voting(gtid)?;
        Some((key, self.entries.get_mut(&key)?))
    }

    /// The next timer that fires; never, while none runs.
    pub(super) async fn next_timer(&mut self) -> (BranchKey, Timer) {
        loop {
            let found @ (key, timer, _) = self.timers.next().await;
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if self.timers.fires(found, &mut entry.timers[place(timer)]) {
                return (key, timer);
            }
        }
    }
}

impl Engine {
    /// Found prepared, at the start or by a look.
    pub(super) fn found_in_doubt(&mut self, key: BranchKey) {
        let (machine, output) = TwoPhase::in_doubt(key.gtid);
        self.branches.insert(key, Entry::new(Machine::TwoPhase(machine), Duration::ZERO));
        self.set_timers_of(key, output);
    }

    /// Prepared by the service itself, and about to be enlisted. Answers false if this process has
    /// this very branch already.
    pub(super) fn prepared_early(&mut self, key: BranchKey) -> bool {
        if self.branches.entries.contains_key(&key) {
            return false;
        }
        self.found_in_doubt(key);
        true
    }

    /// Not enlisted after all.
    pub(super) fn withdraw(&mut self, key: BranchKey) {
        if let Some(Entry { machine: Machine::TwoPhase(machine), .. }) = self.branches.entries.get(&key)
            && machine.state() == State::InDoubt
        {
            self.forget(key);
        }
    }

    /// A new session: every branch in doubt asks for its decision.
    pub(super) fn ask_about_doubts(&mut self, outbox: &mut Outbox) {
        let all: Vec<BranchKey> = self.branches.entries.keys().copied().collect();
        for key in all {
            self.ask_about_doubt(outbox, key);
        }
    }

    /// The branch asks for its decision, if it is in doubt.
    pub(super) fn ask_about_doubt(&mut self, outbox: &mut Outbox, key: BranchKey) {
        match self.branches.entries.get(&key).map(|entry| &entry.machine) {
            Some(Machine::TwoPhase(_)) => self.branch_event(outbox, key, Event::SessionUp),
            Some(Machine::ThreePhase(_)) => self.voting_event(outbox, key.gtid, participant::Event::SessionUp),
            None => {}
        }
    }

    /// An order about a branch.
    pub(super) fn branch_order(&mut self, outbox: &mut Outbox, order: FromReplica) {
        if let FromReplica::CommitBranch { gtid, branch, epoch } | FromReplica::AbortBranch { gtid, branch, epoch } =
            &order
        {
            self.take_back_prepare(BranchKey { gtid: *gtid, id: *branch }, *epoch);
        }
        if let FromReplica::Prepare { gtid, branch, is_prepared: false, .. } = &order {
            self.doubt_what_was_left(BranchKey { gtid: *gtid, id: *branch });
        }
        if let Some(order) = self.voting_order(outbox, order) {
            self.two_phase_order(outbox, order);
        }
    }

    /// An order about a branch of a two-phase transaction.
    pub(super) fn two_phase_order(&mut self, outbox: &mut Outbox, order: FromReplica) {
        match order {
            FromReplica::Prepare {
                gtid,
                branch: id,
                epoch,
                payload,
                timeout_ms,
                one_phase,
                roster: _,
                is_prepared: _,
            } => {
                let (key, timeout) = (BranchKey { gtid, id }, Duration::from_millis(timeout_ms));
                self.meet_or_handle(outbox, key, Event::PrepareOrdered { epoch, payload, one_phase }, timeout);
            }
            FromReplica::CommitBranch { gtid, branch: id, epoch } => {
                let event = Event::Decided { epoch, decision: Decision::Commit };
                self.meet_or_handle(outbox, BranchKey { gtid, id }, event, Duration::ZERO);
            }
            FromReplica::AbortBranch { gtid, branch: id, epoch } => {
                let event = Event::Decided { epoch, decision: Decision::Abort };
                self.meet_or_handle(outbox, BranchKey { gtid, id }, event, Duration::ZERO);
            }
            FromReplica::Welcome(_)
            | FromReplica::Heartbeat
            | FromReplica::Reply { .. }
            | FromReplica::AskVoter { .. }
            | FromReplica::LogAnswered { .. }
            | FromReplica::AwaitDecision { .. }
            | FromReplica::ForgetVoters { .. }
            | FromReplica::ExecuteStep { .. }
            | FromReplica::CompensateStep { .. }
            | FromReplica::GoAway { .. } => {}
        }
    }

    fn meet_or_handle(&mut self, outbox: &mut Outbox, key: BranchKey, event: Event, timeout: Duration) {
        if self.branches.entries.contains_key(&key) {
            return self.branch_event(outbox, key, event);
        }
        if self.is_shutting_down && matches!(event, Event::PrepareOrdered { .. }) {
            // No vote is needed: the coordinator notices that this process has gone.
            return;
        }
        let (machine, output) = TwoPhase::meet(key.gtid, event);
        self.branches.insert(key, Entry::new(Machine::TwoPhase(machine), timeout));
        self.branch_output(outbox, key, output);
    }

    pub(super) fn branch_timer(&mut self, outbox: &mut Outbox, key: BranchKey, timer: Timer) {
        match (self.branches.entries.get(&key).map(|entry| &entry.machine), timer) {
            (Some(Machine::TwoPhase(_)), Timer::Branch(timer)) => {
                self.branch_event(outbox, key, Event::TimerFired(timer));
            }
            (Some(Machine::ThreePhase(_)), timer) => {
                self.voting_event(outbox, key.gtid, participant::Event::TimerFired(timer));
            }
            (Some(Machine::TwoPhase(_)), Timer::Election | Timer::Round) | (None, _) => {}
        }
    }

    pub(super) fn branch_hook_finished(&mut self, outbox: &mut Outbox, key: BranchKey, finished: Finished) {
        if let Finished::End(HookEnd::Failed(error)) = &finished {
            tracing::warn!(gtid = %key.gtid, branch = %key.id, error, "a hook failed; it is called again");
        }
        match (self.branches.entries.get(&key).map(|entry| &entry.machine), finished) {
            (Some(Machine::TwoPhase(_)), Finished::Prepare(vote)) => {
                self.branch_event(outbox, key, Event::PrepareFinished(vote));
            }
            (Some(Machine::TwoPhase(_)), Finished::End(end)) => {
                self.branch_event(outbox, key, Event::EndFinished(end));
            }
            (Some(Machine::ThreePhase(_)), Finished::Prepare(vote)) => {
                self.voting_event(outbox, key.gtid, participant::Event::PrepareFinished(vote));
            }
            (Some(Machine::ThreePhase(_)), Finished::End(end)) => {
                self.voting_event(outbox, key.gtid, participant::Event::EndFinished(end));
            }
            (None, _) => {}
        }
    }

    fn branch_event(&mut self, outbox: &mut Outbox, key: BranchKey, event: Event) {
        let Some(Entry { machine: Machine::TwoPhase(machine), .. }) = self.branches.entries.get_mut(&key) else {
            return;
        };
        #[cfg(debug_assertions)]
        let checked = (machine.clone(), event.clone());
        let output = machine.handle(event);
        #[cfg(debug_assertions)]
        if let Err(violation) = branch::invariant::check(Some(&checked.0), &checked.1, machine, &output) {
            panic!("{violation}: {:?} on {:?}", checked.1, checked.0);
        }
        self.branch_output(outbox, key, output);
    }

    fn branch_output(&mut self, outbox: &mut Outbox, key: BranchKey, output: Output<Effect>) {
        for effect in effects_of(output) {
            match effect {
                Effect::Call(hook) => self.call_branch_hook(key, hook),
                Effect::Send(message) => outbox.send(FromClient::branch(key.gtid, key.id, message)),
                Effect::SetTimer { timer, after_ms, jitter } => self.set_branch_timer(key, timer, after_ms, jitter),
                Effect::Contradiction { doing } => {
                    tracing::error!(gtid = %key.gtid, branch = %key.id, %doing, "the coordinator contradicts its own decision; nothing was done");
                }
            }
        }
        self.forget_if_ended(key);
    }

    pub(super) fn forget_if_ended(&mut self, key: BranchKey) {
        if self.branches.entries.get(&key).is_some_and(|entry| entry.machine.is_ended()) {
            self.forget(key);
        }
    }

    /// The output of a branch that is in doubt from the start: there is nothing to send yet.
    fn set_timers_of(&mut self, key: BranchKey, output: Output<Effect>) {
        for effect in effects_of(output) {
            if let Effect::SetTimer { timer, after_ms, jitter } = effect {
                self.set_branch_timer(key, timer, after_ms, jitter);
            }
        }
    }

    pub(super) fn call_branch_hook(&mut self, key: BranchKey, hook: Hook) {
        let (Some(participant), Some(name)) = (self.settings.branches.clone(), self.settings.name.clone()) else {
            tracing::error!(gtid = %key.gtid, branch = %key.id, "an order for a branch, and this process serves none; connect with a participant");
            return;
        };
        let timeout = self.branches.entries.get(&key).map_or(Duration::ZERO, |entry| entry.timeout);
        let (payload, is_prepare) = match &hook {
            Hook::Prepare { payload, .. } => (payload.clone(), true),
            Hook::Commit | Hook::Abort => (bytes::Bytes::new(), false),
        };
        let coordinator = Arc::clone(&self.shared.coordinator);
        let branch = Branch { key, participant: name, coordinator, payload, timeout };
        let finish = self.finish.clone();
        let call = participant.call(branch, hook);
        let hook = Box::pin(async move {
            crash_point!(HOOK_CALLED);
            let finished = call.await;
            crash_point!(HOOK_RETURNED);
            // The engine may have ended; the resource still knows.
            finish.send(Done::Branch(key, finished)).ok();
        });
        if is_prepare {
            self.calls.prepare(key, hook);
        } else {
            self.calls.call(Purpose::End, hook);
        }
    }

    /// The branch is told how it ends. If its prepare hook still waits for a place, the end would
    /// wait behind all work that came before: the hook is taken back, and the branch is met as if
    /// it had never been asked to prepare.
    fn take_back_prepare(&mut self, key: BranchKey, epoch: Epoch) {
        let seen = match self.branches.entries.get(&key).map(|entry| &entry.machine) {
            Some(Machine::TwoPhase(machine)) => machine.epoch(),
            // Once its voter has been asked, the machine waits for the answer.
            Some(Machine::ThreePhase(machine)) if machine.stage() == Stage::Unvoted => machine.branch().epoch(),
            Some(Machine::ThreePhase(_)) | None => return,
        };
        if epoch >= seen && self.calls.take_back_prepare(key) {
            self.forget(key);
        }
    }

    fn set_branch_timer(&mut self, key: BranchKey, timer: branch::Timer, after_ms: u64, jitter: bool) {
        let (after_ms, jitter_ms) = if jitter { (after_ms / 2, after_ms / 2) } else { (after_ms, 0) };
        self.set_timer(key, Timer::Branch(timer), after_ms, jitter_ms);
    }

    /// (Re)starts a timer: after a time, and by chance up to some time more.
    pub(super) fn set_timer(&mut self, key: BranchKey, timer: Timer, after_ms: u64, jitter_ms: u64) {
        let Some(entry) = self.branches.entries.get_mut(&key) else { return };
        let jitter_ms = if jitter_ms == 0 { 0 } else { rand::rng().random_range(0..=jitter_ms) };
        let after = Duration::from_millis(after_ms + jitter_ms);
        self.branches.timers.set(key, timer, &mut entry.timers[place(timer)], after);
    }

    pub(super) fn cancel_timer(&mut self, key: BranchKey, timer: Timer) {
        let Some(entry) = self.branches.entries.get_mut(&key) else { return };
        entry.timers[place(timer)] = None;
    }

    /// Leaves memory, timers and all.
    pub(super) fn forget(&mut self, key: BranchKey) {
        self.branches.remove(key);
    }
}

/// A branch has no log of its own, its resource is; so nothing is ever held.
pub(super) fn effects_of<E>(output: Output<E>) -> Vec<E> {
    match output.split() {
        Parts::Free { effects, .. } => effects,
        Parts::AfterAppend { .. } => unreachable!("a branch appends nothing"),
    }
}
