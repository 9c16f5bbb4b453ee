//! Events go into the machines, outputs come out and become records, messages and timers.

use std::time::Duration;

use assent_crash::crash_point;
use assent_proto::error::Reason;
use assent_proto::session::{FRAME_BYTES_MAX, FromReplica, Reply, StepOrder};
use assent_protocol::two_phase::{self, Order, Route};
use assent_protocol::{
    AbortReason, Caller, Epoch, Gtid, InstanceId, Output, ParticipantName, Parts, saga, three_phase,
};
use rand::RngExt;

use super::entry::{Machine, Timer, now_ms};
use super::peers::{Peer, SessionId};
use super::shard::{HeldEffects, Shard};
use crate::session::payload_bytes;

/// All payloads of one message: they share a frame with their envelope.
const MESSAGE_BYTES_MAX: usize = FRAME_BYTES_MAX - 64 * 1024;

impl Shard {
    /// An event of a transaction with branches, in two phases or three.
    pub(super) fn transaction_event(&mut self, gtid: Gtid, event: two_phase::Event) {
        match self.entries.get(&gtid).map(|entry| &entry.machine) {
            Some(Machine::TwoPhase(_)) => self.two_phase_event(gtid, event),
            Some(Machine::ThreePhase(_)) => {
                self.three_phase_event(gtid, three_phase::coordinator::Event::TwoPhase(event));
            }
            Some(Machine::Saga(_)) | None => {}
        }
    }

    // ---- two-phase -------------------------------------------------------------------------------------------------

    pub(super) fn two_phase_event(&mut self, gtid: Gtid, event: two_phase::Event) {
        let Some(entry) = self.entries.get_mut(&gtid) else { return };
        let Machine::TwoPhase(machine) = &mut entry.machine else { return };
        let before = machine.state();
        #[cfg(debug_assertions)]
        let checked = (machine.clone(), event.clone());
        let output = machine.handle(event);
        #[cfg(debug_assertions)]
        if let Err(violation) = two_phase::invariant::check(&checked.0, &checked.1, machine, &output) {
            panic!("{violation}: {:?} on {:?}", checked.1, checked.0);
        }
        #[cfg(debug_assertions)]
        counted(&checked.1);
        let is_changed = before != machine.state();
        let is_let_go = machine.is_ended() && machine.is_overruled();
        self.two_phase_output(gtid, output);
        if is_changed {
            self.changed(gtid);
        }
        if is_let_go {
            self.let_go(gtid);
        }
    }

    pub(super) fn two_phase_output(&mut self, gtid: Gtid, output: Output<two_phase::Effect>) {
        match output.split() {
            Parts::Free { lazy, effects } => {
                self.ride(gtid, lazy);
                self.two_phase_effects(gtid, effects);
            }
            Parts::AfterAppend { forced, lazy, held } => {
                self.ride(gtid, lazy);
                self.force(gtid, forced, HeldEffects::TwoPhase(held));
            }
        }
    }

    pub(super) fn two_phase_effects(&mut self, gtid: Gtid, effects: Vec<two_phase::Effect>) {
        // Told only once every effect is carried out: what follows from them must not overtake their messages.
        let mut routed = Vec::new();
        for effect in effects {
            match effect {
                two_phase::Effect::Send { to, prefer, order } => {
                    if let Some(route) = self.order(gtid, &to, prefer, order) {
                        routed.push((to, route));
                    }
                }
                two_phase::Effect::Reply { to, reply } => self.transaction_reply(gtid, to, reply),
                two_phase::Effect::SetTimer { timer, after_ms, jitter } => {
                    self.set_timer(gtid, Timer::TwoPhase(timer), drawn(after_ms, jitter));
                }
                two_phase::Effect::CancelTimer(timer) => self.cancel_timer(gtid, Timer::TwoPhase(timer)),
            }
        }
        for (participant, to) in routed {
            self.two_phase_event(gtid, two_phase::Event::Routed { participant, to });
        }
    }

    pub(super) fn transaction_reply(&mut self, gtid: Gtid, to: Caller, reply: two_phase::Reply) {
        let reply = match reply {
            two_phase::Reply::Begun => {
                let deadline_unix_ms = self.entries.get(&gtid).map_or(0, |entry| entry.deadline_unix_ms);
                Reply::Begun { deadline_unix_ms }
            }
            two_phase::Reply::Enlisted => Reply::Enlisted,
            two_phase::Reply::Outcome { outcome, reason } => Reply::Outcome { outcome, reason, outputs: Vec::new() },
            two_phase::Reply::Refused(refusal) => Reply::Refused(refusal.into()),
        };
        self.reply(to, reply);
    }

    /// Sends an order to prepare, of which only the payload and how to prepare is the machine's. Answers where it went.
    pub(super) fn send_prepare(
        &mut self,
        gtid: Gtid,
        to: &ParticipantName,
        prefer: Option<InstanceId>,
        prepare: impl FnOnce(Epoch, u64) -> FromReplica,
    ) -> Route {
        match self.peers.route(to, prefer) {
            Some(session) => {
                let deadline_unix_ms = self.entries.get(&gtid).map_or(0, |entry| entry.deadline_unix_ms);
                let timeout_ms = deadline_unix_ms.saturating_sub(now_ms());
                self.peers.send(session, prepare(self.epoch, timeout_ms));
                crash_point!(PREPARE_SENT);
                self.instance_of(session).map_or(Route::Absent, Route::Instance)
            }
            None if self.peers.is_known(to) => Route::Absent,
            None => Route::Unknown,
        }
    }

    /// Hands an order over. Answers where an order to prepare went; the others are repeated by themselves.
    pub(super) fn order(
        &mut self,
        gtid: Gtid,
        to: &ParticipantName,
        prefer: Option<InstanceId>,
        order: Order,
    ) -> Option<Route> {
        let epoch = self.epoch;
        match order {
            Order::Prepare { payload, one_phase } => Some(self.send_prepare(gtid, to, prefer, |epoch, timeout_ms| {
                FromReplica::Prepare { gtid, epoch, payload, timeout_ms, one_phase, roster: None, is_prepared: false }
            })),
            // One that finds nobody is repeated when somebody joins, and by the resend timer.
            Order::Commit => {
                if let Some(session) = self.peers.route(to, prefer) {
                    self.peers.send(session, FromReplica::CommitBranch { gtid, epoch });
                    crash_point!(COMMIT_SENT);
                }
                None
            }
            Order::Abort => {
                if let Some(session) = self.peers.route(to, prefer) {
                    self.peers.send(session, FromReplica::AbortBranch { gtid, epoch });
                    crash_point!(ABORT_SENT);
                }
                None
            }
        }
    }

    // ---- sagas -----------------------------------------------------------------------------------------------------

    pub(super) fn saga_event(&mut self, gtid: Gtid, event: saga::Event) {
        let Some(entry) = self.entries.get_mut(&gtid) else { return };
        let Machine::Saga(machine) = &mut entry.machine else { return };
        let before = machine.stage();
        #[cfg(debug_assertions)]
        let checked = (machine.clone(), event.clone());
        let output = machine.handle(event);
        #[cfg(debug_assertions)]
        if let Err(violation) = saga::invariant::check(&checked.0, &checked.1, machine, &output) {
            panic!("{violation}: {:?} on {:?}", checked.1, checked.0);
        }
        #[cfg(debug_assertions)]
        if matches!(checked.1, saga::Event::StepAnswered { .. }) {
            crash_point!(STEP_COUNTED);
        }
        let is_changed = before != machine.stage();
        let is_overruled = machine.stage() == saga::Stage::Overruled;
        self.saga_output(gtid, output);
        if is_changed {
            self.changed(gtid);
        }
        if is_overruled {
            self.let_go(gtid);
        }
    }

    pub(super) fn saga_output(&mut self, gtid: Gtid, output: Output<saga::Effect>) {
        match output.split() {
            Parts::Free { lazy, effects } => {
                self.ride(gtid, lazy);
                self.saga_effects(gtid, effects);
            }
            Parts::AfterAppend { forced, lazy, held } => {
                self.ride(gtid, lazy);
                self.force(gtid, forced, HeldEffects::Saga(held));
            }
        }
    }

    pub(super) fn saga_effects(&mut self, gtid: Gtid, effects: Vec<saga::Effect>) {
        for effect in effects {
            match effect {
                saga::Effect::Execute { step, name, to, prefer, attempt, input, outputs, pivot: _ } => {
                    let order = self.step_order(gtid, step, name, attempt, input, false);
                    let message = FromReplica::ExecuteStep { order, outputs };
                    self.send_step(gtid, &to, prefer, message, (step, false, attempt));
                }
                saga::Effect::Compensate { step, name, to, prefer, attempt, input, output } => {
                    let order = self.step_order(gtid, step, name, attempt, input, true);
                    let message = FromReplica::CompensateStep { order, output };
                    self.send_step(gtid, &to, prefer, message, (step, true, attempt));
                }
                saga::Effect::Reply { to, reply } => self.saga_reply(gtid, to, reply),
                saga::Effect::SetTimer { timer, after_ms, jitter } => {
                    self.set_timer(gtid, Timer::Saga(timer), drawn(after_ms, jitter));
                }
                saga::Effect::CancelTimer { timer } => self.cancel_timer(gtid, Timer::Saga(timer)),
            }
        }
    }

    fn step_order(
        &self,
        gtid: Gtid,
        step: saga::StepIndex,
        name: assent_protocol::Name,
        attempt: u32,
        input: bytes::Bytes,
        compensation: bool,
    ) -> StepOrder {
        let timeout_ms = match self.entries.get(&gtid).map(|entry| &entry.machine) {
            Some(Machine::Saga(saga)) => {
                let definition = saga.definition().step(step);
                let policy = if compensation { &definition.compensation_retry } else { &definition.retry };
                policy.attempt_timeout_ms
            }
            Some(Machine::TwoPhase(_) | Machine::ThreePhase(_)) | None => 0,
        };
        StepOrder { gtid, epoch: self.epoch, step, name, attempt, input, timeout_ms }
    }

    fn send_step(
        &mut self,
        gtid: Gtid,
        to: &ParticipantName,
        prefer: Option<InstanceId>,
        message: FromReplica,
        (step, compensation, attempt): (saga::StepIndex, bool, u32),
    ) {
        let bytes = payload_bytes(&message);
        if bytes > MESSAGE_BYTES_MAX {
            // Never sent, so without effect: the saga turns back, or asks for a human where it cannot.
            let reason =
                format!("the step's input and outputs have {bytes} bytes, and {MESSAGE_BYTES_MAX} fit into a message");
            let result = saga::StepResult::Refused(reason);
            let instance = InstanceId(0);
            return self.saga_event(gtid, saga::Event::StepAnswered { step, compensation, attempt, instance, result });
        }
        let route = self.peers.route(to, prefer);
        let event = match route.and_then(|session| Some((session, self.instance_of(session)?))) {
            Some((session, instance)) => {
                self.peers.send(session, message);
                crash_point!(STEP_SENT);
                saga::Event::Sent { step, compensation, attempt, instance }
            }
            None => saga::Event::Undeliverable { step, compensation, attempt },
        };
        self.saga_event(gtid, event);
    }

    fn saga_reply(&mut self, gtid: Gtid, to: Caller, reply: saga::Reply) {
        let reply = match reply {
            saga::Reply::Started => Reply::SagaStarted,
            saga::Reply::Ended { outcome, outputs, .. }
                if outputs.iter().map(|(_, output)| output.len()).sum::<usize>() > MESSAGE_BYTES_MAX =>
            {
                let message =
                    format!("saga {gtid} has {outcome}, and its outputs do not fit into a message; read it with Get");
                Reply::Refused(Reason::FrameTooLarge.refused(message))
            }
            saga::Reply::Ended { outcome, reason, outputs } => {
                Reply::Outcome { outcome, reason: reason.as_deref().map(AbortReason::from_line), outputs }
            }
            saga::Reply::Compensating { reason } => Reply::SagaTurned { reason },
            saga::Reply::PastPivot => Reply::Refused(assent_protocol::Refusal::PastPivot.into()),
            saga::Reply::KeyReused => Reply::Refused(assent_protocol::Refusal::KeyReused.into()),
            saga::Reply::Overruled { decision: _ } => {
                let message = format!(
                    "the log already holds another transaction {gtid}; ask for its outcome, or mint a new gtid"
                );
                Reply::Refused(Reason::KeyReused.refused(message))
            }
        };
        self.reply(to, reply);
    }

    // ---- both ------------------------------------------------------------------------------------------------------

    pub(super) fn reply(&mut self, to: Caller, reply: Reply) {
        self.peers.send(SessionId(to.session), FromReplica::Reply { request_id: to.request, reply });
    }

    pub(super) fn instance_of(&self, session: SessionId) -> Option<InstanceId> {
        self.peers.get(session).map(|peer| peer.instance)
    }

    pub(super) fn set_timer(&mut self, gtid: Gtid, timer: Timer, after: Duration) {
        let Some(entry) = self.entries.get_mut(&gtid) else { return };
        if entry.machine.is_ended() {
            return;
        }
        if let Some((_, key)) = entry.timers.iter().find(|(running, _)| *running == timer) {
            self.timers.reset(key, after);
        } else {
            let key = self.timers.insert((gtid, timer), after);
            entry.timers.push((timer, key));
        }
    }

    pub(super) fn cancel_timer(&mut self, gtid: Gtid, timer: Timer) {
        let Some(entry) = self.entries.get_mut(&gtid) else { return };
        if let Some(position) = entry.timers.iter().position(|(running, _)| *running == timer) {
            let (_, key) = entry.timers.swap_remove(position);
            self.timers.remove(&key);
        }
    }

    pub(super) fn stop_timers(&mut self, gtid: Gtid) {
        let Some(entry) = self.entries.get_mut(&gtid) else { return };
        for (_, key) in entry.timers.drain(..) {
            self.timers.remove(&key);
        }
    }

    pub(super) fn timer_fired(&mut self, gtid: Gtid, timer: Timer) {
        let Some(entry) = self.entries.get_mut(&gtid) else { return };
        // The queue has forgotten the key; so must the entry.
        entry.timers.retain(|(running, _)| *running != timer);
        match timer {
            Timer::TwoPhase(timer) => self.two_phase_event(gtid, two_phase::Event::TimerFired(timer)),
            Timer::ThreePhase(timer) => self.three_phase_timer(gtid, timer),
            Timer::Saga(timer) => self.saga_event(gtid, saga::Event::TimerFired(timer)),
        }
    }

    // ---- sessions come and go --------------------------------------------------------------------------------------

    pub(super) fn joined(&mut self, participant: &ParticipantName) {
        for gtid in self.involving(participant) {
            match self.entries.get(&gtid).map(|entry| &entry.machine) {
                Some(Machine::TwoPhase(_) | Machine::ThreePhase(_)) => {
                    let participant = participant.clone();
                    self.transaction_event(gtid, two_phase::Event::Joined { participant });
                }
                Some(Machine::Saga(_)) => {
                    let participant = participant.clone();
                    self.saga_event(gtid, saga::Event::Joined { participant });
                }
                None => {}
            }
        }
    }

    pub(super) fn left(&mut self, peer: &Peer) {
        let waiting: Vec<Gtid> = self.entries.keys().copied().collect();
        for gtid in waiting {
            match self.entries.get(&gtid).map(|entry| &entry.machine) {
                Some(Machine::TwoPhase(_) | Machine::ThreePhase(_)) => {
                    self.transaction_event(gtid, two_phase::Event::CallerLeft { session: peer.session.0 });
                }
                Some(Machine::Saga(_)) => {
                    self.saga_event(gtid, saga::Event::CallerLeft { session: peer.session.0 });
                }
                None => {}
            }
        }
        let Some(participant) = &peer.participant else { return };
        let instance = peer.instance;
        for gtid in self.involving(participant) {
            let participant = participant.clone();
            match self.entries.get(&gtid).map(|entry| &entry.machine) {
                Some(Machine::TwoPhase(_) | Machine::ThreePhase(_)) => {
                    self.transaction_event(gtid, two_phase::Event::Left { participant, instance });
                }
                Some(Machine::Saga(_)) => self.saga_event(gtid, saga::Event::Left { participant, instance }),
                None => {}
            }
        }
    }

    fn involving(&self, participant: &ParticipantName) -> Vec<Gtid> {
        self.entries
            .iter()
            .filter(|(_, entry)| match &entry.machine {
                machine @ (Machine::TwoPhase(_) | Machine::ThreePhase(_)) => machine
                    .transaction()
                    .is_some_and(|machine| machine.branches().iter().any(|branch| branch.participant == *participant)),
                Machine::Saga(machine) => {
                    machine.definition().steps().iter().any(|step| step.participant == *participant)
                }
            })
            .map(|(gtid, _)| *gtid)
            .collect()
    }
}

fn drawn(after_ms: u64, jitter: bool) -> Duration {
    Duration::from_millis(if jitter { rand::rng().random_range(0..=after_ms) } else { after_ms })
}

/// The crash points behind what a machine was told.
#[cfg(debug_assertions)]
pub(super) fn counted(event: &two_phase::Event) {
    if matches!(event, two_phase::Event::Voted { .. }) {
        crash_point!(VOTE_COUNTED);
    }
    if matches!(event, two_phase::Event::Acknowledged { .. }) {
        crash_point!(ACKNOWLEDGEMENT_COUNTED);
    }
}
