//! Ends, history and retention.

use std::time::Duration;

use assent_protocol::record::Ended;
use assent_protocol::{BranchEnd, Decision, Gtid, Outcome, Record};

use super::sample::{NOW_MS, abort, append, branch, commit, ended, find, forced, gtid, lazy, saga, saga_ended};
use super::{Ground, start};
use crate::log::{Batch, EndedTransaction, Filter, Found};

/// The open table stays small: what has ended is in history, and only there.
pub async fn an_end_moves_the_row_to_history(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced([Record::Decided(commit(gtid(1))), Record::Decided(commit(gtid(2)))])).await;
    let end = Batch {
        at_ms: NOW_MS + 7,
        forced: vec![Record::Decided(commit(gtid(3)))],
        lazy: vec![Record::Ended(ended(gtid(1), Decision::Commit))],
    };
    assert_eq!(append(&log, &end).await, [None]);
    let open: Vec<Gtid> =
        log.open_transactions(None, 10).await.expect("there").into_iter().map(|(gtid, _)| gtid).collect();
    assert_eq!(open, [gtid(2), gtid(3)]);
    let record = Ended { has_open_row: false, ..ended(gtid(1), Decision::Commit) };
    let expected = EndedTransaction { record, decided_at_ms: Some(NOW_MS), ended_at_ms: NOW_MS + 7 };
    assert_eq!(find(&log, gtid(1)).await, Some(Found::Ended(expected)));
}

/// Reasons, read-only and heuristic branches, sagas with outputs: all of it is kept.
pub async fn every_kind_of_end_is_found_as_it_was_written(ground: &dyn Ground) {
    let log = start(ground).await;
    let mixed = [BranchEnd::Committed, BranchEnd::ReadOnly, BranchEnd::HeuristicAborted, BranchEnd::NotStarted];
    let mixed = mixed.into_iter().zip(["a", "b.c", "d_e", "f-9"]).map(|(end, name)| branch(name, end)).collect();
    let undone = [BranchEnd::Compensated, BranchEnd::Abandoned, BranchEnd::NotStarted, BranchEnd::HeuristicCommitted];
    let mut compensated = saga_ended(gtid(5), Outcome::Compensated);
    for (step, end) in compensated.branches.iter_mut().zip(undone) {
        step.end = end;
    }
    let ends = [
        ended(gtid(1), Decision::Commit),
        ended(gtid(2), Decision::Abort),
        Ended { branches: mixed, reason: Some("an operator said so".to_owned()), ..ended(gtid(3), Decision::Commit) },
        saga_ended(gtid(4), Outcome::Completed),
        compensated,
    ];
    let open = forced([
        Record::Decided(commit(gtid(1))),
        Record::Decided(abort(gtid(2))),
        Record::Decided(commit(gtid(3))),
        Record::SagaStarted(saga(gtid(4))),
        Record::SagaStarted(saga(gtid(5))),
    ]);
    append(&log, &open).await;
    append(&log, &forced([Record::SagaTurned(super::sample::turned(gtid(5), "no seats"))])).await;
    assert_eq!(append(&log, &forced(ends[3..].iter().cloned().map(Record::Ended))).await, [None, None]);
    append(&log, &lazy(ends[..3].iter().cloned().map(Record::Ended))).await;
    assert_eq!(log.open_transactions(None, 10).await.expect("there"), []);
    for end in ends {
        let gtid = end.gtid;
        let record = Ended { has_open_row: false, ..end };
        let expected = EndedTransaction { record, decided_at_ms: Some(NOW_MS), ended_at_ms: NOW_MS };
        assert_eq!(find(&log, gtid).await, Some(Found::Ended(expected)));
        let shown = log.show(gtid).await.expect("there").expect("known");
        assert_eq!(Some(shown.found), find(&log, gtid).await);
        assert!(shown.transaction.state.is_final());
    }
}

/// An abort before the decision is history only, and history has it once.
pub async fn an_end_without_a_row_is_written_once(ground: &dyn Ground) {
    let log = start(ground).await;
    let end = Ended {
        has_open_row: false,
        branches: vec![branch("inventory", BranchEnd::Aborted), branch("billing", BranchEnd::NotStarted)],
        ..ended(gtid(1), Decision::Abort)
    };
    let batch = lazy([Record::Ended(end.clone())]);
    append(&log, &batch).await;
    append(&log, &batch).await;
    append(&log, &Batch { at_ms: NOW_MS + 9, ..batch }).await;
    let expected = EndedTransaction { record: end, decided_at_ms: None, ended_at_ms: NOW_MS };
    assert_eq!(find(&log, gtid(1)).await, Some(Found::Ended(expected)));
    let page = log.list(&Filter::default(), None, 10).await.expect("there");
    assert_eq!(page.transactions.len(), 1);
}

/// What one replica gave up in its memory, another may have decided.
pub async fn an_end_without_a_row_yields_to_what_stands(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced([Record::Decided(commit(gtid(1))), Record::Decided(commit(gtid(2)))])).await;
    append(&log, &lazy([Record::Ended(ended(gtid(2), Decision::Commit))])).await;
    let gave_up = |n| Record::Ended(Ended { has_open_row: false, ..ended(gtid(n), Decision::Abort) });
    append(&log, &lazy([gave_up(1), gave_up(2)])).await;
    assert!(matches!(find(&log, gtid(1)).await, Some(Found::Open(_))));
    let Some(Found::Ended(found)) = find(&log, gtid(2)).await else { panic!("ended") };
    assert_eq!(found.record.outcome, Outcome::Committed);
    append(&log, &lazy([Record::Ended(ended(gtid(1), Decision::Commit))])).await;
    let Some(Found::Ended(found)) = find(&log, gtid(1)).await else { panic!("ended") };
    assert_eq!(found.record.outcome, Outcome::Committed);
}

const DAY_MS: u64 = 86_400_000;
const DAY: Duration = Duration::from_millis(DAY_MS);

/// Retention, and the way around it.
pub async fn what_is_old_is_forgotten_unless_it_is_pinned(ground: &dyn Ground) {
    let log = start(ground).await;
    log.maintain(NOW_MS, 7 * DAY).await.expect("there");
    append(&log, &forced((1..=6).map(|n| Record::Decided(commit(gtid(n)))))).await;
    append(&log, &forced([Record::SagaStarted(saga(gtid(7)))])).await;
    for (days, n) in [(0, 1), (0, 2), (0, 3), (3, 4), (3, 5)] {
        let at_ms = NOW_MS + days * DAY_MS;
        append(&log, &Batch { at_ms, ..lazy([Record::Ended(ended(gtid(n), Decision::Commit))]) }).await;
    }
    let end = Batch { at_ms: NOW_MS, ..forced([Record::Ended(saga_ended(gtid(7), Outcome::Completed))]) };
    assert_eq!(append(&log, &end).await, [None]);
    assert!(log.pin(gtid(2), true).await.expect("there"));
    assert!(log.pin(gtid(7), true).await.expect("there"));
    assert!(log.pin(gtid(6), true).await.expect("there"), "an open one can be pinned too");
    let pinned = find(&log, gtid(2)).await;
    let pinned_saga = find(&log, gtid(7)).await;

    let ended_now = |now_days: u64| log.maintain(NOW_MS + now_days * DAY_MS, 7 * DAY);
    ended_now(7).await.expect("there");
    assert!(find(&log, gtid(1)).await.is_some(), "the retention is not over yet");
    for _ in 0..2 {
        ended_now(9).await.expect("there");
        let left = [1, 2, 3, 4, 5, 6, 7].map(gtid);
        let left: Vec<Gtid> = log.lookup(&left).await.expect("there").into_iter().map(|(gtid, _)| gtid).collect();
        assert_eq!(left, [2, 4, 5, 6, 7].map(gtid), "pinned, younger, open");
        assert_eq!(find(&log, gtid(2)).await, pinned);
        assert_eq!(find(&log, gtid(7)).await, pinned_saga);
    }
    assert!(log.pin(gtid(2), false).await.expect("there"));
    ended_now(9).await.expect("there");
    assert_eq!(find(&log, gtid(2)).await, None, "no longer pinned");
    // The one that was pinned while it was open ends, and stays.
    append(&log, &lazy([Record::Ended(ended(gtid(6), Decision::Commit))])).await;
    ended_now(30).await.expect("there");
    let left: Vec<_> = log.lookup(&(1..=7).map(gtid).collect::<Vec<_>>()).await.expect("there");
    assert_eq!(left.into_iter().map(|(gtid, _)| gtid).collect::<Vec<_>>(), [gtid(6), gtid(7)]);
    assert!(log.show(gtid(6)).await.expect("there").expect("kept").transaction.pinned);
    // A kept one still rules over late writers.
    assert_eq!(append(&log, &forced([Record::Decided(abort(gtid(6)))])).await, [Some(Decision::Commit)]);
}

/// A typing mistake is answered as such.
pub async fn a_pin_needs_a_transaction(ground: &dyn Ground) {
    let log = start(ground).await;
    assert!(!log.pin(gtid(1), true).await.expect("there"));
    assert!(!log.pin(gtid(1), false).await.expect("there"));
    append(&log, &forced([Record::Decided(commit(gtid(1)))])).await;
    assert!(!log.show(gtid(1)).await.expect("there").expect("known").transaction.pinned);
    assert!(log.pin(gtid(1), true).await.expect("there"));
    assert!(log.pin(gtid(1), true).await.expect("there"), "twice is once");
    assert!(log.show(gtid(1)).await.expect("there").expect("known").transaction.pinned);
}
