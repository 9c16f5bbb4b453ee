//! Three-phase commit: [`Voter`](assent_protocol::three_phase::Voter) and [`Leader`](assent_protocol::three_phase::Leader) in every way within bounds,
//! and the machines of both sides around them under the swarm.

mod cells;
mod log;
#[cfg(test)]
mod model;
pub(crate) mod swarm;
pub(crate) mod world;
