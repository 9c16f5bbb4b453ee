//! Sagas: a DAG of steps, and compensations in reverse order (Garcia-Molina and Salem, *Sagas*,
//! 1987).
//!
//! [`Saga`] is the coordinator's machine. `machine.rs` holds the transition table and the way in;
//! the transitions themselves:
//!
//! | file | subject |
//! |---|---|
//! | `attempt.rs` | one attempt of an action or a compensation: sent, answered, lost, timed out, due again |
//! | `forward.rs` | what starts when; which results are forced |
//! | `turn.rs` | when a saga turns back, and why a pivot in flight is waited for |
//! | `compensate.rs` | the way back |
//! | `append.rs` | what the log's answer sets free; the end |
//! | `request.rs` | callers: starts asked for again, waiting, the initiator's abort |
//! | `pause.rs` | stopping for a human, and going on |
//! | `recover.rs` | from what the log kept to a machine that goes on |
//! | `view.rs` | what status displays show |
//! | `invariant.rs` | what must hold after every event |
//!
//! # What the machine relies on
//! I10, a net effect of 0 or 1 for every step, is kept by both sides together. A participant has to
//! see to it that, for one (gtid, step):
//! 1. an action takes effect once: a later attempt of a done action is answered `Done` with the
//!    same output;
//! 2. a compensation of an action that is done undoes it, once; of one that is not done it does
//!    nothing, is answered `Done` all the same, and from then on the action does nothing, whenever
//!    it arrives;
//! 3. a refusal means that no attempt that arrived before it took effect. It need not be
//!    remembered: a later attempt may succeed;
//! 4. a *final* refusal means more: it is durable that no attempt up to the refused one takes
//!    effect, whenever it arrives. Attempts are ordered by their epochs, and within one epoch by
//!    their numbers. A later attempt may succeed.
//!
//! No step has to be refused finally, but a pivot of which an earlier attempt has no known outcome
//! is asked until it is done or finally refused.
//!
//! The SDK's barrier does this within the participant's own database transaction. The driver in
//! turn hands every message to at most one instance at most once, carries the epoch in it, and
//! drops answers that carry another epoch.
#![deny(clippy::wildcard_enum_match_arm)]

mod append;
mod attempt;
mod compensate;
mod definition;
mod effect;
mod event;
mod forward;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
pub mod invariant;
mod machine;
mod pause;
mod recover;
mod request;
mod step;
#[cfg(test)]
mod tests;
mod turn;
mod view;

pub use definition::{Definition, InvalidDefinition, StepDefinition, StepIndex, StepResult};
pub use effect::{Effect, Reply};
pub use event::{CONNECTION_LOST, Event, NOT_CONNECTED, OUTPUT_TOO_LARGE, TIMED_OUT, Timer, Wait};
pub use machine::{Saga, Stage};
pub use recover::{Kept, Unrecoverable};
pub use view::{StepState, StepView, View, WaitsFor};
