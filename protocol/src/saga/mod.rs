//! The saga machine.
mod definition;
pub use definition::{Definition, InvalidDefinition, StepDefinition, StepIndex, StepResult};
