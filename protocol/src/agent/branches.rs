//! The branches of this process: their orders, their hooks and their timers.
//!
//! A branch agrees in two phases or in three; what is particular to three is in `three_phase`.
//! Where the participant has a voter, an order about a branch that is not in memory waits for the
//! voter's record.

use std::collections::VecDeque;

use bytes::Bytes;

use super::calls::{Call, Returned};
use super::timers::Running;
use super::{Agent, Notice, SessionId};
#[cfg(debug_assertions)]
use crate::branch::invariant;
use crate::branch::{Branch as TwoPhase, Effect, Event, Hook, Message, State};
use crate::durable::{Output, Parts};
use crate::ids::{BranchId, BranchKey, BranchMap, Epoch, Gtid, GtidMap};
use crate::message::FromClient;
use crate::record::Decision;
use crate::three_phase::participant::{self, Stage, Timer};
use crate::three_phase::{self, Request, Roster};
use crate::two_phase::Vote;

/// One branch.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) machine: Machine,
    /// Its timers that run.
    pub(super) running: Running,
    /// How long a vote is of use, from the order to prepare, in milliseconds.
    pub(super) timeout_ms: u64,
    /// The session that brought its latest order.
    pub(super) session: Option<SessionId>,
    /// What the own voter has yet to be asked, in order. There is nothing while no question is
    /// under way.
    pub(super) asks: VecDeque<Request>,
    /// The question before those is under way.
    pub(super) is_asking: bool,
    /// So many questions of the coordinator to the own voter are under way.
    pub(super) asked_by_log: u32,
    /// No replica has ordered this process to prepare it in two phases: it was found, or the
    /// service has prepared it. It may agree in three phases, and another instance may vote for it.
    pub(super) is_found: bool,
    /// A look has found it prepared, and it may be another instance's.
    pub(super) is_left_behind: bool,
}

/// By which protocol a branch agrees.
#[derive(Clone, Debug)]
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

    pub(super) fn state(&self) -> (State, Option<Stage>) {
        match self {
            Self::TwoPhase(machine) => (machine.state(), None),
            Self::ThreePhase(machine) => (machine.branch().state(), Some(machine.stage())),
        }
    }

    /// The branch itself.
    fn branch(&self) -> &TwoPhase {
        match self {
            Self::TwoPhase(machine) => machine,
            Self::ThreePhase(machine) => machine.branch(),
        }
    }
}

impl Entry {
    pub(super) fn new(machine: Machine, timeout_ms: u64, session: Option<SessionId>) -> Self {
        Self {
            machine,
            running: Running::default(),
            timeout_ms,
            session,
            asks: VecDeque::new(),
            is_asking: false,
            asked_by_log: 0,
            is_found: false,
            is_left_behind: false,
        }
    }

    /// Whether the voter's record of the transaction, if there is one, says how this branch goes
    /// on.
    pub(super) fn follows_its_voter(&self) -> bool {
        match &self.machine {
            Machine::TwoPhase(machine) => self.is_found && machine.state() == State::InDoubt,
            Machine::ThreePhase(_) => false,
        }
    }

    /// Whether a question to the own voter is under way.
    pub(super) fn is_asked(&self) -> bool {
        self.is_asking || self.asked_by_log > 0
    }
}

/// A replica's order about a branch.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) key: BranchKey,
    pub(super) epoch: Epoch,
    /// It came over this one.
    pub(super) session: SessionId,
    pub(super) what: What,
}

/// What is ordered.
#[derive(Clone, Debug)]
pub(super) enum What {
    Prepare(Prepare),
    /// Commit or abort.
    End(Decision),
}

/// See [`FromReplica::Prepare`](crate::message::FromReplica::Prepare).
#[derive(Clone, Debug)]
pub(super) struct Prepare {
    pub(super) payload: Bytes,
    pub(super) timeout_ms: u64,
    pub(super) one_phase: bool,
    pub(super) roster: Option<Roster>,
    pub(super) is_prepared: bool,
}

/// What waits for the voter's record of a transaction.
#[derive(Clone, Debug, Default)]
pub(super) struct Lookup {
    /// Orders about branches that are not in memory.
    pub(super) orders: Vec<Order>,
    /// Branches that a look has found prepared.
    pub(super) left: Vec<BranchId>,
}

/// All branches that have not ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Branches {
    pub(super) entries: BranchMap<Entry>,
    /// Which branch of a transaction the participant's voter votes for: at most one of them agrees
    /// in three phases.
    voting: GtidMap<BranchId>,
    pub(super) lookups: GtidMap<Lookup>,
    /// Those that the shell has yet to look up.
    pub(super) lookups_due: Vec<Gtid>,
}

impl Branches {
    /// Takes a branch into memory.
    pub(super) fn insert(&mut self, key: BranchKey, entry: Entry) {
        if let Machine::ThreePhase(_) = entry.machine {
            self.voting.insert(key.gtid, key.id);
        }
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: BranchKey) -> Option<Entry> {
        if self.voting.get(&key.gtid) == Some(&key.id) {
            self.voting.remove(&key.gtid);
        }
        self.entries.remove(&key)
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

    /// All of them: the table itself has no order that two runs share.
    pub(super) fn in_order(&self) -> Vec<BranchKey> {
        let mut keys: Vec<BranchKey> = self.entries.keys().copied().collect();
        keys.sort_unstable();
        keys
    }
}

impl Agent {
    // ---- into memory and out of it ---------------------------------------------------------------------------------

    /// A branch was found prepared, or the service has prepared it by itself.
    pub(super) fn found_in_doubt(&mut self, key: BranchKey, session: Option<SessionId>) {
        let (machine, output) = TwoPhase::in_doubt(key.gtid);
        self.forget(key);
        let entry = Entry { is_found: true, ..Entry::new(Machine::TwoPhase(machine), 0, session) };
        self.branches.insert(key, entry);
        self.two_phase_output(key, output);
    }

    /// The service has prepared a branch by itself, which is about to be enlisted. Answers false if
    /// this process has this very branch already.
    pub(super) fn prepared_early(&mut self, key: BranchKey) -> bool {
        let is_new = !self.branches.entries.contains_key(&key);
        if is_new {
            self.found_in_doubt(key, self.sessions.first());
        }
        is_new
    }

    /// A branch was not enlisted after all.
    pub(super) fn withdrawn(&mut self, key: BranchKey) {
        if let Some(Entry { machine: Machine::TwoPhase(machine), .. }) = self.branches.entries.get(&key)
            && machine.state() == State::InDoubt
        {
            self.forget(key);
        }
    }

    /// A branch leaves memory, timers and all.
    pub(super) fn forget(&mut self, key: BranchKey) {
        if let Some(entry) = self.branches.remove(key) {
            self.cancel_branch_timers(key, entry.running);
        }
    }

    pub(super) fn forget_if_ended(&mut self, key: BranchKey) {
        if self.branches.entries.get(&key).is_some_and(|entry| entry.machine.is_ended()) {
            self.forget(key);
        }
    }

    // ---- orders ----------------------------------------------------------------------------------------------------

    /// A replica's order about a branch.
    pub(super) fn branch_ordered(&mut self, order: Order) {
        let Order { key, epoch, session, .. } = order;
        match &order.what {
            What::Prepare(prepare) if prepare.is_prepared => {}
            What::Prepare(_) => self.doubt_what_was_left(key),
            What::End(_) => self.take_back_prepare(key, epoch),
        }
        self.hear_of(key, epoch, session);
        let has_voter = self.has_voter();
        let entry = self.branches.entries.get(&key);
        let (is_met, follows_its_voter) = (entry.is_some(), entry.is_some_and(Entry::follows_its_voter));
        match &order.what {
            What::Prepare(Prepare { roster: Some(_), .. }) if !has_voter => {
                let problem = "this instance has no voter; connect it with Builder::voter, or commit in two phases";
                self.report(key, Some(session), Message::Vote(Vote::No(problem.to_owned())));
            }
            What::Prepare(Prepare { roster: Some(_), .. }) | What::End(_) if has_voter && !is_met => {
                self.meet_with_record(order);
            }
            What::End(_) if has_voter && follows_its_voter => self.meet_with_record(order),
            What::Prepare(_) | What::End(_) => self.obey(order),
        }
    }

    /// Carries out an order about a branch. What its voter has on record, if anything, is in
    /// memory.
    pub(super) fn obey(&mut self, order: Order) {
        let Order { key, epoch, session, what } = order;
        let is_met = self.branches.entries.contains_key(&key);
        let event = match what {
            // No vote is needed: the coordinator notices that this process has gone.
            What::Prepare(_) if self.is_shutting_down && !is_met => return,
            What::Prepare(Prepare { payload, timeout_ms, roster: Some(roster), is_prepared, .. }) => {
                let event = participant::Event::PrepareOrdered { epoch, payload, roster, is_prepared };
                return self.three_phase_prepare(key, event, timeout_ms, session);
            }
            What::End(decision) if self.branches.voting(key.gtid) == Some(key) => {
                return self.three_phase_event(key.gtid, participant::Event::Decided { epoch, decision });
            }
            What::Prepare(Prepare { payload, timeout_ms, one_phase, roster: None, .. }) => {
                let event = Event::PrepareOrdered { epoch, payload, one_phase };
                if !is_met {
                    return self.meet(key, event, timeout_ms, session);
                }
                event
            }
            What::End(decision) => {
                let event = Event::Decided { epoch, decision };
                if !is_met {
                    return self.meet(key, event, 0, session);
                }
                event
            }
        };
        self.two_phase_event(key, event);
    }

    /// The branch is told how it ends. If its prepare hook still waits for a place, the end would
    /// wait behind all work that came before: the hook is taken back, and the branch is met as if
    /// it had never been asked to prepare.
    fn take_back_prepare(&mut self, key: BranchKey, epoch: Epoch) {
        let is_at_its_hook = match self.branches.entries.get(&key).map(|entry| &entry.machine) {
            Some(Machine::TwoPhase(machine)) => epoch >= machine.epoch(),
            // Once its voter has been asked, the machine waits for the answer.
            Some(Machine::ThreePhase(machine)) => {
                machine.stage() == Stage::Unvoted && epoch >= machine.branch().epoch()
            }
            None => false,
        };
        if is_at_its_hook && self.calls.take_back_prepare(key) {
            self.forget(key);
        }
    }

    /// What the branch reports from now on goes where this order came from, unless the order is of
    /// a lower epoch than was seen.
    fn hear_of(&mut self, key: BranchKey, epoch: Epoch, session: SessionId) {
        if let Some(entry) = self.branches.entries.get_mut(&key)
            && epoch >= entry.machine.branch().epoch()
        {
            entry.session = Some(session);
        }
    }

    /// A branch of two phases that is not in memory.
    fn meet(&mut self, key: BranchKey, event: Event, timeout_ms: u64, session: SessionId) {
        #[cfg(debug_assertions)]
        let met = event.clone();
        let (machine, output) = TwoPhase::meet(key.gtid, event);
        #[cfg(debug_assertions)]
        check(None, &met, &machine, &output);
        self.branches.insert(key, Entry::new(Machine::TwoPhase(machine), timeout_ms, Some(session)));
        self.two_phase_output(key, output);
    }

    // ---- what else happens to a branch -----------------------------------------------------------------------------

    pub(super) fn branch_timer_fired(&mut self, key: BranchKey, timer: Timer) {
        if !self.fires(key, timer) {
            return;
        }
        match (self.branches.entries.get(&key).map(|entry| &entry.machine), timer) {
            (Some(Machine::TwoPhase(_)), Timer::Branch(timer)) => {
                self.two_phase_event(key, Event::TimerFired(timer));
            }
            (Some(Machine::ThreePhase(_)), timer) => {
                self.three_phase_event(key.gtid, participant::Event::TimerFired(timer));
            }
            (Some(Machine::TwoPhase(_)), Timer::Election | Timer::Round) | (None, _) => {}
        }
    }

    pub(super) fn hook_returned(&mut self, key: BranchKey, returned: Returned) {
        self.calls.returned(returned.purpose());
        match (self.branches.entries.get(&key).map(|entry| &entry.machine), returned) {
            (Some(Machine::TwoPhase(_)), Returned::Prepare(vote)) => {
                self.two_phase_event(key, Event::PrepareFinished(vote));
            }
            (Some(Machine::TwoPhase(_)), Returned::End(end)) => self.two_phase_event(key, Event::EndFinished(end)),
            (Some(Machine::ThreePhase(_)), Returned::Prepare(vote)) => {
                self.three_phase_event(key.gtid, participant::Event::PrepareFinished(vote));
            }
            (Some(Machine::ThreePhase(_)), Returned::End(end)) => {
                self.three_phase_event(key.gtid, participant::Event::EndFinished(end));
            }
            (None, _) => {}
        }
    }

    // ---- the machine of two phases ---------------------------------------------------------------------------------

    pub(super) fn two_phase_event(&mut self, key: BranchKey, event: Event) {
        let Some(Entry { machine: Machine::TwoPhase(machine), .. }) = self.branches.entries.get_mut(&key) else {
            return;
        };
        #[cfg(debug_assertions)]
        let checked = (machine.clone(), event.clone());
        let output = machine.handle(event);
        #[cfg(debug_assertions)]
        check(Some(&checked.0), &checked.1, machine, &output);
        self.two_phase_output(key, output);
    }

    fn two_phase_output(&mut self, key: BranchKey, output: Output<Effect>) {
        for effect in effects_of(output) {
            match effect {
                Effect::Call(hook) => self.call_hook(key, hook),
                Effect::Send(message) => self.report(key, self.session_of(key), message),
                Effect::SetTimer { timer, after_ms, jitter } => {
                    let (after_ms, jitter_ms) = if jitter { (after_ms / 2, after_ms / 2) } else { (after_ms, 0) };
                    self.set_branch_timer(key, Timer::Branch(timer), after_ms, jitter_ms);
                }
                Effect::Contradiction { doing } => self.notices.push(Notice::Contradiction { key, doing }),
            }
        }
        self.forget_if_ended(key);
    }

    pub(super) fn call_hook(&mut self, key: BranchKey, hook: Hook) {
        if !self.serves_branches {
            return self.notices.push(Notice::NoParticipant(key));
        }
        let timeout_ms = self.branches.entries.get(&key).map_or(0, |entry| entry.timeout_ms);
        self.calls.call(Call::Branch { key, hook, timeout_ms });
    }

    /// The session that brought the latest order about a branch.
    pub(super) fn session_of(&self, key: BranchKey) -> Option<SessionId> {
        self.branches.entries.get(&key).and_then(|entry| entry.session)
    }

    pub(super) fn report(&mut self, key: BranchKey, session: Option<SessionId>, message: Message) {
        let is_question = message == Message::Inquire;
        let message = FromClient::branch(key.gtid, key.id, message);
        if is_question {
            self.sessions.send_to_all(&message);
        } else {
            self.sessions.send(session, message);
        }
    }
}

/// A branch has no log of its own, its resource is; so nothing is ever held.
pub(super) fn effects_of<E>(output: Output<E>) -> Vec<E> {
    match output.split() {
        Parts::Free { effects, .. } => effects,
        Parts::AfterAppend { .. } => unreachable!("a branch appends nothing"),
    }
}

#[cfg(debug_assertions)]
fn check(before: Option<&TwoPhase>, event: &Event, after: &TwoPhase, output: &Output<Effect>) {
    if let Err(violation) = invariant::check(before, event, after, output) {
        panic!("{violation}: {event:?} on {before:?}");
    }
}
