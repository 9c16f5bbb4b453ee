//! Callers: what the initiator and others ask for, and what each of them is told.

use bytes::Bytes;

use super::{Branch, BranchState, CarriedBranch, EarlyVote, Effect, Reply, State, TwoPhase, Waiter};
use crate::durable::Output;
use crate::ids::{BodyDigest, BranchId, Caller, InstanceId, ParticipantName};
use crate::reason::{AbortCode, AbortReason, Refusal, Wait};
use crate::record::{Decision, Member, Outcome};

impl TwoPhase {
    pub(super) fn begin_requested(&mut self, caller: Caller) -> Output<Effect> {
        match self.state {
            State::Active => reply(caller, Reply::Begun),
            State::Preparing | State::Delegating | State::OnePhase | State::Recalling | State::Deciding(_) => {
                refuse(caller, self.frozen())
            }
            State::Committing | State::Aborting | State::Committed | State::Aborted => {
                reply(caller, self.outcome_reply())
            }
        }
    }

    pub(super) fn enlisted(
        &mut self,
        member: Member,
        instance: InstanceId,
        vote: EarlyVote,
        caller: Caller,
    ) -> Output<Effect> {
        let known = self.position(&member.participant).map(|position| &self.branches[position]);
        if known.is_some_and(|branch| branch.is(&member) && branch.has_enlisted(instance, vote)) {
            // The answer to the first enlistment was lost. A refusal would have the participant
            // undo what counts as its yes.
            return reply(caller, Reply::Enlisted);
        }
        if self.state != State::Active {
            return refuse(caller, self.frozen());
        }
        if known.is_some() {
            // A call that came twice: the first one's branch is in the roster, and stays there.
            return refuse(caller, Refusal::DuplicateBranch(member.participant));
        }
        let state = match vote {
            EarlyVote::Yes => BranchState::Yes,
            EarlyVote::ReadOnly => BranchState::ReadOnly,
        };
        let Member { participant, branch: id } = member;
        self.branches.push(Branch { participant, id, state, instance: Some(instance), payload: Bytes::new() });
        reply(caller, Reply::Enlisted)
    }

    pub(super) fn branch_named(&mut self, branch: CarriedBranch, id: BranchId, caller: Caller) -> Output<Effect> {
        if self.state != State::Active {
            return refuse(caller, self.frozen());
        }
        if let Some(position) = self.position(&branch.participant) {
            let known = &self.branches[position];
            let is_the_same = known.state == BranchState::Named && known.payload == branch.payload;
            return if is_the_same {
                reply(caller, Reply::Enlisted)
            } else {
                refuse(caller, Refusal::DuplicateBranch(branch.participant))
            };
        }
        self.branches.push(Branch::named(branch, id));
        reply(caller, Reply::Enlisted)
    }

    pub(super) fn commit_requested(
        &mut self,
        named: Vec<Branch>,
        digest: BodyDigest,
        one_phase: bool,
        may_recur: bool,
        waiter: Waiter,
    ) -> Output<Effect> {
        if self.digest.is_some_and(|known| known != digest) {
            return refuse(waiter.caller, Refusal::KeyReused);
        }
        match self.state {
            State::Active => {
                if let Some(twice) = self.first_duplicate(&named) {
                    return refuse(waiter.caller, Refusal::DuplicateBranch(twice));
                }
                self.digest = Some(digest);
                self.may_recur = may_recur;
                self.waiters.push(waiter);
                self.branches.extend(named);
                self.prepare(one_phase)
            }
            // It comes again, and may come once more after this answer: then to a coordinator that
            // has forgotten.
            State::Preparing
            | State::Delegating
            | State::OnePhase
            | State::Recalling
            | State::Deciding(_)
            | State::Committing
            | State::Aborting
            | State::Committed
            | State::Aborted => self.outcome_awaited(waiter),
        }
    }

    pub(super) fn abort_requested(&mut self, reason: String, caller: Caller) -> Output<Effect> {
        match self.state {
            State::Active | State::Preparing => {
                // A commit request may be under way that its sender may repeat; it must not find
                // that nothing is known.
                self.may_recur |= self.digest.is_some();
                self.waiters.push(Waiter::new(caller, Wait::Decided));
                self.abort(AbortReason::new(AbortCode::Requested, reason))
            }
            State::Delegating => {
                // The record may be durable already: the abort is decided over it, once the log has
                // answered.
                self.reason.get_or_insert_with(|| AbortReason::new(AbortCode::Requested, reason));
                self.outcome_awaited(Waiter::new(caller, Wait::Decided))
            }
            // Too late to ask: the outcome is the answer.
            State::OnePhase
            | State::Recalling
            | State::Deciding(_)
            | State::Committing
            | State::Aborting
            | State::Committed
            | State::Aborted => self.outcome_awaited(Waiter::new(caller, Wait::Decided)),
        }
    }

    pub(super) fn outcome_awaited(&mut self, waiter: Waiter) -> Output<Effect> {
        // Whoever is told here may not be the initiator, whose request may come again: it must not
        // run anew after a crash.
        self.may_recur |= self.digest.is_some();
        let is_due = match self.state {
            State::Active
            | State::Preparing
            | State::Delegating
            | State::OnePhase
            | State::Recalling
            | State::Deciding(_) => false,
            State::Aborting if self.may_recur && !self.has_open_row => {
                self.waiters.push(waiter);
                return self.decide(Decision::Abort);
            }
            State::Committing | State::Aborting => waiter.wait == Wait::Decided,
            State::Committed | State::Aborted => true,
        };
        if is_due {
            return reply(waiter.caller, self.outcome_reply());
        }
        self.waiters.push(waiter);
        Output::none()
    }

    /// The callers that wait for the outcome.
    pub(crate) fn callers(&self) -> impl Iterator<Item = Caller> {
        self.waiters.iter().map(|waiter| waiter.caller)
    }

    pub(super) fn caller_left(&mut self, session: u64) -> Output<Effect> {
        self.waiters.retain(|waiter| waiter.caller.session != session);
        Output::none()
    }

    pub(super) fn reply_to_decided(&mut self, effects: &mut Vec<Effect>) {
        let reply = self.outcome_reply();
        for waiter in self.waiters.extract_if(.., |waiter| waiter.wait == Wait::Decided) {
            effects.push(Effect::Reply { to: waiter.caller, reply: reply.clone() });
        }
    }

    pub(super) fn outcome_reply(&self) -> Reply {
        let outcome = match self.state {
            State::Committing | State::Committed => Outcome::Committed,
            State::Aborting | State::Aborted => Outcome::Aborted,
            State::Active
            | State::Preparing
            | State::Delegating
            | State::OnePhase
            | State::Recalling
            | State::Deciding(_) => {
                unreachable!("an outcome is told only once there is one")
            }
        };
        let reason = if outcome == Outcome::Aborted { self.reason.clone() } else { None };
        Reply::Outcome { outcome, reason }
    }

    fn frozen(&self) -> Refusal {
        Refusal::RosterFrozen { state: self.state_word().to_owned() }
    }

    fn first_duplicate(&self, named: &[Branch]) -> Option<ParticipantName> {
        named
            .iter()
            .enumerate()
            .find(|(at, branch)| {
                self.position(&branch.participant).is_some()
                    || named[..*at].iter().any(|earlier| earlier.participant == branch.participant)
            })
            .map(|(_, branch)| branch.participant.clone())
    }
}

impl Branch {
    pub(super) fn named(carried: CarriedBranch, id: BranchId) -> Self {
        let CarriedBranch { participant, payload } = carried;
        Self { participant, id, state: BranchState::Named, instance: None, payload }
    }

    /// Whether this is the branch that the same enlistment has made before.
    fn has_enlisted(&self, instance: InstanceId, vote: EarlyVote) -> bool {
        let is_the_same_vote = match vote {
            EarlyVote::Yes => matches!(self.state, BranchState::Yes | BranchState::Committed),
            EarlyVote::ReadOnly => self.state == BranchState::ReadOnly,
        };
        is_the_same_vote && self.instance == Some(instance)
    }
}

impl Waiter {
    pub(super) fn new(caller: Caller, wait: Wait) -> Self {
        Self { caller, wait, is_answer_held: false }
    }
}

fn reply(to: Caller, reply: Reply) -> Output<Effect> {
    Output::effects(vec![Effect::Reply { to, reply }])
}

fn refuse(to: Caller, refusal: Refusal) -> Output<Effect> {
    reply(to, Reply::Refused(refusal))
}
