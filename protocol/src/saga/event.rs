//! What happens to a saga: the machine's inputs.

use serde::{Deserialize, Serialize};

use super::definition::{StepIndex, StepResult};
use crate::durable::Appended;
use crate::ids::{BodyDigest, Caller, InstanceId, ParticipantName};

/// The reason of an attempt that was not answered in time; may stand in a policy's `non_retryable`.
pub const TIMED_OUT: &str = "timeout";
/// The reason of an attempt whose session broke before the answer; may stand in a policy's
/// `non_retryable`.
pub const CONNECTION_LOST: &str = "connection lost";
/// The reason of an attempt that found no instance to go to. It never counts against a policy:
/// nothing was sent.
pub const NOT_CONNECTED: &str = "not connected";

/// What the reason of an attempt begins with whose action is done, and whose output fits into no
/// message. It is never tried again: the output would be the same.
pub const OUTPUT_TOO_LARGE: &str = "the step's output is too large";

/// What a caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// The saga is in the log, and will end whatever happens to the caller.
    Started,
    /// The saga has ended.
    Ended,
}

/// A timer of one step. The attempt is part of its name, so one that fires late is recognised and
/// changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timer {
    /// The attempt has taken too long: its outcome counts as unknown.
    Attempt {
        /// Which step.
        step: StepIndex,
        /// Whether the compensation was asked for, rather than the action.
        compensation: bool,
        /// Which attempt, from 1.
        attempt: u32,
    },
    /// The wait before the next attempt is over.
    Retry {
        /// Which step.
        step: StepIndex,
        /// Whether the compensation will be asked for, rather than the action.
        compensation: bool,
        /// The attempt that failed, from 1.
        attempt: u32,
    },
}

/// What happened.
///
/// Answers, `Sent` and `Undeliverable` belong to attempts of this machine's own epoch: the driver
/// drops what carries another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A participant answered an attempt.
    StepAnswered {
        /// Which step.
        step: StepIndex,
        /// Whether it is the compensation's answer rather than the action's.
        compensation: bool,
        /// The attempt that is answered, from 1.
        attempt: u32,
        /// Who answered.
        instance: InstanceId,
        /// The answer.
        result: StepResult,
        /// Of an action's refusal: the participant has made durable that no attempt up to this one
        /// takes effect any more.
        is_final: bool,
    },
    /// The driver handed an attempt to an instance's session. An attempt of which this was not told
    /// is never lost with a session: only its timeout ends it.
    Sent {
        /// Which step.
        step: StepIndex,
        /// Whether it was the compensation rather than the action.
        compensation: bool,
        /// Which attempt.
        attempt: u32,
        /// Where it went.
        instance: InstanceId,
    },
    /// No instance of the participant is connected: the attempt was never sent, so it had no effect
    /// and counts against no policy.
    Undeliverable {
        /// Which step.
        step: StepIndex,
        /// Whether it was the compensation rather than the action.
        compensation: bool,
        /// Which attempt.
        attempt: u32,
    },
    /// An instance of a participant connected: what could not reach the participant is tried again
    /// at once.
    Joined {
        /// Whose instance.
        participant: ParticipantName,
    },
    /// An instance's session is gone: what it had not answered is unknown.
    Left {
        /// Whose instance.
        participant: ParticipantName,
        /// Which one.
        instance: InstanceId,
    },
    /// A timer that the machine set ran out.
    TimerFired(Timer),
    /// The log answered the forced record that is in flight. Told right after the held effects were
    /// released.
    Appended(Appended),
    /// The start was asked for again, after a lost connection or at another replica.
    StartRequested {
        /// The digest of the request's body.
        digest: BodyDigest,
        /// Who asks.
        caller: Caller,
        /// What for.
        wait: Wait,
    },
    /// Somebody wants to know how it goes on.
    WaitRequested {
        /// Who asks.
        caller: Caller,
        /// What for.
        wait: Wait,
    },
    /// The initiator wants the saga undone.
    CompensateRequested {
        /// Why; goes to the log and to callers as it is, so as
        /// [`AbortReason::to_line`](crate::AbortReason::to_line) writes it.
        reason: String,
        /// Who asks.
        caller: Caller,
    },
    /// A session with callers is gone: nobody there waits any more.
    CallerLeft {
        /// The session's number, as in [`Caller`].
        session: u64,
    },
    /// An operator stops the saga: nothing more is sent until it is resumed.
    PauseRequested {
        /// Why, in the operator's words.
        reason: String,
    },
    /// A human mended what was wrong: everything open is tried again at once, with a fresh budget
    /// of attempts.
    ResumeRequested,
}
