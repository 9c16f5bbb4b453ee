//! Take part in Assent transactions.
//!
//! | you want to | look at |
//! |---|---|
//! | change several services' data together | [`Assent::transaction`], [`Assent::begin`] |
//! | run steps with compensations | [`saga::SagaBuilder`], [`Assent::run_saga`] |
//! | be a participant | [`Participant`], [`SagaParticipant`] |
//! | be one whose data is in Postgres | [`postgres`] |
//! | end transactions without the coordinator | [`voter`] |
//! | carry the transaction through HTTP and gRPC calls | [`propagation`] |
//!
//! Errors leave their causes to `source()`, as is usual; their `Debug`, which `main() -> Result<(), BoxError>` prints, says
//! all of it in one line. [`ErrorChain`] does the same for any error.

mod assent;
mod builder;
mod engine;
mod error;
mod error_chain;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod hosted;
pub mod journal;
mod participant;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod propagation;
pub mod saga;
mod transaction;
mod unary;
mod unreadable;
pub mod voter;

/// Connections, for processes that serve their peers with a server of their own.
pub use assent_transport as transport;

/// The crates whose types this one's API shows, in the versions that fit.
#[cfg(feature = "axum")]
pub use axum;
#[cfg(feature = "postgres")]
pub use sqlx;
pub use tonic;

pub use assent::Assent;
pub use assent_proto::context::Context;
pub use assent_protocol::two_phase::EarlyVote;
pub use assent_protocol::{
    AbortCode, AbortReason, BranchId, BranchKey, Gtid, InvalidName, Name, ParticipantName, RetryPolicy,
};
pub use assent_transport::Dialer;
pub use builder::Builder;
pub use error::{ConnectError, EnlistError, Error};
pub use error_chain::ErrorChain;
pub use participant::{BoxError, Branch, Coordinator, Heuristic, Participant, Vote};
pub use saga::{Compensated, Executed, SagaParticipant, Step};
pub use transaction::{Begin, Outcome, Protocol, Transaction};
pub use unreadable::Unreadable;

/// The examples of the README and of the pages compile.
#[cfg(all(doctest, feature = "postgres"))]
#[doc = include_str!("../../README.md")]
#[doc = include_str!("../../docs/taking-part/carried-work.md")]
#[doc = include_str!("../../docs/taking-part/enlisting.md")]
#[doc = include_str!("../../docs/taking-part/saga.md")]
#[doc = include_str!("../../docs/taking-part/three-phase.md")]
pub struct Readme;
