//! Stopping for a human, and going on after one.
//!
//! A paused saga sends nothing. What is in flight may still answer, and is noted. Pauses are lazy
//! in the log: one that a crash loses is found again, since whatever could not succeed is tried and
//! fails again.

use serde::{Deserialize, Serialize};

use super::definition::StepIndex;
use super::effect::Effect;
use super::machine::{Draft, Phase, Saga, Stage, cut};
use super::step::Progress;
use crate::durable::Output;
use crate::record::{Record, SagaPaused};

/// Why a saga is paused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Pause {
    /// What an operator said who asked for it.
    pub(super) asked: Option<String>,
    /// The steps that need a human.
    pub(super) stuck: Vec<StepIndex>,
    /// What a human must do.
    pub(super) remedy: String,
}

impl Saga {
    pub(super) fn pause_requested(&mut self, reason: &str) -> Output<Effect> {
        match self.stage() {
            Stage::Starting | Stage::Running | Stage::Deciding | Stage::Turning | Stage::Compensating => {}
            Stage::PausedRunning | Stage::PausedCompensating | Stage::Ending | Stage::Ended | Stage::Overruled => {
                return Output::none();
            }
        }
        if self.paused.is_some() {
            return Output::none(); // asked for twice while an append is in flight
        }
        let mut draft = Draft::default();
        self.pause(Some(cut(reason)), self.stuck(), &mut draft);
        draft.free()
    }

    pub(super) fn resume_requested(&mut self) -> Output<Effect> {
        match self.stage() {
            Stage::Starting
            | Stage::Running
            | Stage::Deciding
            | Stage::Turning
            | Stage::Compensating
            | Stage::PausedRunning
            | Stage::PausedCompensating => {}
            Stage::Ending | Stage::Ended | Stage::Overruled => return Output::none(),
        }
        let mut draft = Draft::default();
        if self.paused.take().is_some() {
            draft.lazy.push(Record::SagaPaused(SagaPaused { gtid: self.gtid, remedy: None }));
        }
        self.end_retry_waits(&mut draft);
        for index in self.stuck() {
            let step = self.step_mut(index);
            step.progress =
                if step.progress == Progress::Stuck { Progress::CompensationDue } else { Progress::ActionDue };
        }
        for step in &mut self.steps {
            step.failed = 0;
            step.unanswered = 0;
        }
        self.advance(draft)
    }

    /// Pauses if there is a step that needs a human and that the present pause does not speak of
    /// yet.
    pub(super) fn pause_if_stuck(&mut self, draft: &mut Draft) {
        let stuck = self.stuck();
        let known = self.paused.as_ref().map_or(&[] as &[StepIndex], |pause| &pause.stuck);
        if stuck.iter().any(|index| !known.contains(index)) {
            let asked = self.paused.as_ref().and_then(|pause| pause.asked.clone());
            self.pause(asked, stuck, draft);
        }
    }

    fn pause(&mut self, asked: Option<String>, stuck: Vec<StepIndex>, draft: &mut Draft) {
        self.end_retry_waits(draft);
        let remedy = self.remedy(asked.as_deref(), &stuck);
        draft.lazy.push(Record::SagaPaused(SagaPaused { gtid: self.gtid, remedy: Some(remedy.clone()) }));
        self.paused = Some(Pause { asked, stuck, remedy });
    }

    fn remedy(&self, asked: Option<&str>, stuck: &[StepIndex]) -> String {
        /// So that a saga of a thousand stuck steps does not write a book.
        const STUCK_SHOWN_MAX: usize = 5;
        let asked =
            asked.map(|reason| format!("An operator paused it: {reason}. Nothing is sent until it is resumed."));
        let shown = stuck.iter().take(STUCK_SHOWN_MAX).map(|index| self.remedy_of(*index));
        let rest = stuck.len().checked_sub(STUCK_SHOWN_MAX + 1).map(|_| {
            format!("{} more steps wait in the same way; show the saga to see them.", stuck.len() - STUCK_SHOWN_MAX)
        });
        asked.into_iter().chain(shown).chain(rest).collect::<Vec<_>>().join(" ")
    }

    fn remedy_of(&self, index: StepIndex) -> String {
        let (definition, step) = (self.definition.step(index), self.step(index));
        let (name, participant, gtid) = (&definition.name, &definition.participant, self.gtid);
        let error = step.last_error.as_deref().unwrap_or("unknown");
        match self.phase {
            Phase::Running => format!(
                "Step {name} is refused by participant {participant} ({error}), but a pivot of saga {gtid} has taken effect, so the saga can only go \
                 forward. Check at {participant} why it refuses, remove the cause, then resume the saga: step {name} is executed again."
            ),
            Phase::Starting
            | Phase::Turning
            | Phase::Compensating
            | Phase::Ending { .. }
            | Phase::Ended(_)
            | Phase::Overruled(_) => format!(
                "Step {name} cannot be compensated by participant {participant} ({error}). Check at {participant} whether the effect of step {name} of \
                 saga {gtid} is still there; undo it, or remove what stops its compensation, then resume the saga: the compensation of {name} is \
                 asked for again, and {participant} has to answer that it is done."
            ),
        }
    }
}
