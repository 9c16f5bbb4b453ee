//! Turning back: who may cause it, when it is safe, and what happens to actions in flight.
//!
//! # Actions in flight
//! A turn does not compensate an action that is in flight: it waits until the attempt is answered,
//! times out or loses its session, and makes no other attempt. Only then, with the outcome known or
//! unknown for good, the step is compensated, or left alone if it was refused. Both ways keep I10,
//! since the barrier makes an action do nothing after its compensation; but compensating at once
//! would lean on the barrier in every turn instead of only after a failure, would run an action and
//! its own compensation side by side at the participant, and would ask to undo without the output
//! that says what to undo. The price is that the steps *before* such an action wait for it, one
//! attempt's timeout at most; steps of other branches do not.

use super::definition::StepIndex;
use super::effect::{Effect, Reply};
use super::machine::{Draft, Phase, Saga};
use super::step::{Progress, Step};
use crate::durable::Output;
use crate::reason::{AbortCode, AbortReason};
use crate::record::{Outcome, Record, SagaTurned};

impl Saga {
    pub(super) fn want_turn_after_refusal(&mut self, index: StepIndex) {
        let error = self.step(index).last_error.as_deref().unwrap_or_default();
        self.want_turn_for(index, &format!("was refused: {error}"));
    }

    pub(super) fn want_turn_after_failures(&mut self, index: StepIndex) {
        let step = self.step(index);
        let (failed, error) = (step.failed, step.last_error.as_deref().unwrap_or_default());
        self.want_turn_for(index, &format!("has no known outcome after {failed} attempts, the last for: {error}"));
    }

    fn want_turn_for(&mut self, index: StepIndex, what: &str) {
        let definition = self.definition.step(index);
        let message = format!("step {} {what}", definition.name);
        self.want_turn(AbortReason::by(AbortCode::StepFailed, &definition.participant, message).to_line());
    }

    /// The first reason is the one that counts.
    pub(super) fn want_turn(&mut self, reason: String) {
        self.wanted.get_or_insert(reason);
    }

    /// A pivot took effect, so there is no way back. Steps that had used up their policies are due
    /// again.
    pub(super) fn drop_wish_to_turn(&mut self, draft: &mut Draft) {
        self.wanted = None;
        draft.reply_all(std::mem::take(&mut self.callers.turned), &Reply::PastPivot);
    }

    /// Turns back. No pivot has taken effect or may have, and no record is in flight.
    pub(super) fn turn(&mut self, reason: String, mut draft: Draft) -> Output<Effect> {
        self.end_retry_waits(&mut draft);
        for index in self.indices() {
            if self.step(index).progress == Progress::Recording {
                // Its record was to be forced before others start; none will.
                self.step_mut(index).progress = Progress::Completed;
                draft.lazy.push(self.done_record(index));
            }
        }
        self.turned = Some(reason.clone());
        if self.steps.iter().all(Step::is_settled) {
            // Nobody will be asked to undo anything, so the outcome is all that has to be durable.
            return self.end(Outcome::Compensated, draft);
        }
        self.phase = Phase::Turning;
        draft.reply_all(std::mem::take(&mut self.callers.turned), &Reply::Compensating { reason: reason.clone() });
        self.compensate_ready(&mut draft);
        self.seal(draft, Record::SagaTurned(SagaTurned { gtid: self.gtid, reason }))
    }
}
