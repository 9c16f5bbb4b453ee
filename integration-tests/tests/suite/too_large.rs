//! What does not fit into a message is refused before it is sent, and cuts nobody's session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use assent_sdk::postgres::Barrier;
use assent_sdk::saga::{SagaBuilder, SagaOutcome};
use assent_sdk::{Assent, BoxError, Branch, Compensated, Executed, Outcome, Participant, SagaParticipant, Step, Vote};
use integration_tests::{Postgres, eventually};
use sqlx::PgPool;
use tokio::sync::Semaphore;

use crate::chaos::Cast;
use crate::sdk_postgres::DEADLINE;

/// Votes when it is let.
#[derive(Clone)]
struct Gate {
    opened: Arc<Semaphore>,
    asked: Arc<AtomicU32>,
}

impl Participant for Gate {
    async fn prepare(&self, _branch: &Branch) -> Result<Vote, BoxError> {
        self.asked.fetch_add(1, Relaxed);
        self.opened.acquire().await?.forget();
        Ok(Vote::Yes)
    }
    async fn commit(&self, _branch: &Branch) -> Result<(), BoxError> {
        Ok(())
    }
    async fn abort(&self, _branch: &Branch) -> Result<(), BoxError> {
        Ok(())
    }
}

/// Answers as many bytes as its input says, and counts what it has done and undone.
#[derive(Clone, Default)]
struct Printer {
    done: Arc<AtomicU32>,
    undone: Arc<AtomicU32>,
    /// Where the work is done within the barrier.
    office: Option<PgPool>,
}

impl SagaParticipant for Printer {
    async fn execute(&self, step: &Step) -> Result<Executed, BoxError> {
        let bytes: usize = step.input_json()?;
        self.done.fetch_add(1, Relaxed);
        let Some(office) = &self.office else { return Ok(Executed::Done(vec![7; bytes].into())) };
        let work = async |connection: &mut sqlx::PgConnection| {
            sqlx::query("insert into page values (1)").execute(connection).await?;
            Ok(Executed::Done(vec![7; bytes].into()))
        };
        Barrier::default().execute(office, step, work).await
    }

    async fn compensate(&self, _: &Step) -> Result<Compensated, BoxError> {
        self.undone.fetch_add(1, Relaxed);
        Ok(Compensated::Done)
    }
}

const MIB: usize = 1024 * 1024;

fn prints(bytes: usize) -> SagaBuilder {
    let mut saga = SagaBuilder::new();
    saga.step("print", "office").input_json(&bytes).add();
    saga
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_fits_into_no_message_is_made_once_and_cuts_nobody() {
    let server = Postgres::shared().await;
    let log = server.create_database().await;
    let cast = Cast::with_coordinator(&log.url()).await;
    let (printer, gate) = (Printer::default(), Gate { opened: Arc::new(Semaphore::new(0)), asked: Arc::default() });
    let office = Assent::dial(&cast.endpoint)
        .participant("office", gate.clone())
        .saga_participant("office", printer.clone())
        .connect()
        .await
        .expect("joins");
    let _other = Assent::dial(&cast.endpoint).participant("other", gate.clone()).connect().await.expect("joins");
    let initiator = Assent::dial(&cast.endpoint).connect().await.expect("the coordinator answers");

    // A bystander has a branch on the same session, and it has yet to vote.
    let bystander = initiator.transaction().timeout(Duration::from_secs(600)).branch("office", "").branch("other", "");
    let bystander = tokio::spawn(async move { bystander.commit().await });
    eventually("both are asked", DEADLINE, async || match gate.asked.load(Relaxed) {
        2 => Ok(()),
        asked => Err(format!("{asked} are")),
    })
    .await;
    for (times, bytes) in [(1, 2 * MIB), (2, 5 * MIB)] {
        let outcome = initiator.run_saga(prints(bytes), DEADLINE).await.expect("it runs");
        let SagaOutcome::Compensated(reason) = outcome else { panic!("{bytes} bytes: {outcome:?}") };
        assert!(reason.message.contains(&bytes.to_string()), "{reason}");
        assert_eq!(printer.done.load(Relaxed), times, "it is made once");
        assert_eq!(printer.undone.load(Relaxed), times, "and undone, for it took effect");
    }
    gate.opened.add_permits(2);
    assert_eq!(bystander.await.expect("no panic").expect("no refusal"), Outcome::Committed);
    let long = "x".repeat(5 * MIB);
    initiator.begin(None).await.expect("begun").abort(long).await.expect("a reason is cut, and the abort is heard");
    drop(office);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_barrier_refuses_an_output_that_does_not_fit_before_it_takes_effect() {
    let server = Postgres::shared().await;
    let (log, office) = (server.create_database().await, server.create_database().await);
    let pool = office.pool(2).await;
    sqlx::raw_sql("create table page (id int)").execute(&pool).await.expect("a table");
    Barrier::default().install(&pool).await.expect("installs");
    let cast = Cast::with_coordinator(&log.url()).await;
    let printer = Printer { office: Some(pool.clone()), ..Printer::default() };
    let _office =
        Assent::dial(&cast.endpoint).saga_participant("office", printer.clone()).connect().await.expect("joins");
    let initiator = Assent::dial(&cast.endpoint).connect().await.expect("the coordinator answers");
    let outcome = initiator.run_saga(prints(2 * MIB), DEADLINE).await.expect("it runs");
    assert!(matches!(outcome, SagaOutcome::Compensated(_)), "{outcome:?}");
    assert_eq!((printer.done.load(Relaxed), printer.undone.load(Relaxed)), (1, 0), "there is nothing to undo");
    let pages: i64 = sqlx::query_scalar("select count(*) from page").fetch_one(&pool).await.expect("counted");
    assert_eq!(pages, 0);
}
