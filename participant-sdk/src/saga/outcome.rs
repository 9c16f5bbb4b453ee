//! What became of a saga.

use std::collections::BTreeMap;

use assent_protocol::{AbortReason, Gtid, Name};
use bytes::Bytes;

use super::StepHandle;

/// What became of a saga.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a saga that was compensated has had no effect"]
pub enum SagaOutcome {
    /// Every step took effect.
    Completed(Outputs),
    /// No step has a net effect, for a reason.
    Compensated(AbortReason),
    /// Nobody here knows. The coordinator may be driving it on, or may not have heard of it: ask again, with
    /// [`saga_outcome`](crate::Assent::saga_outcome).
    InDoubt {
        /// Which saga to ask about.
        gtid: Gtid,
    },
}

/// A saga that has not completed, as an error.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCompleted {
    /// No step has a net effect.
    #[error("the saga was compensated: {0}")]
    Compensated(AbortReason),
    /// Nobody here knows.
    #[error("it is not known what became of saga {gtid}: ask again about it")]
    InDoubt {
        /// Which saga to ask about.
        gtid: Gtid,
    },
}

impl SagaOutcome {
    /// The outputs of a saga that has to have completed.
    ///
    /// # Errors
    /// [`NotCompleted`] if it was compensated, or nobody knows.
    pub fn completed(self) -> Result<Outputs, NotCompleted> {
        match self {
            Self::Completed(outputs) => Ok(outputs),
            Self::Compensated(reason) => Err(NotCompleted::Compensated(reason)),
            Self::InDoubt { gtid } => Err(NotCompleted::InDoubt { gtid }),
        }
    }
}

/// What the steps of a completed saga gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    by_step: BTreeMap<Name, Bytes>,
}

/// An output that cannot be had.
#[derive(thiserror::Error)]
pub enum InvalidOutput {
    /// The saga has no step of this name.
    #[error("the saga has no step {step}: is the handle one of another saga?")]
    UnknownStep {
        /// The name.
        step: String,
    },
    /// The output is not what its step's handle says.
    #[error("the output of step {step} is not what was expected of it")]
    Json {
        /// The step.
        step: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

crate::error_chain::debug_as_chain!(NotCompleted, InvalidOutput);

impl Outputs {
    /// What a step gave, of which [`StepBuilder::output`](super::StepBuilder::output) says what it is.
    ///
    /// The handle stands for the step's name and the type. One of the same steps that were described once more, by an
    /// initiator that started anew, is as good.
    ///
    /// # Errors
    /// [`InvalidOutput`] if the participant gave something else, or the saga has no step of this name.
    pub fn get<T: serde::de::DeserializeOwned>(&self, step: &StepHandle<T>) -> Result<T, InvalidOutput> {
        let unknown = || InvalidOutput::UnknownStep { step: step.name().into() };
        let output = self.bytes(step.name()).ok_or_else(unknown)?;
        serde_json::from_slice(output).map_err(|source| InvalidOutput::Json { step: step.name().into(), source })
    }

    /// What a step gave, as it is; `None` if the saga has no such step.
    pub fn bytes(&self, step: &str) -> Option<&Bytes> {
        self.by_step.get(step)
    }

    /// What every step gave, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Bytes)> {
        self.by_step.iter()
    }
}

impl FromIterator<(Name, Bytes)> for Outputs {
    fn from_iter<I: IntoIterator<Item = (Name, Bytes)>>(outputs: I) -> Self {
        Self { by_step: outputs.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use assent_protocol::AbortCode;
    use serde::Deserialize;

    use super::*;
    use crate::saga::SagaBuilder;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Ticket {
        seat: String,
    }

    fn outputs(outputs: &[(&str, &'static str)]) -> Outputs {
        let named = |(name, output): &(&str, &'static str)| {
            (Name::new(name).expect("a name"), Bytes::from_static(output.as_bytes()))
        };
        outputs.iter().map(named).collect()
    }

    #[test]
    fn a_handle_reads_its_steps_output() {
        let mut saga = SagaBuilder::new();
        let flight = saga.step("flight", "airline").output::<Ticket>().add();
        let nights = saga.step("hotel", "hotels").output::<u32>().add();
        let outputs = outputs(&[("flight", r#"{"seat":"12A"}"#), ("hotel", "3"), ("mail", "sent")]);
        assert_eq!(outputs.get(&flight).expect("a ticket"), Ticket { seat: "12A".into() });
        assert_eq!(outputs.get(&nights).expect("a number"), 3);
        assert_eq!(outputs.bytes("mail").expect("bytes"), "sent");
        assert_eq!(outputs.bytes("flights"), None);
        let names: Vec<_> = outputs.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["flight", "hotel", "mail"]);
    }

    #[test]
    fn an_output_of_another_kind_is_told_with_its_step() {
        let mut saga = SagaBuilder::new();
        let flight = saga.step("flight", "airline").output::<Ticket>().add();
        for other in ["", "12A", r#"{"seat":7}"#] {
            let error = outputs(&[("flight", other)]).get(&flight).expect_err("no ticket");
            assert_eq!(error.to_string(), "the output of step flight is not what was expected of it");
            assert!(error.source().is_some());
        }
        let error = outputs(&[("hotel", "3")]).get(&flight).expect_err("no such step");
        assert_eq!(error.to_string(), "the saga has no step flight: is the handle one of another saga?");
    }

    #[test]
    fn only_a_completed_saga_has_outputs() {
        let outputs = outputs(&[("hotel", "3")]);
        assert_eq!(SagaOutcome::Completed(outputs.clone()).completed(), Ok(outputs));
        let hotels = Name::new("hotels").expect("a name");
        let refused = AbortReason::by(AbortCode::Refused, &hotels, "no room");
        let error = SagaOutcome::Compensated(refused).completed().expect_err("compensated");
        assert_eq!(error.to_string(), "the saga was compensated: REFUSED by hotels: no room");
        let gtid: Gtid = "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("valid");
        assert_eq!(SagaOutcome::InDoubt { gtid }.completed(), Err(NotCompleted::InDoubt { gtid }));
    }
}
