//! The look for branches that were left prepared.
//!
//! An agent starts with the branches that its participant lists as in doubt. Afterwards another
//! instance may prepare a branch and be gone for good, and the coordinator and the initiator may
//! have forgotten the transaction: then no process tells how the branch ends, and it keeps its
//! locks. So every agent looks again, on every new session and at an interval, and asks about the
//! branches that it finds.
//!
//! A look lists twice. Most branches of the first list are at work in another instance, which is
//! about to vote or to enlist them; a branch that is still there after a grace, and not in this
//! agent's memory, counts as left behind. The agent only inquires: the coordinator decides, and
//! presumes an abort of a transaction that it does not know. The grace keeps it from being asked
//! about a branch whose vote or enlistment is on its way. The two lists show the age of a branch,
//! so a participant need not know when it was prepared.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::branches::Machine;
use super::timers::Timer;
use super::{Agent, Notice};
use crate::branch::{Event, State};
use crate::ids::{BranchId, BranchKey};
use crate::three_phase::{VoterRecord, participant};

/// How long after a look that failed the next one begins, at most, in milliseconds.
const RETRY_MAX_MS: u64 = 10_000;

/// The look: one at a time.
#[derive(Clone, Debug)]
pub(super) struct Look {
    interval_ms: u64,
    grace_ms: u64,
    stage: Stage,
    /// Another one is to begin as soon as this one is over.
    is_wanted: bool,
    /// The shell has yet to ask for the list.
    is_listing_due: bool,
}

#[derive(Clone, Debug)]
enum Stage {
    /// Until the timer is due.
    Resting,
    /// The first list was asked for.
    Listing,
    /// These were in the first list. They are given their grace.
    Waiting(BTreeSet<BranchKey>),
    /// The second list was asked for.
    ListingAgain(BTreeSet<BranchKey>),
}

impl Look {
    pub(super) fn new(interval_ms: u64, grace_ms: u64) -> Self {
        Self { interval_ms, grace_ms, stage: Stage::Resting, is_wanted: false, is_listing_due: false }
    }

    pub(super) fn take_listing(&mut self) -> bool {
        std::mem::take(&mut self.is_listing_due)
    }
}

impl Agent {
    /// What stands in the resource, and in the voter's store, when the process starts.
    pub(super) fn found(&mut self, doubts: Vec<BranchKey>, records: Vec<VoterRecord>) {
        // A branch without a record may have voted in two phases, and nothing here can tell: it
        // waits to be told.
        for key in &doubts {
            self.found_in_doubt(*key, None);
        }
        for record in &records {
            let found = doubts.iter().find(|key| key.gtid == record.gtid);
            self.revive(record, found.map_or(BranchId::NONE, |key| key.id), None);
        }
        if self.serves_branches {
            self.timers.set_about(Timer::Look, self.look.interval_ms);
        }
        self.read_records_later();
    }

    /// A new session: every branch in doubt asks for its decision.
    pub(super) fn ask_about_doubts(&mut self) {
        for key in self.branches.in_order() {
            self.ask_about_doubt(key);
        }
    }

    /// The branch asks for its decision, if it is in doubt.
    pub(super) fn ask_about_doubt(&mut self, key: BranchKey) {
        match self.branches.entries.get(&key).map(|entry| &entry.machine) {
            Some(Machine::TwoPhase(_)) => self.two_phase_event(key, Event::SessionUp),
            Some(Machine::ThreePhase(_)) => self.three_phase_event(key.gtid, participant::Event::SessionUp),
            None => {}
        }
    }

    // ---- one look after the other ----------------------------------------------------------------------------------

    /// There is a reason to look now.
    pub(super) fn want_look(&mut self) {
        if !self.serves_branches {
            return;
        }
        match self.look.stage {
            Stage::Resting => {
                self.timers.cancel(Timer::Look);
                self.look_due();
            }
            Stage::Listing | Stage::Waiting(_) | Stage::ListingAgain(_) => self.look.is_wanted = true,
        }
    }

    pub(super) fn look_due(&mut self) {
        self.look.stage = match std::mem::replace(&mut self.look.stage, Stage::Listing) {
            Stage::Resting => Stage::Listing,
            Stage::Waiting(before) => Stage::ListingAgain(before),
            // The list is under way.
            stage @ (Stage::Listing | Stage::ListingAgain(_)) => {
                self.look.stage = stage;
                return;
            }
        };
        self.look.is_listing_due = true;
    }

    /// The participant has listed its branches in doubt, or could not.
    pub(super) fn listed(&mut self, listed: Option<Vec<BranchKey>>) {
        let interval_ms = self.look.interval_ms;
        match (std::mem::replace(&mut self.look.stage, Stage::Resting), listed) {
            (Stage::Listing, Some(first)) if !first.is_empty() => {
                self.look.stage = Stage::Waiting(first.into_iter().collect());
                self.timers.set(Timer::Look, self.look.grace_ms, 0);
            }
            (Stage::Listing, Some(_)) => self.rest(interval_ms),
            (Stage::ListingAgain(before), Some(mut again)) => {
                again.retain(|key| before.contains(key));
                self.left_prepared(again);
                self.rest(interval_ms);
            }
            (Stage::Listing | Stage::ListingAgain(_), None) => self.rest(interval_ms.min(RETRY_MAX_MS)),
            // Nothing was asked for.
            (stage @ (Stage::Resting | Stage::Waiting(_)), _) => self.look.stage = stage,
        }
    }

    fn rest(&mut self, interval_ms: u64) {
        if std::mem::take(&mut self.look.is_wanted) {
            return self.look_due();
        }
        self.timers.set_about(Timer::Look, interval_ms);
    }

    // ---- what a look has found -------------------------------------------------------------------------------------

    /// These have been prepared for longer than the grace. What this agent does not know is taken
    /// up, once its voter's record is known: without it a branch of three phases might be taken for
    /// one of two.
    fn left_prepared(&mut self, found: Vec<BranchKey>) {
        if self.is_shutting_down {
            return;
        }
        for key in found {
            if self.branches.entries.contains_key(&key) {
                continue;
            }
            if self.has_voter() {
                self.look_up(key.gtid).left.push(key.id);
            } else {
                self.take_up(key, None);
            }
        }
    }

    /// Takes up a branch that was left prepared, and asks about it.
    pub(super) fn take_up(&mut self, key: BranchKey, record: Option<&Arc<VoterRecord>>) {
        if self.is_shutting_down || self.branches.entries.contains_key(&key) {
            return;
        }
        // The voter may have voted for another branch of the transaction.
        let record = record.filter(|record| self.recorded_branch(record, key.id) == key);
        self.notices.push(Notice::LeftPrepared { key, has_voted: record.is_some() });
        self.found_in_doubt(key, None);
        match record {
            Some(record) => self.revive(record, key.id, None),
            None => {
                if let Some(entry) = self.branches.entries.get_mut(&key) {
                    entry.is_left_behind = true;
                }
            }
        }
        self.ask_about_doubt(key);
    }

    /// An order to prepare a branch that a look has found. The instance that prepared it may live
    /// after all, and may have rolled it back since: memory is no ground for a yes. The branch is
    /// met as one that is not known, and the hook finds out what stands in the resource.
    pub(super) fn doubt_what_was_left(&mut self, key: BranchKey) {
        if let Some(entry) = self.branches.entries.get(&key)
            && entry.is_left_behind
            && let Machine::TwoPhase(machine) = &entry.machine
            && machine.state() == State::InDoubt
        {
            self.forget(key);
        }
    }
}
