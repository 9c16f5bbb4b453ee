//! What a saga is made of: steps, what each waits for, and how each is retried.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{Name, ParticipantName};
use crate::retry::RetryPolicy;

/// The position of a step in its definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepIndex(pub u16);

/// A saga's steps: a DAG by construction, since a step may only name earlier ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<StepDefinition>", into = "Vec<StepDefinition>")]
pub struct Definition {
    steps: Vec<StepDefinition>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepDefinition {
    /// Unique within the saga.
    pub name: Name,
    /// Who executes and compensates it.
    pub participant: ParticipantName,
    /// Handed to the action and to its compensation.
    pub input: Bytes,
    /// The steps that must have completed before it starts; their outputs are handed to it.
    pub after: Vec<StepIndex>,
    /// How its action is retried.
    pub retry: RetryPolicy,
    /// How its compensation is retried.
    pub compensation_retry: RetryPolicy,
    /// Past a completed pivot there is only forward: no step that follows it may fail for good, and
    /// nothing is compensated.
    pub pivot: bool,
    /// Whether its result is forced to the log before the saga goes on.
    pub durable: bool,
}

/// What a step's action, or its compensation, answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StepResult {
    /// It took effect. The output goes to the steps behind it; a compensation's is empty.
    Done(Bytes),
    /// It had no effect and never will: the explicit no.
    Refused(String),
    /// It may or may not have taken effect: an error, a timeout, a lost connection.
    Unknown(String),
}

/// A definition that is not a saga.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDefinition {
    /// There is nothing to do.
    #[error("a saga needs at least one step")]
    Empty,
    /// More steps than can be numbered.
    #[error("a saga has at most {max} steps, not {steps}")]
    TooManySteps {
        /// How many were offered.
        steps: usize,
        /// How many there may be.
        max: usize,
    },
    /// Two steps share a name.
    #[error("two steps are named {0}; give each step of a saga its own name")]
    DuplicateStep(Name),
    /// A step waits for one that does not stand before it.
    #[error("step {step} comes after step number {after}, which is not defined before it")]
    UnknownDependency {
        /// The step that waits.
        step: Name,
        /// The number it waits for.
        after: u16,
    },
    /// A retry policy that makes no sense.
    #[error("the retry policy of step {step} is unusable: {problem}")]
    Retry {
        /// The step.
        step: Name,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Definition {
    /// The most steps that a saga may have.
    pub const STEPS_MAX: usize = 1_000;

    /// Checks the steps.
    ///
    /// # Errors
    /// [`InvalidDefinition`], with the first thing that is wrong.
    pub fn new(steps: Vec<StepDefinition>) -> Result<Self, InvalidDefinition> {
        if steps.is_empty() {
            return Err(InvalidDefinition::Empty);
        }
        if steps.len() > Self::STEPS_MAX {
            return Err(InvalidDefinition::TooManySteps { steps: steps.len(), max: Self::STEPS_MAX });
        }
        let mut names = std::collections::BTreeSet::new();
        for (position, step) in steps.iter().enumerate() {
            if !names.insert(&step.name) {
                return Err(InvalidDefinition::DuplicateStep(step.name.clone()));
            }
            if let Some(after) = step.after.iter().find(|after| usize::from(after.0) >= position) {
                return Err(InvalidDefinition::UnknownDependency { step: step.name.clone(), after: after.0 });
            }
            for policy in [&step.retry, &step.compensation_retry] {
                if let Some(problem) = problem_of(policy) {
                    return Err(InvalidDefinition::Retry { step: step.name.clone(), problem });
                }
            }
        }
        Ok(Self { steps })
    }

    /// The steps, each behind those it depends on.
    pub fn steps(&self) -> &[StepDefinition] {
        &self.steps
    }

    /// The same with inputs of its own: inputs that were cut out of a network buffer would keep all
    /// of it in memory for as long as the saga runs.
    #[must_use]
    pub fn detached(mut self) -> Self {
        for step in &mut self.steps {
            step.input = Bytes::copy_from_slice(&step.input);
        }
        self
    }

    /// One step.
    pub fn step(&self, index: StepIndex) -> &StepDefinition {
        &self.steps[usize::from(index.0)]
    }
}

fn problem_of(policy: &RetryPolicy) -> Option<&'static str> {
    if policy.multiplier_percent < 100 {
        Some("the multiplier is under 100 percent")
    } else if policy.initial_interval_ms == 0 {
        Some("the initial interval is zero")
    } else if policy.maximum_interval_ms < policy.initial_interval_ms {
        Some("the maximum interval is shorter than the initial one")
    } else if policy.attempt_timeout_ms == 0 {
        Some("the timeout of an attempt is zero")
    } else {
        None
    }
}

impl TryFrom<Vec<StepDefinition>> for Definition {
    type Error = InvalidDefinition;
    fn try_from(steps: Vec<StepDefinition>) -> Result<Self, InvalidDefinition> {
        Self::new(steps)
    }
}

impl From<Definition> for Vec<StepDefinition> {
    fn from(definition: Definition) -> Self {
        definition.steps
    }
}
