//! `TransactionService`: transactions by unary calls.

use assent::config::Config;
use assent::driver::Limits;
use assent_proto::error::Reason;
use assent_proto::v1::{
    self, AbortRequest, BeginRequest, CommitRequest, EnlistRequest, GetRequest, Outcome, TransactionState, WatchRequest,
};
use tonic::Code;

use crate::harness::{Home, Manner, begun, branch, gtid, participant, refusal, transactions, until, whole};

fn begin(gtid: &str) -> BeginRequest {
    BeginRequest { gtid: gtid.to_owned(), timeout_ms: 0, protocol: 0 }
}

fn enlist(gtid: &str, participant: &str, payload: &str) -> EnlistRequest {
    EnlistRequest {
        gtid: gtid.to_owned(),
        participant: participant.to_owned(),
        payload: payload.as_bytes().to_vec().into(),
    }
}

fn reason_code(reason: &Option<v1::AbortReason>) -> &str {
    reason.as_ref().map_or("", |reason| reason.code.as_str())
}

#[tokio::test]
async fn a_begun_transaction_without_branches_commits() {
    let home = Home::new();
    let coordinator = home.start().await;
    let mut client = transactions(&coordinator).await;
    let opened = client.begin(BeginRequest::default()).await.expect("begun").into_inner();
    assert!(opened.deadline.is_some());
    // The same again is the same transaction.
    assert_eq!(client.begin(begin(&opened.gtid)).await.expect("begun").into_inner(), opened);
    let first = client.commit(begun(&opened.gtid)).await.expect("an outcome").into_inner();
    assert_eq!(first.outcome(), Outcome::Committed);
    let again = client.commit(begun(&opened.gtid)).await.expect("an outcome").into_inner();
    assert_eq!(again, first);
    assert_eq!(refusal(client.begin(begin(&opened.gtid)).await).0, Reason::KeyReused);
}

#[tokio::test]
async fn a_whole_transaction_is_one_call_and_its_repetition_gives_the_same_answer() {
    let home = Home::new();
    let coordinator = home.start().await;
    let _a = participant(&coordinator, "bank-a", Manner::Willing).await;
    let _b = participant(&coordinator, "bank-b", Manner::Willing).await;
    let mut client = transactions(&coordinator).await;
    let gtid = gtid();
    let request =
        CommitRequest { wait_for_end: true, ..whole(&gtid, vec![branch("bank-a", "-5"), branch("bank-b", "+5")]) };
    let first = client.commit(request.clone()).await.expect("an outcome").into_inner();
    assert_eq!(first.outcome(), Outcome::Committed);
    assert_eq!(client.commit(request.clone()).await.expect("an outcome").into_inner(), first);
    let other = whole(&gtid, vec![branch("bank-a", "-6"), branch("bank-b", "+6")]);
    assert_eq!(refusal(client.commit(other.clone()).await).0, Reason::KeyReused);

    // Neither does a restart change it.
    coordinator.shutdown().await.expect("stopped");
    let coordinator = home.start().await;
    let mut client = transactions(&coordinator).await;
    assert_eq!(client.commit(request).await.expect("an outcome").into_inner(), first);
    assert_eq!(refusal(client.commit(other).await).0, Reason::KeyReused);
}

#[tokio::test]
async fn enlisted_branches_are_prepared_at_the_commit() {
    let home = Home::new();
    let coordinator = home.start().await;
    let _a = participant(&coordinator, "bank-a", Manner::Willing).await;
    let _b = participant(&coordinator, "bank-b", Manner::Unwilling).await;
    let mut client = transactions(&coordinator).await;
    let gtid = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    client.enlist(enlist(&gtid, "bank-a", "-5")).await.expect("enlisted");
    client.enlist(enlist(&gtid, "bank-a", "-5")).await.expect("the same again is the same branch");
    assert_eq!(refusal(client.enlist(enlist(&gtid, "bank-a", "-6")).await).0, Reason::DuplicateBranch);
    client.enlist(enlist(&gtid, "bank-b", "+5")).await.expect("enlisted");
    let outcome = client.commit(begun(&gtid)).await.expect("an outcome").into_inner();
    assert_eq!(outcome.outcome(), Outcome::Aborted);
    let reason = outcome.reason.expect("a reason");
    assert_eq!(
        (reason.code.as_str(), reason.participant.as_str(), reason.message.as_str()),
        ("REFUSED", "bank-b", "sold out")
    );
    let late = refusal(client.enlist(enlist(&gtid, "bank-c", "0")).await).0;
    assert!(matches!(late, Reason::RosterFrozen | Reason::NotFound), "{late}");
}

#[tokio::test]
async fn a_begun_transaction_that_a_restart_forgot_is_never_committed_in_part() {
    let home = Home::new();
    let coordinator = home.start().await;
    let mut client = transactions(&coordinator).await;
    let gtid = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    client.enlist(enlist(&gtid, "bank-a", "-5")).await.expect("enlisted");
    // Whoever says otherwise is told at once, and not only after the restart.
    let (reason, message) = refusal(client.commit(whole(&gtid, vec![branch("bank-b", "+5")])).await);
    assert_eq!(reason, Reason::Malformed);
    assert!(message.contains("begun=true"), "{message}");
    coordinator.kill().await.expect("stopped");

    let coordinator = home.start().await;
    let _b = participant(&coordinator, "bank-b", Manner::Willing).await;
    let mut client = transactions(&coordinator).await;
    let request = CommitRequest { branches: vec![branch("bank-b", "+5")], begun: Some(true), ..begun(&gtid) };
    let outcome = client.commit(request).await.expect("an outcome").into_inner();
    assert_eq!((outcome.outcome(), reason_code(&outcome.reason)), (Outcome::Aborted, "FORGOTTEN"));
    let outcome = client.commit(CommitRequest { wait_for_end: true, ..begun(&gtid) }).await.expect("an outcome");
    assert_eq!(outcome.into_inner().outcome(), Outcome::Aborted);
}

#[tokio::test]
async fn whether_a_transaction_was_begun_has_to_be_said() {
    let home = Home::new();
    let coordinator = home.start().await;
    let mut client = transactions(&coordinator).await;
    let unsaid = CommitRequest { begun: None, ..whole(&gtid(), vec![branch("bank-a", "")]) };
    let (reason, message) = refusal(client.commit(unsaid).await);
    assert_eq!(reason, Reason::Malformed);
    assert!(message.contains("begun is missing"), "{message}");
    assert_eq!(refusal(client.commit(whole(&gtid(), Vec::new())).await).0, Reason::Malformed);
}

#[tokio::test]
async fn an_unknown_participant_aborts_and_says_so() {
    let home = Home::new();
    let coordinator = home.start().await;
    let mut client = transactions(&coordinator).await;
    let outcome = client.commit(whole(&gtid(), vec![branch("nobody", "")])).await.expect("an outcome").into_inner();
    assert_eq!((outcome.outcome(), reason_code(&outcome.reason)), (Outcome::Aborted, "PARTICIPANT_UNKNOWN"));
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said() {
    let home = Home::new();
    let limits = Limits { payload_bytes_max: 1_000, branches_max: 2, timeout_max_ms: 60_000, ..Limits::default() };
    let coordinator = home.start_with(Config { limits, ..home.config() }).await;
    let mut client = transactions(&coordinator).await;
    let large = "x".repeat(1_001);
    let (reason, message) = refusal(client.commit(whole(&gtid(), vec![branch("bank-a", &large)])).await);
    assert_eq!(reason, Reason::PayloadTooLarge);
    assert!(message.contains("1001 bytes") && message.contains("limits.payload_bytes_max"), "{message}");
    let opened = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    assert_eq!(refusal(client.enlist(enlist(&opened, "bank-a", &large)).await).0, Reason::PayloadTooLarge);
    let three = ["a", "b", "c"].map(|name| branch(name, "")).to_vec();
    assert_eq!(refusal(client.commit(whole(&gtid(), three)).await).0, Reason::TooManyBranches);
    let twice = vec![branch("a", ""), branch("a", "")];
    assert_eq!(refusal(client.commit(whole(&gtid(), twice)).await).0, Reason::DuplicateBranch);
    for wrong in ["", "nonsense", "f47ac10b-58cc-4372-a567-0e02b2c3d479"] {
        let (reason, message) = refusal(client.commit(begun(wrong)).await);
        assert_eq!(reason, Reason::Malformed, "{wrong}");
        assert!(message.contains("gtid"), "{message}");
    }
    let (reason, _) = refusal(client.commit(whole(&gtid(), vec![branch("Not A Name", "")])).await);
    assert_eq!(reason, Reason::Malformed);
    let long = BeginRequest { timeout_ms: 60_001, ..BeginRequest::default() };
    assert_eq!(refusal(client.begin(long).await).0, Reason::InvalidTimeout);
    assert_eq!(refusal(client.get(GetRequest { gtid: gtid() }).await).0, Reason::NotFound);
    let unknown = AbortRequest { gtid: gtid(), ..AbortRequest::default() };
    let aborted = client.abort(unknown).await.expect("it can never commit");
    assert_eq!(aborted.into_inner().outcome(), Outcome::Aborted);
    assert_eq!(refusal(client.watch(WatchRequest { gtid: gtid() }).await).0, Reason::NotFound);
    assert_eq!(refusal(client.enlist(enlist(&gtid(), "a", "")).await).0, Reason::NotFound);
    // Larger than a message may be at all.
    let huge = "x".repeat(5 * 1_024 * 1_024);
    let status = client.commit(whole(&gtid(), vec![branch("a", &huge)])).await.expect_err("refused");
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
}

#[tokio::test]
async fn an_abort_is_final() {
    let home = Home::new();
    let coordinator = home.start().await;
    let mut client = transactions(&coordinator).await;
    let gtid = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    let abort = AbortRequest { gtid: gtid.clone(), reason: "changed my mind".to_owned() };
    let aborted = client.abort(abort.clone()).await.expect("an outcome").into_inner();
    assert_eq!(aborted.outcome(), Outcome::Aborted);
    let outcome = client.commit(begun(&gtid)).await.expect("an outcome").into_inner();
    assert_eq!((outcome.outcome(), reason_code(&outcome.reason)), (Outcome::Aborted, "REQUESTED"));
    assert_eq!(client.abort(abort).await.expect("an outcome").into_inner(), aborted);
}

#[tokio::test]
async fn a_transaction_is_shown_from_memory_and_then_from_the_log() {
    let home = Home::new();
    let coordinator = home.start().await;
    let _a = participant(&coordinator, "bank-a", Manner::Willing).await;
    let mut client = transactions(&coordinator).await;
    let gtid = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    client.enlist(enlist(&gtid, "bank-a", "-5")).await.expect("enlisted");
    let get = GetRequest { gtid: gtid.clone() };
    let shown = client.get(get.clone()).await.expect("shown").into_inner().transaction.expect("one");
    assert_eq!(shown.state(), TransactionState::Active);
    assert_eq!((shown.branches[0].participant.as_str(), shown.branches[0].state.as_str()), ("bank-a", "named"));
    assert!(shown.deadline.is_some() && shown.waiting_for.contains("initiator"), "{shown:?}");
    client.commit(CommitRequest { wait_for_end: true, ..begun(&gtid) }).await.expect("an outcome");
    coordinator.shutdown().await.expect("stopped");

    let coordinator = home.start().await;
    let mut client = transactions(&coordinator).await;
    let shown = client.get(get).await.expect("shown").into_inner().transaction.expect("one");
    assert_eq!(shown.state(), TransactionState::Committed);
    assert_eq!((shown.branches[0].participant.as_str(), shown.branches[0].state.as_str()), ("bank-a", "committed"));
    assert!(shown.ended_at.is_some() && shown.waiting_for.is_empty(), "{shown:?}");
}

#[tokio::test]
async fn one_who_watches_sees_the_end() {
    let home = Home::new();
    let coordinator = home.start().await;
    let _a = participant(&coordinator, "bank-a", Manner::Willing).await;
    let mut client = transactions(&coordinator).await;
    let gtid = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    client.enlist(enlist(&gtid, "bank-a", "-5")).await.expect("enlisted");
    let mut watched = client.watch(WatchRequest { gtid: gtid.clone() }).await.expect("watched").into_inner();
    let first = watched.message().await.expect("a picture").expect("a picture").transaction.expect("one");
    assert_eq!(first.state(), TransactionState::Active);
    client.commit(begun(&gtid)).await.expect("an outcome");
    let mut states = vec![first.state()];
    while let Some(next) = watched.message().await.expect("a picture") {
        states.push(next.transaction.expect("one").state());
    }
    assert_eq!(states.last(), Some(&TransactionState::Committed), "{states:?}");
    // Of one that has ended, there is one picture.
    let mut watched = client.watch(WatchRequest { gtid }).await.expect("watched").into_inner();
    let only = watched.message().await.expect("a picture").expect("a picture").transaction.expect("one");
    assert_eq!(only.state(), TransactionState::Committed);
    assert_eq!(watched.message().await.expect("the end"), None);
}

#[tokio::test]
async fn calls_that_nobody_waits_for_any_more_are_finished_all_the_same() {
    let home = Home::new();
    let coordinator = home.start().await;
    let silent = participant(&coordinator, "bank-a", Manner::Silent).await;
    let gtid = gtid();
    let request = CommitRequest { timeout_ms: 60_000, ..whole(&gtid, vec![branch("bank-a", "-5")]) };
    let mut client = transactions(&coordinator).await;
    let get = GetRequest { gtid: gtid.clone() };
    until("it waits for the vote", async || {
        for _ in 0..3 {
            let mut given_up = tonic::Request::new(request.clone());
            given_up.set_timeout(std::time::Duration::from_millis(100));
            client.clone().commit(given_up).await.expect_err("nobody votes");
        }
        match client.clone().get(get.clone()).await {
            Ok(shown) => shown.into_inner().transaction.expect("one").state() == TransactionState::Preparing,
            Err(_) => false,
        }
    })
    .await;
    drop(silent);
    let outcome = client.commit(request).await.expect("an outcome").into_inner();
    assert_eq!((outcome.outcome(), reason_code(&outcome.reason)), (Outcome::Aborted, "PARTICIPANT_LOST"));
    let _back = participant(&coordinator, "bank-a", Manner::Willing).await;
    until("nothing is left in memory", async || coordinator.statistics().snapshot().open == 0).await;
}
