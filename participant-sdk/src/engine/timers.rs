//! Timers of branches, nearly all of which are stopped long before they are due.
//!
//! To set one is to append to the list of a tick, and to stop one is to forget for which tick it was set: the list is looked at when the tick is over, and
//! what is not set for it any more is passed over. So a timer fires up to a tick late, and what was stopped takes room until then.

use std::collections::BTreeMap;
use std::time::Duration;

use assent_protocol::Gtid;
use assent_protocol::three_phase::participant::Timer;
use tokio::time::Instant;

/// How late a timer may fire, in milliseconds.
const TICK_MS: u64 = 20;

/// A number of ticks since the timers were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(u64);

/// All that were set and have not been passed over.
#[derive(Debug)]
pub(super) struct Timers {
    origin: Instant,
    lists: BTreeMap<Tick, Vec<(Gtid, Timer)>>,
    /// What was due at the tick that is being looked at.
    due: (Tick, Vec<(Gtid, Timer)>),
}

impl Default for Timers {
    fn default() -> Self {
        Self { origin: Instant::now(), lists: BTreeMap::new(), due: (Tick(0), Vec::new()) }
    }
}

impl Timers {
    /// Sets one, and answers for which tick.
    pub(super) fn set(&mut self, gtid: Gtid, timer: Timer, after: Duration) -> Tick {
        let due = (Instant::now() + after).duration_since(self.origin);
        let tick = Tick(due.as_millis() as u64 / TICK_MS + 1);
        self.lists.entry(tick).or_default().push((gtid, timer));
        tick
    }

    /// The next one whose tick is over; never, while none was set. Cancelled, nothing is lost.
    pub(super) async fn next(&mut self) -> (Gtid, Timer, Tick) {
        loop {
            if let Some((gtid, timer)) = self.due.1.pop() {
                return (gtid, timer, self.due.0);
            }
            let Some((tick, _)) = self.lists.first_key_value() else { return std::future::pending().await };
            tokio::time::sleep_until(self.origin + Duration::from_millis(tick.0 * TICK_MS)).await;
            if let Some(list) = self.lists.pop_first() {
                self.due = list;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use assent_protocol::branch;

    use super::*;
    use crate::assent::mint;

    #[tokio::test]
    async fn each_fires_once_and_none_early() {
        let mut timers = Timers::default();
        let began = Instant::now();
        let timer = Timer::Branch(branch::Timer::Inquire);
        let mut set: Vec<(u64, Gtid, Tick)> = Vec::new();
        for after_ms in [300, 0, 19, 20, 21, 301, 100] {
            let gtid = mint();
            set.push((after_ms, gtid, timers.set(gtid, timer, Duration::from_millis(after_ms))));
        }
        set.sort_by_key(|(after_ms, ..)| *after_ms);
        for _ in 0..set.len() {
            let (gtid, fired, tick) = timers.next().await;
            let at = set.iter().position(|(_, set, _)| *set == gtid).expect("it was set");
            let (after_ms, _, expected) = set.remove(at);
            assert_eq!((fired, tick), (timer, expected));
            assert!(began.elapsed() >= Duration::from_millis(after_ms), "{after_ms} ms");
        }
        assert!(
            tokio::time::timeout(Duration::from_millis(3 * TICK_MS), timers.next()).await.is_err(),
            "there are no more"
        );
    }
}
