//! Take part in Assent transactions.
//!
//! | you want to | look at |
//! |---|---|
//! | change several services' data together | [`Assent::transaction`], [`Assent::begin`] |
//! | run steps with compensations | [`Assent::saga`] |
//! | be a participant | [`Participant`], [`SagaParticipant`] |
//! | be one whose data is in Postgres | [`postgres`] |
//! | carry the transaction through HTTP and gRPC calls | [`propagation`] |

mod participant;
pub mod saga;

pub use assent_protocol::{AbortCode, AbortReason, Gtid, InvalidName, Name, ParticipantName, RetryPolicy};
pub use participant::{Branch, BoxError, Coordinator, Heuristic, Participant, Vote};
pub use saga::{Compensated, Executed, SagaParticipant, Step};
