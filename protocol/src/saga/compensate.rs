//! The way back: each step after all that depend on it, independent ones at once.

use bytes::Bytes;

use super::attempt::Failure;
use super::definition::{StepIndex, StepResult};
use super::effect::Effect;
use super::event::Timer;
use super::machine::{Draft, Phase, Saga, cut};
use super::step::{Progress, Step};
use crate::durable::Output;
use crate::record::Outcome;

impl Saga {
    /// Does what may be done on the way back. The turn is durable.
    pub(super) fn go_back(&mut self, mut draft: Draft) -> Output<Effect> {
        self.pause_if_stuck(&mut draft);
        if self.paused.is_some() {
            return draft.free();
        }
        if self.steps.iter().all(Step::is_settled) {
            return self.end(Outcome::Compensated, draft);
        }
        self.compensate_ready(&mut draft);
        draft.free()
    }

    /// Asks for every compensation whose turn it is.
    ///
    /// A step waits for all steps behind it, not only for those right behind it: a step between
    /// them that was finally refused is settled at once, while what an earlier coordinator may have
    /// sent behind it is still being compensated.
    pub(super) fn compensate_ready(&mut self, draft: &mut Draft) {
        let mut blocked = vec![false; self.steps.len()];
        for index in self.indices().rev() {
            let step = self.step(index);
            if !step.is_settled() || blocked[usize::from(index.0)] {
                for after in &self.definition.step(index).after {
                    blocked[usize::from(after.0)] = true;
                }
            }
            let is_due = match step.progress {
                Progress::Recording | Progress::Completed | Progress::CompensationDue => true,
                // What had no answer may have taken effect, or may yet; the compensation closes the
                // barrier behind it. So it is with a refusal after earlier attempts that never
                // answered.
                Progress::Waiting | Progress::ActionDue | Progress::ActionRetry { .. } | Progress::Refused => {
                    step.in_doubt
                }
                Progress::Executing { .. }
                | Progress::Compensating { .. }
                | Progress::CompensationRetry { .. }
                | Progress::Stuck
                | Progress::Compensated => false,
            };
            if is_due && !blocked[usize::from(index.0)] {
                self.compensate(index, draft);
            }
        }
    }

    fn compensate(&mut self, index: StepIndex, draft: &mut Draft) {
        let step = self.step_mut(index);
        if step.progress != Progress::CompensationDue {
            // From the action's counts to the compensation's.
            step.attempt = 0;
            step.failed = 0;
            step.unanswered = 0;
        }
        step.attempt = step.attempt.saturating_add(1);
        step.progress = Progress::Compensating { sent_to: None };
        let (attempt, prefer, output) = (step.attempt, step.instance, step.output.clone());
        let definition = self.definition.step(index);
        draft.effects.push(Effect::SetTimer {
            timer: Timer::Attempt { step: index, compensation: true, attempt },
            after_ms: definition.compensation_retry.attempt_timeout_ms,
            jitter: false,
        });
        draft.effects.push(Effect::Compensate {
            step: index,
            name: definition.name.clone(),
            to: definition.participant.clone(),
            prefer,
            attempt,
            input: definition.input.clone(),
            output,
        });
    }

    pub(super) fn compensation_done(&mut self, index: StepIndex, output: Bytes, draft: &mut Draft) {
        self.cancel_timer(index, draft);
        let step = self.step_mut(index);
        step.progress = Progress::Compensated;
        let attempt = step.attempt;
        draft.lazy.push(self.step_record(index, true, attempt, StepResult::Done(output)));
    }

    pub(super) fn compensation_refused(&mut self, index: StepIndex, reason: &str, draft: &mut Draft) {
        self.cancel_timer(index, draft);
        let reason = cut(reason);
        let step = self.step_mut(index);
        step.progress = Progress::Stuck;
        step.last_error = Some(format!("the compensation was refused: {reason}"));
        let attempt = step.attempt;
        draft.lazy.push(self.step_record(index, true, attempt, StepResult::Refused(reason)));
    }

    /// An attempt of a compensation is over without an answer, and its timer is gone.
    pub(super) fn compensation_failed(&mut self, index: StepIndex, failure: Failure<'_>, draft: &mut Draft) {
        let step = self.step_mut(index);
        step.last_error = Some(cut(failure.reason()));
        step.unanswered = step.unanswered.saturating_add(1);
        if failure.was_sent() {
            step.failed = step.failed.saturating_add(1);
        }
        let (attempt, unanswered, failed) = (step.attempt, step.unanswered, step.failed);
        let policy = &self.definition.step(index).compensation_retry;
        let may_go_on = !failure.was_sent() || policy.allows(failed, failure.reason());
        let after_ms = policy.interval_ms(unanswered);
        let is_paused = self.paused.is_some();
        let step = self.step_mut(index);
        if is_paused {
            step.progress = Progress::CompensationDue; // the budget is fresh when it is resumed
        } else if may_go_on {
            step.progress = Progress::CompensationRetry { unreachable: failure.was_unreachable() };
            draft.effects.push(Effect::SetTimer {
                timer: Timer::Retry { step: index, compensation: true, attempt },
                after_ms,
                jitter: true,
            });
        } else {
            step.last_error = Some(format!(
                "the compensation was not answered in {failed} attempts, the last for: {}",
                cut(failure.reason())
            ));
            step.progress = Progress::Stuck;
        }
    }

    /// The steps that need a human: compensations that cannot succeed, and refusals behind a
    /// completed pivot.
    pub(super) fn stuck(&self) -> Vec<StepIndex> {
        let is_forward_only = match self.phase {
            Phase::Running => self.is_past_pivot(),
            Phase::Starting
            | Phase::Turning
            | Phase::Compensating
            | Phase::Ending { .. }
            | Phase::Ended(_)
            | Phase::Overruled(_) => false,
        };
        self.indices()
            .filter(|index| match self.step(*index).progress {
                Progress::Stuck => true,
                Progress::Refused => is_forward_only,
                Progress::Waiting
                | Progress::ActionDue
                | Progress::Executing { .. }
                | Progress::ActionRetry { .. }
                | Progress::Recording
                | Progress::Completed
                | Progress::CompensationDue
                | Progress::Compensating { .. }
                | Progress::CompensationRetry { .. }
                | Progress::Compensated => false,
            })
            .collect()
    }
}
