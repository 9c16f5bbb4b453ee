//! Which hook is called when: hooks that run, and hooks that wait for a place.
//!
//! Work waits for locks that only the end of another branch releases. If ends queued behind work,
//! then as many prepares as there are places could wait for one row, and the commit that frees the
//! row would wait for one of their places. So each [`Purpose`] has places and a queue of its own.
//! Compensations do not share the places of ends: a compensation may wait for the lock of a
//! prepared branch, as any other work.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::steps::StepKey;
use crate::branch::{Hook, HookEnd};
use crate::ids::{BranchKey, BranchMap, Name};
use crate::message::StepOrder;
use crate::saga::StepResult;
use crate::two_phase::Vote;

/// A hook to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A branch's.
    Branch {
        /// Whose.
        key: BranchKey,
        /// Which.
        hook: Hook,
        /// How long a vote is of use, in milliseconds.
        timeout_ms: u64,
    },
    /// A step's.
    Step(StepCall),
}

/// The action of a step or its compensation, to be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepCall {
    /// What was ordered.
    pub order: StepOrder,
    /// Whether to compensate the step.
    pub compensation: bool,
    /// Whether there is only forward once it is done.
    pub is_pivot: bool,
    /// What the steps before it gave.
    pub outputs: Vec<(Name, Bytes)>,
    /// What the action gave that is to be compensated, if that is known.
    pub output: Option<Bytes>,
    /// The largest output that the replica takes, in bytes.
    pub output_bytes_max: usize,
}

/// What a branch's hook came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Returned {
    /// The prepare hook has voted.
    Prepare(Vote),
    /// The commit or abort hook has ended the branch, or failed.
    End(HookEnd),
}

/// What a step's hook came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepEnd {
    /// What.
    pub result: StepResult,
    /// Whether a refusal is final for the attempt that the hook was called with, and for those
    /// before it.
    pub is_final: bool,
}

impl From<StepResult> for StepEnd {
    fn from(result: StepResult) -> Self {
        Self { result, is_final: false }
    }
}

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

impl Call {
    fn purpose(&self) -> Purpose {
        match self {
            Self::Branch { hook: Hook::Prepare { .. }, .. } => Purpose::Work,
            Self::Branch { hook: Hook::Commit | Hook::Abort, .. } => Purpose::End,
            Self::Step(call) if call.compensation => Purpose::Compensate,
            Self::Step(_) => Purpose::Work,
        }
    }

    /// Whose prepare hook this is, if it is one.
    fn prepares(&self) -> Option<BranchKey> {
        match self {
            Self::Branch { key, hook: Hook::Prepare { .. }, .. } => Some(*key),
            Self::Branch { hook: Hook::Commit | Hook::Abort, .. } | Self::Step(_) => None,
        }
    }
}

impl Returned {
    pub(super) fn purpose(&self) -> Purpose {
        match self {
            Self::Prepare(_) => Purpose::Work,
            Self::End(_) => Purpose::End,
        }
    }
}

impl StepKey {
    pub(super) fn purpose(self) -> Purpose {
        if self.compensation { Purpose::Compensate } else { Purpose::Work }
    }
}

/// All hooks of a process.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    /// How many hooks of one purpose run at a time.
    pub(super) places_max: usize,
    work: Lane,
    compensations: Lane,
    ends: Lane,
    /// The branches whose prepare hook waits for a place.
    waiting_prepares: BranchMap<Turn>,
    last: Turn,
    /// What the shell has yet to call. Each has its place.
    due: Vec<Call>,
}

/// The hooks of one purpose. While one waits, all places are taken.
#[derive(Clone, Debug, Default)]
struct Lane {
    running: usize,
    waiting: BTreeMap<Turn, Call>,
}

/// The order in which hooks were wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Turn(u64);

impl Calls {
    pub(super) fn new(places_max: usize) -> Self {
        Self {
            places_max,
            work: Lane::default(),
            compensations: Lane::default(),
            ends: Lane::default(),
            waiting_prepares: BranchMap::default(),
            last: Turn::default(),
            due: Vec::new(),
        }
    }

    /// Calls a hook as soon as there is a place for it.
    pub(super) fn call(&mut self, call: Call) {
        let places_max = self.places_max;
        let lane = self.lane(call.purpose());
        if lane.running < places_max {
            lane.running += 1;
            self.due.push(call);
            return;
        }
        self.last = Turn(self.last.0 + 1);
        let turn = self.last;
        if let Some(key) = call.prepares() {
            self.waiting_prepares.insert(key, turn);
        }
        self.lane(call.purpose()).waiting.insert(turn, call);
    }

    /// A hook has returned, and leaves its place to the one that has waited longest.
    pub(super) fn returned(&mut self, purpose: Purpose) {
        let lane = self.lane(purpose);
        let Some((_, next)) = lane.waiting.pop_first() else {
            lane.running = lane.running.saturating_sub(1);
            return;
        };
        if let Some(key) = next.prepares() {
            self.waiting_prepares.remove(&key);
        }
        self.due.push(next);
    }

    /// Drops a branch's prepare hook if it waits for a place. Answers whether it did: then the hook
    /// was not called, and will not be.
    pub(super) fn take_back_prepare(&mut self, key: BranchKey) -> bool {
        let Some(turn) = self.waiting_prepares.remove(&key) else { return false };
        self.work.waiting.remove(&turn).is_some()
    }

    /// The hooks to call now.
    pub(super) fn take(&mut self) -> std::vec::Drain<'_, Call> {
        self.due.drain(..)
    }

    /// How many hooks run.
    pub(super) fn running(&self) -> usize {
        self.work.running + self.compensations.running + self.ends.running
    }

    /// How many hooks of one purpose run, and how many wait.
    pub(super) fn load(&self, purpose: Purpose) -> (usize, usize) {
        let lane = match purpose {
            Purpose::Work => &self.work,
            Purpose::Compensate => &self.compensations,
            Purpose::End => &self.ends,
        };
        (lane.running, lane.waiting.len())
    }

    fn lane(&mut self, purpose: Purpose) -> &mut Lane {
        match purpose {
            Purpose::Work => &mut self.work,
            Purpose::Compensate => &mut self.compensations,
            Purpose::End => &mut self.ends,
        }
    }
}
