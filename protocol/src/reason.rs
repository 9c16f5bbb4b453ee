//! Why a transaction was aborted, and why a request was refused.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::ParticipantName;

/// Why a transaction was aborted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AbortReason {
    /// The kind of reason.
    pub code: AbortCode,
    /// Whose doing it was, where it was a participant's.
    pub participant: Option<ParticipantName>,
    /// For people.
    pub message: String,
}

/// The kinds of reasons for an abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AbortCode {
    /// The initiator asked for it.
    Requested,
    /// A participant voted no.
    Refused,
    /// The transaction was not decided in time.
    DeadlineExceeded,
    /// The instance that was asked to prepare went away before it voted.
    ParticipantLost,
    /// No instance of the participant was there to be asked.
    ParticipantUnavailable,
    /// The coordinator has never met a participant of that name.
    ParticipantUnknown,
    /// The participant has no voter, and a three-phase transaction needs one.
    VoterMissing,
    /// Prepare ended in an unexpected error: neither a yes nor a no.
    PrepareFailed,
    /// A coordinator lost its memory of the undecided transaction: presumed abort.
    Forgotten,
    /// A step of a saga could not succeed.
    StepFailed,
}

impl AbortCode {
    /// Every code, for tables and conversions.
    pub const ALL: [Self; 10] = [
        Self::Requested,
        Self::Refused,
        Self::DeadlineExceeded,
        Self::ParticipantLost,
        Self::ParticipantUnavailable,
        Self::ParticipantUnknown,
        Self::VoterMissing,
        Self::PrepareFailed,
        Self::Forgotten,
        Self::StepFailed,
    ];

    /// The word for it in the log and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "REQUESTED",
            Self::Refused => "REFUSED",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::ParticipantLost => "PARTICIPANT_LOST",
            Self::ParticipantUnavailable => "PARTICIPANT_UNAVAILABLE",
            Self::ParticipantUnknown => "PARTICIPANT_UNKNOWN",
            Self::VoterMissing => "VOTER_MISSING",
            Self::PrepareFailed => "PREPARE_FAILED",
            Self::Forgotten => "FORGOTTEN",
            Self::StepFailed => "STEP_FAILED",
        }
    }

    /// The code of a word, if it is one.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == word)
    }
}

impl AbortReason {
    /// A reason that is nobody's doing.
    pub fn new(code: AbortCode, message: impl Into<String>) -> Self {
        Self { code, participant: None, message: message.into() }
    }

    /// A reason that is a participant's doing.
    pub fn by(code: AbortCode, participant: &ParticipantName, message: impl Into<String>) -> Self {
        Self { code, participant: Some(participant.clone()), message: message.into() }
    }

    /// One line for the log: `CODE participant: message`, with `-` where there is no participant.
    pub fn to_line(&self) -> String {
        let participant = self.participant.as_ref().map_or("-", ParticipantName::as_str);
        format!("{} {participant}: {}", self.code.as_str(), self.message)
    }

    /// Reads [`to_line`](Self::to_line) back. A line of another shape is a saga's own account of the step that failed.
    pub fn from_line(line: &str) -> Self {
        Self::parse(line).unwrap_or_else(|| Self::new(AbortCode::StepFailed, line))
    }

    fn parse(line: &str) -> Option<Self> {
        let (head, message) = line.split_once(": ")?;
        let (code, participant) = head.split_once(' ')?;
        let participant = match participant {
            "-" => None,
            name => Some(ParticipantName::new(name).ok()?),
        };
        Some(Self { code: AbortCode::from_word(code)?, participant, message: message.into() })
    }
}

impl fmt::Display for AbortReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.participant {
            Some(participant) => write!(f, "{} by {participant}: {}", self.code.as_str(), self.message),
            None => write!(f, "{}: {}", self.code.as_str(), self.message),
        }
    }
}

/// Why a request was refused. It changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The same key came with another body (I11).
    #[error("this gtid was used before with another body; mint a new one for a new transaction")]
    KeyReused,
    /// Prepare has started: the roster is frozen (I8).
    #[error("the transaction is {state}: branches enlist only while it is active, before commit or abort is asked for")]
    RosterFrozen {
        /// Its state.
        state: String,
    },
    /// A participant takes part at most once.
    #[error("participant {0} already has a branch in this transaction; put all its work into one branch")]
    DuplicateBranch(ParticipantName),
    /// There are more branches than allowed.
    #[error("a transaction has at most {branches_max} branches; split it, or raise limits.branches_max")]
    TooManyBranches {
        /// The bound.
        branches_max: usize,
    },
    /// A saga past its pivot cannot turn back.
    #[error("the saga is past its pivot: there is only forward")]
    PastPivot,
}

impl Refusal {
    /// The stable word for it, in errors.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::KeyReused => "KEY_REUSED",
            Self::RosterFrozen { .. } => "ROSTER_FROZEN",
            Self::DuplicateBranch(_) => "DUPLICATE_BRANCH",
            Self::TooManyBranches { .. } => "TOO_MANY_BRANCHES",
            Self::PastPivot => "PAST_PIVOT",
        }
    }
}

/// When a request for an outcome is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Wait {
    /// At the durable decision; for a saga, at its durable start.
    Decided,
    /// Once every branch has ended, or the saga has.
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_the_log() {
        let name = ParticipantName::new("bank-a").expect("valid");
        for reason in [
            AbortReason::by(AbortCode::Refused, &name, "insufficient: 3 < 5"),
            AbortReason::new(AbortCode::DeadlineExceeded, "30 s"),
        ] {
            assert_eq!(AbortReason::from_line(&reason.to_line()), reason);
        }
        assert_eq!(AbortReason::from_line("whatever").message, "whatever");
    }
}
