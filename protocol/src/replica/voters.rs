//! What a three-phase machine wants done: orders for voters, the log's answers, questions to the
//! log.

use super::append::Sealed;
use super::drive::Driven;
use super::entry::{Machine, Timer};
use super::{Replica, SessionId};
use crate::durable::{Held, Output};
use crate::ids::{BranchId, Gtid, InstanceId, ParticipantName};
#[cfg(debug_assertions)]
use crate::invariant::Violation;
use crate::message::{FromReplica, VoterMessage, VoterPlace};
use crate::record::Member;
#[cfg(debug_assertions)]
use crate::three_phase;
use crate::three_phase::coordinator::{Effect, Event, Introduction, Order};
use crate::three_phase::{Coordinator, Request};
use crate::two_phase::{self, Route, TwoPhase};

impl Driven for Coordinator {
    type Event = Event;
    type Effect = Effect;

    fn of(machine: &mut Machine) -> Option<&mut Self> {
        if let Machine::ThreePhase(machine) = machine { Some(machine) } else { None }
    }

    fn take(&mut self, event: Event) -> Output<Effect> {
        self.handle(event)
    }

    fn stage(&self) -> impl PartialEq + 'static {
        (Coordinator::stage(self), self.transaction().state())
    }

    fn is_overruled(&self) -> bool {
        self.is_ended() && self.transaction().is_overruled()
    }

    #[cfg(debug_assertions)]
    fn check(before: &Self, _: &Event, after: &Self, output: &Output<Effect>) -> Result<(), Violation> {
        three_phase::invariant::check_coordinator(before, after, output)
    }

    #[cfg(debug_assertions)]
    fn cells(before: &Self, event: &Event) -> Vec<three_phase::cells::Cell> {
        three_phase::cells::of_coordinator(before, event)
    }

    fn seal(held: Held<Effect>) -> Sealed {
        Sealed::ThreePhase(held)
    }

    fn carry_out(replica: &mut Replica, gtid: Gtid, effects: Vec<Effect>) {
        // Told only once every effect is carried out: what follows from them must not overtake
        // their messages.
        let mut follow = Vec::new();
        for effect in effects {
            match effect {
                Effect::Send { to, branch, prefer, order } => {
                    if let Some(route) = replica.send_voter_order(gtid, &to, branch, prefer, order) {
                        follow.push(Event::TwoPhase(two_phase::Event::Routed { participant: to, to: route }));
                    }
                }
                Effect::Answer { to, instance, answer } => {
                    if let Some(session) = replica.peers.route(&to, Some(instance)) {
                        replica.peers.send(session, FromReplica::LogAnswered { gtid, answer });
                    }
                }
                Effect::Reply { to, reply } => replica.reply_for_transaction(gtid, to, reply),
                Effect::Introduce(participant) => {
                    let introduction = replica.introduction(&participant);
                    follow.push(Event::Introduced { participant, introduction });
                }
                Effect::LogDue => follow.push(Event::LogDue),
                Effect::SetTimer { timer, after_ms, jitter_ms } => {
                    replica.set_timer(gtid, Timer::ThreePhase(timer), after_ms, jitter_ms);
                }
                Effect::CancelTimer(timer) => replica.cancel_timer(gtid, Timer::ThreePhase(timer)),
            }
        }
        for event in follow {
            replica.drive::<Self>(gtid, event);
        }
    }
}

impl Replica {
    /// Hands an order over. Answers where an order to prepare went; the others are repeated by
    /// themselves.
    fn send_voter_order(
        &mut self,
        gtid: Gtid,
        to: &ParticipantName,
        branch: BranchId,
        prefer: Option<InstanceId>,
        order: Order,
    ) -> Option<Route> {
        let message = match order {
            Order::Prepare { payload, roster, is_prepared } => {
                return Some(self.send_prepare(gtid, to, prefer, |epoch, timeout_ms| FromReplica::Prepare {
                    gtid,
                    branch,
                    epoch,
                    payload,
                    timeout_ms,
                    one_phase: false,
                    roster: Some(roster),
                    is_prepared,
                }));
            }
            Order::Commit => return self.send_order(gtid, to, branch, prefer, two_phase::Order::Commit),
            Order::Abort => return self.send_order(gtid, to, branch, prefer, two_phase::Order::Abort),
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
            Some(Some(VoterPlace { address, store })) => Introduction::Voter { address, store },
            Some(None) => Introduction::NoVoter,
            None if self.peers.is_known(participant) => Introduction::Absent,
            None => Introduction::Unknown,
        }
    }

    /// A participant's voter answers, or the participant asks the log, about a transaction that
    /// this replica drives.
    pub(super) fn voter_reports(&mut self, gtid: Gtid, session: SessionId, message: VoterMessage) {
        let Some((participant, instance)) = self.participant_of(session) else { return };
        match message {
            VoterMessage::Answered(answer) => {
                self.drive::<Coordinator>(gtid, Event::Answered { participant, answer });
            }
            VoterMessage::AskLog { branch, request } => {
                self.log_asked(gtid, Member { participant, branch }, instance, request);
            }
        }
    }

    fn log_asked(&mut self, gtid: Gtid, member: Member, instance: InstanceId, request: Request) {
        match self.entries.get(&gtid).map(|entry| &entry.machine) {
            Some(Machine::ThreePhase(_)) => {
                self.drive::<Coordinator>(gtid, Event::Asked { member, instance, request });
            }
            // Presumed aborted, for want of any trace: it is told as one that inquires.
            Some(Machine::TwoPhase(_)) => {
                let Member { participant, branch } = member;
                self.drive::<TwoPhase>(gtid, two_phase::Event::Inquired { participant, branch, instance });
            }
            Some(Machine::Saga(_)) | None => {}
        }
    }
}
