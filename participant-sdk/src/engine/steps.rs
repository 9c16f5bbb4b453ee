//! Saga steps that run in this process.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use assent_crash::crash_point;
use assent_proto::session::{FromClient, StepAnswer, StepOrder};
use assent_protocol::saga::{OUTPUT_TOO_LARGE, StepIndex, StepResult};
use assent_protocol::{Epoch, Gtid, Name};
use bytes::Bytes;

use super::calls::Purpose;
use super::hooks::StepEnd;
use super::link::Outbox;
use super::{Done, Engine};
use crate::saga::Step;

/// A step's action, or its compensation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    gtid: Gtid,
    step: StepIndex,
    compensation: bool,
}

impl Key {
    pub(super) fn purpose(self) -> Purpose {
        if self.compensation { Purpose::Compensate } else { Purpose::Work }
    }
}

/// What an order asks for.
pub(super) enum Work {
    /// The action.
    Execute { outputs: Vec<(Name, Bytes)>, pivot: bool },
    /// The compensation.
    Compensate { output: Option<Bytes> },
}

/// The orders of a hook that runs, each as its epoch and attempt.
struct Running {
    /// The one that the hook was called with.
    called: (Epoch, u32),
    /// The latest, which the answer is for.
    latest: (Epoch, u32),
}

/// The hooks that run.
#[derive(Default)]
pub(super) struct Steps {
    running: HashMap<Key, Running>,
}

impl Engine {
    /// An order to execute or compensate. One that repeats a hook that still runs is answered when
    /// that one finishes.
    pub(super) fn step_order(&mut self, outbox: &mut Outbox, order: StepOrder, work: Work) {
        let StepOrder { gtid, epoch, step, name, attempt, input, timeout_ms } = order;
        let (compensation, outputs, is_pivot, output) = match work {
            Work::Execute { outputs, pivot } => (false, outputs, pivot, None),
            Work::Compensate { output } => (true, Vec::new(), false, output),
        };
        let key = Key { gtid, step, compensation };
        let (Some(participant), Some(own_name)) = (self.settings.steps.clone(), self.settings.name.clone()) else {
            let problem = "this process serves no saga steps; connect with a saga participant".to_owned();
            let result = StepResult::Unknown(problem);
            let is_final = false;
            outbox.send(FromClient::Step(StepAnswer { gtid, step, compensation, attempt, epoch, result, is_final }));
            return;
        };
        if self.is_shutting_down && !self.steps.running.contains_key(&key) {
            return;
        }
        if let Some(running) = self.steps.running.get_mut(&key) {
            running.latest = running.latest.max((epoch, attempt));
            return;
        }
        self.steps.running.insert(key, Running { called: (epoch, attempt), latest: (epoch, attempt) });
        let timeout = Duration::from_millis(timeout_ms);
        let step = Step {
            gtid,
            participant: own_name,
            index: step,
            name,
            epoch,
            attempt,
            is_pivot,
            input,
            outputs,
            output,
            output_bytes_max: self.shared.payload_bytes_max.load(Relaxed),
            timeout,
        };
        let finish = self.finish.clone();
        let call = participant.call(step, compensation);
        let hook = async move {
            crash_point!(HOOK_CALLED);
            let end = call.await;
            crash_point!(HOOK_RETURNED);
            // The engine may have ended; the coordinator asks again.
            finish.send(Done::Step(key, end)).ok();
        };
        self.calls.call(key.purpose(), Box::pin(hook));
    }

    pub(super) fn step_hook_finished(&mut self, outbox: &mut Outbox, key: Key, end: StepEnd) {
        let Some(Running { called, latest }) = self.steps.running.remove(&key) else { return };
        let StepEnd { result, is_final } = end;
        // Known before it is sent: a frame that is too large would cut the session, and with it what
        // others have on it.
        let bytes_max = self.shared.payload_bytes_max.load(Relaxed);
        let result = match result {
            StepResult::Done(output) if output.len() > bytes_max => StepResult::Unknown(format!(
                "{OUTPUT_TOO_LARGE}: {} bytes, and the coordinator takes {bytes_max}; give a reference to the data",
                output.len()
            )),
            StepResult::Done(_) | StepResult::Refused(_) | StepResult::Unknown(_) => result,
        };
        if let StepResult::Unknown(error) = &result {
            tracing::warn!(gtid = %key.gtid, step = key.step.0, error, "a step's hook failed");
        }
        // A hook refuses for the attempts up to its own. Between that and the latest one there may
        // be others, at other instances.
        let is_final = is_final && called == latest;
        let (Key { gtid, step, compensation }, (epoch, attempt)) = (key, latest);
        outbox.send(FromClient::Step(StepAnswer { gtid, step, compensation, attempt, epoch, result, is_final }));
    }
}
