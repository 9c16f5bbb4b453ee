//! The protocols of Assent as pure state machines.
//!
//! A machine takes one event, changes its state, and returns an [`Output`]: the records that must be durable first, and
//! behind them the effects. It never does I/O, reads no clock, draws no random number and iterates over nothing whose order
//! depends on hashing; so the same events give the same outputs in the server, the SDK, a simulator and a model checker.
//!
//! The order of calls, for whoever drives a machine:
//! 1. `let output = machine.handle(event)`.
//! 2. [`Output::split`]: free effects are done at once; held ones wait.
//! 3. The forced records go to the log, lazy ones ride along.
//! 4. The log answers with [`Appended`]: on `Durable` the held effects are released; in both cases the machine is told.
//!
//! | machine | side | rule |
//! |---|---|---|
//! | [`two_phase`] | coordinator | two-phase commit, presumed abort (Mohan, Lindsay, Obermarck 1986) |
//! | [`three_phase`] | both | three-phase commit that survives partitions (Keidar and Dolev 1998) |
//! | [`saga`] | coordinator | sagas (Garcia-Molina and Salem 1987) |
//! | [`branch`] | participant | one branch of a two-phase commit |
//!
//! Around them, [`replica`] decides what a process of the coordinator does with each input, and [`agent`] the same for a
//! process of a participant or an initiator. Their shells do the I/O, and nothing else.

pub mod agent;
pub mod branch;
pub mod digest;
pub mod durable;
pub mod found;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod ids;
pub mod invariant;
pub mod message;
pub mod reason;
pub mod record;
pub mod replica;
pub mod retry;
pub mod saga;
pub mod three_phase;
pub mod two_phase;
pub mod verdict;

pub use durable::{Appended, Durable, Held, Output, Parts};
pub use ids::{
    BodyDigest, BranchId, BranchKey, BranchMap, Caller, Epoch, Gtid, GtidMap, GtidSet, InstanceId, InvalidBranchId,
    InvalidGtid, InvalidName, Name, ParticipantName,
};
pub use reason::{AbortCode, AbortReason, Refusal, Wait};
pub use record::{BranchEnd, Decision, Outcome, Protocol, Record, RecordId, RecordKind};
pub use retry::RetryPolicy;
