//! Ends that found nothing to end.
//!
//! An order to commit or abort comes again until it is acknowledged, so one that finds no prepared
//! transaction is mostly a repetition. But somebody may have ended the branch by hand, the other
//! way. With a record the database tells the two apart. Without one, this process tells what it has
//! ended itself, for as long as it remembers; the rest is a hazard: taken for a repetition, counted
//! and logged.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use assent_protocol::{BranchKey, BranchMap};

use super::ending::End;

/// How many orders found no prepared transaction, with nothing to tell whether the branch had ended
/// that way; since the resource was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hazards {
    /// Orders to commit. Someone may have rolled the branch back by hand, or lost it with the
    /// database.
    pub commits: u64,
    /// Orders to abort. Someone may have committed the branch by hand; mostly it never was
    /// prepared.
    pub aborts: u64,
}

/// How many ends a process remembers.
const REMEMBERED_MAX: usize = 10_000;

/// What this process has ended, and what it could not tell.
#[derive(Debug, Default)]
pub(super) struct Ends {
    remembered: Mutex<Remembered>,
    commits: AtomicU64,
    aborts: AtomicU64,
}

#[derive(Debug, Default)]
struct Remembered {
    ends: BranchMap<End>,
    /// The oldest first.
    order: VecDeque<BranchKey>,
}

impl Ends {
    /// This process has ended the branch as it was ordered to. What it rolls back by itself says
    /// nothing of the branch: another instance may have prepared it since.
    pub(super) fn remember(&self, key: BranchKey, end: End) {
        // It is whole after every change, but for the age of one end.
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.ends.insert(key, end).is_some() {
            return;
        }
        remembered.order.push_back(key);
        if remembered.order.len() > REMEMBERED_MAX
            && let Some(oldest) = remembered.order.pop_front()
        {
            remembered.ends.remove(&oldest);
        }
    }

    /// How a branch without a record has ended that is to end this way and is not prepared. A
    /// hazard where nobody knows: then as ordered.
    pub(super) fn of_unrecorded(&self, key: BranchKey, ordered: End) -> End {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = remembered.ends.get(&key) {
            return *end;
        }
        let count = match ordered {
            End::Commit => &self.commits,
            End::RollBack => &self.aborts,
        };
        count.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            gtid = %key.gtid,
            branch = %key.id,
            ordered = ordered.name(),
            "an end finds no prepared branch, and no record tells how it ended: it is taken to have ended as ordered"
        );
        ordered
    }

    pub(super) fn hazards(&self) -> Hazards {
        Hazards { commits: self.commits.load(Ordering::Relaxed), aborts: self.aborts.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use assent_protocol::{BranchId, Gtid};

    use super::*;

    fn branch() -> BranchKey {
        BranchKey { gtid: Gtid::new(uuid::Uuid::now_v7()).expect("a UUID of version 7"), id: BranchId::NONE }
    }

    #[test]
    fn as_many_ends_are_remembered_as_there_is_room_for() {
        let (ends, first, last) = (Ends::default(), branch(), branch());
        ends.remember(first, End::Commit);
        assert_eq!(ends.of_unrecorded(first, End::RollBack), End::Commit);
        for _ in 1..REMEMBERED_MAX {
            ends.remember(branch(), End::Commit);
        }
        assert_eq!(ends.hazards(), Hazards::default());
        for _ in 0..2 {
            ends.remember(last, End::RollBack);
        }
        assert_eq!(ends.of_unrecorded(last, End::Commit), End::RollBack);
        assert_eq!(ends.of_unrecorded(first, End::RollBack), End::RollBack);
        assert_eq!(ends.hazards(), Hazards { commits: 0, aborts: 1 });
        assert_eq!(ends.remembered.lock().expect("not poisoned").ends.len(), REMEMBERED_MAX);
    }
}
