//! Sagas on the wire: steps name the steps that they wait for, and are numbered behind the edge.

use std::collections::HashMap;

use assent_protocol::saga::{Definition, InvalidDefinition, StepDefinition, StepIndex};
use assent_protocol::{Name, RetryPolicy};

use super::Malformed;
use super::shared::Reading;
use crate::text::{one_line, quoted};
use crate::v1;

/// The longest interval or timeout of a retry policy, in milliseconds: 365 days. Beyond it, arithmetic on deadlines and
/// the log's signed columns would have to expect overflow.
const RETRY_MS_MAX: u64 = 365 * 24 * 60 * 60 * 1_000;

const READING: Reading = Reading { message: "SagaDefinition", request_id: None };

impl TryFrom<v1::SagaDefinition> for Definition {
    type Error = Malformed;

    /// # Errors
    /// [`Malformed`], with the first thing that is wrong: a name that is none, a step named twice, a dependency that is
    /// unknown or stands behind its step (as one of any cycle does), a retry policy that makes no sense, too many steps.
    fn try_from(definition: v1::SagaDefinition) -> Result<Self, Malformed> {
        // Before anything is built: positions behind the bound could not be numbered.
        if definition.steps.len() > Self::STEPS_MAX {
            let invalid = InvalidDefinition::TooManySteps { steps: definition.steps.len(), max: Self::STEPS_MAX };
            return Err(READING.malformed(invalid.to_string()));
        }
        let mut steps = Vec::with_capacity(definition.steps.len());
        let mut known = HashMap::with_capacity(definition.steps.len());
        let mut remaining = definition.steps.into_iter();
        let mut index = 0;
        while let Some(step) = remaining.next() {
            let name = READING.name("step name", &step.name)?;
            let after = read_after(&name, &step.after, StepIndex(index), &mut known, remaining.as_slice())?;
            if known.insert(name.clone(), Known { index: StepIndex(index), named_by: None }).is_some() {
                return Err(READING.malformed(InvalidDefinition::DuplicateStep(name).to_string()));
            }
            steps.push(StepDefinition {
                participant: READING
                    .name("participant", &step.participant)
                    .map_err(|error| Malformed { problem: format!("step {name}: {}", error.problem), ..error })?,
                input: step.input,
                after,
                retry: read_retry(&name, "retry", step.retry)?,
                compensation_retry: read_retry(&name, "compensation_retry", step.compensation_retry)?,
                pivot: step.pivot,
                durable: step.durable,
                name,
            });
            index += 1;
        }
        Self::new(steps).map_err(|invalid| READING.malformed(invalid.to_string()))
    }
}

/// A step that stands before the one being read.
struct Known {
    index: StepIndex,
    /// The last step that named it, to notice a step that names it twice without searching.
    named_by: Option<StepIndex>,
}

fn read_after(
    step: &Name,
    after: &[String],
    index: StepIndex,
    known: &mut HashMap<Name, Known>,
    remaining: &[v1::SagaStep],
) -> Result<Vec<StepIndex>, Malformed> {
    let mut indexes = Vec::new();
    for dependency in after {
        let problem = match known.get_mut(dependency.as_str()) {
            Some(earlier) if earlier.named_by != Some(index) => {
                earlier.named_by = Some(index);
                indexes.push(earlier.index);
                continue;
            }
            Some(_) => format!("step {step} names {dependency} twice in after; leave one out"),
            None if dependency == step.as_str() => format!("step {step} comes after itself; leave that out"),
            None if remaining.iter().any(|later| later.name == *dependency) => format!(
                "step {step} comes after {dependency}, which stands behind it: put each step behind those that it \
                 waits for (steps that wait for one another in a circle have no such order)"
            ),
            None => format!(
                "step {step} comes after {}, but no step has this name; name a step that stands before it",
                quoted(dependency)
            ),
        };
        return Err(READING.malformed(problem));
    }
    Ok(indexes)
}

fn read_retry(step: &Name, field: &str, policy: Option<v1::RetryPolicy>) -> Result<RetryPolicy, Malformed> {
    let default = RetryPolicy::default();
    let Some(policy) = policy else { return Ok(default) };
    let milliseconds = |setting: &str, given: u64, default: u64| match given {
        0 => Ok(default),
        1..=RETRY_MS_MAX => Ok(given),
        _ => Err(READING.malformed(format!(
            "the {field} policy of step {step} is unusable: {setting} is {given}, and at most {RETRY_MS_MAX} (365 days)"
        ))),
    };
    Ok(RetryPolicy {
        initial_interval_ms: milliseconds(
            "initial_interval_ms",
            policy.initial_interval_ms,
            default.initial_interval_ms,
        )?,
        maximum_interval_ms: milliseconds(
            "maximum_interval_ms",
            policy.maximum_interval_ms,
            default.maximum_interval_ms,
        )?,
        multiplier_percent: if policy.multiplier_percent == 0 {
            default.multiplier_percent
        } else {
            policy.multiplier_percent
        },
        attempts_max: policy.attempts_max,
        attempt_timeout_ms: milliseconds("attempt_timeout_ms", policy.attempt_timeout_ms, default.attempt_timeout_ms)?,
        // Compared with reasons that were made one line themselves.
        non_retryable: policy.non_retryable.into_iter().map(one_line).collect(),
    })
}

impl From<Definition> for v1::SagaDefinition {
    fn from(definition: Definition) -> Self {
        let definitions: Vec<StepDefinition> = definition.into();
        let mut steps: Vec<v1::SagaStep> = Vec::with_capacity(definitions.len());
        for step in definitions {
            // A step only names earlier ones, and those are written already.
            let after = step.after.iter().map(|index| steps[usize::from(index.0)].name.clone()).collect();
            steps.push(v1::SagaStep {
                name: step.name.into(),
                participant: step.participant.into(),
                input: step.input,
                after,
                retry: retry_to_wire(step.retry),
                compensation_retry: retry_to_wire(step.compensation_retry),
                pivot: step.pivot,
                durable: step.durable,
            });
        }
        Self { steps }
    }
}

/// The default policy is left out, as most steps have it.
fn retry_to_wire(policy: RetryPolicy) -> Option<v1::RetryPolicy> {
    (policy != RetryPolicy::default()).then_some(v1::RetryPolicy {
        initial_interval_ms: policy.initial_interval_ms,
        maximum_interval_ms: policy.maximum_interval_ms,
        multiplier_percent: policy.multiplier_percent,
        attempts_max: policy.attempts_max,
        attempt_timeout_ms: policy.attempt_timeout_ms,
        non_retryable: policy.non_retryable,
    })
}
