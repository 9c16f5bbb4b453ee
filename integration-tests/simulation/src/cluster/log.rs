//! The log of the world.

use std::collections::{BTreeMap, BTreeSet};

use assent_protocol::found::{EndedTransaction, Found, LoggedStep, OpenSaga, OpenTransaction, Owned};
use assent_protocol::record::{Decided, Delegated, Ended, EndedBranch, Member, SagaStarted, SagaStep};
use assent_protocol::replica::Batch;
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
    last_epoch: u64,
}

type Rows = (BTreeMap<Gtid, (Row, Epoch)>, BTreeMap<Gtid, Ended>);

/// How many changes a read may lag behind.
const LAG_MAX: usize = 4;

/// An open row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Row {
    Decided(Decided),
    Delegated(Delegated),
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
            Row::Decided(record) => OpenTransaction::Decided { record, roster: None, decided_at_ms: 0, owner },
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
        let appended = self.take(epoch, batch);
        if (&before.0, &before.1) != (&self.open, &self.ended) {
            self.past.push(before);
            if self.past.len() > LAG_MAX {
                self.past.remove(0);
            }
        }
        Ok(appended)
    }

    fn take(&mut self, epoch: Epoch, batch: &Batch) -> Vec<Appended> {
        for record in &batch.lazy {
            match record {
                Record::Ended(ended) => self.end(epoch, ended),
                Record::SagaStep(_) | Record::SagaPaused(_) => self.keep_of_saga(epoch, record),
                other => panic!("this is never lazy: {other:?}"),
            }
        }
        batch.forced.iter().map(|record| self.force(epoch, record)).collect()
    }

    fn end(&mut self, epoch: Epoch, ended: &Ended) {
        // An end never contradicts the decision, and over a delegation it is its owner's.
        let may_end = match self.open.get(&ended.gtid) {
            Some((Row::Decided(decided), _)) => decided.decision == decision_of(ended.outcome),
            Some((Row::Delegated(_), owner)) => *owner == epoch,
            Some((Row::Saga(_), _)) => false,
            None => true,
        };
        if may_end {
            self.open.remove(&ended.gtid);
            self.ended.entry(ended.gtid).or_insert_with(|| ended.clone());
        }
    }

    fn force(&mut self, epoch: Epoch, record: &Record) -> Appended {
        let gtid = record.gtid();
        let durable = Appended::Durable(attest(record));
        match record {
            Record::SagaStarted(_) | Record::SagaTurned(_) | Record::SagaStep(_) => {
                return self.force_of_saga(epoch, record).unwrap_or(durable);
            }
            Record::Ended(ended) if ended.protocol == Protocol::Saga => {
                return self.force_of_saga(epoch, record).unwrap_or(durable);
            }
            _ => {}
        }
        if let Some(ended) = self.ended.get(&gtid) {
            let decision = decision_of(ended.outcome);
            let members: Vec<Member> = ended.branches.iter().map(EndedBranch::member).collect();
            let is_same =
                matches!(record, Record::Decided(mine) if mine.decision == decision && are_named(mine, &members));
            return if is_same { durable } else { Appended::Overruled { decision, members } };
        }
        match (record, self.open.get(&gtid)) {
            (Record::Decided(mine), Some((Row::Decided(known), _)))
                if mine.decision == known.decision && are_named(mine, &known.members) =>
            {
                durable
            }
            (Record::Decided(_) | Record::Delegated(_), Some((Row::Decided(known), _))) => {
                Appended::Overruled { decision: known.decision, members: known.members.clone() }
            }
            (Record::Decided(_) | Record::Delegated(_), Some((Row::Delegated(_), owner))) if *owner != epoch => {
                Appended::Undecided
            }
            (Record::Delegated(_), Some((Row::Delegated(_), _))) => durable,
            // A saga that is compensating is aborted, as far as that goes.
            (Record::Decided(mine), Some((Row::Saga(row), _))) => {
                let standing = if row.turned.is_some() { Decision::Abort } else { Decision::Commit };
                if mine.decision == standing { durable } else { overruled(standing) }
            }
            (Record::Decided(mine), Some((Row::Delegated(_), _)) | None) => {
                self.open.insert(gtid, (Row::Decided(mine.clone()), epoch));
                durable
            }
            (Record::Delegated(mine), None) => {
                self.open.insert(gtid, (Row::Delegated(mine.clone()), epoch));
                durable
            }
            (other, _) => panic!("this is never forced over what stands: {other:?}"),
        }
    }

    /// A saga's forced record; `None` if it is durable. Only the owner of the row writes it.
    fn force_of_saga(&mut self, epoch: Epoch, record: &Record) -> Option<Appended> {
        let gtid = record.gtid();
        if let Some(ended) = self.ended.get(&gtid) {
            let decision = decision_of(ended.outcome);
            let is_kept = match record {
                Record::SagaTurned(_) => decision == Decision::Abort,
                Record::SagaStep(_) => true,
                Record::Ended(mine) => decision_of(mine.outcome) == decision,
                _ => false,
            };
            return if is_kept { None } else { Some(overruled(decision)) };
        }
        match (record, self.open.get(&gtid)) {
            (Record::SagaStarted(mine), None) => {
                let (turned, steps, paused) = (None, Vec::new(), None);
                let row = Row::Saga(SagaRow { started: mine.clone(), turned, steps, paused });
                self.open.insert(gtid, (row, epoch));
                None
            }
            (Record::SagaStarted(mine), Some((Row::Saga(row), owner)))
                if *owner == epoch && row.started.digest == mine.digest =>
            {
                None
            }
            (Record::SagaStarted(_), Some(_)) => Some(overruled(Decision::Commit)),
            (_, Some((Row::Saga(_), owner))) if *owner == epoch => {
                self.keep_of_saga(epoch, record);
                None
            }
            (_, Some(_)) => Some(Appended::Undecided),
            (_, None) => Some(overruled(Decision::Abort)),
        }
    }

    fn keep_of_saga(&mut self, epoch: Epoch, record: &Record) {
        let gtid = record.gtid();
        let Some((Row::Saga(row), owner)) = self.open.get_mut(&gtid) else { return };
        if *owner != epoch {
            return;
        }
        match record {
            Record::SagaTurned(turned) => {
                row.turned.get_or_insert_with(|| turned.reason.clone());
                self.turned.insert(gtid);
            }
            // The latest answer of each action is kept, and of each compensation.
            Record::SagaStep(step) => {
                row.steps.retain(|known| (known.step, known.compensation) != (step.step, step.compensation));
                row.steps.push(step.clone());
                row.steps.sort_unstable();
            }
            Record::SagaPaused(paused) => row.paused.clone_from(&paused.remedy),
            Record::Ended(ended) => {
                self.open.remove(&gtid);
                self.ended.insert(gtid, ended.clone());
                self.outcomes.insert(gtid, ended.outcome);
            }
            other => panic!("no such record of a running saga: {other:?}"),
        }
    }

    /// The retention of what has ended is over.
    pub(crate) fn remove_history(&mut self) {
        self.ended.clear();
    }
}

/// Whether these are the branches that the standing commit is for: the same commit for others is another decision. An
/// abort is every branch's.
fn are_named(mine: &Decided, standing: &[Member]) -> bool {
    mine.decision == Decision::Abort || mine.members.iter().all(|member| standing.contains(member))
}

#[expect(clippy::disallowed_methods, reason = "the world's log")]
fn attest(record: &Record) -> Durable {
    Durable::attest(record.id())
}

pub(crate) fn decision_of(outcome: Outcome) -> Decision {
    match outcome {
        Outcome::Committed | Outcome::Completed => Decision::Commit,
        Outcome::Aborted | Outcome::Compensated => Decision::Abort,
    }
}

/// Another decision stands about a saga, which has no members.
fn overruled(decision: Decision) -> Appended {
    Appended::Overruled { decision, members: Vec::new() }
}
