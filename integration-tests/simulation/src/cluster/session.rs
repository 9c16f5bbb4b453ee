//! Sessions: ordered streams, which break.

use std::collections::VecDeque;

use assent_protocol::Epoch;
use assent_protocol::message::{FromClient, FromReplica};
use assent_protocol::replica::SessionId;

/// A process that dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Client {
    Initiator,
    Instance { bank: usize, instance: usize },
}

/// One session, from both ends. Each end notices by itself that the session is over, and reads what
/// had arrived before.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) client: Client,
    /// The replica's place, and the life of its process.
    pub(crate) node: usize,
    pub(crate) life: u64,
    /// What its Welcome said.
    pub(crate) epoch: Epoch,
    pub(crate) to_replica: VecDeque<FromClient>,
    pub(crate) to_client: VecDeque<FromReplica>,
    /// The network no longer carries anything.
    pub(crate) is_broken: bool,
    /// The replica has not noticed yet.
    pub(crate) is_open_at_replica: bool,
    /// The client has not noticed yet.
    pub(crate) is_open_at_client: bool,
}

impl Session {
    /// The network breaks: what was under way is lost, but for so many messages to the replica that
    /// it has received already.
    pub(crate) fn breaks(&mut self, arrived: usize) {
        self.is_broken = true;
        self.to_replica.truncate(arrived);
        self.to_client.clear();
    }

    pub(crate) fn is_over(&self) -> bool {
        !self.is_open_at_replica && !self.is_open_at_client
    }
}
