//! Describing a saga: steps, and the steps that each comes after.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use assent_protocol::saga::{Definition, InvalidDefinition, StepDefinition, StepIndex};
use assent_protocol::{InvalidName, Name, ParticipantName, RetryPolicy};
use bytes::Bytes;

/// Describes a saga.
///
/// A step starts as soon as the steps that it comes [`after`](StepBuilder::after) have completed; steps with nothing
/// between them run at the same time. A step can only come after one that was added before it, so no cycle can be
/// written.
///
/// ```
/// use std::time::Duration;
/// use assent_sdk::saga::{InvalidSaga, Retry, SagaBuilder};
/// # use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize)]
/// struct Trip { from: &'static str, to: &'static str, nights: u32 }
/// #[derive(Deserialize)]
/// struct Ticket { seat: String }
///
/// # fn main() -> Result<(), InvalidSaga> {
/// let trip = Trip { from: "OSL", to: "LIS", nights: 3 };
///
/// let mut saga = SagaBuilder::new();
/// // These two run at the same time ...
/// let flight = saga.step("flight", "airline").input_json(&trip).output::<Ticket>().add();
/// let hotel = saga.step("hotel", "hotels").input_json(&trip).add();
/// // ... and this one gets the outputs of both. Once it has taken effect there is no way back.
/// let payment = saga
///     .step("payment", "bank")
///     .after(&flight)
///     .after(&hotel)
///     .retry(Retry::exponential(Duration::from_millis(200)).attempts(5))
///     .pivot()
///     .add();
/// saga.step("mail", "mailer").after(&payment).add();
///
/// let definition = saga.build()?;
/// # assert_eq!(definition.steps().len(), 4);
/// # Ok(())
/// # }
/// ```
///
/// The handle that a step waits for has to be there, so neither of these two can come first:
///
/// ```compile_fail,E0381
/// let mut saga = assent_sdk::saga::SagaBuilder::new();
/// let (chicken, egg): (assent_sdk::saga::StepHandle, assent_sdk::saga::StepHandle);
/// chicken = saga.step("chicken", "farm").after(&egg).add();
/// egg = saga.step("egg", "farm").after(&chicken).add();
/// ```
///
/// Mistakes do not stop the description: [`build`](Self::build) reports the first one.
#[derive(Debug)]
pub struct SagaBuilder {
    brand: Brand,
    steps: Vec<StepDefinition>,
    mistake: Option<InvalidSaga>,
}

/// Tells builders apart within the process, so that a handle is not taken for a step of another saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Brand(u64);

/// A step that was added to a saga, and what its output is. Steps come [`after`](StepBuilder::after) it, and
/// [`Outputs::get`](super::Outputs::get) takes it for what the step gave.
#[derive(Debug)]
pub struct StepHandle<T = Untyped> {
    brand: Brand,
    index: StepIndex,
    name: Arc<str>,
    output: PhantomData<fn() -> T>,
}

/// The output of a step of which nobody has said what it is: bytes. See [`StepBuilder::output`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untyped;

/// One step, until it is [added](Self::add).
#[derive(Debug)]
#[must_use = "the step is part of the saga only once it is added: end with .add()"]
pub struct StepBuilder<'saga, T = Untyped> {
    saga: &'saga mut SagaBuilder,
    draft: Draft,
    output: PhantomData<fn() -> T>,
}

#[derive(Debug)]
struct Draft {
    name: Arc<str>,
    participant: Arc<str>,
    input: Bytes,
    after: Vec<StepIndex>,
    retry: RetryPolicy,
    compensation_retry: RetryPolicy,
    pivot: bool,
    durable: bool,
    mistake: Option<InvalidSaga>,
}

/// What was described is not a saga.
#[derive(thiserror::Error)]
pub enum InvalidSaga {
    /// A step's name is none.
    #[error("a step of the saga has an unusable name")]
    StepName(#[source] InvalidName),
    /// The name of a step's participant is none.
    #[error("the participant of step {step} has an unusable name")]
    ParticipantName {
        /// The step.
        step: Name,
        /// What is wrong with the name.
        source: InvalidName,
    },
    /// A step's input cannot be written as JSON.
    #[error("the input of step {step} cannot be written as JSON")]
    Input {
        /// The step, as it was named.
        step: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A step comes after a step of another saga.
    #[error("step {step} comes after {after}, which is a step of another saga: use a handle that this builder gave")]
    ForeignStep {
        /// The step, as it was named.
        step: String,
        /// The other saga's step.
        after: String,
    },
    /// The steps do not make a saga.
    #[error(transparent)]
    Definition(#[from] InvalidDefinition),
}

crate::error_chain::debug_as_chain!(InvalidSaga);

impl SagaBuilder {
    /// A saga without steps.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { brand: Brand(NEXT.fetch_add(1, Ordering::Relaxed)), steps: Vec::new(), mistake: None }
    }

    /// Describes a step. Names are 1 to 63 of `a-z 0-9 - _ .`, and a step's name is unique within its saga.
    pub fn step(&mut self, name: &str, participant: &str) -> StepBuilder<'_> {
        StepBuilder {
            saga: self,
            draft: Draft {
                name: name.into(),
                participant: participant.into(),
                input: Bytes::new(),
                after: Vec::new(),
                retry: RetryPolicy::default(),
                compensation_retry: RetryPolicy::default(),
                pivot: false,
                durable: false,
                mistake: None,
            },
            output: PhantomData,
        }
    }

    /// The saga.
    ///
    /// # Errors
    /// [`InvalidSaga`], with the first mistake that was made.
    pub fn build(self) -> Result<Definition, InvalidSaga> {
        match self.mistake {
            Some(mistake) => Err(mistake),
            None => Ok(Definition::new(self.steps)?),
        }
    }

    fn add(&mut self, draft: Draft) -> StepIndex {
        // Behind the most steps that a saga may have, the number is of no step: such a saga is not built.
        let index = StepIndex(u16::try_from(self.steps.len()).unwrap_or(u16::MAX));
        match draft.into_definition() {
            Ok(step) => self.steps.push(step),
            Err(mistake) => {
                self.mistake.get_or_insert(mistake);
            }
        }
        index
    }
}

impl Default for SagaBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl<'saga, T> StepBuilder<'saga, T> {
    /// What the action and its compensation are given. Nothing, by default.
    pub fn input(mut self, input: impl Into<Bytes>) -> Self {
        self.draft.input = input.into();
        self
    }

    /// What the action and its compensation are given, as JSON: their [`Step::input_json`](super::Step::input_json).
    pub fn input_json<I: serde::Serialize + ?Sized>(mut self, input: &I) -> Self {
        match serde_json::to_vec(input) {
            Ok(input) => self.draft.input = input.into(),
            Err(source) => self.draft.mistaken(InvalidSaga::Input { step: self.draft.name.to_string(), source }),
        }
        self
    }

    /// What the action gives, as JSON: its [`Executed::json`](super::Executed::json). Then
    /// [`Outputs::get`](super::Outputs::get) reads it with this step's handle.
    pub fn output<U>(self) -> StepBuilder<'saga, U> {
        StepBuilder { saga: self.saga, draft: self.draft, output: PhantomData }
    }

    /// Starts it only once that step has completed, and hands it that step's output. Say it again for each step that
    /// this one comes after. On the way back this one is compensated first.
    pub fn after<U>(mut self, step: &StepHandle<U>) -> Self {
        if step.brand != self.saga.brand {
            let (step, after) = (self.draft.name.to_string(), step.name.to_string());
            self.draft.mistaken(InvalidSaga::ForeignStep { step, after });
        } else if !self.draft.after.contains(&step.index) {
            self.draft.after.push(step.index);
        }
        self
    }

    /// Starts it only once all of these have completed, as [`after`](Self::after) does: for steps that were added in a
    /// loop.
    pub fn after_all<'a, U: 'a>(self, steps: impl IntoIterator<Item = &'a StepHandle<U>>) -> Self {
        steps.into_iter().fold(self, Self::after)
    }

    /// How its action is tried again, where its outcome is unknown. By default from 100 ms, doubling to 30 s, without
    /// end, 10 s an attempt.
    pub fn retry(mut self, retry: impl Into<RetryPolicy>) -> Self {
        self.draft.retry = retry.into();
        self
    }

    /// How its compensation is tried again. The default is that of [`retry`](Self::retry), and has a reason to be
    /// without end: a compensation that is given up leaves the saga to a human.
    pub fn compensation_retry(mut self, retry: impl Into<RetryPolicy>) -> Self {
        self.draft.compensation_retry = retry.into();
        self
    }

    /// Makes it the point of no return: once its action has taken effect, nothing of the saga is compensated, and every
    /// other step is tried until it completes. For a step that cannot be undone, with only steps behind it that cannot
    /// be refused.
    ///
    /// A pivot itself is never compensated. After an attempt without an answer the saga asks again, whatever the retry policy says, until the
    /// pivot is done or its participant refuses it [finally](super::Executed::FinallyRefused): only then is it certain that the earlier
    /// attempt has no effect and will have none. The [barrier](crate::postgres::barrier) refuses pivots so.
    pub fn pivot(mut self) -> Self {
        self.draft.pivot = true;
        self
    }

    /// Forces its result to the log before the saga goes on, at the cost of one write. Otherwise a crash of the
    /// coordinator may lose the result, and the action is asked again and answers the same. What a pivot waits for is
    /// forced anyway.
    pub fn durable(mut self) -> Self {
        self.draft.durable = true;
        self
    }

    /// Adds the step to the saga.
    pub fn add(self) -> StepHandle<T> {
        let (brand, name) = (self.saga.brand, self.draft.name.clone());
        StepHandle { brand, index: self.saga.add(self.draft), name, output: PhantomData }
    }
}

impl Draft {
    fn mistaken(&mut self, mistake: InvalidSaga) {
        self.mistake.get_or_insert(mistake);
    }

    fn into_definition(self) -> Result<StepDefinition, InvalidSaga> {
        let name = Name::new(&self.name).map_err(InvalidSaga::StepName)?;
        let participant = ParticipantName::new(&self.participant)
            .map_err(|source| InvalidSaga::ParticipantName { step: name.clone(), source })?;
        if let Some(mistake) = self.mistake {
            return Err(mistake);
        }
        Ok(StepDefinition {
            name,
            participant,
            input: self.input,
            after: self.after,
            retry: self.retry,
            compensation_retry: self.compensation_retry,
            pivot: self.pivot,
            durable: self.durable,
        })
    }
}

impl<T> StepHandle<T> {
    /// The step's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

// Not derived: a handle is cloned whatever its step's output is.
impl<T> Clone for StepHandle<T> {
    fn clone(&self) -> Self {
        Self { brand: self.brand, index: self.index, name: self.name.clone(), output: PhantomData }
    }
}

#[cfg(test)]
mod tests;
