//! Money is neither made nor lost, whoever dies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use assent_sdk::{Assent, Error, Gtid, Outcome};
use integration_tests::ledger::{Booking, open_bank};
use integration_tests::postgres::Postgres;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use sqlx::PgPool;
use tokio::sync::{Mutex, watch};
use uuid::Uuid;

use crate::chaos::{Cast, nothing_is_open, nothing_is_prepared, seed};

const TRANSFERS: u32 = 5_000;
const INITIATORS: u64 = 64;
const ACCOUNTS: i32 = 2_000;
const BALANCE: i64 = 1_000;

/// What the initiators were told.
#[derive(Default)]
struct Told {
    committed: Vec<Gtid>,
    aborted: Vec<Gtid>,
    in_doubt: Vec<Gtid>,
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_are_in_both_ledgers_or_in_neither_whoever_is_killed() {
    let seed = seed();
    let server = Postgres::shared().await;
    let (log, bank_a, bank_b) =
        (server.create_database().await, server.create_database().await, server.create_database().await);
    for bank in [&bank_a, &bank_b] {
        open_bank(&mut bank.connect().await, ACCOUNTS, BALANCE).await.expect("the bank's tables");
    }
    let mut cast = Cast::with_coordinator(&log.url()).await;
    cast.join("bank", "bank-a", &bank_a.url()).await;
    cast.join("bank", "bank-b", &bank_b.url()).await;
    let assent = Assent::dial(&cast.endpoint)
        .patience(Duration::from_secs(30))
        .connect()
        .await
        .expect("the coordinator answers");

    let (stop, stopped) = watch::channel(false);
    let running = async {
        let told = transfer(&assent, seed).await;
        stop.send_replace(true);
        told
    };
    let ((_cast, kills), told) = tokio::join!(cast.kill_at_random(seed, stopped), running);

    for (name, bank) in [("bank-a", &bank_a), ("bank-b", &bank_b)] {
        nothing_is_prepared(name, bank, Duration::from_secs(120)).await;
    }
    nothing_is_open(&log.pool(2).await).await;
    let told = told.lock().await;
    eprintln!(
        "{kills} kills; {} committed, {} aborted, {} in doubt",
        told.committed.len(),
        told.aborted.len(),
        told.in_doubt.len()
    );
    assert!(kills > 3, "the killer was at work");
    assert!(told.committed.len() > TRANSFERS as usize / 100, "transfers go through all the same");
    check(&told, &bank_a.pool(1).await, &bank_b.pool(1).await).await;
}

/// Transfers from many initiators at once, a tenth of them beyond the payer's balance.
async fn transfer(assent: &Assent, seed: u64) -> Arc<Mutex<Told>> {
    let told = Arc::new(Mutex::new(Told::default()));
    let left = Arc::new(AtomicU32::new(TRANSFERS));
    let refused = Arc::new(AtomicU64::new(0));
    let initiators: Vec<_> = (0..INITIATORS)
        .map(|initiator| {
            let (assent, told, left, refused) =
                (assent.clone(), Arc::clone(&told), Arc::clone(&left), Arc::clone(&refused));
            tokio::spawn(async move {
                let mut random = SmallRng::seed_from_u64(seed ^ initiator.wrapping_mul(0x9E37_79B9));
                while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                    let is_too_much = random.random_range(0..10) == 0;
                    let amount = if is_too_much { BALANCE * 1_000 } else { random.random_range(1..50) };
                    let (from, to) = (random.random_range(1..=ACCOUNTS), random.random_range(1..=ACCOUNTS));
                    let transaction = assent
                        .transaction()
                        .timeout(Duration::from_secs(5))
                        .branch_json("bank-a", &Booking { account: from, amount: -amount })
                        .branch_json("bank-b", &Booking { account: to, amount });
                    let gtid = transaction.gtid();
                    let outcome = transaction.commit().await;
                    let is_committed = matches!(outcome, Ok(Outcome::Committed));
                    assert!(!(is_too_much && is_committed), "nobody pays more than they have");
                    if is_too_much {
                        refused.fetch_add(1, Relaxed);
                    }
                    let mut told = told.lock().await;
                    match outcome {
                        Ok(Outcome::Committed) => told.committed.push(gtid),
                        Ok(Outcome::Aborted(_)) => told.aborted.push(gtid),
                        Ok(Outcome::InDoubt { gtid }) => told.in_doubt.push(gtid),
                        // One that has just started may be slow to look whether it knows it
                        // already: nothing was changed.
                        Err(Error::Refused(refused)) if refused.retry_after_ms.is_some() => told.aborted.push(gtid),
                        Err(error) => panic!("{gtid} is refused: {error}"),
                    }
                }
            })
        })
        .collect();
    for initiator in initiators {
        initiator.await.expect("an initiator ends");
    }
    assert!(refused.load(Relaxed) > 0, "some were refused");
    told
}

/// The banks' own ledgers against each other, and against what the initiators were told.
async fn check(told: &Told, bank_a: &PgPool, bank_b: &PgPool) {
    let mut total = 0;
    for bank in [bank_a, bank_b] {
        let sum: i64 =
            sqlx::query_scalar("select sum(balance)::bigint from account").fetch_one(bank).await.expect("a sum");
        let moved: i64 = sqlx::query_scalar("select coalesce(sum(amount), 0)::bigint from ledger")
            .fetch_one(bank)
            .await
            .expect("a sum");
        assert_eq!(sum, i64::from(ACCOUNTS) * BALANCE + moved, "a bank's balances agree with its ledger");
        total += sum;
    }
    assert_eq!(total, 2 * i64::from(ACCOUNTS) * BALANCE, "the sum of all balances is what it was");
    let (a, b) = (ledger(bank_a).await, ledger(bank_b).await);
    for (gtid, amount) in &a {
        assert_eq!(b.get(gtid), Some(&-amount), "transfer {gtid} is in both ledgers");
    }
    assert_eq!(a.len(), b.len(), "no transfer is in one ledger alone");
    for gtid in &told.committed {
        assert!(a.contains_key(&gtid.as_uuid()), "transfer {gtid} was told committed");
    }
    for gtid in &told.aborted {
        assert!(!a.contains_key(&gtid.as_uuid()), "transfer {gtid} was told aborted");
    }
}

async fn ledger(bank: &PgPool) -> BTreeMap<Uuid, i64> {
    let rows: Vec<(Uuid, i64)> =
        sqlx::query_as("select gtid, amount from ledger").fetch_all(bank).await.expect("the ledger");
    rows.into_iter().collect()
}
