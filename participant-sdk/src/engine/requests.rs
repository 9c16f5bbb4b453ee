//! Requests that wait for their replies, across sessions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use assent_proto::error::Reason;
use assent_proto::session::{Ask, FromClient, Refused, Reply, Request};
use assent_protocol::Gtid;
use tokio::sync::oneshot;

/// A request that waits.
#[derive(Debug)]
struct Waiting {
    /// To be sent again over the next session; `None` for one that must not be.
    again: Option<Request>,
    answer: oneshot::Sender<Reply>,
    /// When it is sent again over this session, because its refusal was no answer.
    due: Option<Instant>,
}

/// All of them, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Requests {
    waiting: BTreeMap<u64, Waiting>,
    last: u64,
}

impl Requests {
    /// Gives a request its number and keeps it until it is answered.
    pub(super) fn add(&mut self, gtid: Gtid, ask: Ask, answer: oneshot::Sender<Reply>) -> FromClient {
        self.last += 1;
        let request = Request { request_id: self.last, gtid, ask };
        // An enlistment whose answer is lost is in doubt: asking again would meet the branch's own first enlistment.
        let again = (!matches!(request.ask, Ask::Enlist { .. })).then(|| request.clone());
        self.waiting.insert(self.last, Waiting { again, answer, due: None });
        FromClient::Request(request)
    }

    /// An answer came.
    ///
    /// A first attempt that is refused has changed nothing. A later one may be refused for the moment (the log does not answer, the
    /// replica is overloaded or leaving) although the first has taken effect: it is asked again, until somebody knows.
    pub(super) fn answer(&mut self, request_id: u64, reply: Reply) {
        if let (Reply::Refused(refused), Some(waiting)) = (&reply, self.waiting.get_mut(&request_id))
            && waiting.again.as_ref().is_some_and(|request| attempt_of(&request.ask) > 1)
            && !is_final(refused)
        {
            let after_ms = refused.retry_after_ms.unwrap_or(1_000).clamp(50, 5_000);
            waiting.due = Some(Instant::now() + Duration::from_millis(after_ms));
            return;
        }
        if let Some(waiting) = self.waiting.remove(&request_id) {
            // Whoever asked may have stopped waiting.
            waiting.answer.send(reply).ok();
        }
    }

    /// The session broke: what may be asked again is, as a further attempt; the rest is dropped, which its callers see.
    pub(super) fn over_a_new_session(&mut self) -> Vec<FromClient> {
        self.waiting.retain(|_, waiting| waiting.again.is_some() && !waiting.answer.is_closed());
        let messages = self.waiting.values_mut().filter_map(|waiting| {
            waiting.due = None;
            let again = waiting.again.as_mut()?;
            match &mut again.ask {
                Ask::Commit(commit) => commit.attempt = commit.attempt.saturating_add(1),
                Ask::StartSaga { attempt, .. } => *attempt = attempt.saturating_add(1),
                Ask::Begin { .. } | Ask::Abort { .. } | Ask::Await { .. } | Ask::Enlist { .. } => {}
            }
            Some(FromClient::Request(again.clone()))
        });
        messages.collect()
    }

    /// Those whose time has come to be asked again over this session.
    pub(super) fn due(&mut self) -> Vec<FromClient> {
        let now = Instant::now();
        let due = self.waiting.values_mut().filter(|waiting| waiting.due.is_some_and(|due| due <= now));
        due.filter_map(|waiting| {
            waiting.due = None;
            waiting.again.clone().map(FromClient::Request)
        })
        .collect()
    }

    /// Forgets those that nobody waits for any more.
    pub(super) fn sweep(&mut self) {
        self.waiting.retain(|_, waiting| !waiting.answer.is_closed());
    }
}

/// Which attempt a request is; 1 for those that do not count.
fn attempt_of(ask: &Ask) -> u32 {
    match ask {
        Ask::Commit(commit) => commit.attempt,
        Ask::StartSaga { attempt, .. } => *attempt,
        Ask::Begin { .. } | Ask::Abort { .. } | Ask::Await { .. } | Ask::Enlist { .. } => 1,
    }
}

/// Whether a refusal speaks of the request itself, so that every attempt meets it.
fn is_final(refused: &Refused) -> bool {
    match refused.known_reason() {
        Some(
            Reason::Malformed
            | Reason::InvalidTimeout
            | Reason::PayloadTooLarge
            | Reason::FrameTooLarge
            | Reason::KeyReused
            | Reason::WrongProtocol
            | Reason::DuplicateBranch
            | Reason::TooManyBranches
            | Reason::UnknownParticipant,
        ) => true,
        Some(_) | None => false,
    }
}
