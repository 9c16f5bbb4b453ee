//! The vocabulary of sessions: what processes and the coordinator say to each other, in strict
//! types.
//!
//! The wire's own types are in the crate `assent-proto`, which reads them into these and writes
//! these into them. Nothing here is of the wrong length, breaks the rule for names, or lacks a
//! part.

mod refused;
mod size;
mod version;

use std::fmt;
use std::ops::RangeInclusive;

use bytes::Bytes;

use crate::branch;
use crate::ids::{BranchId, Epoch, Gtid, InstanceId, Name, ParticipantName};
use crate::reason::{AbortReason, Wait};
use crate::record::{Outcome, Protocol};
use crate::saga::{Definition, StepIndex, StepResult};
use crate::three_phase::{self, Answer, PeerAddress, Roster, StoreId};
use crate::two_phase::{CarriedBranch, EarlyVote};

pub use refused::{Code, Reason, Refused};
pub use size::{MESSAGE_BYTES_MAX, client_payload_bytes, payload_bytes, request_bytes};
pub use version::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, PROTOCOL_VERSIONS, agreed_version};

/// The most bytes of one frame: the default limit of gRPC implementations, so that clients in any
/// language can talk.
pub const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How many transactions one [`FromReplica::ForgetVoters`] names at most.
pub const FORGOTTEN_MAX: usize = 1_024;

/// A client's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromClient {
    /// The first message of a session.
    Hello(Hello),
    /// The client is still there.
    Heartbeat,
    /// A request; it is answered.
    Request(Request),
    /// A branch reports to the coordinator.
    Branch(BranchReport),
    /// A saga step is answered.
    Step(StepAnswer),
    /// A participant's voter answers, or asks the log.
    Voter(VoterReport),
}

impl FromClient {
    /// A request.
    pub const fn request(request_id: u64, gtid: Gtid, ask: Ask) -> Self {
        Self::Request(Request { request_id, gtid, ask })
    }

    /// A branch's report.
    pub const fn branch(gtid: Gtid, branch: BranchId, message: branch::Message) -> Self {
        Self::Branch(BranchReport { gtid, branch, message })
    }

    /// What a participant says as a voter.
    pub const fn voter(gtid: Gtid, message: VoterMessage) -> Self {
        Self::Voter(VoterReport { gtid, message })
    }

    /// Which transaction the message is about; `None` for what is about the session itself.
    pub fn gtid(&self) -> Option<Gtid> {
        match self {
            Self::Hello(_) | Self::Heartbeat => None,
            Self::Request(request) => Some(request.gtid),
            Self::Branch(report) => Some(report.gtid),
            Self::Step(answer) => Some(answer.gtid),
            Self::Voter(report) => Some(report.gtid),
        }
    }
}

/// A request about one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The reply carries the same number.
    pub request_id: u64,
    /// Which transaction.
    pub gtid: Gtid,
    /// What is asked for.
    pub ask: Ask,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Open a transaction.
    Begin {
        /// How long it may stay undecided, in milliseconds; 0 for the default.
        timeout_ms: u64,
        /// Two-phase or three-phase; never a saga.
        protocol: Protocol,
        /// The epoch of the replica to which this request was first written; `None` from a client
        /// that does not say.
        first_epoch: Option<Epoch>,
    },
    /// Commit it.
    Commit(Commit),
    /// Abort or compensate it.
    Abort {
        /// Why.
        reason: String,
    },
    /// Start a saga.
    StartSaga {
        /// Its steps.
        definition: Definition,
        /// When to answer.
        wait: Wait,
        /// 1 for the first time.
        attempt: u32,
    },
    /// Wait for its outcome.
    Await {
        /// For what.
        wait: Wait,
    },
    /// Take a prepared branch in.
    Enlist {
        /// Which branch.
        branch: BranchId,
        /// Its vote.
        vote: EarlyVote,
    },
}

/// What a branch reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchReport {
    /// Which transaction.
    pub gtid: Gtid,
    /// Which of the participant's branches.
    pub branch: BranchId,
    /// What.
    pub message: branch::Message,
}

/// The answer to a saga order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepAnswer {
    /// Which saga.
    pub gtid: Gtid,
    /// Which step.
    pub step: StepIndex,
    /// Whether it is the compensation's answer.
    pub compensation: bool,
    /// The attempt that is answered, from 1.
    pub attempt: u32,
    /// The epoch of the order that is answered.
    pub epoch: Epoch,
    /// The answer.
    pub result: StepResult,
    /// Of a refusal: the participant has made durable that no attempt up to this one takes effect
    /// any more.
    pub is_final: bool,
}

/// What a participant says as a voter of a three-phase transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoterReport {
    /// Which transaction.
    pub gtid: Gtid,
    /// What.
    pub message: VoterMessage,
}

/// See [`VoterReport`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VoterMessage {
    /// Its voter answers the coordinator.
    Answered(Answer),
    /// It leads an election and asks the log.
    AskLog {
        /// For which of its branches.
        branch: BranchId,
        /// What.
        request: three_phase::Request,
    },
}

/// Who dials.
#[derive(Clone, PartialEq, Eq)]
pub struct Hello {
    /// The participant that it serves, if any.
    pub participant: Option<ParticipantName>,
    /// The process.
    pub instance: InstanceId,
    /// The versions of the session protocol that it speaks: the oldest and the newest.
    pub protocol_versions: RangeInclusive<u32>,
    /// The shared secret, where one is asked for.
    pub token: String,
    /// Whether its one-phase commits are safe to ask for again.
    pub one_phase: bool,
    /// Name and version of the SDK.
    pub sdk: String,
    /// The participant's voter, if it has one.
    pub voter: Option<VoterPlace>,
}

/// Where a participant's voter is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoterPlace {
    /// Where its peers reach it.
    pub address: PeerAddress,
    /// The store that keeps its state.
    pub store: StoreId,
}

/// Without the token: what is printed ends up in logs.
impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { participant, instance, protocol_versions, token, one_phase, sdk, voter } = self;
        f.debug_struct("Hello")
            .field("participant", participant)
            .field("instance", instance)
            .field("protocol_versions", protocol_versions)
            .field("token", &if token.is_empty() { "none" } else { "given" })
            .field("one_phase", one_phase)
            .field("sdk", sdk)
            .field("voter", voter)
            .finish()
    }
}

/// The branches without which a commit is refused. They guard against calls that went out without
/// the context: the services have enlisted nothing, and the others would commit alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Expected {
    /// It commits with the branches that it has, and without any.
    #[default]
    Anything,
    /// At least one.
    Branch,
    /// One of each of these participants.
    Of(Vec<ParticipantName>),
}

/// A request to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Branches to prepare.
    pub branches: Vec<CarriedBranch>,
    /// 1 for the first time.
    pub attempt: u32,
    /// Whether it was opened by Begin.
    pub begun: bool,
    /// How long it may stay undecided, in milliseconds; 0 for the default.
    pub timeout_ms: u64,
    /// When to answer.
    pub wait: Wait,
    /// Two-phase or three-phase; never a saga.
    pub protocol: Protocol,
    /// The epoch of the replica to which this request was first written; `None` from a client that
    /// does not say, and for a unary call.
    pub first_epoch: Option<Epoch>,
    /// Without which branches it is refused.
    pub expected: Expected,
}

/// A replica's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromReplica {
    /// The first message.
    Welcome(Welcome),
    /// Still there.
    Heartbeat,
    /// Answers a request.
    Reply {
        /// Which request.
        request_id: u64,
        /// The answer.
        reply: Reply,
    },
    /// Do the work and vote.
    Prepare {
        /// Of which transaction.
        gtid: Gtid,
        /// Which branch.
        branch: BranchId,
        /// Whose order.
        epoch: Epoch,
        /// From the initiator.
        payload: Bytes,
        /// A later vote comes too late, in milliseconds.
        timeout_ms: u64,
        /// Commit alone instead.
        one_phase: bool,
        /// Who votes, for a three-phase transaction.
        roster: Option<Roster>,
        /// Only the voter has to vote: the branch enlisted prepared.
        is_prepared: bool,
    },
    /// Commit.
    CommitBranch {
        /// Of which transaction.
        gtid: Gtid,
        /// Which branch.
        branch: BranchId,
        /// Whose order.
        epoch: Epoch,
    },
    /// Abort.
    AbortBranch {
        /// Of which transaction.
        gtid: Gtid,
        /// Which branch.
        branch: BranchId,
        /// Whose order.
        epoch: Epoch,
    },
    /// Execute a saga step.
    ExecuteStep {
        /// The step.
        order: StepOrder,
        /// What the steps before it gave.
        outputs: Vec<(Name, Bytes)>,
        /// Whether there is only forward once it is done.
        pivot: bool,
    },
    /// Compensate a saga step.
    CompensateStep {
        /// The step.
        order: StepOrder,
        /// What its action gave, if that is known.
        output: Option<Bytes>,
    },
    /// The replica is leaving.
    GoAway {
        /// Why.
        reason: String,
    },
    /// Asks the participant's voter.
    AskVoter {
        /// Which.
        gtid: Gtid,
        /// What.
        request: three_phase::Request,
    },
    /// The log answers a participant that leads an election.
    LogAnswered {
        /// Which.
        gtid: Gtid,
        /// What.
        answer: Answer,
    },
    /// There is no decision yet, and somebody is at work.
    AwaitDecision {
        /// Which.
        gtid: Gtid,
    },
    /// The voter's records may go.
    ForgetVoters {
        /// Which; at most [`FORGOTTEN_MAX`].
        gtids: Vec<Gtid>,
    },
}

/// What both saga orders say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepOrder {
    /// Which saga.
    pub gtid: Gtid,
    /// Whose order.
    pub epoch: Epoch,
    /// The step's position.
    pub step: StepIndex,
    /// The step's name.
    pub name: Name,
    /// From 1.
    pub attempt: u32,
    /// From the initiator.
    pub input: Bytes,
    /// A later answer comes too late, in milliseconds.
    pub timeout_ms: u64,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The replica's name.
    pub replica: String,
    /// Its epoch.
    pub epoch: Epoch,
    /// The version of the session protocol that both speak: the newest that is in both ranges.
    pub protocol_version: u32,
    /// The other replicas' addresses.
    pub peers: Vec<String>,
    /// Say something at least this often, in milliseconds.
    pub heartbeat_interval_ms: u32,
    /// A peer that is silent this long is gone, in milliseconds.
    pub silence_max_ms: u32,
    /// The largest payload, in bytes.
    pub payload_bytes_max: u32,
    /// The most branches of a transaction.
    pub branches_max: u32,
    /// The same for every replica of one log, forever.
    pub coordinator_id: String,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The transaction is open.
    Begun {
        /// When it aborts by itself, in Unix milliseconds by the coordinator's clock.
        deadline_unix_ms: u64,
    },
    /// The branch is part of the transaction.
    Enlisted,
    /// The saga's start is durable.
    SagaStarted,
    /// The saga compensates.
    SagaTurned {
        /// Why; the first reason counts, which need not be this caller's.
        reason: String,
    },
    /// What became of it.
    Outcome {
        /// How.
        outcome: Outcome,
        /// Why, where it was aborted or compensated.
        reason: Option<AbortReason>,
        /// A completed saga's outputs by step.
        outputs: Vec<(Name, Bytes)>,
    },
    /// The request changed nothing.
    Refused(Refused),
}
