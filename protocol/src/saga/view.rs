//! What status displays show.
//!
//! A view never runs ahead of the log: a turn or an end that is being appended is not shown (I4).

use std::fmt;

use super::definition::{Definition, StepIndex};
use super::machine::{Phase, Saga};
use super::step::{Progress, Step};
use crate::ids::{BodyDigest, Epoch, Gtid, Name, ParticipantName};
use crate::record::Outcome;

/// A saga, as a human sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// `running`, `compensating`, `completed`, `compensated` or `paused`.
    pub state: &'static str,
    /// Why it turned back, once that is durable, as
    /// [`AbortReason::to_line`](crate::AbortReason::to_line) writes it.
    pub reason: Option<String>,
    /// What a human must do, where it is paused.
    pub remedy: Option<String>,
    /// What the saga as a whole waits for.
    pub waits_for: WaitsFor,
    /// Its steps, in the definition's order.
    pub steps: Vec<StepView>,
}

/// A step, as a human sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepView {
    /// Its name.
    pub name: Name,
    /// Who executes and compensates it.
    pub participant: ParticipantName,
    /// How far it has come.
    pub state: StepState,
    /// The number of the last attempt of what its state names; zero before the first.
    pub attempt: u32,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
    /// What it waits for.
    pub waits_for: WaitsFor,
}

/// How far a step has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StepState {
    /// It has not started.
    Waiting,
    /// Its action is under way: in flight, or about to be tried again.
    Executing,
    /// Its action took effect.
    Completed,
    /// Its action was refused, and has no effect.
    Refused,
    /// It will be compensated after the steps behind it.
    ToCompensate,
    /// Its compensation is under way: in flight, or about to be tried again.
    Compensating,
    /// Its compensation cannot succeed without a human.
    Stuck,
    /// Its effect was undone, or prevented.
    Compensated,
    /// It never started, and never will.
    NotStarted,
}

impl StepState {
    /// The word for it on the wire and on screen.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Executing => "executing",
            Self::Completed => "completed",
            Self::Refused => "refused",
            Self::ToCompensate => "to_compensate",
            Self::Compensating => "compensating",
            Self::Stuck => "stuck",
            Self::Compensated => "compensated",
            Self::NotStarted => "not_started",
        }
    }
}

impl fmt::Display for StepState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What has to happen next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WaitsFor {
    /// Nothing: it is over, or there is nothing to do.
    Nothing,
    /// Its steps.
    Steps,
    /// Other steps: those it depends on, or on the way back those that depend on it.
    These(Vec<Name>),
    /// These pivots may have taken effect, and their answers decide the direction.
    Pivots(Vec<Name>),
    /// The participant's answer.
    Answer,
    /// The time of the next attempt.
    Retry,
    /// An instance of the participant to connect, or the time of the next attempt.
    Participant,
    /// The log.
    Log,
    /// A human: see the remedy.
    Human,
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |names: &[Name]| names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Steps => f.write_str("its steps"),
            Self::These(steps) => write!(f, "steps {}", names(steps)),
            Self::Pivots(steps) => write!(f, "the answer of pivot {}", names(steps)),
            Self::Answer => f.write_str("the participant's answer"),
            Self::Retry => f.write_str("the next attempt"),
            Self::Participant => f.write_str("the participant to connect"),
            Self::Log => f.write_str("the log"),
            Self::Human => f.write_str("a human"),
        }
    }
}

impl Saga {
    /// Which saga.
    pub const fn gtid(&self) -> Gtid {
        self.gtid
    }

    /// Under which epoch it is driven; every message carries it.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The digest of the start request's body.
    pub const fn digest(&self) -> BodyDigest {
        self.digest
    }

    /// When it began, in Unix milliseconds.
    pub const fn begun_at_ms(&self) -> u64 {
        self.begun_at_ms
    }

    /// Its steps.
    pub const fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Whether it is over for this machine: durably ended, or overruled. Such a machine may be
    /// dropped.
    pub const fn is_ended(&self) -> bool {
        match self.phase {
            Phase::Ended(_) | Phase::Overruled(_) => true,
            Phase::Starting | Phase::Running | Phase::Turning | Phase::Compensating | Phase::Ending { .. } => false,
        }
    }

    /// How it ended, once that is durable.
    pub const fn outcome(&self) -> Option<Outcome> {
        match self.phase {
            Phase::Ended(outcome) => Some(outcome),
            Phase::Starting
            | Phase::Running
            | Phase::Turning
            | Phase::Compensating
            | Phase::Ending { .. }
            | Phase::Overruled(_) => None,
        }
    }

    /// Whether it is paused: nothing is sent until it is resumed.
    pub const fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// A picture of it.
    pub fn view(&self) -> View {
        let is_back = self.is_turn_durable();
        View {
            state: self.state_word(is_back),
            reason: self.turned.clone().filter(|_| is_back),
            remedy: self.shown_remedy(),
            waits_for: self.waits_for(),
            steps: self.indices().map(|index| self.view_step(index)).collect(),
        }
    }

    fn is_turn_durable(&self) -> bool {
        match self.phase {
            Phase::Starting | Phase::Running | Phase::Turning | Phase::Overruled(_) => false,
            Phase::Compensating => true,
            Phase::Ending { turned, .. } => turned,
            Phase::Ended(_) => self.turned.is_some(),
        }
    }

    fn state_word(&self, is_back: bool) -> &'static str {
        match self.phase {
            Phase::Ended(outcome) => outcome.as_str(),
            // No other word fits: this copy stands still, and the log knows more.
            Phase::Overruled(_) => "paused",
            Phase::Starting | Phase::Running | Phase::Turning | Phase::Compensating | Phase::Ending { .. } => {
                if self.paused.is_some() {
                    "paused"
                } else if is_back {
                    "compensating"
                } else {
                    "running"
                }
            }
        }
    }

    fn shown_remedy(&self) -> Option<String> {
        match self.phase {
            Phase::Overruled(decision) => Some(format!(
                "The log holds another writer's decision on this gtid, {decision}, and this replica does not drive it. Ask again; the log answers."
            )),
            Phase::Starting
            | Phase::Running
            | Phase::Turning
            | Phase::Compensating
            | Phase::Ending { .. }
            | Phase::Ended(_) => self.paused.as_ref().map(|pause| pause.remedy.clone()),
        }
    }

    fn waits_for(&self) -> WaitsFor {
        match self.phase {
            Phase::Ended(_) | Phase::Overruled(_) => WaitsFor::Nothing,
            Phase::Starting | Phase::Turning | Phase::Ending { .. } => WaitsFor::Log,
            Phase::Running | Phase::Compensating if self.paused.is_some() => WaitsFor::Human,
            Phase::Running if self.wanted.is_some() && self.has_undecided_pivot() => WaitsFor::Pivots(
                self.names(|index| self.definition.step(index).pivot && self.step(index).is_undecided()),
            ),
            Phase::Running if self.wanted.is_some() => WaitsFor::Log,
            Phase::Running | Phase::Compensating => WaitsFor::Steps,
        }
    }

    fn names(&self, which: impl Fn(StepIndex) -> bool) -> Vec<Name> {
        self.indices().filter(|index| which(*index)).map(|index| self.definition.step(index).name.clone()).collect()
    }

    fn view_step(&self, index: StepIndex) -> StepView {
        let (definition, step) = (self.definition.step(index), self.step(index));
        StepView {
            name: definition.name.clone(),
            participant: definition.participant.clone(),
            state: self.step_state(step),
            attempt: step.attempt,
            last_error: step.last_error.clone(),
            waits_for: self.step_waits_for(index),
        }
    }

    fn step_state(&self, step: &Step) -> StepState {
        let is_back = self.is_turn_durable();
        match step.progress {
            Progress::Refused if is_back && step.in_doubt => StepState::ToCompensate,
            Progress::Refused => StepState::Refused,
            Progress::Waiting | Progress::ActionDue | Progress::ActionRetry { .. } if is_back && step.in_doubt => {
                StepState::ToCompensate
            }
            Progress::Waiting | Progress::ActionDue | Progress::ActionRetry { .. } if is_back || self.is_ended() => {
                StepState::NotStarted
            }
            Progress::Waiting => StepState::Waiting,
            Progress::ActionDue | Progress::ActionRetry { .. } | Progress::Executing { .. } => StepState::Executing,
            Progress::Recording | Progress::Completed if is_back => StepState::ToCompensate,
            Progress::Recording | Progress::Completed => StepState::Completed,
            Progress::CompensationDue | Progress::Compensating { .. } | Progress::CompensationRetry { .. } => {
                // While the turn is being appended, the compensations behind it have not been sent.
                if is_back { StepState::Compensating } else { StepState::ToCompensate }
            }
            Progress::Stuck => StepState::Stuck,
            Progress::Compensated => StepState::Compensated,
        }
    }

    fn step_waits_for(&self, index: StepIndex) -> WaitsFor {
        if self.is_ended() {
            return WaitsFor::Nothing;
        }
        let step = self.step(index);
        match step.progress {
            Progress::Executing { .. } => WaitsFor::Answer,
            Progress::Compensating { .. } => WaitsFor::Answer,
            Progress::ActionRetry { unreachable } | Progress::CompensationRetry { unreachable } => {
                if unreachable {
                    WaitsFor::Participant
                } else {
                    WaitsFor::Retry
                }
            }
            Progress::Recording => WaitsFor::Log,
            Progress::Stuck => WaitsFor::Human,
            Progress::Compensated => WaitsFor::Nothing,
            Progress::Waiting
            | Progress::ActionDue
            | Progress::Completed
            | Progress::Refused
            | Progress::CompensationDue => {
                if self.is_turn_durable() {
                    self.waits_on_the_way_back(index)
                } else {
                    self.waits_on_the_way_forward(index)
                }
            }
        }
    }

    fn waits_on_the_way_forward(&self, index: StepIndex) -> WaitsFor {
        let step = self.step(index);
        if step.is_done() {
            return WaitsFor::Nothing;
        }
        if self.paused.is_some() {
            return WaitsFor::Human;
        }
        if self.wanted.is_some() || step.progress == Progress::Refused {
            return self.waits_for();
        }
        let open = |before: StepIndex| self.step(before).progress != Progress::Completed;
        self.these(&|before| self.definition.step(index).after.contains(&before) && open(before))
    }

    fn waits_on_the_way_back(&self, index: StepIndex) -> WaitsFor {
        let step = self.step(index);
        if step.is_settled() {
            return WaitsFor::Nothing;
        }
        if self.paused.is_some() {
            return WaitsFor::Human;
        }
        self.these(&|behind| self.definition.step(behind).after.contains(&index) && !self.step(behind).is_settled())
    }

    fn these(&self, which: &dyn Fn(StepIndex) -> bool) -> WaitsFor {
        let names = self.names(which);
        if names.is_empty() { WaitsFor::Log } else { WaitsFor::These(names) }
    }
}
