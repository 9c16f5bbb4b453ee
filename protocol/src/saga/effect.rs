//! What a saga asks for: the machine's outputs, beside the records.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::definition::StepIndex;
use super::event::Timer;
use crate::ids::{Caller, InstanceId, Name, ParticipantName};
use crate::record::{Decision, Outcome};

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Ask a participant for a step's action.
    Execute {
        /// Which step.
        step: StepIndex,
        /// The step's name.
        name: Name,
        /// Whom.
        to: ParticipantName,
        /// The instance to ask first, if it is connected.
        prefer: Option<InstanceId>,
        /// Which attempt, from 1.
        attempt: u32,
        /// The step's input.
        input: Bytes,
        /// The outputs of the steps it comes after, by their names, in the order in which the
        /// definition lists them.
        outputs: Vec<(Name, Bytes)>,
        /// Whether it is a pivot: once it is done there is only forward.
        pivot: bool,
    },
    /// Ask a participant to undo a step, or to see to it that the step never takes effect.
    Compensate {
        /// Which step.
        step: StepIndex,
        /// The step's name.
        name: Name,
        /// Whom.
        to: ParticipantName,
        /// The instance to ask first, if it is connected: the one that executed the action.
        prefer: Option<InstanceId>,
        /// Which attempt, from 1; counted apart from the action's.
        attempt: u32,
        /// The step's input, as the action had it.
        input: Bytes,
        /// The action's output; `None` where its outcome is unknown or it may never have arrived.
        output: Option<Bytes>,
    },
    /// Answer a caller.
    Reply {
        /// Whom.
        to: Caller,
        /// What.
        reply: Reply,
    },
    /// Let a [`Timer`] fire once.
    SetTimer {
        /// Which one. No other timer of that name is set.
        timer: Timer,
        /// When, in milliseconds from now; with `jitter` the driver draws the wait uniformly from
        /// zero to this.
        after_ms: u64,
        /// Whether the wait is drawn.
        jitter: bool,
    },
    /// The timer is not wanted any more. One that fires all the same changes nothing.
    CancelTimer {
        /// Which one.
        timer: Timer,
    },
}

/// What a caller is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The saga is durable and will end.
    Started,
    /// The saga has turned back, durably. To whoever asked for it.
    Compensating {
        /// Why it turned, as [`AbortReason::to_line`](crate::AbortReason::to_line) writes it. The
        /// first reason counts, which need not be this caller's.
        reason: String,
    },
    /// The saga has ended.
    Ended {
        /// How.
        outcome: Outcome,
        /// Why, where it was compensated, as [`AbortReason::to_line`](crate::AbortReason::to_line)
        /// writes it.
        reason: Option<String>,
        /// The outputs of its steps, by their names; empty where it was compensated.
        outputs: Vec<(Name, Bytes)>,
    },
    /// It cannot be undone any more: a pivot took effect. It goes on, and the caller may wait for
    /// the end.
    PastPivot,
    /// The gtid stands for another request's body (I11).
    KeyReused,
    /// The log holds another writer's word on this gtid, and this replica stopped driving it: ask
    /// again, and the log answers.
    Overruled {
        /// What the log holds.
        decision: Decision,
    },
}
