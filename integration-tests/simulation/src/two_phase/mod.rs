//! Two-phase commit: [`TwoPhase`](assent_protocol::two_phase::TwoPhase) and [`Branch`](assent_protocol::branch::Branch).

mod cells;
mod judge;
mod log;
mod model;
mod world;
