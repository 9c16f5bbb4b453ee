//! Events go into machines and outputs come out: once, for the machines of all protocols.

use std::fmt::Debug;

use super::append::Sealed;
use super::entry::Machine;
use super::unknown::fenced;
use super::{Change, Replica, TimerChange, TransactionView};
use crate::durable::{Held, Output, Parts};
use crate::ids::Gtid;
#[cfg(debug_assertions)]
use crate::invariant::Violation;
use crate::saga::{self, Saga};
#[cfg(debug_assertions)]
use crate::three_phase::cells::Cell;
use crate::three_phase::{self, Coordinator};
use crate::two_phase::{self, TwoPhase};

/// A protocol's machine, as the replica drives it.
pub(super) trait Driven: Clone + Debug {
    type Event: Clone + Debug;
    type Effect;

    /// This protocol's machine, if the entry has one.
    fn of(machine: &mut Machine) -> Option<&mut Self>;

    fn take(&mut self, event: Self::Event) -> Output<Self::Effect>;

    /// What a watcher sees change.
    fn stage(&self) -> impl PartialEq + 'static;

    /// The log holds another writer's word: this machine is of no use.
    fn is_overruled(&self) -> bool;

    /// The machine's own invariants, over one event.
    #[cfg(debug_assertions)]
    fn check(before: &Self, event: &Self::Event, after: &Self, output: &Output<Self::Effect>) -> Result<(), Violation>;

    /// The cells of its transition table that an event meets, where they are collected.
    #[cfg(debug_assertions)]
    fn cells(_before: &Self, _event: &Self::Event) -> Vec<Cell> {
        Vec::new()
    }

    fn seal(held: Held<Self::Effect>) -> Sealed;

    fn carry_out(replica: &mut Replica, gtid: Gtid, effects: Vec<Self::Effect>);
}

impl Replica {
    /// Gives a machine an event, and carries out what comes of it. Nothing happens if the
    /// transaction has no such machine.
    pub(super) fn drive<M: Driven>(&mut self, gtid: Gtid, event: M::Event) {
        let Some(machine) = self.entries.get_mut(&gtid).and_then(|entry| M::of(&mut entry.machine)) else { return };
        self.requests.touch(gtid);
        let before = machine.stage();
        #[cfg(debug_assertions)]
        let checked = (machine.clone(), event.clone());
        let output = machine.take(event);
        #[cfg(debug_assertions)]
        {
            if let Err(violation) = M::check(&checked.0, &checked.1, machine, &output) {
                panic!("{violation}: {:?} on {:?}", checked.1, checked.0);
            }
            self.cells.extend(M::cells(&checked.0, &checked.1));
        }
        let is_changed = before != machine.stage();
        let is_overruled = machine.is_overruled();
        self.put_out::<M>(gtid, output);
        if is_changed {
            self.changed(gtid);
        }
        if is_overruled {
            self.let_go(gtid, &fenced());
        }
    }

    /// Does what a machine wants done: now, or behind the record that has to be durable first.
    pub(super) fn put_out<M: Driven>(&mut self, gtid: Gtid, output: Output<M::Effect>) {
        match output.split() {
            Parts::Free { lazy, effects } => {
                self.append_lazily(gtid, lazy);
                M::carry_out(self, gtid, effects);
            }
            Parts::AfterAppend { forced, lazy, held } => {
                self.append_lazily(gtid, lazy);
                self.append(gtid, forced, M::seal(held));
            }
        }
    }

    /// An event of a transaction with branches, in two phases or three.
    pub(super) fn drive_transaction(&mut self, gtid: Gtid, event: two_phase::Event) {
        match self.entries.get(&gtid).map(|entry| &entry.machine) {
            Some(Machine::TwoPhase(_)) => self.drive::<TwoPhase>(gtid, event),
            Some(Machine::ThreePhase(_)) => {
                self.drive::<Coordinator>(gtid, three_phase::coordinator::Event::TwoPhase(event));
            }
            Some(Machine::Saga(_)) | None => {}
        }
    }

    // ---- timers ----------------------------------------------------------------------------------------------------

    pub(super) fn set_timer(&mut self, gtid: Gtid, timer: super::Timer, after_ms: u64, jitter_ms: u64) {
        // A machine that has ended waits for nothing.
        if self.entries.get(&gtid).is_some_and(|entry| !entry.machine.is_ended()) {
            self.timers.push(TimerChange::Set { gtid, timer, after_ms, jitter_ms });
        }
    }

    /// Where a machine asks for a wait that is drawn from zero to its bound, the whole wait is by
    /// chance.
    pub(super) fn set_drawn_timer(&mut self, gtid: Gtid, timer: super::Timer, after_ms: u64, jitter: bool) {
        let (after_ms, jitter_ms) = if jitter { (0, after_ms) } else { (after_ms, 0) };
        self.set_timer(gtid, timer, after_ms, jitter_ms);
    }

    pub(super) fn cancel_timer(&mut self, gtid: Gtid, timer: super::Timer) {
        self.timers.push(TimerChange::Cancel { gtid, timer });
    }

    pub(super) fn timer_fired(&mut self, gtid: Gtid, timer: super::Timer) {
        match timer {
            super::Timer::TwoPhase(timer) => self.drive::<TwoPhase>(gtid, two_phase::Event::TimerFired(timer)),
            super::Timer::ThreePhase(timer) => {
                let event = match timer {
                    three_phase::coordinator::Timer::TwoPhase(timer) => {
                        three_phase::coordinator::Event::TwoPhase(two_phase::Event::TimerFired(timer))
                    }
                    three_phase::coordinator::Timer::Election => three_phase::coordinator::Event::ElectionDue,
                };
                self.drive::<Coordinator>(gtid, event);
            }
            super::Timer::Saga(timer) => self.drive::<Saga>(gtid, saga::Event::TimerFired(timer)),
            super::Timer::Initiator => self.initiator_stayed_away(gtid),
        }
    }

    // ---- watching --------------------------------------------------------------------------------------------------

    /// One transaction as it stands in memory; `None` if it is not.
    pub fn view(&self, gtid: Gtid) -> Option<TransactionView> {
        self.entries.get(&gtid).map(|entry| TransactionView::of(gtid, entry, &self.peers))
    }

    /// The same, and from now on each change of it in [`Replica::take_changes`], until it ends.
    pub fn watch(&mut self, gtid: Gtid) -> Option<TransactionView> {
        let view = self.view(gtid)?;
        self.watched.insert(gtid);
        Some(view)
    }

    /// Nobody watches it any more.
    pub fn unwatch(&mut self, gtid: Gtid) {
        self.watched.remove(&gtid);
    }

    pub(super) fn changed(&mut self, gtid: Gtid) {
        if self.watched.contains(&gtid)
            && let Some(view) = self.view(gtid)
        {
            self.changes.push(Change::Changed(view));
        }
    }
}
