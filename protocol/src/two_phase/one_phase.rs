//! One-phase: the coordinator delegates the decision to the only branch, and recalls the
//! delegation.

use super::machine::NO_REQUEST;
use super::{BranchResult, BranchState, Effect, State, TwoPhase, Vote};
use crate::durable::{Appended, Output};
use crate::ids::InstanceId;
use crate::reason::{AbortCode, AbortReason};
use crate::record::{Decision, Delegated, Outcome, Record};

impl TwoPhase {
    /// Leaves the decision to the only branch that was named: once that is durable, the branch is
    /// ordered to commit by itself.
    pub(super) fn delegate(&mut self) -> Output<Effect> {
        let Some(only) = self.branches.iter().find(|branch| branch.state == BranchState::Named) else {
            return Output::none();
        };
        let record = Record::Delegated(Delegated {
            gtid: self.gtid,
            member: only.member(),
            digest: self.digest.unwrap_or(NO_REQUEST),
            begun_at_ms: self.begun_at_ms,
        });
        self.state = State::Delegating;
        // The order is not sealed behind the record: were it, a deadline that passes meanwhile
        // could not stop it. It leaves with the receipt, in `delegation_appended`.
        Output::after(record, Vec::new())
    }

    /// The log has answered the delegation.
    pub(super) fn delegation_appended(&mut self, appended: &Appended) -> Output<Effect> {
        match appended {
            Appended::Durable(receipt) if receipt.gtid() != self.gtid => Output::none(),
            Appended::Undecided => Output::none(),
            Appended::Durable(_) => {
                (self.has_open_row, self.is_delegated) = (true, true);
                if self.reason.is_some() {
                    // The branch was not asked, and is not: but the row is there, and only the log
                    // takes it back.
                    return self.decide(Decision::Abort);
                }
                self.state = State::OnePhase;
                Output::effects(self.ask(true))
            }
            Appended::Overruled { decision, members } => self.overruled(*decision, members),
        }
    }

    pub(super) fn one_phase_answered(&mut self, position: usize, instance: InstanceId, vote: Vote) -> Output<Effect> {
        let branch = &mut self.branches[position];
        if branch.state != BranchState::Asked {
            return Output::none();
        }
        let was_asked_elsewhere = self.was_asked_elsewhere || branch.instance.is_some_and(|asked| asked != instance);
        branch.instance = Some(instance);
        match vote {
            Vote::Committed => {
                branch.state = BranchState::Committed;
                self.end_delegation(Outcome::Committed)
            }
            Vote::ReadOnly => {
                // It keeps nothing by which it could tell once more: recalled, it would acknowledge
                // an abort.
                branch.state = BranchState::ReadOnly;
                self.decide(Decision::Commit)
            }
            Vote::No(message) => {
                self.reason = Some(AbortReason::by(AbortCode::Refused, &branch.participant, message));
                if was_asked_elsewhere {
                    return self.recall();
                }
                branch.state = BranchState::No;
                self.end_delegation(Outcome::Aborted)
            }
            Vote::Yes => {
                branch.state = BranchState::Yes;
                self.state = State::Preparing;
                self.decide_if_all_voted()
            }
            // It may have committed: only the participant can tell, so it is asked again.
            Vote::Unknown(_) => Output::effects(vec![self.resend_timer()]),
        }
    }

    /// Whether the only branch cannot have committed by itself: it was not asked.
    pub(super) fn was_never_asked(&self) -> bool {
        self.branches.iter().all(|branch| branch.state != BranchState::Asked)
    }

    /// The only branch may have committed by itself, or may still do so: the machine orders it to
    /// abort, and it tells.
    fn recall(&mut self) -> Output<Effect> {
        self.state = State::Recalling;
        self.resends = 0;
        Output::effects(self.orders())
    }

    /// The only branch has obeyed the order to abort, or tells that it is too late.
    pub(super) fn recalled(&mut self, position: usize, result: BranchResult) -> Output<Effect> {
        let branch = &mut self.branches[position];
        if !branch.state.needs_order() {
            return Output::none();
        }
        match result {
            BranchResult::HeuristicCommitted => {
                branch.state = BranchState::Committed;
                self.end_delegation(Outcome::Committed)
            }
            BranchResult::Done | BranchResult::HeuristicAborted => {
                branch.state = BranchState::Aborted;
                self.end_delegation(Outcome::Aborted)
            }
        }
    }

    /// The only branch has told how the transaction ended. It tells the same whenever it is asked,
    /// and the delegation stands in the log until the end does, so nothing more has to be durable
    /// before others are told.
    pub(super) fn end_delegation(&mut self, outcome: Outcome) -> Output<Effect> {
        if outcome == Outcome::Committed {
            self.reason = None;
        }
        self.end(outcome, Vec::new())
    }
}
