//! The way of unary calls into the driver: a session inside the process.
//!
//! To a shard it is a session like any other, so that a call takes the same way, meets the same checks and keeps its place
//! behind earlier requests about the same transaction. Each request gets a number; a reply finds its caller by it.
//!
//! What bounds it (I13): a caller that goes away leaves its request with the machine until that answers, so requests are
//! counted until their reply and not until their caller has gone; beyond the bound they are refused. Those who wait for the same
//! outcome share one request. As every message to this session is the reply to one of its requests, the bound also keeps
//! it from ever being cut for a backlog.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use assent_proto::error::Reason;
use assent_proto::session::{Ask, FromClient, FromReplica, Refused, Reply};
use assent_protocol::replica;
use assent_protocol::two_phase::CarriedBranch;
use assent_protocol::{Gtid, InstanceId, Wait};
use tokio::sync::{mpsc, oneshot};

use crate::driver::{Backlog, Driver, Input, Outbound, Peer, SessionId};

/// Its number; the sessions of clients have higher ones.
const SESSION: SessionId = SessionId(0);

/// The session, and those who wait for a reply.
#[derive(Debug)]
pub(crate) struct LocalSession {
    driver: Driver,
    waiting: Arc<Mutex<Waiting>>,
    requests_max: usize,
}

/// Who waits for what.
#[derive(Debug, Default)]
struct Waiting {
    requests: HashMap<u64, Request>,
    /// The requests for outcomes, which others may join.
    outcomes: HashMap<(Gtid, Wait), u64>,
    /// The number of the latest request.
    latest: u64,
    /// No shard is left to answer.
    is_over: bool,
}

#[derive(Debug)]
struct Request {
    callers: Vec<oneshot::Sender<Reply>>,
    /// Set on a request that others may join.
    outcome: Option<(Gtid, Wait)>,
}

impl LocalSession {
    /// Opens the session at every shard. At most `requests_max` requests are under way at once; no more than the driver's
    /// bound on a session's backlog.
    pub(crate) async fn open(driver: Driver, requests_max: usize) -> Self {
        let (outbound, queue, backlog) = Outbound::channel();
        for shard in 0..driver.shard_count() {
            let outbound = outbound.clone();
            let peer =
                Peer { session: SESSION, participant: None, instance: InstanceId(0), one_phase: false, voter: None };
            driver.give(shard, Input::SessionOpened { peer, outbound }).await;
        }
        let waiting = Arc::default();
        tokio::spawn(deliver(queue, backlog, Arc::clone(&waiting)));
        Self { driver, waiting, requests_max }
    }

    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    /// [`Refused`] by the driver, or because too many requests are under way, or because this replica was fenced.
    pub(crate) async fn ask(&self, gtid: Gtid, ask: Ask) -> Result<Reply, Refused> {
        let (request_id, reply) = self.number(None)?;
        let message = FromClient::request(request_id, gtid, ask);
        self.give(gtid, Input::Messages { session: SESSION, messages: vec![message] }).await;
        self.replied(reply).await
    }

    /// Names a branch ahead of the commit.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(crate) async fn name_branch(&self, gtid: Gtid, branch: CarriedBranch) -> Result<Reply, Refused> {
        let (request_id, reply) = self.number(None)?;
        self.give(gtid, Input::Core(replica::Input::NameBranch { gtid, branch, session: SESSION, request_id })).await;
        self.replied(reply).await
    }

    /// Waits for an outcome, together with whoever waits for the same.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(crate) async fn outcome(&self, gtid: Gtid, wait: Wait) -> Result<Reply, Refused> {
        if let Some(reply) = self.join(gtid, wait) {
            return self.replied(reply).await;
        }
        let (request_id, reply) = self.number(Some((gtid, wait)))?;
        let message = FromClient::request(request_id, gtid, Ask::Await { wait });
        self.give(gtid, Input::Messages { session: SESSION, messages: vec![message] }).await;
        self.replied(reply).await
    }

    /// Joins a request for this outcome, if one is under way.
    fn join(&self, gtid: Gtid, wait: Wait) -> Option<oneshot::Receiver<Reply>> {
        let mut waiting = lock(&self.waiting);
        let request_id = *waiting.outcomes.get(&(gtid, wait))?;
        let callers = &mut waiting.requests.get_mut(&request_id)?.callers;
        // Callers that have gone are dropped whenever the list would grow.
        if callers.len() == callers.capacity() {
            callers.retain(|caller| !caller.is_closed());
        }
        let (caller, reply) = oneshot::channel();
        callers.push(caller);
        Some(reply)
    }

    fn number(&self, outcome: Option<(Gtid, Wait)>) -> Result<(u64, oneshot::Receiver<Reply>), Refused> {
        let mut waiting = lock(&self.waiting);
        if waiting.is_over {
            return Err(fenced());
        }
        if waiting.requests.len() >= self.requests_max {
            let message = format!("{} calls are under way, as many as there may be; try again", waiting.requests.len());
            return Err(Reason::Overloaded.refused(message));
        }
        waiting.latest += 1;
        let request_id = waiting.latest;
        let (caller, reply) = oneshot::channel();
        if let Some(outcome) = outcome {
            waiting.outcomes.insert(outcome, request_id);
        }
        waiting.requests.insert(request_id, Request { callers: vec![caller], outcome });
        Ok((request_id, reply))
    }

    /// Waits for the reply, or until the driver has stopped: then not every shard is there to give one.
    async fn replied(&self, reply: oneshot::Receiver<Reply>) -> Result<Reply, Refused> {
        let reply = tokio::select! {
            biased;
            reply = reply => reply,
            _ = self.driver.stopped() => return Err(fenced()),
        };
        match reply {
            Ok(Reply::Refused(refused)) => Err(refused),
            Ok(reply) => Ok(reply),
            Err(_) => Err(fenced()),
        }
    }

    async fn give(&self, gtid: Gtid, input: Input) {
        // A shard that is gone answers nothing: see `replied`.
        self.driver.give(self.driver.shard_of(gtid), input).await;
    }
}

/// Hands replies to those who wait for them, until no shard is left.
async fn deliver(
    mut queue: mpsc::UnboundedReceiver<Vec<FromReplica>>,
    backlog: Arc<Backlog>,
    waiting: Arc<Mutex<Waiting>>,
) {
    while let Some(messages) = queue.recv().await {
        // Before the requests are struck off: there are never more messages here than requests.
        backlog.sent(messages.len());
        let mut waiting = lock(&waiting);
        for message in messages {
            if let FromReplica::Reply { request_id, reply } = message
                && let Some(request) = waiting.requests.remove(&request_id)
            {
                if let Some(outcome) = request.outcome
                    && waiting.outcomes.get(&outcome) == Some(&request_id)
                {
                    waiting.outcomes.remove(&outcome);
                }
                for caller in request.callers {
                    // Whoever has gone needs no reply.
                    caller.send(reply.clone()).ok();
                }
            }
        }
    }
    let mut waiting = lock(&waiting);
    waiting.is_over = true;
    waiting.requests.clear();
    waiting.outcomes.clear();
}

fn fenced() -> Refused {
    Reason::Fenced.refused("this replica has stopped to drive transactions; use another, or this one when it is back")
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    // Nothing is left half done by a panic: every change is one insertion or removal.
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use assent_protocol::{Name, Protocol};
    use uuid::Uuid;

    use super::*;
    use crate::driver::Limits;
    use crate::log::memory::MemoryLog;

    fn gtid() -> Gtid {
        Gtid::new(Uuid::now_v7()).expect("version 7")
    }

    /// A session at a driver of its own.
    async fn opened(requests_max: usize) -> (Arc<LocalSession>, Arc<MemoryLog>) {
        let log = Arc::new(MemoryLog::new());
        let name = Name::new("assent").expect("a name");
        let driver = Driver::start(Arc::clone(&log) as _, &name, Limits::default(), 2).await.expect("a driver");
        let session = LocalSession::open(driver, requests_max).await;
        (Arc::new(session), log)
    }

    /// Opens a transaction.
    async fn begun(session: &LocalSession) -> Gtid {
        loop {
            let gtid = gtid();
            let reply =
                session.ask(gtid, Ask::Begin { timeout_ms: 0, protocol: Protocol::TwoPhase, first_epoch: None }).await;
            // One that was minted right after the start might be from before it.
            if matches!(reply, Ok(Reply::Begun { .. })) {
                return gtid;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Commits it, without branches: the outcome has to be durable before it is told.
    fn commit(session: &Arc<LocalSession>, gtid: Gtid) -> tokio::task::JoinHandle<Result<Reply, Refused>> {
        let session = Arc::clone(session);
        tokio::spawn(async move {
            let commit = assent_proto::session::Commit {
                branches: Vec::new(),
                attempt: 0,
                begun: true,
                timeout_ms: 0,
                wait: Wait::Decided,
                protocol: Protocol::TwoPhase,
                first_epoch: None,
                expected: assent_protocol::message::Expected::Anything,
            };
            session.ask(gtid, Ask::Commit(commit)).await
        })
    }

    async fn until(holds: impl Fn() -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(20), async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        waited.await.expect("it comes to pass");
    }

    #[tokio::test]
    async fn requests_are_counted_until_their_reply_and_not_until_their_caller_has_gone() {
        let (session, log) = opened(2).await;
        let gtids = [begun(&session).await, begun(&session).await];
        log.set_outage(true);
        for (before, gtid) in gtids.into_iter().enumerate() {
            let call = commit(&session, gtid);
            until(|| lock(&session.waiting).requests.len() > before).await;
            call.abort();
        }
        let refused = session.outcome(gtids[0], Wait::Ended).await.expect_err("too many");
        assert_eq!(refused.known_reason(), Some(Reason::Overloaded));
        log.set_outage(false);
        until(|| lock(&session.waiting).requests.is_empty()).await;
    }

    #[tokio::test]
    async fn those_who_wait_for_the_same_outcome_share_one_request() {
        let (session, _log) = opened(1_000).await;
        let gtid = begun(&session).await;
        let wait = || {
            let session = Arc::clone(&session);
            tokio::spawn(async move { session.outcome(gtid, Wait::Ended).await })
        };
        let stays = wait();
        until(|| lock(&session.waiting).outcomes.len() == 1).await;
        for _ in 0..100 {
            let goes = wait();
            tokio::task::yield_now().await;
            goes.abort();
            goes.await.ok();
        }
        {
            let waiting = lock(&session.waiting);
            assert_eq!(waiting.requests.len(), 1);
            let callers = waiting.requests.values().map(|request| request.callers.len()).sum::<usize>();
            assert!(callers < 20, "{callers} callers are kept, and only one is there");
        }
        let reason = "over".to_owned();
        session.ask(gtid, Ask::Abort { reason }).await.expect("aborted");
        stays.await.expect("no panic").expect("an outcome");
        assert!(lock(&session.waiting).outcomes.is_empty());
    }

    #[tokio::test]
    async fn nobody_waits_for_a_driver_that_has_stopped() {
        let (session, log) = opened(10).await;
        let gtid = begun(&session).await;
        log.fence();
        let refused = commit(&session, gtid).await.expect("no panic").expect_err("fenced");
        assert_eq!(refused.known_reason(), Some(Reason::Fenced));
    }
}
