//! The harness keeps its own promises.

use std::time::Duration;

use integration_tests::{Database, Postgres, Program, eventually};
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};

const DEADLINE: Duration = Duration::from_secs(30);

async fn count(connection: &mut PgConnection, query: &'static str) -> i64 {
    sqlx::query(query).fetch_one(connection).await.expect("the query runs").get(0)
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let postgres = Postgres::shared().await;
    let (one, other) = (postgres.create_database().await, postgres.create_database().await);
    assert_ne!(one.name(), other.name());

    one.connect().await.execute("create table only_here (id int)").await.expect("create table");
    let here = "select count(*) from pg_tables where tablename = 'only_here'";
    assert_eq!(count(&mut one.connect().await, here).await, 1);
    assert_eq!(count(&mut other.connect().await, here).await, 0);
}

#[tokio::test]
async fn the_server_is_durable_and_prepares_transactions() {
    let database = Database::create().await;
    let mut connection = database.connect().await;
    for (setting, value) in [("fsync", "on"), ("max_prepared_transactions", "500"), ("max_connections", "500")] {
        let shown: String = sqlx::query_scalar("select current_setting($1)")
            .bind(setting)
            .fetch_one(&mut connection)
            .await
            .expect("a setting");
        assert_eq!(shown, value, "{setting}");
    }

    connection.execute("create table t (id int)").await.expect("create table");
    connection.execute("begin; insert into t values (1); prepare transaction 'one'").await.expect("prepare");
    assert_eq!(database.prepared_transactions().await, ["one"]);
    assert_eq!(count(&mut connection, "select count(*) from t").await, 0);
    connection.execute("commit prepared 'one'").await.expect("commit prepared");
    assert_eq!(count(&mut connection, "select count(*) from t").await, 1);
    assert!(database.prepared_transactions().await.is_empty());
}

#[tokio::test]
async fn a_dropped_database_is_gone_with_what_was_open_and_prepared_in_it() {
    let postgres = Postgres::shared().await;
    let database = postgres.create_database().await;
    let name = database.name().to_owned();
    let mut open = database.connect().await;
    let mut preparing = database.connect().await;
    preparing.execute("create table t (id int); begin; prepare transaction 'it''s left'").await.expect("prepare");
    open.execute("begin").await.expect("begin");

    drop(database);
    let mut outside = PgConnection::connect(&postgres.url("postgres")).await.expect("a connection");
    eventually("the database is dropped", DEADLINE, async || {
        let left: i64 = sqlx::query_scalar("select count(*) from pg_database where datname = $1")
            .bind(&name)
            .fetch_one(&mut outside)
            .await
            .map_err(|error| error.to_string())?;
        if left == 0 { Ok(()) } else { Err(format!("{name} exists")) }
    })
    .await;
}

#[tokio::test]
async fn a_killed_server_comes_back_at_its_address_with_its_data() {
    let postgres = Postgres::start().await;
    let database = postgres.create_database().await;
    let mut connection = database.connect().await;
    connection
        .execute("create table t (id int); insert into t values (1)")
        .await
        .expect("committed before the server is killed");
    connection.execute("begin; insert into t values (2); prepare transaction 'in doubt'").await.expect("prepare");

    postgres.kill().await;
    connection.execute("select 1").await.expect_err("nobody is there");
    PgConnection::connect(&database.url()).await.expect_err("nobody listens");

    postgres.restart().await;
    let mut connection = database.connect().await;
    assert_eq!(count(&mut connection, "select count(*) from t").await, 1);
    assert_eq!(database.prepared_transactions().await, ["in doubt"]);
    connection.execute("commit prepared 'in doubt'").await.expect("commit prepared");
    assert_eq!(count(&mut connection, "select count(*) from t").await, 2);
}

#[tokio::test]
async fn a_paused_server_does_not_answer_until_it_is_resumed() {
    let postgres = Postgres::start().await;
    let database = postgres.create_database().await;
    let mut connection = database.connect().await;

    postgres.pause().await;
    let question = tokio::spawn(async move { count(&mut connection, "select 42::bigint").await });
    // Whoever connects now must not be answered; a server that is not frozen answers within
    // milliseconds.
    let url = database.url();
    tokio::time::timeout(Duration::from_secs(1), PgConnection::connect(&url))
        .await
        .expect_err("no answer while paused");
    assert!(!question.is_finished());

    postgres.resume().await;
    let answer = tokio::time::timeout(DEADLINE, question).await.expect("an answer").expect("no panic");
    assert_eq!(answer, 42);
}

#[tokio::test]
async fn a_stopped_server_starts_again_and_own_settings_are_kept() {
    let postgres = Postgres::start_with(&[("max_prepared_transactions", "0")]).await;
    let setting = "select current_setting('max_prepared_transactions')::bigint";
    for _ in 0..2 {
        let mut connection = PgConnection::connect(&postgres.url("postgres")).await.expect("a connection");
        assert_eq!(count(&mut connection, setting).await, 0);
        postgres.stop().await;
        connection.execute("select 1").await.expect_err("nobody is there");
        postgres.restart().await;
    }
}

#[tokio::test]
async fn finds_the_binary_of_another_package() {
    let finished = Program::assent().arg("--version").run(DEADLINE).await;
    assert!(finished.status.success(), "{finished:?}");
}
