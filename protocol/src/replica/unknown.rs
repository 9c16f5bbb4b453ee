//! What a gtid that is neither in memory nor in the log means, for each message.

use std::cmp::Ordering;

use super::ended::EndedAnswer;
use super::entry::Machine;
use super::owned::not_open;
use super::{Replica, SessionId};
use crate::branch;
use crate::ids::{BranchId, Caller, Epoch, Gtid};
use crate::message::{Ask, Commit, FromClient, FromReplica, Reason, Refused, Reply, Request, VoterMessage};
use crate::reason::{AbortCode, AbortReason, Wait};
use crate::record::{Decision, Member, Outcome};
use crate::three_phase::{self, Bar};
use crate::two_phase::{Event, TwoPhase, Vote};

/// Whether a request about an unknown gtid may have run before. One that may have is never run anew
/// under its gtid: a branch of the earlier run could be prepared, and be undone under the feet of
/// the later one.
enum Age {
    /// It was first written to this process.
    New,
    /// It was written to an earlier process, or to this one over a session that is closed: aborted,
    /// wherever it had come to.
    MayHaveRun,
    /// It was first written to a process that has fenced this one.
    Elsewhere,
}

/// Presumed aborts that wait for their branches at a time, on one shard. Any participant can ask
/// about any gtid, and need not acknowledge the answer: presumed aborts take none of the places for
/// transactions that are begun, and no more memory than this. Aborts that an initiator waits for
/// have no branches, and end with the log's answer; there is room for at least as many of them.
const PRESUMED_MAX: usize = 1_024;

/// Another writer's record stands in the log. The next request reads it there.
pub(super) fn out_of_date() -> Refused {
    Reason::LogUnreachable.refused("the log holds what an earlier look into it did not show; ask again")
}

pub(super) fn fenced() -> Refused {
    Reason::Fenced.refused("another process has taken over from this one; ask it")
}

impl Replica {
    pub(super) fn tell_unknown(&mut self, gtid: Gtid, session: SessionId, message: FromClient) {
        match message {
            FromClient::Request(request) => {
                self.request_to_unknown(Caller { session: session.0, request: request.request_id }, request);
            }
            FromClient::Branch(report) => match report.message {
                branch::Message::Inquire | branch::Message::Vote(Vote::Yes) => {
                    self.presume_abort(gtid, report.branch, session);
                }
                // A branch that may be prepared is in doubt and inquires by itself. One that was
                // ordered to commit by itself is not in doubt, whatever it has done, and an abort
                // must not be presumed for it: while its delegation is open in the log its gtid is
                // not unknown, and once retention has removed the end, its commit may be what was
                // told.
                branch::Message::Vote(Vote::Unknown(_) | Vote::No(_) | Vote::ReadOnly | Vote::Committed)
                | branch::Message::Acknowledge(_) => {}
            },
            FromClient::Voter(report) => match report.message {
                VoterMessage::AskLog { branch, request } => self.log_asked_of_unknown(gtid, branch, session, request),
                VoterMessage::Answered(_) => {}
            },
            FromClient::Step(_) | FromClient::Hello(_) | FromClient::Heartbeat => {}
        }
    }

    fn request_to_unknown(&mut self, caller: Caller, Request { gtid, ask, .. }: Request) {
        match ask {
            Ask::Begin { timeout_ms, protocol, first_epoch } => match self.age_of_begin(gtid, first_epoch) {
                Age::New => match self.admit(0, timeout_ms) {
                    Err(refused) => self.refuse(caller, refused),
                    Ok(timeout_ms) => {
                        self.open_transaction(gtid, protocol, timeout_ms, 0);
                        self.drive_transaction(gtid, Event::BeginRequested { caller });
                        self.note_initiator(gtid, caller);
                    }
                },
                Age::MayHaveRun => {
                    let message =
                        "it may have been begun before, and the coordinator has restarted since; mint a new gtid";
                    self.reply_aborted(gtid, caller, message);
                }
                Age::Elsewhere => self.refuse(caller, fenced()),
            },
            Ask::Commit(commit) => match self.age_of_commit(gtid, &commit) {
                Age::New => self.commit_anew(gtid, caller, commit),
                Age::MayHaveRun => {
                    let message = if commit.begun {
                        // The branches that enlisted are not known any more.
                        "the coordinator restarted before the commit was asked for; begin anew"
                    } else {
                        "it was asked for before, and was not decided when the coordinator restarted or the session \
                         broke; repeat the work under a new gtid"
                    };
                    self.abort_forgotten(gtid, message, caller);
                }
                Age::Elsewhere => self.refuse(caller, fenced()),
            },
            Ask::StartSaga { definition, wait, .. } => self.start_saga(gtid, definition, wait, caller),
            Ask::Abort { .. } => {
                let message = "nothing is known of it: it never began here, or was aborted before; it cannot commit \
                               any more";
                self.abort_forgotten(gtid, message, caller);
            }
            Ask::Await { .. } => {
                let message = format!(
                    "no transaction {gtid}: it never began here, was aborted without a trace, or ended longer ago than \
                     the log keeps; check the gtid, or abort it to be certain that it cannot commit"
                );
                self.refuse(caller, Reason::NotFound.refused(message));
            }
            Ask::Enlist { .. } => self.refuse(caller, not_open()),
        }
    }

    fn age_of_begin(&self, gtid: Gtid, first_epoch: Option<Epoch>) -> Age {
        match first_epoch {
            Some(first) => self.age_by_epoch(first),
            None if self.ended.may_be_lost(gtid) => Age::MayHaveRun,
            None => Age::New,
        }
    }

    fn age_of_commit(&self, gtid: Gtid, commit: &Commit) -> Age {
        if commit.begun {
            return Age::MayHaveRun;
        }
        match (commit.attempt, commit.first_epoch) {
            (1, Some(first)) => self.age_by_epoch(first),
            (1, None) => Age::New,
            // It was written before, over a session that is closed since; what came of it is not
            // known any more.
            (_, Some(first)) if first > self.epoch => Age::Elsewhere,
            (_, Some(_)) => Age::MayHaveRun,
            // Every outcome of a unary call is in the log, so an earlier run can only have been
            // another process's.
            (0, None) if self.ended.is_of_this_process(gtid, self.now_ms) => Age::New,
            (0, None) => Age::MayHaveRun,
            (_, None) if self.ended.is_fresh(gtid, self.now_ms) => Age::New,
            (_, None) => Age::MayHaveRun,
        }
    }

    fn age_by_epoch(&self, first: Epoch) -> Age {
        match first.cmp(&self.epoch) {
            Ordering::Equal => Age::New,
            Ordering::Less => Age::MayHaveRun,
            Ordering::Greater => Age::Elsewhere,
        }
    }

    /// As long as Begin has no answer, no initiator asks for the commit: the transaction is aborted
    /// without a record. The answer is kept for a while, so that all who ask hear the same.
    fn reply_aborted(&mut self, gtid: Gtid, caller: Caller, message: &str) {
        let (outcome, reason) = (Outcome::Aborted, Some(AbortReason::new(AbortCode::Forgotten, message)));
        let answer = EndedAnswer { digest: None, outcome, reason: reason.clone(), committed: Vec::new() };
        self.ended.keep(gtid, Some(answer), self.now_ms);
        self.reply(caller, Reply::Outcome { outcome, reason, outputs: Vec::new() });
    }

    /// The caller hears that the transaction is aborted once the log holds the abort. That the log
    /// did not show a commit proves nothing, since a look-up may lag behind; if there is one, it
    /// overrules this abort.
    fn abort_forgotten(&mut self, gtid: Gtid, message: &str, caller: Caller) {
        if self.entries.len() >= self.limits.open_max + 2 * PRESUMED_MAX {
            return self.refuse(caller, self.overloaded());
        }
        let (machine, output) = TwoPhase::forgotten(gtid, self.epoch, self.now_ms, message);
        self.insert(gtid, Machine::TwoPhase(machine), 0, 0);
        self.put_out::<TwoPhase>(gtid, output);
        self.drive::<TwoPhase>(gtid, Event::OutcomeAwaited { caller, wait: Wait::Decided });
    }

    /// A branch is prepared and waits for a decision that was never made: the abort is made
    /// durable, so that no commit can come after the answer.
    fn presume_abort(&mut self, gtid: Gtid, branch: BranchId, session: SessionId) {
        let Some((participant, instance)) = self.participant_of(session) else { return };
        if self.presumed >= PRESUMED_MAX {
            // A branch that is in doubt asks again; one that never was is not worth a place.
            return;
        }
        let inquirer = Member { participant, branch };
        let (machine, output) = TwoPhase::presume_abort(gtid, self.epoch, self.now_ms, inquirer, instance);
        self.insert(gtid, Machine::TwoPhase(machine), 0, 0);
        self.put_out::<TwoPhase>(gtid, output);
    }

    fn log_asked_of_unknown(
        &mut self,
        gtid: Gtid,
        branch: BranchId,
        session: SessionId,
        request: three_phase::Request,
    ) {
        if request.knows_of_a_vote() {
            // Every vote was in, so 'attempt 1 sent' was logged: its row is gone since, and no
            // abort may be presumed.
            let answer = three_phase::Answer::Barred(Bar::Forgotten);
            return self.peers.send(session, FromReplica::LogAnswered { gtid, answer });
        }
        match request {
            three_phase::Request::Join { .. } | three_phase::Request::Propose { .. } => {
                self.presume_abort(gtid, branch, session);
            }
            // There is nothing to end: the abort was never logged, or retention has removed the
            // row. The record is of no use, since a voter without one refuses.
            three_phase::Request::Decided(Decision::Abort) => self.peers.forget(session, gtid),
            // The look-up may lag. While a peer is in doubt, a voter that has forgotten a commit
            // would refuse it.
            three_phase::Request::Decided(Decision::Commit) => {}
            three_phase::Request::VoteYes { .. } | three_phase::Request::VoteNo | three_phase::Request::Elected(_) => {}
        }
    }
}
