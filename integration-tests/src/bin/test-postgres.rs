//! Keeps the Postgres servers of a test run; see [`integration_tests::postgres::keeper`]. The harness starts it by itself.

/// See [`integration_tests::postgres::keeper::run`].
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    integration_tests::postgres::keeper::run(std::env::args().skip(1).collect()).await
}
