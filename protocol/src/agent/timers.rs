//! Timers to set and to stop. The shell measures the time and draws what is by chance.

use super::Agent;
use super::requests::Ticket;
use crate::ids::BranchKey;
use crate::three_phase::participant;

/// A timer of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// Of a branch, in two phases or three.
    Branch(BranchKey, participant::Timer),
    /// A request was refused for the moment, and is asked again.
    Request(Ticket),
    /// The agent looks for branches that were left prepared.
    Look,
    /// The agent reads the records that its voter keeps.
    Kept,
}

/// A timer to set or to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerChange {
    /// (Re)start it.
    Set {
        /// Which.
        timer: Timer,
        /// After at least so many milliseconds.
        after_ms: u64,
        /// And by chance up to so many more.
        jitter_ms: u64,
    },
    /// Stop it.
    Cancel(Timer),
}

/// What the shell has yet to hear.
#[derive(Clone, Debug, Default)]
pub(super) struct Timers {
    changes: Vec<TimerChange>,
}

impl Timers {
    pub(super) fn set(&mut self, timer: Timer, after_ms: u64, jitter_ms: u64) {
        self.changes.push(TimerChange::Set { timer, after_ms, jitter_ms });
    }

    /// About half of it by chance: three quarters of an interval to five.
    pub(super) fn set_about(&mut self, timer: Timer, interval_ms: u64) {
        self.set(timer, interval_ms - interval_ms / 4, interval_ms / 2);
    }

    pub(super) fn cancel(&mut self, timer: Timer) {
        self.changes.push(TimerChange::Cancel(timer));
    }

    pub(super) fn take(&mut self) -> std::vec::Drain<'_, TimerChange> {
        self.changes.drain(..)
    }
}

/// Where a branch has a timer, among those that run.
const fn place(timer: participant::Timer) -> u8 {
    use crate::branch;
    match timer {
        participant::Timer::Branch(branch::Timer::Inquire) => 1,
        participant::Timer::Branch(branch::Timer::Retry) => 2,
        participant::Timer::Election => 4,
        participant::Timer::Round => 8,
    }
}

/// The timers of one branch that run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Running(u8);

impl Running {
    const ALL: [participant::Timer; 4] = [
        participant::Timer::Branch(crate::branch::Timer::Inquire),
        participant::Timer::Branch(crate::branch::Timer::Retry),
        participant::Timer::Election,
        participant::Timer::Round,
    ];

    pub(super) fn has(self, timer: participant::Timer) -> bool {
        self.0 & place(timer) != 0
    }

    fn add(&mut self, timer: participant::Timer) {
        self.0 |= place(timer);
    }

    /// Answers whether it ran.
    fn remove(&mut self, timer: participant::Timer) -> bool {
        let ran = self.0 & place(timer) != 0;
        self.0 &= !place(timer);
        ran
    }
}

impl Agent {
    /// (Re)starts a timer of a branch: after a time, and by chance up to some time more.
    pub(super) fn set_branch_timer(
        &mut self,
        key: BranchKey,
        timer: participant::Timer,
        after_ms: u64,
        jitter_ms: u64,
    ) {
        let Some(entry) = self.branches.entries.get_mut(&key) else { return };
        entry.running.add(timer);
        self.timers.set(Timer::Branch(key, timer), after_ms, jitter_ms);
    }

    pub(super) fn cancel_branch_timer(&mut self, key: BranchKey, timer: participant::Timer) {
        let Some(entry) = self.branches.entries.get_mut(&key) else { return };
        if entry.running.remove(timer) {
            self.timers.cancel(Timer::Branch(key, timer));
        }
    }

    /// Stops what runs of a branch that leaves memory.
    pub(super) fn cancel_branch_timers(&mut self, key: BranchKey, mut running: Running) {
        for timer in Running::ALL {
            if running.remove(timer) {
                self.timers.cancel(Timer::Branch(key, timer));
            }
        }
    }

    /// A timer of a branch is due. Answers whether the branch still has it.
    pub(super) fn fires(&mut self, key: BranchKey, timer: participant::Timer) -> bool {
        self.branches.entries.get_mut(&key).is_some_and(|entry| entry.running.remove(timer))
    }
}
