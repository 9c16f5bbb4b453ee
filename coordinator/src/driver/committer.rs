//! The committer: one task that turns what shards have queued into appends, one at a time.
//!
//! Group commit falls out of the waiting: a shard has at most one batch under way and collects the
//! next one meanwhile, so the slower the log, the larger the batch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use assent_protocol::Appended;
use rand::RngExt;
use tokio::sync::{mpsc, watch};

use super::statistics::{Statistics, add};
use super::{Stopped, now_ms};
use crate::log::{AppendError, Batch, Log};

/// One shard's records.
#[derive(Debug)]
pub(super) struct ShardBatch {
    /// Whose.
    pub(super) shard: usize,
    /// Its records; `at_ms` is set here.
    pub(super) batch: Batch,
}

/// The log's word on one shard's batch: one for each forced record.
pub(super) type Receipts = Vec<Appended>;

/// Waits between attempts while the log does not answer; drawn from zero, as for every retry.
const RETRY_INITIAL: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Runs until every shard is gone or the replica is fenced.
pub(super) async fn run(
    log: Arc<dyn Log>,
    mut queue: mpsc::Receiver<ShardBatch>,
    receipts: Vec<mpsc::Sender<Receipts>>,
    statistics: Arc<Statistics>,
    stop: watch::Sender<Option<Stopped>>,
) {
    let mut taken = Vec::with_capacity(receipts.len());
    while queue.recv_many(&mut taken, receipts.len()).await > 0 {
        let mut batch = Batch { at_ms: now_ms(), ..Batch::default() };
        let mut shares = Vec::with_capacity(taken.len());
        for ShardBatch { shard, batch: mut part } in taken.drain(..) {
            shares.push((shard, part.forced.len()));
            batch.forced.append(&mut part.forced);
            batch.lazy.append(&mut part.lazy);
        }
        let Some(appended) = append(&*log, &batch, &statistics).await else {
            stop.send_replace(Some(Stopped::Fenced));
            return;
        };
        let mut appended = appended.into_iter();
        for (shard, share) in shares {
            // A shard that is gone waits for no receipt.
            receipts[shard].send(appended.by_ref().take(share).collect()).await.ok();
        }
    }
}

/// Repeats the batch until the log confirms it; `None` once the replica is fenced.
///
/// There is no other way out: an append that failed may have happened, and only the log can tell.
/// Meanwhile nothing is acknowledged, undecided transactions abort at their deadlines, and what
/// queues up is bounded by admission.
async fn append(log: &dyn Log, batch: &Batch, statistics: &Statistics) -> Option<Receipts> {
    let mut bound = RETRY_INITIAL;
    let mut failures = 0_u64;
    loop {
        let started = Instant::now();
        match log.append(batch).await {
            Ok(appended) => {
                add(&statistics.appends, 1);
                add(&statistics.append_us, u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
                add(&statistics.forced_records, batch.forced.len() as u64);
                add(&statistics.lazy_records, batch.lazy.len() as u64);
                if failures > 0 {
                    tracing::info!(failures, "the log answers again");
                }
                return Some(appended);
            }
            Err(error @ AppendError::Fenced { .. }) => {
                tracing::error!(error = %error, "fenced: this process stops driving");
                return None;
            }
            Err(error) => {
                failures += 1;
                add(&statistics.append_failures, 1);
                // Once a minute or so is enough for what may last for hours.
                if failures.is_power_of_two() || failures.is_multiple_of(32) {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(failures, error = %error, cause, "the log did not confirm; repeating the batch");
                }
                let wait = bound.mul_f64(rand::rng().random_range(0.5..1.0));
                tokio::time::sleep(wait).await;
                bound = (bound * 2).min(RETRY_MAX);
            }
        }
    }
}
