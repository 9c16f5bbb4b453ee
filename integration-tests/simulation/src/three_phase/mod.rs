//! Three-phase commit: [`Voter`](assent_protocol::three_phase::Voter) and [`Leader`](assent_protocol::three_phase::Leader) in every way within bounds.
//! The machines of both sides around them run under the swarm, in `cluster`.

mod model;
