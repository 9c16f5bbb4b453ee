//! Two-phase commit: [`TwoPhase`](assent_protocol::two_phase::TwoPhase) and [`Branch`](assent_protocol::branch::Branch).

mod cells;
mod judge;
mod log;
#[cfg(test)]
mod model;
pub(crate) mod swarm;
pub(crate) mod world;
