//! Sagas: [`Saga`](assent_protocol::saga::Saga).

mod cells;
mod judge;
mod log;
mod model;
mod world;
