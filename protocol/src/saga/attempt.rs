//! One attempt of an action or a compensation: sent, answered, lost, timed out, due again.

use super::definition::{StepIndex, StepResult};
use super::effect::Effect;
use super::event::{CONNECTION_LOST, NOT_CONNECTED, OUTPUT_TOO_LARGE, TIMED_OUT, Timer};
use super::machine::{Draft, Saga, Stage};
use super::step::Progress;
use crate::durable::Output;
use crate::ids::{InstanceId, ParticipantName};

/// How an attempt ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure<'a> {
    /// It was never sent: no effect, and no attempt in the eyes of the retry policy.
    NotSent,
    /// Its session broke.
    Lost,
    /// Its time ran out.
    TimedOut,
    /// The participant itself does not know.
    Unknown(&'a str),
}

impl Failure<'_> {
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::NotSent => NOT_CONNECTED,
            Self::Lost => CONNECTION_LOST,
            Self::TimedOut => TIMED_OUT,
            Self::Unknown(reason) => reason,
        }
    }

    /// Whether the participant may have received it.
    pub(super) const fn was_sent(&self) -> bool {
        match self {
            Self::NotSent => false,
            Self::Lost | Self::TimedOut | Self::Unknown(_) => true,
        }
    }

    /// Whether another attempt would end in the same way, whatever the retry policy says.
    pub(super) fn is_hopeless(&self) -> bool {
        match self {
            Self::Unknown(reason) => reason.starts_with(OUTPUT_TOO_LARGE),
            Self::NotSent | Self::Lost | Self::TimedOut => false,
        }
    }

    /// Whether the participant's return is worth an attempt before the wait is over.
    pub(super) const fn was_unreachable(&self) -> bool {
        match self {
            Self::NotSent | Self::Lost => true,
            Self::TimedOut | Self::Unknown(_) => false,
        }
    }
}

impl Saga {
    pub(super) fn answered(
        &mut self,
        step: StepIndex,
        compensation: bool,
        attempt: u32,
        instance: InstanceId,
        result: StepResult,
        is_final: bool,
    ) -> Output<Effect> {
        match self.stage() {
            // Nothing was sent yet, or everything is answered.
            Stage::Starting | Stage::Ending | Stage::Ended | Stage::Overruled => return Output::none(),
            // No compensation was sent yet.
            Stage::Turning if compensation => return Output::none(),
            Stage::Turning
            | Stage::Running
            | Stage::Deciding
            | Stage::Compensating
            | Stage::PausedRunning
            | Stage::PausedCompensating => {}
        }
        if !self.is_last_attempt(step, attempt) {
            return Output::none();
        }
        // An answer that comes after its attempt timed out is as good as one in time, as long as no
        // other attempt was sent.
        let (is_open, is_in_flight) = match self.step(step).progress {
            Progress::Executing { .. } => (!compensation, true),
            // Unless nothing was ever sent.
            Progress::ActionRetry { .. } | Progress::ActionDue => (!compensation && self.step(step).in_doubt, false),
            Progress::Compensating { .. } => (compensation, true),
            Progress::CompensationRetry { .. } | Progress::CompensationDue => (compensation, false),
            Progress::Waiting
            | Progress::Recording
            | Progress::Completed
            | Progress::Refused
            | Progress::Stuck
            | Progress::Compensated => (false, false),
        };
        if !is_open {
            return Output::none();
        }
        let result = match result {
            StepResult::Refused(reason) if !compensation && !self.may_believe_refusal(step, is_final) => {
                StepResult::Unknown(format!("it was refused, and an earlier attempt may still take effect: {reason}"))
            }
            StepResult::Done(_) | StepResult::Refused(_) | StepResult::Unknown(_) => result,
        };
        let mut draft = Draft::default();
        match (result, compensation) {
            (StepResult::Unknown(_), _) if !is_in_flight => return Output::none(), // it already counts as unknown
            (StepResult::Unknown(reason), _) => self.failed(step, Failure::Unknown(&reason), &mut draft),
            (StepResult::Done(output), false) => self.action_done(step, instance, output, &mut draft),
            (StepResult::Refused(reason), false) => self.action_refused(step, &reason, is_final, &mut draft),
            (StepResult::Done(output), true) => self.compensation_done(step, output, &mut draft),
            (StepResult::Refused(reason), true) => self.compensation_refused(step, &reason, &mut draft),
        }
        self.advance(draft)
    }

    pub(super) fn sent(
        &mut self,
        step: StepIndex,
        compensation: bool,
        attempt: u32,
        instance: InstanceId,
    ) -> Output<Effect> {
        match self.stage() {
            Stage::Ending | Stage::Ended | Stage::Overruled => return Output::none(),
            Stage::Starting
            | Stage::Running
            | Stage::Deciding
            | Stage::Turning
            | Stage::Compensating
            | Stage::PausedRunning
            | Stage::PausedCompensating => {}
        }
        if self.is_last_attempt(step, attempt) {
            match &mut self.step_mut(step).progress {
                Progress::Executing { sent_to } if !compensation => *sent_to = Some(instance),
                Progress::Compensating { sent_to } if compensation => *sent_to = Some(instance),
                Progress::Executing { .. }
                | Progress::Compensating { .. }
                | Progress::Waiting
                | Progress::ActionDue
                | Progress::ActionRetry { .. }
                | Progress::Recording
                | Progress::Completed
                | Progress::Refused
                | Progress::CompensationDue
                | Progress::CompensationRetry { .. }
                | Progress::Stuck
                | Progress::Compensated => {}
            }
        }
        Output::none()
    }

    pub(super) fn undeliverable(&mut self, step: StepIndex, compensation: bool, attempt: u32) -> Output<Effect> {
        match self.stage() {
            Stage::Ending | Stage::Ended | Stage::Overruled => return Output::none(),
            Stage::Starting
            | Stage::Running
            | Stage::Deciding
            | Stage::Turning
            | Stage::Compensating
            | Stage::PausedRunning
            | Stage::PausedCompensating => {}
        }
        let is_in_flight = self.is_last_attempt(step, attempt)
            && self.step(step).timer(step) == Some(Timer::Attempt { step, compensation, attempt });
        if !is_in_flight {
            return Output::none();
        }
        let mut draft = Draft::default();
        self.failed(step, Failure::NotSent, &mut draft);
        self.advance(draft)
    }

    pub(super) fn joined(&mut self, participant: &ParticipantName) -> Output<Effect> {
        match self.stage() {
            // Nothing waits for a retry: not sent yet, held until it is resumed, or over.
            Stage::Starting
            | Stage::PausedRunning
            | Stage::PausedCompensating
            | Stage::Ending
            | Stage::Ended
            | Stage::Overruled => return Output::none(),
            Stage::Running | Stage::Deciding | Stage::Turning | Stage::Compensating => {}
        }
        let mut draft = Draft::default();
        for index in self.indices() {
            if self.definition.step(index).participant != *participant {
                continue;
            }
            let due = match self.step(index).progress {
                Progress::ActionRetry { unreachable: true } => Progress::ActionDue,
                Progress::CompensationRetry { unreachable: true } => Progress::CompensationDue,
                Progress::ActionRetry { unreachable: false }
                | Progress::CompensationRetry { unreachable: false }
                | Progress::Waiting
                | Progress::ActionDue
                | Progress::Executing { .. }
                | Progress::Recording
                | Progress::Completed
                | Progress::Refused
                | Progress::CompensationDue
                | Progress::Compensating { .. }
                | Progress::Stuck
                | Progress::Compensated => continue,
            };
            self.cancel_timer(index, &mut draft);
            let step = self.step_mut(index);
            step.progress = due;
            step.unanswered = 0;
        }
        self.advance(draft)
    }

    pub(super) fn left(&mut self, participant: &ParticipantName, instance: InstanceId) -> Output<Effect> {
        match self.stage() {
            Stage::Ending | Stage::Ended | Stage::Overruled => return Output::none(),
            Stage::Starting
            | Stage::Running
            | Stage::Deciding
            | Stage::Turning
            | Stage::Compensating
            | Stage::PausedRunning
            | Stage::PausedCompensating => {}
        }
        let mut draft = Draft::default();
        for index in self.indices() {
            if self.definition.step(index).participant != *participant {
                continue;
            }
            let step = self.step_mut(index);
            step.instance = step.instance.filter(|done_by| *done_by != instance);
            let is_lost = match step.progress {
                Progress::Executing { sent_to } | Progress::Compensating { sent_to } => sent_to == Some(instance),
                Progress::Waiting
                | Progress::ActionDue
                | Progress::ActionRetry { .. }
                | Progress::Recording
                | Progress::Completed
                | Progress::Refused
                | Progress::CompensationDue
                | Progress::CompensationRetry { .. }
                | Progress::Stuck
                | Progress::Compensated => false,
            };
            if is_lost {
                self.failed(index, Failure::Lost, &mut draft);
            }
        }
        self.advance(draft)
    }

    pub(super) fn timer_fired(&mut self, timer: Timer) -> Output<Effect> {
        match self.stage() {
            // No timer is set any more.
            Stage::Ending | Stage::Ended | Stage::Overruled => return Output::none(),
            Stage::Starting
            | Stage::Running
            | Stage::Deciding
            | Stage::Turning
            | Stage::Compensating
            | Stage::PausedRunning
            | Stage::PausedCompensating => {}
        }
        let (Timer::Attempt { step, .. } | Timer::Retry { step, .. }) = timer;
        if usize::from(step.0) >= self.steps.len() || self.step(step).timer(step) != Some(timer) {
            return Output::none();
        }
        let mut draft = Draft::default();
        match timer {
            Timer::Attempt { .. } => self.failed_without_timer(step, Failure::TimedOut, &mut draft),
            Timer::Retry { compensation: false, .. } => self.step_mut(step).progress = Progress::ActionDue,
            Timer::Retry { compensation: true, .. } => self.step_mut(step).progress = Progress::CompensationDue,
        }
        self.advance(draft)
    }

    /// Whether the step exists and this is the number of its last attempt.
    fn is_last_attempt(&self, step: StepIndex, attempt: u32) -> bool {
        self.steps.get(usize::from(step.0)).is_some_and(|step| attempt > 0 && step.attempt == attempt)
    }

    /// The attempt in flight is over without an answer.
    fn failed(&mut self, index: StepIndex, failure: Failure<'_>, draft: &mut Draft) {
        self.cancel_timer(index, draft);
        self.failed_without_timer(index, failure, draft);
    }

    fn failed_without_timer(&mut self, index: StepIndex, failure: Failure<'_>, draft: &mut Draft) {
        match self.step(index).progress {
            Progress::Executing { .. } => self.action_failed(index, failure, draft),
            Progress::Compensating { .. } => self.compensation_failed(index, failure, draft),
            Progress::Waiting
            | Progress::ActionDue
            | Progress::ActionRetry { .. }
            | Progress::Recording
            | Progress::Completed
            | Progress::Refused
            | Progress::CompensationDue
            | Progress::CompensationRetry { .. }
            | Progress::Stuck
            | Progress::Compensated => {} // no attempt is in flight
        }
    }

    /// Cancels the timer that the step's state implies; to be called before that state is left.
    pub(super) fn cancel_timer(&self, index: StepIndex, draft: &mut Draft) {
        if let Some(timer) = self.step(index).timer(index) {
            draft.effects.push(Effect::CancelTimer { timer });
        }
    }

    /// Makes every waiting retry due, and its timer void.
    pub(super) fn end_retry_waits(&mut self, draft: &mut Draft) {
        for index in self.indices() {
            let due = match self.step(index).progress {
                Progress::ActionRetry { .. } => Progress::ActionDue,
                Progress::CompensationRetry { .. } => Progress::CompensationDue,
                Progress::Waiting
                | Progress::ActionDue
                | Progress::Executing { .. }
                | Progress::Recording
                | Progress::Completed
                | Progress::Refused
                | Progress::CompensationDue
                | Progress::Compensating { .. }
                | Progress::Stuck
                | Progress::Compensated => continue,
            };
            self.cancel_timer(index, draft);
            self.step_mut(index).progress = due;
        }
    }
}
