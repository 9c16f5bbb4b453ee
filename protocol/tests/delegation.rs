//! A transaction with one branch, from replica to replica: what an earlier process was told, the next one does not contradict.

use assent_protocol::branch;
use assent_protocol::branch::{Acknowledgement, HookEnd};
use assent_protocol::found::{OpenTransaction, Owned};
use assent_protocol::ids::BranchId;
use assent_protocol::message::{Ask, Commit, Expected, FromClient, FromReplica, Reason, Reply, Request};
use assent_protocol::record::Delegated;
use assent_protocol::replica::{Config, Input, Known, Limits, Peer, Replica, SessionId};
use assent_protocol::three_phase::StoreId;
use assent_protocol::two_phase::{BranchResult, CarriedBranch, Vote};
use assent_protocol::{
    Appended, Decision, Durable, Epoch, Gtid, InstanceId, Outcome, ParticipantName, Protocol, Record, Wait,
};

const INITIATOR: SessionId = SessionId(1);
const TILL: SessionId = SessionId(2);

fn gtid() -> Gtid {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("a version 7")
}

fn till() -> ParticipantName {
    "till".parse().expect("a name")
}

fn now_ms() -> u64 {
    gtid().minted_at_ms()
}

/// A process that has just started: an initiator and a participant that commits by itself are connected.
fn started(epoch: u64, started_at_ms: u64) -> Replica {
    let (limits, known, log_store) = (Limits::default(), vec![till()], StoreId(1));
    let mut replica =
        Replica::new(Config { shard: 0, shards: 1, epoch: Epoch(epoch), limits, known, log_store }, started_at_ms);
    for (session, participant) in [(INITIATOR, None), (TILL, Some(till()))] {
        let peer = Peer { session, participant, instance: InstanceId(session.0), one_phase: true, voter: None };
        replica.handle(now_ms(), Input::SessionOpened(peer));
    }
    replica
}

fn says(replica: &mut Replica, session: SessionId, message: FromClient) {
    replica.handle(now_ms(), Input::Message { session, message });
}

fn asks(replica: &mut Replica, request_id: u64, ask: Ask) {
    says(replica, INITIATOR, FromClient::Request(Request { request_id, gtid: gtid(), ask }));
}

fn commits(replica: &mut Replica, attempt: u32) {
    let branches = vec![CarriedBranch { participant: till(), payload: "5".into() }];
    let (begun, timeout_ms, wait, protocol) = (false, 0, Wait::Decided, Protocol::TwoPhase);
    let expected = Expected::Anything;
    let commit = Commit { branches, attempt, begun, timeout_ms, wait, protocol, first_epoch: None, expected };
    asks(replica, u64::from(attempt), Ask::Commit(commit));
}

fn messages(replica: &mut Replica) -> Vec<FromReplica> {
    let mut all = Vec::new();
    replica.take_messages(|_, messages| all.extend(messages));
    all
}

/// The log has nothing of what it is asked for.
fn finds_nothing(replica: &mut Replica) {
    let gtids = replica.take_question().expect("it is looked up");
    replica.handle(now_ms(), Input::LookedUp { gtids, found: Ok(Vec::new()) });
}

#[expect(clippy::disallowed_methods, reason = "the test is the log")]
fn takes_a_batch(replica: &mut Replica) -> Vec<Record> {
    let Some(batch) = replica.take_batch() else { return Vec::new() };
    let appended = batch.forced.iter().map(|record| Appended::Durable(Durable::attest(record.id()))).collect();
    replica.handle(now_ms(), Input::Appended(appended));
    batch.forced.into_iter().chain(batch.lazy).collect()
}

/// The first branch that the first process gives an id.
const BRANCH: BranchId = BranchId { epoch: Epoch(1), number: 0 };

fn order_to_abort(epoch: u64) -> FromReplica {
    FromReplica::AbortBranch { gtid: gtid(), branch: BRANCH, epoch: Epoch(epoch) }
}

/// What the branch says about the order that the second process gave.
fn aborted(result: BranchResult) -> FromClient {
    let acknowledgement = Acknowledgement { decision: Decision::Abort, epoch: Epoch(2), end: HookEnd::Ended(result) };
    FromClient::branch(gtid(), BRANCH, branch::Message::Acknowledge(acknowledgement))
}

fn told(message: &FromReplica) -> Option<(u64, Outcome)> {
    match message {
        FromReplica::Reply { request_id, reply: Reply::Outcome { outcome, .. } } => Some((*request_id, *outcome)),
        _ => None,
    }
}

/// The record that a first process leaves behind, with its branch ordered to commit by itself.
fn delegated() -> Delegated {
    let mut first = started(1, now_ms() - 10_000);
    commits(&mut first, 1);
    assert_eq!(messages(&mut first), [], "nothing is ordered before the delegation is durable");
    let records = takes_a_batch(&mut first);
    let [Record::Delegated(delegated)] = records.as_slice() else { panic!("a delegation, not {records:?}") };
    let sent = messages(&mut first);
    assert!(matches!(sent.as_slice(), [FromReplica::Prepare { one_phase: true, .. }]), "{sent:?}");
    delegated.clone()
}

fn recovered() -> Replica {
    let record = delegated();
    let mut second = started(2, now_ms());
    let row = OpenTransaction::Delegated { record, delegated_at_ms: now_ms(), owner: Epoch(2) };
    second.handle(now_ms(), Input::Recovered(Owned::by(Epoch(2), row).expect("its own")));
    assert_eq!(messages(&mut second), [order_to_abort(2)]);
    second
}

#[test]
fn an_initiator_that_asks_after_a_restart_hears_what_the_only_branch_did() {
    for (result, outcome) in
        [(BranchResult::HeuristicCommitted, Outcome::Committed), (BranchResult::Done, Outcome::Aborted)]
    {
        let mut replica = recovered();
        asks(&mut replica, 7, Ask::Await { wait: Wait::Decided });
        commits(&mut replica, 2);
        assert_eq!(messages(&mut replica), [], "they wait for the branch");
        says(&mut replica, TILL, aborted(result));
        let all: Vec<_> = messages(&mut replica).iter().filter_map(told).collect();
        assert_eq!(all, [(7, outcome), (2, outcome)]);
        let records = takes_a_batch(&mut replica);
        let [Record::Ended(ended)] = records.as_slice() else { panic!("an end, not {records:?}") };
        assert_eq!((ended.outcome, ended.has_open_row), (outcome, true));
        assert_eq!(replica.known(gtid()), Known::Ended);
    }
}

#[test]
fn an_unknown_vote_of_the_only_branch_presumes_no_abort() {
    let mut replica = recovered();
    says(
        &mut replica,
        TILL,
        FromClient::branch(gtid(), BRANCH, branch::Message::Vote(Vote::Unknown("timeout".to_owned()))),
    );
    assert_eq!(messages(&mut replica), [order_to_abort(2)], "it is asked by an order to abort");
    assert!(takes_a_batch(&mut replica).is_empty(), "and nothing is decided without it");

    // Its end has been removed from the log since, or it belongs to a branch that inquires by itself.
    let mut stranger = started(3, now_ms());
    says(
        &mut stranger,
        TILL,
        FromClient::branch(gtid(), BRANCH, branch::Message::Vote(Vote::Unknown("timeout".to_owned()))),
    );
    finds_nothing(&mut stranger);
    assert!(takes_a_batch(&mut stranger).is_empty());
    assert_eq!((messages(&mut stranger), stranger.known(gtid())), (vec![], Known::Unknown));
}

#[test]
fn what_was_never_delegated_has_not_committed() {
    let mut replica = started(2, now_ms());
    asks(&mut replica, 7, Ask::Await { wait: Wait::Decided });
    finds_nothing(&mut replica);
    let sent = messages(&mut replica);
    let refused = matches!(sent.as_slice(),
        [FromReplica::Reply { request_id: 7, reply: Reply::Refused(refused) }] if refused.known_reason() == Some(Reason::NotFound));
    assert!(refused, "{sent:?}");
}

#[test]
fn a_drain_leaves_a_delegation_that_is_recalled_to_the_next_process() {
    let mut replica = recovered();
    replica.handle(now_ms(), Input::Drain);
    assert!(replica.is_drained());
    let mut first = started(1, now_ms() - 10_000);
    commits(&mut first, 1);
    takes_a_batch(&mut first);
    first.handle(now_ms(), Input::Drain);
    assert!(!first.is_drained(), "the answer is on its way");
}
