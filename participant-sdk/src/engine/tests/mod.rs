//! The engine with a scripted coordinator over a real socket: which hook is called when.

mod doubts;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use assent_proto::session::{BranchReport, FromClient, FromReplica, StepAnswer, StepOrder};
use assent_protocol::branch::{HookEnd, Message};
use assent_protocol::saga::{StepIndex, StepResult};
use assent_protocol::three_phase::{Roster, Seat, StoreId};
use assent_protocol::two_phase::Vote as Verdict;
use assent_protocol::{BranchId, Epoch, Gtid};
use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};

use crate::assent::mint;
use crate::voter::FileVoters;
use crate::voter::tests::hub::Hub;
use crate::{Assent, BoxError, Branch, Compensated, Executed, Participant, SagaParticipant, Step, Vote};

const DEADLINE: Duration = Duration::from_secs(60);
const EPOCH: Epoch = Epoch(1);
/// Which branch each order is about, where one is enough.
const BRANCH: BranchId = BranchId { epoch: EPOCH, number: 31 };

/// A resource with one row. A branch that is prepared holds the row's lock until it ends.
#[derive(Clone)]
struct HotRow {
    lock: Arc<Semaphore>,
    holders: Arc<Mutex<HashSet<Gtid>>>,
    called: Arc<Mutex<Vec<(Gtid, &'static str)>>>,
}

impl HotRow {
    fn new() -> Self {
        Self { lock: Arc::new(Semaphore::new(1)), holders: Arc::default(), called: Arc::default() }
    }

    fn note(&self, gtid: Gtid, hook: &'static str) {
        self.called.lock().expect("no panic").push((gtid, hook));
    }

    fn was_called(&self, gtid: Gtid, hook: &'static str) -> bool {
        self.called.lock().expect("no panic").contains(&(gtid, hook))
    }

    fn end(&self, gtid: Gtid) {
        if self.holders.lock().expect("no panic").remove(&gtid) {
            self.lock.add_permits(1);
        }
    }
}

impl Participant for HotRow {
    async fn prepare(&self, branch: &Branch) -> Result<Vote, BoxError> {
        self.note(branch.gtid(), "prepare");
        self.lock.acquire().await?.forget();
        self.holders.lock().expect("no panic").insert(branch.gtid());
        Ok(Vote::Yes)
    }
    async fn commit(&self, branch: &Branch) -> Result<(), BoxError> {
        self.note(branch.gtid(), "commit");
        self.end(branch.gtid());
        Ok(())
    }
    async fn abort(&self, branch: &Branch) -> Result<(), BoxError> {
        self.note(branch.gtid(), "abort");
        self.end(branch.gtid());
        Ok(())
    }
}

async fn joined(hub: &Hub, row: &HotRow, hooks_max: usize) -> Assent {
    let dialled = Assent::dial(hub.address()).participant("bank-a", row.clone()).hooks_max(hooks_max);
    dialled.connect().await.expect("joins")
}

fn prepare_under(epoch: Epoch, gtid: Gtid) -> FromReplica {
    FromReplica::Prepare {
        gtid,
        branch: BRANCH,
        epoch,
        payload: Bytes::new(),
        timeout_ms: 60_000,
        one_phase: false,
        roster: None,
        is_prepared: false,
    }
}

fn prepare(gtid: Gtid) -> FromReplica {
    prepare_under(EPOCH, gtid)
}

fn commit(gtid: Gtid) -> FromReplica {
    FromReplica::CommitBranch { gtid, branch: BRANCH, epoch: EPOCH }
}

fn is_yes(message: &FromClient, of: Gtid) -> bool {
    *message == FromClient::branch(of, BRANCH, Message::Vote(Verdict::Yes))
}

fn is_acknowledgement(message: &FromClient, of: Gtid) -> bool {
    matches!(message, FromClient::Branch(BranchReport { gtid, message: Message::Acknowledge(acknowledgement), .. })
        if *gtid == of && matches!(acknowledgement.end, HookEnd::Ended(_)))
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"));
}

/// Prepares one branch, which holds the row's lock, and lets so many others wait for it. All of
/// them run.
async fn row_with_waiters(hub: &mut Hub, row: &HotRow, waiters: usize) -> (Gtid, Vec<Gtid>) {
    let holder = mint();
    hub.tell("bank-a", prepare(holder));
    hub.expect("a yes", |message| is_yes(message, holder)).await;
    let waiters: Vec<Gtid> = (0..waiters).map(|_| mint()).collect();
    for gtid in &waiters {
        hub.tell("bank-a", prepare(*gtid));
        eventually("it waits for the row", || row.was_called(*gtid, "prepare")).await;
    }
    (holder, waiters)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_does_not_wait_behind_prepares_that_wait_for_its_lock() {
    let (mut hub, row) = (Hub::start().await, HotRow::new());
    let _assent = joined(&hub, &row, 2).await;
    let (holder, mut waiters) = row_with_waiters(&mut hub, &row, 2).await;
    hub.tell("bank-a", commit(holder));
    hub.expect("an acknowledgement", |message| is_acknowledgement(message, holder)).await;
    // Each commit lets the next branch go on.
    while !waiters.is_empty() {
        let vote = hub.expect("a yes", |message| waiters.iter().any(|gtid| is_yes(message, *gtid))).await;
        waiters.retain(|gtid| {
            let has_voted = is_yes(&vote, *gtid);
            if has_voted {
                hub.tell("bank-a", commit(*gtid));
            }
            !has_voted
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_takes_back_a_prepare_that_waits_for_a_place() {
    let (mut hub, row) = (Hub::start().await, HotRow::new());
    let _assent = joined(&hub, &row, 1).await;
    let (holder, waiters) = row_with_waiters(&mut hub, &row, 1).await;
    let queued = mint();
    hub.tell("bank-a", prepare(queued));
    hub.tell("bank-a", FromReplica::AbortBranch { gtid: queued, branch: BRANCH, epoch: EPOCH });
    hub.expect("an acknowledgement", |message| is_acknowledgement(message, queued)).await;
    hub.tell("bank-a", commit(holder));
    hub.expect("a yes", |message| is_yes(message, waiters[0])).await;
    hub.tell("bank-a", commit(waiters[0]));
    // The place is free, and is not given to what was taken back.
    let next = mint();
    hub.tell("bank-a", prepare(next));
    hub.expect("a yes", |message| is_yes(message, next)).await;
    assert!(row.was_called(queued, "abort") && !row.was_called(queued, "prepare"), "its work was in vain");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_what_another_instance_prepared_does_not_wait_for_a_place_to_prepare() {
    let (mut hub, row) = (Hub::start().await, HotRow::new());
    let _assent = joined(&hub, &row, 1).await;
    let (_, _waiters) = row_with_waiters(&mut hub, &row, 1).await;
    let queued = mint();
    hub.tell("bank-a", prepare(queued));
    hub.tell("bank-a", commit(queued));
    hub.expect("an acknowledgement", |message| is_acknowledgement(message, queued)).await;
    assert!(row.was_called(queued, "commit") && !row.was_called(queued, "prepare"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_of_a_lower_epoch_takes_nothing_back() {
    let (mut hub, row) = (Hub::start().await, HotRow::new());
    let _assent = joined(&hub, &row, 1).await;
    let (holder, waiters) = row_with_waiters(&mut hub, &row, 1).await;
    let queued = mint();
    hub.tell("bank-a", prepare_under(Epoch(2), queued));
    hub.tell("bank-a", FromReplica::AbortBranch { gtid: queued, branch: BRANCH, epoch: EPOCH });
    for gtid in [holder, waiters[0]] {
        hub.tell("bank-a", commit(gtid));
        hub.expect("an acknowledgement", |message| is_acknowledgement(message, gtid)).await;
    }
    hub.expect("a yes", |message| is_yes(message, queued)).await;
    assert!(!row.was_called(queued, "abort"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_takes_back_a_prepare_of_three_phases_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut hub, row) = (Hub::start().await, HotRow::new());
    let (address, name) = ("http://127.0.0.1:1", "bank-a");
    let voters = FileVoters::open(directory.path().join("voters")).await.expect("opens");
    let assent = Assent::dial(hub.address())
        .participant(name, row.clone())
        .voter(voters, address)
        .hooks_max(1)
        .connect()
        .await
        .expect("joins");
    let store = assent.voter().expect("it has one").id();
    let seat = Seat {
        participant: name.parse().expect("a name"),
        branch: BRANCH,
        address: address.parse().expect("an address"),
        store,
    };
    let roster = Some(Roster::new(vec![seat], StoreId(7)).expect("a roster"));
    row_with_waiters(&mut hub, &row, 1).await;
    let queued = mint();
    let FromReplica::Prepare { epoch, payload, timeout_ms, .. } = prepare(queued) else { unreachable!("it is one") };
    let (one_phase, is_prepared) = (false, false);
    hub.tell(
        name,
        FromReplica::Prepare {
            gtid: queued,
            branch: BRANCH,
            epoch,
            payload,
            timeout_ms,
            one_phase,
            roster,
            is_prepared,
        },
    );
    hub.tell(name, FromReplica::AbortBranch { gtid: queued, branch: BRANCH, epoch: EPOCH });
    hub.expect("an acknowledgement", |message| is_acknowledgement(message, queued)).await;
    assert!(row.was_called(queued, "abort") && !row.was_called(queued, "prepare"));
}

/// Steps whose hooks wait until they are let go.
#[derive(Clone, Default)]
struct Held {
    actions: Arc<Notify>,
    compensations: Arc<Notify>,
    called: Arc<Mutex<Vec<&'static str>>>,
}

impl SagaParticipant for Held {
    async fn execute(&self, _step: &Step) -> Result<Executed, BoxError> {
        self.called.lock().expect("no panic").push("execute");
        self.actions.notified().await;
        Ok(Executed::done())
    }
    async fn compensate(&self, _step: &Step) -> Result<Compensated, BoxError> {
        self.called.lock().expect("no panic").push("compensate");
        self.compensations.notified().await;
        Ok(Compensated::Done)
    }
}

fn step() -> StepOrder {
    StepOrder {
        gtid: mint(),
        epoch: EPOCH,
        step: StepIndex(0),
        name: "flight".parse().expect("a name"),
        attempt: 1,
        input: Bytes::new(),
        timeout_ms: 60_000,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_actions_hold_up_compensations_nor_these_a_commit() {
    let (mut hub, row, steps) = (Hub::start().await, HotRow::new(), Held::default());
    let _assent = Assent::dial(hub.address())
        .participant("bank-a", row.clone())
        .saga_participant("bank-a", steps.clone())
        .hooks_max(1)
        .connect()
        .await
        .expect("joins");
    let (holder, _) = row_with_waiters(&mut hub, &row, 0).await;
    let (action, compensation) = (step(), step());
    let (executed, compensated) = (action.gtid, compensation.gtid);
    hub.tell("bank-a", FromReplica::ExecuteStep { order: action, outputs: Vec::new(), pivot: false });
    eventually("the action runs", || steps.called.lock().expect("no panic").contains(&"execute")).await;
    hub.tell("bank-a", FromReplica::CompensateStep { order: compensation, output: None });
    eventually("the compensation runs", || steps.called.lock().expect("no panic").contains(&"compensate")).await;
    hub.tell("bank-a", commit(holder));
    hub.expect("an acknowledgement", |message| is_acknowledgement(message, holder)).await;

    let is_done = |message: &FromClient, of: Gtid| matches!(message, FromClient::Step(StepAnswer { gtid, result: StepResult::Done(_), .. }) if *gtid == of);
    steps.compensations.notify_one();
    hub.expect("the compensation's answer", |message| is_done(message, compensated)).await;
    steps.actions.notify_one();
    hub.expect("the action's answer", |message| is_done(message, executed)).await;
}
