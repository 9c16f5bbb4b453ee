//! What a participant of sagas implements.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use assent_protocol::saga::StepIndex;
use assent_protocol::{Epoch, Gtid, Name, ParticipantName};
use bytes::Bytes;

use crate::participant::BoxError;
use crate::unreadable::{Unreadable, read_json};

/// A service that executes and compensates saga steps.
///
/// Both hooks may be called again for the same step, by this process or another instance. For each step of a saga:
/// 1. the action takes effect once; called again after it is done, it gives the same output;
/// 2. the compensation undoes a done action once, and does nothing for one that is not done;
/// 3. after its compensation the action does nothing, whenever it arrives;
/// 4. where the action of a [pivot](Step::is_pivot) is finally refused, it is durable that no attempt up to this one takes effect, whenever it
///    arrives, at whichever instance.
///
/// The [barrier](crate::postgres::barrier) gives all four within the service's own database transaction.
///
/// # Refusing a pivot
/// Nothing compensates a pivot. So, where an earlier attempt of a pivot has no known outcome (it timed out, failed, lost its session, or a
/// coordinator before this one sent it), the saga does not turn back after [`Executed::Refused`]: that attempt may still be on its way to the
/// database. It asks again until the pivot is done or [`Executed::FinallyRefused`]. A service without the barrier answers so once it has
/// committed a record that every attempt checks in the transaction of its work: attempts at or before the refused one do nothing and
/// answer with the refusal. Attempts are ordered by [`epoch`](Step::epoch) and, within one epoch, by [`attempt`](Step::attempt). A later
/// attempt may take effect: the answer may have been lost, or an operator may have removed the cause.
pub trait SagaParticipant: Send + Sync + 'static {
    /// Executes a step's action.
    ///
    /// # Errors
    /// An error says that nobody knows whether it took effect: it is tried again under the step's retry policy.
    /// [`Unreadable`] alone is a refusal.
    fn execute(&self, step: &Step) -> impl Future<Output = Result<Executed, BoxError>> + Send;

    /// Undoes a step's action, or sees to it that it never takes effect.
    ///
    /// # Errors
    /// An error says that nobody knows whether it is undone: it is tried again. [`Unreadable`] alone is a refusal, so that a
    /// human looks at it.
    fn compensate(&self, step: &Step) -> impl Future<Output = Result<Compensated, BoxError>> + Send;
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Executed {
    /// It took effect; the output goes to the steps behind it. Where it is larger than
    /// [`Step::output_bytes_max`], the step counts as done and is compensated; the
    /// [barrier](crate::postgres::barrier) refuses it before it takes effect.
    Done(Bytes),
    /// It had no effect, for a reason: the saga turns back. A pivot is asked again instead where an earlier attempt has no known outcome.
    Refused(String),
    /// The same, and it is durable that no attempt up to this one takes effect any more: what a pivot's refusal needs. The
    /// [barrier](crate::postgres::barrier) makes it so.
    FinallyRefused(String),
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

    /// Finally refused, with its reason.
    pub fn finally_refused(reason: impl fmt::Display) -> Self {
        Self::FinallyRefused(reason.to_string())
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
    pub(crate) epoch: Epoch,
    pub(crate) attempt: u32,
    pub(crate) is_pivot: bool,
    pub(crate) input: Bytes,
    pub(crate) outputs: Vec<(Name, Bytes)>,
    pub(crate) output: Option<Bytes>,
    pub(crate) output_bytes_max: usize,
    pub(crate) timeout: Duration,
}

/// The largest output, for a step that did not come over a session.
const OUTPUT_BYTES_ASSUMED: usize = 1024 * 1024;

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
        let (epoch, input, outputs) = (Epoch(1), input.into(), Vec::new());
        let (attempt, is_pivot, output) = (1, false, None);
        let output_bytes_max = OUTPUT_BYTES_ASSUMED;
        Self {
            gtid,
            participant,
            index,
            name,
            epoch,
            attempt,
            is_pivot,
            input,
            outputs,
            output,
            output_bytes_max,
            timeout,
        }
    }

    /// The same step as another attempt, for a test of a participant's hooks.
    #[must_use]
    pub fn with_attempt(self, epoch: u64, attempt: u32) -> Self {
        Self { epoch: Epoch(epoch), attempt, ..self }
    }

    /// The same step as a pivot, for a test of a participant's hooks.
    #[must_use]
    pub fn with_pivot(self) -> Self {
        Self { is_pivot: true, ..self }
    }

    /// The most bytes that the coordinator takes as the output of the action.
    pub fn output_bytes_max(&self) -> usize {
        self.output_bytes_max
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

    /// Which attempt this is, from 1 under each [`epoch`](Self::epoch).
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The epoch of the coordinator that asks. Of two attempts, the one with the higher epoch is the later.
    pub fn epoch(&self) -> u64 {
        self.epoch.0
    }

    /// In execute: whether there is only forward once the step is done. Its refusal should be [final](Executed::FinallyRefused).
    pub fn is_pivot(&self) -> bool {
        self.is_pivot
    }

    /// What the initiator gave the step.
    pub fn input(&self) -> &Bytes {
        &self.input
    }

    /// The input as JSON.
    ///
    /// # Errors
    /// [`Unreadable`] if it is not what `T` expects. Returned from a hook it is a refusal that names the field. Read it within
    /// the [barrier](crate::postgres::barrier), which knows when there is nothing to undo.
    pub fn input_json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Unreadable> {
        read_json("input", &self.input)
    }

    /// In execute: the output of a step that this one comes after.
    pub fn output_of(&self, step: &str) -> Option<&Bytes> {
        self.outputs.iter().find(|(name, _)| name.as_str() == step).map(|(_, output)| output)
    }

    /// In execute: the same as JSON; `None` if this step does not come after one of that name.
    ///
    /// # Errors
    /// [`Unreadable`] if it is not what `T` expects.
    pub fn output_json_of<T: serde::de::DeserializeOwned>(&self, step: &str) -> Result<Option<T>, Unreadable> {
        self.output_of(step).map(|output| read_json(format!("output of {step}"), output)).transpose()
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
