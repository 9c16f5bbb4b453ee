//! Bad input, case by case: a clear answer, and nothing lost or left behind.
//!
//! What does not even come as a message is in `malformed.rs`; what needs a Postgres is in the integration tests.

use std::sync::Arc;

use assent::config::Config;
use assent::driver::Limits;
use assent::log::memory::{Failure, MemoryLog};
use assent::server::Coordinator;
use assent_proto::error::Reason;
use assent_proto::v1::reply::Kind as Answer;
use assent_proto::v1::request::Ask;
use assent_proto::v1::{
    self, AbortRequest, BeginRequest, CommitRequest, EnlistRequest, GetRequest, Outcome, SagaDefinition, SagaStep,
    StartSagaRequest, TransactionState,
};
use bytes::Bytes;

use crate::harness::{
    Home, Manner, PATIENCE, Session, begin, begun, branch, commit, gtid, gtid_bytes, nothing_is_left, participant,
    refused, request, settled, transactions, until, whole,
};

fn enlist(gtid: &str, participant: &str, payload: &str) -> EnlistRequest {
    EnlistRequest {
        gtid: gtid.to_owned(),
        participant: participant.to_owned(),
        payload: payload.as_bytes().to_vec().into(),
    }
}

fn step(name: &str, participant: &str, after: &[&str]) -> SagaStep {
    SagaStep {
        name: name.to_owned(),
        participant: participant.to_owned(),
        after: after.iter().map(|name| (*name).to_owned()).collect(),
        ..SagaStep::default()
    }
}

fn saga(gtid: &str, steps: Vec<SagaStep>) -> StartSagaRequest {
    StartSagaRequest { gtid: gtid.to_owned(), definition: Some(SagaDefinition { steps }), wait_for_end: true }
}

/// The same, as a session says it, for the first time or again.
fn start(steps: Vec<SagaStep>, attempt: u32) -> Ask {
    let definition = Some(SagaDefinition { steps });
    Ask::StartSaga(v1::StartSaga { definition, wait: v1::Wait::Ended.into(), attempt })
}

fn text_of(gtid: &Bytes) -> String {
    uuid::Uuid::from_slice(gtid).expect("16 bytes").to_string()
}

fn code_of(reason: &Option<v1::AbortReason>) -> &str {
    reason.as_ref().map_or("", |reason| reason.code.as_str())
}

/// Asks a session for an outcome.
async fn outcome(session: &mut Session, gtid: &Bytes, request: v1::Commit) -> v1::OutcomeReached {
    match session.ask(gtid, Ask::Commit(request)).await {
        Answer::Outcome(outcome) => outcome,
        other => panic!("{other:?} is no outcome"),
    }
}

#[tokio::test]
async fn an_unknown_participant() {
    let home = Home::new();
    let coordinator = home.start().await;
    let _bank = participant(&coordinator, "bank", Manner::Willing).await;
    let mut client = transactions(&coordinator).await;
    let mut session = Session::open(&coordinator, "").await;
    // One that could have been prepared is aborted with it.
    let request =
        CommitRequest { wait_for_end: true, ..whole(&gtid(), vec![branch("bank", "x"), branch("nobody", "x")]) };
    let answer = client.commit(request.clone()).await.expect("an outcome").into_inner();
    let told = outcome(&mut session, &gtid_bytes(), commit(&[("bank", "x"), ("nobody", "x")])).await;
    for (outcome, reason) in [(answer.outcome(), &answer.reason), (told.outcome(), &told.reason)] {
        assert_eq!((outcome, code_of(reason)), (Outcome::Aborted, "PARTICIPANT_UNKNOWN"));
        let reason = reason.as_ref().expect("a reason");
        assert!(reason.participant == "nobody" && !reason.message.is_empty(), "{reason:?}");
    }
    assert_eq!(client.commit(request).await.expect("an outcome").into_inner(), answer, "asked again");
    let parts = ["step b", "participant nobody", "check the name"];
    let steps = || vec![step("a", "bank", &[]), step("b", "nobody", &["a"])];
    refused(client.start_saga(saga("", steps())).await, Reason::UnknownParticipant, &parts);
    session.refused(Reason::UnknownParticipant, &parts, &gtid_bytes(), start(steps(), 1)).await;
    nothing_is_left(&coordinator).await;
}

#[tokio::test]
async fn a_participant_with_two_branches() {
    let home = Home::new();
    let coordinator = home.start().await;
    let _bank = participant(&coordinator, "bank", Manner::Willing).await;
    let parts = ["participant bank", "into one branch"];
    let mut client = transactions(&coordinator).await;
    let twice = whole(&gtid(), vec![branch("bank", "1"), branch("bank", "2")]);
    refused(client.commit(twice.clone()).await, Reason::DuplicateBranch, &parts);
    // Nothing was kept: under the same gtid the right request runs.
    let once = whole(&twice.gtid, vec![branch("bank", "3")]);
    assert_eq!(client.commit(once).await.expect("an outcome").into_inner().outcome(), Outcome::Committed);

    // Enlisted first, and then carried once more.
    let opened = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    client.enlist(enlist(&opened, "bank", "1")).await.expect("enlisted");
    let carried = CommitRequest { branches: vec![branch("bank", "2")], begun: Some(true), ..begun(&opened) };
    refused(client.commit(carried).await, Reason::DuplicateBranch, &parts);
    refused(client.enlist(enlist(&opened, "bank", "2")).await, Reason::DuplicateBranch, &parts);
    assert_eq!(client.commit(begun(&opened)).await.expect("an outcome").into_inner().outcome(), Outcome::Committed);

    let mut session = Session::open(&coordinator, "").await;
    let asked = Ask::Commit(commit(&[("bank", "1"), ("bank", "2")]));
    let gtid = gtid_bytes();
    session.refused(Reason::DuplicateBranch, &parts, &gtid, asked).await;
    let once = v1::Commit { attempt: 2, ..commit(&[("bank", "1")]) };
    assert_eq!(outcome(&mut session, &gtid, once).await.outcome(), Outcome::Committed);
    nothing_is_left(&coordinator).await;
}

#[tokio::test]
async fn a_key_that_is_used_again_with_another_body() {
    let home = Home::new();
    let coordinator = home.start().await;
    let _bank = participant(&coordinator, "bank", Manner::Willing).await;
    let silent = participant(&coordinator, "silent", Manner::Silent).await;
    let parts = ["another body", "mint a new"];
    let (open, ended, of_saga) = (gtid_bytes(), gtid_bytes(), gtid_bytes());
    let mut client = transactions(&coordinator).await;
    let mut session = Session::open(&coordinator, "").await;
    let first = outcome(&mut session, &ended, commit(&[("bank", "1")])).await;
    assert_eq!(first.outcome(), Outcome::Committed);
    let steps = |name: &str| vec![step(name, "bank", &[])];
    let done = client.start_saga(saga(&text_of(&of_saga), steps("a"))).await.expect("an outcome").into_inner();
    // This one is on its way while it is asked for in other words.
    session.say(request(1_000, &open, Ask::Commit(commit(&[("silent", "1")]))));
    let get = GetRequest { gtid: text_of(&open) };
    until("it is on its way", async || transactions(&coordinator).await.get(get.clone()).await.is_ok()).await;

    for gtid in [&open, &ended] {
        for body in [&[("bank", "2")][..], &[("bank", "1"), ("silent", "1")], &[("silent", "2")]] {
            let text = text_of(gtid);
            let branches = body.iter().map(|(name, payload)| branch(name, payload)).collect();
            refused(client.commit(whole(&text, branches)).await, Reason::KeyReused, &parts);
            let other = v1::Commit { attempt: 2, ..commit(body) };
            session.refused(Reason::KeyReused, &parts, gtid, Ask::Commit(other)).await;
        }
    }
    for other in [steps("b"), vec![step("a", "bank", &[]), step("b", "bank", &[])]] {
        let text = text_of(&of_saga);
        refused(client.start_saga(saga(&text, other.clone())).await, Reason::KeyReused, &parts);
        session.refused(Reason::KeyReused, &parts, &of_saga, start(other, 2)).await;
    }
    // The same body gives the same answer, in either way.
    let again = v1::Commit { attempt: 2, ..commit(&[("bank", "1")]) };
    assert_eq!(outcome(&mut session, &ended, again).await, first);
    let again = client.commit(whole(&text_of(&ended), vec![branch("bank", "1")])).await.expect("an outcome");
    assert_eq!(again.into_inner().outcome(), Outcome::Committed);
    assert_eq!(client.start_saga(saga(&text_of(&of_saga), steps("a"))).await.expect("an outcome").into_inner(), done);

    // What was on its way was not disturbed: it waits for its vote still.
    let get = GetRequest { gtid: text_of(&open) };
    let shown = client.get(get).await.expect("shown").into_inner().transaction.expect("one");
    assert_eq!(shown.state(), TransactionState::Preparing);
    let abort = AbortRequest { gtid: text_of(&open), reason: "over".to_owned() };
    client.abort(abort).await.expect("aborted");
    drop(silent);
    let _back = participant(&coordinator, "silent", Manner::Willing).await;
    nothing_is_left(&coordinator).await;
}

#[tokio::test]
async fn a_saga_under_the_gtid_of_a_transaction_and_the_other_way_round() {
    let home = Home::new();
    let coordinator = home.start().await;
    let silent = participant(&coordinator, "silent", Manner::Silent).await;
    let mut client = transactions(&coordinator).await;
    let parts = ["this gtid is a ", "mint a new one"];
    let transaction = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    let steps = || vec![step("a", "silent", &[])];
    refused(client.start_saga(saga(&transaction, steps())).await, Reason::WrongProtocol, &parts);
    let started = StartSagaRequest { wait_for_end: false, ..saga("", steps()) };
    let of_saga = client.start_saga(started).await.expect("started").into_inner().gtid;
    let carried = vec![branch("silent", "x")];
    refused(client.commit(whole(&of_saga, carried)).await, Reason::WrongProtocol, &parts);
    refused(
        client.begin(BeginRequest { gtid: of_saga.clone(), timeout_ms: 0, protocol: 0 }).await,
        Reason::WrongProtocol,
        &parts,
    );
    refused(client.enlist(enlist(&of_saga, "silent", "x")).await, Reason::WrongProtocol, &["in its definition"]);
    for gtid in [&transaction, &of_saga] {
        client.abort(AbortRequest { gtid: gtid.clone(), reason: String::new() }).await.expect("aborted");
    }
    drop(silent);
    let _back = participant(&coordinator, "silent", Manner::Willing).await;
    nothing_is_left(&coordinator).await;
}

#[tokio::test]
async fn what_is_too_large() {
    let home = Home::new();
    let limits = Limits { payload_bytes_max: 1_000, ..Limits::default() };
    let coordinator = home.start_with(Config { limits, ..home.config() }).await;
    let _bank = participant(&coordinator, "bank", Manner::Willing).await;
    let mut client = transactions(&coordinator).await;
    let mut session = Session::open(&coordinator, "").await;
    let large = "x".repeat(1_001);
    let parts = ["1001 bytes, and 1000 are allowed", "send a reference", "limits.payload_bytes_max"];
    let whole_one = whole(&gtid(), vec![branch("bank", &large)]);
    refused(client.commit(whole_one.clone()).await, Reason::PayloadTooLarge, &parts);
    let opened = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    refused(client.enlist(enlist(&opened, "bank", &large)).await, Reason::PayloadTooLarge, &parts);
    let carried = CommitRequest { branches: vec![branch("bank", &large)], begun: Some(true), ..begun(&opened) };
    refused(client.commit(carried).await, Reason::PayloadTooLarge, &parts);
    let steps = || vec![SagaStep { input: large.clone().into_bytes().into(), ..step("a", "bank", &[]) }];
    refused(client.start_saga(saga("", steps())).await, Reason::PayloadTooLarge, &parts);
    session.refused(Reason::PayloadTooLarge, &parts, &gtid_bytes(), start(steps(), 1)).await;
    let asked = Ask::Commit(commit(&[("bank", &large)]));
    session.refused(Reason::PayloadTooLarge, &parts, &gtid_bytes(), asked).await;
    // The largest that is allowed goes through, under the gtid that was refused, and in the transaction that was open.
    let largest = "x".repeat(1_000);
    let fits = whole(&whole_one.gtid, vec![branch("bank", &largest)]);
    assert_eq!(client.commit(fits).await.expect("an outcome").into_inner().outcome(), Outcome::Committed);
    client.enlist(enlist(&opened, "bank", &largest)).await.expect("enlisted");
    assert_eq!(client.commit(begun(&opened)).await.expect("an outcome").into_inner().outcome(), Outcome::Committed);

    // Larger than a message may be at all: on a call, and on a session, which it ends.
    let parts = ["the limit is: 4198400 bytes", "make payloads smaller"];
    let huge = "x".repeat(5 * 1_024 * 1_024);
    refused(client.commit(whole(&gtid(), vec![branch("bank", &huge)])).await, Reason::FrameTooLarge, &parts);
    refused(client.enlist(enlist(&opened, "bank", &huge)).await, Reason::FrameTooLarge, &parts);
    session.say(request(1_000, &gtid_bytes(), Ask::Commit(commit(&[("bank", &huge)]))));
    session.expect_end(Reason::FrameTooLarge, &parts).await;
    nothing_is_left(&coordinator).await;
}

#[tokio::test]
async fn more_branches_than_allowed() {
    let home = Home::new();
    let limits = Limits { branches_max: 2, ..Limits::default() };
    let coordinator = home.start_with(Config { limits, ..home.config() }).await;
    let _a = participant(&coordinator, "a", Manner::Willing).await;
    let _b = participant(&coordinator, "b", Manner::Willing).await;
    let parts = ["at most 2 branches", "split it", "limits.branches_max"];
    let mut client = transactions(&coordinator).await;
    let three = || ["a", "b", "c"].map(|name| branch(name, "")).to_vec();
    refused(client.commit(whole(&gtid(), three())).await, Reason::TooManyBranches, &parts);
    let mut initiator = Session::open(&coordinator, "").await;
    let asked = Ask::Commit(commit(&[("a", ""), ("b", ""), ("c", "")]));
    initiator.refused(Reason::TooManyBranches, &parts, &gtid_bytes(), asked).await;

    // Enlisted one by one: who is in already may ask again, who comes too late may not come in.
    let opened = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    let bytes = Bytes::copy_from_slice(opened.parse::<uuid::Uuid>().expect("a UUID").as_bytes());
    client.enlist(enlist(&opened, "a", "")).await.expect("enlisted");
    let mut early = Session::open(&coordinator, "c").await;
    let enlisting = || {
        let branch = Some(v1::BranchId { number: 1, epoch: 1 });
        Ask::Enlist(v1::Enlist { branch, vote: v1::VoteKind::Yes.into() })
    };
    assert_eq!(early.ask(&bytes, enlisting()).await, Answer::Enlisted(v1::Enlisted {}));
    client.enlist(enlist(&opened, "a", "")).await.expect("the same again");
    assert_eq!(early.ask(&bytes, enlisting()).await, Answer::Enlisted(v1::Enlisted {}), "the same again");
    refused(client.enlist(enlist(&opened, "b", "")).await, Reason::TooManyBranches, &parts);
    let mut third = Session::open(&coordinator, "b").await;
    third.refused(Reason::TooManyBranches, &parts, &bytes, enlisting()).await;
    let more = CommitRequest { branches: vec![branch("b", "")], begun: Some(true), ..begun(&opened) };
    refused(client.commit(more).await, Reason::TooManyBranches, &parts);
    // It is open still, and commits with the two that it has.
    let outcome = client.commit(begun(&opened)).await.expect("an outcome").into_inner();
    assert_eq!(outcome.outcome(), Outcome::Committed);
    drop(early);
    let _c = participant(&coordinator, "c", Manner::Willing).await;
    nothing_is_left(&coordinator).await;
}

#[tokio::test]
async fn a_request_that_is_refused_or_repeated_takes_no_room() {
    let home = Home::new();
    let limits = Limits { open_bytes_max: 1_000, ..Limits::default() };
    let coordinator = home.start_with(Config { shards: 1, limits, ..home.config() }).await;
    let _bank = participant(&coordinator, "bank", Manner::Willing).await;
    let mut client = transactions(&coordinator).await;
    let payload = "x".repeat(400);
    let opened = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    for _ in 0..5 {
        client.enlist(enlist(&opened, "bank", &payload)).await.expect("the same branch");
        let other = "y".repeat(400);
        refused(client.enlist(enlist(&opened, "bank", &other)).await, Reason::DuplicateBranch, &["one branch"]);
        let carried = CommitRequest { branches: vec![branch("bank", &other)], begun: Some(true), ..begun(&opened) };
        refused(client.commit(carried).await, Reason::DuplicateBranch, &["one branch"]);
    }
    // There is room for as much again, and not for more.
    let second = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    client.enlist(enlist(&second, "bank", &payload)).await.expect("room is left");
    let third = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    let parts = ["800 bytes", "try again"];
    refused(client.enlist(enlist(&third, "bank", &payload)).await, Reason::Overloaded, &parts);
    for gtid in [opened, second, third] {
        client.commit(begun(&gtid)).await.expect("an outcome");
    }
    nothing_is_left(&coordinator).await;
}

#[tokio::test]
async fn a_saga_that_is_none() {
    let home = Home::new();
    let coordinator = home.start().await;
    let _airline = participant(&coordinator, "airline", Manner::Willing).await;
    let mut client = transactions(&coordinator).await;
    let mut session = Session::open(&coordinator, "").await;
    let long = "x".repeat(300);
    for (steps, part) in [
        (vec![], "at least one step"),
        (vec![step("flight", "airline", &["hotel"])], "name a step that stands before it"),
        (vec![step("a", "airline", &["a"])], "leave that out"),
        (vec![step("a", "airline", &["b"]), step("b", "airline", &["a"])], "put each step behind those"),
        (vec![step("a", "airline", &[]), step("a", "airline", &[])], "give each step of a saga its own name"),
        (vec![step("a", "airline", &[]), step("b", "airline", &["a", "a"])], "leave one out"),
        (vec![step("", "airline", &[])], "is not a name: use 1 to 63"),
        (vec![step(&long, "airline", &[])], "is not a name: use 1 to 63"),
        (vec![step("a", "", &[])], "is not a name: use 1 to 63"),
        (vec![step("a", "Flüge\0", &[])], "is not a name: use 1 to 63"),
        ((0..1_001).map(|number| step(&format!("s{number}"), "airline", &[])).collect(), "at most 1000 steps"),
    ] {
        refused(client.start_saga(saga("", steps.clone())).await, Reason::Malformed, &[part]);
        session.refused(Reason::Malformed, &[part], &gtid_bytes(), start(steps, 1)).await;
    }
    refused(client.start_saga(StartSagaRequest::default()).await, Reason::Malformed, &["definition is missing"]);
    let right = saga("", vec![step("a", "airline", &[]), step("b", "airline", &["a"])]);
    assert_eq!(client.start_saga(right).await.expect("an outcome").into_inner().outcome(), Outcome::Completed);
    nothing_is_left(&coordinator).await;
}

#[tokio::test]
async fn enlisting_after_prepare_has_begun() {
    let home = Home::new();
    let coordinator = home.start().await;
    let silent = participant(&coordinator, "silent", Manner::Silent).await;
    let mut late = Session::open(&coordinator, "late").await;
    let mut client = transactions(&coordinator).await;
    let opened = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    let bytes = Bytes::copy_from_slice(opened.parse::<uuid::Uuid>().expect("a UUID").as_bytes());
    client.enlist(enlist(&opened, "silent", "x")).await.expect("enlisted");
    let mut committing = client.clone();
    let asked = begun(&opened);
    let commit = tokio::spawn(async move { committing.commit(asked).await });
    until("it prepares", async || {
        let shown = client.clone().get(GetRequest { gtid: opened.clone() }).await.expect("shown").into_inner();
        shown.transaction.expect("one").state() == TransactionState::Preparing
    })
    .await;
    let parts = ["is preparing", "branches enlist only while it is active"];
    refused(client.enlist(enlist(&opened, "late", "x")).await, Reason::RosterFrozen, &parts);
    let enlisting = || {
        let branch = Some(v1::BranchId { number: 1, epoch: 1 });
        Ask::Enlist(v1::Enlist { branch, vote: v1::VoteKind::Yes.into() })
    };
    late.refused(Reason::RosterFrozen, &parts, &bytes, enlisting()).await;
    client.abort(AbortRequest { gtid: opened.clone(), reason: "too slow".to_owned() }).await.expect("aborted");
    let outcome = commit.await.expect("no panic").expect("an outcome").into_inner();
    assert_eq!((outcome.outcome(), code_of(&outcome.reason)), (Outcome::Aborted, "REQUESTED"));
    drop(silent);
    let _back = participant(&coordinator, "silent", Manner::Willing).await;
    nothing_is_left(&coordinator).await;
    // Nor once it has ended.
    let parts = ["it has ended", "begin anew"];
    refused(client.enlist(enlist(&opened, "late", "x")).await, Reason::NotFound, &parts);
    late.refused(Reason::NotFound, &parts, &bytes, enlisting()).await;
}

#[tokio::test]
async fn committing_after_the_deadline() {
    let home = Home::new();
    let coordinator = home.start().await;
    let _bank = participant(&coordinator, "bank", Manner::Willing).await;
    let silent = participant(&coordinator, "silent", Manner::Silent).await;
    let mut client = transactions(&coordinator).await;
    let opened = client.begin(BeginRequest { timeout_ms: 1, ..Default::default() }).await.expect("begun");
    let opened = opened.into_inner().gtid;
    until("its deadline passes", async || coordinator.statistics().snapshot().open == 0).await;
    // Whether it has a branch to add or not.
    for branches in [vec![], vec![branch("bank", "x")]] {
        let late = CommitRequest { branches, begun: Some(true), ..begun(&opened) };
        let outcome = client.commit(late).await.expect("an outcome").into_inner();
        assert_eq!((outcome.outcome(), code_of(&outcome.reason)), (Outcome::Aborted, "DEADLINE_EXCEEDED"));
        assert!(outcome.reason.is_some_and(|reason| !reason.message.is_empty()));
    }
    refused(client.enlist(enlist(&opened, "bank", "x")).await, Reason::NotFound, &["begin anew"]);
    // One that prepares when its time is over is aborted, and its branch is told.
    let mut session = Session::open(&coordinator, "").await;
    let asked = v1::Commit { timeout_ms: 1, ..commit(&[("bank", "x"), ("silent", "x")]) };
    let told = outcome(&mut session, &gtid_bytes(), asked).await;
    assert_eq!((told.outcome(), code_of(&told.reason)), (Outcome::Aborted, "DEADLINE_EXCEEDED"));
    drop(silent);
    let _back = participant(&coordinator, "silent", Manner::Willing).await;
    nothing_is_left(&coordinator).await;
}

#[tokio::test]
async fn timeouts_that_nobody_can_keep() {
    let home = Home::new();
    let limits = Limits { timeout_max_ms: 60_000, ..Limits::default() };
    let coordinator = home.start_with(Config { limits, ..home.config() }).await;
    let mut client = transactions(&coordinator).await;
    let mut session = Session::open(&coordinator, "").await;
    settled(&coordinator).await;
    let parts = ["60000 ms", "limits.timeout_max", "ask for less"];
    // A negative number is a huge one on the wire.
    for timeout_ms in [60_001, u64::MAX, (-1_i64).cast_unsigned()] {
        let opening = BeginRequest { timeout_ms, ..Default::default() };
        refused(client.begin(opening).await, Reason::InvalidTimeout, &parts);
        let asked = CommitRequest { timeout_ms, ..whole(&gtid(), vec![branch("bank", "x")]) };
        refused(client.commit(asked).await, Reason::InvalidTimeout, &parts);
        session.refused(Reason::InvalidTimeout, &parts, &gtid_bytes(), begin(timeout_ms)).await;
        let asked = Ask::Commit(v1::Commit { timeout_ms, ..commit(&[("bank", "x")]) });
        session.refused(Reason::InvalidTimeout, &parts, &gtid_bytes(), asked).await;
    }
    for timeout_ms in [0, 60_000] {
        let begun = client.begin(BeginRequest { timeout_ms, ..Default::default() }).await.expect("begun").into_inner();
        assert!(begun.deadline.is_some());
        client.abort(AbortRequest { gtid: begun.gtid, reason: String::new() }).await.expect("aborted");
    }
    nothing_is_left(&coordinator).await;
}

#[tokio::test]
async fn names_and_gtids_that_are_none() {
    let home = Home::new();
    let coordinator = home.start().await;
    let mut client = transactions(&coordinator).await;
    let opened = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    let long = "x".repeat(300);
    for name in ["", "Bank", "bänk", "bank\0", "-bank", " ", "a b", "../bank", &long] {
        let part = if name.is_empty() { "name the service" } else { "use 1 to 63 of a-z 0-9" };
        refused(client.enlist(enlist(&opened, name, "x")).await, Reason::Malformed, &[part]);
        refused(client.commit(whole(&gtid(), vec![branch(name, "x")])).await, Reason::Malformed, &[part]);
    }
    let huge = "0".repeat(100_000);
    for wrong in ["nonsense", "f47ac10b-58cc-4372-a567-0e02b2c3d479", "\0", "ü", &huge] {
        let parts = ["UUID of version 7"];
        refused(client.commit(begun(wrong)).await, Reason::Malformed, &parts);
        refused(
            client.begin(BeginRequest { gtid: wrong.to_owned(), timeout_ms: 0, protocol: 0 }).await,
            Reason::Malformed,
            &parts,
        );
        refused(client.get(GetRequest { gtid: wrong.to_owned() }).await, Reason::Malformed, &parts);
        refused(client.start_saga(saga(wrong, vec![step("a", "bank", &[])])).await, Reason::Malformed, &parts);
        let abort = AbortRequest { gtid: wrong.to_owned(), reason: String::new() };
        refused(client.abort(abort).await, Reason::Malformed, &parts);
    }
    refused(client.commit(begun("")).await, Reason::Malformed, &["gtid is missing"]);
    // A reason for people may be anything.
    let reason = format!("\0\u{202e}ü\n{}", "x".repeat(100_000));
    client.abort(AbortRequest { gtid: opened, reason }).await.expect("aborted");
    nothing_is_left(&coordinator).await;
}

#[tokio::test]
async fn a_log_that_is_full_or_away_keeps_answers_back_and_loses_none() {
    let home = Home::new();
    let log = Arc::new(MemoryLog::new());
    let coordinator = Coordinator::start_with(home.config(), Arc::clone(&log) as _).await.expect("a coordinator");
    let _bank = participant(&coordinator, "bank", Manner::Willing).await;
    let mut client = transactions(&coordinator).await;
    for failure in [Failure::Full, Failure::Unreachable] {
        let opened = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
        client.enlist(enlist(&opened, "bank", "x")).await.expect("enlisted");
        log.fail_next_append(failure);
        let before = coordinator.statistics().snapshot().append_failures;
        let (asked, mut committing) = (begun(&opened), client.clone());
        let commit = tokio::spawn(async move { committing.commit(asked).await });
        until("the log has failed", async || coordinator.statistics().snapshot().append_failures > before).await;
        let answer = tokio::time::timeout(PATIENCE, commit).await.expect("it goes on").expect("no panic");
        assert_eq!(answer.expect("an outcome").into_inner().outcome(), Outcome::Committed, "{failure:?}");
        until("nothing is in memory", async || coordinator.statistics().snapshot().open == 0).await;
    }

    let opened = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    client.enlist(enlist(&opened, "bank", "x")).await.expect("enlisted");
    log.set_outage(true);
    let before = coordinator.statistics().snapshot().append_failures;
    let (asked, mut committing) = (begun(&opened), client.clone());
    let commit = tokio::spawn(async move { committing.commit(asked).await });
    until("the log has failed often", async || coordinator.statistics().snapshot().append_failures > before + 1).await;
    assert!(!commit.is_finished(), "nothing is told that is not durable");
    // What only the log can tell is refused meanwhile, with the advice to ask again.
    let other = whole(&gtid(), vec![branch("bank", "x")]);
    let parts = ["cannot reach the log", "this request was not carried out, ask again"];
    refused(client.commit(other.clone()).await, Reason::LogUnreachable, &parts);
    let parts = ["cannot reach the log", "nothing was changed, try again"];
    refused(client.get(GetRequest { gtid: gtid() }).await, Reason::LogUnreachable, &parts);
    log.set_outage(false);
    let answer = tokio::time::timeout(PATIENCE, commit).await.expect("it goes on").expect("no panic");
    assert_eq!(answer.expect("an outcome").into_inner().outcome(), Outcome::Committed);
    assert_eq!(client.commit(other).await.expect("an outcome").into_inner().outcome(), Outcome::Committed);
    nothing_is_left(&coordinator).await;
}
