//! The timers of a shard's transactions.

use std::task::{Context, Poll};
use std::time::Duration;

use assent_protocol::replica::{Timer, TimerChange};
use assent_protocol::{Gtid, GtidMap};
use rand::RngExt;
use smallvec::SmallVec;
use tokio_util::time::DelayQueue;
use tokio_util::time::delay_queue::Key;

/// The timers that run, and their places in the queue.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: DelayQueue<(Gtid, Timer)>,
    running: GtidMap<SmallVec<[(Timer, Key); 2]>>,
}

impl Timers {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Does what the replica wants done.
    pub(super) fn apply(&mut self, change: TimerChange) {
        match change {
            TimerChange::Set { gtid, timer, after_ms, jitter_ms } => {
                let jitter_ms = if jitter_ms == 0 { 0 } else { rand::rng().random_range(0..=jitter_ms) };
                let after = Duration::from_millis(after_ms.saturating_add(jitter_ms));
                let running = self.running.entry(gtid).or_default();
                if let Some((_, key)) = running.iter().find(|(other, _)| *other == timer) {
                    self.queue.reset(key, after);
                } else {
                    running.push((timer, self.queue.insert((gtid, timer), after)));
                }
            }
            TimerChange::Cancel { gtid, timer } => {
                if let Some(key) = self.take(gtid, timer) {
                    self.queue.remove(&key);
                }
            }
            TimerChange::CancelAll(gtid) => {
                for (_, key) in self.running.remove(&gtid).unwrap_or_default() {
                    self.queue.remove(&key);
                }
            }
        }
    }

    /// The next timer that is due.
    pub(super) fn poll_due(&mut self, context: &mut Context<'_>) -> Poll<Option<(Gtid, Timer)>> {
        self.queue.poll_expired(context).map(|due| {
            let (gtid, timer) = due?.into_inner();
            // The queue has forgotten the key.
            self.take(gtid, timer);
            Some((gtid, timer))
        })
    }

    fn take(&mut self, gtid: Gtid, timer: Timer) -> Option<Key> {
        let running = self.running.get_mut(&gtid)?;
        let position = running.iter().position(|(other, _)| *other == timer)?;
        let (_, key) = running.swap_remove(position);
        if running.is_empty() {
            self.running.remove(&gtid);
        }
        Some(key)
    }
}
