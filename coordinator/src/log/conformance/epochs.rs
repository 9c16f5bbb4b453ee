//! Epochs: who may append, and who no longer may.

use std::sync::Arc;
use std::time::Duration;

use assent_protocol::{Decision, Epoch, Gtid, Record};

use super::sample::{NOW_MS, abort, append, commit, ended, find, forced, gtid, lazy, name, saga};
use super::{Ground, SharedGround, start, two_live};
use crate::log::{AppendError, Batch, Filter, Found, Log, OpenTransaction};

/// Epochs order: the newer one is the higher one.
pub async fn epochs_only_rise(ground: &dyn Ground) {
    let log = ground.open().await;
    let mut last = Epoch(0);
    for replica in ["r1", "r2", "r1", "r1", "r3"] {
        let epoch = log.acquire(&name(replica)).await.expect("free");
        assert!(epoch > last, "{epoch:?} after {last:?}");
        last = epoch;
    }
    assert_eq!(append(&log, &forced([Record::Decided(commit(gtid(1)))])).await, [None], "the last one holds");
}

/// Who has no epoch is nobody.
pub async fn without_an_epoch_nothing_is_appended(ground: &dyn Ground) {
    let log = ground.open().await;
    let error = log.append(&forced([Record::Decided(commit(gtid(1)))])).await.expect_err("no epoch");
    assert!(error.is_fenced(), "{error}");
    assert_eq!(find(&log, gtid(1)).await, None);
    assert_eq!(log.open_transactions(None, 10).await.expect("there"), []);
}

/// I7: what a fenced replica still sends has no effect at all.
pub async fn a_fenced_epoch_changes_nothing(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced([Record::Decided(commit(gtid(1))), Record::SagaStarted(saga(gtid(2)))])).await;
    let all: Vec<Gtid> = (1..=9).map(gtid).collect();
    let rival = ground.rival_acquires(&name("r1")).await;
    let before = log.lookup(&all).await.expect("there");
    let batch = Batch {
        at_ms: NOW_MS,
        forced: vec![
            Record::Decided(commit(gtid(3))),
            Record::Decided(abort(gtid(4))),
            Record::SagaStarted(saga(gtid(5))),
            Record::SagaTurned(super::sample::turned(gtid(2), "no")),
        ],
        lazy: vec![
            Record::SagaStep(super::sample::done(gtid(2), 0, "r-1")),
            Record::Ended(ended(gtid(1), Decision::Commit)),
            Record::Ended(ended(gtid(6), Decision::Abort)),
        ],
    };
    for _ in 0..2 {
        match log.append(&batch).await {
            Err(AppendError::Fenced { held, current }) => assert!(current == rival && held < rival),
            other => panic!("a fenced append was answered with {other:?}"),
        }
        assert_eq!(log.lookup(&all).await.expect("there"), before);
    }
    // Under a new epoch it may append again.
    log.acquire(&name("r1")).await.expect("free");
    assert_eq!(append(&log, &forced([Record::Decided(commit(gtid(3)))])).await, [None]);
}

/// Whoever drives owns all that is open: what it had, and what a replica of another name has left
/// behind.
pub async fn a_new_epoch_takes_over_all_that_is_open(ground: &dyn Ground) {
    let log = ground.open().await;
    log.acquire(&name("r2")).await.expect("free");
    append(&log, &forced([Record::Decided(commit(gtid(1)))])).await;
    log.acquire(&name("r1")).await.expect("it gives up its own lease");
    append(&log, &forced([Record::Decided(commit(gtid(2))), Record::SagaStarted(saga(gtid(3)))])).await;
    let mine = log.acquire(&name("r1")).await.expect("free");
    let open = log.open_transactions(None, 10).await.expect("there");
    let owners: Vec<Epoch> = open.into_iter().map(|(_, read)| read.expect("readable").owner()).collect();
    assert_eq!(owners, [mine; 3]);
}

/// After `close` there is no half-open state.
pub async fn a_closed_log_answers_with_errors(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced([Record::Decided(commit(gtid(1)))])).await;
    log.close().await;
    log.close().await;
    let error = log.append(&forced([Record::Decided(commit(gtid(2)))])).await.expect_err("closed");
    assert!(!error.is_fenced(), "{error}");
    log.ping().await.expect_err("closed");
    log.lookup(&[gtid(1)]).await.expect_err("closed");
    log.list(&Filter::default(), None, 1).await.expect_err("closed");
    log.note_participant(&name("inventory")).await.expect_err("closed");
    log.maintain(NOW_MS, Duration::from_secs(1)).await.expect_err("closed");
    log.acquire(&name("r1")).await.expect_err("closed");
    assert!(!log.describe().is_empty());
    let again = start(ground).await;
    assert!(matches!(find(&again, gtid(1)).await, Some(Found::Open(_))), "what was confirmed is there");
    assert_eq!(find(&again, gtid(2)).await, None);
}

/// I3 with two writers at once: each decision has one winner, and every loser learns who.
pub async fn replicas_that_race_agree_on_every_decision(ground: &dyn SharedGround) {
    let (one, two) = two_live(ground).await;
    for round in 0..20 {
        let gtids: Vec<Gtid> = (0..50).map(|n| gtid(round * 50 + n)).collect();
        let commits = forced(gtids.iter().map(|gtid| Record::Decided(commit(*gtid))));
        // In the other order: they meet in the middle, and must not wait for each other for ever.
        let aborts = forced(gtids.iter().rev().map(|gtid| Record::Decided(abort(*gtid))));
        let (commits, mut aborts) = tokio::join!(race(&one, &commits), race(&two, &aborts));
        aborts.reverse();
        for ((gtid, commit), abort) in gtids.iter().zip(commits).zip(aborts) {
            let is_one = matches!((commit, abort), (None, Some(Decision::Commit)) | (Some(Decision::Abort), None));
            assert!(is_one, "{gtid}: {commit:?}, {abort:?}");
            let Some(Found::Open(OpenTransaction::Decided { record, .. })) = find(&one, *gtid).await else {
                panic!("{gtid} is open")
            };
            assert_eq!(record.decision == Decision::Commit, commit.is_none(), "{gtid}");
        }
        append(&one, &lazy(gtids.iter().map(|gtid| Record::Ended(ended(*gtid, Decision::Commit))))).await;
    }
}

/// As the committer does it: the same batch until it is confirmed.
async fn race(log: &Arc<dyn Log>, batch: &Batch) -> Vec<Option<Decision>> {
    for _ in 0..100 {
        match log.append(batch).await {
            Ok(_) => return append(log, batch).await,
            Err(error) => assert!(!error.is_fenced(), "{error}"),
        }
    }
    panic!("the writers wait for each other for ever");
}

/// Epochs order across replicas.
pub async fn replicas_draw_epochs_from_one_sequence(ground: &dyn SharedGround) {
    let (one, two) = (ground.open().await, ground.open().await);
    let mut last = Epoch(0);
    for n in 0..10 {
        let (log, replica) = if n % 2 == 0 { (&one, "r1") } else { (&two, "r2") };
        ground.leases_lapse().await;
        let epoch = log.acquire(&name(replica)).await.expect("free");
        assert!(epoch > last);
        last = epoch;
    }
    ground.leases_lapse().await;
    let (a, b) = tokio::join!(race_for_name(&one), race_for_name(&two));
    let winner = if a > b { &one } else { &two };
    let loser = if a > b { &two } else { &one };
    assert_eq!(append(winner, &forced([Record::Decided(commit(gtid(1)))])).await, [None]);
    assert!(loser.append(&forced([Record::Decided(commit(gtid(2)))])).await.expect_err("fenced").is_fenced());
}

async fn race_for_name(log: &Arc<dyn Log>) -> Epoch {
    let mut epoch = Epoch(0);
    for _ in 0..5 {
        epoch = log.acquire(&name("contended")).await.expect("there");
    }
    epoch
}

/// The message that a person reads in the zombie's output.
pub async fn a_zombie_is_told_which_epoch_fenced_it(ground: &dyn Ground) {
    let (zombie, heir) = (ground.open().await, ground.open().await);
    let old = zombie.acquire(&name("r1")).await.expect("free");
    append(&zombie, &forced([Record::Decided(commit(gtid(1)))])).await;
    let new = heir.acquire(&name("r1")).await.expect("free");
    match zombie.append(&forced([Record::Decided(commit(gtid(2)))])).await {
        Err(AppendError::Fenced { held, current }) => assert_eq!((held, current), (old, new)),
        other => panic!("{other:?}"),
    }
    // The heir has everything, and goes on.
    assert_eq!(heir.open_transactions(None, 10).await.expect("there").len(), 1);
    assert_eq!(append(&heir, &lazy([Record::Ended(ended(gtid(1), Decision::Commit))])).await, []);
    assert!(matches!(find(&heir, gtid(1)).await, Some(Found::Ended(_))));
}
