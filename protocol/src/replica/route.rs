//! Which row of the table of gtids a message meets.
//!
//! A gtid that is not in memory is one of three things: new, ended, or lost with the memory of an
//! earlier process. Only the log can tell, unless the gtid is certain to be new
//! ([`Ended::is_fresh`](super::ended::Ended::is_fresh)). So requests about such a gtid wait for
//! [`Lookups`](super::lookup::Lookups).

use super::ended::EndedHere;
use super::entry::Machine;
use super::unknown::fenced;
use super::{Replica, SessionId};
use crate::branch;
use crate::digest;
use crate::found::{Found, OpenTransaction};
use crate::ids::{Caller, Gtid};
use crate::message::{Ask, FromClient, Reason, Refused, Reply, Request};
use crate::reason::{Refusal, Wait};
use crate::two_phase::Vote;

/// What a replica knows of a gtid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Known {
    /// It drives the transaction, which has branches.
    Transaction,
    /// It drives the saga.
    Saga,
    /// Requests wait for the log's answer.
    Asking,
    /// It has ended, and how is at hand.
    Ended,
    /// It has ended, and only the log knows how.
    EndedInLog,
    /// Nothing.
    Unknown,
}

/// What the log knows of a gtid that is not in memory.
#[derive(Debug)]
pub(super) enum InLog {
    /// The log does not have it, or need not be asked.
    Absent,
    /// The log has it.
    Found(Found),
    /// The log did not answer.
    Unanswered(Refused),
}

impl Replica {
    /// What it knows of a gtid now.
    pub fn known(&self, gtid: Gtid) -> Known {
        if self.lookups.is_waiting(gtid) {
            return Known::Asking;
        }
        match (self.entries.get(&gtid).map(|entry| &entry.machine), self.ended.get(gtid)) {
            (Some(Machine::TwoPhase(_) | Machine::ThreePhase(_)), _) => Known::Transaction,
            (Some(Machine::Saga(_)), _) => Known::Saga,
            (None, Some(Some(_))) => Known::Ended,
            (None, Some(None)) => Known::EndedInLog,
            (None, None) => Known::Unknown,
        }
    }

    /// One message of a session.
    pub(super) fn message(&mut self, session: SessionId, message: FromClient) {
        // What a closed session had said is lost, as on the network: its process repeats it over
        // the next one.
        let (Some(gtid), true) = (message.gtid(), self.is_open(session)) else { return };
        if let FromClient::Request(request) = &message {
            self.requests.taken(Caller { session: session.0, request: request.request_id }, gtid);
        }
        match self.known(gtid) {
            // Behind those that wait, so that the order stays.
            Known::Asking | Known::EndedInLog => self.wait_for_log(gtid, session, message),
            Known::Transaction | Known::Saga => self.tell_owned(gtid, session, message),
            Known::Ended => {
                if let Some(ended) = self.ended_at_hand(gtid) {
                    self.answer_ended(gtid, session, &message, ended);
                }
            }
            Known::Unknown if self.needs_no_lookup(gtid, &message) => {
                self.not_in_memory(gtid, session, message, InLog::Absent);
            }
            Known::Unknown => self.wait_for_log(gtid, session, message),
        }
    }

    fn wait_for_log(&mut self, gtid: Gtid, session: SessionId, message: FromClient) {
        if self.lookups.is_full() {
            let refused = Reason::Overloaded.refused("too many requests wait for the log; try again");
            return self.refuse_message(session, &message, refused);
        }
        self.lookups.wait(gtid, session, message);
    }

    /// Messages that change nothing, or certainly are the first about their gtid.
    fn needs_no_lookup(&self, gtid: Gtid, message: &FromClient) -> bool {
        let is_fresh = || self.ended.is_fresh(gtid, self.now_ms);
        match message {
            FromClient::Request(request) => match &request.ask {
                Ask::Begin { .. } => is_fresh(),
                Ask::Commit(commit) => commit.attempt == 1 && !commit.begun && is_fresh(),
                Ask::StartSaga { attempt, .. } => *attempt == 1 && is_fresh(),
                Ask::Enlist { .. } => true,
                Ask::Abort { .. } | Ask::Await { .. } => false,
            },
            FromClient::Branch(report) => match &report.message {
                // A branch that voted no or read-only, or that has ended, waits for nothing.
                branch::Message::Vote(vote) => !matches!(vote, Vote::Yes | Vote::Unknown(_)),
                branch::Message::Acknowledge(_) => true,
                branch::Message::Inquire => false,
            },
            FromClient::Voter(report) => match &report.message {
                crate::message::VoterMessage::Answered(_) => true,
                crate::message::VoterMessage::AskLog { .. } => false,
            },
            FromClient::Step(_) | FromClient::Hello(_) | FromClient::Heartbeat => true,
        }
    }

    /// The log has answered: the requests that waited go on.
    pub(super) fn looked_up(&mut self, gtids: Vec<Gtid>, found: Result<Vec<(Gtid, Found)>, Refused>) {
        let found = found.map(|found| found.into_iter().collect::<crate::ids::GtidMap<Found>>());
        for gtid in gtids {
            self.requests.touch(gtid);
            for (session, message) in self.lookups.resume(gtid) {
                // The first of them may have brought it into memory.
                if self.entries.contains_key(&gtid) {
                    self.tell_owned(gtid, session, message);
                    continue;
                }
                let in_log = match &found {
                    Ok(found) => found.get(&gtid).cloned().map_or(InLog::Absent, InLog::Found),
                    Err(refused) => InLog::Unanswered(refused.clone()),
                };
                self.not_in_memory(gtid, session, message, in_log);
            }
        }
    }

    fn not_in_memory(&mut self, gtid: Gtid, session: SessionId, message: FromClient, in_log: InLog) {
        match in_log {
            InLog::Absent => self.tell_unknown(gtid, session, message),
            InLog::Unanswered(refused) => self.refuse_message(session, &message, refused),
            InLog::Found(Found::Ended(ended)) => {
                self.answer_ended(gtid, session, &message, EndedHere::from(&ended.record));
            }
            InLog::Found(Found::Open(open)) => {
                if let FromClient::Request(request) = message {
                    self.request_to_open(session, &request, &open);
                }
            }
            InLog::Found(Found::Unreadable(unreadable)) => {
                let refused = Reason::Internal.refused(format!("{unreadable}; an operator has to look at it"));
                self.refuse_message(session, &message, refused);
            }
        }
    }

    /// In the log, open, and not in memory. What is durable in the row is told. For the rest the
    /// caller asks again: another process drives the transaction, or it has ended since the log was
    /// read.
    fn request_to_open(&mut self, session: SessionId, request: &Request, open: &OpenTransaction) {
        let caller = Caller { session: session.0, request: request.request_id };
        match (open, &request.ask) {
            (OpenTransaction::Decided { record, .. }, ask) if !waits_for_the_end(ask) => {
                self.request_to_ended(session, request, EndedHere::from(record));
            }
            (OpenTransaction::Saga(saga), ask) => {
                if let Some(problem) = super::contradiction(saga, self.epoch) {
                    let message = format!(
                        "saga {} could not be resumed after a restart: {problem}; an operator has to look at it",
                        request.gtid
                    );
                    return self.refuse(caller, Reason::Internal.refused(message));
                }
                match ask {
                    Ask::StartSaga { definition, .. } if digest::of_definition(definition) != saga.started.digest => {
                        self.refuse(caller, Refusal::KeyReused);
                    }
                    Ask::StartSaga { wait: Wait::Decided, .. } => self.reply(caller, Reply::SagaStarted),
                    Ask::Begin { .. }
                    | Ask::Commit(_)
                    | Ask::Abort { .. }
                    | Ask::StartSaga { wait: Wait::Ended, .. }
                    | Ask::Await { .. }
                    | Ask::Enlist { .. } => self.refuse(caller, fenced()),
                }
            }
            (
                OpenTransaction::Decided { .. } | OpenTransaction::Delegated { .. } | OpenTransaction::Attempted { .. },
                _,
            ) => self.refuse(caller, fenced()),
        }
    }

    /// Refuses a message, if it is a request. Whoever sent another one asks again by itself.
    pub(super) fn refuse_message(&mut self, session: SessionId, message: &FromClient, refused: Refused) {
        if let FromClient::Request(request) = message {
            self.refuse(Caller { session: session.0, request: request.request_id }, refused);
        }
    }
}

/// Whether the answer is more than the decision.
fn waits_for_the_end(ask: &Ask) -> bool {
    match ask {
        Ask::Commit(commit) => commit.wait == Wait::Ended,
        Ask::StartSaga { wait, .. } | Ask::Await { wait } => *wait == Wait::Ended,
        Ask::Begin { .. } | Ask::Abort { .. } | Ask::Enlist { .. } => false,
    }
}
