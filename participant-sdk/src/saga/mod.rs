//! Sagas: the builder for initiators, the hooks for participants.

mod builder;
mod outcome;
mod participant;
mod retry;
mod running;

pub use builder::{InvalidSaga, SagaBuilder, StepBuilder, StepHandle, Untyped};
pub use outcome::{InvalidOutput, NotCompleted, Outputs, SagaOutcome};
pub use participant::{Compensated, Executed, SagaParticipant, Step};
pub use retry::Retry;
