//! Hooks that run, and hooks that wait for a place.
//!
//! Work waits for locks that only the end of another branch releases. If ends queued behind work,
//! then as many prepares as there are places could wait for one row, and the commit that frees the
//! row would wait for one of their places. So each [`Purpose`] has places and a queue of its own.
//! Compensations do not share the places of ends: a compensation may wait for the lock of a
//! prepared branch, as any other work.

use std::collections::BTreeMap;

use assent_protocol::{BranchKey, BranchMap};
use futures::future::BoxFuture;

/// What a hook does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It prepares a branch or executes a step.
    Work,
    /// It compensates a step.
    Compensate,
    /// It commits or aborts a branch.
    End,
}

/// All hooks of a process.
pub(super) struct Calls {
    /// How many hooks of one purpose run at a time.
    places_max: usize,
    work: Lane,
    compensations: Lane,
    ends: Lane,
    /// The branches whose prepare hook waits for a place.
    waiting_prepares: BranchMap<Ticket>,
    last: Ticket,
}

/// The hooks of one purpose. While one waits, all places are taken.
#[derive(Default)]
struct Lane {
    running: usize,
    waiting: BTreeMap<Ticket, Waiting>,
}

/// The order in which hooks were called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket(u64);

struct Waiting {
    /// Whose prepare hook this is, if it is one.
    prepares: Option<BranchKey>,
    hook: BoxFuture<'static, ()>,
}

impl Calls {
    pub(super) fn new(places_max: usize) -> Self {
        Self {
            places_max,
            work: Lane::default(),
            compensations: Lane::default(),
            ends: Lane::default(),
            waiting_prepares: BranchMap::default(),
            last: Ticket(0),
        }
    }

    /// Runs a branch's prepare hook as soon as there is a place for it, unless it is [taken
    /// back](Self::take_back_prepare).
    pub(super) fn prepare(&mut self, key: BranchKey, hook: BoxFuture<'static, ()>) {
        self.start_or_queue(Purpose::Work, Waiting { prepares: Some(key), hook });
    }

    /// Runs a hook as soon as there is a place for it.
    pub(super) fn call(&mut self, purpose: Purpose, hook: BoxFuture<'static, ()>) {
        self.start_or_queue(purpose, Waiting { prepares: None, hook });
    }

    fn start_or_queue(&mut self, purpose: Purpose, call: Waiting) {
        let places_max = self.places_max;
        let lane = self.lane(purpose);
        if lane.running < places_max {
            lane.running += 1;
            tokio::spawn(call.hook);
            return;
        }
        let ticket = Ticket(self.last.0 + 1);
        self.last = ticket;
        if let Some(key) = call.prepares {
            self.waiting_prepares.insert(key, ticket);
        }
        self.lane(purpose).waiting.insert(ticket, call);
    }

    /// A hook has finished, and leaves its place to the one that has waited longest.
    pub(super) fn finished(&mut self, purpose: Purpose) {
        let lane = self.lane(purpose);
        let Some((_, next)) = lane.waiting.pop_first() else {
            lane.running -= 1;
            return;
        };
        tokio::spawn(next.hook);
        if let Some(key) = next.prepares {
            self.waiting_prepares.remove(&key);
        }
    }

    /// Drops a branch's prepare hook if it waits for a place. Answers whether it did: then the hook
    /// was not called, and will not be.
    pub(super) fn take_back_prepare(&mut self, key: BranchKey) -> bool {
        let Some(ticket) = self.waiting_prepares.remove(&key) else { return false };
        self.work.waiting.remove(&ticket).is_some()
    }

    /// How many hooks run.
    pub(super) fn running(&self) -> usize {
        self.work.running + self.compensations.running + self.ends.running
    }

    /// Whether no hook runs, so that none waits either.
    pub(super) fn is_idle(&self) -> bool {
        self.running() == 0
    }

    fn lane(&mut self, purpose: Purpose) -> &mut Lane {
        match purpose {
            Purpose::Work => &mut self.work,
            Purpose::Compensate => &mut self.compensations,
            Purpose::End => &mut self.ends,
        }
    }
}
