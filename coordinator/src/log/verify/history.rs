//! Rows of ended transactions.

use std::collections::BTreeSet;

use assent_protocol::record::Ended;
use assent_protocol::{BranchEnd, Outcome, Protocol};

use super::{Invariant, Violate};
use crate::log::plan::CLOCK_SKEW_MAX_MS;
use crate::log::rows::HistoryRow;

/// Checks one row.
pub(super) fn check(row: &HistoryRow, violate: &mut Violate<'_>) {
    let times = [("begun", Some(row.begun_at_ms)), ("decided", row.decided_at_ms), ("ended", Some(row.ended_at_ms))];
    let known: Vec<(&str, u64)> = times.into_iter().filter_map(|(what, at)| Some((what, at?))).collect();
    for pair in known.windows(2) {
        if let [(one, earlier), (other, later)] = pair
            && *earlier > later.saturating_add(CLOCK_SKEW_MAX_MS)
        {
            violate(
                Invariant::TimesInOrder,
                format!("it was {one} at {earlier} ms, after it was {other}, at {later} ms"),
            );
        }
    }
    let record = match row.parse() {
        Ok(ended) => ended.record,
        Err(unreadable) => return violate(Invariant::RowReadable, unreadable.reason),
    };
    let is_saga = record.protocol == Protocol::Saga;
    let outcome_is_sagas = matches!(record.outcome, Outcome::Completed | Outcome::Compensated);
    if is_saga != outcome_is_sagas {
        let what = format!("a {} transaction cannot end {}", record.protocol, record.outcome);
        return violate(Invariant::RowFitsProtocol, what);
    }
    if is_saga && row.branch_ids.is_some() {
        violate(Invariant::RowFitsProtocol, "it has branch ids, and a saga's steps have none".to_owned());
    }
    if !is_saga && row.outputs.is_some() {
        violate(Invariant::RowFitsProtocol, format!("a {} transaction has no outputs", record.protocol));
    }
    // The start of a saga is forced, and so is the mark before the first proposal of a 3PC that
    // commits.
    if is_saga && row.decided_at_ms.is_none() {
        violate(Invariant::RowFitsProtocol, "its start was never logged, and sagas do not start without".to_owned());
    }
    if row.digest == 0 && record.outcome != Outcome::Aborted {
        violate(Invariant::DigestOfRequest, format!("it is {}, and the digest of its request is zero", record.outcome));
    }
    branches(&record, violate);
    for (step, _) in &record.outputs {
        let branch = record.branches.get(usize::from(step.0));
        if branch.is_none_or(|branch| branch.end != BranchEnd::Completed) {
            let end = branch.map_or("not there", |branch| branch.end.as_str());
            violate(Invariant::OutputOfDone, format!("step {} has an output, and is {end}", step.0));
        }
    }
}

fn branches(record: &Ended, violate: &mut Violate<'_>) {
    let is_saga = record.protocol == Protocol::Saga;
    let mut names = BTreeSet::new();
    for branch in &record.branches {
        let (participant, end) = (&branch.participant, branch.end);
        if branch.step.is_some() != is_saga {
            let what = format!("{participant} stands there {} a step", if is_saga { "without" } else { "with" });
            violate(Invariant::RowFitsProtocol, what);
        }
        let name = branch.step.as_ref().unwrap_or(participant);
        if !names.insert(name) {
            violate(Invariant::DecisionHasRoster, format!("{name} stands there twice"));
        }
        if !fits(record.outcome, end) {
            let what = format!("it is {}, and {name} is {}", record.outcome, end.as_str());
            violate(Invariant::OutcomeFitsBranches, what);
        }
    }
    if is_saga && record.branches.is_empty() {
        violate(Invariant::DecisionHasRoster, "it is a saga without steps".to_owned());
    }
}

/// Whether a branch can end like this where the transaction ends like that. A heuristic is an end
/// against it that is on record.
fn fits(outcome: Outcome, end: BranchEnd) -> bool {
    match end {
        BranchEnd::Committed => outcome == Outcome::Committed,
        BranchEnd::Aborted => matches!(outcome, Outcome::Aborted | Outcome::Compensated),
        BranchEnd::ReadOnly | BranchEnd::HeuristicCommitted | BranchEnd::HeuristicAborted => {
            matches!(outcome, Outcome::Committed | Outcome::Aborted)
        }
        BranchEnd::NotStarted => matches!(outcome, Outcome::Aborted | Outcome::Compensated),
        BranchEnd::Completed => outcome == Outcome::Completed,
        BranchEnd::Compensated | BranchEnd::Abandoned => outcome == Outcome::Compensated,
    }
}
