//! Decisions: the first writer wins, and repetition does no harm.

use assent_protocol::record::Decided;
use assent_protocol::{BodyDigest, Decision, Gtid, Protocol, Record};

use super::sample::{self, NOW_MS, abort, append, commit, decided, ended, find, forced, gtid, lazy, name};
use super::{Ground, start};
use crate::log::{Batch, Found, OpenTransaction};

/// What is confirmed can be read, every field of it.
pub async fn a_decision_is_found_as_it_was_written(ground: &dyn Ground) {
    let log = ground.open().await;
    let owner = log.acquire(&name("r1")).await.expect("free");
    let three_phase = Decided { protocol: Protocol::ThreePhase, digest: BodyDigest(0), ..commit(gtid(3)) };
    let nobody = decided(gtid(4), Decision::Abort, &[]);
    let records = [commit(gtid(1)), abort(gtid(2)), three_phase, nobody];
    let batch = forced(records.iter().cloned().map(Record::Decided));
    assert_eq!(append(&log, &batch).await, [None; 4]);
    for record in records {
        let found = find(&log, record.gtid).await;
        let open = OpenTransaction::Decided { record, roster: None, decided_at_ms: NOW_MS, owner };
        assert_eq!(found, Some(Found::Open(open)));
    }
}

/// I3.
pub async fn the_first_decision_wins(ground: &dyn Ground) {
    let log = start(ground).await;
    let first = forced([Record::Decided(commit(gtid(1))), Record::Decided(abort(gtid(2)))]);
    assert_eq!(append(&log, &first).await, [None, None]);
    let second =
        forced([Record::Decided(abort(gtid(1))), Record::Decided(commit(gtid(2))), Record::Decided(commit(gtid(3)))]);
    assert_eq!(append(&log, &second).await, [Some(Decision::Commit), Some(Decision::Abort), None]);
    // The same decision once more, from whomever, is no contradiction.
    let same = Decided { digest: BodyDigest(5), ..commit(gtid(1)) };
    assert_eq!(append(&log, &forced([Record::Decided(same)])).await, [None]);
    let Some(Found::Open(OpenTransaction::Decided { record, .. })) = find(&log, gtid(1)).await else { panic!("open") };
    assert_eq!(record, commit(gtid(1)), "what was written first stays");
}

/// I3, and the move to history changes nothing about it.
pub async fn the_first_decision_wins_after_the_end_too(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced([Record::Decided(commit(gtid(1))), Record::Decided(abort(gtid(2)))])).await;
    let ends = [ended(gtid(1), Decision::Commit), ended(gtid(2), Decision::Abort)];
    append(&log, &lazy(ends.into_iter().map(Record::Ended))).await;
    let late = forced([
        Record::Decided(abort(gtid(1))),
        Record::Decided(commit(gtid(2))),
        Record::Decided(commit(gtid(1))),
        Record::Decided(commit(gtid(3))),
    ]);
    assert_eq!(append(&log, &late).await, [Some(Decision::Commit), Some(Decision::Abort), None, None]);
    assert!(matches!(find(&log, gtid(1)).await, Some(Found::Ended(_))), "an ended transaction never opens again");
    assert!(matches!(find(&log, gtid(2)).await, Some(Found::Ended(_))), "an ended transaction never opens again");
}

/// Two parts of one process may decide in the same batch: one of them is overruled, and told so.
pub async fn the_first_decision_wins_within_one_batch(ground: &dyn Ground) {
    let log = start(ground).await;
    let both = forced([Record::Decided(commit(gtid(1))), Record::Decided(abort(gtid(1)))]);
    let answers = append(&log, &both).await;
    let standing = match find(&log, gtid(1)).await {
        Some(Found::Open(OpenTransaction::Decided { record, .. })) => record.decision,
        other => panic!("one of them stands, not {other:?}"),
    };
    let expected = [Decision::Commit, Decision::Abort].map(|mine| (mine != standing).then_some(standing));
    assert_eq!(answers, expected);
}

/// Group commit: no number of records is too large.
pub async fn a_batch_of_thousands_is_one_append(ground: &dyn Ground) {
    let log = start(ground).await;
    let gtids: Vec<Gtid> = (0..3_000).map(gtid).collect();
    let decisions = forced(gtids.iter().map(|gtid| Record::Decided(commit(*gtid))));
    assert_eq!(append(&log, &decisions).await, vec![None; gtids.len()]);
    let ends = lazy(gtids.iter().map(|gtid| Record::Ended(ended(*gtid, Decision::Commit))));
    append(&log, &ends).await;
    let found = log.lookup(&gtids).await.expect("there");
    assert_eq!(found.len(), gtids.len());
    assert!(found.iter().all(|(_, found)| matches!(found, Found::Ended(_))));
}

/// The committer repeats what it is unsure about, as often as it has to.
pub async fn a_repeated_batch_answers_the_same_and_changes_nothing(ground: &dyn Ground) {
    let log = start(ground).await;
    let before = forced([
        Record::Decided(commit(gtid(1))),
        Record::Decided(abort(gtid(2))),
        Record::SagaStarted(sample::saga(gtid(3))),
    ]);
    append(&log, &before).await;
    let batch = Batch {
        at_ms: NOW_MS + 5,
        forced: vec![
            Record::Decided(commit(gtid(4))),
            Record::Decided(commit(gtid(2))),
            Record::SagaStarted(sample::saga(gtid(5))),
            Record::SagaTurned(sample::turned(gtid(3), "no seats")),
        ],
        lazy: vec![
            Record::Ended(ended(gtid(1), Decision::Commit)),
            Record::Ended(sample::ended(gtid(6), Decision::Abort)),
            Record::SagaStep(sample::done(gtid(3), 0, "r-1")),
            Record::SagaPaused(sample::paused(gtid(3), Some("call them"))),
        ],
    };
    let first = append(&log, &batch).await;
    assert_eq!(first, [None, Some(Decision::Abort), None, None]);
    let all: Vec<Gtid> = (1..=6).map(gtid).collect();
    let state = log.lookup(&all).await.expect("there");
    for _ in 0..3 {
        assert_eq!(append(&log, &batch).await, first);
        assert_eq!(log.lookup(&all).await.expect("there"), state);
    }
}

/// Presumed abort, made certain: once an in-doubt branch was told "abort", nobody can commit.
pub async fn an_inquirys_abort_stands_against_a_late_commit(ground: &dyn Ground) {
    let log = start(ground).await;
    let answer = decided(gtid(1), Decision::Abort, &["inventory"]);
    assert_eq!(append(&log, &forced([Record::Decided(answer)])).await, [None]);
    assert_eq!(append(&log, &forced([Record::Decided(commit(gtid(1)))])).await, [Some(Decision::Abort)]);
}

/// Nothing to do is done.
pub async fn an_empty_batch_is_durable(ground: &dyn Ground) {
    let log = start(ground).await;
    assert_eq!(append(&log, &forced([])).await, []);
}

/// What a participant makes up must not stop the others' transactions.
pub async fn text_that_databases_dislike_is_taken(ground: &dyn Ground) {
    let log = start(ground).await;
    let reasons =
        ["nul \0 in it", "'; drop table x; --", "\\x00 \u{1F4A9} \"quoted\" {json: [", "", &"long ".repeat(50_000)];
    let records = reasons
        .iter()
        .zip(1..)
        .map(|(reason, n)| Record::Decided(Decided { reason: Some((*reason).to_owned()), ..abort(gtid(n)) }));
    let batch = forced(records);
    assert_eq!(append(&log, &batch).await, vec![None; reasons.len()]);
    let mut sagas = Vec::new();
    for (reason, n) in reasons.iter().zip(100..) {
        sagas.push(Record::SagaTurned(sample::turned(gtid(n), reason)));
        append(&log, &forced([Record::SagaStarted(sample::saga(gtid(n)))])).await;
    }
    assert_eq!(append(&log, &forced(sagas)).await, vec![None; reasons.len()]);
    for (reason, n) in reasons.iter().zip(1..) {
        let shown = log.show(gtid(n)).await.expect("there").expect("known");
        let kept = shown.transaction.reason.expect("kept");
        assert!(kept == *reason || kept == reason.replace('\0', "\u{fffd}"), "{n}");
    }
}

/// A clock that is far off, or a digest with its highest bit set, is no reason to stop.
pub async fn extreme_numbers_are_taken(ground: &dyn Ground) {
    let log = start(ground).await;
    let records = [(0, 0), (u64::MAX, u64::MAX), (1 << 63, 1)];
    let batch = forced(records.iter().zip(1..).map(|((begun_at_ms, digest), n)| {
        Record::Decided(Decided { begun_at_ms: *begun_at_ms, digest: BodyDigest(*digest), ..commit(gtid(n)) })
    }));
    assert_eq!(append(&log, &batch).await, [None; 3]);
    for ((_, digest), n) in records.iter().zip(1..) {
        let Some(Found::Open(open)) = find(&log, gtid(n)).await else { panic!("open") };
        assert_eq!(open.digest(), BodyDigest(*digest));
    }
    let far =
        Batch { at_ms: u64::MAX, lazy: vec![Record::Ended(ended(gtid(1), Decision::Commit))], ..Batch::default() };
    append(&log, &far).await;
    assert!(matches!(find(&log, gtid(1)).await, Some(Found::Ended(_))));
}
