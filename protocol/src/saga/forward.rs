//! The way forward: what starts when, which results are forced, and what an action's answer leads
//! to.

use bytes::Bytes;

use super::attempt::Failure;
use super::definition::{StepIndex, StepResult};
use super::effect::Effect;
use super::event::Timer;
use super::machine::{Draft, Phase, Saga, cut};
use super::step::{Progress, Step};
use crate::durable::Output;
use crate::ids::{InstanceId, Name};
use crate::record::{Outcome, Record, SagaStep};

impl Saga {
    /// Does what may be done on the way forward, in the order of what is more urgent.
    pub(super) fn go_forward(&mut self, mut draft: Draft) -> Output<Effect> {
        if self.is_past_pivot() {
            self.drop_wish_to_turn(&mut draft);
            self.pause_if_stuck(&mut draft);
        }
        let may_decide = self.recording.is_none() && self.paused.is_none();
        if may_decide && !self.has_undecided_pivot() {
            if let Some(reason) = self.wanted.take() {
                return self.turn(reason, draft);
            }
            if self.steps.iter().all(Step::is_done) {
                return self.end(Outcome::Completed, draft);
            }
        }
        let recording = match self.recording {
            Some(_) => None, // one forced record at a time: this one's answer brings the next
            None => self.indices().find(|index| self.step(*index).progress == Progress::Recording),
        };
        if self.paused.is_none() {
            self.execute_due(recording, &mut draft);
        }
        match recording {
            None => draft.free(),
            Some(index) => {
                self.recording = Some(index);
                self.seal(draft, self.done_record(index))
            }
        }
    }

    /// Sends every action that is due. Dependencies have to be complete, where `recording`, whose
    /// record is going to be forced by this very output, counts as such: what it sets free is held
    /// behind the record.
    pub(super) fn execute_due(&mut self, recording: Option<StepIndex>, draft: &mut Draft) {
        for index in self.indices() {
            let definition = self.definition.step(index);
            let step = self.step(index);
            let is_due = match step.progress {
                Progress::Waiting | Progress::ActionDue => true,
                Progress::Executing { .. }
                | Progress::ActionRetry { .. }
                | Progress::Recording
                | Progress::Completed
                | Progress::Refused
                | Progress::CompensationDue
                | Progress::Compensating { .. }
                | Progress::CompensationRetry { .. }
                | Progress::Stuck
                | Progress::Compensated => false,
            };
            // A saga that is to turn back starts nothing, but has to learn what became of a pivot.
            let is_wanted = self.wanted.is_none() || (definition.pivot && step.in_doubt);
            let is_ready = is_due
                && is_wanted
                && definition
                    .after
                    .iter()
                    .all(|after| self.step(*after).progress == Progress::Completed || Some(*after) == recording);
            if is_ready {
                self.execute(index, draft);
            }
        }
    }

    fn execute(&mut self, index: StepIndex, draft: &mut Draft) {
        let step = self.step_mut(index);
        step.attempt = step.attempt.saturating_add(1);
        step.earlier_in_doubt = step.in_doubt;
        step.progress = Progress::Executing { sent_to: None };
        let attempt = step.attempt;
        let definition = self.definition.step(index);
        let mut outputs: Vec<(Name, Bytes)> = Vec::with_capacity(definition.after.len());
        for (position, after) in definition.after.iter().enumerate() {
            if definition.after[..position].contains(after) {
                continue; // named twice, handed over once
            }
            let output = self.step(*after).output.clone().unwrap_or_default();
            outputs.push((self.definition.step(*after).name.clone(), output));
        }
        // Before the message: an attempt that turns out to be undeliverable has its timer
        // cancelled.
        draft.effects.push(Effect::SetTimer {
            timer: Timer::Attempt { step: index, compensation: false, attempt },
            after_ms: definition.retry.attempt_timeout_ms,
            jitter: false,
        });
        draft.effects.push(Effect::Execute {
            step: index,
            name: definition.name.clone(),
            to: definition.participant.clone(),
            prefer: None,
            attempt,
            input: definition.input.clone(),
            outputs,
            pivot: definition.pivot,
        });
    }

    pub(super) fn action_done(&mut self, index: StepIndex, instance: InstanceId, output: Bytes, draft: &mut Draft) {
        self.cancel_timer(index, draft);
        let is_forced = match self.phase {
            Phase::Running => self.is_forced(index),
            // Nothing will start on the strength of it.
            Phase::Starting
            | Phase::Turning
            | Phase::Compensating
            | Phase::Ending { .. }
            | Phase::Ended(_)
            | Phase::Overruled(_) => false,
        };
        let step = self.step_mut(index);
        step.instance = Some(instance);
        step.output = Some(output);
        if is_forced {
            step.progress = Progress::Recording;
        } else {
            step.progress = Progress::Completed;
            draft.lazy.push(self.done_record(index));
        }
    }

    /// Whether a refusal of the last attempt may be acted upon. Behind a refused pivot the saga
    /// turns back and compensates everything but the pivot, so the refusal has to speak for every
    /// attempt. Past a completed pivot nothing turns, and any other step can be compensated.
    pub(super) fn may_believe_refusal(&self, index: StepIndex, is_final: bool) -> bool {
        let speaks_for_all = is_final || !self.step(index).earlier_in_doubt;
        speaks_for_all || !self.definition.step(index).pivot || self.is_past_pivot()
    }

    pub(super) fn action_refused(&mut self, index: StepIndex, reason: &str, is_final: bool, draft: &mut Draft) {
        self.cancel_timer(index, draft);
        let reason = cut(reason);
        let step = self.step_mut(index);
        step.progress = Progress::Refused;
        step.in_doubt = step.earlier_in_doubt && !is_final;
        step.last_error = Some(reason.clone());
        let attempt = step.attempt;
        if !step.in_doubt {
            self.clear_doubts_behind(index);
        }
        let result = StepResult::Refused(reason);
        draft.lazy.push(self.step_record(index, false, attempt, result));
        match self.phase {
            Phase::Running => self.want_turn_after_refusal(index),
            Phase::Starting
            | Phase::Turning
            | Phase::Compensating
            | Phase::Ending { .. }
            | Phase::Ended(_)
            | Phase::Overruled(_) => {}
        }
    }

    /// A step that is refused for all its attempts was never done, so no coordinator has sent a
    /// step behind it.
    fn clear_doubts_behind(&mut self, refused: StepIndex) {
        let mut behind = vec![false; self.steps.len()];
        behind[usize::from(refused.0)] = true;
        for index in self.indices().skip(usize::from(refused.0) + 1) {
            if self.definition.step(index).after.iter().any(|after| behind[usize::from(after.0)]) {
                behind[usize::from(index.0)] = true;
                self.step_mut(index).in_doubt = false;
            }
        }
    }

    /// An attempt of an action is over without an answer, and its timer is gone.
    pub(super) fn action_failed(&mut self, index: StepIndex, failure: Failure<'_>, draft: &mut Draft) {
        let is_past_pivot = self.is_past_pivot();
        let step = self.step_mut(index);
        step.last_error = Some(cut(failure.reason()));
        step.progress = Progress::ActionDue;
        step.unanswered = step.unanswered.saturating_add(1);
        if failure.was_sent() {
            step.in_doubt = true;
            step.failed = step.failed.saturating_add(1);
        }
        let (in_doubt, failed) = (step.in_doubt, step.failed);
        match self.phase {
            Phase::Starting | Phase::Running if self.paused.is_some() => return, // the budget is fresh when it is resumed
            // While starting, the driver may find the root steps undeliverable before it tells of
            // the receipt.
            Phase::Starting | Phase::Running => {}
            // It is compensated instead.
            Phase::Turning | Phase::Compensating | Phase::Ending { .. } | Phase::Ended(_) | Phase::Overruled(_) => {
                return;
            }
        }
        let definition = self.definition.step(index);
        // Behind a completed pivot, and for a pivot that may have taken effect, giving up is not
        // among the choices.
        let must_go_on = is_past_pivot || (definition.pivot && in_doubt);
        let may_go_on =
            !failure.was_sent() || (definition.retry.allows(failed, failure.reason()) && !failure.is_hopeless());
        if must_go_on || (may_go_on && self.wanted.is_none()) {
            self.retry_action(index, failure.was_unreachable(), draft);
        } else if !may_go_on {
            self.want_turn_after_failures(index);
        }
    }

    fn retry_action(&mut self, index: StepIndex, unreachable: bool, draft: &mut Draft) {
        let step = self.step_mut(index);
        step.progress = Progress::ActionRetry { unreachable };
        let (attempt, unanswered) = (step.attempt, step.unanswered);
        draft.effects.push(Effect::SetTimer {
            timer: Timer::Retry { step: index, compensation: false, attempt },
            after_ms: self.definition.step(index).retry.interval_ms(unanswered),
            jitter: true,
        });
    }

    /// Whether a pivot took effect: from here on there is only forward.
    pub(super) fn is_past_pivot(&self) -> bool {
        self.pivots().any(Step::is_done)
    }

    /// Whether a pivot may have taken effect, and only its answer can tell.
    pub(super) fn has_undecided_pivot(&self) -> bool {
        self.pivots().any(Step::is_undecided)
    }

    fn pivots(&self) -> impl Iterator<Item = &Step> {
        self.definition.steps().iter().zip(&self.steps).filter(|(definition, _)| definition.pivot).map(|(_, step)| step)
    }

    /// Whether a step's result is durable before anything starts on the strength of it: where its
    /// definition says so, and where it lets a pivot start.
    ///
    /// The second is what keeps a saga abortable over a restart. A recovered coordinator has to
    /// know whether a pivot may have been sent, since such a pivot must be asked before the saga
    /// may turn. Were the results before it lazy, a crash could lose them, and every pivot would be
    /// suspect after every restart.
    pub(super) fn is_forced(&self, index: StepIndex) -> bool {
        self.definition.step(index).durable
            || self.definition.steps().iter().any(|step| step.pivot && step.after.contains(&index))
    }

    /// The record of a done action.
    pub(super) fn done_record(&self, index: StepIndex) -> Record {
        let step = self.step(index);
        self.step_record(index, false, step.attempt, StepResult::Done(step.output.clone().unwrap_or_default()))
    }

    pub(super) fn step_record(&self, step: StepIndex, compensation: bool, attempt: u32, result: StepResult) -> Record {
        Record::SagaStep(SagaStep { gtid: self.gtid, step, compensation, attempt, result })
    }
}
