//! The branches of this process: machines of the protocol, driven by the session's orders and the participant's hooks.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use assent_proto::session::{FromClient, FromReplica};
use assent_protocol::branch::{Branch as Machine, Effect, Event, Hook, HookEnd, Message, State, Timer};
use assent_protocol::{Decision, Gtid, Output, Parts};
use futures::FutureExt;
use rand::RngExt;
use tokio_util::time::{DelayQueue, delay_queue};

use super::link::Outbox;
use super::{Done, Engine, Finished};
use crate::participant::Branch;

/// One branch.
struct Entry {
    machine: Machine,
    timers: Vec<(Timer, delay_queue::Key)>,
    /// How long a vote is of use; from the order to prepare.
    timeout: Duration,
}

/// All of them that have not ended.
#[derive(Default)]
pub(super) struct Branches {
    entries: HashMap<Gtid, Entry>,
    timers: DelayQueue<(Gtid, Timer)>,
}

impl Branches {
    /// The next timer that fires; never, while none runs.
    pub(super) async fn next_timer(&mut self) -> Option<(Gtid, Timer)> {
        if self.timers.is_empty() {
            return std::future::pending().await;
        }
        poll_fn(|context| self.timers.poll_expired(context)).await.map(delay_queue::Expired::into_inner)
    }
}

impl Engine {
    /// Found prepared at the start.
    pub(super) fn found_in_doubt(&mut self, gtid: Gtid) {
        let (machine, output) = Machine::in_doubt(gtid);
        self.branches.entries.insert(gtid, Entry { machine, timers: Vec::new(), timeout: Duration::ZERO });
        self.set_timers_of(gtid, output);
    }

    /// Prepared by the service itself, and about to be enlisted. Answers false if this process has a branch of that gtid already.
    pub(super) fn prepared_early(&mut self, gtid: Gtid) -> bool {
        if self.branches.entries.contains_key(&gtid) {
            return false;
        }
        self.found_in_doubt(gtid);
        true
    }

    /// Not enlisted after all.
    pub(super) fn withdraw(&mut self, gtid: Gtid) {
        if self.branches.entries.get(&gtid).is_some_and(|entry| entry.machine.state() == State::InDoubt) {
            self.forget(gtid);
        }
    }

    /// A new session: every branch in doubt asks for its decision.
    pub(super) fn ask_about_doubts(&mut self, outbox: &mut Outbox) {
        let all: Vec<Gtid> = self.branches.entries.keys().copied().collect();
        for gtid in all {
            self.branch_event(outbox, gtid, Event::SessionUp);
        }
    }

    /// An order about a branch.
    pub(super) fn branch_order(&mut self, outbox: &mut Outbox, order: FromReplica) {
        match order {
            FromReplica::Prepare { gtid, epoch, payload, timeout_ms, one_phase } => {
                let timeout = Duration::from_millis(timeout_ms);
                self.meet_or_handle(outbox, gtid, Event::PrepareOrdered { epoch, payload, one_phase }, timeout);
            }
            FromReplica::CommitBranch { gtid, epoch } => {
                let event = Event::Decided { epoch, decision: Decision::Commit };
                self.meet_or_handle(outbox, gtid, event, Duration::ZERO);
            }
            FromReplica::AbortBranch { gtid, epoch } => {
                let event = Event::Decided { epoch, decision: Decision::Abort };
                self.meet_or_handle(outbox, gtid, event, Duration::ZERO);
            }
            FromReplica::Welcome(_)
            | FromReplica::Heartbeat
            | FromReplica::Reply { .. }
            | FromReplica::ExecuteStep { .. }
            | FromReplica::CompensateStep { .. }
            | FromReplica::GoAway { .. } => {}
        }
    }

    fn meet_or_handle(&mut self, outbox: &mut Outbox, gtid: Gtid, event: Event, timeout: Duration) {
        if self.branches.entries.contains_key(&gtid) {
            return self.branch_event(outbox, gtid, event);
        }
        if self.is_shutting_down && matches!(event, Event::PrepareOrdered { .. }) {
            // No vote is needed: the coordinator notices that this process has gone.
            return;
        }
        let (machine, output) = Machine::meet(gtid, event);
        self.branches.entries.insert(gtid, Entry { machine, timers: Vec::new(), timeout });
        self.branch_output(outbox, gtid, output);
    }

    pub(super) fn branch_timer(&mut self, outbox: &mut Outbox, gtid: Gtid, timer: Timer) {
        if let Some(entry) = self.branches.entries.get_mut(&gtid) {
            entry.timers.retain(|(running, _)| *running != timer);
        }
        self.branch_event(outbox, gtid, Event::TimerFired(timer));
    }

    pub(super) fn branch_hook_finished(&mut self, outbox: &mut Outbox, gtid: Gtid, finished: Finished) {
        let event = match finished {
            Finished::Prepare(vote) => Event::PrepareFinished(vote),
            Finished::End(end) => {
                if let HookEnd::Failed(error) = &end {
                    tracing::warn!(%gtid, error, "a hook failed; it is called again");
                }
                Event::EndFinished(end)
            }
        };
        self.branch_event(outbox, gtid, event);
    }

    fn branch_event(&mut self, outbox: &mut Outbox, gtid: Gtid, event: Event) {
        let Some(entry) = self.branches.entries.get_mut(&gtid) else { return };
        #[cfg(debug_assertions)]
        let checked = (entry.machine.clone(), event.clone());
        let output = entry.machine.handle(event);
        #[cfg(debug_assertions)]
        if let Err(violation) =
            assent_protocol::branch::invariant::check(Some(&checked.0), &checked.1, &entry.machine, &output)
        {
            panic!("{violation}: {:?} on {:?}", checked.1, checked.0);
        }
        self.branch_output(outbox, gtid, output);
    }

    fn branch_output(&mut self, outbox: &mut Outbox, gtid: Gtid, output: Output<Effect>) {
        for effect in effects_of(output) {
            match effect {
                Effect::Call(hook) => self.call_branch_hook(gtid, hook),
                Effect::Send(message) => outbox.send(match message {
                    Message::Vote(vote) => FromClient::Vote { gtid, vote },
                    Message::Acknowledge(result) => FromClient::Acknowledge { gtid, result },
                    Message::Inquire => FromClient::Inquire { gtid },
                }),
                Effect::SetTimer { timer, after_ms, jitter } => self.set_branch_timer(gtid, timer, after_ms, jitter),
                Effect::Contradiction { doing } => {
                    tracing::error!(%gtid, %doing, "the coordinator contradicts its own decision; nothing was done");
                }
            }
        }
        if self.branches.entries.get(&gtid).is_some_and(|entry| entry.machine.is_ended()) {
            self.forget(gtid);
        }
    }

    /// The output of a branch that is in doubt from the start: there is nothing to send yet.
    fn set_timers_of(&mut self, gtid: Gtid, output: Output<Effect>) {
        for effect in effects_of(output) {
            if let Effect::SetTimer { timer, after_ms, jitter } = effect {
                self.set_branch_timer(gtid, timer, after_ms, jitter);
            }
        }
    }

    fn call_branch_hook(&mut self, gtid: Gtid, hook: Hook) {
        let (Some(participant), Some(name)) = (self.settings.branches.clone(), self.settings.name.clone()) else {
            tracing::error!(%gtid, "an order for a branch, and this process serves none; connect with a participant");
            return;
        };
        let timeout = self.branches.entries.get(&gtid).map_or(Duration::ZERO, |entry| entry.timeout);
        let payload = match &hook {
            Hook::Prepare { payload, .. } => payload.clone(),
            Hook::Commit | Hook::Abort => bytes::Bytes::new(),
        };
        let coordinator = Arc::clone(&self.shared.coordinator);
        let branch = Branch { gtid, participant: name, coordinator, payload, timeout };
        let finish = self.finish.clone();
        let call = participant.call(branch, hook);
        self.call(
            async move {
                let finished = call.await;
                // The engine may have ended; the resource still knows.
                finish.send(Done::Branch(gtid, finished)).ok();
            }
            .boxed(),
        );
    }

    fn set_branch_timer(&mut self, gtid: Gtid, timer: Timer, after_ms: u64, jitter: bool) {
        let Some(entry) = self.branches.entries.get_mut(&gtid) else { return };
        let after_ms = if jitter { rand::rng().random_range(after_ms / 2..=after_ms) } else { after_ms };
        let after = Duration::from_millis(after_ms);
        if let Some((_, key)) = entry.timers.iter().find(|(running, _)| *running == timer) {
            self.branches.timers.reset(key, after);
        } else {
            let key = self.branches.timers.insert((gtid, timer), after);
            entry.timers.push((timer, key));
        }
    }

    fn forget(&mut self, gtid: Gtid) {
        if let Some(entry) = self.branches.entries.remove(&gtid) {
            for (_, key) in entry.timers {
                self.branches.timers.remove(&key);
            }
        }
    }
}

/// A branch has no log of its own, its resource is; so nothing is ever held.
fn effects_of(output: Output<Effect>) -> Vec<Effect> {
    match output.split() {
        Parts::Free { effects, .. } => effects,
        Parts::AfterAppend { .. } => unreachable!("a branch appends nothing"),
    }
}
