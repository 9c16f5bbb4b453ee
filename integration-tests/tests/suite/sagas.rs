//! Every step of a saga has a net effect of 0 or 1, in agreement with the saga's outcome, whoever
//! dies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use assent_proto::error::Reason;
use assent_sdk::postgres::Barrier;
use assent_sdk::saga::{Retry, SagaBuilder, SagaOutcome};
use assent_sdk::{Assent, BoxError, Compensated, Error, Executed, Gtid, SagaParticipant, Step};
use integration_tests::ledger::{Errand, open_office};
use integration_tests::postgres::Postgres;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use sqlx::PgPool;
use tokio::sync::{Mutex, watch};
use uuid::Uuid;

use crate::chaos::{Cast, nothing_is_open, seed};

const SAGAS: u32 = 2_000;
const INITIATORS: u64 = 32;
const STEPS: [&str; 4] = ["first", "left", "right", "last"];

#[tokio::test(flavor = "multi_thread")]
async fn every_step_has_a_net_effect_of_zero_or_one_whoever_is_killed() {
    let seed = seed();
    let server = Postgres::shared().await;
    let (log, office_a, office_b) =
        (server.create_database().await, server.create_database().await, server.create_database().await);
    for office in [&office_a, &office_b] {
        open_office(&mut office.connect().await).await.expect("the clerk's table");
        Barrier::default().install(&office.pool(1).await).await.expect("the barrier's table");
    }
    let mut cast = Cast::with_coordinator(&log.url()).await;
    cast.join("clerk", "clerk-a", &office_a.url()).await;
    cast.join("clerk", "clerk-b", &office_b.url()).await;
    let assent = Assent::dial(&cast.endpoint).connect().await.expect("the coordinator answers");

    let (stop, stopped) = watch::channel(false);
    let running = async {
        let told = run(&assent, seed).await;
        stop.send_replace(true);
        told
    };
    let ((_cast, kills), told) = tokio::join!(cast.kill_at_random(seed, stopped), running);
    nothing_is_open(&log.pool(2).await).await;

    let told = told.lock().await;
    let completed = told.values().filter(|is_completed| **is_completed == Some(true)).count();
    let compensated = told.values().filter(|is_completed| **is_completed == Some(false)).count();
    eprintln!("{kills} kills; {completed} completed, {compensated} compensated, {} sagas", told.len());
    assert!(kills > 3, "the killer was at work");
    assert!(completed > 0 && compensated > 0, "both ends were seen");

    let mut effects: BTreeMap<Uuid, BTreeMap<String, i64>> = BTreeMap::new();
    for office in [&office_a, &office_b] {
        gather(&office.pool(1).await, &mut effects).await;
    }
    for (gtid, is_completed) in told.iter() {
        let steps = effects.remove(&gtid.as_uuid()).unwrap_or_default();
        let net: Vec<i64> = STEPS.iter().map(|step| steps.get(*step).copied().unwrap_or(0)).collect();
        match is_completed {
            Some(true) => assert_eq!(net, [1; 4], "saga {gtid} completed"),
            Some(false) => assert_eq!(net, [0; 4], "saga {gtid} was compensated"),
            None => assert!(net == [1; 4] || net == [0; 4], "saga {gtid} ended one way: {net:?}"),
        }
    }
    assert!(effects.is_empty(), "no step of a saga that nobody started: {effects:?}");
}

/// A bank whose first call dawdles before its database until the second, at another instance, was
/// refused. Only then is the coordinator told of the refusal.
#[derive(Clone)]
struct DawdlingBank {
    pool: PgPool,
    calls: Arc<AtomicU32>,
    was_refused: watch::Sender<bool>,
    late: watch::Sender<Option<Executed>>,
}

impl DawdlingBank {
    async fn charge(&self, step: &Step, work: Executed) -> Result<Executed, BoxError> {
        let (gtid, name) = (step.gtid().as_uuid(), step.name().to_string());
        Barrier::default()
            .execute(&self.pool, step, async move |tx| {
                sqlx::query("insert into errand (gtid, step, effect) values ($1, $2, 1)")
                    .bind(gtid)
                    .bind(name)
                    .execute(tx)
                    .await?;
                Ok(work)
            })
            .await
    }
}

impl SagaParticipant for DawdlingBank {
    async fn execute(&self, step: &Step) -> Result<Executed, BoxError> {
        assert!(step.is_pivot());
        if self.calls.fetch_add(1, Relaxed) == 0 {
            self.was_refused.subscribe().wait_for(|was_refused| *was_refused).await?;
            let executed = self.charge(step, Executed::done()).await?;
            self.late.send_replace(Some(executed.clone()));
            return Ok(executed);
        }
        let refused = self.charge(step, Executed::refused("no money")).await?;
        self.was_refused.send_replace(true);
        self.late.subscribe().wait_for(Option::is_some).await?;
        Ok(refused)
    }

    async fn compensate(&self, step: &Step) -> Result<Compensated, BoxError> {
        Err(format!("nothing compensates pivot {}", step.name()).into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_of_a_pivot_that_dawdles_does_nothing_once_a_later_one_is_refused() {
    let server = Postgres::shared().await;
    let (log, office, money) =
        (server.create_database().await, server.create_database().await, server.create_database().await);
    for place in [&office, &money] {
        open_office(&mut place.connect().await).await.expect("the table");
        Barrier::default().install(&place.pool(1).await).await.expect("the barrier's table");
    }
    let mut cast = Cast::with_coordinator(&log.url()).await;
    cast.join("clerk", "clerk", &office.url()).await;
    let pool = money.pool(4).await;
    let bank = DawdlingBank {
        pool,
        calls: Arc::default(),
        was_refused: watch::Sender::new(false),
        late: watch::Sender::new(None),
    };
    let instance = async || {
        let instance = Assent::dial(&cast.endpoint).saga_participant("bank", bank.clone()).connect().await;
        instance.expect("the coordinator answers")
    };
    let (a, _b) = (instance().await, instance().await);

    let mut saga = SagaBuilder::new();
    let reservation = saga.step("reservation", "clerk").input_json(&Errand { is_refused: false }).add();
    let retry = Retry::exponential(Duration::from_millis(10)).timeout(Duration::from_millis(300));
    saga.step("charge", "bank").after(&reservation).retry(retry).pivot().add();
    let outcome = a.run_saga(saga, Duration::from_secs(60)).await.expect("it runs");
    let SagaOutcome::Compensated(reason) = outcome else { panic!("the pivot was refused: {outcome:?}") };
    assert!(reason.message.contains("no money"), "{reason}");

    let late = bank.late.borrow().clone().expect("attempt 1 has come");
    assert_eq!(late, Executed::finally_refused("no money"));
    let mut effects = BTreeMap::new();
    gather(&bank.pool, &mut effects).await;
    assert!(effects.is_empty(), "the pivot took effect: {effects:?}");
    gather(&office.pool(1).await, &mut effects).await;
    let net: Vec<i64> = effects.values().flat_map(|steps| steps.values().copied()).collect();
    assert_eq!(net, [0], "the reservation was compensated");
}

/// Sagas from many initiators at once; a tenth has a step that is refused. What each was told, by
/// gtid: completed, compensated, or nothing.
async fn run(assent: &Assent, seed: u64) -> Arc<Mutex<BTreeMap<Gtid, Option<bool>>>> {
    let told = Arc::new(Mutex::new(BTreeMap::new()));
    let left = Arc::new(AtomicU32::new(SAGAS));
    let initiators: Vec<_> = (0..INITIATORS)
        .map(|initiator| {
            let (assent, told, left) = (assent.clone(), Arc::clone(&told), Arc::clone(&left));
            tokio::spawn(async move {
                let mut random = SmallRng::seed_from_u64(seed ^ initiator.wrapping_mul(0x9E37_79B9));
                while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                    let is_refused = random.random_range(0..10) == 0;
                    let (gtid, is_started) = loop {
                        match assent.start_saga(trip(is_refused)).await {
                            Ok(gtid) => break (gtid, true),
                            // It may have started all the same: it is told nothing, and counts.
                            Err(Error::NoAnswer { gtid }) => break (gtid, false),
                            // A coordinator that has just started may not have met its participants
                            // again.
                            Err(Error::Refused(refused)) if refused.retry_after_ms.is_some() => {
                                tokio::time::sleep(Duration::from_millis(100)).await;
                            }
                            Err(error) => panic!("a saga is refused: {error}"),
                        }
                    };
                    let outcome = loop {
                        match assent.saga_outcome(gtid, Duration::from_secs(60)).await {
                            Ok(SagaOutcome::Completed(_)) => break Some(true),
                            Ok(SagaOutcome::Compensated(_)) => break Some(false),
                            Ok(SagaOutcome::InDoubt { .. }) => break None,
                            Err(Error::Refused(refused)) if refused.retry_after_ms.is_some() => {
                                tokio::time::sleep(Duration::from_millis(100)).await;
                            }
                            Err(Error::Refused(refused))
                                if !is_started && refused.known_reason() == Some(Reason::NotFound) =>
                            {
                                break None;
                            }
                            Err(error) => panic!("saga {gtid} is not known: {error}"),
                        }
                    };
                    assert!(!(is_refused && outcome == Some(true)), "a saga with a refused step does not complete");
                    told.lock().await.insert(gtid, outcome);
                }
            })
        })
        .collect();
    for initiator in initiators {
        initiator.await.expect("an initiator ends");
    }
    told
}

/// One step, then two at the same time, then one that may be refused.
fn trip(is_refused: bool) -> SagaBuilder {
    let mut saga = SagaBuilder::new();
    let fine = Errand { is_refused: false };
    let first = saga.step("first", "clerk-a").input_json(&fine).add();
    let left = saga.step("left", "clerk-a").input_json(&fine).after(&first).add();
    let right = saga.step("right", "clerk-b").input_json(&fine).after(&first).add();
    saga.step("last", "clerk-b").input_json(&Errand { is_refused }).after(&left).after(&right).add();
    saga
}

async fn gather(office: &PgPool, effects: &mut BTreeMap<Uuid, BTreeMap<String, i64>>) {
    let rows: Vec<(Uuid, String, i64)> =
        sqlx::query_as("select gtid, step, sum(effect)::bigint from errand group by gtid, step")
            .fetch_all(office)
            .await
            .expect("the errands");
    for (gtid, step, effect) in rows {
        let known = effects.entry(gtid).or_default().insert(step, effect);
        assert_eq!(known, None, "a step runs at one clerk");
    }
}
