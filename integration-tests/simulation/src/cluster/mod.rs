//! A whole system under the swarm: processes of the coordinator, several instances of each
//! participant, and an initiator.
//!
//! The coordinator's side is the [`Replica`](assent_protocol::replica::Replica) that the server
//! runs: what an unknown gtid means, who is told what after the end, and what recovery takes up is
//! decided by the shipped code, and by nothing here. The participants' side is the branch's
//! machine, driven as the SDK drives it, and steps behind a barrier.
//!
//! | file | subject |
//! |---|---|
//! | `log` | the log: first writer wins, fenced writers never do |
//! | `session` | ordered streams between a process and a replica, which break and lose what was under way |
//! | `node` | a process of the coordinator: a replica, its timers, and its dealings with the log |
//! | `bank` | a participant: its database, and its instances with their branches and hooks |
//! | `steps` | the steps of sagas at a participant, and what must hold of them |
//! | `initiator` | the process that asks: its requests, their repetitions, and what it concludes |
//! | `world` | all of them, and the steps that they can take |
//! | `judge` | what must never be, and what must be in the end |
//! | `swarm` | how a seed draws its faults |
//! | `cells` | what a replica knows of a gtid, crossed with what it is told |

mod bank;
mod cells;
mod initiator;
mod judge;
mod log;
mod node;
mod session;
mod steps;
mod swarm;
pub(crate) mod world;
