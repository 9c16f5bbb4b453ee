//! Three-phase commit that survives partitions: E3PC.
//!
//! The protocol is that of Keidar and Dolev, *Increasing the Resilience of Distributed and Replicated Database Systems* (1998): a quorum of
//! voters that reach one another ends the transaction, although the coordinator and its log are gone. The voters are the
//! participants and the log, as one more. Each keeps durably where it stands, the last ballot that it joined, and the last under which it accepted
//! a proposal, and makes every change durable before it answers.
//!
//! | machine | lives | what it does |
//! |---|---|---|
//! | [`Voter`] | for one request, beside a participant's store or the log | joins, accepts, refuses |
//! | [`Leader`] | within one of the next two | leads an attempt, or an election and its attempt |
//! | [`Coordinator`] | in the coordinator | two-phase commit, whose decision to commit is agreed by the voters |
//! | [`Participant`] | in a participant | a branch that votes once its voter has, and leads when nobody else does |
//!
//! What it costs: one more round trip and one more forced write for each voter than two-phase commit. What it cannot do: a minority
//! waits; two voters, which is to say one participant, tolerate no loss; a voter that lost its durable state never votes again.

#![deny(clippy::wildcard_enum_match_arm)]

pub mod ballot;
pub mod cells;
pub mod coordinator;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
pub mod invariant;
pub mod leader;
pub mod participant;
pub mod roster;
pub mod voter;

#[cfg(test)]
mod tests;

pub use ballot::{Ballot, NodeId};
pub use coordinator::Coordinator;
pub use leader::Leader;
pub use participant::Participant;
pub use roster::{InvalidAddress, InvalidRoster, PeerAddress, Roster, Seat, StoreId, VoterName};
pub use voter::{Answer, Bar, Proposal, Request, Standing, Voter, VoterRecord, VoterState};
