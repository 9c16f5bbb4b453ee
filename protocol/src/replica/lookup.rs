//! Requests about transactions that are not in memory wait here for the log's answer.

use super::SessionId;
use crate::ids::{Caller, Gtid, GtidMap};
use crate::message::FromClient;

/// The requests that wait, and what has to be asked for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Lookups {
    waiting: GtidMap<Vec<(SessionId, FromClient)>>,
    /// Not asked for yet.
    next: Vec<Gtid>,
    requests: usize,
}

/// Requests that may wait for the log at once, per shard.
const WAITING_MAX: usize = 10_000;

impl Lookups {
    /// Whether as many requests wait as may.
    pub(super) fn is_full(&self) -> bool {
        self.requests >= WAITING_MAX
    }

    /// Lets a request wait for what the log knows. Not while it [is full](Self::is_full).
    pub(super) fn wait(&mut self, gtid: Gtid, session: SessionId, message: FromClient) {
        self.requests += 1;
        let waiting = self.waiting.entry(gtid).or_default();
        if waiting.is_empty() {
            self.next.push(gtid);
        }
        waiting.push((session, message));
    }

    /// Everything that came up since the last question; `None` if that is nothing.
    pub(super) fn take_question(&mut self) -> Option<Vec<Gtid>> {
        if self.next.is_empty() { None } else { Some(std::mem::take(&mut self.next)) }
    }

    /// The requests that waited for a transaction, in their order.
    pub(super) fn resume(&mut self, gtid: Gtid) -> Vec<(SessionId, FromClient)> {
        let requests = self.waiting.remove(&gtid).unwrap_or_default();
        self.requests -= requests.len();
        requests
    }

    /// Whether this request waits.
    pub(super) fn holds(&self, gtid: Gtid, caller: Caller) -> bool {
        self.waiting.get(&gtid).into_iter().flatten().any(|(session, message)| match message {
            FromClient::Request(request) => caller == Caller { session: session.0, request: request.request_id },
            FromClient::Hello(_)
            | FromClient::Heartbeat
            | FromClient::Branch(_)
            | FromClient::Step(_)
            | FromClient::Voter(_) => false,
        })
    }

    /// Whether a request about this transaction waits, so that later ones must wait behind it.
    pub(super) fn is_waiting(&self, gtid: Gtid) -> bool {
        !self.waiting.is_empty() && self.waiting.contains_key(&gtid)
    }
}
