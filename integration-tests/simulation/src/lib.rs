//! The production machines under a model checker (stateright) and under a swarm of seeds: the log and the network are models, the machines are not.
//!
//! The network loses, repeats and reorders: a message that was sent may arrive at any later time, again, or never. One message is
//! different: an order to prepare, and the request for a saga step's action, arrive at most once, because the driver hands each to one session
//! once. The models also show that this is needed.
//!
//! Every process is killed and started anew at any step. A replica comes back with nothing but the log, a participant with nothing but its
//! database. Timers fire at any step. An append takes effect or not, is answered or not, and may take effect long after its
//! writer has lost the connection, is dead, or is fenced.
//!
//! After every event the machines' own invariants run; after every step those over all processes together. States are sampled, and
//! from each of those the faults stop: then everything has to end (I12).
//!
//! | module | what it does |
//! |---|---|
//! | `cluster` | whole processes: replicas, instances of participants, an initiator; transactions in two phases and three, and sagas |
//! | `two_phase`, `saga`, `three_phase` | single machines, one world for each protocol, with its `model` (every way, within bounds) |
//! | `swarm` | each seed draws its own faults: one way, of any length, through `cluster` |
//! | [`replay`] | steps through one seed |
//! | [`proof`] | what was explored, found and hit, as a table |
//!
//! `ASSENT_DEEP=1 cargo test -p simulation --release -- --nocapture` explores the bounds of the models to their end, or as long as `ASSENT_HOURS` says.

#[cfg(test)]
mod append;
mod cluster;
pub mod proof;
pub mod replay;
#[cfg(test)]
mod saga;
mod shared;
mod swarm;
#[cfg(test)]
mod three_phase;
#[cfg(test)]
mod two_phase;

#[cfg(test)]
pub(crate) fn gtid() -> assent_protocol::Gtid {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("valid")
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the model's log")]
pub(crate) fn attest(record: &assent_protocol::Record) -> assent_protocol::Durable {
    assent_protocol::Durable::attest(record.id())
}
