//! Requests that wait for their replies, across sessions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use assent_proto::error::Reason;
use assent_proto::session::{Ask, FromClient, Refused, Reply, Request};
use assent_protocol::{Epoch, Gtid};
use tokio::sync::oneshot;

/// A request that waits.
#[derive(Debug)]
struct Waiting {
    /// To be sent again over the next session; `None` for one that must not be.
    again: Option<Request>,
    /// It may have reached a replica: when it is sent again, it is a further attempt.
    is_written: bool,
    answer: oneshot::Sender<Reply>,
    /// When it is sent again over this session, because its refusal was no answer.
    due: Option<Instant>,
}

/// All of them, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Requests {
    waiting: BTreeMap<u64, Waiting>,
    last: u64,
    /// What the session's Welcome said; `None` while there is no session.
    epoch: Option<Epoch>,
}

impl Requests {
    /// Gives a request its number and keeps it until it is answered. It names the epoch of the
    /// session over which it is written first.
    pub(super) fn add(&mut self, gtid: Gtid, ask: Ask, answer: oneshot::Sender<Reply>) -> FromClient {
        self.last += 1;
        let mut request = Request { request_id: self.last, gtid, ask };
        if let Some(epoch) = self.epoch {
            stamp(&mut request.ask, epoch);
        }
        // An enlistment whose answer is lost is in doubt: asking again would meet the branch's own
        // first enlistment.
        let again = (!matches!(request.ask, Ask::Enlist { .. })).then(|| request.clone());
        self.waiting.insert(self.last, Waiting { again, is_written: self.epoch.is_some(), answer, due: None });
        FromClient::Request(request)
    }

    /// An answer came.
    ///
    /// A first attempt that is refused has changed nothing. A later one may be refused for the
    /// moment (the log does not answer, the replica is overloaded or leaving) although the first
    /// has taken effect: it is asked again, until somebody knows.
    ///
    /// A replica that leaves takes nothing on, and there will be another, or the same one again. So
    /// that a deployment fails nobody, what it refuses is kept, and asked for the first time when
    /// somebody is there who takes it on. Whoever asks waits no longer than its patience.
    pub(super) fn answer(&mut self, request_id: u64, reply: Reply) {
        if let (Reply::Refused(refused), Some(waiting)) = (&reply, self.waiting.get_mut(&request_id))
            && refused.known_reason() == Some(Reason::Draining)
            && let Some(again) = &mut waiting.again
        {
            if attempt_of(&again.ask) == 1 {
                waiting.is_written = false;
                unstamp(&mut again.ask);
            }
            waiting.due = Some(Instant::now() + retry_after(refused));
            return;
        }
        if let (Reply::Refused(refused), Some(waiting)) = (&reply, self.waiting.get_mut(&request_id))
            && waiting.again.as_ref().is_some_and(|request| attempt_of(&request.ask) > 1)
            && !is_final(refused)
        {
            waiting.due = Some(Instant::now() + retry_after(refused));
            return;
        }
        if let Some(waiting) = self.waiting.remove(&request_id) {
            // Whoever asked may have stopped waiting.
            waiting.answer.send(reply).ok();
        }
    }

    /// The session broke. What was queued for it and never written is still to be asked for the
    /// first time.
    pub(super) fn session_broke(&mut self, unwritten: &[FromClient]) {
        self.epoch = None;
        for message in unwritten {
            if let FromClient::Request(request) = message
                && let Some(waiting) = self.waiting.get_mut(&request.request_id)
                && let Some(again) = &mut waiting.again
                && attempt_of(&again.ask) == 1
            {
                waiting.is_written = false;
                unstamp(&mut again.ask);
            }
        }
    }

    /// There is a new session, with a replica of this epoch: what may be asked again is, as a
    /// further attempt if it was written before; the rest is dropped, which its callers see.
    pub(super) fn over_a_new_session(&mut self, epoch: Epoch) -> Vec<FromClient> {
        self.epoch = Some(epoch);
        self.waiting.retain(|_, waiting| waiting.again.is_some() && !waiting.answer.is_closed());
        let messages = self.waiting.values_mut().filter_map(|waiting| {
            waiting.due = None;
            let again = waiting.again.as_mut()?;
            if std::mem::replace(&mut waiting.is_written, true) {
                count_attempt(&mut again.ask);
            } else {
                stamp(&mut again.ask, epoch);
            }
            Some(FromClient::Request(again.clone()))
        });
        messages.collect()
    }

    /// Those whose time has come to be asked again over this session.
    pub(super) fn due(&mut self) -> Vec<FromClient> {
        let (now, epoch) = (Instant::now(), self.epoch);
        let due = self.waiting.values_mut().filter(|waiting| waiting.due.is_some_and(|due| due <= now));
        due.filter_map(|waiting| {
            waiting.due = None;
            let again = waiting.again.as_mut()?;
            if !std::mem::replace(&mut waiting.is_written, true)
                && let Some(epoch) = epoch
            {
                stamp(&mut again.ask, epoch);
            }
            Some(FromClient::Request(again.clone()))
        })
        .collect()
    }

    /// Forgets those that nobody waits for any more.
    pub(super) fn sweep(&mut self) {
        self.waiting.retain(|_, waiting| !waiting.answer.is_closed());
    }
}

fn retry_after(refused: &Refused) -> Duration {
    Duration::from_millis(refused.retry_after_ms.unwrap_or(1_000).clamp(50, 5_000))
}

/// Names the epoch under which a request is written first.
fn stamp(ask: &mut Ask, epoch: Epoch) {
    if let Some(first_epoch) = first_epoch_of(ask) {
        *first_epoch = Some(epoch);
    }
}

fn unstamp(ask: &mut Ask) {
    if let Some(first_epoch) = first_epoch_of(ask) {
        *first_epoch = None;
    }
}

/// The others are never run twice, however often they are asked.
fn first_epoch_of(ask: &mut Ask) -> Option<&mut Option<Epoch>> {
    match ask {
        Ask::Commit(commit) => Some(&mut commit.first_epoch),
        Ask::Begin { first_epoch, .. } => Some(first_epoch),
        Ask::StartSaga { .. } | Ask::Abort { .. } | Ask::Await { .. } | Ask::Enlist { .. } => None,
    }
}

fn count_attempt(ask: &mut Ask) {
    match ask {
        Ask::Commit(commit) => commit.attempt = commit.attempt.saturating_add(1),
        Ask::StartSaga { attempt, .. } => *attempt = attempt.saturating_add(1),
        Ask::Begin { .. } | Ask::Abort { .. } | Ask::Await { .. } | Ask::Enlist { .. } => {}
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
