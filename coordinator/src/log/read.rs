//! What is read from a log: for recovery, for answers, for operators.

use std::fmt;
use std::str::FromStr;

use assent_protocol::record::{Attempted, Decided, Ended, SagaStarted, SagaStep};
use assent_protocol::three_phase::{Roster, VoterState};
use assent_protocol::{BodyDigest, Decision, Epoch, Gtid, Outcome, ParticipantName, Protocol};

use super::LogError;

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
            Self::Attempted { record, .. } => record.gtid,
            Self::Saga(saga) => saga.started.gtid,
        }
    }

    /// The digest of the commit or start request's body.
    pub fn digest(&self) -> BodyDigest {
        match self {
            Self::Decided { record, .. } => record.digest,
            Self::Attempted { record, .. } => record.digest,
            Self::Saga(saga) => saga.started.digest,
        }
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
    /// The latest answer of each step and each compensation, by step, the action's before the compensation's.
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
    /// When the decision became durable, in Unix milliseconds; `None` if it aborted without one. For a saga, when its start did.
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

/// What [`Log::lookup`](super::Log::lookup) found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It has not ended.
    Open(OpenTransaction),
    /// It is over.
    Ended(EndedTransaction),
    /// There is a row, and it cannot be understood: treat the transaction as neither committed nor aborted.
    Unreadable(Unreadable),
}

/// How far a transaction is, as far as the log knows.
///
/// What only the owner's memory knows has no row, and so no state here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// 3PC: every branch voted yes, and the voters are agreeing.
    Preparing,
    /// Commit is decided; branches have yet to acknowledge it.
    Committing,
    /// Abort is decided; branches have yet to acknowledge it.
    Aborting,
    /// The saga goes forward.
    Running,
    /// The saga turned back.
    Compensating,
    /// The saga waits for a human.
    Paused,
    /// Over: every branch committed.
    Committed,
    /// Over: every branch aborted.
    Aborted,
    /// Over: every step took effect.
    Completed,
    /// Over: no step has a net effect.
    Compensated,
}

impl State {
    /// Every state, open ones first.
    pub const ALL: [Self; 10] = [
        Self::Preparing,
        Self::Committing,
        Self::Aborting,
        Self::Running,
        Self::Compensating,
        Self::Paused,
        Self::Committed,
        Self::Aborted,
        Self::Completed,
        Self::Compensated,
    ];

    /// The word for it in the log, on the wire and on screen.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Committing => "committing",
            Self::Aborting => "aborting",
            Self::Running => "running",
            Self::Compensating => "compensating",
            Self::Paused => "paused",
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::Completed => "completed",
            Self::Compensated => "compensated",
        }
    }

    /// Whether the transaction is over.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Committed | Self::Aborted | Self::Completed | Self::Compensated)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Outcome> for State {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Committed => Self::Committed,
            Outcome::Aborted => Self::Aborted,
            Outcome::Completed => Self::Completed,
            Outcome::Compensated => Self::Compensated,
        }
    }
}

impl From<Decision> for State {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Commit => Self::Committing,
            Decision::Abort => Self::Aborting,
        }
    }
}

/// Sagas, or the commit protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Two- and three-phase commit.
    Commit,
    /// Sagas.
    Saga,
}

/// Which transactions an operator wants to see. The default is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// In one of these states; empty for any.
    pub states: Vec<State>,
    /// With a branch or step at this participant.
    pub participant: Option<ParticipantName>,
    /// Begun before this time, in Unix milliseconds.
    pub begun_before_ms: Option<u64>,
    /// Of this kind.
    pub kind: Option<Kind>,
}

/// One transaction in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Its id.
    pub gtid: Gtid,
    /// Its protocol.
    pub protocol: Protocol,
    /// How far it is.
    pub state: State,
    /// The participants of its branches or steps, each once, in roster order. Of an open 2PC, those that wait for the decision.
    pub participants: Vec<ParticipantName>,
    /// When it began, in Unix milliseconds.
    pub begun_at_ms: u64,
    /// When the decision (for a saga, the start) became durable, in Unix milliseconds.
    pub decided_at_ms: Option<u64>,
    /// When its end was logged, in Unix milliseconds.
    pub ended_at_ms: Option<u64>,
    /// Why, where it was aborted or turned back.
    pub reason: Option<String>,
    /// What a human must do, while it is paused.
    pub remedy: Option<String>,
    /// The epoch that owns it, while it is open.
    pub owner: Option<Epoch>,
    /// Whether it is kept beyond the retention.
    pub pinned: bool,
}

/// A transaction with all that the log has about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// As it stands in a listing.
    pub transaction: Transaction,
    /// Its row, with roster, steps and outputs.
    pub found: Found,
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Newest gtid first.
    pub transactions: Vec<Transaction>,
    /// For the next page; `None` if this is the last.
    pub next: Option<PageToken>,
}

/// Where the next page starts. Opaque: its text may change between versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken {
    /// The last gtid of the previous page.
    pub(super) before: Gtid,
}

impl PageToken {
    /// The page that starts behind this transaction, from newest to oldest.
    pub fn before(gtid: Gtid) -> Self {
        Self { before: gtid }
    }
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.before.as_uuid().simple())
    }
}

impl FromStr for PageToken {
    type Err = LogError;
    fn from_str(text: &str) -> Result<Self, LogError> {
        text.parse()
            .map(|before| Self { before })
            .map_err(|_| LogError::PageToken { token: text.chars().take(80).collect() })
    }
}
