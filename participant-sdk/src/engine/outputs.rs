//! What the agent wants done, at the end of each turn: turned into calls and tasks.

use std::sync::Arc;
use std::time::Duration;

use assent_crash::crash_point;
use assent_protocol::agent::{Call, Input, Notice, Returned, StepCall, StepKey};
use assent_protocol::branch::{Hook, HookEnd};
use assent_protocol::message::StepOrder;
use assent_protocol::saga::StepResult;
use bytes::Bytes;

use super::Engine;
use super::hooks::AnyParticipant;
use crate::participant::{BoxError, Branch};
use crate::saga::Step;

/// How long the participant may take to list its branches.
const LIST_MAX: Duration = Duration::from_secs(60);

impl Engine {
    pub(super) fn end_of_turn(&mut self) {
        self.ask_voter();
        let calls: Vec<Call> = self.agent.take_calls().collect();
        for call in calls {
            self.call(call);
        }
        for change in self.agent.take_timers() {
            self.timers.apply(change);
        }
        for (ticket, answer) in self.agent.take_answers() {
            if let Some(caller) = self.callers.remove(&ticket) {
                // The caller may have stopped waiting.
                caller.send(answer).ok();
            }
        }
        if self.agent.take_listing() {
            self.list();
        }
        self.agent.take_notices().for_each(tell);
    }

    /// Runs a task that ends in an input, unless the engine ends first: then no input is heard any
    /// more.
    pub(super) fn spawn(&self, task: impl Future<Output = Option<Input>> + Send + 'static) {
        let finish = self.finish.clone();
        tokio::spawn(async move {
            let input = tokio::select! {
                input = task => input,
                () = finish.closed() => None,
            };
            if let Some(input) = input {
                finish.send(input).ok();
            }
        });
    }

    // ---- hooks -----------------------------------------------------------------------------------------------------

    fn call(&self, call: Call) {
        // The agent calls no hook that this process does not serve.
        let Some(name) = self.settings.name.clone() else { return };
        let finish = self.finish.clone();
        match (call, &self.settings.branches, &self.settings.steps) {
            (Call::Branch { key, hook, timeout_ms }, Some(participant), _) => {
                let payload = match &hook {
                    Hook::Prepare { payload, .. } => payload.clone(),
                    Hook::Commit | Hook::Abort => Bytes::new(),
                };
                let coordinator = Arc::clone(&self.shared.coordinator);
                let timeout = Duration::from_millis(timeout_ms);
                let call = Arc::clone(participant)
                    .call(Branch { key, participant: name, coordinator, payload, timeout }, hook);
                tokio::spawn(async move {
                    crash_point!(HOOK_CALLED);
                    let returned = call.await;
                    crash_point!(HOOK_RETURNED);
                    if let Returned::End(HookEnd::Failed(error)) = &returned {
                        tracing::warn!(gtid = %key.gtid, branch = %key.id, error, "a hook failed; it is called again");
                    }
                    // The engine may have ended; the resource still knows.
                    finish.send(Input::HookReturned { key, returned }).ok();
                });
            }
            (Call::Step(call), _, Some(participant)) => {
                let StepCall { order, compensation, is_pivot, outputs, output, output_bytes_max } = call;
                let StepOrder { gtid, epoch, step: index, name: step_name, attempt, input, timeout_ms } = order;
                let key = StepKey { gtid, step: index, compensation };
                let step = Step {
                    gtid,
                    participant: name,
                    index,
                    name: step_name,
                    epoch,
                    attempt,
                    is_pivot,
                    input,
                    outputs,
                    output,
                    output_bytes_max,
                    timeout: Duration::from_millis(timeout_ms),
                };
                let call = Arc::clone(participant).call(step, compensation);
                tokio::spawn(async move {
                    crash_point!(HOOK_CALLED);
                    let end = call.await;
                    crash_point!(HOOK_RETURNED);
                    if let StepResult::Unknown(error) = &end.result {
                        tracing::warn!(%gtid, step = index.0, error, "a step's hook failed");
                    }
                    // The engine may have ended; the coordinator asks again.
                    finish.send(Input::StepReturned { key, end }).ok();
                });
            }
            (Call::Branch { .. }, None, _) | (Call::Step(_), _, None) => {}
        }
    }

    /// Lets the participant list its branches in doubt.
    fn list(&self) {
        let Some(participant) = self.settings.branches.clone() else { return };
        let about = Arc::clone(&self.shared.coordinator);
        self.spawn(async move {
            let listing = tokio::time::timeout(LIST_MAX, AnyParticipant::in_doubt(participant, about));
            let listed = listing.await.map_err(BoxError::from).flatten();
            if let Err(error) = &listed {
                tracing::warn!(
                    error = &**error as &dyn std::error::Error,
                    "branches in doubt cannot be listed; looking again"
                );
            }
            Some(Input::Listed(listed.ok()))
        });
    }
}

/// Tells a human.
fn tell(notice: Notice) {
    match notice {
        Notice::Contradiction { key, doing } => {
            tracing::error!(gtid = %key.gtid, branch = %key.id, %doing, "the outcome that is known is contradicted; nothing was done");
        }
        Notice::NoParticipant(key) => {
            tracing::error!(gtid = %key.gtid, branch = %key.id, "an order for a branch, and this process serves none; connect with a participant");
        }
        Notice::LeftPrepared { key, has_voted } => {
            tracing::info!(gtid = %key.gtid, branch = %key.id, has_voted, "found a branch that another instance has left prepared; asking about it");
        }
        Notice::ElectionFailed { gtid, elections, waiting_for, asked_at } => {
            tracing::warn!(%gtid, elections, waiting_for, asked_at, "in doubt, and too few voters answer to end it; trying again");
        }
    }
}
