//! A whole system under the swarm: processes of the coordinator, several instances of each
//! participant, and an initiator. Transactions in two phases and three, and sagas.
//!
//! The coordinator's side is the [`Replica`](assent_protocol::replica::Replica) that the server
//! runs: what an unknown gtid means, who is told what after the end, and what recovery takes up is
//! decided by the shipped code, and by nothing here. The participants' side is the branch's
//! machine, driven as the SDK drives it, with a voter's store, and steps behind a barrier.
//!
//! | file | subject |
//! |---|---|
//! | `setup`, `draw` | what a seed begins with, and how it is drawn |
//! | `log` | the log: first writer wins, fenced writers never do |
//! | `session` | ordered streams between a process and a replica, which break and lose what was under way |
//! | `node` | a process of the coordinator: a replica, its timers, and its dealings with the log |
//! | `bank`, `voter` | a participant's database, and what its voter keeps |
//! | `instance`, `voting` | a process of a participant: branches in two phases, and in three |
//! | `steps` | the steps of sagas at a participant, and what must hold of them |
//! | `initiator` | the process that asks: its requests, their repetitions, and what it concludes |
//! | `action`, `world` | all of them, and the steps that they can take |
//! | `progress`, `faults` | which steps are possible: without faults, and with them |
//! | `network`, `replicas`, `participants`, `requests` | what a step does |
//! | `calm` | faults stop, and everything has to end |
//! | `judge`, `ballots` | what must never be, and what must be in the end |
//! | `swarm`, `story` | a seed under the swarm, and in words |
//! | `cells` | what a replica knows of a gtid, crossed with what it is told; tables of three-phase commit |

mod action;
mod ballots;
mod bank;
mod calm;
mod cells;
mod draw;
mod faults;
mod initiator;
mod instance;
mod judge;
mod log;
mod network;
mod node;
mod participants;
mod progress;
mod replicas;
mod requests;
mod session;
mod setup;
mod steps;
mod story;
mod swarm;
#[cfg(test)]
mod tests;
mod voter;
mod voting;
pub(crate) mod world;
