//! Every step of a saga has a net effect of 0 or 1, in agreement with the saga's outcome, whoever dies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use assent_proto::error::Reason;
use assent_sdk::postgres::Barrier;
use assent_sdk::saga::{SagaBuilder, SagaOutcome};
use assent_sdk::{Assent, Error, Gtid};
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

/// Sagas from many initiators at once; a tenth has a step that is refused. What each was told, by gtid: completed,
/// compensated, or nothing.
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
                            // A coordinator that has just started may not have met its participants again.
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
