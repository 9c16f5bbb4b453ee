//! The way in: a transaction opens, and each event goes to its transition.

use super::{Branch, Effect, Event, Order, Patience, State, Timer, TwoPhase, Waiter};
use crate::durable::Output;
use crate::ids::{BodyDigest, Epoch, Gtid, ParticipantName};
use crate::record::Member;

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
            Event::Enlisted { participant, branch, instance, vote, caller } => {
                self.enlisted(Member { participant, branch }, instance, vote, caller)
            }
            Event::BranchNamed { branch, id, caller } => self.branch_named(branch, id, caller),
            Event::CommitRequested { branches, first_id, digest, one_phase, may_recur, caller, wait } => {
                let named = branches.into_iter().enumerate();
                let named = named.map(|(offset, carried)| Branch::named(carried, first_id.plus(offset))).collect();
                self.commit_requested(named, digest, one_phase, may_recur, Waiter::new(caller, wait))
            }
            Event::AbortRequested { reason, caller } => self.abort_requested(reason, caller),
            Event::OutcomeAwaited { caller, wait } => self.outcome_awaited(Waiter::new(caller, wait)),
            Event::CallerLeft { session } => self.caller_left(session),
            Event::Routed { participant, to } => self.routed(&participant, to),
            Event::Voted { participant, branch, instance, vote } => {
                self.voted(Member { participant, branch }, instance, vote)
            }
            Event::Acknowledged { participant, branch, acknowledgement } => {
                self.acknowledged(&Member { participant, branch }, &acknowledgement)
            }
            Event::Inquired { participant, branch, instance } => {
                self.inquired(Member { participant, branch }, instance)
            }
            Event::Joined { participant } => self.joined(&participant),
            Event::Left { participant, instance } => self.left(&participant, instance),
            Event::TimerFired(Timer::Deadline) => self.deadline_passed(),
            Event::TimerFired(Timer::Absence) => self.absence_passed(),
            Event::TimerFired(Timer::Resend) => self.resend(),
            Event::Appended(appended) => self.appended(&appended),
        }
    }

    /// Where the participant stands in the roster: it has one branch there at most.
    pub(crate) fn position(&self, participant: &ParticipantName) -> Option<usize> {
        self.branches.iter().position(|branch| branch.participant == *participant)
    }

    /// Where this very branch stands in the roster. Another branch of its participant may stand
    /// there in its place.
    pub(crate) fn position_of(&self, member: &Member) -> Option<usize> {
        self.branches.iter().position(|branch| branch.is(member))
    }
}

impl Branch {
    pub(super) fn order(&self, order: Order) -> Effect {
        Effect::Send { to: self.participant.clone(), branch: self.id, prefer: self.instance, order }
    }

    pub(crate) fn is(&self, member: &Member) -> bool {
        self.id == member.branch && self.participant == member.participant
    }

    /// What the log keeps of it.
    pub(crate) fn member(&self) -> Member {
        Member { participant: self.participant.clone(), branch: self.id }
    }
}
