//! The log of the world.

use std::collections::BTreeMap;

use assent_protocol::found::{EndedTransaction, Found, OpenTransaction, Owned};
use assent_protocol::record::{Decided, Delegated, Ended, EndedBranch, Member};
use assent_protocol::replica::Batch;
use assent_protocol::{Appended, Decision, Durable, Epoch, Gtid, Outcome, Record};

/// What stands in it, and who may write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    pub(crate) open: BTreeMap<Gtid, (Row, Epoch)>,
    pub(crate) ended: BTreeMap<Gtid, Ended>,
    /// The epoch of each replica's name that may write.
    owners: BTreeMap<usize, Epoch>,
    last_epoch: u64,
}

/// An open row.
#[derive(Clone, Debug)]
pub(crate) enum Row {
    Decided(Decided),
    Delegated(Delegated),
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
        }
    }

    /// What it has of these transactions.
    pub(crate) fn look_up(&self, gtids: &[Gtid]) -> Vec<(Gtid, Found)> {
        let found = |gtid: &Gtid| match (self.open.get(gtid), self.ended.get(gtid)) {
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
        for record in &batch.lazy {
            let Record::Ended(ended) = record else {
                panic!("of a two-phase transaction only the end is lazy: {record:?}")
            };
            self.end(epoch, ended);
        }
        Ok(batch.forced.iter().map(|record| self.force(epoch, record)).collect())
    }

    fn end(&mut self, epoch: Epoch, ended: &Ended) {
        // An end never contradicts the decision, and over a delegation it is its owner's.
        let may_end = match self.open.get(&ended.gtid) {
            Some((Row::Decided(decided), _)) => decided.decision == decision_of(ended.outcome),
            Some((Row::Delegated(_), owner)) => *owner == epoch,
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
            (Record::Decided(mine), Some((Row::Delegated(_), _)) | None) => {
                self.open.insert(gtid, (Row::Decided(mine.clone()), epoch));
                durable
            }
            (Record::Delegated(mine), None) => {
                self.open.insert(gtid, (Row::Delegated(mine.clone()), epoch));
                durable
            }
            (other, _) => panic!("of a two-phase transaction this is never forced: {other:?}"),
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
