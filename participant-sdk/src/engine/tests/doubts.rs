//! A scripted coordinator, and a resource in which another instance leaves branches prepared.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use assent_proto::session::{FromClient, FromReplica};
use assent_protocol::branch::Message;
use assent_protocol::three_phase::{Request, Roster, Seat, StoreId, VoterName};
use assent_protocol::{BranchKey, Decision, Gtid};
use tokio::sync::Semaphore;

use super::{BRANCH, EPOCH, commit, eventually, is_acknowledgement, is_yes, prepare};
use crate::assent::mint;
use crate::voter::store::Store as _;
use crate::voter::tests::hub::Hub;
use crate::voter::{FileVoters, OwnVoter};
use crate::{Assent, BoxError, Branch, Builder, Coordinator, Participant, Vote};

/// Between looks, and between the two lists of each.
const SOON: Duration = Duration::from_millis(10);

/// A resource that several instances share.
#[derive(Clone)]
struct Shelf {
    prepared: Arc<Mutex<HashSet<Gtid>>>,
    /// These are listed once: another instance ends them.
    fleeting: Arc<Mutex<HashSet<Gtid>>>,
    called: Arc<Mutex<Vec<(Gtid, &'static str)>>>,
    lists: Arc<AtomicUsize>,
    /// The first list is the start's. So many after it fail, in turn with an error and with a
    /// panic.
    failures: usize,
    /// One for each prepare hook that may return.
    may_vote: Arc<Semaphore>,
}

impl Shelf {
    fn new() -> Self {
        Self {
            prepared: Arc::default(),
            fleeting: Arc::default(),
            called: Arc::default(),
            lists: Arc::default(),
            failures: 0,
            may_vote: Arc::new(Semaphore::new(0)),
        }
    }

    fn leave(&self, gtid: Gtid) {
        self.prepared.lock().expect("no panic").insert(gtid);
    }

    fn note(&self, gtid: Gtid, hook: &'static str) {
        self.called.lock().expect("no panic").push((gtid, hook));
    }

    fn was_called(&self, gtid: Gtid, hook: &'static str) -> bool {
        self.called.lock().expect("no panic").contains(&(gtid, hook))
    }

    /// Waits for looks that begin from now on, and whose findings the engine has had.
    async fn looked_at(&self) {
        let before = self.lists.load(SeqCst);
        eventually("more looks", || self.lists.load(SeqCst) >= before + 8).await;
    }

    fn builder(&self, hub: &Hub) -> Builder {
        Assent::dial(hub.address()).participant("bank-a", self.clone()).in_doubt_interval(SOON).in_doubt_grace(SOON)
    }
}

impl Participant for Shelf {
    async fn prepare(&self, branch: &Branch) -> Result<Vote, BoxError> {
        self.note(branch.gtid(), "prepare");
        self.leave(branch.gtid());
        self.may_vote.acquire().await?.forget();
        Ok(Vote::Yes)
    }
    async fn commit(&self, branch: &Branch) -> Result<(), BoxError> {
        self.note(branch.gtid(), "commit");
        self.prepared.lock().expect("no panic").remove(&branch.gtid());
        Ok(())
    }
    async fn abort(&self, branch: &Branch) -> Result<(), BoxError> {
        self.note(branch.gtid(), "abort");
        self.prepared.lock().expect("no panic").remove(&branch.gtid());
        Ok(())
    }
    async fn in_doubt(&self, _about: &Coordinator) -> Result<Vec<BranchKey>, BoxError> {
        let list = self.lists.fetch_add(1, SeqCst);
        if (1..=self.failures).contains(&list) {
            assert!(list % 2 == 1, "the test wants a panic");
            return Err("the test wants an error".into());
        }
        let mut listed: Vec<Gtid> = self.prepared.lock().expect("no panic").iter().copied().collect();
        listed.extend(self.fleeting.lock().expect("no panic").drain());
        Ok(listed.into_iter().map(|gtid| BranchKey { gtid, id: BRANCH }).collect())
    }
}

fn is_inquiry(message: &FromClient, about: Gtid) -> bool {
    *message == FromClient::branch(about, BRANCH, Message::Inquire)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_another_instance_left_prepared_is_asked_about_and_ends() {
    let (mut hub, shelf) = (Hub::start().await, Shelf::new());
    let _assent = shelf.builder(&hub).connect().await.expect("joins");
    for _ in 0..2 {
        let left = mint();
        shelf.leave(left);
        hub.expect("an inquiry", |message| is_inquiry(message, left)).await;
        hub.tell("bank-a", FromReplica::AbortBranch { gtid: left, branch: BRANCH, epoch: EPOCH });
        hub.expect("an acknowledgement", |message| is_acknowledgement(message, left)).await;
        assert!(shelf.was_called(left, "abort"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_is_gone_after_the_grace_is_not_asked_about() {
    let (mut hub, shelf) = (Hub::start().await, Shelf::new());
    let _assent = shelf.builder(&hub).connect().await.expect("joins");
    let (fleeting, left) = (mint(), mint());
    shelf.fleeting.lock().expect("no panic").insert(fleeting);
    shelf.looked_at().await;
    shelf.leave(left);
    let inquiry = |message: &FromClient| {
        assert!(!is_inquiry(message, fleeting), "another instance was at work on it");
        is_inquiry(message, left)
    };
    hub.expect("an inquiry", inquiry).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_this_engine_knows_is_not_taken_for_one_that_was_left() {
    let (mut hub, shelf) = (Hub::start().await, Shelf::new());
    let _assent = shelf.builder(&hub).connect().await.expect("joins");
    let gtid = mint();
    hub.tell("bank-a", prepare(gtid));
    eventually("its hook is at work", || shelf.was_called(gtid, "prepare")).await;
    shelf.looked_at().await;
    shelf.may_vote.add_permits(1);
    let vote = |message: &FromClient| {
        assert!(!is_inquiry(message, gtid), "it has not voted yet");
        is_yes(message, gtid)
    };
    hub.expect("a yes", vote).await;
    hub.tell("bank-a", commit(gtid));
    hub.expect("an acknowledgement", |message| is_acknowledgement(message, gtid)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_fails_is_followed_by_another() {
    let (mut hub, shelf) = (Hub::start().await, Shelf { failures: 4, ..Shelf::new() });
    let _assent = shelf.builder(&hub).connect().await.expect("joins");
    let left = mint();
    shelf.leave(left);
    hub.expect("an inquiry", |message| is_inquiry(message, left)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_votes_anew_when_it_is_asked_to_prepare() {
    let (mut hub, shelf) = (Hub::start().await, Shelf::new());
    let _assent = shelf.builder(&hub).connect().await.expect("joins");
    let left = mint();
    shelf.leave(left);
    hub.expect("an inquiry", |message| is_inquiry(message, left)).await;
    // Its instance lives after all, and has rolled it back.
    shelf.prepared.lock().expect("no panic").remove(&left);
    shelf.may_vote.add_permits(1);
    hub.tell("bank-a", prepare(left));
    hub.expect("a yes", |message| is_yes(message, left)).await;
    assert!(shelf.was_called(left, "prepare"), "a yes for nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_after_a_vote_in_three_phases_is_taken_up_by_its_record() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut hub, shelf) = (Hub::start().await, Shelf::new());
    let (address, name) = ("http://127.0.0.1:1", "bank-a");
    let voters = FileVoters::open(directory.path().join("voters")).await.expect("opens");
    let assent = shelf.builder(&hub).voter(voters.clone(), address).connect().await.expect("joins");
    let me: assent_protocol::ParticipantName = name.parse().expect("a name");
    let store = assent.voter().expect("it has one").id();
    let seat = Seat { participant: me.clone(), branch: BRANCH, address: address.parse().expect("an address"), store };
    let roster = Roster::new(vec![seat], StoreId(7)).expect("a roster");

    // Another instance votes, with the same store.
    let left = mint();
    let other = OwnVoter::new(me, store, Arc::new(voters.clone()));
    let yes = Request::VoteYes { roster, is_read_only: false };
    other.ask(left, &VoterName::Participant(other.participant().clone()), yes).await.expect("its vote is kept");
    shelf.leave(left);
    hub.expect("an inquiry", |message| is_inquiry(message, left)).await;
    hub.tell(name, commit(left));
    hub.expect("an acknowledgement", |message| is_acknowledgement(message, left)).await;
    assert!(shelf.was_called(left, "commit"));
    let record = voters.load(left).await.expect("reads").expect("is kept until the coordinator says so");
    assert_eq!(record.state.standing.decision(), Some(Decision::Commit), "the voter keeps the outcome");
}
