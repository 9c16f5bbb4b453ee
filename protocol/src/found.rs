//! What a log has of a transaction: open rows for recovery, ended ones for answers.

use std::ops::Deref;

use crate::ids::{BodyDigest, Epoch, Gtid};
use crate::record::{Attempted, Decided, Delegated, Ended, SagaStarted, SagaStep};
use crate::three_phase::{Roster, VoterState};

/// A transaction that has not ended: what recovery resumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenTransaction {
    /// It is decided; branches have to learn it.
    Decided {
        /// The decision with its roster.
        record: Decided,
        /// Who voted, where the decision settled 'attempt 1 sent'.
        roster: Option<Roster>,
        /// When it became durable, in Unix milliseconds.
        decided_at_ms: u64,
        /// The epoch that owns it.
        owner: Epoch,
    },
    /// Its only branch was, or was about to be, ordered to commit by itself: that branch decides.
    Delegated {
        /// The delegation.
        record: Delegated,
        /// When it became durable, in Unix milliseconds.
        delegated_at_ms: u64,
        /// The epoch that owns it.
        owner: Epoch,
    },
    /// 'Attempt 1 sent', and no decision that the log knows: its voters decide, by an election.
    Attempted {
        /// The attempt with its roster.
        record: Attempted,
        /// What the log keeps as a voter.
        state: VoterState,
        /// When the attempt became durable, in Unix milliseconds.
        attempted_at_ms: u64,
        /// The epoch that owns it.
        owner: Epoch,
    },
    /// A saga is under way.
    Saga(OpenSaga),
}

impl OpenTransaction {
    /// Whose row it is.
    pub fn gtid(&self) -> Gtid {
        match self {
            Self::Decided { record, .. } => record.gtid,
            Self::Delegated { record, .. } => record.gtid,
            Self::Attempted { record, .. } => record.gtid,
            Self::Saga(saga) => saga.started.gtid,
        }
    }

    /// The epoch that owns its row.
    pub fn owner(&self) -> Epoch {
        match self {
            Self::Decided { owner, .. } | Self::Delegated { owner, .. } | Self::Attempted { owner, .. } => *owner,
            Self::Saga(saga) => saga.owner,
        }
    }

    /// The digest of the commit or start request's body.
    pub fn digest(&self) -> BodyDigest {
        match self {
            Self::Decided { record, .. } => record.digest,
            Self::Delegated { record, .. } => record.digest,
            Self::Attempted { record, .. } => record.digest,
            Self::Saga(saga) => saga.started.digest,
        }
    }
}

/// An open transaction whose row belongs to the epoch that drives: what may be recovered.
///
/// A row that a look-up gives is an [`OpenTransaction`], and may be another's: it cannot be handed
/// to recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned(OpenTransaction);

impl Owned {
    /// Compares the owner with the epoch that drives; `None` if the row is another's.
    pub fn by(epoch: Epoch, transaction: OpenTransaction) -> Option<Self> {
        (transaction.owner() == epoch).then_some(Self(transaction))
    }

    /// The transaction.
    pub fn into_inner(self) -> OpenTransaction {
        self.0
    }
}

impl Deref for Owned {
    type Target = OpenTransaction;

    fn deref(&self) -> &OpenTransaction {
        &self.0
    }
}

/// A saga under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSaga {
    /// The start, as it was logged.
    pub started: SagaStarted,
    /// Why it turned back, if it did.
    pub turned: Option<String>,
    /// What a human must do, while it is paused.
    pub paused: Option<String>,
    /// The latest answer of each step and each compensation, by step, the action's before the
    /// compensation's.
    pub steps: Vec<LoggedStep>,
    /// When the start became durable, in Unix milliseconds.
    pub started_at_ms: u64,
    /// The epoch that owns it.
    pub owner: Epoch,
}

/// One answer of a step, as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedStep {
    /// The answer.
    pub record: SagaStep,
    /// When it was logged, in Unix milliseconds.
    pub at_ms: u64,
}

/// A transaction that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedTransaction {
    /// How it ended. `has_open_row` is always false: the row has moved to history.
    pub record: Ended,
    /// When the decision became durable, in Unix milliseconds; `None` if it aborted without one.
    /// For a saga, when its start did.
    pub decided_at_ms: Option<u64>,
    /// When the end was logged, in Unix milliseconds.
    pub ended_at_ms: u64,
}

/// A transaction whose row cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log's row of transaction {gtid} cannot be read: {reason}")]
pub struct Unreadable {
    /// Whose row.
    pub gtid: Gtid,
    /// What is wrong with it.
    pub reason: String,
}

/// What a look-up in the log found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It has not ended.
    Open(OpenTransaction),
    /// It is over.
    Ended(EndedTransaction),
    /// There is a row, and it cannot be understood: treat the transaction as neither committed nor
    /// aborted.
    Unreadable(Unreadable),
}
