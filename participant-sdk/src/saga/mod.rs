//! Sagas: the builder for initiators, the hooks for participants.

mod participant;

pub use participant::{Compensated, Executed, SagaParticipant, Step};
