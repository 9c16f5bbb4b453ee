//! Timers of branches, nearly all of which are stopped long before they are due.
//!
//! To set one is to append to the list of a tick, and to stop one is to forget for which tick it
//! was set: the list is looked at when the tick is over, and what is not set for it any more is
//! passed over. One that is set anew for later stays where it is, and is moved on from there. So a
//! timer fires up to a tick late, and what was stopped takes room until then.

use std::collections::BTreeMap;
use std::time::Duration;

use assent_protocol::BranchKey;
use assent_protocol::three_phase::participant::Timer;
use tokio::time::Instant;

/// How late a timer may fire, in milliseconds.
const TICK_MS: u64 = 20;

/// A number of ticks since the timers were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(u64);

/// A timer that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    due: Tick,
    /// In which list it stands: that of the same tick, or of an earlier one.
    listed: Tick,
}

/// All that were set and have not been passed over.
#[derive(Debug)]
pub(super) struct Timers {
    origin: Instant,
    lists: BTreeMap<Tick, Vec<(BranchKey, Timer)>>,
    /// What was due at the tick that is being looked at.
    due: (Tick, Vec<(BranchKey, Timer)>),
}

impl Default for Timers {
    fn default() -> Self {
        Self { origin: Instant::now(), lists: BTreeMap::new(), due: (Tick(0), Vec::new()) }
    }
}

impl Timers {
    /// Sets one, anew if it runs.
    pub(super) fn set(&mut self, key: BranchKey, timer: Timer, running: &mut Option<Running>, after: Duration) {
        let due = (Instant::now() + after).duration_since(self.origin);
        let due = Tick(due.as_millis() as u64 / TICK_MS + 1);
        match running {
            Some(running) if running.listed <= due => running.due = due,
            _ => {
                *running = Some(Running { due, listed: due });
                self.list(key, timer, due);
            }
        }
    }

    /// Whether one fires that was come upon at a tick. It has stopped then.
    pub(super) fn fires(
        &mut self,
        (key, timer, tick): (BranchKey, Timer, Tick),
        running: &mut Option<Running>,
    ) -> bool {
        let Some(Running { due, .. }) = running.filter(|running| running.listed == tick) else { return false };
        if due > tick {
            *running = Some(Running { due, listed: due });
            self.list(key, timer, due);
            return false;
        }
        *running = None;
        true
    }

    fn list(&mut self, key: BranchKey, timer: Timer, tick: Tick) {
        self.lists.entry(tick).or_default().push((key, timer));
    }

    /// The next one to be looked at, and for which tick it was listed; never, while none was set.
    /// Cancelled, nothing is lost.
    pub(super) async fn next(&mut self) -> (BranchKey, Timer, Tick) {
        loop {
            if let Some((key, timer)) = self.due.1.pop() {
                return (key, timer, self.due.0);
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
    use std::collections::BTreeSet;

    use assent_protocol::branch;

    use super::*;
    use assent_protocol::BranchId;

    use crate::assent;

    fn mint() -> BranchKey {
        BranchKey { gtid: assent::mint(), id: BranchId::NONE }
    }

    const TIMER: Timer = Timer::Branch(branch::Timer::Inquire);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// The next one that fires.
    async fn next(timers: &mut Timers, running: &mut BTreeMap<BranchKey, Option<Running>>) -> BranchKey {
        loop {
            let found = timers.next().await;
            assert_eq!(found.1, TIMER);
            if timers.fires(found, running.get_mut(&found.0).expect("it was set")) {
                return found.0;
            }
        }
    }

    #[tokio::test]
    async fn each_fires_once_and_none_early() {
        let (mut timers, mut running) = (Timers::default(), BTreeMap::new());
        let began = Instant::now();
        let set: BTreeMap<BranchKey, u64> = [300, 0, 19, 20, 21, 301, 100].map(|after_ms| (mint(), after_ms)).into();
        for (key, after_ms) in &set {
            timers.set(*key, TIMER, running.entry(*key).or_default(), millis(*after_ms));
        }
        let mut fired = BTreeSet::new();
        for _ in 0..set.len() {
            let key = next(&mut timers, &mut running).await;
            assert!(began.elapsed() >= millis(set[&key]), "{} ms", set[&key]);
            assert!(fired.insert(key), "one fired twice");
        }
        let more = tokio::time::timeout(millis(3 * TICK_MS), next(&mut timers, &mut running)).await;
        assert!(more.is_err(), "there are no more");
    }

    #[tokio::test]
    async fn one_that_is_set_anew_fires_when_it_was_set_for_last() {
        let (mut timers, mut running) = (Timers::default(), BTreeMap::new());
        let began = Instant::now();
        let (earlier, later, stopped) = (mint(), mint(), mint());
        for (key, times_ms) in [(earlier, [900, 100, 120]), (later, [60, 300, 240]), (stopped, [60, 60, 90])] {
            for after_ms in times_ms {
                timers.set(key, TIMER, running.entry(key).or_default(), millis(after_ms));
            }
        }
        running.insert(stopped, None);
        assert_eq!(next(&mut timers, &mut running).await, earlier);
        assert!(began.elapsed() >= millis(120));
        assert_eq!(next(&mut timers, &mut running).await, later);
        assert!(began.elapsed() >= millis(240));
        let more = tokio::time::timeout(millis(800), next(&mut timers, &mut running)).await;
        assert!(more.is_err(), "each fires once");
    }
}
