//! The way to the end: the machine orders the branches to commit or abort until each has
//! acknowledged.

use super::machine::NO_REQUEST;
use super::{
    Branch, BranchResult, BranchState, Effect, Order, RESEND_INITIAL_MS, RESEND_MAX_MS, State, Timer, TwoPhase,
};
use crate::branch::{Acknowledgement, HookEnd};
use crate::durable::Output;
use crate::ids::InstanceId;
use crate::reason::AbortReason;
use crate::record::{Decision, Ended, EndedBranch, Member, Outcome, Protocol, Record};

impl TwoPhase {
    /// The orders of the present state, and the timer that repeats them.
    pub(super) fn orders(&self) -> Vec<Effect> {
        let decision = if self.state == State::Committing { Decision::Commit } else { Decision::Abort };
        let mut effects = self.orders_for(decision);
        if !effects.is_empty() {
            effects.push(self.resend_timer());
        }
        effects
    }

    pub(super) fn orders_for(&self, decision: Decision) -> Vec<Effect> {
        let mut effects = Vec::with_capacity(self.branches.len() + 2);
        for branch in self.branches.iter().filter(|branch| branch.state.needs_order()) {
            effects.push(branch.order(match decision {
                Decision::Commit => Order::Commit,
                Decision::Abort => Order::Abort,
            }));
        }
        effects
    }

    pub(super) fn resend(&mut self) -> Output<Effect> {
        let mut effects = match self.state {
            State::Committing | State::Aborting | State::Recalling => self.orders(),
            State::OnePhase => self
                .branches
                .iter()
                .filter(|branch| branch.state == BranchState::Asked)
                .map(|branch| branch.order(Order::Prepare { payload: branch.payload.clone(), one_phase: true }))
                .collect(),
            State::Active
            | State::Preparing
            | State::Delegating
            | State::Deciding(_)
            | State::Committed
            | State::Aborted => return Output::none(),
        };
        self.resends = self.resends.saturating_add(1);
        effects.retain(|effect| !matches!(effect, Effect::SetTimer { .. }));
        effects.push(self.resend_timer());
        Output::effects(effects)
    }

    pub(super) fn resend_timer(&self) -> Effect {
        let after_ms = (RESEND_INITIAL_MS << self.resends.min(10)).min(RESEND_MAX_MS);
        // The first repetition waits in full, so that an answer on its way is not asked for twice.
        Effect::SetTimer { timer: Timer::Resend, after_ms, jitter: self.resends > 0 }
    }

    pub(super) fn acknowledged(&mut self, member: &Member, acknowledgement: &Acknowledgement) -> Output<Effect> {
        let Some(position) = self.position_of(member) else { return Output::none() };
        // The order is repeated: the branch answers each one.
        let HookEnd::Ended(result) = acknowledgement.end else { return Output::none() };
        let decision = match self.state {
            State::Recalling | State::Aborting => Decision::Abort,
            State::Committing => Decision::Commit,
            State::Active
            | State::Preparing
            | State::Delegating
            | State::OnePhase
            | State::Deciding(_)
            | State::Committed
            | State::Aborted => return Output::none(),
        };
        // An answer to an order of an earlier life says nothing about this one's.
        if acknowledgement.decision != decision || acknowledgement.epoch != self.epoch {
            return Output::none();
        }
        if self.state == State::Recalling {
            return self.recalled(position, result);
        }
        let branch = &mut self.branches[position];
        if !branch.state.needs_order() {
            return Output::none();
        }
        branch.state = match (decision, result) {
            (Decision::Commit, BranchResult::Done | BranchResult::HeuristicCommitted) => BranchState::Committed,
            (Decision::Abort, BranchResult::Done | BranchResult::HeuristicAborted) => BranchState::Aborted,
            (Decision::Commit, BranchResult::HeuristicAborted) => BranchState::HeuristicAborted,
            (Decision::Abort, BranchResult::HeuristicCommitted) => BranchState::HeuristicCommitted,
        };
        self.finish_if_all_ended(&mut Vec::new()).unwrap_or_else(Output::none)
    }

    pub(super) fn inquired(&mut self, member: Member, instance: InstanceId) -> Output<Effect> {
        match self.position_of(&member) {
            Some(position) => self.repeat_order(position, instance),
            None => self.tell_stranger(member, instance),
        }
    }

    /// A no after the abort: the branch has undone itself.
    pub(super) fn late_no(&mut self, position: usize) -> Output<Effect> {
        let branch = &mut self.branches[position];
        if self.state != State::Aborting || !matches!(branch.state, BranchState::Asked | BranchState::Unknown) {
            return Output::none();
        }
        branch.state = BranchState::No;
        self.finish_if_all_ended(&mut Vec::new()).unwrap_or_else(Output::none)
    }

    pub(super) fn repeat_order(&mut self, position: usize, instance: InstanceId) -> Output<Effect> {
        let branch = &self.branches[position];
        let order = match self.state {
            _ if branch.state == BranchState::Outside => Order::Abort,
            State::Active | State::Preparing | State::Delegating | State::OnePhase | State::Deciding(_) => {
                return Output::none();
            }
            // It has committed by itself. Were it ordered to, the acknowledgement could reach a
            // coordinator that recalls the delegation.
            State::Committed if self.is_delegated => return Output::none(),
            State::Committing | State::Committed => Order::Commit,
            State::Recalling | State::Aborting | State::Aborted => Order::Abort,
        };
        let (to, branch) = (branch.participant.clone(), branch.id);
        Output::effects(vec![Effect::Send { to, branch, prefer: Some(instance), order }])
    }

    /// A branch that is prepared but not in the frozen roster can only be aborted.
    pub(super) fn tell_stranger(&self, stranger: Member, instance: InstanceId) -> Output<Effect> {
        let is_outside = match self.state {
            // Its enlistment may still be on the way.
            State::Active => false,
            // The log may yet know another decision, and another roster with it. It will ask again.
            State::Deciding(_) => false,
            State::Committing | State::Committed => !self.is_overruled,
            State::Preparing
            | State::Delegating
            | State::OnePhase
            | State::Recalling
            | State::Aborting
            | State::Aborted => true,
        };
        if !is_outside {
            return Output::none();
        }
        let Member { participant: to, branch } = stranger;
        Output::effects(vec![Effect::Send { to, branch, prefer: Some(instance), order: Order::Abort }])
    }

    pub(super) fn finish_if_all_ended(&mut self, effects: &mut Vec<Effect>) -> Option<Output<Effect>> {
        if self.branches.iter().any(|branch| branch.state.needs_order()) {
            return None;
        }
        let outcome = match self.state {
            State::Committing => Outcome::Committed,
            State::Aborting => Outcome::Aborted,
            State::Active
            | State::Preparing
            | State::Delegating
            | State::OnePhase
            | State::Recalling
            | State::Deciding(_)
            | State::Committed
            | State::Aborted => return None,
        };
        Some(self.end(outcome, std::mem::take(effects)))
    }

    /// How each branch ended, once all have.
    pub(super) fn ended_branches(&self) -> Vec<EndedBranch> {
        let ended = |branch: &Branch| EndedBranch {
            participant: branch.participant.clone(),
            branch: branch.id,
            step: None,
            end: branch.state.end(),
        };
        self.branches.iter().map(ended).collect()
    }

    pub(super) fn end(&mut self, outcome: Outcome, mut effects: Vec<Effect>) -> Output<Effect> {
        self.state = match outcome {
            Outcome::Committed | Outcome::Completed => State::Committed,
            Outcome::Aborted | Outcome::Compensated => State::Aborted,
        };
        for waiter in std::mem::take(&mut self.waiters) {
            effects.push(Effect::Reply { to: waiter.caller, reply: self.outcome_reply() });
        }
        if self.is_overruled {
            // The row is another writer's, and so is its end: there may be branches that are
            // unknown here.
            return Output::effects(effects);
        }
        let ended = Ended {
            gtid: self.gtid,
            protocol: Protocol::TwoPhase,
            outcome,
            has_open_row: self.has_open_row,
            begun_at_ms: self.begun_at_ms,
            digest: self.digest.unwrap_or(NO_REQUEST),
            reason: self.reason.as_ref().map(AbortReason::to_line),
            branches: self.ended_branches(),
            outputs: Vec::new(),
        };
        Output::effects(effects).with_lazy(Record::Ended(ended))
    }
}
