//! Sessions with replicas, and the messages that wait for each.
//!
//! An answer goes over the session that brought the question, while that one is open; otherwise over
//! the one that has been open longest. What a branch asks goes over every open session: this agent
//! does not know which replica drives the transaction now. Without any session a message is lost, as
//! on the network: the replica asks again over the next one, and so does each branch in doubt.
//! Requests are not lost, see `requests`.

use std::collections::VecDeque;

use super::requests::{Requests, Ticket};
use super::{Agent, SessionId};
use crate::ids::Epoch;
use crate::message::{FromClient, client_payload_bytes};

/// A frame is closed once it holds so many bytes of payload; a single message may be larger.
const FRAME_BYTES_SOFT_MAX: usize = 1024 * 1024;
/// Or so many messages.
const FRAME_MESSAGES_MAX: usize = 4_096;

/// One open session.
#[derive(Clone, Debug)]
struct Session {
    id: SessionId,
    /// The replica's.
    epoch: Epoch,
    outbox: VecDeque<Queued>,
}

/// What waits to be written.
#[derive(Clone, Debug)]
enum Queued {
    Message(FromClient),
    /// A request, as it is by then.
    Request(Ticket),
}

/// All open sessions, the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions {
    open: Vec<Session>,
    /// The largest payload that the replica takes whose session was opened last, in bytes.
    pub(super) payload_bytes_max: usize,
}

impl Sessions {
    fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.open.iter_mut().find(|session| session.id == id)
    }

    /// The session over which requests go.
    pub(super) fn first(&self) -> Option<SessionId> {
        self.open.first().map(|session| session.id)
    }

    pub(super) fn is_open(&self, id: Option<SessionId>) -> bool {
        id.is_some_and(|id| self.open.iter().any(|session| session.id == id))
    }

    /// Queues a message for a session; for the first one, if that is not open.
    pub(super) fn send(&mut self, session: Option<SessionId>, message: FromClient) {
        let at = self.open.iter().position(|open| Some(open.id) == session).unwrap_or(0);
        if let Some(session) = self.open.get_mut(at) {
            session.outbox.push_back(Queued::Message(message));
        }
    }

    /// Queues a message for every session.
    pub(super) fn send_to_all(&mut self, message: &FromClient) {
        for session in &mut self.open {
            session.outbox.push_back(Queued::Message(message.clone()));
        }
    }

    /// Queues a request.
    pub(super) fn send_request(&mut self, session: SessionId, ticket: Ticket) {
        if let Some(session) = self.get_mut(session) {
            session.outbox.push_back(Queued::Request(ticket));
        }
    }

    pub(super) fn messages_waiting(&self, id: SessionId) -> usize {
        self.open.iter().find(|session| session.id == id).map_or(0, |session| session.outbox.len())
    }

    /// See [`Agent::take_frame`].
    pub(super) fn take_frame(
        &mut self,
        id: SessionId,
        requests: &mut Requests,
        mut hand_over: impl FnMut(FromClient),
    ) -> usize {
        let Some(session) = self.get_mut(id) else { return 0 };
        let (mut count, mut bytes) = (0, 0);
        while count < FRAME_MESSAGES_MAX
            && let Some(queued) = session.outbox.front()
        {
            let payload_bytes = match queued {
                Queued::Message(message) => client_payload_bytes(message),
                Queued::Request(ticket) => requests.payload_bytes(*ticket),
            };
            bytes += payload_bytes + 1;
            if count > 0 && bytes > FRAME_BYTES_SOFT_MAX {
                break;
            }
            let message = match session.outbox.pop_front() {
                Some(Queued::Message(message)) => Some(message),
                Some(Queued::Request(ticket)) => requests.write(ticket, session.id, session.epoch),
                None => None,
            };
            if let Some(message) = message {
                count += 1;
                hand_over(message);
            }
        }
        count
    }
}

impl Agent {
    pub(super) fn session_opened(&mut self, id: SessionId, epoch: Epoch, payload_bytes_max: usize) {
        self.sessions.open.push(Session { id, epoch, outbox: VecDeque::new() });
        self.sessions.payload_bytes_max = payload_bytes_max;
        self.requests.over(id, &mut self.sessions, &mut self.timers);
        self.ask_about_doubts();
        self.want_look();
    }

    /// What waits for the session was never written, and is lost with it.
    pub(super) fn session_closed(&mut self, id: SessionId) {
        self.sessions.open.retain(|session| session.id != id);
        self.requests.session_closed(id, &mut self.timers);
        if let Some(other) = self.sessions.first() {
            self.requests.over(other, &mut self.sessions, &mut self.timers);
        }
    }
}
