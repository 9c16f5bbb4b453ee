//! Who can be reached: open sessions, and the participants behind them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use assent_proto::session::{FORGOTTEN_MAX, FromReplica, VoterPlace};
use assent_protocol::{Gtid, InstanceId, ParticipantName};
use foldhash::fast::RandomState;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The number of a session within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Where a session's messages go. One for each shard; they share the backlog.
#[derive(Clone, Debug)]
pub struct Outbound {
    queue: mpsc::UnboundedSender<Vec<FromReplica>>,
    backlog: Arc<Backlog>,
    cut: CancellationToken,
}

/// How many messages wait for a session.
///
/// The queue itself is unbounded so that a shard never waits for a slow peer; this count is the bound: a session beyond
/// it is cut, and whatever was lost with it is asked for again.
#[derive(Debug, Default)]
pub struct Backlog {
    messages: AtomicUsize,
}

impl Backlog {
    /// The session has sent so many of them.
    pub fn sent(&self, messages: usize) {
        self.messages.fetch_sub(messages, Relaxed);
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.messages.load(Relaxed)
    }
}

impl Outbound {
    /// A queue, with its end for the session and the count that the session has to lower.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Vec<FromReplica>>, Arc<Backlog>) {
        let (queue, receiver) = mpsc::unbounded_channel();
        let backlog = Arc::new(Backlog::default());
        (Self { queue, backlog: Arc::clone(&backlog), cut: CancellationToken::new() }, receiver, backlog)
    }

    /// Queues messages. Answers whether the session is still there and within its bound.
    fn send(&self, messages: Vec<FromReplica>, backlog_max: usize) -> bool {
        let added = messages.len();
        let before = self.backlog.messages.fetch_add(added, Relaxed);
        let is_sent = before + added <= backlog_max && self.queue.send(messages).is_ok();
        if !is_sent {
            self.backlog.sent(added);
        }
        is_sent
    }

    /// Ends when a shard has given the session up; then the session must end too.
    pub async fn cut(&self) {
        self.cut.cancelled().await;
    }
}

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
    /// Where its messages go.
    pub outbound: Outbound,
}

#[derive(Debug)]
struct Reachable {
    peer: Peer,
    outbox: Vec<FromReplica>,
    /// What its voter may forget, which goes behind the outbox.
    forgotten: Vec<Gtid>,
}

/// A shard's own table of peers; every shard has all of them.
#[derive(Debug)]
pub(super) struct Peers {
    sessions: HashMap<SessionId, Reachable, RandomState>,
    instances: HashMap<ParticipantName, Vec<SessionId>, RandomState>,
    known: HashSet<ParticipantName, RandomState>,
    /// Sessions with something in their outbox.
    unsent: Vec<SessionId>,
    backlog_max: usize,
    turn: usize,
}

impl Peers {
    pub(super) fn new(known: Vec<ParticipantName>, backlog_max: usize) -> Self {
        Self {
            sessions: HashMap::default(),
            instances: HashMap::default(),
            known: known.into_iter().collect(),
            unsent: Vec::new(),
            backlog_max,
            turn: 0,
        }
    }

    pub(super) fn open(&mut self, peer: Peer) {
        if let Some(participant) = &peer.participant {
            self.known.insert(participant.clone());
            self.instances.entry(participant.clone()).or_default().push(peer.session);
        }
        self.sessions.insert(peer.session, Reachable { peer, outbox: Vec::new(), forgotten: Vec::new() });
    }

    /// Forgets a session, and cuts it if it is still there.
    pub(super) fn close(&mut self, session: SessionId) -> Option<Peer> {
        let Reachable { peer, .. } = self.sessions.remove(&session)?;
        peer.outbound.cut.cancel();
        if let Some(participant) = &peer.participant
            && let Some(sessions) = self.instances.get_mut(participant)
        {
            sessions.retain(|other| *other != session);
            if sessions.is_empty() {
                self.instances.remove(participant);
            }
        }
        Some(peer)
    }

    pub(super) fn get(&self, session: SessionId) -> Option<&Peer> {
        self.sessions.get(&session).map(|reachable| &reachable.peer)
    }

    /// The participants that are here, each with the number of its sessions.
    pub(super) fn connected(&self) -> HashMap<ParticipantName, u32> {
        let count = |sessions: &Vec<SessionId>| u32::try_from(sessions.len()).unwrap_or(u32::MAX);
        let here = self.instances.iter().filter(|(_, sessions)| !sessions.is_empty());
        here.map(|(participant, sessions)| (participant.clone(), count(sessions))).collect()
    }

    /// Whether a participant of this name has ever been here.
    pub(super) fn is_known(&self, participant: &ParticipantName) -> bool {
        self.known.contains(participant)
    }

    /// Where a participant's voter is: that of the newest of its sessions that has one. The outer `None` if no session is here.
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

    /// Whether some instance may have been asked for a one-phase commit: one that is here can, or none is here to tell.
    pub(super) fn may_commit_in_one_phase(&self, participant: &ParticipantName) -> bool {
        let sessions = self.instances.get(participant).map_or(&[][..], Vec::as_slice);
        sessions.is_empty()
            || sessions
                .iter()
                .any(|session| self.sessions.get(session).is_some_and(|reachable| reachable.peer.one_phase))
    }

    /// The sessions of the same process that this one takes the place of: it has dialled again, and they are dead or dying.
    pub(super) fn replaced_by(&self, peer: &Peer) -> Vec<SessionId> {
        let same = |other: &&Reachable| {
            peer.participant.is_some()
                && other.peer.participant == peer.participant
                && other.peer.instance == peer.instance
                && other.peer.session != peer.session
        };
        self.sessions.values().filter(same).map(|other| other.peer.session).collect()
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

    /// Hands all outboxes over. Answers how many messages that were, and the sessions that are gone or too slow: they
    /// must be closed.
    pub(super) fn flush(&mut self) -> (u64, Vec<SessionId>) {
        let mut messages = 0;
        let mut lost = Vec::new();
        for session in self.unsent.drain(..) {
            let Some(reachable) = self.sessions.get_mut(&session) else { continue };
            let mut outbox = std::mem::take(&mut reachable.outbox);
            let forgotten = std::mem::take(&mut reachable.forgotten);
            outbox
                .extend(forgotten.chunks(FORGOTTEN_MAX).map(|gtids| FromReplica::ForgetVoters { gtids: gtids.into() }));
            messages += outbox.len() as u64;
            if !reachable.peer.outbound.send(outbox, self.backlog_max) {
                lost.push(session);
            }
        }
        (messages, lost)
    }
}
