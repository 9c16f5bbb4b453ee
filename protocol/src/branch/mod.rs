//! One branch of a two-phase transaction, on the participant's side.
//!
//! The branch's durable state is its resource (a prepared transaction, a journal entry); this machine holds what is in memory:
//! which hook runs, and what the coordinator is owed. A branch that is absent here has either never been seen or has ended.
//!
//! | state | prepare ordered | commit ordered | abort ordered | hook finished | session up, inquiry timer | retry timer |
//! |---|---|---|---|---|---|---|
//! | (absent), ended | **preparing**, hook called | **committing**, hook called | **aborting**, hook called | ignored | ignored | ignored |
//! | preparing | ignored | ignored | noted | yes, unknown: vote, **in doubt** (abort noted: **aborting**); no, read-only, committed, one-phase unknown: vote, **ended** | ignored | ignored |
//! | in doubt | prepared: votes yes again; else: votes unknown again, **aborting** | **committing**, hook called | **aborting**, hook called | ignored | inquires | ignored |
//! | committing | ignored | ignored | contradiction | done: acknowledged, **ended**; failed: retried | ignored | hook called, unless it runs |
//! | aborting | ignored | contradiction | ignored | done: acknowledged, **ended**; failed: retried | ignored | hook called, unless it runs |
//!
//! An order of a lower epoch than was seen is ignored in every state (I7). A branch that voted yes never ends by itself (I6): there
//! is no timer that leads out of that row. One hook runs at a time.
//!
//! A one-phase branch whose hook does not know whether it has committed is not in doubt: no decision will be made that it could
//! learn. The coordinator asks it again, and its hook finds out.

#![deny(clippy::wildcard_enum_match_arm)]

pub mod invariant;

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::durable::Output;
use crate::ids::{Epoch, Gtid};
use crate::record::Decision;
use crate::two_phase::{BranchResult, Vote};

/// The participant's machine for one branch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Branch {
    gtid: Gtid,
    epoch: Epoch,
    state: State,
    /// The hook said yes, or the resource was found prepared. Without it a branch in doubt may not vote yes.
    is_prepared: bool,
    /// A hook was called and has not finished.
    is_hook_running: bool,
    /// How often the present hook failed, or the present question was asked.
    repeats: u32,
}

/// Where a branch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// The prepare hook runs.
    Preparing {
        /// An abort came meanwhile and follows as soon as the hook has finished.
        abort_noted: bool,
        /// It commits by itself instead.
        one_phase: bool,
    },
    /// Prepared, or possibly so; waits for the decision.
    InDoubt,
    /// The commit hook runs, or waits to be called again.
    Committing,
    /// The abort hook runs, or waits to be called again.
    Aborting,
    /// Nothing is left to do.
    Ended,
}

/// What can happen to a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The coordinator says prepare.
    PrepareOrdered {
        /// The coordinator's epoch.
        epoch: Epoch,
        /// From the initiator.
        payload: Bytes,
        /// The only branch: commit by itself.
        one_phase: bool,
    },
    /// The coordinator tells the decision.
    Decided {
        /// The coordinator's epoch.
        epoch: Epoch,
        /// The decision.
        decision: Decision,
    },
    /// The prepare hook finished.
    PrepareFinished(Vote),
    /// The commit or abort hook finished.
    EndFinished(HookEnd),
    /// There is a session to ask over.
    SessionUp,
    /// A timer fired.
    TimerFired(Timer),
}

/// How a commit or abort hook finished.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum HookEnd {
    /// The branch has ended.
    Ended(BranchResult),
    /// It has not, or nobody knows: the hook is called again.
    Failed(String),
}

/// The timers of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Timer {
    /// A branch in doubt asks for the decision.
    Inquire,
    /// A failed hook is called again.
    Retry,
}

/// The hooks of a participant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Hook {
    /// Do the work, make it durable, vote.
    Prepare {
        /// From the initiator.
        payload: Bytes,
        /// The only branch: commit by itself.
        one_phase: bool,
    },
    /// Commit.
    Commit,
    /// Abort.
    Abort,
}

/// What a branch tells the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Message {
    /// Its vote.
    Vote(Vote),
    /// It has done what it was ordered to do, or has failed to.
    Acknowledge(Acknowledgement),
    /// It asks for the decision.
    Inquire,
}

/// The answer to an order to commit or abort.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// What was ordered.
    pub decision: Decision,
    /// The epoch of the order; zero where there was none: with three phases a branch may learn the
    /// outcome from its peers alone.
    pub epoch: Epoch,
    /// What came of it. A branch that has failed tries again, and acknowledges again.
    pub end: HookEnd,
}

/// What a branch wants done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Effect {
    /// Call the participant's hook, and tell how it finished.
    Call(Hook),
    /// Tell the coordinator. What is lost is asked for again.
    Send(Message),
    /// (Re)start a timer.
    SetTimer {
        /// Which.
        timer: Timer,
        /// The bound of the wait, in milliseconds; the driver draws it from zero where `jitter` is set.
        after_ms: u64,
        /// Whether to draw.
        jitter: bool,
    },
    /// The coordinator contradicted its own decision. Nothing was done; a human should know.
    Contradiction {
        /// What this branch is already doing.
        doing: Decision,
    },
}

/// A branch in doubt first asks after this long, in milliseconds; the interval doubles up to [`INQUIRE_MAX_MS`].
pub const INQUIRE_INITIAL_MS: u64 = 5_000;
/// The longest interval between inquiries, in milliseconds.
pub const INQUIRE_MAX_MS: u64 = 30_000;
/// The first interval before a failed hook is called again, in milliseconds; it doubles up to [`RETRY_MAX_MS`].
pub const RETRY_INITIAL_MS: u64 = 100;
/// The longest interval between calls of a failing hook, in milliseconds.
pub const RETRY_MAX_MS: u64 = 10_000;

impl Branch {
    /// The coordinator's first word about a branch that is not in memory.
    pub fn meet(gtid: Gtid, event: Event) -> (Self, Output<Effect>) {
        let mut branch = Self::new(gtid, State::Ended);
        let output = branch.handle(event);
        (branch, output)
    }

    /// A branch that was found prepared: at start-up, or because the service has just prepared it by itself.
    pub fn in_doubt(gtid: Gtid) -> (Self, Output<Effect>) {
        let branch = Self { is_prepared: true, ..Self::new(gtid, State::InDoubt) };
        let timer = branch.inquire_timer();
        (branch, Output::effects(vec![timer]))
    }

    /// A branch that has not been met, for the machine that wraps this one.
    pub(crate) fn absent(gtid: Gtid) -> Self {
        Self::new(gtid, State::Ended)
    }

    /// Whatever its hook came to, for the machine that wraps this one: what stands under its gtid may be another instance's, and is told how it ends.
    /// Asked to prepare once more, it says yes if it `is_prepared`.
    pub(crate) fn leave_in_doubt(&mut self, is_prepared: bool) {
        *self = Self { epoch: self.epoch, is_prepared, ..Self::new(self.gtid, State::InDoubt) };
    }

    /// An order of this epoch, which is not lower than any before it, is carried out by the machine
    /// that wraps this one.
    pub(crate) fn hear(&mut self, epoch: Epoch) {
        self.epoch = epoch;
    }

    fn new(gtid: Gtid, state: State) -> Self {
        Self { gtid, epoch: Epoch(0), state, is_prepared: false, is_hook_running: false, repeats: 0 }
    }

    /// Takes one event.
    pub fn handle(&mut self, event: Event) -> Output<Effect> {
        match event {
            Event::PrepareOrdered { epoch, .. } if epoch < self.epoch => Output::none(),
            Event::Decided { epoch, .. } if epoch < self.epoch => Output::none(),
            Event::PrepareOrdered { epoch, payload, one_phase } => self.prepare_ordered(epoch, payload, one_phase),
            Event::Decided { epoch, decision } => self.decided(epoch, decision),
            Event::PrepareFinished(vote) => self.prepare_finished(vote),
            Event::EndFinished(end) => self.end_finished(end),
            Event::SessionUp => self.inquire(),
            Event::TimerFired(Timer::Inquire) => self.inquire(),
            Event::TimerFired(Timer::Retry) => self.retry(),
        }
    }

    fn prepare_ordered(&mut self, epoch: Epoch, payload: Bytes, one_phase: bool) -> Output<Effect> {
        self.epoch = epoch;
        match self.state {
            State::InDoubt if self.is_prepared => send(Message::Vote(Vote::Yes)),
            State::InDoubt => {
                // It never said yes, so it may end by itself. A coordinator that asks once more has forgotten the first answer, and
                // one that insists (one-phase) is not answered unknown for ever: its next question finds nothing left over.
                let vote = Vote::Unknown("an earlier prepare of this transaction ended in an error".to_owned());
                let call = self.obey(Decision::Abort);
                Output::effects(vec![Effect::Send(Message::Vote(vote)), call])
            }
            State::Ended => {
                self.state = State::Preparing { abort_noted: false, one_phase };
                self.is_prepared = false;
                let call = self.call(Hook::Prepare { payload, one_phase });
                Output::effects(vec![call])
            }
            State::Preparing { .. } | State::Committing | State::Aborting => Output::none(),
        }
    }

    fn decided(&mut self, epoch: Epoch, decision: Decision) -> Output<Effect> {
        self.epoch = epoch;
        match (self.state, decision) {
            (State::Preparing { one_phase, .. }, Decision::Abort) => {
                self.state = State::Preparing { abort_noted: true, one_phase };
                Output::none()
            }
            // Nobody can have decided to commit without this vote; should it be true all the same, it will be told again.
            (State::Preparing { .. }, Decision::Commit) => Output::none(),
            // Where it has ended the acknowledgement was lost, or another instance prepared it: the hook finds out.
            (State::InDoubt | State::Ended, Decision::Commit | Decision::Abort) => {
                Output::effects(vec![self.obey(decision)])
            }
            (State::Committing, Decision::Commit) | (State::Aborting, Decision::Abort) => Output::none(),
            (State::Committing, Decision::Abort) => contradiction(Decision::Commit),
            (State::Aborting, Decision::Commit) => contradiction(Decision::Abort),
        }
    }

    fn obey(&mut self, decision: Decision) -> Effect {
        self.repeats = 0;
        match decision {
            Decision::Commit => {
                self.state = State::Committing;
                self.call(Hook::Commit)
            }
            Decision::Abort => {
                self.state = State::Aborting;
                self.call(Hook::Abort)
            }
        }
    }

    fn call(&mut self, hook: Hook) -> Effect {
        self.is_hook_running = true;
        Effect::Call(hook)
    }

    fn prepare_finished(&mut self, vote: Vote) -> Output<Effect> {
        let State::Preparing { abort_noted, one_phase } = self.state else { return Output::none() };
        self.is_hook_running = false;
        self.is_prepared = vote == Vote::Yes;
        match vote {
            Vote::Yes | Vote::Unknown(_) if abort_noted => Output::effects(vec![self.obey(Decision::Abort)]),
            Vote::Unknown(_) if one_phase => self.end(Message::Vote(vote)),
            Vote::Yes | Vote::Unknown(_) => {
                self.state = State::InDoubt;
                self.repeats = 0;
                let timer = self.inquire_timer();
                Output::effects(vec![Effect::Send(Message::Vote(vote)), timer])
            }
            Vote::No(_) | Vote::ReadOnly | Vote::Committed => self.end(Message::Vote(vote)),
        }
    }

    fn end(&mut self, last_word: Message) -> Output<Effect> {
        self.state = State::Ended;
        self.is_prepared = false;
        send(last_word)
    }

    fn end_finished(&mut self, end: HookEnd) -> Output<Effect> {
        match self.state {
            State::Committing | State::Aborting if !self.is_hook_running => Output::none(),
            State::Committing | State::Aborting => match end {
                HookEnd::Ended(_) => {
                    let acknowledgement = self.acknowledgement(end);
                    self.is_hook_running = false;
                    self.end(acknowledgement)
                }
                HookEnd::Failed(_) => {
                    let acknowledgement = self.acknowledgement(end);
                    self.is_hook_running = false;
                    self.repeats = self.repeats.saturating_add(1);
                    let after_ms = interval_ms(RETRY_INITIAL_MS, RETRY_MAX_MS, self.repeats - 1);
                    Output::effects(vec![
                        Effect::Send(acknowledgement),
                        Effect::SetTimer { timer: Timer::Retry, after_ms, jitter: true },
                    ])
                }
            },
            State::Preparing { .. } | State::InDoubt | State::Ended => Output::none(),
        }
    }

    /// The answer to the order that is being carried out.
    fn acknowledgement(&self, end: HookEnd) -> Message {
        let decision = if self.state == State::Committing { Decision::Commit } else { Decision::Abort };
        Message::Acknowledge(Acknowledgement { decision, epoch: self.epoch, end })
    }

    fn inquire(&mut self) -> Output<Effect> {
        match self.state {
            State::InDoubt => {
                self.repeats = self.repeats.saturating_add(1);
                let timer = self.inquire_timer();
                Output::effects(vec![Effect::Send(Message::Inquire), timer])
            }
            State::Preparing { .. } | State::Committing | State::Aborting | State::Ended => Output::none(),
        }
    }

    fn retry(&mut self) -> Output<Effect> {
        let hook = match self.state {
            State::Committing | State::Aborting if self.is_hook_running => return Output::none(),
            State::Committing => Hook::Commit,
            State::Aborting => Hook::Abort,
            State::Preparing { .. } | State::InDoubt | State::Ended => return Output::none(),
        };
        Output::effects(vec![self.call(hook)])
    }

    fn inquire_timer(&self) -> Effect {
        let after_ms = interval_ms(INQUIRE_INITIAL_MS, INQUIRE_MAX_MS, self.repeats);
        Effect::SetTimer { timer: Timer::Inquire, after_ms, jitter: self.repeats > 0 }
    }

    /// Whose branch.
    pub fn gtid(&self) -> Gtid {
        self.gtid
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// The highest epoch that gave it an order.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether its resource is prepared, as far as this machine knows.
    pub fn is_prepared(&self) -> bool {
        self.is_prepared
    }

    /// Whether nothing is left to do, so that it may be forgotten.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }
}

fn interval_ms(initial_ms: u64, maximum_ms: u64, repeats: u32) -> u64 {
    (initial_ms << repeats.min(16)).min(maximum_ms)
}

fn send(message: Message) -> Output<Effect> {
    Output::effects(vec![Effect::Send(message)])
}

fn contradiction(doing: Decision) -> Output<Effect> {
    Output::effects(vec![Effect::Contradiction { doing }])
}
