//! A process of the coordinator.

use std::collections::BTreeMap;

use assent_protocol::found::Found;
use assent_protocol::replica::{Batch, Config, Input, Limits, Replica, Timer, TimerChange};
use assent_protocol::three_phase::StoreId;
use assent_protocol::{Appended, Epoch, Gtid, ParticipantName};

#[cfg(debug_assertions)]
use super::cells::THREE_PHASE;

/// A process that lives.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Under which name it writes.
    pub(crate) name: usize,
    /// Which process it is: no two have the same number.
    pub(crate) life: u64,
    pub(crate) epoch: Epoch,
    pub(crate) replica: Replica,
    /// When each timer is due.
    pub(crate) timers: BTreeMap<(Gtid, Timer), u64>,
    /// The batch under way, and the log's answer once there is one.
    pub(crate) append: Option<(Batch, Option<Vec<Appended>>)>,
    /// The question under way.
    pub(crate) question: Option<Question>,
}

/// A look into the log.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) gtids: Vec<Gtid>,
    /// What the log had when it was read.
    pub(crate) found: Option<Vec<(Gtid, Found)>>,
}

/// Small bounds, so that caches forget within a run.
pub(crate) fn limits() -> Limits {
    Limits { timeout_default_ms: 30_000, absence_ms: 5_000, ended_max: 1, ..Limits::default() }
}

impl Node {
    pub(crate) fn start(name: usize, life: u64, epoch: Epoch, known: Vec<ParticipantName>, now_ms: u64) -> Self {
        let config = Config { shard: 0, shards: 1, epoch, limits: limits(), known, log_store: StoreId(1) };
        Self {
            name,
            life,
            epoch,
            replica: Replica::new(config, now_ms),
            timers: BTreeMap::new(),
            append: None,
            question: None,
        }
    }

    /// One input. The messages stay with the replica.
    pub(crate) fn handle(&mut self, now_ms: u64, input: Input) {
        self.replica.handle(now_ms, input);
        let changes: Vec<TimerChange> = self.replica.take_timers().collect();
        for change in changes {
            match change {
                TimerChange::Set { gtid, timer, after_ms, jitter_ms } => {
                    self.timers.insert((gtid, timer), now_ms + after_ms + jitter_ms / 2);
                }
                TimerChange::Cancel { gtid, timer } => {
                    self.timers.remove(&(gtid, timer));
                }
                TimerChange::CancelAll(gtid) => self.timers.retain(|(of, _), _| *of != gtid),
            }
        }
        self.replica.take_changes();
        #[cfg(debug_assertions)]
        for (state, kind) in self.replica.take_cells() {
            THREE_PHASE.hit(state, kind);
        }
    }
}
