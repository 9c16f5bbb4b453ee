//! What the log keeps.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{BodyDigest, BranchId, Gtid, ParticipantName};
use crate::saga::{Definition, StepIndex, StepResult};
use crate::three_phase::{Roster, VoterRecord};

/// Commit or abort; the one fact that the log keeps for a transaction. The first that is written
/// wins (I3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Every branch voted yes or read-only, and all of them commit.
    Commit,
    /// Every branch is undone.
    Abort,
}

/// How the branches of a transaction are brought to the same end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Two-phase commit with presumed abort.
    TwoPhase,
    /// Three-phase commit that survives partitions (E3PC).
    ThreePhase,
    /// A saga: steps, and compensations in reverse.
    Saga,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every branch committed.
    Committed,
    /// Every branch aborted.
    Aborted,
    /// Every step of the saga took effect.
    Completed,
    /// No step of the saga has a net effect.
    Compensated,
}

impl Outcome {
    /// The decision behind it.
    pub const fn decision(self) -> Decision {
        match self {
            Self::Committed | Self::Completed => Decision::Commit,
            Self::Aborted | Self::Compensated => Decision::Abort,
        }
    }
}

/// A durable fact about one transaction. The log stamps each with the time of its batch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Record {
    /// Opens the transaction's row with its decision. Forced; the first writer wins.
    Decided(Decided),
    /// Opens the row of a two-phase transaction without a decision: its only branch decides.
    /// Forced, before that branch is ordered to commit by itself; the first writer wins. A
    /// [`Decided`](Self::Decided) is taken over such a row from its owner alone.
    Delegated(Delegated),
    /// Opens the row of a three-phase transaction without a decision: 'attempt 1 sent'. Forced; the
    /// first writer wins.
    Attempted(Attempted),
    /// What the voters of a three-phase transaction agreed on, in the row that its attempt opened:
    /// over no other row, and over no other decision. Forced. A [`Decided`](Self::Decided) in its
    /// place, which is somebody's presumption, must not be taken over such a row: it opens one, or
    /// finds it decided.
    Agreed(Decided),
    /// What a voter keeps, in a participant's store or, where the voter is the log, in the
    /// transaction's row. Forced, but for a commit that it stands pre-committed to; it is appended
    /// only over the state that it names.
    Voter(Box<VoterRecord>),
    /// Opens the saga's row, before its start is acknowledged. Forced; the first writer wins.
    SagaStarted(SagaStarted),
    /// The saga turned back: from here on there is only compensation. Forced.
    SagaTurned(SagaTurned),
    /// What a step or its compensation answered. Lazy, unless the step is marked durable.
    SagaStep(SagaStep),
    /// The saga waits for a human, or goes on after one. Lazy.
    SagaPaused(SagaPaused),
    /// The transaction is over: its row moves from the open table to history. Lazy for 2PC; forced
    /// for a saga's outcome. Of a 3PC that has no [`Agreed`](Self::Agreed), it is forced too: what
    /// the voters agreed on comes with it, into the writer's own row.
    Ended(Ended),
}

impl Record {
    /// Which record it is.
    pub fn id(&self) -> RecordId {
        let kind = match self {
            Self::Decided(record) => RecordKind::Decided(record.decision),
            Self::Delegated(_) => RecordKind::Delegated,
            Self::Attempted(_) => RecordKind::Attempted,
            Self::Agreed(record) => RecordKind::Agreed(record.decision),
            Self::Voter(record) => return record.id(),
            Self::SagaStarted(_) => RecordKind::SagaStarted,
            Self::SagaTurned(_) => RecordKind::SagaTurned,
            Self::SagaStep(record) => RecordKind::SagaStep(record.step, record.compensation, record.attempt),
            Self::SagaPaused(_) => RecordKind::SagaPaused,
            Self::Ended(record) => RecordKind::Ended(record.outcome),
        };
        RecordId { gtid: self.gtid(), kind }
    }

    /// Whose record it is.
    pub fn gtid(&self) -> Gtid {
        match self {
            Self::Decided(record) | Self::Agreed(record) => record.gtid,
            Self::Delegated(record) => record.gtid,
            Self::Attempted(record) => record.gtid,
            Self::Voter(record) => record.gtid,
            Self::SagaStarted(record) => record.gtid,
            Self::SagaTurned(record) => record.gtid,
            Self::SagaStep(record) => record.gtid,
            Self::SagaPaused(record) => record.gtid,
            Self::Ended(record) => record.gtid,
        }
    }
}

/// Which record of which transaction: what a receipt is for. Two records with the same id say the
/// same as far as effects that wait for them go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordId {
    /// Of which transaction.
    pub gtid: Gtid,
    /// Which record.
    pub kind: RecordKind,
}

/// The kind of a record, with what tells it from others of the same transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RecordKind {
    /// [`Record::Decided`], to this end.
    Decided(Decision),
    /// [`Record::Delegated`].
    Delegated,
    /// [`Record::Attempted`].
    Attempted,
    /// [`Record::Agreed`], on this end.
    Agreed(Decision),
    /// [`Record::Voter`], with the [digest](crate::three_phase::VoterState::digest) of its state.
    Voter(u64),
    /// [`Record::SagaStarted`].
    SagaStarted,
    /// [`Record::SagaTurned`].
    SagaTurned,
    /// [`Record::SagaStep`]: which step, whether it is the compensation's, and which attempt.
    SagaStep(StepIndex, bool, u32),
    /// [`Record::SagaPaused`].
    SagaPaused,
    /// [`Record::Ended`], with this outcome.
    Ended(Outcome),
}

/// The decision, with the branches that have to learn it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Decided {
    /// Whose decision.
    pub gtid: Gtid,
    /// Under which protocol; two-phase or three-phase.
    pub protocol: Protocol,
    /// The decision.
    pub decision: Decision,
    /// The branches that voted yes, in roster order: those that wait for the decision.
    pub members: Vec<Member>,
    /// The digest of the commit request's body.
    pub digest: BodyDigest,
    /// When the transaction began, in Unix milliseconds.
    pub begun_at_ms: u64,
    /// Why, for an abort.
    pub reason: Option<String>,
}

/// One branch of a roster. Only a member of the roster that the log holds, by both parts, is told to
/// commit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Whose branch.
    pub participant: ParticipantName,
    /// Which of that participant's.
    pub branch: BranchId,
}

/// The decision is left to the only branch, which is ordered to commit by itself.
///
/// While the row is open, only that branch can tell how the transaction ended. A transaction
/// without a row was never delegated, so its branch was never ordered to commit by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Delegated {
    /// Whose delegation.
    pub gtid: Gtid,
    /// The branch that decides.
    pub member: Member,
    /// The digest of the commit request's body.
    pub digest: BodyDigest,
    /// When the transaction began, in Unix milliseconds.
    pub begun_at_ms: u64,
}

/// 'Attempt 1 sent': every voter of the roster voted yes, and the proposal to commit may be under
/// way.
///
/// It is the log's own acceptance of that proposal too: its row has the voter state
/// [`VoterState::ATTEMPTED`](crate::three_phase::VoterState::ATTEMPTED). From here on only the
/// voters together decide.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attempted {
    /// Whose attempt.
    pub gtid: Gtid,
    /// Who votes.
    pub roster: Roster,
    /// The digest of the commit request's body.
    pub digest: BodyDigest,
    /// When the transaction began, in Unix milliseconds.
    pub begun_at_ms: u64,
}

/// A saga's definition and inputs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SagaStarted {
    /// Whose start.
    pub gtid: Gtid,
    /// Its steps, inputs included.
    pub definition: Definition,
    /// The digest of the start request's body.
    pub digest: BodyDigest,
    /// When the saga began, in Unix milliseconds.
    pub begun_at_ms: u64,
}

/// The decision to compensate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SagaTurned {
    /// Whose turn.
    pub gtid: Gtid,
    /// Why.
    pub reason: String,
}

/// One answer of one step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SagaStep {
    /// Whose step.
    pub gtid: Gtid,
    /// Which step.
    pub step: StepIndex,
    /// Whether it is the compensation's answer rather than the action's.
    pub compensation: bool,
    /// The attempt that was answered, from 1.
    pub attempt: u32,
    /// The answer.
    pub result: StepResult,
}

/// The saga stopped for a human, or goes on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SagaPaused {
    /// Whose pause.
    pub gtid: Gtid,
    /// What a human must do; `None` once the saga was resumed.
    pub remedy: Option<String>,
}

/// The end of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ended {
    /// Whose end.
    pub gtid: Gtid,
    /// Under which protocol.
    pub protocol: Protocol,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether the log has an open row of it. A transaction that aborted without one goes straight
    /// to history.
    pub has_open_row: bool,
    /// When it began, in Unix milliseconds.
    pub begun_at_ms: u64,
    /// The digest of the commit or start request's body.
    pub digest: BodyDigest,
    /// Why, where it was aborted or compensated.
    pub reason: Option<String>,
    /// How each branch or step ended, in roster order.
    pub branches: Vec<EndedBranch>,
    /// A saga's outputs by step, for steps that completed; empty for 2PC.
    pub outputs: Vec<(StepIndex, Bytes)>,
}

impl Ended {
    /// The branches that it told to commit; none of a saga.
    pub fn told_to_commit(&self) -> Vec<Member> {
        told_to_commit(self.protocol, self.outcome, &self.branches)
    }
}

/// The branches that an ended transaction told to commit, among those of its end: those that its
/// open row named.
///
/// One that had nothing to commit waits for no decision. Under three phases it has voted all the
/// same: it is in the roster, and must hear of no other outcome than the other voters.
pub fn told_to_commit(protocol: Protocol, outcome: Outcome, branches: &[EndedBranch]) -> Vec<Member> {
    if outcome != Outcome::Committed {
        return Vec::new();
    }
    let is_told = |branch: &&EndedBranch| match branch.end {
        BranchEnd::Committed | BranchEnd::HeuristicCommitted | BranchEnd::HeuristicAborted => true,
        BranchEnd::ReadOnly => protocol == Protocol::ThreePhase,
        BranchEnd::Aborted
        | BranchEnd::NotStarted
        | BranchEnd::Completed
        | BranchEnd::Compensated
        | BranchEnd::Abandoned => false,
    };
    branches.iter().filter(is_told).map(EndedBranch::member).collect()
}

/// How one branch or saga step ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndedBranch {
    /// The participant; for a saga, the participant of the step.
    pub participant: ParticipantName,
    /// Which of the participant's branches; [`BranchId::NONE`] for a saga's step.
    pub branch: BranchId,
    /// The saga step's name; `None` for a branch.
    pub step: Option<ParticipantName>,
    /// How it ended.
    pub end: BranchEnd,
}

impl EndedBranch {
    /// The branch's place in the roster.
    pub fn member(&self) -> Member {
        Member { participant: self.participant.clone(), branch: self.branch }
    }
}

/// The ways a branch or step can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BranchEnd {
    /// Committed, as decided.
    Committed,
    /// Aborted, as decided, or by its own no.
    Aborted,
    /// Voted read-only: nothing to commit or abort.
    ReadOnly,
    /// Never asked to do anything.
    NotStarted,
    /// A saga step that took effect.
    Completed,
    /// A saga step whose effect was undone, or prevented.
    Compensated,
    /// A saga step whose effect could not be undone, and that a human closed.
    Abandoned,
    /// Committed against, or without, the decision.
    HeuristicCommitted,
    /// Aborted against, or without, the decision.
    HeuristicAborted,
}

impl BranchEnd {
    /// The word for it in the log, on the wire and on screen.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::ReadOnly => "read_only",
            Self::NotStarted => "not_started",
            Self::Completed => "completed",
            Self::Compensated => "compensated",
            Self::Abandoned => "abandoned",
            Self::HeuristicCommitted => "heuristic_committed",
            Self::HeuristicAborted => "heuristic_aborted",
        }
    }
}

macro_rules! words {
    ($type:ty { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $type {
            /// The word for it in the log, on the wire and on screen.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words!(Decision { Commit => "commit", Abort => "abort" });
words!(Protocol { TwoPhase => "2pc", ThreePhase => "3pc", Saga => "saga" });
words!(Outcome { Committed => "committed", Aborted => "aborted", Completed => "completed", Compensated => "compensated" });
