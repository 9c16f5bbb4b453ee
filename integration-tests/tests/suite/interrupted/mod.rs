//! Calls that are dropped in the middle, as by a deadline or a caller that hangs up, leave nothing
//! open on a connection that the next call gets.

mod anywhere;
mod slow;

use std::sync::Arc;
use std::time::Duration;

use assent::log::{self, Batch, Found, Log, Options};
use assent_protocol::saga::StepIndex;
use assent_protocol::{Decision, Name};
use assent_sdk::postgres::{Barrier, PostgresResource, PostgresWork};
use assent_sdk::{BoxError, Branch, Compensated, Context, Executed, Participant, Step, Vote};
use futures::future::join_all;
use integration_tests::{Database, eventually};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor as _, PgConnection, PgPool};

use self::slow::Slow;
use crate::log_postgres::PostgresGround;
use crate::log_postgres_schema::{decided, gtid};
use crate::sdk_postgres::{DEADLINE, bank, branch, coordinator, instance, key, name, unlocked};

/// Waits until so many sessions of the database stand in a transaction in which nothing runs.
async fn idle_in_transaction(database: &Database, expected: i64) {
    let mut connection = database.connect().await;
    eventually("so many sessions are in a transaction", DEADLINE, async || {
        let found: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and state like 'idle in transaction%'",
        )
        .fetch_one(&mut connection)
        .await
        .expect("the activity");
        if found == expected { Ok(()) } else { Err(format!("{found} are, not {expected}")) }
    })
    .await;
}

const READERS: u32 = 4;

#[tokio::test]
async fn a_look_up_that_was_given_up_leaves_no_old_view_of_the_log() {
    let ground = PostgresGround::fresh().await;
    let relay = Slow::to(ground.database.address().await).await;
    let options = Options { read_connections_max: READERS, ..Options::default() };
    let log = log::open(&ground.database.url_at(relay.address), options).await.expect("the log opens");
    let writer = ground.start("r1").await;
    let committed = gtid();
    let all_at_once = async |log: &Arc<dyn Log>| {
        join_all((0..READERS).map(|_| async { log.lookup(&[committed]).await.expect("answers").pop() })).await
    };
    all_at_once(&log).await;

    // The servers' answers to BEGIN are on their way when the callers give up.
    relay.hold_answers_to("begin");
    tokio::select! {
        () = idle_in_transaction(&ground.database, READERS.into()) => {}
        found = all_at_once(&log) => panic!("no answer comes through: {found:?}"),
    }
    relay.release();

    // Health is asked for all the time, and takes whatever snapshot there is.
    for ping in join_all((0..2 * READERS).map(|_| log.ping())).await {
        ping.expect("answers");
    }
    let batch =
        Batch { at_ms: 1_795_000_000_000, forced: vec![decided(committed, Decision::Commit)], lazy: Vec::new() };
    writer.append(&batch).await.expect("appended");
    for found in all_at_once(&log).await {
        assert!(matches!(found, Some((_, Found::Open(_)))), "it has committed, and the log says {found:?}");
    }
    idle_in_transaction(&ground.database, 0).await;
}

fn step() -> Step {
    let name = |text: &str| -> Name { text.parse().expect("a name") };
    Step::new(gtid(), "hotel".parse().expect("a name"), StepIndex(0), name("book"), "", DEADLINE)
}

/// A service's pool of one connection, behind a relay, with the barrier's tables.
async fn barrier_behind_a_relay() -> (Database, Slow, PgPool, Barrier) {
    let database = Database::create().await;
    let relay = Slow::to(database.address().await).await;
    let url = database.url_at(relay.address);
    let pool = PgPoolOptions::new().max_connections(1).connect(&url).await.expect("a connection");
    let barrier = Barrier::default();
    barrier.install(&pool).await.expect("installs");
    (database, relay, pool, barrier)
}

/// The service's own pool is used by all else that the service does: what it writes there outside
/// of any transaction must be committed.
#[tokio::test]
async fn a_step_that_was_given_up_leaves_nothing_open_in_the_services_pool() {
    let (database, relay, pool, barrier) = barrier_behind_a_relay().await;
    sqlx::raw_sql("create table note (id int)").execute(&pool).await.expect("a table");
    let step = step();
    for compensates in [false, true] {
        let call = async {
            if compensates {
                let undo = async |_: &mut PgConnection, _| Ok::<_, BoxError>(Compensated::Done);
                barrier.compensate(&pool, &step, undo).await.map(drop)
            } else {
                let work = async |_: &mut PgConnection| Ok::<_, BoxError>(Executed::done());
                barrier.execute(&pool, &step, work).await.map(drop)
            }
        };
        relay.hold_answers_to("BEGIN");
        tokio::select! {
            () = idle_in_transaction(&database, 1) => {}
            ended = call => panic!("no answer comes through: {ended:?}"),
        }
        relay.release();
        sqlx::raw_sql("insert into note values (1)").execute(&pool).await.expect("written");
        idle_in_transaction(&database, 0).await;
    }
    let notes: i64 = sqlx::query_scalar("select count(*) from note")
        .fetch_one(&mut database.connect().await)
        .await
        .expect("counted");
    assert_eq!(notes, 2, "what the service wrote is committed");
}

/// Waits until no session of the database runs a statement that was given up.
async fn nothing_runs(database: &Database) {
    let mut connection = database.connect().await;
    eventually("nothing runs at the server any more", DEADLINE, async || {
        let found: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid() and state = 'active'",
        )
        .fetch_one(&mut connection)
        .await
        .expect("the activity");
        if found == 0 { Ok(()) } else { Err(format!("{found} statements run")) }
    })
    .await;
}

/// Runs a statement that does not end, and gives it up.
async fn gives_up(connection: &mut PgConnection) {
    let endless = connection.execute("select pg_sleep(600)");
    tokio::time::timeout(Duration::from_millis(200), endless).await.expect_err("it does not end");
}

/// Locks account 1, and gives up the statement behind that.
struct GivesUp;

impl PostgresWork for GivesUp {
    async fn perform(&self, _: &Branch, connection: &mut PgConnection) -> Result<Vote, BoxError> {
        connection.execute("update account set balance = balance + 1 where id = 1").await?;
        gives_up(connection).await;
        Err("the statement took too long".into())
    }
}

#[tokio::test]
async fn a_statement_that_the_work_gave_up_is_ended_at_the_server() {
    let bank = bank().await;
    let resource = PostgresResource::new(name(), bank.url().parse().expect("a URL"), GivesUp);
    resource.prepare(&branch(key(), "")).await.expect_err("the work fails");
    unlocked(&bank).await;
    nothing_runs(&bank).await;
}

#[tokio::test]
async fn a_statement_is_ended_at_the_server_with_the_guard_that_it_ran_on() {
    let bank = bank().await;
    let resource = instance(&bank);
    resource.start(&coordinator()).await.expect("starts");
    let coordinator = coordinator().address;
    // Nothing else would end it: there is no deadline.
    let context = Context { gtid: gtid(), coordinator, deadline_unix_ms: None, epoch: None };
    let mut guard = resource.begin(&context).await.expect("begins");
    let connection = guard.connection().expect("open");
    connection.execute("update account set balance = balance + 1 where id = 1").await.expect("works");
    gives_up(connection).await;
    drop(guard);
    unlocked(&bank).await;
    nothing_runs(&bank).await;
}

#[tokio::test]
async fn work_that_is_dropped_is_ended_at_the_server() {
    let bank = bank().await;
    let resource = instance(&bank);
    let work = tokio::spawn(async move { resource.prepare(&branch(key(), "runs an endless statement")).await });
    let mut connection = bank.connect().await;
    eventually("it runs", DEADLINE, async || {
        let sql = "select 1 from pg_stat_activity where state = 'active' and query ~ '^select pg_sleep' and datname = current_database()";
        connection.fetch_one(sql).await
    })
    .await;
    work.abort();
    unlocked(&bank).await;
    nothing_runs(&bank).await;
}

#[tokio::test]
async fn a_step_that_is_dropped_is_ended_at_the_server() {
    let bank = bank().await;
    let pool = bank.pool(1).await;
    let barrier = Barrier::default();
    barrier.install(&pool).await.expect("installs");
    let step = step();
    let work = async |connection: &mut PgConnection| {
        connection.execute("update account set balance = balance + 1 where id = 1").await?;
        connection.execute("select pg_sleep(600)").await?;
        Ok::<_, BoxError>(Executed::done())
    };
    let executing = barrier.execute(&pool, &step, work);
    tokio::time::timeout(Duration::from_secs(1), executing).await.expect_err("it does not end");
    unlocked(&bank).await;
    nothing_runs(&bank).await;
    pool.execute("select 1").await.expect("the pool's only connection is of use");
}

/// Where the process stands still, the server alone can end what runs too long.
#[tokio::test]
async fn the_server_knows_the_deadline_of_a_statement() {
    struct Looks;
    impl PostgresWork for Looks {
        async fn perform(&self, _: &Branch, connection: &mut PgConnection) -> Result<Vote, BoxError> {
            let sql = "select setting::int from pg_settings where name = 'statement_timeout'";
            let ms: i32 = sqlx::query_scalar(sql).fetch_one(connection).await?;
            Ok(Vote::No(ms.to_string()))
        }
    }
    let bank = bank().await;
    let resource = PostgresResource::new(name(), bank.url().parse().expect("a URL"), Looks);
    let vote = resource.prepare(&branch(key(), "")).await.expect("votes");
    let Vote::No(ms) = vote else { panic!("{vote:?}") };
    let server_max = Duration::from_millis(ms.parse().expect("milliseconds"));
    // A moment later than this process, which says why; and a quarter at most.
    let moment = Duration::from_secs(1);
    assert!((DEADLINE + moment..=(DEADLINE + moment).mul_f64(1.25)).contains(&server_max), "{server_max:?}");
}
