//! What every voter's store must do, whatever it is made of. For the tests of stores.

use std::sync::Arc;

use assent_protocol::three_phase::{
    Answer, Ballot, NodeId, Request, Roster, Seat, Standing, StoreId, VoterName, VoterRecord, VoterState,
};
use assent_protocol::{BranchId, Decision, Epoch, Gtid, ParticipantName};

use super::own::OwnVoter;
use super::store::{Kept, Store, VoterStore, VoterStoreError};
use crate::assent::mint;

const HIGH: Ballot = Ballot { round: Ballot::ROUND_MAX, node: NodeId(u128::MAX) };
const JOINED: VoterState = VoterState { standing: Standing::Waiting, joined: HIGH, accepted: None };
const ACCEPTED: VoterState = VoterState { standing: Standing::PreAborted, joined: HIGH, accepted: Some(HIGH) };
const ENDED: VoterState = VoterState { standing: Standing::Aborted, joined: HIGH, accepted: Some(HIGH) };

fn me() -> ParticipantName {
    "bank-a".parse().expect("a name")
}

fn roster(store: StoreId) -> Roster {
    let seat = |name: &str, store| Seat {
        participant: name.parse().expect("a name"),
        branch: BranchId { epoch: Epoch(7), number: u64::MAX },
        address: "http://127.0.0.1:7421".parse().expect("an address"),
        store,
    };
    let seats = vec![seat("bank-a", store), seat("bank-b", StoreId(u128::MAX))];
    Roster::new(seats, StoreId(7)).expect("a roster")
}

fn record(gtid: Gtid, state: VoterState, before: Option<VoterState>) -> VoterRecord {
    let voter = VoterName::Participant(me());
    let roster = (state != VoterState::REFUSED).then(|| roster(StoreId(u128::MAX - 1)));
    VoterRecord { gtid, voter, roster, is_read_only: true, state, before }
}

async fn is_kept(store: &impl Store, record: VoterRecord) -> bool {
    let kept = store.append(vec![record.into()]).await.expect("written or overtaken");
    matches!(kept.as_slice(), [Kept::Durable(_)])
}

/// Runs all of it. `instance` gives a further instance's handle to the same storage, which holds no votes yet.
///
/// # Panics
/// At the first thing that does not hold.
pub async fn run<S: VoterStore>(instance: impl AsyncFn() -> S) {
    let (one, other) = (instance().await, instance().await);
    let identity = one.open(&me()).await.expect("opens");
    assert_eq!(other.open(&me()).await.expect("opens"), identity, "instances share the identity");
    a_state_replaces_the_one_that_it_names(&one, &other).await;
    what_is_not_decided_is_kept(&one, &other).await;
    of_two_at_the_same_time_one_is_overtaken(&one, &other).await;
    many_at_the_same_time_are_all_kept(&one).await;
    let identity = one.open(&me()).await.expect("opens").id;
    let voter = |store| OwnVoter::new(me(), identity, Arc::new(store));
    instances_are_one_voter(&voter(one), &voter(other), identity).await;
    a_coordinator_is_bound_once(&instance().await).await;
}

async fn a_state_replaces_the_one_that_it_names(store: &impl Store, other: &impl Store) {
    let (voted, refused, absent) = (mint(), mint(), mint());
    assert!(is_kept(store, record(voted, VoterState::WAITING, None)).await);
    assert!(is_kept(store, record(refused, VoterState::REFUSED, None)).await);
    assert!(!is_kept(other, record(voted, VoterState::REFUSED, None)).await, "it has voted");
    assert!(!is_kept(other, record(refused, VoterState::WAITING, None)).await, "it has refused");
    assert!(!is_kept(store, record(voted, ACCEPTED, Some(JOINED))).await, "it has not joined");
    assert!(!is_kept(store, record(absent, JOINED, Some(VoterState::WAITING))).await, "it has not voted");
    assert!(is_kept(other, record(voted, JOINED, Some(VoterState::WAITING))).await);
    assert!(!is_kept(store, record(voted, JOINED, Some(VoterState::WAITING))).await, "another instance has");
    assert!(is_kept(store, record(voted, ACCEPTED, Some(JOINED))).await);
    for store in [store.load(voted).await, other.load(voted).await] {
        assert_eq!(store.expect("loads"), Some(Arc::new(record(voted, ACCEPTED, None))));
    }
    assert_eq!(store.load(refused).await.expect("loads"), Some(Arc::new(record(refused, VoterState::REFUSED, None))));
    assert_eq!(store.load(absent).await.expect("loads"), None);
    assert_eq!(other.all().await.expect("lists").len(), 2);
}

async fn what_is_not_decided_is_kept(store: &impl Store, other: &impl Store) {
    let (open, ended) = (mint(), mint());
    assert!(is_kept(store, record(open, VoterState::WAITING, None)).await);
    assert!(is_kept(store, record(ended, VoterState::WAITING, None)).await);
    assert!(is_kept(store, record(ended, ENDED, Some(VoterState::WAITING))).await);
    other.forget(vec![open, ended, mint()]).await.expect("deletes");
    assert_eq!(other.load(ended).await.expect("loads"), None);
    assert_eq!(other.load(open).await.expect("loads"), Some(Arc::new(record(open, VoterState::WAITING, None))));
}

async fn of_two_at_the_same_time_one_is_overtaken(store: &impl Store, other: &impl Store) {
    for _ in 0..20 {
        let gtid = mint();
        let (yes, no) = tokio::join!(
            is_kept(store, record(gtid, VoterState::WAITING, None)),
            is_kept(other, record(gtid, VoterState::REFUSED, None))
        );
        assert!(yes != no, "one of them is first");
        let standing = if yes { Standing::Waiting } else { Standing::Aborted };
        assert_eq!(store.load(gtid).await.expect("loads").map(|record| record.state.standing), Some(standing));
    }
}

async fn many_at_the_same_time_are_all_kept(store: &impl Store) {
    let gtids: Vec<Gtid> = (0..500).map(|_| mint()).collect();
    let votes = gtids.iter().map(|gtid| is_kept(store, record(*gtid, VoterState::WAITING, None)));
    assert!(futures::future::join_all(votes).await.into_iter().all(|is_kept| is_kept));
    let loads = futures::future::try_join_all(gtids.iter().map(|gtid| store.load(*gtid))).await.expect("loads");
    assert!(loads.iter().zip(&gtids).all(|(record, gtid)| record.as_ref().is_some_and(|found| found.gtid == *gtid)));
}

/// However requests come together, over whichever instance, the voter makes one choice.
async fn instances_are_one_voter(one: &OwnVoter, other: &OwnVoter, store: StoreId) {
    let me = VoterName::Participant(one.participant().clone());
    let peer = VoterName::Participant("bank-b".parse().expect("a name"));
    let roster = roster(store);
    let ballot = |round| Ballot { round, node: NodeId(9) };
    for _ in 0..20 {
        let gtid = mint();
        let yes = Request::VoteYes { roster: roster.clone(), is_read_only: false };
        let join = |round| Request::Join { ballot: ballot(round), roster: roster.clone(), has_voted: false };
        let (voted, joined) = tokio::join!(one.ask(gtid, &me, yes), other.ask(gtid, &peer, join(2)));
        let (voted, joined) = (voted.expect("asked").answer, joined.expect("asked").answer);
        match voted {
            Answer::VotedYes { .. } => assert!(matches!(joined, Answer::Joined { .. }), "{joined:?}"),
            Answer::Ended(Decision::Abort) => assert_eq!(joined, Answer::Ended(Decision::Abort)),
            other => panic!("{other:?}"),
        }
        // A higher ballot that one instance has joined is known to the other, whatever that one remembers.
        let higher = one.ask(gtid, &peer, join(5)).await.expect("asked").answer;
        let lower = other.ask(gtid, &peer, join(4)).await.expect("asked").answer;
        if voted == (Answer::VotedYes { is_read_only: false }) {
            assert!(matches!(higher, Answer::Joined { .. }), "{higher:?}");
            assert_eq!(lower, Answer::Rejected { ballot: ballot(4), joined: ballot(5) });
        }
        let decided = Request::Decided(Decision::Abort);
        assert_eq!(other.ask(gtid, &peer, decided).await.expect("asked").answer, Answer::Ended(Decision::Abort));
        let loaded = one.store().load(gtid).await.expect("loads");
        assert_eq!(loaded.map(|record| record.state.standing), Some(Standing::Aborted));
    }
}

async fn a_coordinator_is_bound_once(store: &impl Store) {
    assert_eq!(store.open(&me()).await.expect("opens").coordinator, None);
    store.bind("one").await.expect("bound");
    store.bind("one").await.expect("again");
    let error = store.bind("two").await.expect_err("it is one's");
    assert!(matches!(error, VoterStoreError::OtherCoordinator { .. }), "{error}");
    assert_eq!(store.open(&me()).await.expect("opens").coordinator.as_deref(), Some("one"));
    let error = store.open(&"bank-b".parse().expect("a name")).await.expect_err("it is bank-a's");
    assert!(matches!(error, VoterStoreError::OtherParticipant { .. }), "{error}");
}

/// Whether the store can be used.
///
/// # Errors
/// As the store says.
pub async fn opens(store: &impl VoterStore) -> Result<(), VoterStoreError> {
    store.open(&me()).await.map(drop)
}

/// Opens a store, and votes once.
///
/// # Panics
/// If it cannot.
pub async fn is_there(store: &impl VoterStore) {
    store.open(&me()).await.expect("opens");
    votes(store, mint()).await.expect("votes");
}

/// The transactions whose records a participant takes up at its start.
///
/// # Errors
/// Those of the store.
pub async fn taken_up(store: &impl VoterStore) -> Result<Vec<Gtid>, VoterStoreError> {
    Ok(store.all().await?.iter().map(|record| record.gtid).collect())
}

/// Votes in a transaction, as a participant does whose store may have failed before: it looks first.
///
/// # Errors
/// Those of the store.
///
/// # Panics
/// If the vote is another one's.
pub async fn votes(store: &impl VoterStore, gtid: Gtid) -> Result<(), VoterStoreError> {
    let vote = record(gtid, VoterState::WAITING, None);
    if let [Kept::Overtaken] = store.append(vec![vote.clone().into()]).await?.as_slice() {
        assert_eq!(store.load(gtid).await?.as_deref(), Some(&vote), "only this one votes");
    }
    Ok(())
}
