//! Sessions between processes and replicas, and calls between participants.

use assent_protocol::branch;
use assent_protocol::message::{Ask, FromClient, FromReplica, Request, VoterMessage};
use assent_protocol::replica::{Input, Peer, SessionId};
use assent_protocol::three_phase::{self, Answer, VoterName};
use assent_protocol::{Gtid, InstanceId};

use super::bank::{GRACE_MS, Question, Said};
use super::cells::{self, CELLS};
use super::session::{Client, Session};
use super::world::World;

/// The process of the initiator.
const INITIATOR: InstanceId = InstanceId(1_000_000);

/// A call to a peer's voter, or its answer on the way back. It may be lost, and come twice.
#[derive(Clone, Debug)]
pub(crate) struct PeerCall {
    pub(crate) gtid: Gtid,
    /// The participant that asks, and its process.
    pub(crate) from: usize,
    pub(crate) process: InstanceId,
    /// The participant that is asked.
    pub(crate) to: usize,
    pub(crate) request: three_phase::Request,
    pub(crate) answer: Option<Answer>,
}

impl World {
    pub(super) fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.iter().find(|session| session.id == id)
    }

    pub(super) fn session_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| session.id == id)
    }

    /// The session that a client has, as far as it knows.
    pub(super) fn session_of(&self, client: Client) -> Option<&Session> {
        self.sessions.iter().find(|session| session.client == client && session.is_open_at_client)
    }

    /// Whether a client needs no session with this replica. Where two replicas are at work for
    /// good, an instance serves both of them.
    pub(super) fn has_session(&self, client: Client, node: usize) -> bool {
        if !self.two_names || client == Client::Initiator {
            return self.session_of(client).is_some();
        }
        let is_wanted =
            |session: &&Session| session.client == client && session.node == node && session.is_open_at_client;
        self.sessions.iter().any(|session| is_wanted(&session))
    }

    pub(super) fn is_alive(&self, client: Client) -> bool {
        match client {
            Client::Initiator => true,
            Client::Instance { bank, instance } => self.banks[bank].instances[instance].is_some(),
        }
    }

    pub(super) fn is_served(&self, session: &Session) -> bool {
        self.nodes[session.node].as_ref().is_some_and(|node| node.life == session.life)
    }

    pub(super) fn dial(&mut self, client: Client, node: usize) {
        let Some((life, epoch)) = self.nodes[node].as_ref().map(|node| (node.life, node.epoch)) else { return };
        self.last_session += 1;
        let id = SessionId(self.last_session);
        self.sessions.push(Session {
            id,
            client,
            node,
            life,
            epoch,
            to_replica: Default::default(),
            to_client: Default::default(),
            is_broken: false,
            is_open_at_replica: true,
            is_open_at_client: true,
        });
        let (mut participant, mut process, mut voter) = (None, INITIATOR, None);
        let mut said = Said::default();
        match client {
            Client::Initiator => said.messages = self.wishes.iter_mut().filter_map(|wish| wish.write(epoch)).collect(),
            Client::Instance { bank, instance } => {
                let now_ms = self.now_ms;
                let of = &mut self.banks[bank];
                let Some(dials) = &mut of.instances[instance] else { return };
                dials.looks(&mut of.database, now_ms, GRACE_MS);
                said = dials.session_is_up(&mut of.database, now_ms);
                (participant, process, voter) = (Some(of.name.clone()), dials.id, of.voter_place());
            }
        }
        let peer = Peer { session: id, participant, instance: process, one_phase: self.one_phase, voter };
        self.give(node, Input::SessionOpened(peer));
        self.says(client, said);
        self.close_at_replica(node);
    }

    /// Sessions that a replica has closed by itself: their process has dialled again.
    pub(super) fn close_at_replica(&mut self, node: usize) {
        let Some(process) = &self.nodes[node] else { return };
        for session in &mut self.sessions {
            if session.node == node && session.life == process.life && !process.replica.is_open(session.id) {
                session.is_open_at_replica = false;
                session.to_replica.clear();
            }
        }
    }

    pub(super) fn replica_hears(&mut self, id: SessionId) {
        let Some(session) = self.session_mut(id) else { return };
        let (node, client, Some(message)) = (session.node, session.client, session.to_replica.pop_front()) else {
            return;
        };
        if let (Some(process), Some(gtid)) = (&self.nodes[node], message.gtid()) {
            CELLS.hit(cells::known(process.replica.known(gtid)), cells::kind(&message));
        }
        let enlists = match &message {
            FromClient::Request(Request { gtid, ask: Ask::Enlist { .. }, .. }) => Some(*gtid),
            _ => None,
        };
        self.give(node, Input::Message { session: id, message });
        if let (Some(gtid), Client::Instance { bank, .. }) = (enlists, client)
            && let Some(view) = self.nodes[node].as_ref().and_then(|node| node.replica.view(gtid))
            && view.branches.iter().any(|branch| branch.participant == self.banks[bank].name)
        {
            self.enlisted.insert((bank, gtid));
        }
    }

    pub(super) fn client_hears(&mut self, id: SessionId) {
        let Some(session) = self.session_mut(id) else { return };
        let (client, Some(message)) = (session.client, session.to_client.pop_front()) else { return };
        if let FromReplica::Reply { request_id, reply } = message {
            return self.answered(client, request_id, &reply);
        }
        let Client::Instance { bank, instance } = client else {
            self.broken = Some(format!("an initiator is told {message:?}"));
            return;
        };
        if matches!(message, FromReplica::ExecuteStep { .. } | FromReplica::CompensateStep { .. }) {
            return self.step_is_ordered(bank, instance, id, message);
        }
        let now_ms = self.now_ms;
        let of = &mut self.banks[bank];
        let Some(process) = &mut of.instances[instance] else { return };
        let said = process.is_told(&mut of.database, id, message, now_ms);
        self.says(client, said);
    }

    /// What answers an order goes where that came from; questions go to every replica. What cannot
    /// be sent is lost, and asked for again.
    pub(super) fn says(&mut self, client: Client, said: Said) {
        if said.broken.is_some() {
            self.broken = said.broken;
        }
        for message in said.messages {
            let ordered_by = message.gtid().and_then(|gtid| self.ordered_by(client, gtid));
            let is_question = match &message {
                FromClient::Branch(report) => report.message == branch::Message::Inquire,
                FromClient::Voter(report) => matches!(report.message, VoterMessage::AskLog { .. }),
                FromClient::Hello(_) | FromClient::Heartbeat | FromClient::Request(_) | FromClient::Step(_) => false,
            };
            let is_open = |session: &&mut Session| session.client == client && session.is_open_at_client;
            let mut open: Vec<&mut Session> = self.sessions.iter_mut().filter(is_open).collect();
            if !is_question {
                let at = open.iter().position(|session| Some(session.id) == ordered_by).unwrap_or_default();
                open = open.into_iter().skip(at).take(1).collect();
            }
            for session in open.into_iter().filter(|session| !session.is_broken) {
                session.to_replica.push_back(message.clone());
            }
        }
        if let Client::Instance { bank, instance } = client {
            self.calls_peers(bank, instance, said.questions);
        }
    }

    fn ordered_by(&self, client: Client, gtid: Gtid) -> Option<SessionId> {
        let Client::Instance { bank, instance } = client else { return None };
        self.banks[bank].instances[instance].as_ref()?.orders.get(&gtid).copied()
    }

    pub(super) fn replica_notices(&mut self, id: SessionId) {
        let Some(session) = self.session_mut(id) else { return };
        session.is_open_at_replica = false;
        session.to_replica.clear();
        let node = session.node;
        let is_served = self.session(id).is_some_and(|session| self.is_served(session));
        if is_served {
            self.give(node, Input::SessionClosed(id));
        }
    }

    pub(super) fn client_notices(&mut self, id: SessionId) {
        if let Some(session) = self.session_mut(id) {
            session.is_open_at_client = false;
            session.to_client.clear();
        }
    }

    // ---- calls between participants --------------------------------------------------------------------------------

    fn calls_peers(&mut self, from: usize, instance: usize, questions: Vec<Question>) {
        let Some(process) = self.banks[from].instances[instance].as_ref().map(|process| process.id) else { return };
        for Question { gtid, to, request } in questions {
            let Some(to) = self.bank_of(&to) else { continue };
            self.posts(PeerCall { gtid, from, process, to, request, answer: None });
        }
    }

    fn posts(&mut self, call: PeerCall) {
        self.last_call += 1;
        self.calls.insert(self.last_call, call);
    }

    /// The peer's service asks the voter by itself, and tells the instance what came of it.
    pub(super) fn peer_is_asked(&mut self, call: u64, instance: usize) {
        let Some(call) = self.calls.get(&call).cloned() else { return };
        let (now_ms, from) = (self.now_ms, VoterName::Participant(self.banks[call.from].name.clone()));
        let of = &mut self.banks[call.to];
        let Some(process) = &mut of.instances[instance] else { return };
        let (said, answer) = process.is_asked_by_peer(&mut of.database, call.gtid, from, call.request.clone(), now_ms);
        self.has_voted(call.to, call.gtid);
        self.says(Client::Instance { bank: call.to, instance }, said);
        self.posts(PeerCall { answer: Some(answer), ..call });
    }

    pub(super) fn peer_is_answered(&mut self, call: u64) {
        let Some(PeerCall { gtid, from, process, to, answer: Some(answer), .. }) = self.calls.get(&call).cloned()
        else {
            return;
        };
        let (now_ms, voter) = (self.now_ms, VoterName::Participant(self.banks[to].name.clone()));
        let Some(instance) = self.instance_of(from, process) else { return };
        let of = &mut self.banks[from];
        let Some(waits) = &mut of.instances[instance] else { return };
        let said = waits.peer_answers(&mut of.database, gtid, voter, answer, now_ms);
        self.says(Client::Instance { bank: from, instance }, said);
    }

    /// Where a process is, if it lives.
    pub(super) fn instance_of(&self, bank: usize, process: InstanceId) -> Option<usize> {
        let is_it = |of: &Option<super::instance::Instance>| of.as_ref().is_some_and(|of| of.id == process);
        self.banks[bank].instances.iter().position(is_it)
    }
}
