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
