//! Requests of the process that wait for their replies, across sessions.
//!
//! A request remembers over which session it was written last. A session that breaks leaves its
//! requests to the next one, where a request that was written before is a further attempt, and one
//! that never was is still the first. The epoch that a request names is that of the session over
//! which it was written first.
//!
//! A first attempt that is refused has changed nothing. A later one may be refused for the moment
//! (the log does not answer, the replica is overloaded or leaving) although an earlier one has
//! taken effect: it is asked again, until a replica knows.
//!
//! A replica that leaves takes nothing on, and there will be another, or the same one again. So
//! that a deployment fails no caller, what it refuses is kept, and asked for the first time when a
//! replica takes it on. A caller waits no longer than its patience.

use std::collections::BTreeMap;

use super::sessions::Sessions;
use super::timers::{Timer, Timers};
use super::{Agent, SessionId};
use crate::ids::{BranchKey, Epoch, Gtid};
use crate::message::{Ask, FromClient, Reason, Refused, Reply, Request, request_bytes};
use crate::two_phase::EarlyVote;

/// What a caller holds until its request is answered. No two are the same within an agent's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// The answer to a request of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A replica's.
    Reply(Reply),
    /// The branch that is to be enlisted is in this agent's memory already. It was not asked for.
    Known,
    /// None: the session is gone, and the request must not be asked twice. It may have taken
    /// effect.
    Lost,
}

/// A request that waits.
#[derive(Clone, Debug)]
struct Waiting {
    gtid: Gtid,
    ask: Ask,
    /// The open session that it is queued for, or has been written over.
    session: Option<SessionId>,
    /// The last session over which it was written.
    written_over: Option<SessionId>,
    /// Over how many sessions it was written.
    sessions: u32,
    /// It was refused for the moment, and its timer runs.
    is_due_later: bool,
}

/// All of them, in the order in which they were asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    waiting: BTreeMap<Ticket, Waiting>,
    answers: Vec<(Ticket, Answer)>,
}

impl Waiting {
    /// An enlistment whose answer is lost is in doubt: asking again would meet the branch's own
    /// first enlistment.
    fn may_be_repeated(&self) -> bool {
        !matches!(self.ask, Ask::Enlist { .. })
    }

    fn stop_timer(&mut self, ticket: Ticket, timers: &mut Timers) {
        if std::mem::take(&mut self.is_due_later) {
            timers.cancel(Timer::Request(ticket));
        }
    }
}

impl Requests {
    pub(super) fn take_answers(&mut self) -> std::vec::Drain<'_, (Ticket, Answer)> {
        self.answers.drain(..)
    }

    /// All of them, each with the session that it waits on.
    pub(super) fn bound(&self) -> impl Iterator<Item = (Ticket, Option<SessionId>)> {
        self.waiting.iter().map(|(ticket, waiting)| (*ticket, waiting.session))
    }

    fn add(&mut self, ticket: Ticket, gtid: Gtid, ask: Ask, sessions: &mut Sessions) {
        let session = sessions.first();
        let waiting = Waiting { gtid, ask, session, written_over: None, sessions: 0, is_due_later: false };
        self.waiting.insert(ticket, waiting);
        if let Some(session) = session {
            sessions.send_request(session, ticket);
        }
    }

    /// The bytes of a request that its caller determines.
    pub(super) fn payload_bytes(&self, ticket: Ticket) -> usize {
        self.waiting.get(&ticket).map_or(0, |waiting| request_bytes(&waiting.ask))
    }

    /// A request as it is written over a session; `None` if its caller has given it up.
    pub(super) fn write(&mut self, ticket: Ticket, session: SessionId, epoch: Epoch) -> Option<FromClient> {
        let waiting = self.waiting.get_mut(&ticket)?;
        if waiting.written_over != Some(session) {
            if waiting.sessions == 0 {
                set_first_epoch(&mut waiting.ask, Some(epoch));
            } else {
                count_attempt(&mut waiting.ask);
            }
            waiting.sessions = waiting.sessions.saturating_add(1);
            waiting.written_over = Some(session);
        }
        let Waiting { gtid, ask, .. } = waiting;
        Some(FromClient::Request(Request { request_id: ticket.0, gtid: *gtid, ask: ask.clone() }))
    }

    /// Requests without a session go over this one.
    pub(super) fn over(&mut self, session: SessionId, sessions: &mut Sessions, timers: &mut Timers) {
        for (ticket, waiting) in self.waiting.iter_mut().filter(|(_, waiting)| waiting.session.is_none()) {
            waiting.session = Some(session);
            waiting.stop_timer(*ticket, timers);
            sessions.send_request(session, *ticket);
        }
    }

    pub(super) fn session_closed(&mut self, session: SessionId, timers: &mut Timers) {
        let answers = &mut self.answers;
        self.waiting.retain(|ticket, waiting| {
            if waiting.session != Some(session) {
                return true;
            }
            waiting.session = None;
            waiting.stop_timer(*ticket, timers);
            let is_lost = waiting.sessions > 0 && !waiting.may_be_repeated();
            if is_lost {
                answers.push((*ticket, Answer::Lost));
            }
            !is_lost
        });
    }

    pub(super) fn replied(&mut self, ticket: Ticket, reply: Reply, timers: &mut Timers) {
        let Some(waiting) = self.waiting.get_mut(&ticket) else { return };
        if let Reply::Refused(refused) = &reply
            && waiting.may_be_repeated()
        {
            let is_leaving = refused.known_reason() == Some(Reason::Draining);
            if is_leaving && waiting.sessions == 1 {
                // Nothing was taken on: what is asked next is the first attempt still.
                set_first_epoch(&mut waiting.ask, None);
                (waiting.sessions, waiting.written_over) = (0, None);
            }
            if is_leaving || attempt_of(&waiting.ask) > 1 && !is_final(refused) {
                waiting.is_due_later = true;
                return timers.set(Timer::Request(ticket), retry_after_ms(refused), 0);
            }
        }
        self.waiting.remove(&ticket);
        self.answers.push((ticket, Answer::Reply(reply)));
    }

    fn given_up(&mut self, ticket: Ticket, timers: &mut Timers) {
        if let Some(mut waiting) = self.waiting.remove(&ticket) {
            waiting.stop_timer(ticket, timers);
        }
    }

    fn due(&mut self, ticket: Ticket, sessions: &mut Sessions) {
        if let Some(waiting) = self.waiting.get_mut(&ticket)
            && std::mem::take(&mut waiting.is_due_later)
            && let Some(session) = waiting.session
        {
            sessions.send_request(session, ticket);
        }
    }
}

impl Agent {
    pub(super) fn ask(&mut self, ticket: Ticket, gtid: Gtid, ask: Ask) {
        self.requests.add(ticket, gtid, ask, &mut self.sessions);
    }

    pub(super) fn tell(&mut self, ticket: Ticket, gtid: Gtid, ask: Ask) {
        self.sessions.send(None, FromClient::request(ticket.0, gtid, ask));
    }

    /// A branch that the service has prepared by itself is in doubt from now on, whatever becomes
    /// of its enlistment.
    pub(super) fn prepared(&mut self, ticket: Ticket, key: BranchKey, vote: EarlyVote) {
        if vote != EarlyVote::ReadOnly && !self.prepared_early(key) {
            return self.requests.answers.push((ticket, Answer::Known));
        }
        self.ask(ticket, key.gtid, Ask::Enlist { branch: key.id, vote });
    }

    pub(super) fn given_up(&mut self, ticket: Ticket) {
        self.requests.given_up(ticket, &mut self.timers);
    }

    pub(super) fn request_due(&mut self, ticket: Ticket) {
        self.requests.due(ticket, &mut self.sessions);
    }
}

fn retry_after_ms(refused: &Refused) -> u64 {
    refused.retry_after_ms.unwrap_or(1_000).clamp(50, 5_000)
}

/// Names the epoch under which a request was written first, or none. Requests of the other kinds
/// are never run twice, however often they are asked.
fn set_first_epoch(ask: &mut Ask, epoch: Option<Epoch>) {
    match ask {
        Ask::Commit(commit) => commit.first_epoch = epoch,
        Ask::Begin { first_epoch, .. } => *first_epoch = epoch,
        Ask::StartSaga { .. } | Ask::Abort { .. } | Ask::Await { .. } | Ask::Enlist { .. } => {}
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
            | Reason::BranchMissing
            | Reason::TooManyBranches
            | Reason::UnknownParticipant,
        ) => true,
        Some(_) | None => false,
    }
}
