//! The wire of Assent: the code generated from `assent/v1/*.proto`, and strict types for what it says.
//!
//! Generated types stay at the edge. A receiver parses each message once into the types of [`session`], and a sender
//! converts back; see there for the rule, and [`voter`] for what the voters of three-phase transactions say. Errors are those of [`error`], on sessions and unary calls alike; [`context`] is
//! what travels in the headers of other calls. [`FILE_DESCRIPTOR_SET`] serves gRPC reflection.
//!
//! Nothing here does I/O, and nothing that a peer sends makes it panic.

pub mod context;
pub mod error;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod identity;
pub mod session;
pub mod text;
pub mod voter;

/// The generated code of package `assent.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("assent.v1");
}

/// The compiled descriptors of every .proto file, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
