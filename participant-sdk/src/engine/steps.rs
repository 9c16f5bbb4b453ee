//! Saga steps that run in this process.

use std::collections::HashMap;
use std::time::Duration;

use assent_crash::crash_point;
use assent_proto::session::{FromClient, StepAnswer, StepOrder};
use assent_protocol::saga::{StepIndex, StepResult};
use assent_protocol::{Epoch, Gtid, Name};
use bytes::Bytes;

use super::calls::Purpose;
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

/// The hooks that run, each with the order that its answer is for: the latest one.
#[derive(Default)]
pub(super) struct Steps {
    running: HashMap<Key, (Epoch, u32)>,
}

impl Engine {
    /// An order to execute or compensate. One that repeats a hook that still runs is answered when that one finishes.
    pub(super) fn step_order(
        &mut self,
        outbox: &mut Outbox,
        order: StepOrder,
        outputs: Vec<(Name, Bytes)>,
        output: Option<Bytes>,
        compensation: bool,
    ) {
        let StepOrder { gtid, epoch, step, name, attempt, input, timeout_ms } = order;
        let key = Key { gtid, step, compensation };
        let (Some(participant), Some(own_name)) = (self.settings.steps.clone(), self.settings.name.clone()) else {
            let problem = "this process serves no saga steps; connect with a saga participant".to_owned();
            let result = StepResult::Unknown(problem);
            outbox.send(FromClient::Step(StepAnswer { gtid, step, compensation, attempt, epoch, result }));
            return;
        };
        if self.is_shutting_down && !self.steps.running.contains_key(&key) {
            return;
        }
        if let Some(latest) = self.steps.running.get_mut(&key) {
            *latest = (*latest).max((epoch, attempt));
            return;
        }
        self.steps.running.insert(key, (epoch, attempt));
        let timeout = Duration::from_millis(timeout_ms);
        let step = Step { gtid, participant: own_name, index: step, name, attempt, input, outputs, output, timeout };
        let finish = self.finish.clone();
        let call = participant.call(step, compensation);
        let hook = async move {
            crash_point!(HOOK_CALLED);
            let result = call.await;
            crash_point!(HOOK_RETURNED);
            // The engine may have ended; the coordinator asks again.
            finish.send(Done::Step(key, result)).ok();
        };
        self.calls.call(key.purpose(), Box::pin(hook));
    }

    pub(super) fn step_hook_finished(&mut self, outbox: &mut Outbox, key: Key, result: StepResult) {
        let Some((epoch, attempt)) = self.steps.running.remove(&key) else { return };
        if let StepResult::Unknown(error) = &result {
            tracing::warn!(gtid = %key.gtid, step = key.step.0, error, "a step's hook failed");
        }
        let Key { gtid, step, compensation } = key;
        outbox.send(FromClient::Step(StepAnswer { gtid, step, compensation, attempt, epoch, result }));
    }
}
