//! The agent's timers, nearly all of which are stopped long before they are due.
//!
//! To set one is to append to the list of a tick, and to stop one is to forget for which tick it
//! was set: the list is looked at when the tick is over, and what is not set for it any more is
//! passed over. One that is set anew for later stays where it is, and is moved on from there. So a
//! timer fires up to a tick late, and what was stopped takes room until then.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use assent_protocol::agent::{Timer, TimerChange};
use rand::RngExt;
use tokio::time::Instant;

/// How late a timer may fire, in milliseconds.
const TICK_MS: u64 = 20;

/// A number of ticks since the timers were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tick(u64);

/// A timer that runs.
#[derive(Clone, Copy, Debug)]
struct Running {
    due: Tick,
    /// In which list it stands: that of the same tick, or of an earlier one.
    listed: Tick,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Timers {
    origin: Instant,
    running: HashMap<Timer, Running>,
    /// All that were set and have not been passed over.
    lists: BTreeMap<Tick, Vec<Timer>>,
    /// What was due at the tick that is being looked at.
    due: (Tick, Vec<Timer>),
}

impl Default for Timers {
    fn default() -> Self {
        Self { origin: Instant::now(), running: HashMap::new(), lists: BTreeMap::new(), due: (Tick(0), Vec::new()) }
    }
}

impl Timers {
    /// Does what the agent wants done.
    pub(super) fn apply(&mut self, change: TimerChange) {
        match change {
            TimerChange::Set { timer, after_ms, jitter_ms } => {
                let jitter_ms = if jitter_ms == 0 { 0 } else { rand::rng().random_range(0..=jitter_ms) };
                self.set(timer, Duration::from_millis(after_ms.saturating_add(jitter_ms)));
            }
            TimerChange::Cancel(timer) => {
                self.running.remove(&timer);
            }
        }
    }

    fn set(&mut self, timer: Timer, after: Duration) {
        let due = (Instant::now() + after).duration_since(self.origin);
        let due = Tick(due.as_millis() as u64 / TICK_MS + 1);
        match self.running.get_mut(&timer) {
            Some(running) if running.listed <= due => running.due = due,
            _ => {
                self.running.insert(timer, Running { due, listed: due });
                self.lists.entry(due).or_default().push(timer);
            }
        }
    }

    /// The next timer that fires; never, while none runs. Cancelled, nothing is lost.
    pub(super) async fn next(&mut self) -> Timer {
        loop {
            while let Some(timer) = self.due.1.pop() {
                if self.fires(timer, self.due.0) {
                    return timer;
                }
            }
            let Some((tick, _)) = self.lists.first_key_value() else { return std::future::pending().await };
            tokio::time::sleep_until(self.origin + Duration::from_millis(tick.0 * TICK_MS)).await;
            if let Some(list) = self.lists.pop_first() {
                self.due = list;
            }
        }
    }

    /// Whether a timer fires that was come upon at a tick. It has stopped then.
    fn fires(&mut self, timer: Timer, tick: Tick) -> bool {
        let Some(running) = self.running.get_mut(&timer).filter(|running| running.listed == tick) else {
            return false;
        };
        if running.due > tick {
            running.listed = running.due;
            self.lists.entry(running.due).or_default().push(timer);
            return false;
        }
        self.running.remove(&timer);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use assent_protocol::agent::Ticket;

    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[tokio::test]
    async fn each_fires_once_and_none_early() {
        let mut timers = Timers::default();
        let began = Instant::now();
        let set: BTreeMap<Timer, u64> =
            (0..).map(|number| Timer::Request(Ticket(number))).zip([300, 0, 19, 20, 21, 301, 100]).collect();
        for (timer, after_ms) in &set {
            timers.apply(TimerChange::Set { timer: *timer, after_ms: *after_ms, jitter_ms: 0 });
        }
        let mut fired = BTreeSet::new();
        for _ in 0..set.len() {
            let timer = timers.next().await;
            assert!(began.elapsed() >= millis(set[&timer]), "{} ms", set[&timer]);
            assert!(fired.insert(timer), "one fired twice");
        }
        let more = tokio::time::timeout(millis(3 * TICK_MS), timers.next()).await;
        assert!(more.is_err(), "there are no more");
    }

    #[tokio::test]
    async fn one_that_is_set_anew_fires_when_it_was_set_for_last() {
        let mut timers = Timers::default();
        let began = Instant::now();
        let [earlier, later, stopped] = [1, 2, 3].map(|number| Timer::Request(Ticket(number)));
        for (timer, times_ms) in [(earlier, [900, 100, 120]), (later, [60, 300, 240]), (stopped, [60, 60, 90])] {
            for after_ms in times_ms {
                timers.apply(TimerChange::Set { timer, after_ms, jitter_ms: 0 });
            }
        }
        timers.apply(TimerChange::Cancel(stopped));
        assert_eq!(timers.next().await, earlier);
        assert!(began.elapsed() >= millis(120));
        assert_eq!(timers.next().await, later);
        assert!(began.elapsed() >= millis(240));
        let more = tokio::time::timeout(millis(800), timers.next()).await;
        assert!(more.is_err(), "each fires once");
    }
}
