//! Two coordinators with different names on one log: only one of them drives at a time.

use std::time::Duration;

use assent_sdk::{Assent, BoxError, Branch, Outcome, Participant, Vote};
use integration_tests::postgres::{Database, Postgres};
use integration_tests::{Port, Program, eventually};
use tokio::sync::watch;

use crate::chaos::nothing_is_open;

const DEADLINE: Duration = Duration::from_secs(60);
/// The shortest lease that the configuration allows.
const LEASE: &str = "lease=1s";

/// Votes yes, and commits once the gate is open.
struct Gated {
    gate: watch::Receiver<bool>,
    committed: watch::Sender<u32>,
}

impl Participant for Gated {
    async fn prepare(&self, _branch: &Branch) -> Result<Vote, BoxError> {
        Ok(Vote::Yes)
    }

    async fn commit(&self, _branch: &Branch) -> Result<(), BoxError> {
        self.gate.clone().wait_for(|is_open| *is_open).await?;
        self.committed.send_modify(|committed| *committed += 1);
        Ok(())
    }

    async fn abort(&self, _branch: &Branch) -> Result<(), BoxError> {
        Err("it was told committed".into())
    }
}

fn serve(replica: &str, listen: &str, log: &str) -> Program {
    Program::assent().named(replica).args([
        "serve",
        "--listen",
        listen,
        "--log",
        log,
        "--replica",
        replica,
        "--set",
        LEASE,
    ])
}

async fn migrated() -> Database {
    let database = Postgres::shared().await.create_database().await;
    assent::log::migrate(&database.url()).await.expect("migrated");
    database
}

/// Waits until no lease lasts any more, by the clock of the log's database.
async fn leases_lapse(log: &Database) {
    let pool = log.pool(1).await;
    eventually("every lease lapses", DEADLINE, async || {
        let sql = "select count(*) from assent.replica where leased_until > clock_timestamp()";
        match sqlx::query_scalar::<_, i64>(sql).fetch_one(&pool).await.expect("counted") {
            0 => Ok(()),
            live => Err(format!("{live} last")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_live_name_is_refused_and_takes_over_once_the_first_is_dead() {
    let log = migrated().await;
    let port = Port::reserve();
    let listen = port.address().to_string();
    let mut first = serve("first", &listen, &log.url()).start();
    first.line_with("assent listening", DEADLINE).await;

    let (open, gate) = watch::channel(false);
    let (committed, mut done) = watch::channel(0);
    let endpoint = format!("http://{listen}");
    let held = Assent::dial(&endpoint).participant("held", Gated { gate, committed }).connect().await.expect("joined");
    let initiator = Assent::dial(&endpoint).connect().await.expect("the coordinator answers");
    let outcome = initiator.transaction().branch("held", "work").commit().await.expect("no refusal");
    // The only branch votes in its prepare, so that the decision is logged, and its commit is still
    // to come.
    assert_eq!(outcome, Outcome::Committed);

    // For longer than a lease: the first one renews its own.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let refused = serve("second", "127.0.0.1:0", &log.url()).run(DEADLINE).await;
        assert_eq!((refused.status.code(), refused.stdout.as_str()), (Some(4), ""), "{refused:?}");
        for part in ["replica first serves the log", "its lease lasts until", " next: stop it", "--replica first"] {
            assert!(refused.stderr.contains(part), "{part:?} is missing: {}", refused.stderr);
        }
    }
    assert!(first.try_exit().is_none(), "the first goes on");

    first.kill();
    leases_lapse(&log).await;
    let mut second = serve("second", &listen, &log.url()).start();
    second.line_with("assent listening", DEADLINE).await;
    open.send_replace(true);
    nothing_is_open(&log.pool(1).await).await;
    tokio::time::timeout(DEADLINE, done.wait_for(|committed| *committed > 0)).await.expect("in time").expect("there");
    drop(held);

    // The other name is as good as the first once nobody has it any more: it was stopped, so that
    // nothing has to lapse.
    second.terminate();
    assert!(second.exit(DEADLINE).await.success());
    first.restart();
    first.line_with("assent listening", DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_replica_stops_when_it_finds_that_another_has_taken_over() {
    let log = migrated().await;
    let mut first = serve("first", "127.0.0.1:0", &log.url()).start();
    first.line_with("assent listening", DEADLINE).await;
    first.pause();
    leases_lapse(&log).await;
    let mut second = serve("second", "127.0.0.1:0", &log.url()).start();
    second.line_with("assent listening", DEADLINE).await;
    first.resume();
    first.line_with("another process took over", DEADLINE).await;
    assert_eq!(first.exit(DEADLINE).await.code(), Some(1), "it ends by itself, with nothing to append");
    assert!(second.try_exit().is_none(), "{}", second.output());
}

/// The file's lock is a lease that ends with its process.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_name_on_a_file_starts_as_soon_as_the_first_is_dead() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = format!("sqlite:{}", folder.path().join("log.db").display());
    let mut first = serve("first", "127.0.0.1:0", &log).start();
    first.line_with("assent listening", DEADLINE).await;
    let refused = serve("second", "127.0.0.1:0", &log).run(DEADLINE).await;
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    assert!(refused.stderr.contains("in use by another process"), "{}", refused.stderr);
    first.kill();
    let mut second = serve("second", "127.0.0.1:0", &log).start();
    second.line_with("assent listening", DEADLINE).await;
}
