//! Branches of three-phase transactions.
//!
//! A branch that is not in memory is met with what its voter's store has: another instance may have
//! voted, or an earlier life of this one. So is the end of a branch that was found prepared: a vote
//! binds the branch wherever it was cast.

use std::sync::Arc;

use super::branches::{Entry, Lookup, Machine, Order, What, effects_of};
use super::{Agent, Notice, SessionId};
use crate::branch::{Message, State};
use crate::durable::Output;
use crate::ids::{BranchId, BranchKey, Gtid};
use crate::message::{FromClient, VoterMessage};
#[cfg(debug_assertions)]
use crate::three_phase::invariant;
use crate::three_phase::leader::Heard;
use crate::three_phase::participant::{Effect, Event, Timer};
use crate::three_phase::{Leader, Participant, VoterName, VoterRecord};
use crate::two_phase::Vote;

impl Agent {
    // ---- meeting a branch ------------------------------------------------------------------------------------------

    /// An order about a branch of which this process does not know whether its voter has voted.
    pub(super) fn meet_with_record(&mut self, order: Order) {
        self.look_up(order.key.gtid).orders.push(order);
    }

    /// What waits for the voter's record of a transaction, which the shell looks up.
    pub(super) fn look_up(&mut self, gtid: Gtid) -> &mut Lookup {
        let due = &mut self.branches.lookups_due;
        self.branches.lookups.entry(gtid).or_insert_with(|| {
            due.push(gtid);
            Lookup::default()
        })
    }

    /// What the store has is known: the orders are carried out, and then what a look has found is
    /// taken up.
    pub(super) fn looked_up(&mut self, gtid: Gtid, record: Option<Arc<VoterRecord>>, is_forgotten: bool) {
        let Some(Lookup { mut orders, left }) = self.branches.lookups.remove(&gtid) else { return };
        if is_forgotten {
            // An order to prepare was on its way for longer than everything else of its
            // transaction.
            orders.retain(|order| matches!(order.what, What::End(_)));
        }
        if let (Some(record), Some(Order { key, session, .. })) = (&record, orders.first())
            && self.may_revive(self.recorded_branch(record, key.id))
        {
            self.revive(record, key.id, Some(*session));
        }
        // Orders about other branches than that of the record are obeyed too: those never voted
        // here in three phases, and have nothing to keep.
        for order in orders {
            self.obey(order);
        }
        for id in left {
            self.take_up(BranchKey { gtid, id }, record.as_ref());
        }
    }

    /// Whether a voter's record says more about a branch than this process knows.
    pub(super) fn may_revive(&self, key: BranchKey) -> bool {
        self.branches.entries.get(&key).is_none_or(Entry::follows_its_voter)
    }

    /// A branch whose voter has a record takes its place in memory.
    pub(super) fn revive(&mut self, record: &VoterRecord, otherwise: BranchId, session: Option<SessionId>) {
        let Some(me) = self.voter.me.clone() else { return };
        let key = self.recorded_branch(record, otherwise);
        if self.branches.voting(key.gtid).is_some_and(|other| other != key) {
            // A participant has one vote in a transaction, and this record is about that one.
            return;
        }
        // Another instance may have voted, and had nothing to commit. What was found prepared here
        // has to be ended all the same.
        let is_read_only = record.is_read_only && !self.branches.entries.contains_key(&key);
        let record = VoterRecord { is_read_only, ..record.clone() };
        let (machine, output) = Participant::recover(&record, me, self.next_node());
        self.adopt(key, machine, 0, session, output);
    }

    /// A machine takes its place, in a two-phase one's if need be.
    fn adopt(
        &mut self,
        key: BranchKey,
        machine: Participant,
        timeout_ms: u64,
        session: Option<SessionId>,
        output: Output<Effect>,
    ) {
        self.forget(key);
        self.branches.insert(key, Entry::new(Machine::ThreePhase(Box::new(machine)), timeout_ms, session));
        self.three_phase_output(key, output);
    }

    // ---- orders ----------------------------------------------------------------------------------------------------

    /// An order to prepare that has a roster.
    pub(super) fn three_phase_prepare(&mut self, key: BranchKey, event: Event, timeout_ms: u64, session: SessionId) {
        let Some(me) = self.voter.me.clone() else { return };
        if self.branches.voting(key.gtid).is_some_and(|other| other != key) {
            // A participant has one vote in a transaction.
            let problem = "the participant's voter votes for another branch of this transaction".to_owned();
            return self.report(key, Some(session), Message::Vote(Vote::No(problem)));
        }
        match self.branches.entries.get(&key).map(|entry| &entry.machine) {
            Some(Machine::ThreePhase(_)) => {}
            // Prepared by the service itself, or found so, before it was known that this is a
            // three-phase transaction.
            Some(Machine::TwoPhase(machine)) if machine.state() == State::InDoubt && machine.is_prepared() => {
                let (machine, output) = Participant::prepared(key.gtid, me, self.next_node());
                self.adopt(key, machine, timeout_ms, Some(session), output);
            }
            Some(Machine::TwoPhase(_)) => return,
            None => {
                #[cfg(debug_assertions)]
                let met = event.clone();
                let (machine, output) = Participant::meet(key.gtid, me, self.next_node(), None, event);
                #[cfg(debug_assertions)]
                check(None, &met, &machine, &output);
                return self.adopt(key, machine, timeout_ms, Some(session), output);
            }
        }
        self.three_phase_event(key.gtid, event);
    }

    /// The coordinator collects votes.
    pub(super) fn decision_awaited(&mut self, gtid: Gtid) {
        self.three_phase_event(gtid, Event::Waited);
    }

    /// Every branch of the transaction has ended.
    pub(super) fn forget_ordered(&mut self, gtid: Gtid) {
        match self.branches.voting(gtid) {
            Some(_) => self.three_phase_event(gtid, Event::Forgotten),
            // It has ended and left memory.
            None => self.forget_record(gtid),
        }
    }

    /// A voter has answered this branch's question: a peer, or the log.
    pub(super) fn peer_answered(&mut self, gtid: Gtid, voter: VoterName, answer: crate::three_phase::Answer) {
        self.three_phase_event(gtid, Event::PeerAnswered { voter, answer });
    }

    // ---- the machine -----------------------------------------------------------------------------------------------

    pub(super) fn three_phase_event(&mut self, gtid: Gtid, event: Event) {
        let Some((key, Entry { machine: Machine::ThreePhase(machine), .. })) = self.branches.voting_mut(gtid) else {
            return;
        };
        if event == Event::TimerFired(Timer::Round) {
            self.notices.extend(election_failed(gtid, machine));
        }
        #[cfg(debug_assertions)]
        let checked = (machine.clone(), event.clone());
        let output = machine.handle(event);
        #[cfg(debug_assertions)]
        check(Some(&checked.0), &checked.1, machine, &output);
        self.three_phase_output(key, output);
    }

    fn three_phase_output(&mut self, key: BranchKey, output: Output<Effect>) {
        let BranchKey { gtid, id: branch } = key;
        for effect in effects_of(output) {
            match effect {
                Effect::Call(hook) => self.call_hook(key, hook),
                Effect::Send(message) => self.report(key, self.session_of(key), message),
                Effect::AskVoter(request) => self.branch_asks(key, request),
                Effect::AskPeer { voter: VoterName::Log, request, .. } => {
                    let message = FromClient::voter(gtid, VoterMessage::AskLog { branch, request });
                    self.sessions.send_to_all(&message);
                }
                Effect::AskPeer { voter: VoterName::Participant(to), address: Some(address), request } => {
                    self.ask_peer(gtid, to, address, request);
                }
                Effect::AskPeer { address: None, .. } => {}
                Effect::ForgetVoter => self.forget_record(gtid),
                Effect::SetTimer { timer, after_ms, jitter_ms } => {
                    self.set_branch_timer(key, timer, after_ms, jitter_ms);
                }
                Effect::CancelTimer(timer) => self.cancel_branch_timer(key, timer),
                Effect::Contradiction { doing } => self.notices.push(Notice::Contradiction { key, doing }),
            }
        }
        self.forget_if_ended(key);
    }
}

/// An election that fails again: the operator of this process has to know for whom it waits. The
/// more seldom, the longer it lasts.
fn election_failed(gtid: Gtid, machine: &Participant) -> Option<Notice> {
    let leader = machine.leader()?;
    let elections = leader.failures();
    (elections > 0 && elections.is_power_of_two()).then(|| Notice::ElectionFailed {
        gtid,
        elections,
        waiting_for: machine.waiting_for(),
        asked_at: silent_addresses(leader),
    })
}

/// Where the peers that do not answer were asked. A peer that listens elsewhere than its roster
/// says is silent, too.
fn silent_addresses(leader: &Leader) -> String {
    let silent = leader.heard().filter(|(_, heard)| *heard == Heard::Nothing);
    let seats = silent.filter_map(|(voter, _)| match voter {
        VoterName::Participant(name) => leader.roster().seat(&name),
        VoterName::Log => None,
    });
    let places: Vec<_> = seats.map(|seat| format!("{} at {}", seat.participant, seat.address)).collect();
    places.join(", ")
}

#[cfg(debug_assertions)]
fn check(before: Option<&Participant>, event: &Event, after: &Participant, output: &Output<Effect>) {
    if let Err(violation) = invariant::check_participant(before, event, after, output) {
        panic!("{violation}: {event:?} on {before:?}");
    }
}
