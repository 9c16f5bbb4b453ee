//! Recovery, lookups and listings.

use std::sync::Arc;

use assent_protocol::record::Decided;
use assent_protocol::{Decision, Gtid, Outcome, Record};

use super::sample::{
    self, NOW_MS, abort, append, commit, done, ended, find, forced, gtid, lazy, name, paused, saga, saga_ended, turned,
};
use super::{Ground, start};
use crate::log::{Filter, Found, Kind, Log, PageToken, State};

/// However many there are, recovery sees each once.
pub async fn recovery_pages_through_all_that_is_open(ground: &dyn Ground) {
    let log = start(ground).await;
    let even = (0..20).filter(|n| n % 2 == 0).map(|n| Record::Decided(commit(gtid(n))));
    let odd = (0..20).filter(|n| n % 2 == 1).map(|n| Record::SagaStarted(saga(gtid(n))));
    append(&log, &forced(even.chain(odd))).await;
    let mut seen: Vec<Gtid> = Vec::new();
    loop {
        let page = log.open_transactions(seen.last().copied(), 7).await.expect("there");
        let is_last = page.len() < 7;
        seen.extend(page.into_iter().map(|(gtid, read)| {
            assert_eq!(read.expect("readable").gtid(), gtid);
            gtid
        }));
        if is_last {
            break;
        }
    }
    assert_eq!(seen, (0..20).map(gtid).collect::<Vec<_>>());
}

/// One damaged row is one parked transaction.
pub async fn an_unreadable_row_stops_no_other(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced((1..=3).map(|n| Record::SagaStarted(saga(gtid(n)))))).await;
    append(&log, &lazy([Record::SagaStep(done(gtid(2), 0, "r"))])).await;
    ground.spoil(gtid(2)).await;
    let read = log.open_transactions(None, 10).await.expect("the others are fine");
    assert_eq!(read.iter().map(|(gtid, _)| *gtid).collect::<Vec<_>>(), [1, 2, 3].map(gtid));
    assert!(read[0].1.is_ok() && read[2].1.is_ok());
    let unreadable = read[1].1.as_ref().expect_err("damaged");
    assert_eq!(unreadable.gtid, gtid(2));
    assert!(!unreadable.reason.is_empty() && unreadable.to_string().contains(&gtid(2).to_string()));
    assert!(matches!(find(&log, gtid(2)).await, Some(Found::Unreadable(_))));
    assert!(matches!(find(&log, gtid(3)).await, Some(Found::Open(_))));
    let page = log.list(&Filter::default(), None, 10).await.expect("there");
    assert_eq!(page.transactions.len(), 3, "an operator sees it");
    let shown = log.show(gtid(2)).await.expect("there").expect("known");
    assert!(matches!(shown.found, Found::Unreadable(_)));
    // It still has the first writer's rights.
    assert_eq!(append(&log, &forced([Record::Decided(abort(gtid(2)))])).await, [Some(Decision::Commit)]);
}

/// Unknown is not an error, and asking twice is not two answers.
pub async fn lookup_leaves_out_what_is_unknown(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced([Record::Decided(commit(gtid(1))), Record::Decided(commit(gtid(3)))])).await;
    append(&log, &lazy([Record::Ended(ended(gtid(1), Decision::Commit))])).await;
    let found = log.lookup(&[3, 2, 1, 3].map(gtid)).await.expect("there");
    assert_eq!(found.iter().map(|(gtid, _)| *gtid).collect::<Vec<_>>(), [gtid(1), gtid(3)], "by gtid");
    assert_eq!(log.lookup(&[]).await.expect("there"), []);
    assert_eq!(log.show(gtid(2)).await.expect("there"), None);
}

async fn listed(log: &Arc<dyn Log>, filter: Filter) -> Vec<u64> {
    let page = log.list(&filter, None, 100).await.expect("there");
    assert_eq!(page.next, None);
    let numbers = page.transactions.iter().map(|one| {
        let bytes = one.gtid.as_bytes();
        u64::from(bytes[15])
    });
    numbers.collect()
}

/// By state, participant, age and kind, and by all at once.
pub async fn a_listing_filters(ground: &dyn Ground) {
    let log = start(ground).await;
    let old =
        Decided { begun_at_ms: NOW_MS - 5_000, ..sample::decided(gtid(1), Decision::Commit, &["inventory", "bill"]) };
    append(
        &log,
        &forced([
            Record::Decided(old),
            Record::Decided(abort(gtid(2))),
            Record::Decided(commit(gtid(3))),
            Record::Decided(abort(gtid(4))),
            Record::SagaStarted(saga(gtid(5))),
            Record::SagaStarted(saga(gtid(6))),
            Record::SagaStarted(saga(gtid(7))),
            Record::SagaStarted(saga(gtid(8))),
            Record::SagaStarted(saga(gtid(9))),
            Record::Attempted(sample::attempted(gtid(10))),
        ]),
    )
    .await;
    append(&log, &forced([Record::SagaTurned(turned(gtid(6), "no")), Record::SagaTurned(turned(gtid(9), "no"))])).await;
    append(
        &log,
        &lazy([
            Record::SagaPaused(paused(gtid(7), Some("pay"))),
            Record::Ended(ended(gtid(3), Decision::Commit)),
            Record::Ended(ended(gtid(4), Decision::Abort)),
            Record::Ended(saga_ended(gtid(8), Outcome::Completed)),
            Record::Ended(saga_ended(gtid(9), Outcome::Compensated)),
        ]),
    )
    .await;
    let all = Filter::default();
    assert_eq!(listed(&log, all.clone()).await, [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
    for (state, n) in State::ALL.into_iter().zip([10, 1, 2, 5, 6, 7, 3, 4, 8, 9]) {
        assert_eq!(listed(&log, Filter { states: vec![state], ..all.clone() }).await, [n], "{state}");
        assert_eq!(log.show(gtid(n)).await.expect("there").expect("known").transaction.state, state);
    }
    let states = vec![State::Paused, State::Committed];
    assert_eq!(listed(&log, Filter { states, ..all.clone() }).await, [7, 3]);
    assert_eq!(listed(&log, Filter { kind: Some(Kind::Saga), ..all.clone() }).await, [9, 8, 7, 6, 5]);
    assert_eq!(listed(&log, Filter { kind: Some(Kind::Commit), ..all.clone() }).await, [10, 4, 3, 2, 1]);
    let by = |participant| Filter { participant: Some(name(participant)), ..Filter::default() };
    assert_eq!(listed(&log, by("billing")).await, [10, 9, 8, 7, 6, 5, 4, 3, 2]);
    assert_eq!(listed(&log, by("bill")).await, [1], "a name is not a prefix");
    assert_eq!(listed(&log, by("hotels")).await, [9, 8, 7, 6, 5]);
    assert_eq!(listed(&log, by("hotel")).await, [0_u64; 0], "a step's name is no participant");
    assert_eq!(listed(&log, by("completed")).await, [0_u64; 0]);
    let old = Filter { begun_before_ms: Some(NOW_MS - 1_000), ..Filter::default() };
    assert_eq!(listed(&log, old).await, [1]);
    let narrow = Filter {
        states: vec![State::Aborting, State::Aborted],
        participant: Some(name("inventory")),
        begun_before_ms: Some(NOW_MS),
        kind: Some(Kind::Commit),
    };
    assert_eq!(listed(&log, narrow).await, [4, 2]);
}

/// Page tokens: nothing twice, nothing left out, whatever arrives in between.
pub async fn a_listing_pages_from_the_newest(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced((0..25).map(|n| Record::Decided(commit(gtid(n)))))).await;
    append(&log, &lazy((5..15).map(|n| Record::Ended(ended(gtid(n), Decision::Commit))))).await;
    let mut seen = Vec::new();
    let mut token: Option<PageToken> = None;
    for _ in 0..9 {
        let page = log.list(&Filter::default(), token.as_ref(), 4).await.expect("there");
        assert!(page.transactions.len() <= 4);
        seen.extend(page.transactions.iter().map(|one| one.gtid));
        // Newer ones, and ends, do not disturb those who page on.
        let fresh = 100 + u64::try_from(seen.len()).expect("few");
        append(&log, &forced([Record::Decided(commit(gtid(fresh)))])).await;
        token = page.next.map(|next| next.to_string().parse().expect("tokens travel as text"));
        if token.is_none() {
            break;
        }
    }
    assert_eq!(token, None);
    assert_eq!(seen, (0..25).rev().map(gtid).collect::<Vec<_>>());
    let exact =
        log.list(&Filter { states: vec![State::Committed], ..Filter::default() }, None, 10).await.expect("there");
    assert_eq!((exact.transactions.len(), exact.next), (10, None), "a full last page is the last page");
    assert!("not a token".parse::<PageToken>().is_err());
}

/// The registry that tells a typing mistake from a participant that is away.
pub async fn participants_are_noted_once(ground: &dyn Ground) {
    let log = start(ground).await;
    assert_eq!(log.participants().await.expect("there"), []);
    for participant in ["inventory", "billing", "inventory", "a.b", "a-b"] {
        log.note_participant(&name(participant)).await.expect("there");
    }
    let noted = log.participants().await.expect("there");
    assert_eq!(noted, ["a-b", "a.b", "billing", "inventory"].map(name));
}

/// Operators and recovery do not wait for the committer, nor the other way round.
pub async fn reads_go_on_beside_appends(ground: &dyn Ground) {
    let log = start(ground).await;
    let writing = async {
        for n in 0..40 {
            append(&log, &forced([Record::Decided(commit(gtid(n)))])).await;
            append(&log, &lazy([Record::Ended(ended(gtid(n), Decision::Commit))])).await;
        }
    };
    let reading = async || {
        for _ in 0..40 {
            let found = log.lookup(&(0..40).map(gtid).collect::<Vec<_>>()).await.expect("there");
            // They were written in this order, and none is ever between the tables.
            assert_eq!(
                found.iter().map(|(gtid, _)| *gtid).collect::<Vec<_>>(),
                (0..found.len() as u64).map(gtid).collect::<Vec<_>>()
            );
            log.list(&Filter::default(), None, 10).await.expect("there");
            log.ping().await.expect("there");
            log.note_participant(&name("inventory")).await.expect("there");
        }
    };
    tokio::join!(writing, reading(), reading());
}
