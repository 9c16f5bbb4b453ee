//! What is open in the log at the start goes on, and what cannot go on stops nobody else.

use std::sync::Arc;

use assent::log::memory::MemoryLog;
use assent::log::{Batch, Found, Log};
use assent::server::Coordinator;
use assent_proto::error::Reason;
use assent_proto::v1::branch_order::Kind as Order;
use assent_proto::v1::branch_report::Kind as Report;
use assent_proto::v1::request::Ask;
use assent_proto::v1::server_message::Kind as Heard;
use assent_proto::v1::{self, AbortRequest, GetRequest, Outcome, SagaDefinition, StartSagaRequest};
use assent_protocol::record::{Decided, Delegated, Member, SagaStarted, SagaStep};
use assent_protocol::saga::{Definition, StepDefinition, StepIndex, StepResult};
use assent_protocol::{BodyDigest, BranchId, Decision, Epoch, Gtid, Name, Protocol, Record, RetryPolicy};
use bytes::Bytes;

use crate::harness::{
    Home, Manner, Session, admin, branch, done, gtid, participant, refused, report, request, transactions, until, whole,
};

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// The bank's branch.
fn bank() -> Member {
    Member { participant: name("bank"), branch: BranchId { epoch: Epoch(1), number: u64::MAX } }
}

/// A commit that a replica had decided when it died.
fn decided(gtid: Gtid) -> Record {
    Record::Decided(Decided {
        gtid,
        protocol: Protocol::TwoPhase,
        decision: Decision::Commit,
        members: vec![bank()],
        digest: BodyDigest(7),
        begun_at_ms: gtid.minted_at_ms(),
        reason: None,
    })
}

/// A saga of one step that was under way.
fn started(gtid: Gtid) -> Record {
    let step = StepDefinition {
        name: name("pay"),
        participant: name("bank"),
        input: Bytes::new(),
        after: Vec::new(),
        retry: RetryPolicy::default(),
        compensation_retry: RetryPolicy::default(),
        pivot: false,
        durable: false,
    };
    let definition = Definition::new(vec![step]).expect("a saga");
    Record::SagaStarted(SagaStarted { gtid, definition, digest: BodyDigest(7), begun_at_ms: gtid.minted_at_ms() })
}

/// An answer of its compensation, which nobody can have asked for: it never turned back.
fn compensated(gtid: Gtid) -> Record {
    let result = StepResult::Done(Bytes::new());
    Record::SagaStep(SagaStep { gtid, step: StepIndex(0), compensation: true, attempt: 1, result })
}

const DAMAGE: &str = "its decision is \"perhaps\"";

/// A log that holds, between transactions that can go on, one that cannot be read and one whose rows contradict each other.
struct Left {
    log: MemoryLog,
    /// In the order of recovery.
    whole: Vec<Gtid>,
    damaged: Gtid,
    contradictory: Gtid,
}

async fn left_behind() -> Left {
    let log = MemoryLog::new();
    log.acquire(&name("assent")).await.expect("an epoch");
    let mut gtids: Vec<Gtid> = (0..6).map(|_| gtid().parse().expect("a gtid")).collect();
    gtids.sort();
    let [first, damaged, second, contradictory, third, fourth] = gtids[..] else { panic!("six") };
    let forced = vec![
        decided(first),
        decided(damaged),
        decided(second),
        started(contradictory),
        decided(third),
        started(fourth),
    ];
    let batch = Batch { at_ms: first.minted_at_ms(), forced, lazy: vec![compensated(contradictory)] };
    log.append(&batch).await.expect("appended");
    log.spoil(damaged, DAMAGE);
    Left { log, whole: vec![first, second, third, fourth], damaged, contradictory }
}

async fn recovered(home: &Home, log: &MemoryLog) -> Coordinator {
    Coordinator::start_with(home.config(), Arc::new(log.another())).await.expect("it starts all the same")
}

async fn shown(coordinator: &Coordinator, gtid: Gtid) -> v1::Transaction {
    let request = GetRequest { gtid: gtid.to_string() };
    let answer = transactions(coordinator).await.get(request).await.expect("shown").into_inner();
    answer.transaction.expect("a transaction")
}

#[tokio::test]
async fn what_cannot_be_recovered_is_parked_and_stops_nobody_else() {
    let home = Home::new();
    let left = left_behind().await;
    let coordinator = recovered(&home, &left.log).await;
    let _bank = participant(&coordinator, "bank", Manner::Willing).await;
    for gtid in left.whole {
        until("the others end", async || shown(&coordinator, gtid).await.ended_at.is_some()).await;
    }
    // A gtid that was minted right after the start may be from before it.
    until("what is new is served too", async || {
        let request = v1::CommitRequest { wait_for_end: true, ..whole(&gtid(), vec![branch("bank", "new")]) };
        let fresh = transactions(&coordinator).await.commit(request).await.expect("an outcome").into_inner();
        fresh.outcome() == Outcome::Committed
    })
    .await;
    for (gtid, why) in [(left.damaged, DAMAGE), (left.contradictory, "never turned back")] {
        let parked = shown(&coordinator, gtid).await;
        assert!(parked.ended_at.is_none(), "{parked:?}");
        assert!(parked.waiting_for.contains("an operator") && parked.waiting_for.contains(why), "{parked:?}");
    }
    until("the new one is forgotten", async || coordinator.statistics().snapshot().open == 0).await;
    let list = v1::ListTransactionsRequest { page_size: 1_000, ..Default::default() };
    let listed = admin(&coordinator).await.list_transactions(list).await.expect("a list").into_inner().transactions;
    assert_eq!(listed.iter().filter(|one| one.ended_at.is_none()).count(), 2, "{listed:?}");
}

#[tokio::test]
async fn what_is_asked_about_a_parked_transaction_is_refused_with_its_reason() {
    let home = Home::new();
    let left = left_behind().await;
    let coordinator = recovered(&home, &left.log).await;
    let _bank = participant(&coordinator, "bank", Manner::Willing).await;
    until("the others have ended", async || coordinator.statistics().snapshot().open == 0).await;
    let mut client = transactions(&coordinator).await;
    let all: Vec<Gtid> = left.whole.iter().copied().chain([left.damaged, left.contradictory]).collect();
    let open = async || -> Vec<(Gtid, Found)> {
        let found = left.log.lookup(&all).await.expect("read").into_iter();
        found.filter(|(_, found)| !matches!(found, Found::Ended(_))).collect()
    };
    let as_it_was = open().await;
    for (gtid, why) in [(left.damaged, DAMAGE), (left.contradictory, "never turned back")] {
        let text = gtid.to_string();
        let parts = [why, &text, "an operator"];
        refused(client.commit(whole(&text, vec![branch("bank", "pay")])).await, Reason::Internal, &parts);
        let abort = AbortRequest { gtid: text.clone(), ..AbortRequest::default() };
        refused(client.abort(abort).await, Reason::Internal, &parts);
        let step = v1::SagaStep { name: "pay".to_owned(), participant: "bank".to_owned(), ..Default::default() };
        let definition = Some(SagaDefinition { steps: vec![step] });
        let saga = StartSagaRequest { gtid: text.clone(), definition, ..Default::default() };
        refused(client.start_saga(saga).await, Reason::Internal, &parts);

        let mut session = Session::open(&coordinator, "bank").await;
        let bytes = Bytes::copy_from_slice(gtid.as_bytes());
        session.refused(Reason::Internal, &parts, &bytes, Ask::Await(v1::Await::default())).await;
        // It says yes, and asks: to tell it either outcome would be a guess. The answer to the question behind them comes first.
        let id = bank().branch.into();
        let yes = v1::Vote { vote: v1::VoteKind::Yes.into(), reason: String::new() };
        session.say(report(&bytes, id, Report::Vote(yes)));
        session.say(report(&bytes, id, Report::Inquire(v1::Inquire {})));
        session.say(request(99, &bytes, Ask::Await(v1::Await::default())));
        let heard = session.hear().await.expect("the session lives");
        assert!(matches!(&heard, v1::server_message::Kind::Reply(reply) if reply.request_id == 99), "{heard:?}");
    }
    let as_it_is = open().await;
    assert_eq!(as_it_is.iter().map(|(gtid, _)| *gtid).collect::<Vec<_>>(), [left.damaged, left.contradictory]);
    assert_eq!(as_it_is, as_it_was, "they stand in the log as they were");
}

/// The epoch of the order to abort the bank's branch.
fn recalled(heard: &Heard, gtid: &Bytes) -> u64 {
    let Heard::Branch(order) = heard else { panic!("{heard:?}") };
    assert!(matches!(order.kind, Some(Order::Abort(_))), "{order:?}");
    assert_eq!((&order.gtid, order.branch), (gtid, Some(bank().branch.into())));
    order.epoch
}

/// A branch that was ordered to commit by itself, by a replica that died before it heard how that went.
#[tokio::test]
async fn a_delegation_is_recalled_and_the_initiator_hears_what_the_branch_did() {
    for (result, outcome) in
        [(v1::BranchResult::HeuristicCommitted, Outcome::Committed), (v1::BranchResult::Done, Outcome::Aborted)]
    {
        let home = Home::new();
        let log = MemoryLog::new();
        log.acquire(&name("assent")).await.expect("an epoch");
        let gtid: Gtid = gtid().parse().expect("a gtid");
        let begun_at_ms = gtid.minted_at_ms();
        let record = Delegated { gtid, member: bank(), digest: BodyDigest(7), begun_at_ms };
        let batch = Batch { at_ms: begun_at_ms, forced: vec![Record::Delegated(record)], lazy: Vec::new() };
        log.append(&batch).await.expect("appended");
        let coordinator = recovered(&home, &log).await;
        let waits = shown(&coordinator, gtid).await;
        assert_eq!(waits.state(), v1::TransactionState::Preparing);
        assert!(waits.waiting_for.contains("bank to tell whether it has committed"), "{waits:?}");

        let bytes = Bytes::copy_from_slice(gtid.as_bytes());
        let id = self::bank().branch.into();
        let mut bank = Session::open(&coordinator, "bank").await;
        let heard = bank.hear().await.expect("the session lives");
        let epoch = recalled(&heard, &bytes);
        // It does not know, and is asked once more; nothing is presumed from that.
        let unknown = v1::Vote { vote: v1::VoteKind::Unknown.into(), reason: "timeout".to_owned() };
        bank.say(report(&bytes, id, Report::Vote(unknown)));
        let heard = bank.hear().await.expect("the session lives");
        assert_eq!(recalled(&heard, &bytes), epoch);
        bank.say(report(&bytes, id, done(v1::Decision::Abort, epoch, result)));

        let mut initiator = Session::open(&coordinator, "").await;
        let told = initiator.ask(&bytes, Ask::Await(v1::Await::default())).await;
        assert!(matches!(&told, v1::reply::Kind::Outcome(told) if told.outcome() == outcome), "{told:?}");
        until("its end is logged", async || shown(&coordinator, gtid).await.ended_at.is_some()).await;
    }
}
