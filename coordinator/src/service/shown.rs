//! Transactions as operators see them: from memory, or from the log.

use assent_proto::v1;
use assent_protocol::record::Member;
use assent_protocol::saga::{StepIndex, StepResult};
use assent_protocol::three_phase::Seat;
use assent_protocol::{AbortReason, BranchId, Epoch, Protocol};
use bytes::Bytes;
use prost_types::Timestamp;

use crate::driver::{BranchView, TransactionView, contradiction};
use crate::log::{EndedTransaction, Found, OpenSaga, OpenTransaction, Shown, Transaction};

/// Who a replica is, for what it owns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner<'a> {
    /// Its name.
    pub(super) replica: &'a str,
    /// Its epoch.
    pub(super) epoch: Epoch,
}

/// A point in time.
pub(super) fn timestamp(unix_ms: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(unix_ms / 1_000).unwrap_or(i64::MAX),
        // Under 10^9.
        nanos: i32::try_from(unix_ms % 1_000 * 1_000_000).unwrap_or(0),
    }
}

/// The state of a word; states are the same words everywhere.
pub(super) fn state(word: &str) -> v1::TransactionState {
    v1::TransactionState::from_str_name(&format!("TRANSACTION_STATE_{}", word.to_ascii_uppercase()))
        .unwrap_or(v1::TransactionState::Unspecified)
}

/// The word of a state; `None` if it was not given.
pub(super) fn state_word(state: v1::TransactionState) -> Option<String> {
    let word = state.as_str_name().strip_prefix("TRANSACTION_STATE_")?;
    (state != v1::TransactionState::Unspecified).then(|| word.to_ascii_lowercase())
}

fn protocol(protocol: Protocol) -> i32 {
    v1::Protocol::from(protocol).into()
}

/// One that this replica has in memory.
pub(super) fn from_memory(view: TransactionView, owner: Owner<'_>) -> v1::Transaction {
    let is_ended = view.is_ended();
    v1::Transaction {
        gtid: view.gtid.to_string(),
        protocol: protocol(view.protocol),
        state: state(view.state).into(),
        reason: view.reason.map(Into::into),
        begun_at: Some(timestamp(view.begun_at_ms)),
        decided_at: None,
        ended_at: None,
        deadline: view.deadline_unix_ms.map(timestamp),
        branches: view.branches.into_iter().map(|branch| branch_in_memory(branch, is_ended)).collect(),
        waiting_for: view.waiting_for,
        replica: if is_ended { String::new() } else { owner.replica.to_owned() },
    }
}

/// Leaves out what the steps of a saga gave.
pub(super) fn hide_outputs(transaction: &mut v1::Transaction) {
    transaction.branches.iter_mut().for_each(|step| step.output.clear());
}

fn branch_in_memory(view: BranchView, is_ended: bool) -> v1::Branch {
    v1::Branch {
        participant: view.participant.into(),
        step: view.step.map(String::from).unwrap_or_default(),
        state: view.state.to_owned(),
        attempts: view.attempts,
        last_error: view.last_error.unwrap_or_default(),
        output: view.output,
        branch_id: branch_id(view.branch),
        last_error_at: view.last_error_at_ms.map(timestamp),
        absent_since: view.absent_since_ms.filter(|_| !is_ended).map(timestamp),
    }
}

/// A branch's id; empty where it has none.
fn branch_id(id: BranchId) -> String {
    if id.is_none() { String::new() } else { id.to_string() }
}

/// One in a listing of the log: its participants, but nothing about its branches.
pub(super) fn from_listing(transaction: Transaction, owner: Owner<'_>) -> v1::Transaction {
    let is_open = !transaction.state.is_final();
    let branches = transaction
        .participants
        .into_iter()
        .map(|participant| v1::Branch { participant: participant.into(), ..v1::Branch::default() })
        .collect();
    v1::Transaction {
        gtid: transaction.gtid.to_string(),
        protocol: protocol(transaction.protocol),
        state: state(transaction.state.as_str()).into(),
        reason: transaction.reason.as_deref().map(|line| AbortReason::from_line(line).into()),
        begun_at: Some(timestamp(transaction.begun_at_ms)),
        decided_at: transaction.decided_at_ms.map(timestamp),
        ended_at: transaction.ended_at_ms.map(timestamp),
        deadline: None,
        branches,
        waiting_for: if is_open {
            waits_in_the_log(transaction.remedy, transaction.owner, owner)
        } else {
            String::new()
        },
        replica: transaction.owner.filter(|_| is_open).map_or_else(String::new, |held| replica_of(held, owner)),
    }
}

/// What an open transaction waits for that nobody has in memory here.
fn waits_in_the_log(remedy: Option<String>, held: Option<Epoch>, owner: Owner<'_>) -> String {
    match (remedy, held) {
        (Some(remedy), _) => remedy,
        (None, Some(held)) if held != owner.epoch => {
            format!("the replica that holds it (epoch {}), or whoever takes over from it", held.0)
        }
        (None, _) => {
            "an operator: it could not be resumed after a restart; the coordinator's own output says why".to_owned()
        }
    }
}

fn replica_of(held: Epoch, owner: Owner<'_>) -> String {
    if held == owner.epoch { owner.replica.to_owned() } else { format!("epoch {}", held.0) }
}

/// One that the log shows, with its branches.
pub(super) fn from_log(shown: Shown, owner: Owner<'_>) -> v1::Transaction {
    let Shown { transaction, found } = shown;
    let named = from_listing(transaction, owner);
    match found {
        Found::Ended(ended) => v1::Transaction { branches: branches_ended(ended), ..named },
        Found::Open(OpenTransaction::Decided { record, .. }) => {
            v1::Transaction { branches: branches_prepared(record.members), ..named }
        }
        Found::Open(OpenTransaction::Delegated { record, .. }) => {
            // It may have committed by itself: it is not prepared, and only it can tell.
            v1::Transaction { branches: vec![branch_of(record.member, "preparing")], ..named }
        }
        Found::Open(OpenTransaction::Attempted { record, .. }) => {
            let members = record.roster.participants().iter().map(Seat::member);
            v1::Transaction { branches: branches_prepared(members), ..named }
        }
        Found::Open(OpenTransaction::Saga(saga)) => {
            let problem = contradiction(&saga, owner.epoch);
            let waiting_for = problem.map_or(named.waiting_for, |problem| format!("an operator: {problem}"));
            v1::Transaction { branches: steps_open(&saga), waiting_for, ..named }
        }
        Found::Unreadable(unreadable) => v1::Transaction { waiting_for: format!("an operator: {unreadable}"), ..named },
    }
}

fn branches_prepared(members: impl IntoIterator<Item = Member>) -> Vec<v1::Branch> {
    members.into_iter().map(|member| branch_of(member, "prepared")).collect()
}

fn branch_of(member: Member, state: &str) -> v1::Branch {
    v1::Branch {
        participant: member.participant.into(),
        state: state.to_owned(),
        branch_id: branch_id(member.branch),
        ..v1::Branch::default()
    }
}

fn branches_ended(ended: EndedTransaction) -> Vec<v1::Branch> {
    let mut branches: Vec<v1::Branch> = ended
        .record
        .branches
        .into_iter()
        .map(|branch| v1::Branch {
            participant: branch.participant.into(),
            step: branch.step.map(String::from).unwrap_or_default(),
            state: branch.end.as_str().to_owned(),
            branch_id: branch_id(branch.branch),
            ..v1::Branch::default()
        })
        .collect();
    for (StepIndex(step), output) in ended.record.outputs {
        if let Some(branch) = branches.get_mut(usize::from(step)) {
            branch.output = output;
        }
    }
    branches
}

/// A saga's steps as far as the log knows them: the last answer of each.
fn steps_open(saga: &OpenSaga) -> Vec<v1::Branch> {
    let mut steps: Vec<v1::Branch> = saga
        .started
        .definition
        .steps()
        .iter()
        .map(|step| v1::Branch {
            participant: step.participant.as_str().to_owned(),
            step: step.name.as_str().to_owned(),
            state: "waiting".to_owned(),
            ..v1::Branch::default()
        })
        .collect();
    for logged in &saga.steps {
        let Some(step) = steps.get_mut(usize::from(logged.record.step.0)) else { continue };
        step.attempts = logged.record.attempt;
        (step.state, step.last_error, step.output) = match (&logged.record.result, logged.record.compensation) {
            (StepResult::Done(output), false) => ("completed".to_owned(), String::new(), output.clone()),
            (StepResult::Done(_), true) => ("compensated".to_owned(), String::new(), Bytes::new()),
            (StepResult::Refused(why), false) => ("refused".to_owned(), why.clone(), Bytes::new()),
            (StepResult::Unknown(why), false) => ("executing".to_owned(), why.clone(), Bytes::new()),
            (StepResult::Refused(why) | StepResult::Unknown(why), true) => {
                ("compensating".to_owned(), why.clone(), std::mem::take(&mut step.output))
            }
        };
    }
    steps
}

#[cfg(test)]
mod tests {
    use crate::log::State;

    use super::*;

    #[test]
    fn states_are_the_same_words_everywhere() {
        for known in State::ALL {
            assert_eq!(state_word(state(known.as_str())).as_deref(), Some(known.as_str()));
        }
        for word in ["active", "preparing"] {
            assert_eq!(state_word(state(word)).as_deref(), Some(word));
        }
        assert_eq!(state_word(v1::TransactionState::Unspecified), None);
        assert_eq!(state("whatever"), v1::TransactionState::Unspecified);
    }

    #[test]
    fn times_survive() {
        let at = timestamp(1_767_225_600_123);
        assert_eq!((at.seconds, at.nanos), (1_767_225_600, 123_000_000));
    }
}
