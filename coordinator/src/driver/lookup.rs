//! Requests about transactions that are not in memory wait here for the log's answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use assent_proto::session::FromClient;
use assent_protocol::Gtid;
use futures::future::{BoxFuture, FutureExt};

use super::peers::SessionId;
use crate::log::{Found, Log, LogError};

/// What came of one question to the log.
#[derive(Debug)]
pub(super) struct Answer {
    /// The transactions that were asked for.
    pub(super) gtids: Vec<Gtid>,
    /// What the log knows of them.
    pub(super) found: Result<HashMap<Gtid, Found>, LogError>,
}

/// The requests that wait, and the question that is under way.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    waiting: HashMap<Gtid, Vec<(SessionId, FromClient)>>,
    /// Not asked for yet.
    next: Vec<Gtid>,
    requests: usize,
}

/// Requests that may wait for the log at once, per shard.
const WAITING_MAX: usize = 10_000;

/// How long the log may take for an answer before the requests are refused; they may be repeated.
const ANSWER_MAX: Duration = Duration::from_secs(5);

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

    /// Whether there is something to ask.
    pub(super) fn has_question(&self) -> bool {
        !self.next.is_empty()
    }

    /// Asks for everything that came up since the last question.
    pub(super) fn ask(&mut self, log: &Arc<dyn Log>) -> BoxFuture<'static, Answer> {
        let gtids = std::mem::take(&mut self.next);
        let log = Arc::clone(log);
        async move {
            let found = match tokio::time::timeout(ANSWER_MAX, log.lookup(&gtids)).await {
                Ok(found) => found.map(|found| found.into_iter().collect()),
                Err(elapsed) => Err(LogError::Busy { log: log.describe(), source: elapsed.into() }),
            };
            Answer { gtids, found }
        }
        .boxed()
    }

    /// The requests that waited for a transaction, in their order.
    pub(super) fn resume(&mut self, gtid: Gtid) -> Vec<(SessionId, FromClient)> {
        let requests = self.waiting.remove(&gtid).unwrap_or_default();
        self.requests -= requests.len();
        requests
    }

    /// Whether a request about this transaction waits, so that later ones must wait behind it.
    pub(super) fn is_waiting(&self, gtid: Gtid) -> bool {
        !self.waiting.is_empty() && self.waiting.contains_key(&gtid)
    }
}
