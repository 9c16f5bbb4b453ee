//! What a seed begins with, and what can go wrong in it.

use super::initiator::Shape;

/// What can go wrong, and how often.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) node_crashes: u8,
    /// Another process takes over while the one before lives.
    pub(crate) take_overs: u8,
    /// Every process of the coordinator is gone, and the log with them, for a while.
    pub(crate) blackouts: u8,
    pub(crate) instance_crashes: u8,
    /// Instances that go and never come back; another one stays.
    pub(crate) scaled_away: u8,
    /// Databases that are lost, with everything that the voter has kept.
    pub(crate) lost_stores: u8,
    pub(crate) breaks: u8,
    pub(crate) lost_answers: u8,
    pub(crate) failing_hooks: u8,
    pub(crate) impatience: u8,
    /// Times that pass although something else could happen.
    pub(crate) jumps: u8,
    /// Timers of three-phase transactions that fire before their time.
    pub(crate) early_timers: u8,
    /// Deadlines of three-phase transactions that come before their time.
    pub(crate) deadlines: u8,
    pub(crate) retentions: u8,
    /// Calls of a service that are given up.
    pub(crate) lost_calls: u8,
    /// Calls of a service that come twice: each prepares a branch of its own.
    pub(crate) doubled_calls: u8,
    /// Look-ups that are answered from an earlier state of the log.
    pub(crate) stale_reads: u8,
    /// Actions that are refused.
    pub(crate) refusals: u8,
    /// Compensations that are refused, until an operator resumes the saga.
    pub(crate) stuck: u8,
    /// Hooks of steps that end in an error.
    pub(crate) failing_steps: u8,
    /// Requests that are asked twice.
    pub(crate) repeats: u8,
    /// Wishes to abort a transaction, or to turn a saga back.
    pub(crate) turns: u8,
}

/// Who is there when faults stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything comes back.
    All,
    /// The coordinator and its log never come back.
    WithoutCoordinator,
    /// The coordinator is there, and its log is not.
    WithoutLog,
}

/// What a participant's voter has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoterKind {
    /// None: the participant takes part in two phases only.
    None,
    /// A table, which keeps whatever it is told.
    Table,
    /// A file of the only process: what need not be kept is noted, and lost with the process.
    File,
}

#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// The participants, by their voters.
    pub(crate) banks: Vec<VoterKind>,
    pub(crate) instances: usize,
    pub(crate) shapes: Vec<Shape>,
    /// Prepares may be refused, or find nothing to do.
    pub(crate) refuses: bool,
    /// A lone branch may be asked to commit by itself.
    pub(crate) one_phase: bool,
    /// Two processes of different names share the log, and neither fences the other.
    pub(crate) two_names: bool,
    pub(crate) faults: Faults,
    pub(crate) end: End,
}
