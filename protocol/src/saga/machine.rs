//! The saga machine: its states, its table, its way in.
//!
//! # States
//! | state | means | forced record in flight |
//! |---|---|---|
//! | starting | nobody has been told or asked anything | `SagaStarted` |
//! | running | steps start as their dependencies complete | none, or one `SagaStep` |
//! | deciding | it is to turn back, and cannot yet: a pivot may have taken effect, or a `SagaStep` is being appended | none, or one `SagaStep` |
//! | turning | no action starts any more | `SagaTurned` |
//! | compensating | the way back | none |
//! | paused running | nothing is sent; answers are noted | none, or one `SagaStep` |
//! | paused compensating | the same on the way back | none |
//! | ending | every step is where the outcome wants it | `Ended` |
//! | ended | over | none |
//! | overruled | the log holds another writer's word: this copy does nothing any more | none |
//!
//! # Transitions
//! | event | starting | running | deciding | turning | compensating | paused running | paused comp. | ending | ended | overruled |
//! |---|---|---|---|---|---|---|---|---|---|---|
//! | `StepAnswered`, action | – | go | decide | note | back | note | note | – | – | – |
//! | `StepAnswered`, compensation | – | – | – | – | back | – | note | – | – | – |
//! | `Sent` | note | note | note | note | note | note | note | – | – | – |
//! | `Undeliverable` | note | go | decide | note | back | note | note | – | – | – |
//! | `Joined` | – | again | again | again | again | – | – | – | – | – |
//! | `Left` | note | go | decide | note | back | note | note | – | – | – |
//! | `TimerFired` | note | go | decide | note | back | note | note | – | – | – |
//! | `Appended`, durable | running | go | decide | compensating | – | note | – | ended | – | – |
//! | `Appended`, overruled | overruled | overruled | overruled | overruled | – | overruled | – | overruled | – | – |
//! | `StartRequested` | wait | answer | answer | answer | answer | answer | answer | wait | answer | answer |
//! | `WaitRequested` | wait | answer | answer | answer | answer | answer | answer | wait | answer | answer |
//! | `CompensateRequested` | want | decide | decide | wait | answer | want | answer | wait | answer | answer |
//! | `CallerLeft` | forget | forget | forget | forget | forget | forget | forget | forget | – | – |
//! | `PauseRequested` | pause | pause | pause | pause | pause | – | – | – | – | – |
//! | `ResumeRequested` | unpause | again | again | unpause | again | again | again | – | – | – |
//!
//! - **–** changes nothing. So does, in every state, an answer or timer of another attempt than the
//!   step's last, an answer to a step that is already answered, and an action's answer once its
//!   compensation was sent: the participant's barrier saw to it that the action has no effect.
//! - **note** the step moves; nothing is sent for it until the append or the pause is over.
//! - **go** the step moves, and what that allows is sent: the steps whose dependencies are
//!   complete; after an unknown outcome a retry timer. After a refusal, or when the retry policy is
//!   used up, it goes on as *decide*. When every step is done: *ending*.
//! - **decide** turns back as soon as that is safe. *Past a completed pivot* the wish to turn is
//!   dropped (callers learn `PastPivot`), every open step is retried without end, and a refused one
//!   pauses the saga with a remedy. *While a pivot may have taken effect* (in flight, timed out,
//!   lost, or perhaps sent before a restart) nothing new starts, and only such a pivot is tried
//!   again until it says done or is refused for all its attempts, because turning now would leave
//!   its effect behind or undo what must not be undone, and going on could make a refusal
//!   permanent. A refusal is for all attempts if the participant says that it is final, or if no
//!   other attempt has an unknown outcome; any other refusal of a pivot counts as an unknown
//!   outcome. So no pivot is ever compensated. *While a `SagaStep` is being appended* its answer is
//!   awaited. Otherwise: *turning*, or straight to *ending* where there is nothing to compensate,
//!   since then the outcome itself is the decision.
//! - **back** the step moves, and each step behind which everything is undone, or never was, is
//!   compensated. A compensation that is refused, or has used up its policy, makes it *paused
//!   compensating* with a remedy. When every step is undone: *ending*.
//! - **again** waits for retries end and the attempts go out: after `Joined` for what could not
//!   reach that participant; after `ResumeRequested` for everything, with fresh budgets, including
//!   what a pause was for.
//! - **wait**, **answer** the caller is told later, or now. `StartRequested` with another digest is
//!   answered `KeyReused` at once.
//! - **want** the turn is decided after the append, or after the pause.
//! - **pause** nothing new is sent; retry timers are cancelled; what is in flight may still answer.
//!   **unpause** takes that back.
//! - **forget** the callers of that session wait no more.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::definition::{Definition, StepIndex};
use super::effect::{Effect, Reply};
use super::event::{Event, Wait};
use super::pause::Pause;
use super::step::Step;
use crate::durable::Output;
use crate::ids::{BodyDigest, Caller, Epoch, Gtid};
use crate::record::{Decision, Outcome, Record, SagaStarted};

/// One saga, as its coordinator knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Saga {
    pub(super) gtid: Gtid,
    pub(super) epoch: Epoch,
    pub(super) definition: Definition,
    pub(super) digest: BodyDigest,
    pub(super) begun_at_ms: u64,
    pub(super) phase: Phase,
    /// The step whose forced record is in flight; only in `Phase::Running`.
    pub(super) recording: Option<StepIndex>,
    /// Why it is to turn back as soon as that is safe; only in `Phase::Starting` and
    /// `Phase::Running`.
    pub(super) wanted: Option<String>,
    /// Why it turned back. It may be told once the phase says that this is durable.
    pub(super) turned: Option<String>,
    /// Nothing is sent while this is set.
    pub(super) paused: Option<Pause>,
    /// As many as the definition has.
    pub(super) steps: Vec<Step>,
    pub(super) callers: Callers,
}

/// The part of the state that is in, or on its way to, the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) enum Phase {
    /// `SagaStarted` is being appended.
    Starting,
    /// Forward.
    Running,
    /// `SagaTurned` is being appended.
    Turning,
    /// Back.
    Compensating,
    /// `Ended` is being appended.
    Ending {
        /// What it says.
        outcome: Outcome,
        /// Whether `SagaTurned` is durable.
        turned: bool,
    },
    /// Over.
    Ended(Outcome),
    /// Another writer was first.
    Overruled(Decision),
}

/// Who waits for what.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Callers {
    /// For the start to be durable.
    pub(super) started: BTreeSet<Caller>,
    /// For the turn to be durable.
    pub(super) turned: BTreeSet<Caller>,
    /// For the end to be durable.
    pub(super) ended: BTreeSet<Caller>,
    /// For the record in flight, behind which their answers are sealed.
    pub(super) answered: BTreeSet<Caller>,
}

/// The rows of states in the transition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The start is being appended.
    Starting,
    /// Forward.
    Running,
    /// To turn back, and not yet able to.
    Deciding,
    /// The turn is being appended.
    Turning,
    /// Back.
    Compensating,
    /// Stopped on the way forward.
    PausedRunning,
    /// Stopped on the way back.
    PausedCompensating,
    /// The end is being appended.
    Ending,
    /// Over.
    Ended,
    /// Another writer was first.
    Overruled,
}

/// What one event has led to so far.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) effects: Vec<Effect>,
    pub(super) lazy: Vec<Record>,
}

impl Draft {
    pub(super) fn reply(&mut self, to: Caller, reply: Reply) {
        self.effects.push(Effect::Reply { to, reply });
    }

    pub(super) fn reply_all(&mut self, to: BTreeSet<Caller>, reply: &Reply) {
        self.effects.extend(to.into_iter().map(|to| Effect::Reply { to, reply: reply.clone() }));
    }

    /// Nothing of it has to wait for the log.
    pub(super) fn free(self) -> Output<Effect> {
        self.lazy.into_iter().fold(Output::effects(self.effects), Output::with_lazy)
    }
}

impl Saga {
    /// Begins a saga. The output forces `SagaStarted` and holds the root steps behind it, and the
    /// caller's answer where it waits for the start only.
    pub fn start(
        gtid: Gtid,
        epoch: Epoch,
        definition: Definition,
        digest: BodyDigest,
        begun_at_ms: u64,
        caller: Caller,
        wait: Wait,
    ) -> (Self, Output<Effect>) {
        let started = SagaStarted { gtid, definition, digest, begun_at_ms };
        let mut saga = Self::unstarted(epoch, started.clone());
        let mut draft = Draft::default();
        match wait {
            Wait::Started => draft.reply(caller, Reply::Started),
            Wait::Ended => {
                saga.callers.ended.insert(caller);
            }
        }
        saga.execute_due(None, &mut draft);
        let output = saga.seal(draft, Record::SagaStarted(started));
        (saga, output)
    }

    /// All of the draft waits for the record. Should the log overrule it, its answers are never
    /// released: their callers are kept until then.
    pub(super) fn seal(&mut self, draft: Draft, forced: Record) -> Output<Effect> {
        let callers = draft.effects.iter().filter_map(|effect| match effect {
            Effect::Reply { to, .. } => Some(*to),
            Effect::Execute { .. }
            | Effect::Compensate { .. }
            | Effect::SetTimer { .. }
            | Effect::CancelTimer { .. } => None,
        });
        self.callers.answered.extend(callers);
        draft.lazy.into_iter().fold(Output::after(forced, draft.effects), Output::with_lazy)
    }

    /// A saga of which nothing has been sent.
    pub(super) fn unstarted(epoch: Epoch, started: SagaStarted) -> Self {
        let SagaStarted { gtid, definition, digest, begun_at_ms } = started;
        let steps = vec![Step::new(); definition.steps().len()];
        Self {
            gtid,
            epoch,
            definition,
            digest,
            begun_at_ms,
            phase: Phase::Starting,
            recording: None,
            wanted: None,
            turned: None,
            paused: None,
            steps,
            callers: Callers::default(),
        }
    }

    /// Takes one event.
    pub fn handle(&mut self, event: Event) -> Output<Effect> {
        match event {
            Event::StepAnswered { step, compensation, attempt, instance, result, is_final } => {
                self.answered(step, compensation, attempt, instance, result, is_final)
            }
            Event::Sent { step, compensation, attempt, instance } => self.sent(step, compensation, attempt, instance),
            Event::Undeliverable { step, compensation, attempt } => self.undeliverable(step, compensation, attempt),
            Event::Joined { participant } => self.joined(&participant),
            Event::Left { participant, instance } => self.left(&participant, instance),
            Event::TimerFired(timer) => self.timer_fired(timer),
            Event::Appended(appended) => self.appended(&appended),
            Event::StartRequested { digest, caller, wait } => self.start_requested(digest, caller, wait),
            Event::WaitRequested { caller, wait } => self.wait_requested(caller, wait),
            Event::CompensateRequested { reason, caller } => self.compensate_requested(&reason, caller),
            Event::CallerLeft { session } => self.caller_left(session),
            Event::PauseRequested { reason } => self.pause_requested(&reason),
            Event::ResumeRequested => self.resume_requested(),
        }
    }

    /// Does what the state now allows, in the direction it has.
    pub(super) fn advance(&mut self, draft: Draft) -> Output<Effect> {
        match self.phase {
            Phase::Running => self.go_forward(draft),
            Phase::Compensating => self.go_back(draft),
            Phase::Starting | Phase::Turning | Phase::Ending { .. } | Phase::Ended(_) | Phase::Overruled(_) => {
                draft.free()
            }
        }
    }

    /// Which column of the transition table applies.
    pub fn stage(&self) -> Stage {
        match (self.phase, &self.paused, &self.wanted) {
            (Phase::Starting, _, _) => Stage::Starting,
            (Phase::Running, Some(_), _) => Stage::PausedRunning,
            (Phase::Running, None, Some(_)) => Stage::Deciding,
            (Phase::Running, None, None) => Stage::Running,
            (Phase::Turning, _, _) => Stage::Turning,
            (Phase::Compensating, Some(_), _) => Stage::PausedCompensating,
            (Phase::Compensating, None, _) => Stage::Compensating,
            (Phase::Ending { .. }, _, _) => Stage::Ending,
            (Phase::Ended(_), _, _) => Stage::Ended,
            (Phase::Overruled(_), _, _) => Stage::Overruled,
        }
    }

    /// The numbers of its steps, in the definition's order.
    pub(super) fn indices(&self) -> impl DoubleEndedIterator<Item = StepIndex> + use<> {
        // A definition has at most `Definition::STEPS_MAX` steps, which a `u16` can number.
        (0..self.steps.len() as u16).map(StepIndex)
    }

    pub(super) fn step(&self, index: StepIndex) -> &Step {
        &self.steps[usize::from(index.0)]
    }

    pub(super) fn step_mut(&mut self, index: StepIndex) -> &mut Step {
        &mut self.steps[usize::from(index.0)]
    }
}

/// Cuts what others wrote, so that no participant decides how much memory its errors take.
pub(super) fn cut(text: &str) -> String {
    const REASON_CHARS_MAX: usize = 1_000;
    text.chars().take(REASON_CHARS_MAX).collect()
}
