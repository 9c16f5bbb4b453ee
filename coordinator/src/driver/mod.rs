//! The driver: tasks around the [replicas](assent_protocol::replica), which decide. Here is only
//! I/O.
//!
//! ```text
//!  sessions, unary calls ──inputs──▶ shard (a replica's task) ──batch──▶ committer ──append──▶ log
//!                        ◀─messages─                          ◀─receipts─
//! ```
//!
//! A shard is one task. It takes whatever inputs have queued, lets its replica handle them, and
//! hands all records to the committer at once; what arrives while an append is in flight makes up
//! the next batch. Effects that wait for a record are released with the log's receipt. There is no
//! lock and no task per transaction on this path.
//!
//! What bounds memory (I13): the open transactions and their payloads by admission ([`Limits`]),
//! the inputs by bounded channels (a full one stops the reading of sessions, and so the clients,
//! through HTTP/2 flow control), the outgoing messages of a session by cutting the session, the
//! answers of ended transactions by a bounded cache.

mod committer;
mod lookup;
mod outbound;
mod recovery;
#[cfg(test)]
mod replay;
mod shard;
mod statistics;
mod timers;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use assent_protocol::message::FromClient;
use assent_protocol::replica;
use assent_protocol::three_phase::StoreId;
use assent_protocol::{Epoch, Gtid, Name, ParticipantName};
use futures::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use crate::log::{Log, LogError};

pub use assent_protocol::replica::{BranchView, Limits, Peer, SessionId, TransactionView};
pub(crate) use assent_protocol::replica::{Browse, contradiction};
pub use outbound::{Backlog, Outbound};
pub use statistics::{Snapshot, Statistics};

/// What a shard is given.
#[derive(Debug)]
pub(crate) enum Input {
    /// A session has said these, in this order.
    Messages {
        /// Which session.
        session: SessionId,
        /// What.
        messages: Vec<FromClient>,
    },
    /// A session is open; comes before its messages.
    SessionOpened {
        /// Who it is with.
        peer: Peer,
        /// Where its messages go.
        outbound: Outbound,
    },
    /// A session is gone; comes after its messages.
    SessionClosed(SessionId),
    /// What the replica takes as it is.
    Core(replica::Input),
    /// One transaction, as it stands in memory.
    View {
        /// Which.
        gtid: Gtid,
        /// `None` if it is not in memory.
        answer: oneshot::Sender<Option<TransactionView>>,
    },
    /// A page of the transactions in memory.
    Browse {
        /// Which.
        browse: Browse,
        /// In no order.
        answer: oneshot::Sender<Vec<TransactionView>>,
    },
    /// The participants that are connected, each with the number of its sessions.
    Connected {
        /// In no order.
        answer: oneshot::Sender<HashMap<ParticipantName, u32>>,
    },
    /// One transaction, now and whenever its state changes, until it ends.
    Watch {
        /// Which.
        gtid: Gtid,
        /// Closed at once if the transaction is not in memory.
        changes: mpsc::Sender<TransactionView>,
    },
    /// Take on nothing new; answer when nothing undecided is left.
    Drain {
        /// Answered once.
        done: oneshot::Sender<()>,
    },
}

/// Why the driver has stopped by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// Another process took over, under this replica's name or, its lease having lapsed, under
    /// another.
    #[error(
        "another process took over from this one; run one coordinator for each log, and look why this one was started twice or did not renew its lease"
    )]
    Fenced,
    /// A task of the driver panicked: its part of the transactions stands still until the process
    /// is started again.
    #[error(
        "a task of the driver panicked, see the log lines before; start the process again, nothing durable is lost"
    )]
    Panicked,
}

/// A handle to the shards.
#[derive(Clone, Debug)]
pub struct Driver {
    shards: Arc<[mpsc::Sender<Input>]>,
    epoch: Epoch,
    statistics: Arc<Statistics>,
    stopped: watch::Receiver<Option<Stopped>>,
    tasks: TaskTracker,
}

/// Inputs that may wait for one shard; a full queue stops the reading of sessions.
const INPUTS_MAX: usize = 1_024;

impl Driver {
    /// Acquires the log for `replica`, recovers what is open in it, and starts to drive.
    ///
    /// # Errors
    /// [`LogError`] if the log cannot be reached or used, or a replica of another name drives.
    pub async fn start(log: Arc<dyn Log>, replica: &Name, limits: Limits, shards: usize) -> Result<Self, LogError> {
        let epoch = log.acquire(replica).await?;
        let known: Vec<ParticipantName> = log.participants().await?;
        let log_store = store_of(&log.coordinator_id().await?);
        let statistics = Arc::new(Statistics::default());
        let (stop, stopped) = watch::channel(None);
        let tasks = TaskTracker::new();
        let shards = shards.max(1);
        let (batches, batch_queue) = mpsc::channel(shards);
        let mut senders = Vec::with_capacity(shards);
        let mut receipts = Vec::with_capacity(shards);
        for number in 0..shards {
            let (sender, inbox) = mpsc::channel(INPUTS_MAX);
            let (receipt, receipt_queue) = mpsc::channel(1);
            senders.push(sender);
            receipts.push(receipt);
            let config = replica::Config {
                shard: number,
                shards,
                epoch,
                limits: limits.clone(),
                known: known.clone(),
                log_store,
            };
            let shard = shard::Shard::new(shard::Parts {
                config,
                log: Arc::clone(&log),
                batches: batches.clone(),
                statistics: Arc::clone(&statistics),
            });
            tasks.spawn(guarded(shard.run(inbox, receipt_queue), stop.clone()));
        }
        drop(batches);
        let committer = committer::run(Arc::clone(&log), batch_queue, receipts, Arc::clone(&statistics), stop.clone());
        tasks.spawn(guarded(committer, stop));
        let driver = Self { shards: senders.into(), epoch, statistics, stopped, tasks };
        recovery::recover(&*log, &driver).await?;
        Ok(driver)
    }

    /// The epoch under which it drives.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What it has done so far.
    pub fn statistics(&self) -> &Arc<Statistics> {
        &self.statistics
    }

    /// Waits until the driver stops by itself, and says why.
    pub async fn stopped(&self) -> Stopped {
        let mut stopped = self.stopped.clone();
        loop {
            if let Some(why) = stopped.borrow_and_update().clone() {
                return why;
            }
            if stopped.changed().await.is_err() {
                // The committer has ended because every handle is gone: that is no stop of its own.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Takes on nothing new and waits until every transaction that was undecided is decided.
    pub async fn drain(&self) {
        let mut waiting = Vec::new();
        for shard in self.shards.iter() {
            let (done, answer) = oneshot::channel();
            if shard.send(Input::Drain { done }).await.is_ok() {
                waiting.push(answer);
            }
        }
        for answer in waiting {
            // A shard that is gone has nothing undecided.
            answer.await.ok();
        }
    }

    /// Drops this handle and waits until the shards have handed their last records to the log.
    /// Every other handle must have been dropped, or this never ends.
    pub async fn close(self) {
        let tasks = self.tasks.clone();
        drop(self);
        tasks.close();
        tasks.wait().await;
    }

    /// How many shards there are.
    pub(crate) fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Which shard owns a transaction.
    pub(crate) fn shard_of(&self, gtid: Gtid) -> usize {
        shard_of(gtid, self.shards.len())
    }

    /// Gives a shard an input; waits while its queue is full. Answers whether the shard still runs.
    pub(crate) async fn give(&self, shard: usize, input: Input) -> bool {
        self.shards[shard].send(input).await.is_ok()
    }

    /// One transaction, as it stands in memory.
    pub(crate) async fn view(&self, gtid: Gtid) -> Option<TransactionView> {
        let (answer, view) = oneshot::channel();
        self.give(self.shard_of(gtid), Input::View { gtid, answer }).await;
        view.await.ok().flatten()
    }

    /// The participants that are connected, each with the number of its sessions.
    pub(crate) async fn connected(&self) -> HashMap<ParticipantName, u32> {
        let (answer, connected) = oneshot::channel();
        // Every shard has all of them.
        self.give(0, Input::Connected { answer }).await;
        connected.await.unwrap_or_default()
    }

    /// A page of the transactions in memory, newest gtid first.
    pub(crate) async fn browse(&self, browse: &Browse) -> Vec<TransactionView> {
        let mut found = Vec::new();
        for shard in 0..self.shard_count() {
            let (answer, views) = oneshot::channel();
            self.give(shard, Input::Browse { browse: browse.clone(), answer }).await;
            found.extend(views.await.unwrap_or_default());
        }
        found.sort_by_key(|view| Reverse(view.gtid));
        found.truncate(browse.limit);
        found
    }
}

/// The wall clock, in Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Runs a task of the driver; should it panic, the driver as a whole has stopped.
async fn guarded(task: impl Future<Output = ()>, stop: watch::Sender<Option<Stopped>>) {
    if AssertUnwindSafe(task).catch_unwind().await.is_err() {
        stop.send_replace(Some(Stopped::Panicked));
    }
}

/// The log's identity as a voter: the coordinator's, which is a UUID and moves with the log.
fn store_of(coordinator_id: &str) -> StoreId {
    let uuid = uuid::Uuid::parse_str(coordinator_id);
    // One that is no UUID was put there by hand; it still tells one log from another.
    StoreId(uuid.map_or_else(|_| xxhash_rust::xxh3::xxh3_128(coordinator_id.as_bytes()), |uuid| uuid.as_u128()))
}

/// By the random bits of the gtid, so that shards fill evenly.
fn shard_of(gtid: Gtid, shards: usize) -> usize {
    usize::from(gtid.as_bytes()[15]) % shards
}
