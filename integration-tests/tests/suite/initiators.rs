//! Initiators that go away, are refused, or meet a coordinator that leaves: nobody's locks wait for
//! them.

use std::time::Duration;

use assent_sdk::postgres::PostgresResource;
use assent_sdk::{Assent, Outcome};
use integration_tests::{Database, Port, Postgres, Program, eventually};
use sqlx::Executor as _;

use crate::chaos::{Cast, nothing_is_prepared};
use crate::sdk_postgres::{DEADLINE, Work, balance, furnished};

/// Far longer than a test waits for anything.
const TIMEOUT: Duration = Duration::from_secs(600);

/// A bank that works while it is called.
struct Bank {
    resource: PostgresResource<Work>,
    assent: Assent,
}

impl Bank {
    async fn join(endpoint: &str, database: &Database) -> Self {
        Self::join_as("bank-a", endpoint, database).await
    }

    async fn join_as(name: &str, endpoint: &str, database: &Database) -> Self {
        let url = database.url().parse().expect("a URL");
        let resource = PostgresResource::new(name.parse().expect("a name"), url, Work).with_lock_wait(Duration::ZERO);
        let assent = Assent::dial(endpoint).participant(name, resource.clone()).connect().await.expect("joins");
        Self { resource, assent }
    }

    /// Deposits within the transaction, and enlists.
    async fn works(&self, transaction: &assent_sdk::Transaction) {
        let mut guard = self.resource.begin(&transaction.context().expect("begun")).await.expect("begins");
        let update = "update account set balance = balance + 1 where id = 1";
        guard.connection().expect("open").execute(update).await.expect("works");
        guard.prepare(&self.assent).await.expect("enlists");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_refused_releases_what_was_enlisted() {
    let server = Postgres::shared().await;
    let (log, database) = (server.create_database().await, furnished(server.create_database().await).await);
    let cast = Cast::with_coordinator(&log.url()).await;
    let bank = Bank::join(&cast.endpoint, &database).await;
    let initiator = Assent::dial(&cast.endpoint).connect().await.expect("the coordinator answers");
    let transaction = initiator.begin(Some(TIMEOUT)).await.expect("begun");
    bank.works(&transaction).await;
    let error = transaction.branch("bank-a", "yes").commit().await.expect_err("it has a branch already");
    assert!(error.to_string().contains("bank-a already has a branch"), "{error}");
    nothing_is_prepared("the bank", &database, DEADLINE).await;
    assert_eq!(balance(&database).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_does_not_outlive_its_initiator() {
    let server = Postgres::shared().await;
    let (log, database) = (server.create_database().await, furnished(server.create_database().await).await);
    let cast = Cast::with_coordinator(&log.url()).await;
    let bank = Bank::join(&cast.endpoint, &database).await;
    let doomed = Assent::dial(&cast.endpoint).connect().await.expect("the coordinator answers");
    let transaction = doomed.begin(Some(TIMEOUT)).await.expect("begun");
    let gtid = transaction.gtid();
    bank.works(&transaction).await;
    // As a process dies: it tells nobody.
    std::mem::forget(transaction);
    doomed.shutdown().await;
    nothing_is_prepared("the bank", &database, DEADLINE).await;
    let outcome = bank.assent.outcome(gtid, DEADLINE).await.expect("known");
    let Outcome::Aborted(reason) = outcome else { panic!("{outcome:?}") };
    assert!(reason.message.contains("initiator"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_waits_for_the_successor_of_a_coordinator_that_leaves() {
    let server = Postgres::shared().await;
    let (log, database) = (server.create_database().await, furnished(server.create_database().await).await);
    let migrated = Program::assent().args(["migrate", "--log", &log.url()]).run(DEADLINE).await;
    assert!(migrated.status.success(), "{}", migrated.stderr);
    let port = Port::reserve();
    let listen = port.address().to_string();
    let mut coordinator = Program::assent()
        .named("coordinator")
        .args(["serve", "--listen", &listen, "--log", &log.url(), "--replica", "test"])
        .start();
    coordinator.line_with("listening", DEADLINE).await;
    let endpoint = format!("http://{listen}");
    let bank = Bank::join(&endpoint, &database).await;
    let other_database = furnished(server.create_database().await).await;
    let other = Bank::join_as("bank-b", &endpoint, &other_database).await;
    let initiator = Assent::dial(&endpoint).patience(TIMEOUT).connect().await.expect("the coordinator answers");

    // Something is still open while it leaves: a prepare that waits for a row.
    let mut holder = database.connect().await;
    holder.execute("begin; select from account for update").await.expect("locked");
    let open = initiator.transaction().branch("bank-a", "yes").branch("bank-b", "read-only");
    let open = tokio::spawn(async move { open.commit().await });
    eventually("it waits", DEADLINE, async || {
        let sql = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        database.connect().await.fetch_one(sql).await
    })
    .await;
    coordinator.terminate();
    coordinator.line_with("draining", DEADLINE).await;
    let late = initiator.transaction().branch("bank-b", "yes").branch("bank-a", "read-only");
    let mut late = tokio::spawn(async move { late.commit().await });
    tokio::select! {
        refused = &mut late => panic!("it waits for the successor: {refused:?}"),
        () = tokio::time::sleep(Duration::from_secs(1)) => {}
    }
    holder.execute("rollback").await.expect("unlocked");
    assert_eq!(open.await.expect("no panic").expect("no refusal"), Outcome::Committed);
    coordinator.exit(DEADLINE).await;
    coordinator.restart();
    let outcome = tokio::time::timeout(DEADLINE, late).await.expect("in time").expect("no panic");
    assert_eq!(outcome.expect("no refusal"), Outcome::Committed);
    drop((bank, other));
}
