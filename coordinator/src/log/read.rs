//! What is read from a log: for recovery, for answers, for operators.

use std::fmt;
use std::str::FromStr;

use assent_protocol::{Decision, Epoch, Gtid, Outcome, ParticipantName, Protocol};

pub use assent_protocol::found::{EndedTransaction, Found, LoggedStep, OpenSaga, OpenTransaction, Unreadable};

use super::LogError;

/// How far a transaction is, as far as the log knows.
///
/// What only the owner's memory knows has no row, and so no state here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// 3PC: every branch voted yes, and the voters are agreeing. 2PC: the only branch decides, and
    /// has yet to tell how.
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
    /// The participants of its branches or steps, each once, in roster order. Of an open 2PC, those
    /// that wait for the decision.
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
