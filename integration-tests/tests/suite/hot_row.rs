//! Branches that wait for one row, and the end that releases it.

use std::sync::Arc;
use std::time::Duration;

use assent_sdk::postgres::{PostgresResource, PostgresWork};
use assent_sdk::{Assent, BoxError, Branch, Outcome, Participant, Transaction, Vote};
use integration_tests::{Database, Postgres, eventually};
use sqlx::PgConnection;
use tokio::sync::Semaphore;

use crate::chaos::{Cast, nothing_is_prepared};
use crate::sdk_postgres::{DEADLINE, balance, furnished};

/// As long as a prepare may wait for a row: far longer than a test waits for anything.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Adds to the one account.
struct Deposit;

impl PostgresWork for Deposit {
    async fn perform(&self, _branch: &Branch, connection: &mut PgConnection) -> Result<Vote, BoxError> {
        sqlx::query("update account set balance = balance + 1 where id = 1").execute(connection).await?;
        Ok(Vote::Yes)
    }
}

/// Votes when it is let.
struct Gate(Arc<Semaphore>);

impl Participant for Gate {
    async fn prepare(&self, _branch: &Branch) -> Result<Vote, BoxError> {
        self.0.acquire().await?.forget();
        Ok(Vote::Yes)
    }
    async fn commit(&self, _branch: &Branch) -> Result<(), BoxError> {
        Ok(())
    }
    async fn abort(&self, _branch: &Branch) -> Result<(), BoxError> {
        Ok(())
    }
}

async fn waiting_for_locks(bank: &Database) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
    )
    .fetch_one(&mut bank.connect().await)
    .await
    .expect("the activity")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commit_that_releases_a_row_does_not_wait_behind_the_prepares_that_wait_for_it() {
    let server = Postgres::shared().await;
    let (log, bank) = (server.create_database().await, furnished(server.create_database().await).await);
    let cast = Cast::with_coordinator(&log.url()).await;
    let resource =
        PostgresResource::new("bank-a".parse().expect("a name"), bank.url().parse().expect("a URL"), Deposit);
    let _bank =
        Assent::dial(&cast.endpoint).participant("bank-a", resource).hooks_max(2).connect().await.expect("joins");
    let gate = Arc::new(Semaphore::new(0));
    let _gate =
        Assent::dial(&cast.endpoint).participant("gate", Gate(Arc::clone(&gate))).connect().await.expect("joins");
    let initiator = Assent::dial(&cast.endpoint).patience(TIMEOUT).connect().await.expect("the coordinator answers");
    let deposit = |initiator: &Assent| -> Transaction {
        initiator.transaction().timeout(TIMEOUT).branch("bank-a", "").branch("gate", "")
    };

    let first = deposit(&initiator);
    let first = tokio::spawn(async move { first.commit().await });
    eventually("the first holds the row", DEADLINE, async || match bank.prepared_transactions().await.len() {
        1 => Ok(()),
        prepared => Err(format!("{prepared} are prepared")),
    })
    .await;
    let others: Vec<_> = (0..2)
        .map(|_| {
            let other = deposit(&initiator);
            tokio::spawn(async move { other.commit().await })
        })
        .collect();
    eventually("two more wait for it, and have all places", DEADLINE, async || match waiting_for_locks(&bank).await {
        2 => Ok(()),
        waiting => Err(format!("{waiting} wait")),
    })
    .await;

    gate.add_permits(3);
    for commit in std::iter::once(first).chain(others) {
        let outcome = tokio::time::timeout(DEADLINE, commit).await.expect("each releases the row for the next");
        assert_eq!(outcome.expect("no panic").expect("no refusal"), Outcome::Committed);
    }
    nothing_is_prepared("the bank", &bank, DEADLINE).await;
    assert_eq!(balance(&bank).await, 3);
}
