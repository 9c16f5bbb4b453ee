//! Rows of open transactions.

use assent_protocol::saga::{Definition, Kept, Saga, Unrecoverable};
use assent_protocol::three_phase::{Ballot, NodeId, Standing};
use assent_protocol::{Decision, Epoch, Protocol};

use super::{Invariant, Violate};
use crate::log::plan::CLOCK_SKEW_MAX_MS;
use crate::log::read::{OpenSaga, OpenTransaction};
use crate::log::rows::{OpenRow, StepRow};
use crate::log::stored;

/// Checks one row.
pub(super) fn check(row: &OpenRow, steps: Vec<StepRow>, violate: &mut Violate<'_>) {
    if row.begun_at_ms > row.decided_at_ms.saturating_add(CLOCK_SKEW_MAX_MS) {
        let what = format!("it began at {} ms, after it was decided, at {} ms", row.begun_at_ms, row.decided_at_ms);
        violate(Invariant::TimesInOrder, what);
    }
    let Ok(protocol) = stored::parse_protocol(&row.protocol) else {
        return violate(Invariant::RowReadable, format!("{:?} is no protocol that this binary knows", row.protocol));
    };
    fits_its_protocol(row, protocol, violate);
    has_a_digest(row, protocol, violate);
    match protocol {
        Protocol::Saga => saga(row, steps, violate),
        Protocol::TwoPhase | Protocol::ThreePhase => {
            roster(row, violate);
            voter(row, violate);
            if let Err(unreadable) = row.parse(Vec::new()) {
                violate(Invariant::RowReadable, unreadable.reason);
            }
        }
    }
}

/// As the constraint of the schema has it, which may have been dropped.
fn fits_its_protocol(row: &OpenRow, protocol: Protocol, violate: &mut Violate<'_>) {
    let has = [
        ("a decision", row.decision.is_some()),
        ("a definition", row.definition.is_some()),
        ("a remedy", row.remedy.is_some()),
        ("a voter", row.voter.is_some()),
        ("a roster", row.roster.is_some()),
        ("branch ids", row.branch_ids.is_some()),
    ];
    let [(_, decision), (_, definition), (_, remedy), (_, voter), (_, roster), (_, branch_ids)] = has;
    let fits = match protocol {
        Protocol::Saga => definition && row.decision.as_deref() != Some("commit") && !voter && !roster && !branch_ids,
        Protocol::ThreePhase => !definition && !remedy && (decision || voter) && voter == roster,
        Protocol::TwoPhase => (decision || is_delegated(row)) && !definition && !remedy && !voter && !roster,
    };
    if !fits {
        let there: Vec<&str> = has.iter().filter(|(_, is_there)| *is_there).map(|(what, _)| *what).collect();
        let decision = row.decision.as_deref().unwrap_or("none");
        violate(
            Invariant::RowFitsProtocol,
            format!("a {protocol} row cannot have {there:?} and nothing else; its decision is {decision}"),
        );
    }
}

/// One participant is named, and decides.
fn is_delegated(row: &OpenRow) -> bool {
    row.decision.is_none() && stored::parse_roster(&row.participants).is_ok_and(|names| names.len() == 1)
}

/// An abort may have been presumed before any request came; everything else has one.
fn has_a_digest(row: &OpenRow, protocol: Protocol, violate: &mut Violate<'_>) {
    let is_presumption = protocol != Protocol::Saga && row.decision.as_deref() == Some("abort");
    if row.digest == 0 && !is_presumption {
        violate(Invariant::DigestOfRequest, "it came from a request, and its digest is zero".to_owned());
    }
}

/// Names that are names, each once, and as many branch ids as names, where there are any. Nobody at
/// all waits where every branch was read-only, or where an abort was presumed.
fn roster(row: &OpenRow, violate: &mut Violate<'_>) {
    let members = match stored::parse_members(&row.participants, row.branch_ids.as_deref()) {
        Ok(members) => members,
        Err(error) => return violate(Invariant::DecisionHasRoster, error),
    };
    let Some(json) = &row.roster else { return };
    match stored::parse_voters(json, &members) {
        Err(error) => violate(Invariant::DecisionHasRoster, error),
        Ok(voters) => {
            let stranger = members.iter().find(|member| voters.seat(&member.participant).is_none());
            if let Some(stranger) = stranger {
                violate(
                    Invariant::DecisionHasRoster,
                    format!("{} waits for the decision, and is not in the roster", stranger.participant),
                );
            }
            if members.is_empty() || row.decision.is_none() && members.len() < voters.participants().len() {
                let what = format!(
                    "its roster has {} voters, and only {:?} wait",
                    voters.participants().len(),
                    row.participants
                );
                violate(Invariant::DecisionHasRoster, what);
            }
        }
    }
}

/// The log as a voter: it voted by 'attempt 1 sent', so it has accepted something from the start.
fn voter(row: &OpenRow, violate: &mut Violate<'_>) {
    let Some(text) = &row.voter else { return };
    let state = match stored::parse_voter(text) {
        Ok(state) => state,
        Err(error) => return violate(Invariant::VoterLegal, error),
    };
    let is_ballot = |ballot: Ballot| ballot.round > 1 && ballot.node != NodeId(0) || ballot == Ballot::FIRST;
    if !is_ballot(state.joined) || !state.accepted.is_none_or(is_ballot) {
        violate(Invariant::VoterLegal, format!("it stands at {text:?}: nobody draws such a ballot"));
    }
    if state.accepted > Some(state.joined) {
        violate(Invariant::VoterLegal, format!("it stands at {text:?}: it accepted what it had not joined"));
    }
    if state.accepted.is_none() || state.standing == Standing::Waiting {
        violate(
            Invariant::VoterLegal,
            format!("it stands at {text:?}: the log accepts the first attempt before it is sent"),
        );
    }
    let decision = row.decision.as_deref().and_then(|word| stored::parse_decision(word).ok());
    if let (Some(knows), Some(decision)) = (state.standing.decision(), decision)
        && knows != decision
    {
        violate(Invariant::VoterFitsDecision, format!("it stands at {text:?}, and the decision is {decision}"));
    }
}

fn saga(row: &OpenRow, steps: Vec<StepRow>, violate: &mut Violate<'_>) {
    let definition = row.definition.as_deref().ok_or("it has no definition".to_owned());
    let definition = match definition.and_then(stored::parse_definition) {
        Ok(definition) => definition,
        Err(error) => return violate(Invariant::RowReadable, error),
    };
    if row.participants != stored::roster(stored::saga_roster(&definition)) {
        let what = format!("its steps are at others than {:?}", row.participants);
        violate(Invariant::DecisionHasRoster, what);
    }
    let known = steps.into_iter().filter(|step| answer(step, &definition, violate)).collect();
    match row.parse(known) {
        Ok(OpenTransaction::Saga(OpenSaga { started, turned, steps, paused, .. })) => {
            let steps = steps.into_iter().map(|step| step.record).collect();
            // By the very code that resumes it after a crash.
            if let Err(error) = Saga::recover(Epoch(1), Kept { started, turned, steps, paused }) {
                let invariant = match error {
                    Unrecoverable::ForeignRecord { .. } | Unrecoverable::UnknownStep { .. } => {
                        Invariant::SagaStepDefined
                    }
                    Unrecoverable::CompensatedWithoutTurn { .. } => Invariant::SagaTurnedFirst,
                    Unrecoverable::ForcedResultMissing { .. } | Unrecoverable::SentPastRefusal { .. } => {
                        Invariant::SagaForcedResult
                    }
                    Unrecoverable::TurnedPastPivot { .. } => Invariant::SagaPivotStands,
                };
                violate(invariant, error.to_string());
            }
        }
        Ok(OpenTransaction::Decided { .. } | OpenTransaction::Delegated { .. } | OpenTransaction::Attempted { .. }) => {
        }
        Err(unreadable) => violate(Invariant::RowReadable, unreadable.reason),
    }
    if row.decision.as_deref().map(stored::parse_decision) == Some(Ok(Decision::Abort)) && row.reason.is_none() {
        violate(Invariant::RowFitsProtocol, "it turned back, and nobody wrote down why".to_owned());
    }
}

/// Whether an answer is one that recovery can take up.
fn answer(step: &StepRow, definition: &Definition, violate: &mut Violate<'_>) -> bool {
    let (number, steps) = (step.step, definition.steps().len());
    if usize::try_from(number).is_ok_and(|number| number < steps) {
        let (is_done, has_output) = (step.result == "done", step.output.is_some());
        if is_done == has_output && is_done == step.reason.is_none() {
            return true;
        }
        let (result, not) = (&step.result, if has_output { "" } else { "no " });
        violate(Invariant::OutputOfDone, format!("step {number} is {result}, and has {not}output"));
        return false;
    }
    violate(Invariant::SagaStepDefined, format!("it has an answer of step {number}, and {steps} steps"));
    false
}
