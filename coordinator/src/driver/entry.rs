//! One transaction in memory: its machine, its timers, and what answers need beside it.

use std::time::{SystemTime, UNIX_EPOCH};

use assent_protocol::saga::{self, Saga};
use assent_protocol::three_phase::{self, Coordinator, NodeId};
use assent_protocol::two_phase::{self, TwoPhase};
use assent_protocol::{Gtid, Protocol};
use tokio_util::time::delay_queue;

/// The machine of one transaction.
#[derive(Debug)]
pub(super) enum Machine {
    TwoPhase(TwoPhase),
    ThreePhase(Box<Coordinator>),
    Saga(Box<Saga>),
}

impl Machine {
    pub(super) fn is_ended(&self) -> bool {
        match self {
            Self::TwoPhase(machine) => machine.is_ended(),
            Self::ThreePhase(machine) => machine.is_ended(),
            Self::Saga(machine) => machine.is_ended(),
        }
    }

    /// The transaction with branches and a decision, in two phases or three; `None` for a saga.
    pub(super) fn transaction(&self) -> Option<&TwoPhase> {
        match self {
            Self::TwoPhase(machine) => Some(machine),
            Self::ThreePhase(machine) => Some(machine.transaction()),
            Self::Saga(_) => None,
        }
    }

    pub(super) fn protocol(&self) -> Protocol {
        match self {
            Self::TwoPhase(_) => Protocol::TwoPhase,
            Self::ThreePhase(_) => Protocol::ThreePhase,
            Self::Saga(_) => Protocol::Saga,
        }
    }
}

/// A timer of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    TwoPhase(two_phase::Timer),
    ThreePhase(three_phase::coordinator::Timer),
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

/// A name for one machine that may lead elections: no other machine, here or elsewhere, has the same.
pub(super) fn draw_node() -> NodeId {
    NodeId(rand::random())
}

/// The wall clock, in Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
