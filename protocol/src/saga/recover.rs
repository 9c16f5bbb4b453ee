//! From what the log kept to a machine that goes on.
//!
//! Step results are lazy, so a crash loses the last ones. A step without a recorded result is *in
//! doubt* if its action may have been sent: its dependencies are, or may be, complete. On the way
//! forward such a step is executed again, which does nothing where it was done before. On the way
//! back it is compensated, which closes the barrier where it was never done, and is not waited for:
//! its old attempts answer to nobody. A pivot is never in doubt on the way back: the coordinator
//! that turned knew that it has no effect and will have none. A step behind a forced result that is
//! not in the log was certainly never sent (see `Saga::is_forced`).

use super::definition::StepResult;
use super::effect::Effect;
use super::machine::{Draft, Phase, Saga};
use super::pause::Pause;
use super::step::{Progress, Step};
use crate::durable::Output;
use crate::ids::{Epoch, Gtid};
use crate::record::{SagaStarted, SagaStep};

/// What the log kept of an open saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its start.
    pub started: SagaStarted,
    /// Why it turned back, if it did.
    pub turned: Option<String>,
    /// The answers of its steps, in any order.
    pub steps: Vec<SagaStep>,
    /// The remedy of its pause, if it is paused.
    pub paused: Option<String>,
}

/// Rows that no correct run can have left behind. The saga is parked, and a human looks at its
/// rows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unrecoverable {
    /// A record of another transaction.
    #[error("a step record of {found} stands among those of saga {gtid}")]
    ForeignRecord {
        /// Whose rows were read.
        gtid: Gtid,
        /// Whose record was found.
        found: Gtid,
    },
    /// A record of a step that the definition does not have.
    #[error("saga {gtid} has {steps} steps, and a record of step number {step}")]
    UnknownStep {
        /// Which saga.
        gtid: Gtid,
        /// The step's number, from 0.
        step: u16,
        /// How many there are.
        steps: usize,
    },
    /// A compensation was answered, and the decision to compensate is not there, although it is
    /// forced before any is sent.
    #[error("saga {gtid} never turned back, and step number {step} has a record of its compensation")]
    CompensatedWithoutTurn {
        /// Which saga.
        gtid: Gtid,
        /// The step's number, from 0.
        step: u16,
    },
    /// A step was answered, and a result that is forced before the step starts is not there.
    #[error(
        "step number {step} of saga {gtid} has a record, and step number {missing}, whose result is forced before it, has none"
    )]
    ForcedResultMissing {
        /// Which saga.
        gtid: Gtid,
        /// The step that was answered, from 0.
        step: u16,
        /// The step that must have been recorded before, from 0.
        missing: u16,
    },
    /// A step was answered, and a step that must be done before it starts is refused.
    #[error(
        "step number {step} of saga {gtid} has a record, and step number {refused}, which must be done before it, is refused"
    )]
    SentPastRefusal {
        /// Which saga.
        gtid: Gtid,
        /// The step that was answered, from 0.
        step: u16,
        /// The step that is refused, from 0.
        refused: u16,
    },
    /// A pivot took effect, and the saga turned back all the same.
    #[error(
        "saga {gtid} turned back, and its pivot, step number {step}, took effect by its record or by that of a step behind it"
    )]
    TurnedPastPivot {
        /// Which saga.
        gtid: Gtid,
        /// The pivot's number, from 0.
        step: u16,
    },
}

impl Saga {
    /// Takes a saga over from the log, under a new epoch, and goes on: forward, or back if it had
    /// turned, or not at all while it is paused. Nobody waits for it yet; callers come back with
    /// `StartRequested` or `WaitRequested`.
    ///
    /// # Errors
    /// [`Unrecoverable`] if the rows contradict each other.
    pub fn recover(epoch: Epoch, kept: Kept) -> Result<(Self, Output<Effect>), Unrecoverable> {
        let Kept { started, turned, steps, paused } = kept;
        let mut saga = Self::unstarted(epoch, started);
        saga.phase = if turned.is_some() { Phase::Compensating } else { Phase::Running };
        saga.turned = turned;
        saga.check_records(&steps)?;
        saga.restore_actions(&steps);
        saga.check_forced_results()?;
        saga.restore_doubts();
        saga.restore_compensations(&steps);
        saga.restore_refusals(paused.is_some());
        if let Some(remedy) = paused {
            saga.paused = Some(Pause { asked: None, stuck: saga.stuck(), remedy });
        }
        let output = saga.advance(Draft::default());
        Ok((saga, output))
    }

    fn check_records(&self, records: &[SagaStep]) -> Result<(), Unrecoverable> {
        let gtid = self.gtid;
        for record in records {
            let step = record.step.0;
            if record.gtid != gtid {
                return Err(Unrecoverable::ForeignRecord { gtid, found: record.gtid });
            }
            if usize::from(step) >= self.steps.len() {
                return Err(Unrecoverable::UnknownStep { gtid, step, steps: self.steps.len() });
            }
            if record.compensation && self.turned.is_none() {
                return Err(Unrecoverable::CompensatedWithoutTurn { gtid, step });
            }
            let is_done = match record.result {
                StepResult::Done(_) => !record.compensation,
                StepResult::Refused(_) | StepResult::Unknown(_) => false,
            };
            if is_done && self.turned.is_some() && self.definition.step(record.step).pivot {
                return Err(Unrecoverable::TurnedPastPivot { gtid, step });
            }
        }
        Ok(())
    }

    /// The last answer counts, and done counts before all: behind a pivot, a step may be refused,
    /// mended and done.
    fn restore_actions(&mut self, records: &[SagaStep]) {
        let mut actions: Vec<&SagaStep> = records.iter().filter(|record| !record.compensation).collect();
        actions.sort_unstable(); // by step, then by attempt
        for SagaStep { step, attempt, result, .. } in actions {
            let step = self.step_mut(*step);
            step.attempt = step.attempt.max(*attempt);
            match result {
                StepResult::Done(output) => {
                    step.progress = Progress::Completed;
                    step.output = Some(output.clone());
                }
                StepResult::Refused(reason) => {
                    step.last_error = Some(reason.clone());
                    // An attempt before it may be without an answer. The first had none before it.
                    // Whether the refusal was final is not recorded: on the way forward a pivot is
                    // asked again.
                    step.in_doubt = *attempt > 1;
                    if step.progress != Progress::Completed {
                        step.progress = Progress::Refused;
                    }
                }
                StepResult::Unknown(reason) => {
                    step.last_error = Some(reason.clone());
                    step.in_doubt = true;
                }
            }
        }
    }

    /// A step of which something is recorded was sent, so all before it were done, however far;
    /// where a result is forced, its record is there.
    fn check_forced_results(&self) -> Result<(), Unrecoverable> {
        // So far, only a record makes a step doubtful.
        let is_recorded = |step: &Step| step.progress != Progress::Waiting || step.in_doubt;
        let mut was_sent: Vec<bool> = self.steps.iter().map(is_recorded).collect();
        for index in self.indices().rev() {
            if !was_sent[usize::from(index.0)] {
                continue;
            }
            for after in &self.definition.step(index).after {
                if self.is_forced(*after) && self.step(*after).progress != Progress::Completed {
                    let (step, missing) = (index.0, after.0);
                    return Err(Unrecoverable::ForcedResultMissing { gtid: self.gtid, step, missing });
                }
                if self.step(*after).progress == Progress::Refused {
                    let (step, refused) = (index.0, after.0);
                    return Err(Unrecoverable::SentPastRefusal { gtid: self.gtid, step, refused });
                }
                if self.turned.is_some() && self.definition.step(*after).pivot {
                    return Err(Unrecoverable::TurnedPastPivot { gtid: self.gtid, step: after.0 });
                }
                was_sent[usize::from(after.0)] = true;
            }
        }
        Ok(())
    }

    /// Finds the steps that may have been sent although nothing is recorded of them.
    fn restore_doubts(&mut self) {
        for index in self.indices() {
            if self.turned.is_some() && self.definition.step(index).pivot {
                self.step_mut(index).in_doubt = false;
                continue;
            }
            let may_be_sent = self.definition.step(index).after.iter().all(|after| {
                let step = self.step(*after);
                match step.progress {
                    Progress::Completed => true,
                    Progress::Waiting => step.in_doubt && !self.is_forced(*after),
                    Progress::ActionDue
                    | Progress::Executing { .. }
                    | Progress::ActionRetry { .. }
                    | Progress::Recording
                    | Progress::Refused
                    | Progress::CompensationDue
                    | Progress::Compensating { .. }
                    | Progress::CompensationRetry { .. }
                    | Progress::Stuck
                    | Progress::Compensated => false,
                }
            });
            if may_be_sent && self.step(index).progress == Progress::Waiting {
                let step = self.step_mut(index);
                step.in_doubt = true;
                // The number of an attempt tells whether it was the first: that one may have been
                // sent by the coordinator before.
                step.attempt = step.attempt.max(1);
            }
        }
    }

    fn restore_compensations(&mut self, records: &[SagaStep]) {
        for record in records.iter().filter(|record| record.compensation) {
            let step = self.step_mut(record.step);
            match &record.result {
                StepResult::Done(_) => step.progress = Progress::Compensated,
                // It is asked for again: whether it was resumed since is not for this record to
                // say.
                StepResult::Refused(reason) | StepResult::Unknown(reason) => step.last_error = Some(reason.clone()),
            }
        }
        // A step is compensated after everything behind it, so nothing there is open any more, even
        // if no record says so.
        for index in self.indices() {
            let after = &self.definition.step(index).after;
            let is_behind = after.iter().any(|before| self.step(*before).progress == Progress::Compensated);
            if is_behind && !self.step(index).is_settled() {
                self.step_mut(index).progress = Progress::Compensated;
            }
        }
    }

    /// A refusal without a turn: either the crash came between the two, or the refusal stands
    /// behind a completed pivot.
    fn restore_refusals(&mut self, is_paused: bool) {
        match self.phase {
            Phase::Running => {}
            Phase::Starting
            | Phase::Turning
            | Phase::Compensating
            | Phase::Ending { .. }
            | Phase::Ended(_)
            | Phase::Overruled(_) => return,
        }
        let is_past_pivot = self.is_past_pivot();
        for index in self.indices() {
            if self.step(index).progress != Progress::Refused {
                continue;
            }
            if !is_past_pivot {
                self.want_turn_after_refusal(index);
                if self.definition.step(index).pivot && self.step(index).in_doubt {
                    self.step_mut(index).progress = Progress::ActionDue;
                }
            } else if !is_paused {
                // The pause that belongs to the refusal is in the same batch; that it is not there
                // means that it was resumed.
                self.step_mut(index).progress = Progress::ActionDue;
            }
        }
    }
}
