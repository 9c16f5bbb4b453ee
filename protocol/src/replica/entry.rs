//! One transaction that this replica drives: its machine, and what answers need beside it.

use std::collections::BTreeSet;

use crate::ids::{Caller, InstanceId};
use crate::reason::AbortCode;
use crate::record::{Member, Protocol};
use crate::saga::{self, Saga};
use crate::three_phase::{self, Coordinator};
use crate::two_phase::{self, TwoPhase};

/// The machine of one transaction.
#[derive(Clone, Debug)]
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

    /// The callers whose requests it will answer.
    pub(super) fn callers(&self) -> BTreeSet<Caller> {
        match self {
            Self::TwoPhase(machine) => machine.callers().collect(),
            Self::ThreePhase(machine) => machine.transaction().callers().collect(),
            Self::Saga(machine) => machine.callers().collect(),
        }
    }

    /// Whether it was aborted because nothing was known of it.
    pub(super) fn is_presumed(&self) -> bool {
        self.transaction().and_then(TwoPhase::reason).is_some_and(|reason| reason.code == AbortCode::Forgotten)
    }

    pub(super) fn protocol(&self) -> Protocol {
        match self {
            Self::TwoPhase(_) => Protocol::TwoPhase,
            Self::ThreePhase(_) => Protocol::ThreePhase,
            Self::Saga(_) => Protocol::Saga,
        }
    }
}

/// A timer of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// Of a two-phase transaction.
    TwoPhase(two_phase::Timer),
    /// Of a three-phase transaction.
    ThreePhase(three_phase::coordinator::Timer),
    /// Of a saga.
    Saga(saga::Timer),
    /// Of a transaction whose initiator went away.
    Initiator,
}

/// One transaction.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) machine: Machine,
    /// When it aborts by itself, in Unix milliseconds; zero for a saga, and for one that recovery
    /// took up.
    pub(super) deadline_unix_ms: u64,
    /// The process that began it over a session of its own. A unary call has none.
    pub(super) initiator: Option<InstanceId>,
    /// The payload bytes that it holds.
    pub(super) bytes: usize,
    /// What last kept each branch from ending as it was ordered to. Nothing is decided by it.
    pub(super) failures: Vec<Failure>,
    /// It was aborted because a branch asked about it and nothing was known. It takes no place of
    /// those that are begun.
    pub(super) is_presumed: bool,
}

/// A branch could not end, and tries again.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) member: Member,
    pub(super) error: String,
    /// When the replica heard of it, in Unix milliseconds.
    pub(super) at_ms: u64,
}

impl Entry {
    /// Keeps the last failure of a branch.
    pub(super) fn failed(&mut self, failure: Failure) {
        match self.failures.iter_mut().find(|earlier| earlier.member == failure.member) {
            Some(earlier) => *earlier = failure,
            None => self.failures.push(failure),
        }
    }
}
