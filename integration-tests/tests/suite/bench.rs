//! `assent bench` on a real Postgres: what it says beside its figures, and the baseline of prepared
//! branches.

use std::time::Duration;

use integration_tests::Program;
use integration_tests::postgres::Postgres;

const DEADLINE: Duration = Duration::from_secs(180);

#[tokio::test]
async fn a_benchmark_on_postgres_says_how_durable_it_was_and_what_the_same_statements_do_alone() {
    let settings = [("max_connections", "200"), ("max_prepared_transactions", "200"), ("synchronous_commit", "local")];
    let server = Postgres::start_with(&settings).await;
    let database = server.create_database().await;
    let bench = Program::assent()
        .args(["bench", "--resource", "postgres", "--baseline", "--duration", "1", "--concurrency", "128"])
        .args(["--output", "json", "--log", &database.url()]);
    let finished = bench.run(DEADLINE).await;
    assert!(finished.status.success(), "{finished:?}");
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).expect("JSON");
    let log = &report["storage"]["log"];
    assert_eq!(log["kind"], "postgres", "{report}");
    assert_eq!(log["synchronous_commit"], "local", "{report}");
    assert_eq!(log["appends_synchronous_commit"], "on", "the log's appends set it for themselves: {report}");
    assert!(log["fsync"].is_string(), "{report}");
    assert!(report["storage"]["voters"].is_null(), "there are none in two phases: {report}");
    let baseline = &report["baseline"];
    assert!(baseline["prepared_tx_per_s"].as_f64().is_some_and(|rate| rate > 0.0), "{report}");
    assert!(baseline["prepared_ratio"].as_f64().is_some_and(|ratio| ratio > 0.0), "{report}");
    assert!(database.prepared_transactions().await.is_empty(), "nothing is left prepared");
}

/// The tables and databases that a benchmark could leave behind, with how many rows the log has.
async fn traces(database: &integration_tests::postgres::Database) -> (i64, Vec<String>) {
    let mut connection = database.connect().await;
    let logged = sqlx::query_scalar("select count(*) from assent.history").fetch_one(&mut connection).await;
    let sql = "select datname::text from pg_database where datname like 'assent_bench%'
               union all select nspname::text from pg_namespace where nspname like 'assent_bench%'";
    let left = sqlx::query_scalar(sql).fetch_all(&mut connection).await;
    (logged.expect("a count"), left.expect("names"))
}

#[tokio::test]
async fn a_benchmark_leaves_a_log_that_somebody_uses_alone() {
    let settings = [("max_connections", "200"), ("max_prepared_transactions", "200")];
    let server = Postgres::start_with(&settings).await;
    let database = server.create_database().await;
    let migrated = Program::assent().args(["migrate", "--log", &database.url()]).run(DEADLINE).await;
    assert!(migrated.status.success(), "{migrated:?}");
    let bench = || {
        let bench = Program::assent().args(["bench", "--resource", "postgres", "--duration", "1"]);
        bench.args(["--concurrency", "16", "--output", "json", "--log", &database.url()])
    };
    // Twice: the first leaves nothing that is in the way of the second.
    for _ in 0..2 {
        let finished = bench().run(DEADLINE).await;
        assert!(finished.status.success(), "{finished:?}");
        assert_eq!(traces(&database).await, (0, Vec::new()), "{finished:?}");
    }

    let mut connection = database.connect().await;
    sqlx::query(
        "insert into assent.replica (name, epoch, connection, leased_until)
         values ('live', 1000000, 1, clock_timestamp() + interval '1 hour')",
    )
    .execute(&mut connection)
    .await
    .expect("a replica");
    let finished = bench().run(DEADLINE).await;
    assert_eq!(finished.status.code(), Some(4), "{finished:?}");
    assert!(finished.stderr.contains("replica live serves the log"), "{finished:?}");
    assert_eq!(traces(&database).await, (0, Vec::new()), "{finished:?}");
}

#[tokio::test]
async fn a_benchmark_fills_no_file_that_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("live.db");
    std::fs::write(&log, "").expect("a file");
    let url = format!("sqlite:{}", log.display());
    let finished = Program::assent().args(["bench", "--duration", "1", "--log", &url]).run(DEADLINE).await;
    assert_eq!(finished.status.code(), Some(4), "{finished:?}");
    assert!(finished.stderr.contains("is there already"), "{finished:?}");
    assert_eq!(std::fs::metadata(&log).expect("the file").len(), 0);
}
