//! Records to append.

use std::sync::Arc;

use assent_protocol::record::{
    Attempted, Decided, Delegated, Ended, EndedBranch, Member, SagaPaused, SagaStarted, SagaStep, SagaTurned,
};
use assent_protocol::saga::{Definition, StepDefinition, StepIndex, StepResult};
use assent_protocol::three_phase::{PeerAddress, Roster, Seat, StoreId, VoterName, VoterRecord, VoterState};
use assent_protocol::{
    Appended, BodyDigest, BranchEnd, BranchId, Decision, Epoch, Gtid, Name, Outcome, Protocol, Record, RetryPolicy,
};
use bytes::Bytes;
use uuid::Uuid;

use crate::log::{Batch, Found, Log};

/// When everything in this suite happens: 2025-01-15, in Unix milliseconds. Long ago: no log forgets
/// what has ended within the last day of its own clock.
pub(super) const NOW_MS: u64 = 1_736_929_200_000;

pub(super) fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// The n-th gtid of this suite, minted at [`NOW_MS`]; a higher n is a newer one.
pub(super) fn gtid(n: u64) -> Gtid {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&NOW_MS.to_be_bytes()[2..]);
    bytes[6] = 0x70;
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    bytes[8] = 0x80;
    Gtid::new(Uuid::from_bytes(bytes)).expect("version 7")
}

/// The branch that a participant has in every transaction of this suite.
pub(super) fn member(participant: &str) -> Member {
    let number = participant.bytes().fold(u64::MAX, |number, byte| number.rotate_left(7) ^ u64::from(byte));
    Member { participant: name(participant), branch: BranchId { epoch: Epoch(7), number } }
}

/// Another branch of the same participant: a call came twice.
pub(super) fn twin(participant: &str) -> Member {
    let Member { participant, branch } = member(participant);
    Member { participant, branch: branch.plus(1) }
}

pub(super) fn decided(gtid: Gtid, decision: Decision, participants: &[&str]) -> Decided {
    Decided {
        gtid,
        protocol: Protocol::TwoPhase,
        decision,
        members: participants.iter().map(|text| member(text)).collect(),
        digest: BodyDigest(0xfeed_0000_0000_0001),
        begun_at_ms: NOW_MS - 20,
        reason: (decision == Decision::Abort).then(|| "sold out".to_owned()),
    }
}

pub(super) fn commit(gtid: Gtid) -> Decided {
    decided(gtid, Decision::Commit, &["inventory", "billing"])
}

pub(super) fn abort(gtid: Gtid) -> Decided {
    decided(gtid, Decision::Abort, &["inventory", "billing"])
}

/// The end of [`commit`], or of [`abort`], as it is when nothing special happens.
pub(super) fn ended(gtid: Gtid, decision: Decision) -> Ended {
    let (outcome, end) = match decision {
        Decision::Commit => (Outcome::Committed, BranchEnd::Committed),
        Decision::Abort => (Outcome::Aborted, BranchEnd::Aborted),
    };
    Ended {
        gtid,
        protocol: Protocol::TwoPhase,
        outcome,
        has_open_row: true,
        begun_at_ms: NOW_MS - 20,
        digest: BodyDigest(0xfeed_0000_0000_0001),
        reason: (decision == Decision::Abort).then(|| "sold out".to_owned()),
        branches: vec![branch("inventory", end), branch("billing", end)],
        outputs: Vec::new(),
    }
}

pub(super) fn branch(participant: &str, end: BranchEnd) -> EndedBranch {
    let Member { participant, branch } = member(participant);
    EndedBranch { participant, branch, step: None, end }
}

/// The decision is left to the branch of `inventory`.
pub(super) fn delegated(gtid: Gtid) -> Delegated {
    let Decided { digest, begun_at_ms, .. } = commit(gtid);
    Delegated { gtid, member: member("inventory"), digest, begun_at_ms }
}

/// 'Attempt 1 sent', of [`commit`]'s branches.
pub(super) fn attempted(gtid: Gtid) -> Attempted {
    let seat = |participant: &str, store| Seat {
        participant: name(participant),
        branch: member(participant).branch,
        address: PeerAddress::new(&format!("http://{participant}.example:7421/\"'\\")).expect("an address"),
        store: StoreId(store),
    };
    let seats = vec![seat("inventory", u128::MAX), seat("billing", 1)];
    let roster = Roster::new(seats, StoreId(u128::MAX / 3)).expect("a roster");
    Attempted { gtid, roster, digest: BodyDigest(0xfeed_0000_0000_0001), begun_at_ms: NOW_MS - 20 }
}

/// The log as a voter moves on.
pub(super) fn moved(gtid: Gtid, before: VoterState, state: VoterState) -> Record {
    let roster = Some(attempted(gtid).roster);
    let (voter, is_read_only, before) = (VoterName::Log, false, Some(before));
    Record::Voter(Box::new(VoterRecord { gtid, voter, roster, is_read_only, state, before }))
}

/// A saga of four steps, the middle two in parallel.
pub(super) fn saga(gtid: Gtid) -> SagaStarted {
    let step = |step: &str, participant: &str, after: &[u16]| StepDefinition {
        name: name(step),
        participant: name(participant),
        input: Bytes::from(format!("{step} \u{0}\u{ff}, please").into_bytes()),
        after: after.iter().copied().map(StepIndex).collect(),
        retry: RetryPolicy { non_retryable: vec!["sold-out".to_owned()], ..RetryPolicy::default() },
        compensation_retry: RetryPolicy { attempts_max: 5, ..RetryPolicy::default() },
        pivot: step == "pay",
        durable: step == "flight",
    };
    let steps = vec![
        step("reserve", "inventory", &[]),
        step("flight", "airline", &[0]),
        step("hotel", "hotels", &[0]),
        step("pay", "billing", &[1, 2]),
    ];
    let definition = Definition::new(steps).expect("a saga");
    SagaStarted { gtid, definition, digest: BodyDigest(u64::MAX - 6), begun_at_ms: NOW_MS - 20 }
}

pub(super) fn done(gtid: Gtid, step: u16, output: &str) -> SagaStep {
    let result = StepResult::Done(Bytes::copy_from_slice(output.as_bytes()));
    SagaStep { gtid, step: StepIndex(step), compensation: false, attempt: 1, result }
}

pub(super) fn turned(gtid: Gtid, reason: &str) -> SagaTurned {
    SagaTurned { gtid, reason: reason.to_owned() }
}

pub(super) fn paused(gtid: Gtid, remedy: Option<&str>) -> SagaPaused {
    SagaPaused { gtid, remedy: remedy.map(str::to_owned) }
}

/// The end of [`saga`].
pub(super) fn saga_ended(gtid: Gtid, outcome: Outcome) -> Ended {
    let started = saga(gtid);
    let is_completed = outcome == Outcome::Completed;
    let end = if is_completed { BranchEnd::Completed } else { BranchEnd::Compensated };
    let steps = started.definition.steps().iter();
    let branches = steps.map(|step| EndedBranch {
        participant: step.participant.clone(),
        branch: BranchId::NONE,
        step: Some(step.name.clone()),
        end,
    });
    let outputs = [(StepIndex(0), Bytes::from_static(b"r-1")), (StepIndex(3), Bytes::new())];
    Ended {
        gtid,
        protocol: Protocol::Saga,
        outcome,
        has_open_row: true,
        begun_at_ms: started.begun_at_ms,
        digest: started.digest,
        reason: (!is_completed).then(|| "no seats".to_owned()),
        branches: branches.collect(),
        outputs: if is_completed { outputs.into() } else { Vec::new() },
    }
}

pub(super) fn forced(records: impl IntoIterator<Item = Record>) -> Batch {
    Batch { at_ms: NOW_MS, forced: records.into_iter().collect(), lazy: Vec::new() }
}

pub(super) fn lazy(records: impl IntoIterator<Item = Record>) -> Batch {
    Batch { at_ms: NOW_MS, forced: Vec::new(), lazy: records.into_iter().collect() }
}

/// Appends, and gives the answers in short: `None` for durable, else who overruled.
pub(super) async fn append(log: &Arc<dyn Log>, batch: &Batch) -> Vec<Option<Decision>> {
    let answers = log.append(batch).await.expect("the log is there");
    assert_eq!(answers.len(), batch.forced.len(), "one answer for each forced record");
    let short = answers.into_iter().zip(&batch.forced).map(|(answer, record)| match answer {
        Appended::Durable(receipt) => {
            assert_eq!(receipt.gtid(), record.gtid(), "a receipt is for its own transaction");
            None
        }
        Appended::Overruled { decision, .. } => Some(decision),
        Appended::Undecided => panic!("{record:?} met a row without a decision"),
    });
    short.collect()
}

pub(super) async fn find(log: &Arc<dyn Log>, gtid: Gtid) -> Option<Found> {
    let found = log.lookup(&[gtid]).await.expect("the log is there");
    assert!(found.len() <= 1 && found.iter().all(|(found, _)| *found == gtid), "{found:?}");
    found.into_iter().next().map(|(_, found)| found)
}
