//! Sessions, and the participants behind them: which can be reached, and which instance is asked.
//!
//! What is iterated keeps its order of insertion: the sessions of a participant, and the sessions
//! with something to say.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;

use super::{Replica, entry::Machine};
use crate::ids::{Gtid, InstanceId, ParticipantName};
use crate::message::{FORGOTTEN_MAX, FromReplica, VoterPlace};
use crate::saga::{self, Saga};
use crate::two_phase;

/// The number of a session within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// One open session.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its number.
    pub session: SessionId,
    /// The participant that it serves.
    pub participant: Option<ParticipantName>,
    /// The process behind it.
    pub instance: InstanceId,
    /// Whether its one-phase commits are safe to ask for again.
    pub one_phase: bool,
    /// Where its voter is, if it has one.
    pub voter: Option<VoterPlace>,
}

#[derive(Clone, Debug)]
struct Reachable {
    peer: Peer,
    outbox: Vec<FromReplica>,
    /// What its voter may forget, which goes behind the outbox.
    forgotten: Vec<Gtid>,
}

/// A shard's own table of peers; every shard has all of them.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    sessions: HashMap<SessionId, Reachable, RandomState>,
    instances: HashMap<ParticipantName, Vec<SessionId>, RandomState>,
    known: HashSet<ParticipantName, RandomState>,
    /// When the last instance of each participant left that is not here, in Unix milliseconds.
    left_at_ms: HashMap<ParticipantName, u64, RandomState>,
    /// When this process started, in Unix milliseconds.
    started_at_ms: u64,
    /// Sessions with something in their outbox.
    unsent: Vec<SessionId>,
    turn: usize,
}

impl Peers {
    pub(super) fn new(known: Vec<ParticipantName>, now_ms: u64) -> Self {
        Self {
            sessions: HashMap::default(),
            instances: HashMap::default(),
            known: known.into_iter().collect(),
            left_at_ms: HashMap::default(),
            started_at_ms: now_ms,
            unsent: Vec::new(),
            turn: 0,
        }
    }

    pub(super) fn open(&mut self, peer: Peer) {
        if let Some(participant) = &peer.participant {
            self.known.insert(participant.clone());
            self.left_at_ms.remove(participant);
            self.instances.entry(participant.clone()).or_default().push(peer.session);
        }
        self.sessions.insert(peer.session, Reachable { peer, outbox: Vec::new(), forgotten: Vec::new() });
    }

    /// Forgets a session.
    pub(super) fn close(&mut self, session: SessionId, now_ms: u64) -> Option<Peer> {
        self.retire(session, now_ms);
        self.sessions.remove(&session).map(|reachable| reachable.peer)
    }

    /// Gives a session no more orders. What it was asked it may still answer.
    pub(super) fn retire(&mut self, session: SessionId, now_ms: u64) {
        let Some(Reachable { peer, .. }) = self.sessions.get(&session) else { return };
        if let Some(participant) = &peer.participant
            && let Some(sessions) = self.instances.get_mut(participant)
        {
            sessions.retain(|other| *other != session);
            if sessions.is_empty() {
                self.instances.remove(participant);
                self.left_at_ms.insert(participant.clone(), now_ms);
            }
        }
    }

    pub(super) fn get(&self, session: SessionId) -> Option<&Peer> {
        self.sessions.get(&session).map(|reachable| &reachable.peer)
    }

    /// The participants that are here, each with the number of its sessions.
    pub(super) fn connected(&self) -> impl Iterator<Item = (&ParticipantName, usize)> {
        self.instances.iter().map(|(participant, sessions)| (participant, sessions.len()))
    }

    /// Since when no instance of a participant is here, in Unix milliseconds: since its last one
    /// left, or since this process started. `None` if one is here.
    pub(super) fn absent_since_ms(&self, participant: &ParticipantName) -> Option<u64> {
        let is_absent = !self.instances.contains_key(participant);
        is_absent.then(|| self.left_at_ms.get(participant).copied().unwrap_or(self.started_at_ms))
    }

    /// Whether a participant of this name has ever been here.
    pub(super) fn is_known(&self, participant: &ParticipantName) -> bool {
        self.known.contains(participant)
    }

    /// Whether a process has a session here.
    pub(super) fn has_instance(&self, instance: InstanceId) -> bool {
        self.sessions.values().any(|reachable| reachable.peer.instance == instance)
    }

    /// Where a participant's voter is: that of the newest of its sessions that has one. The outer
    /// `None` if no session is here.
    pub(super) fn voter(&self, participant: &ParticipantName) -> Option<Option<VoterPlace>> {
        let sessions = self.instances.get(participant).filter(|sessions| !sessions.is_empty())?;
        let voters = sessions.iter().rev().filter_map(|session| self.sessions.get(session)?.peer.voter.clone());
        Some({ voters }.next())
    }

    /// Whether every instance of a participant that is here can be asked for one-phase commits.
    pub(super) fn commits_in_one_phase(&self, participant: &ParticipantName) -> bool {
        let sessions = self.instances.get(participant).map_or(&[][..], Vec::as_slice);
        !sessions.is_empty()
            && sessions
                .iter()
                .all(|session| self.sessions.get(session).is_some_and(|reachable| reachable.peer.one_phase))
    }

    /// The sessions of the same process that this one takes the place of: it has dialled again, and
    /// they are dead or dying.
    pub(super) fn replaced_by(&self, peer: &Peer) -> Vec<SessionId> {
        let same = |other: &&Reachable| {
            peer.instance != InstanceId(0)
                && other.peer.participant == peer.participant
                && other.peer.instance == peer.instance
                && other.peer.session != peer.session
        };
        let mut replaced: Vec<SessionId> =
            self.sessions.values().filter(same).map(|other| other.peer.session).collect();
        replaced.sort_unstable();
        replaced
    }

    /// The session to ask: the preferred instance's if it is here, else any other in turn.
    pub(super) fn route(&mut self, participant: &ParticipantName, prefer: Option<InstanceId>) -> Option<SessionId> {
        let sessions = self.instances.get(participant)?;
        if let Some(prefer) = prefer {
            // The newest session of an instance is the one that is alive, if it has dialled again.
            let preferred = sessions
                .iter()
                .rev()
                .find(|session| self.sessions.get(session).is_some_and(|reachable| reachable.peer.instance == prefer));
            if preferred.is_some() {
                return preferred.copied();
            }
        }
        if sessions.is_empty() {
            return None;
        }
        self.turn = self.turn.wrapping_add(1);
        Some(sessions[self.turn % sessions.len()])
    }

    /// Queues a message; dropped when the session is gone, as on the network.
    pub(super) fn send(&mut self, session: SessionId, message: FromReplica) {
        if let Some(reachable) = self.reach(session) {
            reachable.outbox.push(message);
        }
    }

    /// Queues an order to forget. Those of one turn share a message.
    pub(super) fn forget(&mut self, session: SessionId, gtid: Gtid) {
        if let Some(reachable) = self.reach(session) {
            reachable.forgotten.push(gtid);
        }
    }

    /// A session that is about to be told something, noted for the next flush.
    fn reach(&mut self, session: SessionId) -> Option<&mut Reachable> {
        let reachable = self.sessions.get_mut(&session)?;
        if reachable.outbox.is_empty() && reachable.forgotten.is_empty() {
            self.unsent.push(session);
        }
        Some(reachable)
    }

    /// Hands all outboxes over.
    pub(super) fn take_messages(&mut self, mut hand_over: impl FnMut(SessionId, Vec<FromReplica>)) {
        for session in self.unsent.drain(..) {
            let Some(reachable) = self.sessions.get_mut(&session) else { continue };
            let mut outbox = std::mem::take(&mut reachable.outbox);
            let forgotten = std::mem::take(&mut reachable.forgotten);
            outbox
                .extend(forgotten.chunks(FORGOTTEN_MAX).map(|gtids| FromReplica::ForgetVoters { gtids: gtids.into() }));
            hand_over(session, outbox);
        }
    }
}

impl Replica {
    pub(super) fn session_opened(&mut self, peer: Peer) {
        for replaced in self.peers.replaced_by(&peer) {
            self.session_closed(replaced);
        }
        let participant = peer.participant.clone();
        self.peers.open(peer);
        if let Some(participant) = participant {
            self.joined(&participant);
        }
    }

    pub(super) fn session_closed(&mut self, session: SessionId) {
        if let Some(peer) = self.peers.close(session, self.now_ms) {
            self.requests.session_closed(session);
            self.left(&peer);
        }
    }

    /// Its session is about to be closed: what it was asked to prepare it may still vote on, and
    /// nothing more is asked of it. So no vote is lost with the session.
    pub(super) fn session_retires(&mut self, session: SessionId) {
        self.peers.retire(session, self.now_ms);
    }

    /// Whether a session is open here: the shell cuts one that is not.
    pub fn is_open(&self, session: SessionId) -> bool {
        self.peers.get(session).is_some()
    }

    fn joined(&mut self, participant: &ParticipantName) {
        for gtid in self.involving(participant) {
            match self.entries.get(&gtid).map(|entry| &entry.machine) {
                Some(Machine::TwoPhase(_) | Machine::ThreePhase(_)) => {
                    let participant = participant.clone();
                    self.drive_transaction(gtid, two_phase::Event::Joined { participant });
                }
                Some(Machine::Saga(_)) => {
                    let participant = participant.clone();
                    self.drive::<Saga>(gtid, saga::Event::Joined { participant });
                }
                None => {}
            }
        }
    }

    fn left(&mut self, peer: &Peer) {
        for gtid in self.in_order(|_| true) {
            match self.entries.get(&gtid).map(|entry| &entry.machine) {
                Some(Machine::TwoPhase(_) | Machine::ThreePhase(_)) => {
                    self.drive_transaction(gtid, two_phase::Event::CallerLeft { session: peer.session.0 });
                }
                Some(Machine::Saga(_)) => {
                    self.drive::<Saga>(gtid, saga::Event::CallerLeft { session: peer.session.0 });
                }
                None => {}
            }
        }
        self.initiator_left(peer.instance);
        let Some(participant) = &peer.participant else { return };
        let instance = peer.instance;
        for gtid in self.involving(participant) {
            let participant = participant.clone();
            match self.entries.get(&gtid).map(|entry| &entry.machine) {
                Some(Machine::TwoPhase(_) | Machine::ThreePhase(_)) => {
                    self.drive_transaction(gtid, two_phase::Event::Left { participant, instance });
                }
                Some(Machine::Saga(_)) => self.drive::<Saga>(gtid, saga::Event::Left { participant, instance }),
                None => {}
            }
        }
    }

    fn involving(&self, participant: &ParticipantName) -> Vec<Gtid> {
        self.in_order(|machine| match machine {
            Machine::TwoPhase(_) | Machine::ThreePhase(_) => machine
                .transaction()
                .is_some_and(|machine| machine.branches().iter().any(|branch| branch.participant == *participant)),
            Machine::Saga(machine) => machine.definition().steps().iter().any(|step| step.participant == *participant),
        })
    }

    /// The transactions whose machine is wanted, by gtid: the table itself has no order that two
    /// runs share.
    fn in_order(&self, is_wanted: impl Fn(&Machine) -> bool) -> Vec<Gtid> {
        let wanted = self.entries.iter().filter(|(_, entry)| is_wanted(&entry.machine));
        let mut gtids: Vec<Gtid> = wanted.map(|(gtid, _)| *gtid).collect();
        gtids.sort_unstable();
        gtids
    }
}
