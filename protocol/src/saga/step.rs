//! How far one step has come.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::definition::StepIndex;
use super::event::Timer;
use crate::ids::InstanceId;

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) enum Progress {
    /// This machine has not sent its action.
    Waiting,
    /// An attempt of the action is over without an answer, and the next one goes out as soon as it
    /// may; after the turn, never.
    ActionDue,
    /// An attempt of the action is in flight; its timeout is set.
    Executing {
        /// Where the driver sent it, if it said so.
        sent_to: Option<InstanceId>,
    },
    /// The wait before the next attempt of the action; its retry timer is set.
    ActionRetry {
        /// Whether the participant could not be reached, so that its return ends the wait.
        unreachable: bool,
    },
    /// The action took effect, and its record has to be durable before the steps behind it start.
    Recording,
    /// The action took effect.
    Completed,
    /// The action was refused.
    Refused,
    /// An attempt of the compensation is over without an answer, and the next one goes out as soon
    /// as it may.
    CompensationDue,
    /// An attempt of the compensation is in flight; its timeout is set.
    Compensating {
        /// Where the driver sent it, if it said so.
        sent_to: Option<InstanceId>,
    },
    /// The wait before the next attempt of the compensation; its retry timer is set.
    CompensationRetry {
        /// Whether the participant could not be reached, so that its return ends the wait.
        unreachable: bool,
    },
    /// The compensation cannot succeed without a human.
    Stuck,
    /// The effect was undone, or prevented.
    Compensated,
}

/// One step's state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Step {
    /// Where it stands.
    pub(super) progress: Progress,
    /// The number of the last attempt, of the action or, once its compensation began, of that. Zero
    /// before the first.
    pub(super) attempt: u32,
    /// Attempts that count against the retry policy.
    pub(super) failed: u32,
    /// Attempts in a row that brought no answer: what the next wait grows with.
    pub(super) unanswered: u32,
    /// Some attempt of the action has no known outcome: this machine's, or one that may have been
    /// sent before a restart. Such an attempt may still arrive and act, until a compensation closes
    /// the barrier behind it.
    pub(super) in_doubt: bool,
    /// The same of an attempt before the last one. Only the last attempt's answer is heard, and
    /// alone it says nothing of those before it.
    pub(super) earlier_in_doubt: bool,
    /// Who did the action.
    pub(super) instance: Option<InstanceId>,
    /// What the action gave back.
    pub(super) output: Option<Bytes>,
    /// The last thing that went wrong.
    pub(super) last_error: Option<String>,
}

impl Step {
    /// One that nobody has heard of.
    pub(super) const fn new() -> Self {
        Self {
            progress: Progress::Waiting,
            attempt: 0,
            failed: 0,
            unanswered: 0,
            in_doubt: false,
            earlier_in_doubt: false,
            instance: None,
            output: None,
            last_error: None,
        }
    }

    /// Whether nothing of the action is left, and nothing can come any more: it was never sent, was
    /// undone, or was refused, finally or at its only attempt.
    pub(super) const fn is_settled(&self) -> bool {
        match self.progress {
            Progress::Waiting | Progress::ActionDue | Progress::ActionRetry { .. } | Progress::Refused => {
                !self.in_doubt
            }
            Progress::Compensated => true,
            Progress::Executing { .. }
            | Progress::Recording
            | Progress::Completed
            | Progress::CompensationDue
            | Progress::Compensating { .. }
            | Progress::CompensationRetry { .. }
            | Progress::Stuck => false,
        }
    }

    /// Whether the action took effect and still has it, for all that is known.
    pub(super) const fn is_done(&self) -> bool {
        match self.progress {
            Progress::Recording | Progress::Completed => true,
            Progress::Waiting
            | Progress::ActionDue
            | Progress::Executing { .. }
            | Progress::ActionRetry { .. }
            | Progress::Refused
            | Progress::CompensationDue
            | Progress::Compensating { .. }
            | Progress::CompensationRetry { .. }
            | Progress::Stuck
            | Progress::Compensated => false,
        }
    }

    /// Whether the action may have taken effect, and nobody knows yet.
    pub(super) const fn is_undecided(&self) -> bool {
        match self.progress {
            Progress::Executing { .. } => true,
            Progress::Waiting | Progress::ActionDue | Progress::ActionRetry { .. } => self.in_doubt,
            Progress::Recording
            | Progress::Completed
            | Progress::Refused
            | Progress::CompensationDue
            | Progress::Compensating { .. }
            | Progress::CompensationRetry { .. }
            | Progress::Stuck
            | Progress::Compensated => false,
        }
    }

    /// The one timer that is set in this state.
    pub(super) const fn timer(&self, step: StepIndex) -> Option<Timer> {
        let attempt = self.attempt;
        match self.progress {
            Progress::Executing { .. } => Some(Timer::Attempt { step, compensation: false, attempt }),
            Progress::ActionRetry { .. } => Some(Timer::Retry { step, compensation: false, attempt }),
            Progress::Compensating { .. } => Some(Timer::Attempt { step, compensation: true, attempt }),
            Progress::CompensationRetry { .. } => Some(Timer::Retry { step, compensation: true, attempt }),
            Progress::Waiting
            | Progress::ActionDue
            | Progress::Recording
            | Progress::Completed
            | Progress::Refused
            | Progress::CompensationDue
            | Progress::Stuck
            | Progress::Compensated => None,
        }
    }
}
