//! A voter's state in Postgres: the same promises as every store, the table's constraints, and what
//! happens when the database goes away.

use std::sync::Arc;
use std::time::Duration;

use assent_sdk::postgres::PostgresVoters;
use assent_sdk::voter::{VoterStoreError, conformance};
use assent_sdk::{Assent, BoxError, Branch, ConnectError, Participant, Vote};
use integration_tests::{Database, Postgres, eventually};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::sdk_postgres::{DEADLINE, gtid};

fn voters(url: &str) -> PostgresVoters {
    PostgresVoters::new(url.parse().expect("a URL"))
}

async fn installed(database: &Database) -> PostgresVoters {
    let voters = voters(&database.url());
    voters.install().await.expect("installs");
    voters
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_what_every_store_does() {
    let database = Database::create().await;
    let url = database.url();
    installed(&database).await.install().await.expect("again");
    conformance::run(async || voters(&url)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_install_at_the_same_time_share_one_table() {
    let database = Database::create().await;
    let url = Arc::new(database.url());
    let installs = (0..8).map(|_| {
        let url = Arc::clone(&url);
        tokio::spawn(async move { voters(&url).install().await })
    });
    for install in installs.collect::<Vec<_>>() {
        install.await.expect("no panic").expect("installs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn votes_go_on_when_the_database_is_back() {
    let server = Postgres::start().await;
    let database = server.create_database().await;
    let voters = installed(&database).await;
    conformance::is_there(&voters).await;
    // The connection that it keeps is lost.
    server.kill().await;
    assert!(conformance::votes(&voters, gtid()).await.is_err(), "nobody could have kept it");
    server.restart().await;
    let late = gtid();
    eventually("a vote is kept", DEADLINE, async || match conformance::votes(&voters, late).await {
        Ok(()) => Ok(()),
        Err(error) => Err(error.to_string()),
    })
    .await;
}

/// A later version wrote it, or a hand. The participant would not start, and end nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_stops_no_other() {
    let database = Database::create().await;
    let first = installed(&database).await;
    conformance::opens(&first).await.expect("opens");
    let (sound, damaged, nameless) = (gtid(), gtid(), uuid::Uuid::from_u128(7));
    for voted in [sound, damaged] {
        conformance::votes(&first, voted).await.expect("votes");
    }
    let sql = format!(
        "update assent_voter set roster = '{{\"seats\": 7}}' where gtid = '{damaged}';
         insert into assent_voter (participant, gtid, is_read_only, standing, joined)
         select participant, '{nameless}', true, 'aborted', joined from assent_voter where gtid = '{sound}'"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut database.connect().await).await.expect("by hand");
    let restarted = voters(&database.url());
    conformance::opens(&restarted).await.expect("opens");
    assert_eq!(conformance::taken_up(&restarted).await.expect("lists"), [sound]);
    let error = conformance::votes(&restarted, damaged).await.expect_err("it does not read");
    assert!(matches!(error, VoterStoreError::Unreadable { gtid, .. } if gtid == damaged), "{error}");
    conformance::votes(&restarted, gtid()).await.expect("votes go on");
}

#[tokio::test]
async fn rows_that_no_voter_writes_are_refused() {
    let database = Database::create().await;
    installed(&database).await;
    let mut connection = database.connect().await;
    let (one, two) = (format!("1.{:032x}", 0), format!("2.{:032x}", 7));
    let mut refused = async |what: &str, columns: &str, values: String| {
        let sql = format!(
            "insert into assent_voter (participant, gtid, {columns}) values ('bank-a', '{}', {values})",
            gtid()
        );
        let error = connection.execute(AssertSqlSafe(sql)).await.expect_err(what);
        let constraint = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        assert_eq!(constraint.as_deref(), Some("23514"), "{what}: {error}");
    };
    let vote = "is_read_only, standing, joined";
    refused("a yes under no roster", vote, format!("false, 'waiting', '{one}'")).await;
    refused("a standing that is none", vote, format!("false, 'asleep', '{one}'")).await;
    refused("a ballot that is none", vote, "false, 'aborted', '0.1'".into()).await;
    refused("half a vote", "is_read_only, standing", "false, 'aborted'".into()).await;
    refused("a vote with an identity", "is_read_only, standing, joined, store_id", {
        format!("false, 'aborted', '{one}', gen_random_uuid()")
    })
    .await;
    refused("pre-committed by nothing", "roster, is_read_only, standing, joined", {
        format!("'{{}}', false, 'pre_committed', '{two}'")
    })
    .await;
    refused("waiting, and has accepted", "roster, is_read_only, standing, joined, accepted", {
        format!("'{{}}', false, 'waiting', '{two}', '{one}'")
    })
    .await;
}

struct Willing;

impl Participant for Willing {
    async fn prepare(&self, _: &Branch) -> Result<Vote, BoxError> {
        Ok(Vote::Yes)
    }
    async fn commit(&self, _: &Branch) -> Result<(), BoxError> {
        Ok(())
    }
    async fn abort(&self, _: &Branch) -> Result<(), BoxError> {
        Ok(())
    }
}

async fn refusal(voters: PostgresVoters) -> VoterStoreError {
    let builder = Assent::dial("http://127.0.0.1:1").participant("bank-a", Willing);
    match builder.voter(voters, "http://127.0.0.1:2").connect_timeout(Duration::from_secs(1)).connect().await {
        Err(ConnectError::VoterStore(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it joined nobody"),
    }
}

#[tokio::test]
async fn a_store_that_is_not_fit_is_found_out_at_the_start() {
    let database = Database::create().await;
    let error = refusal(voters(&database.url())).await;
    assert!(matches!(error, VoterStoreError::Table(_)), "{error}");
    installed(&database).await;
    let mut connection = PgConnection::connect(&database.url()).await.expect("connects");
    let sql = format!("alter database \"{}\" set synchronous_commit = off", database.name());
    connection.execute(AssertSqlSafe(sql)).await.expect("altered");
    let error = refusal(voters(&database.url())).await;
    assert!(matches!(error, VoterStoreError::NotFlushed), "{error}");
}
