//! Joining a scripted coordinator over a real socket.

use std::sync::{Arc, Mutex};

use assent_proto::session::{FromClient, FromReplica};
use assent_protocol::branch::Message;
use assent_protocol::two_phase::Vote as Verdict;
use assent_protocol::{BranchId, Epoch, Gtid};
use bytes::Bytes;
use tokio::net::TcpListener;

use super::*;
use crate::assent::mint;
use crate::voter::tests::hub::Hub;
use crate::{Branch, Vote};

const BRANCH: BranchId = BranchId { epoch: Epoch(1), number: 31 };

/// A participant that keeps an order book of its calls, and may have a branch in doubt.
#[derive(Clone, Default)]
struct Bank {
    in_doubt: Arc<Mutex<Vec<BranchKey>>>,
    calls: Arc<Mutex<Vec<&'static str>>>,
}

impl Bank {
    fn note(&self, call: &'static str) {
        self.calls.lock().expect("no panic").push(call);
    }

    fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().expect("no panic").clone()
    }
}

impl Participant for Bank {
    async fn prepare(&self, _: &Branch) -> Result<Vote, BoxError> {
        self.note("prepare");
        Ok(Vote::Yes)
    }

    async fn commit(&self, branch: &Branch) -> Result<(), BoxError> {
        self.note("commit");
        self.in_doubt.lock().expect("no panic").retain(|key| *key != branch.key());
        Ok(())
    }

    async fn abort(&self, _: &Branch) -> Result<(), BoxError> {
        self.note("abort");
        Ok(())
    }

    async fn in_doubt(&self, _: &Coordinator) -> Result<Vec<BranchKey>, BoxError> {
        Ok(self.in_doubt.lock().expect("no panic").clone())
    }
}

fn prepare(gtid: Gtid) -> FromReplica {
    FromReplica::Prepare {
        gtid,
        branch: BRANCH,
        epoch: Epoch(1),
        payload: Bytes::new(),
        timeout_ms: 60_000,
        one_phase: false,
        roster: None,
        is_prepared: false,
    }
}

/// An address at which no process listens.
async fn vacant() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("bound")
}

#[tokio::test]
async fn a_service_may_start_before_its_coordinator() {
    let address = vacant().await;
    let dialled = Assent::dial(format!("http://{address}")).participant("bank-a", Bank::default());
    let mut joining = tokio::spawn(dialled.connect());
    let early = tokio::time::timeout(Duration::from_millis(300), &mut joining).await;
    assert!(early.is_err(), "it gave up: {early:?}");
    let _hub = Hub::start_at(address).await;
    joining.await.expect("no panic").expect("it joins once the coordinator is there");
}

#[tokio::test]
async fn a_service_that_does_not_wait_says_at_once_what_is_missing() {
    let dialled = Assent::dial(format!("http://{}", vacant().await)).wait_for_coordinator(Duration::ZERO);
    let error = dialled.connect().await.expect_err("nobody is there");
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    assert!(format!("{error:?}").contains("start one with `assent serve`"), "{error:?}");
}

#[tokio::test]
async fn a_service_is_set_up_after_its_doubts_and_before_its_work() {
    let mut hub = Hub::start().await;
    let bank = Bank::default();
    let in_doubt = BranchKey { gtid: mint(), id: BRANCH };
    bank.in_doubt.lock().expect("no panic").push(in_doubt);
    let setting_up = bank.clone();
    let dialled = Assent::dial(hub.address()).participant("bank-a", bank.clone()).settle_first(async move {
        setting_up.note("set up");
        Ok(())
    });
    let joining = tokio::spawn(dialled.connect());
    let inquiry = FromClient::branch(in_doubt.gtid, BRANCH, Message::Inquire);
    hub.expect("a question about the branch", |message| *message == inquiry).await;
    let other = mint();
    hub.tell("bank-a", prepare(other));
    hub.tell("bank-a", FromReplica::CommitBranch { gtid: in_doubt.gtid, branch: BRANCH, epoch: Epoch(1) });
    let yes = FromClient::branch(other, BRANCH, Message::Vote(Verdict::Yes));
    hub.expect("a yes", |message| *message == yes).await;
    joining.await.expect("no panic").expect("joins");
    assert_eq!(bank.calls(), ["commit", "set up", "prepare"]);
}

#[tokio::test]
async fn a_service_that_cannot_be_set_up_does_not_join() {
    let hub = Hub::start().await;
    let dialled = Assent::dial(hub.address()).participant("bank-a", Bank::default());
    let error = dialled.settle_first(async { Err("relation \"account\" is missing".into()) }).connect().await;
    let error = error.expect_err("it was not set up");
    assert_eq!(format!("{error:?}"), "the service cannot be set up: relation \"account\" is missing");
}
