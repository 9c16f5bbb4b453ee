//! Leases: one name drives at a time, and another takes over once it is dead. Rows: each is written
//! by the epoch that owns it.

use std::sync::Arc;

use assent_protocol::record::Ended;
use assent_protocol::{Appended, Decision, Epoch, Gtid, Outcome, Protocol, Record};

use super::sample::{self, abort, append, commit, ended, find, forced, gtid, lazy, name, saga, saga_ended};
use super::{Ground, SharedGround, start, two_live};
use crate::log::{Found, Lease, Log, LogError, Owned};

async fn is_fenced(log: &Arc<dyn Log>) {
    let error = log.append(&forced([Record::Decided(commit(gtid(99)))])).await.expect_err("fenced");
    assert!(error.is_fenced(), "{error}");
    assert_eq!(log.renew().await.expect("there"), Lease::Lost);
}

async fn owned(log: &Arc<dyn Log>) -> Vec<(Gtid, Epoch)> {
    let read = log.open_transactions(None, 100).await.expect("there").into_iter();
    read.map(|(gtid, read)| (gtid, read.map(Owned::into_inner).expect("readable").owner())).collect()
}

/// What a replica that was thought dead is told when it is not.
pub async fn a_lease_is_renewed_until_another_process_takes_over(ground: &dyn Ground) {
    let log = ground.open().await;
    assert_eq!(log.renew().await.expect("there"), Lease::NotAcquired);
    log.acquire(&name("r1")).await.expect("free");
    for _ in 0..2 {
        assert_eq!(log.renew().await.expect("there"), Lease::Renewed);
    }
    ground.rival_acquires(&name("r1")).await;
    for _ in 0..2 {
        assert_eq!(log.renew().await.expect("there"), Lease::Lost);
    }
    log.acquire(&name("r1")).await.expect("free");
    assert_eq!(log.renew().await.expect("there"), Lease::Renewed);
}

/// Two names that drive the same transactions would run each of them twice.
pub async fn a_second_live_name_is_refused(ground: &dyn SharedGround) {
    let (one, two) = (ground.open().await, ground.open().await);
    one.acquire(&name("r1")).await.expect("free");
    append(&one, &forced([Record::Decided(commit(gtid(1)))])).await;
    let before = owned(&one).await;
    for _ in 0..2 {
        let error = two.acquire(&name("r2")).await.expect_err("r1 is alive");
        let LogError::Leased { replica, left, .. } = &error else { panic!("{error:?}") };
        assert!(replica == "r1" && *left <= one.lease(), "{error:?}");
        assert!(error.to_string().contains("--replica r1"), "{error}");
        assert_eq!(two.renew().await.expect("there"), Lease::NotAcquired);
        let unheld = two.append(&forced([Record::Decided(commit(gtid(2)))])).await.expect_err("nothing is held");
        assert!(unheld.is_fenced(), "{unheld}");
    }
    assert_eq!(owned(&one).await, before, "nothing was changed");
    assert_eq!(append(&one, &forced([Record::Decided(commit(gtid(3)))])).await, [None]);
    // A restart under its own name waits for nothing.
    let epoch = two.acquire(&name("r1")).await.expect("its own name");
    assert_eq!(owned(&two).await, [(gtid(1), epoch), (gtid(3), epoch)]);
    is_fenced(&one).await;
}

/// A dead replica's transactions go on under another name; should it only have seemed dead, it is
/// fenced.
pub async fn a_lapsed_lease_is_taken_over_with_all_that_is_open(ground: &dyn SharedGround) {
    let (one, two) = (ground.open().await, ground.open().await);
    one.acquire(&name("r1")).await.expect("free");
    append(&one, &forced([Record::Decided(commit(gtid(1))), Record::SagaStarted(saga(gtid(2)))])).await;
    ground.leases_lapse().await;
    let epoch = two.acquire(&name("r2")).await.expect("its lease has lapsed");
    assert_eq!(owned(&two).await, [(gtid(1), epoch), (gtid(2), epoch)]);
    is_fenced(&one).await;
    assert_eq!(owned(&one).await, [], "the zombie recovers nothing");
    append(&two, &lazy([Record::Ended(ended(gtid(1), Decision::Commit))])).await;
    assert!(matches!(find(&two, gtid(1)).await, Some(Found::Ended(_))));
    let error = one.acquire(&name("r1")).await.expect_err("now r2 is alive");
    assert!(matches!(&error, LogError::Leased { replica, .. } if replica == "r2"), "{error:?}");
}

/// A log that was away for longer than a lease, with nobody else about, is no reason to stop.
pub async fn a_lapsed_lease_is_renewed_while_nobody_has_taken_over(ground: &dyn SharedGround) {
    let (one, two) = (ground.open().await, ground.open().await);
    one.acquire(&name("r1")).await.expect("free");
    ground.leases_lapse().await;
    assert_eq!(
        append(&one, &forced([Record::Decided(commit(gtid(1)))])).await,
        [None],
        "the epoch counts, not the lease"
    );
    assert_eq!(one.renew().await.expect("there"), Lease::Renewed);
    let error = two.acquire(&name("r2")).await.expect_err("r1 is alive again");
    assert!(matches!(error, LogError::Leased { .. }), "{error:?}");
    assert_eq!(append(&one, &forced([Record::Decided(commit(gtid(2)))])).await, [None]);
}

/// After an orderly end nobody has to wait.
pub async fn a_closed_log_gives_up_its_lease(ground: &dyn SharedGround) {
    let one = ground.open().await;
    one.acquire(&name("r1")).await.expect("free");
    append(&one, &forced([Record::Decided(commit(gtid(1)))])).await;
    one.close().await;
    one.renew().await.expect_err("closed");
    let two = ground.open().await;
    let epoch = two.acquire(&name("r2")).await.expect("it was given up");
    assert_eq!(owned(&two).await, [(gtid(1), epoch)]);
    // What was given up once is not given up for another.
    one.close().await;
    let three = ground.open().await;
    three.acquire(&name("r3")).await.expect_err("r2 is alive");
}

/// Should two replicas append after all, each keeps to its own rows: a foreign one is left as it
/// is, and its saga's machine learns nothing.
pub async fn an_open_row_is_written_by_its_owner_alone(ground: &dyn SharedGround) {
    let (owner, other) = two_live(ground).await;
    let attempted = Record::Attempted(sample::attempted(gtid(4)));
    let agreed = assent_protocol::record::Decided { protocol: Protocol::ThreePhase, ..commit(gtid(4)) };
    let opening = [Record::Decided(commit(gtid(1))), Record::Decided(abort(gtid(2))), attempted];
    append(&owner, &forced(opening)).await;
    append(&owner, &forced([Record::SagaStarted(saga(gtid(3))), Record::Agreed(agreed)])).await;
    append(&owner, &lazy([Record::SagaStep(sample::done(gtid(3), 0, "r-1"))])).await;
    let all: Vec<Gtid> = (1..=4).map(gtid).collect();
    let before = owner.lookup(&all).await.expect("there");
    let saga_end = Record::Ended(saga_ended(gtid(3), Outcome::Completed));
    let three_phase_end = Record::Ended(Ended { protocol: Protocol::ThreePhase, ..ended(gtid(4), Decision::Commit) });
    // A saga is nobody else's to go on with.
    for record in [
        Record::SagaTurned(sample::turned(gtid(3), "no seats")),
        Record::SagaPaused(sample::paused(gtid(3), Some("call them"))),
        Record::SagaPaused(sample::paused(gtid(3), None)),
        Record::SagaStep(sample::done(gtid(3), 1, "r-2")),
        saga_end.clone(),
    ] {
        let batch = forced([record]);
        for _ in 0..2 {
            assert_eq!(other.append(&batch).await.expect("there"), [Appended::Undecided], "{batch:?}");
            assert_eq!(owner.lookup(&all).await.expect("there"), before, "{batch:?}");
        }
    }
    // A decision stands, whoever asks for it; its row stays where it is.
    assert_eq!(append(&other, &forced([three_phase_end.clone()])).await, [Some(Decision::Commit)]);
    let ends = [(1, Decision::Commit), (2, Decision::Abort)].map(|(n, decision)| ended(gtid(n), decision));
    let ends = lazy(ends.map(Record::Ended));
    append(&other, &ends).await;
    let step = Record::SagaStep(sample::done(gtid(3), 1, "r-2"));
    append(&other, &lazy([saga_end.clone(), three_phase_end.clone()])).await;
    append(&other, &lazy([step, Record::SagaPaused(sample::paused(gtid(3), Some("call them")))])).await;
    assert_eq!(owner.lookup(&all).await.expect("there"), before, "no lazy record either");
    // The owner's are written.
    append(&owner, &ends).await;
    assert_eq!(append(&owner, &forced([saga_end, three_phase_end])).await, [None, None]);
    for gtid in all {
        assert!(matches!(find(&owner, gtid).await, Some(Found::Ended(_))), "{gtid} is open");
    }
}

/// What another live replica owns is not this one's to resume.
pub async fn recovery_is_given_its_own_rows_only(ground: &dyn SharedGround) {
    let (one, two) = two_live(ground).await;
    append(&one, &forced([1, 3, 5].map(|n| Record::Decided(commit(gtid(n)))))).await;
    append(&two, &forced([2, 4].map(|n| Record::SagaStarted(saga(gtid(n)))))).await;
    ground.spoil(gtid(4)).await;
    let of = async |log: &Arc<dyn Log>, after, limit| -> Vec<Gtid> {
        let page = log.open_transactions(after, limit).await.expect("there");
        page.into_iter().map(|(gtid, _)| gtid).collect()
    };
    assert_eq!(of(&one, None, 2).await, [gtid(1), gtid(3)]);
    assert_eq!(of(&one, Some(gtid(3)), 2).await, [gtid(5)]);
    assert_eq!(of(&two, None, 10).await, [gtid(2), gtid(4)], "one that cannot be read is told by its owner too");
    ground.leases_lapse().await;
    assert_eq!(of(&start(ground).await, None, 10).await, [1, 2, 3, 4, 5].map(gtid), "whoever takes over has all");
}
