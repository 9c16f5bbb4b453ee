//! Branches that wait for each other's locks in two databases, where no database sees the deadlock.

use std::collections::BTreeSet;
use std::time::Duration;

use assent_sdk::postgres::PostgresResource;
use assent_sdk::{Assent, Context, Outcome, Participant, Vote};
use integration_tests::{Postgres, eventually};
use sqlx::Executor as _;

use crate::chaos::{Cast, nothing_is_prepared};
use crate::sdk_postgres::{DEADLINE, Work, balance, bank, branch, coordinator, ending, furnished, gtid, instance, key};

/// Far longer than any lock is to be waited for by default, and well within the time that the
/// branches have.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_wait_for_a_prepared_branch_is_bounded_and_names_it() {
    let bank = bank().await;
    let resource = instance(&bank);
    resource.start(&coordinator()).await.expect("starts");
    let blocker = key();
    assert_eq!(resource.prepare(&branch(blocker, "yes")).await.expect("prepares"), Vote::Yes);

    // The second waits for the row's lock behind the first, and not for the prepared transaction.
    let (first, second) = (branch(key(), "yes"), branch(key(), "yes"));
    let waits = async { tokio::join!(resource.prepare(&first), resource.prepare(&second)) };
    let (first, second) = tokio::time::timeout(SOON, waits).await.expect("it is bounded");
    for waited in [first, second] {
        let error = waited.expect_err("it waited in vain").to_string();
        assert!(error.contains(&blocker.to_string()) && error.contains("with_lock_wait"), "{error}");
    }

    // While a service works, too.
    let context = Context { gtid: gtid(), coordinator: coordinator().address, deadline_unix_ms: None, epoch: None };
    let mut guard = resource.begin(&context).await.expect("begins");
    let update = "update account set balance = balance + 1 where id = 1";
    let waited = tokio::time::timeout(SOON, guard.connection().expect("open").execute(update)).await;
    let error = waited.expect("it is bounded").expect_err("it waited in vain");
    assert!(error.to_string().contains("lock timeout"), "{error}");
    guard.roll_back().await;

    resource.abort(&ending(blocker)).await.expect("aborts");
    assert_eq!(resource.prepare(&branch(key(), "yes")).await.expect("prepares"), Vote::Yes);
}

#[tokio::test]
async fn a_wait_for_an_open_transaction_names_its_session() {
    let bank = bank().await;
    let resource = instance(&bank);
    let mut other = bank.connect().await;
    other
        .execute("set application_name = 'nightly report'; begin; select from account for update")
        .await
        .expect("locked");
    let waiting = branch(key(), "yes");
    let waits = resource.prepare(&waiting);
    let error = tokio::time::timeout(SOON, waits).await.expect("it is bounded").expect_err("in vain").to_string();
    assert!(error.contains("nightly report"), "{error}");
    other.execute("rollback").await.expect("unlocked");
    eventually("it is prepared", DEADLINE, async || match resource.prepare(&branch(key(), "yes")).await {
        Ok(Vote::Yes) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// Each has one row in both banks, and the banks are asked at the same time: some get the row of
/// one bank, some that of the other.
#[tokio::test(flavor = "multi_thread")]
async fn transfers_that_wait_for_each_other_are_tried_again_until_each_has_committed_once() {
    const TRANSFERS: i64 = 12;
    let server = Postgres::shared().await;
    let log = server.create_database().await;
    let cast = Cast::with_coordinator(&log.url()).await;
    let mut banks = Vec::new();
    for name in ["bank-a", "bank-b"] {
        let database = furnished(server.create_database().await).await;
        let url = database.url().parse().expect("a URL");
        let resource = PostgresResource::new(name.parse().expect("a name"), url, Work)
            .with_lock_wait(Duration::from_millis(200))
            .with_connections(20);
        let assent = Assent::dial(&cast.endpoint).participant(name, resource).connect().await.expect("joins");
        banks.push((database, assent));
    }
    let initiator = Assent::dial(&cast.endpoint).connect().await.expect("the coordinator answers");
    let transfers = (0..TRANSFERS).map(|_| {
        let transfer = initiator.transaction().branch("bank-a", "yes").branch("bank-b", "yes");
        let mut tried = Vec::new();
        async move {
            let outcome = transfer.commit_with_retry(1_000, |gtid| tried.push(gtid)).await.expect("no refusal");
            (outcome, tried)
        }
    });
    let all = tokio::time::timeout(Duration::from_secs(120), futures::future::join_all(transfers)).await;
    let mut seen = BTreeSet::new();
    for (outcome, tried) in all.expect("each gets its turn") {
        assert_eq!(outcome, Outcome::Committed);
        let (last, others) = tried.split_last().expect("it was told");
        for gtid in others {
            let outcome = initiator.outcome(*gtid, DEADLINE).await.expect("known");
            assert!(matches!(outcome, Outcome::Aborted(_)), "{gtid} was tried before {last}: {outcome:?}");
        }
        assert!(tried.iter().all(|gtid| seen.insert(*gtid)), "each attempt is a transaction of its own");
    }
    for (database, _) in &banks {
        nothing_is_prepared("a bank", database, DEADLINE).await;
        assert_eq!(balance(database).await, TRANSFERS, "each took effect once");
    }
    // A no is an answer.
    let refused = initiator.transaction().branch("bank-a", "no").branch("bank-b", "yes");
    let mut attempts = 0;
    let outcome = refused.commit_with_retry(5, |_| attempts += 1).await.expect("no refusal of the request");
    assert!(matches!(outcome, Outcome::Aborted(_)), "{outcome:?}");
    assert_eq!(attempts, 1);
}
