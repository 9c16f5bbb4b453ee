//! What a participant of sagas implements.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use assent_protocol::saga::StepIndex;
use assent_protocol::{Gtid, Name, ParticipantName};
use bytes::Bytes;

use crate::participant::BoxError;

/// A service that executes and compensates saga steps.
///
/// Both hooks may be called again for the same step, by this process or another instance. For each step of a saga:
/// 1. the action takes effect once; called again after it is done, it gives the same output;
/// 2. the compensation undoes a done action once, and does nothing for one that is not done;
/// 3. after its compensation the action does nothing, whenever it arrives.
///
/// The [barrier](crate::postgres::barrier) gives all three within the service's own database transaction.
pub trait SagaParticipant: Send + Sync + 'static {
    /// Executes a step's action.
    ///
    /// # Errors
    /// An error says that nobody knows whether it took effect: it is tried again under the step's retry policy.
    fn execute(&self, step: &Step) -> impl Future<Output = Result<Executed, BoxError>> + Send;

    /// Undoes a step's action, or sees to it that it never takes effect.
    ///
    /// # Errors
    /// An error says that nobody knows whether it is undone: it is tried again.
    fn compensate(&self, step: &Step) -> impl Future<Output = Result<Compensated, BoxError>> + Send;
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Executed {
    /// It took effect; the output goes to the steps behind it.
    Done(Bytes),
    /// It had no effect, for a reason: the saga turns back, or as its policy says.
    Refused(String),
}

impl Executed {
    /// Done, without an output.
    pub fn done() -> Self {
        Self::Done(Bytes::new())
    }

    /// Done, with an output as JSON.
    ///
    /// # Errors
    /// [`serde_json::Error`] if the value cannot be written as JSON.
    pub fn json<T: serde::Serialize>(output: &T) -> Result<Self, serde_json::Error> {
        Ok(Self::Done(serde_json::to_vec(output)?.into()))
    }

    /// Refused, with its reason.
    pub fn refused(reason: impl fmt::Display) -> Self {
        Self::Refused(reason.to_string())
    }
}

/// What came of a compensation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compensated {
    /// Nothing of the action is left, and nothing of it will come.
    Done,
    /// It cannot be undone, for a reason: the saga pauses for a human.
    Refused(String),
}

/// One step of one saga, as its hooks see it.
#[derive(Clone, Debug)]
pub struct Step {
    pub(crate) gtid: Gtid,
    pub(crate) participant: ParticipantName,
    pub(crate) index: StepIndex,
    pub(crate) name: Name,
    pub(crate) attempt: u32,
    pub(crate) input: Bytes,
    pub(crate) outputs: Vec<(Name, Bytes)>,
    pub(crate) output: Option<Bytes>,
    pub(crate) timeout: Duration,
}

impl Step {
    /// The first attempt of a step that comes after no other, for a test of a participant's hooks. Those that hooks are called with
    /// come from the session.
    pub fn new(
        gtid: Gtid,
        participant: ParticipantName,
        index: StepIndex,
        name: Name,
        input: impl Into<Bytes>,
        timeout: Duration,
    ) -> Self {
        let (input, outputs) = (input.into(), Vec::new());
        Self { gtid, participant, index, name, attempt: 1, input, outputs, output: None, timeout }
    }

    /// The saga.
    pub fn gtid(&self) -> Gtid {
        self.gtid
    }

    /// The participant's name.
    pub fn participant(&self) -> &ParticipantName {
        &self.participant
    }

    /// The step's position in the saga; with the gtid it is the step's idempotency key.
    pub fn index(&self) -> StepIndex {
        self.index
    }

    /// The step's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Which attempt this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// What the initiator gave the step.
    pub fn input(&self) -> &Bytes {
        &self.input
    }

    /// The input as JSON.
    ///
    /// # Errors
    /// [`serde_json::Error`] if it is not what `T` expects.
    pub fn input_json<T: serde::de::DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.input)
    }

    /// In execute: the output of a step that this one comes after.
    pub fn output_of(&self, step: &str) -> Option<&Bytes> {
        self.outputs.iter().find(|(name, _)| name.as_str() == step).map(|(_, output)| output)
    }

    /// In compensate: what the action gave; `None` when it is not known whether it took effect.
    pub fn output(&self) -> Option<&Bytes> {
        self.output.as_ref()
    }

    /// An answer after this long, from the call, comes too late.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}
