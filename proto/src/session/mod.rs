//! What a session says, in strict types: what the generated types leave open is checked once, here at the edge.
//!
//! A receiver turns each generated message into [`FromClient`] or [`FromReplica`] with `TryFrom`; a sender builds these and
//! turns them into the generated ones with `From`. Nothing behind this edge sees a gtid of the wrong length, a name that
//! breaks the rule, or an absent `oneof`.
//!
//! What is refused here, beyond a gtid or name that is none: an absent `oneof` or branch id, an enum
//! number that this version does not know, an attempt or an epoch of zero, a participant's instance
//! of zero, and a saga that is no DAG. Texts that a client sends for people are made
//! [one line](crate::text::one_line), since they are logged, stored and sent on.
//!
//! | file | subject |
//! |---|---|
//! | `from_client` | the client's messages, both ways |
//! | `from_replica` | the replica's messages, both ways |
//! | `saga` | definitions and retry policies: `after` names steps on the wire, and numbers them behind it |
//! | `shared` | gtids, branch ids, epochs, verdicts, outcomes, reasons |

mod from_client;
mod from_replica;
mod roster;
mod saga;
mod shared;

pub use assent_protocol::message::{
    Ask, BranchReport, Code, Commit, Expected, FORGOTTEN_MAX, FRAME_BYTES_MAX, FromClient, FromReplica, Hello,
    PROTOCOL_VERSION, PROTOCOL_VERSIONS, Reason, Refused, Reply, Request, StepAnswer, StepOrder, VoterMessage,
    VoterPlace, VoterReport, Welcome,
};

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
