//! The promises of three-phase commit, one machine at a time; `integration-tests/simulation` has them in worlds.

mod coordinating;
mod found;
mod voting;
