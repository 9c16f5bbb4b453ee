//! The way in: a transaction opens, and each event goes to its transition.

use super::{Branch, Effect, Event, Order, Patience, State, Timer, TwoPhase, Waiter};
use crate::durable::Output;
use crate::ids::{BodyDigest, Epoch, Gtid, ParticipantName};

/// Stands in a record for the digest of a commit request that never came.
pub(super) const NO_REQUEST: BodyDigest = BodyDigest(0);

impl TwoPhase {
    /// Opens a transaction.
    pub fn begin(gtid: Gtid, epoch: Epoch, begun_at_ms: u64, patience: Patience) -> (Self, Output<Effect>) {
        let mut machine = Self::new(gtid, epoch, begun_at_ms, State::Active);
        machine.absence_ms = patience.absence_ms;
        let deadline = Effect::SetTimer { timer: Timer::Deadline, after_ms: patience.timeout_ms, jitter: false };
        (machine, Output::effects(vec![deadline]))
    }

    pub(super) fn new(gtid: Gtid, epoch: Epoch, begun_at_ms: u64, state: State) -> Self {
        Self {
            gtid,
            epoch,
            begun_at_ms,
            absence_ms: 0,
            state,
            branches: Vec::new(),
            digest: None,
            may_recur: false,
            was_asked_elsewhere: false,
            has_open_row: false,
            is_delegated: false,
            is_overruled: false,
            reason: None,
            waiters: Vec::new(),
            resends: 0,
        }
    }

    /// Takes one event.
    pub fn handle(&mut self, event: Event) -> Output<Effect> {
        match event {
            Event::BeginRequested { caller } => self.begin_requested(caller),
            Event::Enlisted { participant, instance, vote, caller } => {
                self.enlisted(participant, instance, vote, caller)
            }
            Event::BranchNamed { branch, caller } => self.branch_named(branch, caller),
            Event::CommitRequested { branches, digest, one_phase, may_recur, caller, wait } => {
                self.commit_requested(branches, digest, one_phase, may_recur, Waiter::new(caller, wait))
            }
            Event::AbortRequested { reason, caller } => self.abort_requested(reason, caller),
            Event::OutcomeAwaited { caller, wait } => self.outcome_awaited(Waiter::new(caller, wait)),
            Event::CallerLeft { session } => self.caller_left(session),
            Event::Routed { participant, to } => self.routed(&participant, to),
            Event::Voted { participant, instance, vote } => self.voted(&participant, instance, vote),
            Event::Acknowledged { participant, result } => self.acknowledged(&participant, result),
            Event::Inquired { participant, instance } => self.inquired(&participant, instance),
            Event::Joined { participant } => self.joined(&participant),
            Event::Left { participant, instance } => self.left(&participant, instance),
            Event::TimerFired(Timer::Deadline) => self.deadline_passed(),
            Event::TimerFired(Timer::Absence) => self.absence_passed(),
            Event::TimerFired(Timer::Resend) => self.resend(),
            Event::Appended(appended) => self.appended(&appended),
        }
    }

    pub(crate) fn position(&self, participant: &ParticipantName) -> Option<usize> {
        self.branches.iter().position(|branch| branch.participant == *participant)
    }
}

impl Branch {
    pub(super) fn order(&self, order: Order) -> Effect {
        Effect::Send { to: self.participant.clone(), prefer: self.instance, order }
    }
}
