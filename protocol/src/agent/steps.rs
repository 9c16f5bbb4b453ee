//! The steps of sagas that run in this process.
//!
//! An order that repeats a hook that still runs is answered when that hook returns. The answer
//! bears the latest order, and goes over the session that brought it.

use std::collections::HashMap;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::calls::{Call, StepCall, StepEnd};
use super::{Agent, SessionId};
use crate::ids::{Epoch, Gtid, Name};
use crate::message::{FromClient, StepAnswer, StepOrder};
use crate::saga::{OUTPUT_TOO_LARGE, StepIndex, StepResult};

/// A step's action, or its compensation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepKey {
    /// Of which saga.
    pub gtid: Gtid,
    /// Which step.
    pub step: StepIndex,
    /// Whether it is the compensation.
    pub compensation: bool,
}

/// A hook that runs, or waits for a place.
#[derive(Clone, Debug)]
struct Running {
    /// The order that the hook was called with, by its epoch and attempt.
    called: (Epoch, u32),
    /// The latest order, which the answer is for.
    latest: (Epoch, u32),
    /// The session that brought it.
    session: SessionId,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Steps {
    running: HashMap<StepKey, Running, RandomState>,
}

impl Agent {
    pub(super) fn execute_ordered(
        &mut self,
        session: SessionId,
        order: StepOrder,
        outputs: Vec<(Name, Bytes)>,
        is_pivot: bool,
    ) {
        let output_bytes_max = self.sessions.payload_bytes_max;
        let call = StepCall { order, compensation: false, is_pivot, outputs, output: None, output_bytes_max };
        self.step_ordered(session, call);
    }

    pub(super) fn compensate_ordered(&mut self, session: SessionId, order: StepOrder, output: Option<Bytes>) {
        let output_bytes_max = self.sessions.payload_bytes_max;
        let outputs = Vec::new();
        let call = StepCall { order, compensation: true, is_pivot: false, outputs, output, output_bytes_max };
        self.step_ordered(session, call);
    }

    fn step_ordered(&mut self, session: SessionId, call: StepCall) {
        let StepOrder { gtid, epoch, step, attempt, .. } = call.order;
        let key = StepKey { gtid, step, compensation: call.compensation };
        let ordered = (epoch, attempt);
        if !self.serves_steps {
            let problem = "this process serves no saga steps; connect with a saga participant".to_owned();
            return self.answer_step(session, key, ordered, StepResult::Unknown(problem).into());
        }
        if let Some(running) = self.steps.running.get_mut(&key) {
            if running.latest < ordered {
                (running.latest, running.session) = (ordered, session);
            }
            return;
        }
        // The replica notices that this process has gone.
        if self.is_shutting_down {
            return;
        }
        self.steps.running.insert(key, Running { called: ordered, latest: ordered, session });
        self.calls.call(Call::Step(call));
    }

    pub(super) fn step_returned(&mut self, key: StepKey, end: StepEnd) {
        self.calls.returned(key.purpose());
        let Some(Running { called, latest, session }) = self.steps.running.remove(&key) else { return };
        let StepEnd { result, is_final } = end;
        // Known before it is sent: a frame that is too large would cut the session, and with it
        // what others have on it.
        let bytes_max = self.sessions.payload_bytes_max;
        let result = match result {
            StepResult::Done(output) if output.len() > bytes_max => StepResult::Unknown(format!(
                "{OUTPUT_TOO_LARGE}: {} bytes, and the coordinator takes {bytes_max}; give a reference to the data",
                output.len()
            )),
            StepResult::Done(_) | StepResult::Refused(_) | StepResult::Unknown(_) => result,
        };
        // A hook refuses for the attempts up to its own. Between that and the latest one there may
        // be others, at other instances.
        let is_final = is_final && called == latest;
        self.answer_step(session, key, latest, StepEnd { result, is_final });
    }

    fn answer_step(&mut self, session: SessionId, key: StepKey, (epoch, attempt): (Epoch, u32), end: StepEnd) {
        let (StepKey { gtid, step, compensation }, StepEnd { result, is_final }) = (key, end);
        let answer = StepAnswer { gtid, step, compensation, attempt, epoch, result, is_final };
        self.sessions.send(Some(session), FromClient::Step(answer));
    }
}
