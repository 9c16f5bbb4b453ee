//! What the log's answer sets free; and the end.

use super::effect::{Effect, Reply};
use super::machine::{Callers, Draft, Phase, Saga, Stage};
use super::step::Progress;
use crate::durable::{Appended, Output};
use crate::ids::BranchId;
use crate::record::{BranchEnd, Decision, Ended, EndedBranch, Outcome, Protocol, Record};

impl Saga {
    pub(super) fn appended(&mut self, appended: &Appended) -> Output<Effect> {
        match appended {
            Appended::Durable(receipt) if receipt.gtid() != self.gtid => Output::none(),
            Appended::Durable(_) => self.durable(),
            Appended::Overruled { decision, .. } => self.overruled(*decision),
            Appended::Undecided => Output::none(),
        }
    }

    fn durable(&mut self) -> Output<Effect> {
        let mut draft = Draft::default();
        self.callers.answered.clear();
        match self.stage() {
            Stage::Starting => {
                self.phase = Phase::Running;
                draft.reply_all(std::mem::take(&mut self.callers.started), &Reply::Started);
            }
            Stage::Running | Stage::Deciding | Stage::PausedRunning => match self.recording.take() {
                Some(index) => self.step_mut(index).progress = Progress::Completed,
                None => return Output::none(),
            },
            Stage::Turning => {
                self.phase = Phase::Compensating;
                let reason = self.turned.clone().unwrap_or_default();
                draft.reply_all(std::mem::take(&mut self.callers.turned), &Reply::Compensating { reason });
            }
            Stage::Ending => {
                if let Phase::Ending { outcome, .. } = self.phase {
                    self.phase = Phase::Ended(outcome);
                    draft.reply_all(std::mem::take(&mut self.callers.ended), &self.ended_reply(outcome));
                }
            }
            Stage::Compensating | Stage::PausedCompensating | Stage::Ended | Stage::Overruled => return Output::none(),
        }
        self.advance(draft)
    }

    fn overruled(&mut self, decision: Decision) -> Output<Effect> {
        match self.stage() {
            Stage::Starting | Stage::Turning | Stage::Ending => {}
            Stage::Running | Stage::Deciding | Stage::PausedRunning if self.recording.is_some() => {}
            Stage::Running
            | Stage::Deciding
            | Stage::PausedRunning
            | Stage::Compensating
            | Stage::PausedCompensating
            | Stage::Ended
            | Stage::Overruled => return Output::none(), // nothing is in flight that could be overruled
        }
        let mut draft = Draft::default();
        for index in self.indices() {
            self.cancel_timer(index, &mut draft);
        }
        self.phase = Phase::Overruled(decision);
        self.recording = None;
        // The held answers are never released; these take their place.
        let Callers { started, turned, ended, answered } = std::mem::take(&mut self.callers);
        for waiting in [started, turned, ended, answered] {
            draft.reply_all(waiting, &Reply::Overruled { decision });
        }
        draft.free()
    }

    /// Ends the saga: every step is where the outcome wants it.
    ///
    /// What the draft would have logged lazily is left out: the final record says what became of
    /// every step.
    pub(super) fn end(&mut self, outcome: Outcome, mut draft: Draft) -> Output<Effect> {
        let turned = match self.phase {
            Phase::Compensating => true,
            Phase::Starting
            | Phase::Running
            | Phase::Turning
            | Phase::Ending { .. }
            | Phase::Ended(_)
            | Phase::Overruled(_) => false,
        };
        self.phase = Phase::Ending { outcome, turned };
        let reply = self.ended_reply(outcome);
        draft.reply_all(std::mem::take(&mut self.callers.turned), &reply);
        draft.reply_all(std::mem::take(&mut self.callers.ended), &reply);
        let ended = Record::Ended(self.ended_record(outcome));
        self.seal(Draft { lazy: Vec::new(), ..draft }, ended)
    }

    fn ended_record(&self, outcome: Outcome) -> Ended {
        Ended {
            gtid: self.gtid,
            protocol: Protocol::Saga,
            outcome,
            has_open_row: true,
            begun_at_ms: self.begun_at_ms,
            digest: self.digest,
            reason: self.turned.clone(),
            branches: self
                .indices()
                .map(|index| EndedBranch {
                    participant: self.definition.step(index).participant.clone(),
                    branch: BranchId::NONE,
                    step: Some(self.definition.step(index).name.clone()),
                    end: branch_end(self.step(index).progress),
                })
                .collect(),
            outputs: self
                .indices()
                .filter(|index| self.step(*index).is_done())
                .map(|index| (index, self.step(index).output.clone().unwrap_or_default()))
                .collect(),
        }
    }

    pub(super) fn ended_reply(&self, outcome: Outcome) -> Reply {
        let outputs = self
            .indices()
            .filter(|index| self.step(*index).is_done())
            .map(|index| {
                (self.definition.step(index).name.clone(), self.step(index).output.clone().unwrap_or_default())
            })
            .collect();
        Reply::Ended { outcome, reason: self.turned.clone(), outputs }
    }
}

/// How a step of an ending saga ended; each is done or settled.
fn branch_end(progress: Progress) -> BranchEnd {
    match progress {
        Progress::Recording | Progress::Completed => BranchEnd::Completed,
        Progress::Refused => BranchEnd::Aborted,
        Progress::Compensated
        | Progress::CompensationDue
        | Progress::Compensating { .. }
        | Progress::CompensationRetry { .. }
        | Progress::Stuck => BranchEnd::Compensated,
        Progress::Waiting | Progress::ActionDue | Progress::ActionRetry { .. } | Progress::Executing { .. } => {
            BranchEnd::NotStarted
        }
    }
}
