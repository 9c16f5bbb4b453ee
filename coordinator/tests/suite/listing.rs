//! `AdminService`: what operators ask.

use std::collections::HashSet;

use assent_proto::error::Reason;
use assent_proto::v1::{
    AbortRequest, BeginRequest, CommitRequest, GetStatisticsRequest, GetTransactionRequest, ListParticipantsRequest,
    ListTransactionsRequest, Outcome, Protocol, Transaction, TransactionState,
};

use crate::harness::{Home, Manner, admin, begun, branch, gtid, participant, refusal, transactions, whole};

/// All pages of so many each.
async fn all(coordinator: &assent::server::Coordinator, request: ListTransactionsRequest) -> Vec<Transaction> {
    let mut admin = admin(coordinator).await;
    let mut listed = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListTransactionsRequest { page_token, ..request.clone() };
        let page = admin.list_transactions(request.clone()).await.expect("a page").into_inner();
        assert!(page.transactions.len() <= request.page_size as usize);
        listed.extend(page.transactions);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return listed;
        }
    }
}

#[tokio::test]
async fn pages_show_open_transactions_first_and_everything_once() {
    let home = Home::new();
    let coordinator = home.start().await;
    let _a = participant(&coordinator, "bank-a", Manner::Willing).await;
    let _mute = participant(&coordinator, "mute", Manner::Mute).await;
    let mut client = transactions(&coordinator).await;
    let (mut open, mut ended) = (HashSet::new(), HashSet::new());
    let mut number = 0;
    while number < 12 {
        let (who, of_these) = if number % 3 == 0 { ("mute", &mut open) } else { ("bank-a", &mut ended) };
        let gtid = gtid();
        let request = CommitRequest { wait_for_end: who == "bank-a", ..whole(&gtid, vec![branch(who, "x")]) };
        assert_eq!(client.commit(request).await.expect("an outcome").into_inner().outcome(), Outcome::Committed);
        of_these.insert(gtid);
        number += 1;
    }
    coordinator.shutdown().await.expect("stopped");
    let coordinator = home.start().await;
    let mut client = transactions(&coordinator).await;
    for number in 0..3 {
        let gtid = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
        if number == 0 {
            client.abort(AbortRequest { gtid: gtid.clone(), ..Default::default() }).await.expect("aborted");
            // Its end is on its way to the log, or there already.
            ended.insert(gtid);
        } else {
            open.insert(gtid);
        }
    }
    for page_size in [1, 2, 3, 5, 6, 7, 1_000] {
        let listed = all(&coordinator, ListTransactionsRequest { page_size, ..Default::default() }).await;
        let gtids: Vec<&str> = listed.iter().map(|one| one.gtid.as_str()).collect();
        let (first, second) = gtids.split_at(open.len());
        for (half, expected) in [(first, &open), (second, &ended)] {
            assert!(half.is_sorted_by(|newer, older| newer > older), "{page_size}: {half:?}");
            let half: HashSet<String> = half.iter().map(|gtid| (*gtid).to_owned()).collect();
            assert_eq!(half, *expected, "{page_size}");
        }
    }
}

#[tokio::test]
async fn filters_are_joined_by_and() {
    let home = Home::new();
    let coordinator = home.start().await;
    let _a = participant(&coordinator, "bank-a", Manner::Willing).await;
    let _b = participant(&coordinator, "bank-b", Manner::Unwilling).await;
    let mut client = transactions(&coordinator).await;
    for who in ["bank-a", "bank-b", "bank-a"] {
        let request = CommitRequest { wait_for_end: true, ..whole(&gtid(), vec![branch(who, "x")]) };
        client.commit(request).await.expect("an outcome");
    }
    client.begin(BeginRequest::default()).await.expect("begun");
    coordinator.shutdown().await.expect("stopped");
    let coordinator = home.start().await;
    let page = ListTransactionsRequest { page_size: 10, ..Default::default() };
    let count = async |request: ListTransactionsRequest| all(&coordinator, request).await.len();
    let committed = ListTransactionsRequest { state: TransactionState::Committed.into(), ..page.clone() };
    assert_eq!(count(committed.clone()).await, 2);
    assert_eq!(count(ListTransactionsRequest { participant: "bank-b".to_owned(), ..page.clone() }).await, 1);
    assert_eq!(count(ListTransactionsRequest { participant: "bank-b".to_owned(), ..committed.clone() }).await, 0);
    assert_eq!(count(ListTransactionsRequest { protocol: Protocol::Saga.into(), ..committed.clone() }).await, 0);
    assert_eq!(count(ListTransactionsRequest { protocol: Protocol::TwoPhase.into(), ..committed.clone() }).await, 2);
    let old = prost_types::Duration { seconds: 3_600, nanos: 0 };
    assert_eq!(count(ListTransactionsRequest { older_than: Some(old), ..page.clone() }).await, 0);
    let mut admin = admin(&coordinator).await;
    for wrong in [
        ListTransactionsRequest { page_size: 1_001, ..page.clone() },
        ListTransactionsRequest { state: 99, ..page.clone() },
        ListTransactionsRequest { protocol: 99, ..page.clone() },
        ListTransactionsRequest { participant: "Not A Name".to_owned(), ..page.clone() },
        ListTransactionsRequest { page_token: "nonsense".to_owned(), ..page.clone() },
    ] {
        assert_eq!(refusal(admin.list_transactions(wrong.clone()).await).0, Reason::Malformed, "{wrong:?}");
    }
}

#[tokio::test]
async fn an_operator_sees_what_a_transaction_waits_for() {
    let home = Home::new();
    let coordinator = home.start().await;
    let _mute = participant(&coordinator, "mute", Manner::Mute).await;
    let mut client = transactions(&coordinator).await;
    let gtid = gtid();
    client.commit(whole(&gtid, vec![branch("mute", "x")])).await.expect("an outcome");
    let mut admin = admin(&coordinator).await;
    let shown = admin.get_transaction(GetTransactionRequest { gtid: gtid.clone() }).await.expect("shown");
    let shown = shown.into_inner().transaction.expect("one");
    assert_eq!(shown.state(), TransactionState::Committing);
    assert!(shown.waiting_for.contains("mute") && shown.decided_at.is_some(), "{shown:?}");
    assert_eq!(shown.replica, "assent");
    let missing = GetTransactionRequest { gtid: crate::harness::gtid() };
    assert_eq!(refusal(admin.get_transaction(missing).await).0, Reason::NotFound);
}

#[tokio::test]
async fn a_replica_tells_what_it_has_done() {
    let home = Home::new();
    let coordinator = home.start().await;
    let joined = participant(&coordinator, "bank-a", Manner::Willing).await;
    let mut client = transactions(&coordinator).await;
    let opened = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    client.commit(CommitRequest { wait_for_end: true, ..begun(&opened) }).await.expect("an outcome");
    let mut admin = admin(&coordinator).await;
    let told = admin.get_statistics(GetStatisticsRequest {}).await.expect("told").into_inner();
    let statistics = told.statistics.expect("counters");
    assert_eq!((told.replica.as_str(), told.epoch), ("assent", coordinator.epoch().0));
    assert!(statistics.begun >= 1 && statistics.appends >= 1 && statistics.messages_in >= 2, "{statistics:?}");
    assert!(told.cpu_us.expect("a clock") > 0);
    assert!(!cfg!(target_os = "linux") || told.resident_bytes.expect("/proc") > 0);
    drop(joined);
    crate::harness::until("it has left", async || {
        let mut admin = admin.clone();
        let listed = admin.list_participants(ListParticipantsRequest {}).await.expect("a list").into_inner();
        listed.participants.len() == 1 && listed.participants[0].sessions == 0
    })
    .await;
}
