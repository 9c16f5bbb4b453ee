//! The look for branches that were left prepared.
//!
//! An engine starts with the branches that its participant lists as in doubt. Afterwards another
//! instance may prepare a branch and be gone for good, and the coordinator and the initiator may
//! have forgotten the transaction: then nobody tells how the branch ends, and it keeps its locks.
//! So every engine looks again, on every new session and every
//! [`Settings::in_doubt_interval`](super::Settings), and asks about what it finds.
//!
//! A look lists twice. Most branches of the first list are at work in another instance, which is
//! about to vote or to enlist them; what is still there after
//! [`Settings::in_doubt_grace`](super::Settings), and not in this engine's memory, counts as left
//! behind. The engine only inquires: the coordinator decides, and presumes an abort of a
//! transaction that it does not know. The grace keeps it from being asked about a branch whose vote
//! or enlistment is on its way. The two lists show the age of a branch, so a participant need not
//! know when it was prepared.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use assent_protocol::BranchKey;
use assent_protocol::branch::State;
use assent_protocol::three_phase::VoterRecord;
use rand::RngExt;
use tokio::sync::Notify;

use super::branches::{Entry, Machine};
use super::link::Outbox;
use super::{AnyParticipant, Done, Engine};
use crate::participant::{BoxError, Coordinator};
use crate::voter::store::AnyStore;

/// What another instance has left prepared, with its voter's record if it has voted in three
/// phases.
pub(super) type Left = (BranchKey, Option<Arc<VoterRecord>>);

/// How long the participant may take to list its branches.
const LIST_MAX: Duration = Duration::from_secs(60);
/// How long after a look that failed the next one begins, at most.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// The task that looks.
struct Look {
    participant: Arc<dyn AnyParticipant>,
    about: Arc<Coordinator>,
    voters: Option<AnyStore>,
    grace: Duration,
}

impl Engine {
    /// Starts the task that looks, one look after the other, for as long as the engine lives. It
    /// tells what it has found as [`Done::Look`].
    pub(super) fn keep_looking(&self) {
        let Some(participant) = self.settings.branches.clone() else { return };
        let look = Look {
            participant,
            about: Arc::clone(&self.shared.coordinator),
            voters: self.shared.voter.as_ref().map(|voter| Arc::clone(voter.store())),
            grace: self.settings.in_doubt_grace,
        };
        let interval = self.settings.in_doubt_interval;
        let (finish, is_wanted) = (self.finish.clone(), Arc::clone(&self.look_is_wanted));
        tokio::spawn(async move {
            let looking = look.again_and_again(interval, &is_wanted, |found| drop(finish.send(Done::Look(found))));
            tokio::select! {
                () = looking => {}
                () = finish.closed() => {}
            }
        });
    }

    /// A look is over. What it has found and this engine does not know is taken up, and asked
    /// about.
    pub(super) fn looked(&mut self, outbox: &mut Outbox, found: Vec<Left>) {
        if self.is_shutting_down {
            return;
        }
        for (key, record) in found {
            if self.branches.entries.contains_key(&key) || self.branches.lookups.contains_key(&key.gtid) {
                continue;
            }
            // The voter may have voted for another branch of the transaction.
            let record = record.filter(|record| self.recorded_branch(record, key.id) == key);
            tracing::info!(gtid = %key.gtid, branch = %key.id, has_voted = record.is_some(), "found a branch that another instance has left prepared; asking about it");
            self.found_in_doubt(key);
            match &record {
                Some(record) => self.found_recorded(record, key.id),
                None => self.mark_left_behind(key),
            }
            self.ask_about_doubt(outbox, key);
        }
    }

    fn mark_left_behind(&mut self, key: BranchKey) {
        if let Some(entry) = self.branches.entries.get_mut(&key) {
            entry.is_left_behind = true;
        }
    }

    /// An order to prepare what a look has found. The instance that prepared it may live after all,
    /// and may have rolled it back since: memory is no ground for a yes. The branch is met as one
    /// that is not known, and the hook finds out what stands in the resource.
    pub(super) fn doubt_what_was_left(&mut self, key: BranchKey) {
        if let Some(Entry { machine: Machine::TwoPhase(machine), is_left_behind: true, .. }) =
            self.branches.entries.get(&key)
            && machine.state() == State::InDoubt
        {
            self.forget(key);
        }
    }
}

impl Look {
    async fn again_and_again(self, interval: Duration, is_wanted: &Notify, tell: impl Fn(Vec<Left>)) {
        let mut next = interval;
        loop {
            let pause = next.mul_f64(rand::rng().random_range(0.75..=1.25));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = is_wanted.notified() => {}
            }
            next = interval;
            match self.left_behind().await {
                Ok(found) if found.is_empty() => {}
                Ok(found) => tell(found),
                Err(error) => {
                    tracing::warn!(
                        error = &*error as &dyn std::error::Error,
                        "branches in doubt cannot be listed; looking again"
                    );
                    next = interval.min(RETRY_MAX);
                }
            }
        }
    }

    async fn left_behind(&self) -> Result<Vec<Left>, BoxError> {
        let before: HashSet<BranchKey> = self.list().await?.into_iter().collect();
        if before.is_empty() {
            return Ok(Vec::new());
        }
        tokio::time::sleep(self.grace).await;
        let mut found = Vec::new();
        for key in self.list().await? {
            if !before.contains(&key) {
                continue;
            }
            let record = match &self.voters {
                Some(voters) => voters.load(key.gtid).await,
                None => Ok(None),
            };
            match record {
                Ok(record) => found.push((key, record)),
                // The next look tries again. Without the record it might be taken for a branch of
                // two phases.
                Err(error) => {
                    tracing::warn!(gtid = %key.gtid, branch = %key.id, error = &error as &dyn std::error::Error, "in doubt, and its voter's record cannot be read");
                }
            }
        }
        Ok(found)
    }

    async fn list(&self) -> Result<Vec<BranchKey>, BoxError> {
        let listing = Arc::clone(&self.participant).in_doubt(Arc::clone(&self.about));
        tokio::time::timeout(LIST_MAX, listing).await?
    }
}
