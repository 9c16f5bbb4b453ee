//! The log of the world. It stores rows; what it answers to each record is decided by the shipped
//! code.

use std::collections::{BTreeMap, BTreeSet};

use assent_protocol::found::{EndedTransaction, Found, LoggedStep, OpenSaga, OpenTransaction, Owned};
use assent_protocol::record::{Attempted, Decided, Delegated, Ended, SagaStarted, SagaStep};
use assent_protocol::replica::Batch;
use assent_protocol::three_phase::{Roster, VoterState};
use assent_protocol::verdict::{Standing, verdict};
use assent_protocol::{Appended, Decision, Durable, Epoch, Gtid, Outcome, Protocol, Record};

/// What stands in it, and who may write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    pub(crate) open: BTreeMap<Gtid, (Row, Epoch)>,
    pub(crate) ended: BTreeMap<Gtid, Ended>,
    /// What stood in it before each of the last changes, the oldest first: a read may lag behind.
    past: Vec<Rows>,
    /// How each saga ended, and which ones turned back: for ever.
    pub(crate) outcomes: BTreeMap<Gtid, Outcome>,
    pub(crate) turned: BTreeSet<Gtid>,
    /// The epoch of each replica's name that may write.
    owners: BTreeMap<usize, Epoch>,
    /// The transactions whose history was removed.
    pub(crate) removed: BTreeSet<Gtid>,
    last_epoch: u64,
}

type Rows = (BTreeMap<Gtid, (Row, Epoch)>, BTreeMap<Gtid, Ended>);

/// How many changes a read may lag behind.
const LAG_MAX: usize = 4;

/// An open row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Row {
    /// With what the log keeps as a voter, where the decision settled 'attempt 1 sent'.
    Decided(Decided, Option<(Roster, VoterState)>),
    Delegated(Delegated),
    /// With what the log keeps as a voter.
    Attempted(Attempted, VoterState),
    Saga(SagaRow),
}

/// An open saga.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SagaRow {
    started: SagaStarted,
    turned: Option<String>,
    steps: Vec<SagaStep>,
    paused: Option<String>,
}

/// Why nothing was appended: another process has acquired the name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fenced;

impl Log {
    /// A process starts under this name: whoever had it is fenced, and its rows are the new one's.
    pub(crate) fn acquire(&mut self, name: usize) -> Epoch {
        self.last_epoch += 1;
        let epoch = Epoch(self.last_epoch);
        let before = self.owners.insert(name, epoch);
        for (_, owner) in self.open.values_mut() {
            if Some(*owner) == before {
                *owner = epoch;
            }
        }
        epoch
    }

    /// Whether another process has taken over from this epoch.
    pub(crate) fn is_fenced(&self, name: usize, epoch: Epoch) -> bool {
        self.owners.get(&name) != Some(&epoch)
    }

    /// The open rows of an epoch, as its recovery reads them.
    pub(crate) fn open_rows(&self, epoch: Epoch) -> Vec<Owned> {
        self.open.values().filter_map(|row| Owned::by(epoch, Self::open_row(row))).collect()
    }

    fn open_row((row, owner): &(Row, Epoch)) -> OpenTransaction {
        let owner = *owner;
        match row.clone() {
            Row::Decided(record, vote) => {
                let roster = vote.map(|(roster, _)| roster);
                OpenTransaction::Decided { record, roster, decided_at_ms: 0, owner }
            }
            Row::Attempted(record, state) => OpenTransaction::Attempted { record, state, attempted_at_ms: 0, owner },
            Row::Delegated(record) => OpenTransaction::Delegated { record, delegated_at_ms: 0, owner },
            Row::Saga(SagaRow { started, turned, steps, paused }) => {
                let steps = steps.into_iter().map(|record| LoggedStep { record, at_ms: 0 }).collect();
                OpenTransaction::Saga(OpenSaga { started, turned, paused, steps, started_at_ms: 0, owner })
            }
        }
    }

    /// How far a read can lag behind.
    pub(crate) fn lag_max(&self) -> usize {
        self.past.len()
    }

    /// What it has of these transactions, or had so many changes ago.
    pub(crate) fn look_up(&self, gtids: &[Gtid], lag: usize) -> Vec<(Gtid, Found)> {
        let before = self.past.len().checked_sub(lag).and_then(|at| self.past.get(at));
        let (open, ended) = before.map_or((&self.open, &self.ended), |(open, ended)| (open, ended));
        let found = |gtid: &Gtid| match (open.get(gtid), ended.get(gtid)) {
            (Some(row), _) => Some(Found::Open(Self::open_row(row))),
            (None, Some(ended)) => {
                Some(Found::Ended(EndedTransaction { record: ended.clone(), decided_at_ms: None, ended_at_ms: 0 }))
            }
            (None, None) => None,
        };
        gtids.iter().filter_map(|gtid| Some((*gtid, found(gtid)?))).collect()
    }

    /// Appends a batch as a whole, if its writer may still write.
    pub(crate) fn append(&mut self, name: usize, epoch: Epoch, batch: &Batch) -> Result<Vec<Appended>, Fenced> {
        if self.is_fenced(name, epoch) {
            return Err(Fenced);
        }
        let before = (self.open.clone(), self.ended.clone());
        for record in batch.lazy.iter().chain(&batch.forced) {
            self.write(epoch, record);
        }
        if (&before.0, &before.1) != (&self.open, &self.ended) {
            self.past.push(before);
            if self.past.len() > LAG_MAX {
                self.past.remove(0);
            }
        }
        let answer = |record: &Record| {
            let answer = verdict(record, self.standing(record.gtid()).as_ref(), epoch);
            answer.appended(|| attest(record)).expect("what can be written over what stands is written at once")
        };
        Ok(batch.forced.iter().map(answer).collect())
    }

    /// Writes a record, if it may stand where nothing does, or over what stands.
    fn write(&mut self, epoch: Epoch, record: &Record) {
        let gtid = record.gtid();
        if self.ended.contains_key(&gtid) {
            return;
        }
        let new = match (record, self.open.get_mut(&gtid)) {
            (Record::Ended(mine), _) => return self.end(epoch, mine),
            (Record::Decided(mine), None) => Row::Decided(mine.clone(), None),
            (Record::Decided(mine), Some((Row::Delegated(_), owner))) if *owner == epoch => {
                Row::Decided(mine.clone(), None)
            }
            (Record::Delegated(mine), None) => Row::Delegated(mine.clone()),
            (Record::Attempted(mine), None) => Row::Attempted(mine.clone(), VoterState::ATTEMPTED),
            (Record::Agreed(mine), Some((Row::Attempted(attempted, state), owner))) if *owner == epoch => {
                Row::Decided(mine.clone(), Some((attempted.roster.clone(), *state)))
            }
            (Record::Voter(mine), Some((Row::Attempted(_, state), owner)))
                if *owner == epoch && mine.before == Some(*state) =>
            {
                *state = mine.state;
                return;
            }
            (Record::SagaStarted(mine), None) => {
                let (turned, steps, paused) = (None, Vec::new(), None);
                Row::Saga(SagaRow { started: mine.clone(), turned, steps, paused })
            }
            (_, Some((Row::Saga(row), owner))) if *owner == epoch => {
                row.keep(record);
                self.turned.extend(row.turned.as_ref().map(|_| gtid));
                return;
            }
            // What stands is told instead.
            _ => return,
        };
        self.open.insert(gtid, (new, epoch));
    }

    /// A transaction that aborted without a row goes straight to history.
    fn end(&mut self, epoch: Epoch, ended: &Ended) {
        let may_end = match self.standing(ended.gtid) {
            Some(standing) => standing.is_ended_by(ended, epoch),
            None => !ended.has_open_row,
        };
        if may_end {
            self.open.remove(&ended.gtid);
            self.ended.insert(ended.gtid, ended.clone());
            if ended.protocol == Protocol::Saga {
                self.outcomes.insert(ended.gtid, ended.outcome);
            }
        }
    }

    /// What stands about a transaction.
    fn standing(&self, gtid: Gtid) -> Option<Standing> {
        if let Some(ended) = self.ended.get(&gtid) {
            return Some(Standing::Ended { outcome: ended.outcome, members: ended.told_to_commit() });
        }
        let (row, owner) = self.open.get(&gtid)?;
        let owner = *owner;
        Some(match row {
            Row::Decided(record, vote) => Standing::Decided {
                decision: record.decision,
                owner,
                members: record.members.clone(),
                vote: vote.as_ref().map(|(_, state)| *state),
            },
            Row::Delegated(record) => {
                Standing::Delegated { owner, digest: record.digest, member: record.member.clone() }
            }
            Row::Attempted(record, state) => {
                let vote = Some((record.roster.clone(), *state));
                Standing::Attempted { owner, digest: record.digest, vote }
            }
            Row::Saga(row) => Standing::Saga { owner, digest: row.started.digest, has_turned: row.turned.is_some() },
        })
    }

    /// The decision that stands about a transaction with branches.
    pub(crate) fn decision(&self, gtid: Gtid) -> Option<Decision> {
        match self.standing(gtid)? {
            Standing::Decided { decision, .. } => Some(decision),
            Standing::Ended { outcome, .. } => Some(outcome.decision()),
            Standing::Delegated { .. } | Standing::Attempted { .. } | Standing::Saga { .. } | Standing::Unreadable => {
                None
            }
        }
    }

    /// The retention of what has ended is over.
    pub(crate) fn remove_history(&mut self) {
        self.removed.extend(self.ended.keys());
        self.ended.clear();
    }
}

impl SagaRow {
    fn keep(&mut self, record: &Record) {
        match record {
            Record::SagaTurned(turned) => drop(self.turned.get_or_insert_with(|| turned.reason.clone())),
            // The latest answer of each action is kept, and of each compensation.
            Record::SagaStep(step) => {
                self.steps.retain(|known| (known.step, known.compensation) != (step.step, step.compensation));
                self.steps.push(step.clone());
                self.steps.sort_unstable();
            }
            Record::SagaPaused(paused) => self.paused.clone_from(&paused.remedy),
            _ => {}
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the world's log")]
fn attest(record: &Record) -> Durable {
    Durable::attest(record.id())
}
