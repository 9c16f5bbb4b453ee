//! The way from the shards to a session's writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use assent_protocol::message::FromReplica;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Where a session's messages go. One for each shard; they share the backlog.
#[derive(Clone, Debug)]
pub struct Outbound {
    queue: mpsc::UnboundedSender<Vec<FromReplica>>,
    backlog: Arc<Backlog>,
    cut: CancellationToken,
}

/// How many messages wait for a session.
///
/// The queue itself is unbounded so that a shard never waits for a slow peer; this count is the
/// bound: a session beyond it is cut, and whatever was lost with it is asked for again.
#[derive(Debug, Default)]
pub struct Backlog {
    messages: AtomicUsize,
}

impl Backlog {
    /// The session has sent so many of them.
    pub fn sent(&self, messages: usize) {
        self.messages.fetch_sub(messages, Relaxed);
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.messages.load(Relaxed)
    }
}

impl Outbound {
    /// A queue, with its end for the session and the count that the session has to lower.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Vec<FromReplica>>, Arc<Backlog>) {
        let (queue, receiver) = mpsc::unbounded_channel();
        let backlog = Arc::new(Backlog::default());
        (Self { queue, backlog: Arc::clone(&backlog), cut: CancellationToken::new() }, receiver, backlog)
    }

    /// Queues messages. Answers whether the session is still there and within its bound.
    pub(super) fn send(&self, messages: Vec<FromReplica>, backlog_max: usize) -> bool {
        let added = messages.len();
        let before = self.backlog.messages.fetch_add(added, Relaxed);
        let is_sent = before + added <= backlog_max && self.queue.send(messages).is_ok();
        if !is_sent {
            self.backlog.sent(added);
        }
        is_sent
    }

    /// Gives the session up.
    pub(super) fn give_up(&self) {
        self.cut.cancel();
    }

    /// Ends when a shard has given the session up; then the session must end too.
    pub async fn cut(&self) {
        self.cut.cancelled().await;
    }
}
