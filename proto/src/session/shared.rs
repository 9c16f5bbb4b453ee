//! What several messages have in common: gtids, epochs, verdicts, outcomes, reasons.

use assent_protocol::saga::{Definition, StepIndex};
use assent_protocol::two_phase::{BranchResult, Vote};
use assent_protocol::{
    AbortCode, AbortReason, BranchId, Decision, Epoch, Gtid, Name, Outcome, ParticipantName, Protocol, Wait,
};
use bytes::Bytes;

use super::Malformed;
use crate::identity::sixteen_bytes;
use crate::text::quoted;
use crate::v1;

/// Which message is being read, for what is wrong with it.
#[derive(Clone, Copy)]
pub(super) struct Reading {
    pub(super) message: &'static str,
    pub(super) request_id: Option<u64>,
}

impl Reading {
    /// A request: it can be answered.
    pub(super) fn request(message: &'static str, request_id: u64) -> Self {
        Self { message, request_id: Some(request_id) }
    }

    /// A message that nobody waits for an answer to.
    pub(super) fn message(message: &'static str) -> Self {
        Self { message, request_id: None }
    }

    /// It says something impossible.
    pub(super) fn malformed(self, problem: impl Into<String>) -> Malformed {
        Malformed { message: self.message, problem: problem.into(), request_id: self.request_id }
    }

    /// Its `oneof` is absent.
    pub(super) fn empty(self) -> Malformed {
        self.malformed("it is empty, or of a kind that this version does not know: set exactly one")
    }

    pub(super) fn gtid(self, bytes: &[u8]) -> Result<Gtid, Malformed> {
        Gtid::from_bytes(bytes).map_err(|error| match <&[u8; 16]>::try_from(bytes) {
            Ok(sixteen) => self.malformed(format!("gtid {:032x}: {error}", u128::from_be_bytes(*sixteen))),
            Err(_) => {
                self.malformed(format!("gtid has {} bytes: it is the 16 bytes of the UUID, not its text", bytes.len()))
            }
        })
    }

    pub(super) fn epoch(self, epoch: u64) -> Result<Epoch, Malformed> {
        if epoch == 0 { Err(self.malformed("epoch is 0, which no replica has")) } else { Ok(Epoch(epoch)) }
    }

    /// The branch that it is about. An absent one is never taken for [`BranchId::NONE`], which is
    /// the id of a branch that was prepared before branches had one.
    pub(super) fn branch(self, branch: Option<v1::BranchId>) -> Result<BranchId, Malformed> {
        branch.map(Into::into).ok_or_else(|| self.malformed("branch is not given: it is the id of the branch"))
    }

    pub(super) fn decision(self, number: i32) -> Result<Decision, Malformed> {
        match v1::Decision::try_from(number) {
            Ok(v1::Decision::Commit) => Ok(Decision::Commit),
            Ok(v1::Decision::Abort) => Ok(Decision::Abort),
            Ok(v1::Decision::Unspecified) => Err(self.malformed("decision is not given")),
            Err(_) => Err(self.unknown_number("decision", number)),
        }
    }

    /// Attempts count from 1. A zero is a field that was forgotten, and then a repetition cannot be told from a first time.
    pub(super) fn attempt(self, attempt: u32) -> Result<u32, Malformed> {
        if attempt == 0 {
            Err(self.malformed("attempt is 0: count from 1, and count up when the same is asked for again"))
        } else {
            Ok(attempt)
        }
    }

    pub(super) fn name(self, field: &str, text: &str) -> Result<Name, Malformed> {
        Name::new(text).map_err(|error| self.malformed(format!("{field} {error}")))
    }

    pub(super) fn step(self, step: u32) -> Result<StepIndex, Malformed> {
        match u16::try_from(step) {
            Ok(index) if usize::from(index) < Definition::STEPS_MAX => Ok(StepIndex(index)),
            Ok(_) | Err(_) => {
                Err(self.malformed(format!("step is {step}, but a saga has at most {} steps", Definition::STEPS_MAX)))
            }
        }
    }

    pub(super) fn wait(self, number: i32) -> Result<Wait, Malformed> {
        match v1::Wait::try_from(number) {
            Ok(v1::Wait::Unspecified | v1::Wait::Decided) => Ok(Wait::Decided),
            Ok(v1::Wait::Ended) => Ok(Wait::Ended),
            Err(_) => Err(self.unknown_number("wait", number)),
        }
    }

    pub(super) fn outcome(self, number: i32) -> Result<Outcome, Malformed> {
        match v1::Outcome::try_from(number) {
            Ok(v1::Outcome::Committed) => Ok(Outcome::Committed),
            Ok(v1::Outcome::Aborted) => Ok(Outcome::Aborted),
            Ok(v1::Outcome::Completed) => Ok(Outcome::Completed),
            Ok(v1::Outcome::Compensated) => Ok(Outcome::Compensated),
            Ok(v1::Outcome::Unspecified) => Err(self.malformed("outcome is not given")),
            Err(_) => Err(self.unknown_number("outcome", number)),
        }
    }

    /// How a transaction is to commit: with two phases, unless it says three.
    pub(super) fn commit_protocol(self, number: i32) -> Result<Protocol, Malformed> {
        match v1::Protocol::try_from(number) {
            Ok(v1::Protocol::Unspecified | v1::Protocol::TwoPhase) => Ok(Protocol::TwoPhase),
            Ok(v1::Protocol::ThreePhase) => Ok(Protocol::ThreePhase),
            Ok(v1::Protocol::Saga) => Err(self.malformed("protocol is a saga's: ask for it with StartSaga")),
            Err(_) => Err(self.unknown_number("protocol", number)),
        }
    }

    pub(super) fn unknown_number(self, field: &str, number: i32) -> Malformed {
        self.malformed(format!("{field} is {number}, which this version does not know"))
    }

    pub(super) fn reason(self, reason: Option<v1::AbortReason>) -> Result<Option<AbortReason>, Malformed> {
        reason.map(AbortReason::try_from).transpose().map_err(|nested| self.malformed(nested.problem))
    }

    pub(super) fn outputs(self, outputs: Vec<v1::StepOutput>) -> Result<Vec<(Name, Bytes)>, Malformed> {
        outputs.into_iter().map(|output| Ok((self.name("step", &output.step)?, output.output))).collect()
    }
}

pub(super) fn gtid_bytes(gtid: Gtid) -> Bytes {
    sixteen_bytes(gtid.as_bytes())
}

pub(super) fn outputs_to_wire(outputs: Vec<(Name, Bytes)>) -> Vec<v1::StepOutput> {
    outputs.into_iter().map(|(step, output)| v1::StepOutput { step: step.into(), output }).collect()
}

impl From<Wait> for v1::Wait {
    fn from(wait: Wait) -> Self {
        match wait {
            Wait::Decided => Self::Decided,
            Wait::Ended => Self::Ended,
        }
    }
}

impl From<Outcome> for v1::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Committed => Self::Committed,
            Outcome::Aborted => Self::Aborted,
            Outcome::Completed => Self::Completed,
            Outcome::Compensated => Self::Compensated,
        }
    }
}

impl TryFrom<v1::Outcome> for Outcome {
    type Error = Malformed;

    /// # Errors
    /// [`Malformed`] if it is not given.
    fn try_from(outcome: v1::Outcome) -> Result<Self, Malformed> {
        Reading::message("Outcome").outcome(outcome.into())
    }
}

impl From<Protocol> for v1::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::TwoPhase => Self::TwoPhase,
            Protocol::ThreePhase => Self::ThreePhase,
            Protocol::Saga => Self::Saga,
        }
    }
}

impl TryFrom<v1::Protocol> for Protocol {
    type Error = Malformed;

    /// # Errors
    /// [`Malformed`] if it is not given: what that means depends on who asks.
    fn try_from(protocol: v1::Protocol) -> Result<Self, Malformed> {
        match protocol {
            v1::Protocol::TwoPhase => Ok(Self::TwoPhase),
            v1::Protocol::ThreePhase => Ok(Self::ThreePhase),
            v1::Protocol::Saga => Ok(Self::Saga),
            v1::Protocol::Unspecified => Err(Reading::message("Protocol").malformed("protocol is not given")),
        }
    }
}

impl From<AbortReason> for v1::AbortReason {
    fn from(reason: AbortReason) -> Self {
        Self {
            code: reason.code.as_str().into(),
            participant: reason.participant.map(String::from).unwrap_or_default(),
            message: reason.message,
        }
    }
}

impl TryFrom<v1::AbortReason> for AbortReason {
    type Error = Malformed;

    /// A code of a newer peer becomes `Forgotten` with the code in front of the message, as in [`AbortReason::from_line`]:
    /// the abort itself is no less true for it.
    ///
    /// # Errors
    /// [`Malformed`] if the participant's name breaks the rule.
    fn try_from(reason: v1::AbortReason) -> Result<Self, Malformed> {
        let participant = participant_if_given(Reading::message("AbortReason"), &reason.participant)?;
        Ok(match AbortCode::from_word(&reason.code) {
            Some(code) => Self { code, participant, message: reason.message },
            None => Self {
                code: AbortCode::Forgotten,
                participant,
                message: format!("{}: {}", quoted(&reason.code), reason.message),
            },
        })
    }
}

/// A participant's name, where an empty one stands for none.
pub(super) fn participant_if_given(reading: Reading, name: &str) -> Result<Option<ParticipantName>, Malformed> {
    if name.is_empty() { Ok(None) } else { reading.name("participant", name).map(Some) }
}

pub(super) fn vote_to_wire(vote: Vote) -> (v1::VoteKind, String) {
    match vote {
        Vote::Yes => (v1::VoteKind::Yes, String::new()),
        Vote::ReadOnly => (v1::VoteKind::ReadOnly, String::new()),
        Vote::No(reason) => (v1::VoteKind::No, reason),
        Vote::Unknown(reason) => (v1::VoteKind::Unknown, reason),
        Vote::Committed => (v1::VoteKind::Committed, String::new()),
    }
}

impl From<BranchResult> for v1::BranchResult {
    fn from(result: BranchResult) -> Self {
        match result {
            BranchResult::Done => Self::Done,
            BranchResult::HeuristicCommitted => Self::HeuristicCommitted,
            BranchResult::HeuristicAborted => Self::HeuristicAborted,
        }
    }
}
