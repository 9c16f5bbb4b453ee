//! Requests that wait for their replies, across sessions.

use std::collections::BTreeMap;

use assent_proto::session::{FromClient, Reply};
use tokio::sync::oneshot;

/// A request that waits.
#[derive(Debug)]
struct Waiting {
    /// To be sent again over the next session; `None` for one that must not be.
    again: Option<FromClient>,
    answer: oneshot::Sender<Reply>,
}

/// All of them, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Requests {
    waiting: BTreeMap<u64, Waiting>,
    last: u64,
}

impl Requests {
    /// Gives a request its number and keeps it until it is answered.
    pub(super) fn add(&mut self, mut message: FromClient, answer: oneshot::Sender<Reply>) -> FromClient {
        self.last += 1;
        set_request_id(&mut message, self.last);
        // An enlistment whose answer is lost is in doubt: asking again would meet the branch's own first enlistment.
        let again = (!matches!(message, FromClient::Enlist { .. })).then(|| message.clone());
        self.waiting.insert(self.last, Waiting { again, answer });
        message
    }

    /// An answer came.
    pub(super) fn answer(&mut self, request_id: u64, reply: Reply) {
        if let Some(waiting) = self.waiting.remove(&request_id) {
            // Whoever asked may have stopped waiting.
            waiting.answer.send(reply).ok();
        }
    }

    /// The session broke: what may be asked again is, as a further attempt; the rest is dropped, which its callers see.
    pub(super) fn over_a_new_session(&mut self) -> Vec<FromClient> {
        self.waiting.retain(|_, waiting| waiting.again.is_some() && !waiting.answer.is_closed());
        let messages = self.waiting.values_mut().filter_map(|waiting| {
            let again = waiting.again.as_mut()?;
            match again {
                FromClient::Commit(commit) => commit.attempt = commit.attempt.saturating_add(1),
                FromClient::StartSaga { attempt, .. } => *attempt = attempt.saturating_add(1),
                FromClient::Begin { .. }
                | FromClient::Abort { .. }
                | FromClient::Await { .. }
                | FromClient::Enlist { .. }
                | FromClient::Hello(_)
                | FromClient::Heartbeat
                | FromClient::Vote { .. }
                | FromClient::Acknowledge { .. }
                | FromClient::Inquire { .. }
                | FromClient::StepAnswer { .. } => {}
            }
            Some(again.clone())
        });
        messages.collect()
    }

    /// Forgets those that nobody waits for any more.
    pub(super) fn sweep(&mut self) {
        self.waiting.retain(|_, waiting| !waiting.answer.is_closed());
    }
}

fn set_request_id(message: &mut FromClient, number: u64) {
    match message {
        FromClient::Commit(commit) => commit.request_id = number,
        FromClient::Begin { request_id, .. }
        | FromClient::Abort { request_id, .. }
        | FromClient::StartSaga { request_id, .. }
        | FromClient::Await { request_id, .. }
        | FromClient::Enlist { request_id, .. } => *request_id = number,
        FromClient::Hello(_)
        | FromClient::Heartbeat
        | FromClient::Vote { .. }
        | FromClient::Acknowledge { .. }
        | FromClient::Inquire { .. }
        | FromClient::StepAnswer { .. } => {}
    }
}
