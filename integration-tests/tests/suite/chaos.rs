//! A coordinator and its participants, as real processes that are killed at random moments and
//! started again.

use std::time::Duration;

use integration_tests::Port;
use integration_tests::eventually;
use integration_tests::postgres::Database;
use integration_tests::process::{Process, Program};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;

/// How long a process may take to be back.
const BACK_MAX: Duration = Duration::from_secs(60);

/// A coordinator on a Postgres log, and participants.
pub(super) struct Cast {
    pub(super) endpoint: String,
    processes: Vec<Process>,
    _port: Port,
}

impl Cast {
    /// Starts a coordinator on a migrated log.
    pub(super) async fn with_coordinator(log: &str) -> Self {
        let migrated = Program::assent().args(["migrate", "--log", log]).run(BACK_MAX).await;
        assert!(migrated.status.success(), "the log is migrated: {}", migrated.stderr);
        let port = Port::reserve();
        let listen = port.address().to_string();
        let mut coordinator = Program::assent()
            .named("coordinator")
            .args(["serve", "--listen", &listen, "--log", log, "--replica", "test", "--log-filter", "warn"])
            .start();
        coordinator.line_with("listening", BACK_MAX).await;
        Self { endpoint: format!("http://{listen}"), processes: vec![coordinator], _port: port }
    }

    /// Starts a participant, and waits until it has joined.
    pub(super) async fn join(&mut self, kind: &str, name: &str, database: &str) {
        let mut participant =
            Program::built("test-participant").named(name).args([kind, name, &self.endpoint, database]).start();
        participant.line_with("joined", BACK_MAX).await;
        self.processes.push(participant);
    }

    /// Kills one of them after the other, at random moments, until told to stop; then all of them
    /// run. Answers how often.
    pub(super) async fn kill_at_random(mut self, seed: u64, stop: watch::Receiver<bool>) -> (Self, u32) {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut kills = 0;
        while !*stop.borrow() {
            tokio::time::sleep(Duration::from_millis(random.random_range(100..900))).await;
            let victim = random.random_range(0..self.processes.len());
            let process = &mut self.processes[victim];
            process.kill();
            kills += 1;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
            process.restart();
            if random.random_bool(0.5) {
                // Half of the time the next one dies while this one is still starting.
                let sign = if victim == 0 { "listening" } else { "joined" };
                process.line_with(sign, BACK_MAX).await;
            }
        }
        (self, kills)
    }
}

/// A seed to draw from, printed so that a failure can be repeated with `ASSENT_SEED`.
pub(super) fn seed() -> u64 {
    let seed = std::env::var("ASSENT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("ASSENT_SEED={seed}");
    seed
}

/// Waits until the log has no open transaction.
pub(super) async fn nothing_is_open(log: &sqlx::PgPool) {
    eventually("nothing is open in the log", Duration::from_secs(120), async || {
        let open: i64 = sqlx::query_scalar("select count(*) from assent.open_transaction")
            .fetch_one(log)
            .await
            .map_err(|error| error.to_string())?;
        if open == 0 { Ok(()) } else { Err(format!("{open} are open")) }
    })
    .await;
}

/// Waits until no branch is left prepared in a participant's database.
pub(super) async fn nothing_is_prepared(place: &str, database: &Database, deadline: Duration) {
    eventually(&format!("nothing is prepared at {place}"), deadline, async || {
        match database.prepared_transactions().await.as_slice() {
            [] => Ok(()),
            left => Err(format!("{} are prepared, such as {}", left.len(), left[0])),
        }
    })
    .await;
}
