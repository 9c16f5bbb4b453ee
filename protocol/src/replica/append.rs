//! Records on their way to the log, and what the log's answers release.

use std::collections::VecDeque;

use super::drive::Driven;
use super::ended::{EndedAnswer, shortened};
use super::entry::{Entry, Machine};
use super::unknown::{fenced, out_of_date};
use super::{Change, Replica, TimerChange, TransactionView};
use crate::durable::{Appended, Held};
use crate::ids::Gtid;
use crate::message::Refused;
use crate::reason::AbortReason;
use crate::record::{Outcome, Protocol, Record};
use crate::saga::{self, Saga};
use crate::three_phase::coordinator::Stage;
use crate::three_phase::{self, Coordinator};
use crate::two_phase::{self, State, TwoPhase};

/// Records for one append.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Somebody waits for each of these.
    pub forced: Vec<Record>,
    /// Losing one of these only repeats idempotent messages.
    pub lazy: Vec<Record>,
}

/// The sealed effects of a machine.
#[derive(Clone, Debug)]
pub(super) enum Sealed {
    TwoPhase(Held<two_phase::Effect>),
    ThreePhase(Held<three_phase::coordinator::Effect>),
    Saga(Held<saga::Effect>),
}

/// One batch, and what waits for it.
#[derive(Clone, Debug, Default)]
struct Flight {
    batch: Batch,
    /// In the order of the forced records.
    sealed: Vec<(Gtid, Sealed)>,
    /// Somebody waits for one of those.
    is_urgent: bool,
    /// Whose end is in it: forgotten once it is durable.
    ended: Vec<Gtid>,
}

/// What is collected for the next batch, and what the log has yet to answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Appends {
    pending: Flight,
    under_way: VecDeque<Flight>,
}

impl Replica {
    /// Queues a record that the transaction waits for.
    pub(super) fn append(&mut self, gtid: Gtid, record: Record, sealed: Sealed) {
        // What is sealed behind the end of a three-phase transaction is orders to forget, and they
        // can wait.
        self.appends.pending.is_urgent |=
            !matches!(&record, Record::Ended(ended) if ended.protocol == Protocol::ThreePhase);
        self.note_end(gtid, &record);
        self.appends.pending.batch.forced.push(record);
        self.appends.pending.sealed.push((gtid, sealed));
    }

    /// Queues records that nobody waits for.
    pub(super) fn append_lazily(&mut self, gtid: Gtid, records: Vec<Record>) {
        for record in records {
            self.note_end(gtid, &record);
            self.appends.pending.batch.lazy.push(record);
        }
    }

    fn note_end(&mut self, gtid: Gtid, record: &Record) {
        if matches!(record, Record::Ended(_)) {
            self.appends.pending.ended.push(gtid);
            self.timers.push(TimerChange::CancelAll(gtid));
        }
    }

    /// How many records wait to be taken.
    pub fn records_pending(&self) -> usize {
        self.appends.pending.batch.forced.len() + self.appends.pending.batch.lazy.len()
    }

    /// Whether somebody waits for one of them. The others may wait for company.
    pub fn is_append_urgent(&self) -> bool {
        self.appends.pending.is_urgent
    }

    /// Everything that waits for the log. `None` if nothing does.
    pub fn take_batch(&mut self) -> Option<Batch> {
        if self.records_pending() == 0 {
            return None;
        }
        let mut flight = std::mem::take(&mut self.appends.pending);
        let batch = std::mem::take(&mut flight.batch);
        self.appends.under_way.push_back(flight);
        Some(batch)
    }

    /// The log has answered the oldest batch.
    pub(super) fn appended(&mut self, appended: Vec<Appended>) {
        let Some(flight) = self.appends.under_way.pop_front() else { return };
        debug_assert_eq!(flight.sealed.len(), appended.len(), "the log answers each forced record");
        for ((gtid, sealed), appended) in flight.sealed.into_iter().zip(appended) {
            if appended == Appended::Undecided {
                self.let_go(gtid, &fenced());
                continue;
            }
            // The transaction was not forgotten. Its branches and callers are answered from the log.
            let is_presumed = self.entries.get(&gtid).is_some_and(|entry| entry.is_presumed);
            if is_presumed && matches!(appended, Appended::Overruled { .. }) {
                self.let_go(gtid, &out_of_date());
                continue;
            }
            match sealed {
                Sealed::TwoPhase(held) => {
                    self.release::<TwoPhase>(gtid, held, &appended);
                    self.drive::<TwoPhase>(gtid, two_phase::Event::Appended(appended));
                }
                Sealed::ThreePhase(held) => {
                    self.release::<Coordinator>(gtid, held, &appended);
                    let event = two_phase::Event::Appended(appended);
                    self.drive::<Coordinator>(gtid, three_phase::coordinator::Event::TwoPhase(event));
                }
                Sealed::Saga(held) => {
                    self.release::<Saga>(gtid, held, &appended);
                    self.drive::<Saga>(gtid, saga::Event::Appended(appended));
                }
            }
        }
        for gtid in flight.ended {
            self.forget(gtid);
        }
    }

    fn release<M: Driven>(&mut self, gtid: Gtid, held: Held<M::Effect>, appended: &Appended) {
        if let Appended::Durable(receipt) = appended {
            M::carry_out(self, gtid, held.release(receipt));
        }
    }

    /// Its end is durable: only its answer is kept, for retries.
    fn forget(&mut self, gtid: Gtid) {
        let Some(entry) = self.entries.remove(&gtid) else { return };
        self.requests.touch(gtid);
        debug_assert!(entry.machine.is_ended(), "only an ended transaction is forgotten");
        self.no_longer_open(&entry);
        let answer = match &entry.machine {
            Machine::TwoPhase(_) | Machine::ThreePhase(_) => entry.machine.transaction().map(|machine| {
                let is_committed = machine.state() == State::Committed;
                *(if is_committed { &mut self.counts.committed } else { &mut self.counts.aborted }) += 1;
                EndedAnswer {
                    digest: machine.digest(),
                    outcome: if is_committed { Outcome::Committed } else { Outcome::Aborted },
                    reason: machine
                        .reason()
                        .map(|reason| AbortReason { message: shortened(&reason.message), ..reason.clone() }),
                    committed: if is_committed { machine.told_to_commit(entry.machine.protocol()) } else { Vec::new() },
                }
            }),
            Machine::Saga(machine) => {
                let is_completed = machine.outcome() == Some(Outcome::Completed);
                *(if is_completed { &mut self.counts.completed } else { &mut self.counts.compensated }) += 1;
                None
            }
        };
        self.ended.keep(gtid, answer, self.now_ms);
        if self.watched.remove(&gtid) {
            self.changes.push(Change::Ended(TransactionView::of(gtid, &entry, &self.peers)));
        }
    }

    /// Another writer's word stands in the log for this gtid: this machine is of no use, and the
    /// log answers from here on. Nothing is known that its callers could be told but this.
    pub(super) fn let_go(&mut self, gtid: Gtid, refused: &Refused) {
        if let Some(entry) = self.entries.remove(&gtid) {
            for caller in entry.machine.callers() {
                self.refuse(caller, refused.clone());
            }
            self.timers.push(TimerChange::CancelAll(gtid));
            self.no_longer_open(&entry);
            self.ended.keep(gtid, None, self.now_ms);
        }
        if self.watched.remove(&gtid) {
            self.changes.push(Change::Gone(gtid));
        }
    }

    fn no_longer_open(&mut self, entry: &Entry) {
        self.bytes -= entry.bytes;
        self.presumed -= usize::from(entry.is_presumed);
        self.counts.open -= 1;
    }

    /// Whether nothing undecided is left, and the log has answered everything: the process may
    /// leave.
    pub fn is_drained(&self) -> bool {
        self.is_draining
            && self.appends.under_way.is_empty()
            && self.records_pending() == 0
            && !self.entries.values().any(|entry| is_undecided(&entry.machine))
    }
}

/// Whether a transaction would be lost, or held up, if its coordinator left now.
fn is_undecided(machine: &Machine) -> bool {
    let is_open = |machine: &TwoPhase| {
        // A delegation that is being recalled is in the log: the next coordinator recalls it too.
        matches!(
            machine.state(),
            State::Active | State::Preparing | State::Delegating | State::OnePhase | State::Deciding(_)
        )
    };
    match machine {
        Machine::TwoPhase(machine) => is_open(machine),
        Machine::ThreePhase(machine) => match machine.stage() {
            // Its voters need no coordinator to agree.
            Stage::Agreeing => false,
            // What its voters agreed on is to be found by the coordinator that takes over.
            Stage::Agreed(_) => !machine.is_decision_logged() && !machine.is_ended() || is_open(machine.transaction()),
            Stage::Voting | Stage::Attempting => is_open(machine.transaction()),
        },
        Machine::Saga(_) => false,
    }
}
