//! What a session says, in strict types: what the generated types leave open is checked once, here at the edge.
//!
//! A receiver turns each generated message into [`FromClient`] or [`FromReplica`] with `TryFrom`; a sender builds these and
//! turns them into the generated ones with `From`. Nothing behind this edge sees a gtid of the wrong length, a name that
//! breaks the rule, or an absent `oneof`.
//!
//! What is refused here, beyond a gtid or name that is none: an absent `oneof`, an enum number that this version does not
//! know, an attempt or an epoch of zero, a participant's instance of zero, and a saga that is no DAG. Texts that a client
//! sends for people are made [one line](crate::text::one_line), since they are logged, stored and sent on.
//!
//! | file | subject |
//! |---|---|
//! | `from_client` | the client's messages, both ways |
//! | `from_replica` | the replica's messages, both ways |
//! | `saga` | definitions and retry policies: `after` names steps on the wire, and numbers them behind it |
//! | `shared` | gtids, epochs, verdicts, outcomes, reasons |

mod from_client;
mod from_replica;
mod roster;
mod saga;
mod shared;

use std::fmt;

use assent_protocol::saga::{Definition, StepIndex, StepResult};
use assent_protocol::three_phase::{Answer, PeerAddress, Request, Roster, StoreId};
use assent_protocol::two_phase::{BranchResult, CarriedBranch, EarlyVote, Vote};
use assent_protocol::{AbortReason, Epoch, Gtid, InstanceId, Name, Outcome, ParticipantName, Protocol, Wait};
use bytes::Bytes;

/// The version of the session protocol that this crate speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// The most bytes of one frame: the default limit of gRPC implementations, so that clients in any language can talk.
pub const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How many transactions one [`FromReplica::ForgetVoters`] names at most.
pub const FORGOTTEN_MAX: usize = 1_024;

/// A client's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromClient {
    /// The first message.
    Hello(Hello),
    /// Still there.
    Heartbeat,
    /// Opens a transaction.
    Begin {
        /// Answered with it.
        request_id: u64,
        /// Which.
        gtid: Gtid,
        /// How long it may stay undecided, in milliseconds; 0 for the default.
        timeout_ms: u64,
        /// Two-phase or three-phase; never a saga.
        protocol: Protocol,
    },
    /// Asks to commit.
    Commit(Commit),
    /// Asks to abort or compensate.
    Abort {
        /// Answered with it.
        request_id: u64,
        /// Which.
        gtid: Gtid,
        /// Why.
        reason: String,
    },
    /// Starts a saga.
    StartSaga {
        /// Answered with it.
        request_id: u64,
        /// Which.
        gtid: Gtid,
        /// Its steps.
        definition: Definition,
        /// When to answer.
        wait: Wait,
        /// 1 for the first time.
        attempt: u32,
    },
    /// Waits for an outcome.
    Await {
        /// Answered with it.
        request_id: u64,
        /// Which.
        gtid: Gtid,
        /// What for.
        wait: Wait,
    },
    /// Enlists a prepared branch.
    Enlist {
        /// Answered with it.
        request_id: u64,
        /// Which.
        gtid: Gtid,
        /// Its vote.
        vote: EarlyVote,
    },
    /// Answers Prepare.
    Vote {
        /// Which.
        gtid: Gtid,
        /// The verdict.
        vote: Vote,
    },
    /// Answers a decision.
    Acknowledge {
        /// Which.
        gtid: Gtid,
        /// How the branch ended.
        result: BranchResult,
    },
    /// Asks for the decision.
    Inquire {
        /// Which.
        gtid: Gtid,
    },
    /// Answers a saga order.
    StepAnswer {
        /// Which.
        gtid: Gtid,
        /// Which step.
        step: StepIndex,
        /// Whether it is the compensation's answer.
        compensation: bool,
        /// The attempt that is answered.
        attempt: u32,
        /// The epoch of the order that is answered.
        epoch: Epoch,
        /// The answer.
        result: StepResult,
    },
    /// A voter answers.
    VoterAnswered {
        /// Which.
        gtid: Gtid,
        /// What.
        answer: Answer,
    },
    /// A participant that leads an election asks the log.
    AskLog {
        /// Which.
        gtid: Gtid,
        /// What.
        request: Request,
    },
}

/// Who dials.
#[derive(Clone, PartialEq, Eq)]
pub struct Hello {
    /// The participant that it serves, if any.
    pub participant: Option<ParticipantName>,
    /// The process.
    pub instance: InstanceId,
    /// What it speaks.
    pub protocol_version: u32,
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
        let Self { participant, instance, protocol_version, token, one_phase, sdk, voter } = self;
        f.debug_struct("Hello")
            .field("participant", participant)
            .field("instance", instance)
            .field("protocol_version", protocol_version)
            .field("token", &if token.is_empty() { "none" } else { "given" })
            .field("one_phase", one_phase)
            .field("sdk", sdk)
            .field("voter", voter)
            .finish()
    }
}

/// A request to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Answered with it.
    pub request_id: u64,
    /// Which.
    pub gtid: Gtid,
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
        /// Which.
        gtid: Gtid,
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
        /// Which.
        gtid: Gtid,
        /// Whose order.
        epoch: Epoch,
    },
    /// Abort.
    AbortBranch {
        /// Which.
        gtid: Gtid,
        /// Whose order.
        epoch: Epoch,
    },
    /// Execute a saga step.
    ExecuteStep {
        /// The step.
        order: StepOrder,
        /// What the steps before it gave.
        outputs: Vec<(Name, Bytes)>,
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
        request: Request,
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

/// A request that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} [{reason}]")]
pub struct Refused {
    /// The gRPC status code that a unary call would have had.
    pub code: tonic::Code,
    /// Stable, upper snake case: `google.rpc.ErrorInfo`'s reason in domain `assent`.
    pub reason: String,
    /// What is wrong and what to do next.
    pub message: String,
    /// When a retry makes sense, in milliseconds; `None` where it never does.
    pub retry_after_ms: Option<u64>,
}

/// A message that says something impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {message}: {problem}")]
pub struct Malformed {
    /// Which message.
    pub message: &'static str,
    /// What is wrong with it, and what it should have been.
    pub problem: String,
    /// The request that can be answered with it, if it is one.
    pub request_id: Option<u64>,
}

#[cfg(test)]
pub(crate) mod tests;
