//! What a two-phase machine wants done, and what it has in common with a three-phase one.

use super::append::Sealed;
use super::drive::Driven;
use super::entry::{Machine, Timer};
use super::{Replica, SessionId};
use crate::durable::{Held, Output};
use crate::ids::{BranchId, Caller, Epoch, Gtid, InstanceId, ParticipantName};
#[cfg(debug_assertions)]
use crate::invariant::Violation;
use crate::message::{FromReplica, Reply};
use crate::two_phase::{self, Effect, Event, Order, Route, State, TwoPhase};

impl Driven for TwoPhase {
    type Event = Event;
    type Effect = Effect;

    fn of(machine: &mut Machine) -> Option<&mut Self> {
        if let Machine::TwoPhase(machine) = machine { Some(machine) } else { None }
    }

    fn take(&mut self, event: Event) -> Output<Effect> {
        self.handle(event)
    }

    fn stage(&self) -> impl PartialEq + 'static {
        self.state()
    }

    fn is_overruled(&self) -> bool {
        self.is_ended() && TwoPhase::is_overruled(self)
    }

    #[cfg(debug_assertions)]
    fn check(before: &Self, event: &Event, after: &Self, output: &Output<Effect>) -> Result<(), Violation> {
        two_phase::invariant::check(before, event, after, output)
    }

    fn seal(held: Held<Effect>) -> Sealed {
        Sealed::TwoPhase(held)
    }

    fn carry_out(replica: &mut Replica, gtid: Gtid, effects: Vec<Effect>) {
        // Told only once every effect is carried out: what follows from them must not overtake
        // their messages.
        let mut routed = Vec::new();
        for effect in effects {
            match effect {
                Effect::Send { to, branch, prefer, order } => {
                    if let Some(route) = replica.send_order(gtid, &to, branch, prefer, order) {
                        routed.push((to, route));
                    }
                }
                Effect::Reply { to, reply } => replica.reply_for_transaction(gtid, to, reply),
                Effect::SetTimer { timer, after_ms, jitter } => {
                    replica.set_drawn_timer(gtid, Timer::TwoPhase(timer), after_ms, jitter);
                }
                Effect::CancelTimer(timer) => replica.cancel_timer(gtid, Timer::TwoPhase(timer)),
            }
        }
        for (participant, to) in routed {
            replica.drive::<Self>(gtid, Event::Routed { participant, to });
        }
    }
}

impl Replica {
    /// The machine of a transaction with branches, in two phases or three.
    pub(super) fn transaction(&self, gtid: Gtid) -> Option<&TwoPhase> {
        self.entries.get(&gtid)?.machine.transaction()
    }

    /// Whether it is open to enlist: only what Begin opened ever is.
    pub(super) fn is_active(&self, gtid: Gtid) -> bool {
        self.transaction(gtid).is_some_and(|machine| machine.state() == State::Active)
    }

    pub(super) fn branch_count(&self, gtid: Gtid) -> usize {
        self.transaction(gtid).map_or(0, |machine| machine.branches().len())
    }

    pub(super) fn reply_for_transaction(&mut self, gtid: Gtid, to: Caller, reply: two_phase::Reply) {
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

    /// Sends an order to prepare, of which only the payload and how to prepare is the machine's.
    /// Answers where it went.
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
                let timeout_ms = deadline_unix_ms.saturating_sub(self.now_ms);
                self.peers.send(session, prepare(self.epoch, timeout_ms));
                self.instance_of(session).map_or(Route::Absent, Route::Instance)
            }
            None if self.peers.is_known(to) => Route::Absent,
            None => Route::Unknown,
        }
    }

    /// Hands an order over. Answers where an order to prepare went; the others are repeated by
    /// themselves.
    pub(super) fn send_order(
        &mut self,
        gtid: Gtid,
        to: &ParticipantName,
        branch: BranchId,
        prefer: Option<InstanceId>,
        order: Order,
    ) -> Option<Route> {
        let epoch = self.epoch;
        let message = match order {
            Order::Prepare { payload, one_phase } => {
                return Some(self.send_prepare(gtid, to, prefer, |epoch, timeout_ms| FromReplica::Prepare {
                    gtid,
                    branch,
                    epoch,
                    payload,
                    timeout_ms,
                    one_phase,
                    roster: None,
                    is_prepared: false,
                }));
            }
            Order::Commit => FromReplica::CommitBranch { gtid, branch, epoch },
            Order::Abort => FromReplica::AbortBranch { gtid, branch, epoch },
        };
        // An order that finds no instance is repeated when one joins, and by the resend timer.
        if let Some(session) = self.peers.route(to, prefer) {
            self.peers.send(session, message);
        }
        None
    }

    pub(super) fn instance_of(&self, session: SessionId) -> Option<InstanceId> {
        self.peers.get(session).map(|peer| peer.instance)
    }
}
