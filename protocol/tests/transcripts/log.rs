//! The log of a transcript. It answers when a line says so, and keeps what it has answered for.

use std::collections::{BTreeMap, VecDeque};

use assent_protocol::durable::{Appended, Durable};
use assent_protocol::found::{EndedTransaction, Found, LoggedStep, OpenSaga, OpenTransaction, Owned};
use assent_protocol::record::{Decided, Ended, Record};
use assent_protocol::replica::Batch;
use assent_protocol::three_phase::VoterState;
use assent_protocol::{Epoch, Gtid};

/// What was handed to the log, and what it has kept.
#[derive(Default)]
pub(crate) struct Log {
    /// Not answered yet, from the oldest.
    batches: VecDeque<Batch>,
    /// Not answered yet.
    question: Option<Vec<Gtid>>,
    open: BTreeMap<Gtid, OpenTransaction>,
    ended: BTreeMap<Gtid, EndedTransaction>,
}

impl Log {
    pub(crate) fn is_asked(&self) -> bool {
        self.question.is_some()
    }

    pub(crate) fn ask(&mut self, gtids: Vec<Gtid>) {
        self.question = Some(gtids);
    }

    pub(crate) fn hand_in(&mut self, batch: Batch) {
        self.batches.push_back(batch);
    }

    /// The oldest batch is durable: what the log answers.
    #[expect(clippy::disallowed_methods, reason = "it is the log of the transcript")]
    pub(crate) fn append(&mut self, at_ms: u64, owner: Epoch) -> Result<Vec<Appended>, String> {
        let Batch { forced, lazy } = self.oldest()?;
        let appended = forced.iter().map(|record| Appended::Durable(Durable::attest(record.id()))).collect();
        for record in forced.into_iter().chain(lazy) {
            self.keep(record, at_ms, owner);
        }
        Ok(appended)
    }

    /// Nothing of the oldest batch is kept: the log has the same answer to each of its records.
    pub(crate) fn refuse(&mut self, answer: &Appended) -> Result<Vec<Appended>, String> {
        Ok(self.oldest()?.forced.iter().map(|_| answer.clone()).collect())
    }

    fn oldest(&mut self) -> Result<Batch, String> {
        self.batches.pop_front().ok_or_else(|| "the log was handed nothing".into())
    }

    /// What was asked. It is answered now.
    pub(crate) fn take_question(&mut self) -> Result<Vec<Gtid>, String> {
        self.question.take().ok_or_else(|| "the log was asked nothing".into())
    }

    /// What the log has of a transaction.
    pub(crate) fn find(&self, gtid: Gtid) -> Option<Found> {
        let ended = self.ended.get(&gtid).cloned().map(Found::Ended);
        ended.or_else(|| self.open.get(&gtid).cloned().map(Found::Open))
    }

    /// The coordinator has died: nobody waits for an answer. What is open in the log is for its
    /// successor.
    pub(crate) fn recover(&mut self, epoch: Epoch) -> Vec<Owned> {
        self.batches.clear();
        self.question = None;
        for row in self.open.values_mut() {
            match row {
                OpenTransaction::Decided { owner, .. }
                | OpenTransaction::Delegated { owner, .. }
                | OpenTransaction::Attempted { owner, .. } => *owner = epoch,
                OpenTransaction::Saga(saga) => saga.owner = epoch,
            }
        }
        self.open.values().filter_map(|row| Owned::by(epoch, row.clone())).collect()
    }

    fn keep(&mut self, record: Record, at_ms: u64, owner: Epoch) {
        let gtid = record.gtid();
        match record {
            Record::Decided(record) => {
                let row = OpenTransaction::Decided { record, roster: None, decided_at_ms: at_ms, owner };
                self.open.insert(gtid, row);
            }
            Record::Delegated(record) => {
                self.open.insert(gtid, OpenTransaction::Delegated { record, delegated_at_ms: at_ms, owner });
            }
            Record::Attempted(record) => {
                let state = VoterState::ATTEMPTED;
                self.open.insert(gtid, OpenTransaction::Attempted { record, state, attempted_at_ms: at_ms, owner });
            }
            Record::Agreed(agreed) => {
                let Some(OpenTransaction::Attempted { record, .. }) = self.open.remove(&gtid) else { return };
                let roster = Some(record.roster);
                let record = Decided { digest: record.digest, begun_at_ms: record.begun_at_ms, ..agreed };
                let row = OpenTransaction::Decided { record, roster, decided_at_ms: at_ms, owner };
                self.open.insert(gtid, row);
            }
            Record::Voter(voter) => {
                if let Some(OpenTransaction::Attempted { state, .. }) = self.open.get_mut(&gtid) {
                    *state = voter.state;
                }
            }
            Record::SagaStarted(started) => {
                let (turned, paused, steps) = (None, None, Vec::new());
                let saga = OpenSaga { started, turned, paused, steps, started_at_ms: at_ms, owner };
                self.open.insert(gtid, OpenTransaction::Saga(saga));
            }
            Record::SagaTurned(record) => self.change_saga(gtid, |saga| saga.turned = Some(record.reason)),
            Record::SagaPaused(record) => self.change_saga(gtid, |saga| saga.paused = record.remedy),
            Record::SagaStep(record) => self.change_saga(gtid, |saga| {
                let place = |logged: &LoggedStep| (logged.record.step, logged.record.compensation);
                saga.steps.retain(|logged| place(logged) != (record.step, record.compensation));
                saga.steps.push(LoggedStep { record, at_ms });
                saga.steps.sort_by_key(place);
            }),
            Record::Ended(record) => {
                self.open.remove(&gtid);
                let record = Ended { has_open_row: false, ..record };
                self.ended.insert(gtid, EndedTransaction { record, decided_at_ms: None, ended_at_ms: at_ms });
            }
        }
    }

    fn change_saga(&mut self, gtid: Gtid, change: impl FnOnce(&mut OpenSaga)) {
        if let Some(OpenTransaction::Saga(saga)) = self.open.get_mut(&gtid) {
            change(saga);
        }
    }
}
