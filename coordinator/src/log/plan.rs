//! What a batch asks of the storage, sorted by kind of write.

use std::collections::{BTreeMap, BTreeSet};

use assent_protocol::record::{Attempted, Decided, Delegated, Ended, Record, SagaStarted, SagaStep};
use assent_protocol::saga::StepIndex;
use assent_protocol::three_phase::{VoterName, VoterState};
use assent_protocol::{Gtid, Protocol};

use super::Batch;

/// The writes of one batch: at most one for each row of each table, so that they can be made by one
/// statement each, in any order.
#[derive(Debug, Default)]
pub(super) struct Plan<'a> {
    /// Inserts into the open table; first writer wins. Over the appender's own delegation it is an
    /// update.
    pub(super) decisions: Vec<&'a Decided>,
    /// Inserts into the open table, without a decision; first writer wins.
    pub(super) delegations: Vec<&'a Delegated>,
    /// Inserts into the open table, without a decision; first writer wins.
    pub(super) attempts: Vec<&'a Attempted>,
    /// Updates of the appender's own rows without a decision: they get the one that their voters
    /// agreed on. The first of each row.
    pub(super) agreements: Vec<&'a Decided>,
    /// Updates of the appender's own rows without a decision: the log moves on as a voter. The
    /// first of each row.
    pub(super) votes: Vec<Vote>,
    /// Inserts into the open table; first writer wins.
    pub(super) starts: Vec<&'a SagaStarted>,
    /// Updates of open sagas.
    pub(super) changes: Vec<Change<'a>>,
    /// Answers of steps of open sagas, in no particular order; the latest of each step.
    pub(super) steps: Vec<&'a SagaStep>,
    /// Moves from the open table to history.
    pub(super) ends: Vec<&'a Ended>,
    /// Inserts into history of what never had an open row.
    pub(super) unopened: Vec<&'a Ended>,
    /// Whether something was left out for an end in the same batch.
    pub(super) is_subsumed: bool,
    /// Whether an agreement or a vote was left out: for another one of the same transaction, or
    /// because it cannot be one.
    pub(super) is_contradictory: bool,
}

/// How many rows a storage wrote.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    /// Decisions, delegations, attempts and starts that were inserted, and delegations that got a
    /// decision.
    pub(super) opened: u64,
    /// 3PCs that got the decision that was agreed on.
    pub(super) agreed: u64,
    /// 3PCs in which the log moved on as a voter.
    pub(super) voted: u64,
    /// Sagas that were turned, paused or resumed.
    pub(super) changed: u64,
    /// Answers of steps that were kept.
    pub(super) stepped: u64,
    /// Rows that moved to history. A storage may leave out those of 2PC, whose end nobody waits
    /// for.
    pub(super) ended: u64,
}

impl Written {
    /// Whether it follows from the numbers alone that every forced record is durable and came
    /// first. If not, one has to look what stands.
    pub(super) fn settles(&self, batch: &Batch, plan: &Plan<'_>) -> bool {
        let all = |written: u64, wanted: usize| u64::try_from(wanted).is_ok_and(|wanted| written == wanted);
        let openings = plan.decisions.len() + plan.delegations.len() + plan.attempts.len() + plan.starts.len();
        let opened = all(self.opened, openings);
        let ended = all(self.ended, plan.ends.len());
        let changed = all(self.changed, plan.changes.len()) && (ended || !plan.is_subsumed);
        let stepped = all(self.stepped, plan.steps.len()) && (ended || !plan.is_subsumed);
        batch.forced.iter().all(|record| match record {
            Record::Decided(_) | Record::Delegated(_) | Record::Attempted(_) | Record::SagaStarted(_) => opened,
            Record::Agreed(_) => all(self.agreed, plan.agreements.len()) && !plan.is_contradictory,
            Record::Voter(_) => all(self.voted, plan.votes.len()) && !plan.is_contradictory,
            Record::SagaTurned(_) | Record::SagaPaused(_) => changed,
            Record::SagaStep(_) => stepped,
            Record::Ended(end) => ended && end.has_open_row,
        })
    }
}

/// A move of the log as a voter, from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vote {
    /// In whose row.
    pub(super) gtid: Gtid,
    /// What has to stand there.
    pub(super) before: VoterState,
    /// What stands there from now on.
    pub(super) state: VoterState,
}

/// What becomes of an open saga's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change<'a> {
    /// Whose row.
    pub(super) gtid: Gtid,
    /// It turns back, for this reason.
    pub(super) turned: Option<&'a str>,
    /// It is paused with this remedy, or resumed.
    pub(super) paused: Option<Option<&'a str>>,
}

impl<'a> Plan<'a> {
    /// Sorts a batch. What a transaction's end makes superfluous is left out: its end carries all
    /// that history keeps.
    pub(super) fn new(batch: &'a Batch) -> Self {
        let mut plan = Self::default();
        let mut ended = BTreeSet::new();
        let mut changes: BTreeMap<Gtid, Change<'a>> = BTreeMap::new();
        let mut agreements: BTreeMap<Gtid, &'a Decided> = BTreeMap::new();
        let mut votes: BTreeMap<Gtid, Vote> = BTreeMap::new();
        let mut steps: BTreeMap<(Gtid, StepIndex, bool), &'a SagaStep> = BTreeMap::new();
        // Lazy records first: those that were queued behind a forced one of the same saga could not
        // have been emitted before its receipt, so within one batch they are the older ones.
        for record in batch.lazy.iter().chain(&batch.forced) {
            match record {
                Record::Decided(decided) => plan.decisions.push(decided),
                Record::Delegated(delegated) => plan.delegations.push(delegated),
                Record::Attempted(attempted) => plan.attempts.push(attempted),
                Record::Voter(vote) => {
                    // A participant's voter has its store elsewhere, and the log's own has a state
                    // from its first record on.
                    if let (VoterName::Log, Some(before)) = (&vote.voter, vote.before) {
                        votes.entry(vote.gtid).or_insert(Vote { gtid: vote.gtid, before, state: vote.state });
                    }
                }
                Record::Agreed(decided) => {
                    agreements.entry(decided.gtid).or_insert(decided);
                }
                Record::SagaStarted(started) => plan.starts.push(started),
                Record::SagaTurned(turned) => {
                    change(&mut changes, turned.gtid).turned.get_or_insert(&turned.reason);
                }
                Record::SagaPaused(paused) => {
                    change(&mut changes, paused.gtid).paused = Some(paused.remedy.as_deref());
                }
                Record::SagaStep(step) => {
                    steps.insert((step.gtid, step.step, step.compensation), step);
                }
                Record::Ended(end) => {
                    // A 2PC's end is none of a saga's row: one that only presumes, of a gtid that
                    // it does not know, ends nothing.
                    if ended.insert((end.gtid, end.protocol == Protocol::Saga)) {
                        if end.has_open_row { plan.ends.push(end) } else { plan.unopened.push(end) }
                    }
                }
            }
        }
        let is_over = |gtid: &Gtid| ended.contains(&(*gtid, true));
        plan.is_subsumed = changes.keys().any(is_over) || steps.keys().any(|(gtid, _, _)| is_over(gtid));
        votes.retain(|gtid, _| !agreements.contains_key(gtid));
        plan.agreements = agreements.into_values().collect();
        plan.votes = votes.into_values().collect();
        let is_agreement_or_vote = |record: &&Record| matches!(record, Record::Agreed(_) | Record::Voter(_));
        let wanted = batch.lazy.iter().chain(&batch.forced).filter(is_agreement_or_vote).count();
        plan.is_contradictory = wanted != plan.agreements.len() + plan.votes.len();
        plan.changes = changes.into_values().filter(|change| !is_over(&change.gtid)).collect();
        plan.steps = steps.into_values().filter(|step| !is_over(&step.gtid)).collect();
        plan
    }

    /// The gtids whose history has to be looked at before the insert: an ended transaction's
    /// decision stands too.
    pub(super) fn newcomers(&self) -> impl Iterator<Item = Gtid> + Clone {
        let decisions = self.decisions.iter().map(|decided| decided.gtid);
        let delegations = self.delegations.iter().map(|delegated| delegated.gtid);
        let attempts = self.attempts.iter().map(|attempted| attempted.gtid);
        let starts = self.starts.iter().map(|started| started.gtid);
        decisions.chain(delegations).chain(attempts).chain(starts).chain(self.unopened.iter().map(|ended| ended.gtid))
    }

    /// When newcomers can have ended, if they have: how far history has to be looked at, in Unix
    /// milliseconds, both ends included.
    pub(super) fn newcomers_ended_ms(&self, at_ms: u64) -> (u64, u64) {
        let decisions = self.decisions.iter().map(|decided| decided.begun_at_ms);
        let starts = self.starts.iter().map(|started| started.begun_at_ms);
        let delegations = self.delegations.iter().map(|delegated| delegated.begun_at_ms);
        let attempts = self.attempts.iter().map(|attempted| attempted.begun_at_ms);
        let begun = decisions
            .chain(delegations)
            .chain(attempts)
            .chain(starts)
            .chain(self.unopened.iter().map(|ended| ended.begun_at_ms));
        let since = begun.chain(self.newcomers().map(|gtid| gtid.minted_at_ms())).min().unwrap_or(0);
        (since.saturating_sub(CLOCK_SKEW_MAX_MS), at_ms.saturating_add(CLOCK_SKEW_MAX_MS))
    }
}

fn change<'a, 'm>(changes: &'m mut BTreeMap<Gtid, Change<'a>>, gtid: Gtid) -> &'m mut Change<'a> {
    changes.entry(gtid).or_insert(Change { gtid, turned: None, paused: None })
}

/// How far the clocks of replicas may be apart for the first decision to be found in history too,
/// in milliseconds.
pub(super) const CLOCK_SKEW_MAX_MS: u64 = 3_600_000;
