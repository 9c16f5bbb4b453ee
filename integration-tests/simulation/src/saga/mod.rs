//! Sagas: [`Saga`](assent_protocol::saga::Saga).

mod cells;
mod judge;
mod log;
#[cfg(test)]
mod model;
pub(crate) mod swarm;
pub(crate) mod world;
