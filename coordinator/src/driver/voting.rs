//! Three-phase transactions: what is theirs beside what two phases have too.
//!
//! A voter's answer, a question to the log and an introduction go in as events of the machine; orders for voters, the log's answers and
//! questions to the log come out.

use std::time::Duration;

use assent_proto::session::{FromReplica, VoterPlace};
use assent_protocol::three_phase::coordinator::{Effect, Event, Introduction, Order, Timer};
use assent_protocol::three_phase::{Answer, Request, Seat};
use assent_protocol::two_phase::{self, Route};
use assent_protocol::{Gtid, InstanceId, Output, ParticipantName, Parts};
use rand::RngExt;

use super::entry::{self, Machine};
use super::peers::SessionId;
use super::shard::{HeldEffects, Shard};

impl Shard {
    pub(super) fn three_phase_event(&mut self, gtid: Gtid, event: Event) {
        let Some(entry) = self.entries.get_mut(&gtid) else { return };
        let Machine::ThreePhase(machine) = &mut entry.machine else { return };
        let before = (machine.stage(), machine.transaction().state());
        #[cfg(debug_assertions)]
        let checked = (machine.clone(), event.clone());
        let output = machine.handle(event);
        #[cfg(debug_assertions)]
        if let Err(violation) = assent_protocol::three_phase::invariant::check_coordinator(&checked.0, machine, &output)
        {
            panic!("{violation}: {:?} on {:?}", checked.1, checked.0);
        }
        #[cfg(debug_assertions)]
        if let Event::TwoPhase(event) = &checked.1 {
            super::effects::counted(event);
        }
        let is_changed = before != (machine.stage(), machine.transaction().state());
        let is_let_go = machine.is_ended() && machine.transaction().is_overruled();
        self.three_phase_output(gtid, output);
        if is_changed {
            self.changed(gtid);
        }
        if is_let_go {
            self.let_go(gtid);
        }
    }

    pub(super) fn three_phase_output(&mut self, gtid: Gtid, output: Output<Effect>) {
        match output.split() {
            Parts::Free { lazy, effects } => {
                self.ride(gtid, lazy);
                self.three_phase_effects(gtid, effects);
            }
            Parts::AfterAppend { forced, lazy, held } => {
                self.ride(gtid, lazy);
                self.force(gtid, forced, HeldEffects::ThreePhase(held));
            }
        }
    }

    pub(super) fn three_phase_effects(&mut self, gtid: Gtid, effects: Vec<Effect>) {
        // Told only once every effect is carried out: what follows from them must not overtake their messages.
        let mut follow = Vec::new();
        for effect in effects {
            match effect {
                Effect::Send { to, prefer, order } => {
                    if let Some(route) = self.voter_order(gtid, &to, prefer, order) {
                        follow.push(Event::TwoPhase(two_phase::Event::Routed { participant: to, to: route }));
                    }
                }
                Effect::Answer { to, instance, answer } => {
                    if let Some(session) = self.peers.route(&to, Some(instance)) {
                        self.peers.send(session, FromReplica::LogAnswered { gtid, answer });
                    }
                }
                Effect::Reply { to, reply } => self.transaction_reply(gtid, to, reply),
                Effect::Introduce(participant) => {
                    let introduction = self.introduction(&participant);
                    follow.push(Event::Introduced { participant, introduction });
                }
                Effect::LogDue => follow.push(Event::LogDue),
                Effect::SetTimer { timer, after_ms, jitter_ms } => {
                    let after_ms = after_ms.saturating_add(rand::rng().random_range(0..=jitter_ms));
                    self.set_timer(gtid, entry::Timer::ThreePhase(timer), Duration::from_millis(after_ms));
                }
                Effect::CancelTimer(timer) => self.cancel_timer(gtid, entry::Timer::ThreePhase(timer)),
            }
        }
        for event in follow {
            self.three_phase_event(gtid, event);
        }
    }

    pub(super) fn three_phase_timer(&mut self, gtid: Gtid, timer: Timer) {
        let event = match timer {
            Timer::TwoPhase(timer) => Event::TwoPhase(two_phase::Event::TimerFired(timer)),
            Timer::Election => Event::ElectionDue,
        };
        self.three_phase_event(gtid, event);
    }

    /// Hands an order over. Answers where an order to prepare went; the others are repeated by themselves.
    fn voter_order(
        &mut self,
        gtid: Gtid,
        to: &ParticipantName,
        prefer: Option<InstanceId>,
        order: Order,
    ) -> Option<Route> {
        let message = match order {
            Order::Prepare { payload, roster, is_prepared } => {
                return Some(self.send_prepare(gtid, to, prefer, |epoch, timeout_ms| FromReplica::Prepare {
                    gtid,
                    epoch,
                    payload,
                    timeout_ms,
                    one_phase: false,
                    roster: Some(roster),
                    is_prepared,
                }));
            }
            Order::Commit => return self.order(gtid, to, prefer, two_phase::Order::Commit),
            Order::Abort => return self.order(gtid, to, prefer, two_phase::Order::Abort),
            Order::Wait => FromReplica::AwaitDecision { gtid },
            Order::Ask(request) => FromReplica::AskVoter { gtid, request },
            Order::Forget => {
                if let Some(session) = self.peers.route(to, prefer) {
                    self.peers.forget(session, gtid);
                }
                return None;
            }
        };
        if let Some(session) = self.peers.route(to, prefer) {
            self.peers.send(session, message);
        }
        None
    }

    /// Where a participant's voter is.
    fn introduction(&self, participant: &ParticipantName) -> Introduction {
        match self.peers.voter(participant) {
            Some(Some(VoterPlace { address, store })) => {
                Introduction::Seat(Seat { participant: participant.clone(), address, store })
            }
            Some(None) => Introduction::NoVoter,
            None if self.peers.is_known(participant) => Introduction::Absent,
            None => Introduction::Unknown,
        }
    }

    /// A participant's voter has answered.
    pub(super) fn voter_answered(&mut self, gtid: Gtid, session: SessionId, answer: Answer) {
        let Some((participant, _)) = self.participant_of(session) else { return };
        self.three_phase_event(gtid, Event::Answered { participant, answer });
    }

    /// A participant that leads an election asks the log, about a transaction in memory.
    pub(super) fn log_asked(&mut self, gtid: Gtid, session: SessionId, request: Request) {
        let Some((participant, instance)) = self.participant_of(session) else { return };
        match self.entries.get(&gtid).map(|entry| &entry.machine) {
            Some(Machine::ThreePhase(_)) => {
                self.three_phase_event(gtid, Event::Asked { participant, instance, request });
            }
            // Presumed aborted, for want of any trace: it is told as one that inquires.
            Some(Machine::TwoPhase(_)) => {
                self.two_phase_event(gtid, two_phase::Event::Inquired { participant, instance });
            }
            Some(Machine::Saga(_)) | None => {}
        }
    }
}
