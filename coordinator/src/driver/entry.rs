//! One transaction in memory: its machine, its timers, and what answers need beside it.

use std::time::{SystemTime, UNIX_EPOCH};

use assent_protocol::Gtid;
use assent_protocol::saga::{self, Saga};
use assent_protocol::two_phase::{self, TwoPhase};
use tokio_util::time::delay_queue;

/// The machine of one transaction.
#[derive(Debug)]
pub(super) enum Machine {
    TwoPhase(TwoPhase),
    Saga(Box<Saga>),
}

impl Machine {
    pub(super) fn is_ended(&self) -> bool {
        match self {
            Self::TwoPhase(machine) => machine.is_ended(),
            Self::Saga(machine) => machine.is_ended(),
        }
    }
}

/// A timer of either machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    TwoPhase(two_phase::Timer),
    Saga(saga::Timer),
}

/// One transaction.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) machine: Machine,
    /// The timers that run.
    pub(super) timers: Vec<(Timer, delay_queue::Key)>,
    /// When it aborts by itself, in Unix milliseconds; zero for a saga.
    pub(super) deadline_unix_ms: u64,
    /// The payload bytes that it was admitted with.
    pub(super) bytes: usize,
    /// Forced records of it that the log has not confirmed.
    pub(super) appending: u32,
}

/// A fired timer's address.
pub(super) type Due = (Gtid, Timer);

/// The wall clock, in Unix milliseconds.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
