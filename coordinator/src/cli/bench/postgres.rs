//! The Postgres under a benchmark: its tables, its processor time, and how fast it is without a coordinator.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use hdrhistogram::Histogram;
use serde::Serialize;
use sqlx::postgres::PgQueryResult;
use sqlx::{Connection, Executor, PgConnection};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::plan::participant;
use super::worker::{INSERT, connections};
use crate::cli::{Exit, Failure};

/// Connections of the one-row inserts.
const INSERT_CONNECTIONS: usize = 32;

/// How fast the same Postgres is in the same run without a coordinator.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Baseline {
    /// One-row inserts from 32 connections, each its own transaction.
    pub(super) inserts_per_s: f64,
    /// The median of one of them, alone.
    pub(super) insert_p50_ms: f64,
    /// Transactions per second of the benchmark, over inserts per second.
    pub(super) ratio: f64,
    /// The participants' own statements (BEGIN, INSERT, SAVEPOINT with PREPARE TRANSACTION, COMMIT PREPARED) without any coordinator, in
    /// transactions per second; only where participants have a Postgres resource.
    pub(super) prepared_tx_per_s: Option<f64>,
    /// Transactions per second of the benchmark, over those.
    pub(super) prepared_ratio: Option<f64>,
}

impl Baseline {
    /// Of two measurements.
    pub(super) fn mean(&self, other: &Self) -> Self {
        let mean = |one: f64, other: f64| f64::midpoint(one, other);
        Self {
            inserts_per_s: mean(self.inserts_per_s, other.inserts_per_s),
            insert_p50_ms: mean(self.insert_p50_ms, other.insert_p50_ms),
            prepared_tx_per_s: self.prepared_tx_per_s.zip(other.prepared_tx_per_s).map(|(one, other)| mean(one, other)),
            // Made by the report, with the rate of the transactions.
            ratio: 0.0,
            prepared_ratio: None,
        }
    }
}

pub(super) fn failed(error: sqlx::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("the benchmark's Postgres: {error}"),
        "check --log, and what Postgres says itself",
    )
}

/// Makes the benchmark's tables, in its own database.
pub(super) async fn set_up(url: &str) -> Result<(), Failure> {
    let mut connection = PgConnection::connect(url).await.map_err(failed)?;
    for statement in [
        "create schema assent_bench",
        "create table assent_bench.entry (gtid uuid not null, participant text not null, primary key (gtid, participant))",
        "create table assent_bench.baseline (id uuid primary key, at timestamptz not null default now())",
    ] {
        connection.execute(statement).await.map_err(failed)?;
    }
    Ok(())
}

/// One-row inserts: how many per second from many connections, and the median of one alone, in milliseconds.
pub(super) async fn inserts(url: &str, duration: Duration) -> Result<(f64, f64), Failure> {
    let mut alone = PgConnection::connect(url).await.map_err(failed)?;
    let mut latency_us = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)
        .map_err(|_| Failure::new(Exit::Failed, "no histogram", ""))?;
    let until = Instant::now() + duration / 2;
    while Instant::now() < until {
        let started = Instant::now();
        insert(&mut alone).await.map_err(failed)?;
        latency_us.saturating_record(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    let mut connections = Vec::new();
    for _ in 0..INSERT_CONNECTIONS {
        connections.push(PgConnection::connect(url).await.map_err(failed)?);
    }
    let started = Instant::now();
    let until = started + duration;
    let inserting = connections.into_iter().map(|mut connection| async move {
        let mut inserts = 0_u64;
        while Instant::now() < until {
            insert(&mut connection).await?;
            inserts += 1;
        }
        Ok::<_, sqlx::Error>(inserts)
    });
    let inserts: u64 = try_join_all(inserting).await.map_err(failed)?.into_iter().sum();
    Ok((inserts as f64 / started.elapsed().as_secs_f64(), latency_us.value_at_quantile(0.5) as f64 / 1_000.0))
}

async fn insert(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("insert into assent_bench.baseline (id) values ($1)").bind(Uuid::now_v7()).execute(connection).await?;
    Ok(())
}

/// The connections of one participant, shared out as its `PostgresResource` does: branches at work leave some to those that end.
struct Connections {
    idle: Mutex<Vec<PgConnection>>,
    all: Semaphore,
    work: Semaphore,
}

impl Connections {
    async fn open(url: &str, count: usize) -> Result<Self, sqlx::Error> {
        // As a resource has it: at least two, and one of eight for ends alone.
        let count = count.max(2);
        let mut idle = Vec::with_capacity(count);
        for _ in 0..count {
            idle.push(PgConnection::connect(url).await?);
        }
        let work = Semaphore::new(count - (count / 8).max(1));
        Ok(Self { idle: Mutex::new(idle), all: Semaphore::new(count), work })
    }

    /// Does a branch's work and prepares it.
    async fn prepare(&self, gtid: Uuid, number: usize) -> Result<(), sqlx::Error> {
        let _share = self.work.acquire().await;
        self.with(async |connection| {
            connection.execute("begin").await?;
            sqlx::query(INSERT).bind(gtid).bind(participant(number)).execute(&mut *connection).await?;
            // The least that tells whether it has prepared.
            let prepare = format!("savepoint assent; prepare transaction '{GID_PREFIX}{number}:{gtid}'");
            connection.execute(sqlx::AssertSqlSafe(prepare)).await
        })
        .await
    }

    /// Commits it, over any connection.
    async fn commit(&self, gtid: Uuid, number: usize) -> Result<(), sqlx::Error> {
        self.with(async |connection| {
            let commit = format!("commit prepared '{GID_PREFIX}{number}:{gtid}'");
            connection.execute(sqlx::AssertSqlSafe(commit)).await
        })
        .await
    }

    /// Waits for a connection. One that has failed is not given back: its failure ends the measurement.
    async fn with(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<PgQueryResult, sqlx::Error>,
    ) -> Result<(), sqlx::Error> {
        let _permit = self.all.acquire().await;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = idle.ok_or(sqlx::Error::PoolClosed)?;
        work(&mut connection).await?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(())
    }
}

/// As long as that of a participant's gids.
const GID_PREFIX: &str = "bench:00000000-0000-0000-0000-000000000000:00000:participant-";

/// The statements of the participants' branches, sent as participants send them but without any coordinator, in transactions per second.
///
/// As many transactions are under way as in the benchmark, over as many connections: so each connection has its next statement waiting, as there.
pub(super) async fn prepared(
    url: &str,
    participants: usize,
    concurrency: usize,
    duration: Duration,
) -> Result<f64, Failure> {
    let mut opened = Vec::with_capacity(participants);
    for _ in 0..participants {
        opened.push(Connections::open(url, connections(participants)).await.map_err(failed)?);
    }
    let opened: Arc<[Connections]> = opened.into();
    let at_once = at_once(concurrency, participants, prepared_max(url).await.map_err(failed)?);
    let started = Instant::now();
    let until = started + duration;
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        let opened = Arc::clone(&opened);
        workers.spawn(async move {
            let mut transactions = 0_u64;
            while Instant::now() < until {
                let gtid = Uuid::now_v7();
                let branches = || opened.iter().enumerate();
                try_join_all(branches().map(|(number, participant)| participant.prepare(gtid, number))).await?;
                try_join_all(branches().map(|(number, participant)| participant.commit(gtid, number))).await?;
                transactions += 1;
            }
            Ok::<_, sqlx::Error>(transactions)
        });
    }
    let transactions: Result<Vec<u64>, sqlx::Error> = workers.join_all().await.into_iter().collect();
    let transactions: u64 = transactions.map_err(failed)?.into_iter().sum();
    Ok(transactions as f64 / started.elapsed().as_secs_f64())
}

/// How many transactions are under way at once: as many as in the benchmark, but for those that the server could not prepare.
fn at_once(concurrency: usize, participants: usize, prepared_max: usize) -> usize {
    concurrency.min(prepared_max / participants.max(1)).max(1)
}

async fn prepared_max(url: &str) -> Result<usize, sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    let sql = "select current_setting('max_prepared_transactions')::bigint";
    let prepared_max: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
    Ok(usize::try_from(prepared_max).unwrap_or_default())
}

/// The processor time of a Postgres server, in microseconds: of the postmaster, the processes that it has, and those that have ended.
///
/// `None` where its processes cannot be seen: on another machine, or on a system without /proc.
pub(super) async fn cpu_us(url: &str) -> Option<u64> {
    let mut connection = PgConnection::connect(url).await.ok()?;
    let backend: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut connection).await.ok()?;
    let backend = host_pid(u32::try_from(backend).ok()?)?;
    let postmaster = stat(backend)?.parent;
    let ticks_per_s = 100;
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc").ok()? {
        let Some(pid) = entry.ok().and_then(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) else { continue };
        // A process that has just ended counts with the postmaster.
        let Some(stat) = stat(pid) else { continue };
        if pid == postmaster {
            ticks += stat.own_ticks + stat.ended_children_ticks;
        } else if stat.parent == postmaster {
            ticks += stat.own_ticks;
        }
    }
    Some(ticks * 1_000_000 / ticks_per_s)
}

struct Stat {
    parent: u32,
    own_ticks: u64,
    ended_children_ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(1)?).ok()?,
        own_ticks: number(11)? + number(12)?,
        ended_children_ticks: number(13)? + number(14)?,
    })
}

/// The number that a backend has here, if it runs in a container and has another one there.
fn host_pid(inner: u32) -> Option<u32> {
    for entry in std::fs::read_dir("/proc").ok()? {
        let Some(pid) = entry.ok().and_then(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) else { continue };
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
        let is_postgres = line("Name:").is_some_and(|name| name.trim() == "postgres");
        let innermost = line("NSpid:").and_then(|pids| pids.split_whitespace().last()?.parse::<u32>().ok());
        if is_postgres && innermost == Some(inner) {
            return Some(pid);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_baseline_has_as_many_transactions_under_way_as_the_benchmark() {
        assert_eq!(at_once(256, 2, 1_000), 256);
        // More than there are connections, so that none of them is idle while another branch of its transaction is at work.
        assert!(at_once(256, 2, 1_000) > connections(2));
        assert_eq!(at_once(256, 2, 200), 100, "the server can prepare no more");
        assert_eq!(at_once(8, 2, 200), 8);
        assert_eq!(at_once(8, 2, 0), 1, "it says so itself");
    }
}
