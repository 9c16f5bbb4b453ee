//! Requests of unary calls into strict types: what is refused, and why.

use assent_proto::error::Reason;
use assent_proto::session::Refused;
use assent_proto::v1;
use assent_protocol::message::Expected;
use assent_protocol::saga::Definition;
use assent_protocol::two_phase::CarriedBranch;
use assent_protocol::{Gtid, ParticipantName, Protocol, Refusal};
use bytes::Bytes;
use uuid::Uuid;

use crate::driver::Limits;

/// A gtid in its text form.
pub(super) fn gtid(text: &str) -> Result<Gtid, Refused> {
    if text.is_empty() {
        return Err(malformed("gtid is missing: it says which transaction is meant"));
    }
    text.parse().map_err(|error| malformed(format!("gtid {}: {error}", quoted(text))))
}

/// A gtid, minted here where the caller gives none.
pub(super) fn gtid_or_new(text: &str) -> Result<Gtid, Refused> {
    if text.is_empty() {
        Gtid::new(Uuid::now_v7()).map_err(|error| Reason::Internal.refused(error.to_string()))
    } else {
        gtid(text)
    }
}

/// A participant's name.
pub(super) fn participant(text: &str) -> Result<ParticipantName, Refused> {
    if text.is_empty() {
        return Err(malformed("participant is missing: name the service that the branch is for"));
    }
    ParticipantName::new(text).map_err(|error| malformed(format!("participant {error}")))
}

/// A branch that a call carries.
pub(super) fn branch(limits: &Limits, name: &str, payload: Bytes) -> Result<CarriedBranch, Refused> {
    let participant = participant(name)?;
    limits.payload_fits(|| format!("the payload of participant {participant}"), payload.len())?;
    Ok(CarriedBranch { participant, payload })
}

/// The branches of a commit.
pub(super) fn branches(limits: &Limits, branches: Vec<v1::CommitBranchRequest>) -> Result<Vec<CarriedBranch>, Refused> {
    if branches.len() > limits.branches_max {
        return Err(Refusal::TooManyBranches { branches_max: limits.branches_max }.into());
    }
    branches.into_iter().map(|carried| branch(limits, &carried.participant, carried.payload)).collect()
}

/// The participants that a commit expects to have branches.
pub(super) fn expected(limits: &Limits, participants: &[String]) -> Result<Expected, Refused> {
    if participants.is_empty() {
        return Ok(Expected::Anything);
    }
    if participants.len() > limits.branches_max {
        return Err(Refusal::TooManyBranches { branches_max: limits.branches_max }.into());
    }
    participants.iter().map(|name| participant(name)).collect::<Result<_, _>>().map(Expected::Of)
}

/// A saga's definition.
pub(super) fn definition(limits: &Limits, definition: Option<v1::SagaDefinition>) -> Result<Definition, Refused> {
    let definition =
        definition.ok_or_else(|| malformed("definition is missing: a saga is made of its steps, at least one"))?;
    let definition = Definition::try_from(definition)?;
    for step in definition.steps() {
        limits.payload_fits(|| format!("the input of step {}", step.name), step.input.len())?;
    }
    Ok(definition)
}

/// How a transaction is to commit: with two phases, unless it says three.
pub(super) fn commit_protocol(number: i32) -> Result<Protocol, Refused> {
    match v1::Protocol::try_from(number) {
        Ok(v1::Protocol::Unspecified | v1::Protocol::TwoPhase) => Ok(Protocol::TwoPhase),
        Ok(v1::Protocol::ThreePhase) => Ok(Protocol::ThreePhase),
        Ok(v1::Protocol::Saga) => Err(malformed("protocol is a saga's; start one with StartSaga")),
        Err(_) => Err(malformed(format!(
            "protocol is {number}, which this version does not know; say TWO_PHASE or THREE_PHASE"
        ))),
    }
}

/// A timeout, in milliseconds.
pub(super) fn timeout(limits: &Limits, timeout_ms: u64) -> Result<u64, Refused> {
    let max_ms = limits.timeout_max_ms;
    if timeout_ms > max_ms {
        let message = format!(
            "a timeout of {timeout_ms} ms is over the {max_ms} ms of limits.timeout_max; ask for less, or raise it"
        );
        return Err(Reason::InvalidTimeout.refused(message));
    }
    Ok(timeout_ms)
}

/// A request that says something impossible.
pub(super) fn malformed(problem: impl Into<String>) -> Refused {
    Reason::Malformed.refused(problem)
}

/// A foreign text, quoted and cut.
pub(super) fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(80).collect();
    format!("{shown:?}")
}
