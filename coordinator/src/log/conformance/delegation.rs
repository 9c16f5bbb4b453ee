//! Delegations: a row without a decision, whose only branch decides.

use assent_protocol::record::{Attempted, Decided, Delegated, Ended};
use assent_protocol::three_phase::VoterState;
use assent_protocol::{Appended, BodyDigest, BranchEnd, Decision, Gtid, Outcome, Protocol, Record};

use super::sample::{self, NOW_MS, abort, append, attempted, branch, commit, decided, delegated, find, forced, gtid};
use super::sample::{lazy, moved, name};
use super::{Ground, SharedGround, start, two_live};
use crate::log::{Batch, Found, Log, OpenTransaction, Owned, State};
use std::sync::Arc;

/// The end of a transaction that was delegated.
fn ended(gtid: Gtid, outcome: Outcome, end: BranchEnd) -> Record {
    let decision = if outcome == Outcome::Committed { Decision::Commit } else { Decision::Abort };
    Record::Ended(Ended { branches: vec![branch("inventory", end)], ..sample::ended(gtid, decision) })
}

async fn delegate(log: &Arc<dyn Log>, n: u64) {
    assert_eq!(append(log, &forced([Record::Delegated(delegated(gtid(n)))])).await, [None]);
}

async fn is_untold(log: &Arc<dyn Log>, record: Record) {
    let answers = log.append(&forced([record.clone()])).await.expect("there");
    assert_eq!(answers, [Appended::Undecided], "{record:?}");
}

/// What is confirmed can be read, every field of it, and is taken over by a new epoch.
pub async fn a_delegation_is_found_as_it_was_written(ground: &dyn Ground) {
    let log = ground.open().await;
    let owner = log.acquire(&name("r1")).await.expect("free");
    let batch = forced([Record::Delegated(delegated(gtid(1))), Record::Decided(commit(gtid(2)))]);
    assert_eq!(append(&log, &batch).await, [None, None]);
    assert_eq!(append(&log, &batch).await, [None, None], "the committer repeats what it is unsure about");
    let open = |owner| OpenTransaction::Delegated { record: delegated(gtid(1)), delegated_at_ms: NOW_MS, owner };
    assert_eq!(find(&log, gtid(1)).await, Some(Found::Open(open(owner))));
    let shown = log.show(gtid(1)).await.expect("there").expect("known").transaction;
    assert_eq!(
        (shown.state, shown.decided_at_ms, shown.participants),
        (State::Preparing, None, vec![name("inventory")])
    );
    let heir = log.acquire(&name("r1")).await.expect("ours");
    let (first, read) = log.open_transactions(None, 10).await.expect("there").swap_remove(0);
    assert_eq!((first, read.map(Owned::into_inner)), (gtid(1), Ok(open(heir))));
}

/// First writer wins: a presumed abort and a delegation, in either order. Over a delegation its
/// owner alone decides.
pub async fn a_delegation_is_its_owners(ground: &dyn SharedGround) {
    let (log, other) = two_live(ground).await;
    append(&log, &forced([Record::Decided(abort(gtid(1)))])).await;
    assert_eq!(append(&log, &forced([Record::Delegated(delegated(gtid(1)))])).await, [Some(Decision::Abort)]);
    append(&log, &lazy([Record::Ended(sample::ended(gtid(1), Decision::Abort))])).await;
    assert_eq!(append(&log, &forced([Record::Delegated(delegated(gtid(1)))])).await, [Some(Decision::Abort)], "ended");

    delegate(&log, 2).await;
    let untouched = find(&log, gtid(2)).await;
    is_untold(&log, Record::Delegated(Delegated { digest: BodyDigest(3), ..delegated(gtid(2)) })).await;
    is_untold(&log, Record::Attempted(attempted(gtid(2)))).await;
    is_untold(&log, Record::Agreed(Decided { protocol: Protocol::ThreePhase, ..commit(gtid(2)) })).await;
    is_untold(&log, moved(gtid(2), VoterState::ATTEMPTED, VoterState::ATTEMPTED)).await;
    is_untold(&log, Record::SagaTurned(sample::turned(gtid(2), "no"))).await;
    let three_phase = Ended { protocol: Protocol::ThreePhase, ..sample::ended(gtid(2), Decision::Abort) };
    is_untold(&log, Record::Ended(three_phase)).await;
    let taken = append(&log, &forced([Record::SagaStarted(sample::saga(gtid(2)))])).await;
    assert_eq!(taken, [Some(Decision::Commit)], "taken");
    // An abort that was never logged is none of its owner's.
    let unopened = Ended { has_open_row: false, ..sample::ended(gtid(2), Decision::Abort) };
    append(&log, &lazy([Record::Ended(unopened)])).await;
    assert_eq!(find(&log, gtid(2)).await, untouched);

    for record in [Record::Decided(abort(gtid(2))), Record::Delegated(delegated(gtid(2)))] {
        is_untold(&other, record).await;
    }
    append(&other, &lazy([ended(gtid(2), Outcome::Aborted, BranchEnd::Aborted)])).await;
    assert_eq!(find(&log, gtid(2)).await, untouched, "another replica cannot know how it ended");
}

/// A branch that prepares instead, one that had nothing to commit, an abort before the order: then
/// the row gets a decision.
pub async fn a_decision_is_written_over_its_own_delegation(ground: &dyn Ground) {
    let log = ground.open().await;
    let owner = log.acquire(&name("r1")).await.expect("free");
    let decisions = [
        Decided { begun_at_ms: delegated(gtid(1)).begun_at_ms, ..decided(gtid(1), Decision::Commit, &["inventory"]) },
        decided(gtid(2), Decision::Commit, &[]),
        decided(gtid(3), Decision::Abort, &[]),
    ];
    let mut batch = forced(decisions.iter().cloned().map(Record::Decided));
    batch.at_ms = NOW_MS + 7;
    // One more that has no row yet.
    batch.forced.push(Record::Decided(commit(gtid(4))));
    for n in 1..=3 {
        delegate(&log, n).await;
    }
    assert_eq!(append(&log, &batch).await, [None; 4]);
    assert_eq!(append(&log, &batch).await, [None; 4], "the committer repeats what it is unsure about");
    for record in decisions {
        let found = find(&log, record.gtid).await;
        let open = OpenTransaction::Decided { record, roster: None, decided_at_ms: NOW_MS + 7, owner };
        assert_eq!(found, Some(Found::Open(open)));
    }
    assert_eq!(append(&log, &forced([Record::Decided(abort(gtid(1)))])).await, [Some(Decision::Commit)], "I3");
    let late = Record::Ended(Ended {
        branches: vec![branch("inventory", BranchEnd::Aborted)],
        ..sample::ended(gtid(1), Decision::Abort)
    });
    append(&log, &lazy([late])).await;
    assert!(matches!(find(&log, gtid(1)).await, Some(Found::Open(_))), "an end never contradicts the decision");
}

/// The branch has told how it ended: that comes with the end.
pub async fn an_end_brings_what_the_only_branch_did(ground: &dyn Ground) {
    let log = start(ground).await;
    let ends = [
        (1, Outcome::Committed, BranchEnd::Committed),
        (2, Outcome::Aborted, BranchEnd::Aborted),
        (3, Outcome::Aborted, BranchEnd::NotStarted),
    ];
    for (n, ..) in ends {
        delegate(&log, n).await;
    }
    let records = ends.map(|(n, outcome, end)| ended(gtid(n), outcome, end));
    let batch = Batch { at_ms: NOW_MS + 9, ..lazy(records.iter().cloned()) };
    append(&log, &batch).await;
    append(&log, &batch).await;
    for ((n, outcome, end), record) in ends.iter().zip(records) {
        let Some(Found::Ended(found)) = find(&log, gtid(*n)).await else { panic!("{outcome} is lost") };
        assert_eq!((found.decided_at_ms, found.ended_at_ms), (Some(NOW_MS + 9), NOW_MS + 9));
        assert_eq!(found.record.branches[0].end, *end);
        let Record::Ended(written) = record else { panic!("an end") };
        assert_eq!(found.record, Ended { has_open_row: false, ..written });
    }
    let presumed = append(&log, &forced([Record::Decided(abort(gtid(1))), Record::Decided(commit(gtid(2)))])).await;
    assert_eq!(presumed, [Some(Decision::Commit), Some(Decision::Abort)], "what ended stands");
    // Beside a branch that had nothing to commit.
    delegate(&log, 4).await;
    let branches = vec![branch("reader", BranchEnd::ReadOnly), branch("inventory", BranchEnd::Committed)];
    let both = Ended { branches: branches.clone(), ..sample::ended(gtid(4), Decision::Commit) };
    append(&log, &lazy([Record::Ended(both)])).await;
    let Some(Found::Ended(found)) = find(&log, gtid(4)).await else { panic!("it is lost") };
    assert_eq!(found.record.branches, branches);
    let attempt = Record::Attempted(Attempted { ..attempted(gtid(4)) });
    assert_eq!(append(&log, &forced([attempt])).await, [Some(Decision::Commit)]);
}
