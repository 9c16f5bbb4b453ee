//! Three-phase commit: participants that end a transaction without the coordinator.
//!
//! A participant with a *voter* may be named in three-phase transactions. The voter is where it keeps durably how it voted, and what it
//! has accepted since; a quorum of such voters, with the coordinator's log as one more, decides. The three hooks stay the same.
//!
//! ```no_run
//! use assent_sdk::voter::FileVoters;
//! # use assent_sdk::{Assent, BoxError, Participant, Protocol};
//! # async fn example(bank: impl Participant) -> Result<(), BoxError> {
//! let voters = FileVoters::open("bank-a.voters").await?;
//! let assent = Assent::dial("http://127.0.0.1:7420")
//!     .participant("bank-a", bank)
//!     .voter(voters, "http://10.0.0.7:7421")
//!     .connect()
//!     .await?;
//! // Where the peers reach it: beside the service's own routes, or alone as here.
//! tokio::spawn(assent.serve_peers(tokio::net::TcpListener::bind("0.0.0.0:7421").await?)?);
//!
//! let outcome = assent
//!     .transaction()
//!     .protocol(Protocol::ThreePhase)
//!     .branch_json("bank-a", &("alice", 30))
//!     .branch_json("bank-b", &("bob", 30))
//!     .commit()
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! # Where the state lives
//! In a local file ([`FileVoters`]), or in the participant's own Postgres database (`postgres::PostgresVoters`), which
//! its instances share. The store has an identity, drawn when it is made, and every transaction's roster names it: a voter that comes back
//! with another store has lost its promises, and is not counted again in that transaction.
//!
//! The record is a write of its own, right after the resource has prepared and before the vote leaves; again when the voter accepts what a leader
//! proposes; and again before the resource aborts, or commits without having accepted that. A commit that it has accepted is written by
//! `PostgresVoters` only, for the other instances: whoever loses it finds it again. The record cannot be part of the resource's own transaction: a
//! row that is written inside a prepared transaction is not visible before that commits, and the vote has to be read by an election long before.
//! What a crash leaves in between:
//!
//! | it crashed | there is | afterwards |
//! |---|---|---|
//! | before the resource had prepared | nothing | it never voted; whoever asks for its vote gets a no |
//! | prepared, before the record | a prepared branch without a record | it never voted: as with two phases it waits to be told, and an election that asks it aborts |
//! | the record is there, before the vote left | both | it is in doubt: asked again it votes yes, and an election counts it |
//! | it accepted the commit, the resource not ended | both | it is in doubt: it asks, or leads, and commits |
//! | the outcome is recorded, the resource not ended | both | the hook is called, as the record says |
//! | the resource ended, before the acknowledgement | a record | the hook is called once more, and acknowledges |
//!
//! Records are deleted when the coordinator says that every branch has ended.
//!
//! # What it buys, and what it costs
//! With three voters or more (two participants and the log), the participants end a transaction although the coordinator and its database are
//! gone for good: whoever hears of nobody at work for some seconds leads an election, through [`PeerService`]. It costs one more round trip, and
//! for each participant two forced writes (voted, accepted), shared by whatever runs at the same time. Peers have to reach one another.
//!
//! # What it cannot do
//! A minority waits: of three voters two must reach one another. A transaction with one participant has two voters, and tolerates no loss.
//! A voter whose durable state is lost, or restored from an older backup, never counts again, or worse, breaks its word: the store must be as
//! durable as the resource. A branch that a service has prepared by itself ([early](crate::Assent::enlist)) has not voted before the commit is
//! asked for; until then it waits for the coordinator as with two phases.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod file;
mod own;
mod peers;
pub(crate) mod store;

pub use file::FileVoters;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use file::fuzz;
pub use peers::PeerService;
pub use store::{VoterStore, VoterStoreError};

pub(crate) use own::OwnVoter;
pub(crate) use peers::Peers;

#[cfg(test)]
pub(crate) mod tests;
