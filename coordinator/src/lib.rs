//! Assent, a distributed transaction coordinator.
pub mod access;
pub mod certs;
pub mod cli;
pub mod config;
pub mod driver;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod log;
pub mod server;
pub mod session;
pub mod telemetry;

mod service;
