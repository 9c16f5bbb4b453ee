//! The log of the model, as far as it concerns one saga.

use assent_protocol::record::{SagaStarted, SagaStep};
use assent_protocol::saga::Kept;
use assent_protocol::{Appended, Decision, Outcome, Record};

use crate::append::Answer;
use crate::attest;

/// A log as it should be, and logs as they should not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Sound,
    /// It takes records from whoever once owned the saga.
    Unfenced,
    /// It fails over to a copy that lacks the last append, as asynchronous replication does.
    LosesItsTail,
}

/// What stands about the one saga.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Rows {
    pub(crate) started: Option<SagaStarted>,
    pub(crate) turned: Option<String>,
    pub(crate) steps: Vec<SagaStep>,
    paused: Option<String>,
    pub(crate) ended: Option<Outcome>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Log {
    pub(crate) rows: Rows,
    pub(crate) owner: usize,
    /// The life of each replica that may write; zero once it was fenced.
    pub(crate) lives: [u8; 2],
    before: Option<Box<Rows>>,
}

impl Log {
    /// In one statement: the writer's epoch is checked, what rode along is kept, and the forced record.
    pub(crate) fn append(
        &mut self,
        kind: Kind,
        (writer, life): (usize, u8),
        lazy: &[Record],
        forced: Option<&Record>,
    ) -> Answer {
        if self.lives[writer] != life && kind != Kind::Unfenced {
            return Answer::Fenced;
        }
        let before = (kind == Kind::LosesItsTail).then(|| Box::new(self.rows.clone()));
        for record in lazy {
            self.keep(record);
        }
        let appended = forced.map(|forced| self.force(writer, forced));
        if before.as_deref().is_some_and(|before| *before != self.rows) {
            self.before = before;
        }
        appended.map_or(Answer::Nothing, Answer::Appended)
    }

    fn force(&mut self, writer: usize, record: &Record) -> Appended {
        let durable = Appended::Durable(attest(record));
        let decision = self.rows.ended.map(decision_of);
        match (record, decision) {
            (Record::SagaStarted(_), Some(_)) => return overruled(Decision::Commit),
            (Record::SagaStarted(started), None) => match &self.rows.started {
                Some(_) if self.owner == writer => {}
                Some(_) => return overruled(Decision::Commit),
                None => {
                    self.rows.started = Some(started.clone());
                    self.owner = writer;
                }
            },
            (_, None) if self.rows.started.is_none() => return overruled(Decision::Abort),
            (Record::SagaTurned(_), Some(Decision::Commit)) => return overruled(Decision::Commit),
            (Record::Ended(ended), Some(known)) if decision_of(ended.outcome) != known => {
                return overruled(known);
            }
            (_, Some(_)) => {}
            (record, None) => self.keep(record),
        }
        durable
    }

    fn keep(&mut self, record: &Record) {
        let rows = &mut self.rows;
        if rows.started.is_none() || rows.ended.is_some() {
            return;
        }
        match record {
            Record::SagaTurned(turned) => {
                rows.turned.get_or_insert_with(|| turned.reason.clone());
            }
            // The latest answer of each step is kept, and of its compensation.
            Record::SagaStep(step) => {
                rows.steps.retain(|known| (known.step, known.compensation) != (step.step, step.compensation));
                rows.steps.push(step.clone());
                rows.steps.sort_unstable();
            }
            Record::SagaPaused(paused) => rows.paused = paused.remedy.clone(),
            Record::Ended(ended) => rows.ended = Some(ended.outcome),
            other => panic!("no such record of a running saga: {other:?}"),
        }
    }

    pub(crate) fn kept(&self) -> Option<Kept> {
        let rows = &self.rows;
        let started = rows.started.clone().filter(|_| rows.ended.is_none())?;
        Some(Kept { started, turned: rows.turned.clone(), steps: rows.steps.clone(), paused: rows.paused.clone() })
    }

    pub(crate) fn may_lose_its_tail(&self) -> bool {
        self.before.is_some()
    }

    pub(crate) fn lose_its_tail(&mut self) {
        if let Some(before) = self.before.take() {
            self.rows = *before;
        }
    }
}

fn decision_of(outcome: Outcome) -> Decision {
    match outcome {
        Outcome::Committed | Outcome::Completed => Decision::Commit,
        Outcome::Aborted | Outcome::Compensated => Decision::Abort,
    }
}

/// A saga has no branches.
fn overruled(decision: Decision) -> Appended {
    Appended::Overruled { decision, members: Vec::new() }
}
