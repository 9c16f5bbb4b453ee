//! Assent, a distributed transaction coordinator.
pub mod driver;
pub mod log;

mod digest;
