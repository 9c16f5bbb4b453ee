//! What a gtid that is neither in memory nor in the log means, for each message.

use super::entry::Machine;
use super::owned::not_open;
use super::{Replica, SessionId};
use crate::branch;
use crate::ids::{Caller, Gtid};
use crate::message::{Ask, FromClient, FromReplica, Reason, Reply, Request, VoterMessage};
use crate::reason::{AbortCode, AbortReason};
use crate::record::Outcome;
use crate::three_phase::{self, Bar};
use crate::two_phase::{Event, TwoPhase, Vote};

impl Replica {
    pub(super) fn to_unknown_one(&mut self, gtid: Gtid, session: SessionId, message: FromClient) {
        match message {
            FromClient::Request(request) => {
                self.request_to_unknown(Caller { session: session.0, request: request.request_id }, request);
            }
            FromClient::Branch(report) => match report.message {
                branch::Message::Inquire | branch::Message::Vote(Vote::Yes | Vote::Unknown(_)) => {
                    self.presume_abort(gtid, session);
                }
                branch::Message::Vote(Vote::No(_) | Vote::ReadOnly | Vote::Committed)
                | branch::Message::Acknowledge(_) => {}
            },
            FromClient::Voter(report) => match report.message {
                VoterMessage::AskLog(request) => self.log_asked_of_unknown(gtid, session, request),
                VoterMessage::Answered(_) => {}
            },
            FromClient::Step(_) | FromClient::Hello(_) | FromClient::Heartbeat => {}
        }
    }

    fn request_to_unknown(&mut self, caller: Caller, Request { gtid, ask, .. }: Request) {
        match ask {
            Ask::Begin { .. } if self.ended.may_be_lost(gtid) => {
                let message =
                    "this gtid is older than the coordinator's memory, and may have been begun before; mint a new one";
                self.reply_forgotten(caller, message);
            }
            Ask::Begin { timeout_ms, protocol } => match self.admit(0, timeout_ms) {
                Err(refused) => self.refuse(caller, refused),
                Ok(timeout_ms) => {
                    self.open_transaction(gtid, protocol, timeout_ms, 0);
                    self.drive_transaction(gtid, Event::BeginRequested { caller });
                }
            },
            // The branches that enlisted are not known any more, so nothing can be committed: presumed abort.
            Ask::Commit(commit) if commit.begun => {
                self.reply_forgotten(caller, "the coordinator restarted before the commit was asked for; begin anew");
            }
            Ask::Commit(commit) => self.commit_anew(gtid, caller, commit),
            Ask::StartSaga { definition, wait, .. } => self.start_saga(gtid, definition, wait, caller),
            Ask::Abort { .. } | Ask::Await { .. } => {
                let message = format!(
                    "no transaction {gtid}: it never began here, or it was aborted without a trace; check the gtid"
                );
                self.refuse(caller, Reason::NotFound.refused(message));
            }
            Ask::Enlist { .. } => self.refuse(caller, not_open()),
        }
    }

    fn reply_forgotten(&mut self, caller: Caller, message: &str) {
        let reason = AbortReason::new(AbortCode::Forgotten, message);
        self.reply(caller, Reply::Outcome { outcome: Outcome::Aborted, reason: Some(reason), outputs: Vec::new() });
    }

    /// A branch is prepared and waits for a decision that was never made: the abort is made durable, so that no commit can come
    /// after the answer.
    fn presume_abort(&mut self, gtid: Gtid, session: SessionId) {
        let Some((participant, instance)) = self.participant_of(session) else { return };
        let (machine, output) = TwoPhase::presume_abort(gtid, self.epoch, self.now_ms, participant, instance);
        self.insert(gtid, Machine::TwoPhase(machine), 0, 0);
        self.put_out::<TwoPhase>(gtid, output);
    }

    fn log_asked_of_unknown(&mut self, gtid: Gtid, session: SessionId, request: three_phase::Request) {
        if request.knows_of_a_vote() {
            // Every vote was in, so 'attempt 1 sent' was logged: its row is gone since, and no abort may be presumed.
            let answer = three_phase::Answer::Barred(Bar::Forgotten);
            return self.peers.send(session, FromReplica::LogAnswered { gtid, answer });
        }
        match request {
            three_phase::Request::Join { .. } | three_phase::Request::Propose { .. } => {
                self.presume_abort(gtid, session)
            }
            // There is nothing to end: the abort was never logged, or retention has removed the row. The record is of no use.
            three_phase::Request::Decided(_) => self.peers.forget(session, gtid),
            three_phase::Request::VoteYes { .. } | three_phase::Request::VoteNo | three_phase::Request::Elected(_) => {}
        }
    }
}
