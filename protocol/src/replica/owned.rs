//! Messages about a transaction that this replica drives.

use std::collections::BTreeSet;

use super::ended::shortened;
use super::entry::{Entry, Failure, Machine};
use super::{Replica, SessionId};
use crate::branch::{self, HookEnd};
use crate::digest;
use crate::ids::{Caller, Gtid, ParticipantName};
use crate::message::{Ask, BranchReport, Commit, Expected, FromClient, Reason, Refused, Request};
use crate::reason::{Refusal, Wait};
use crate::record::Member;
use crate::two_phase::{CarriedBranch, Event, State};

impl Replica {
    pub(super) fn tell_owned(&mut self, gtid: Gtid, session: SessionId, message: FromClient) {
        let is_saga = matches!(self.entries.get(&gtid).map(|entry| &entry.machine), Some(Machine::Saga(_)));
        match message {
            FromClient::Request(request) => {
                let caller = Caller { session: session.0, request: request.request_id };
                if is_saga {
                    self.request_to_saga(caller, request);
                } else {
                    self.request_to_transaction(session, caller, request);
                }
            }
            FromClient::Branch(report) if !is_saga => self.branch_reports(session, report),
            FromClient::Voter(report) if !is_saga => self.voter_reports(gtid, session, report.message),
            FromClient::Step(answer) if is_saga => self.step_answered(session, answer),
            FromClient::Branch(_)
            | FromClient::Voter(_)
            | FromClient::Step(_)
            | FromClient::Hello(_)
            | FromClient::Heartbeat => {}
        }
    }

    fn request_to_transaction(&mut self, session: SessionId, caller: Caller, Request { gtid, ask, .. }: Request) {
        let event = match ask {
            Ask::Begin { protocol, .. } => {
                // An abort that is presumed has no protocol: it says the same of any.
                let is_other = |entry: &Entry| !entry.is_presumed && entry.machine.protocol() != protocol;
                if self.entries.get(&gtid).is_some_and(is_other) {
                    return self.refuse(caller, Refusal::KeyReused);
                }
                Event::BeginRequested { caller }
            }
            Ask::Commit(commit) => return self.commit_owned(gtid, caller, commit),
            Ask::Abort { reason } => Event::AbortRequested { reason, caller },
            Ask::Await { wait } => Event::OutcomeAwaited { caller, wait },
            Ask::Enlist { branch, vote } => {
                let Some((participant, instance)) = self.participant_of(session) else {
                    return self.refuse(caller, not_a_participant());
                };
                if self.is_full_for(gtid, &participant) {
                    return self.refuse(caller, self.too_many_branches());
                }
                Event::Enlisted { participant, branch, instance, vote, caller }
            }
            // The look-up that showed nothing may have lagged behind the saga's start: the log tells.
            Ask::StartSaga { .. } if self.entries.get(&gtid).is_some_and(|entry| entry.is_presumed) => {
                Event::OutcomeAwaited { caller, wait: Wait::Decided }
            }
            Ask::StartSaga { .. } => {
                let message = "this gtid is a transaction's; mint a new one for a saga";
                return self.refuse(caller, Reason::WrongProtocol.refused(message));
            }
        };
        self.drive_transaction(gtid, event);
    }

    fn commit_owned(&mut self, gtid: Gtid, caller: Caller, commit: Commit) {
        let bytes = commit.branches.iter().map(|branch| branch.payload.len()).sum();
        // A repeated request meets its own branches: only an active transaction takes new ones.
        if self.is_active(gtid) {
            if !commit.begun {
                return self.refuse(caller, was_begun());
            }
            if self.branch_count(gtid) + commit.branches.len() > self.limits.branches_max {
                return self.refuse(caller, self.too_many_branches());
            }
            if self.bytes + bytes > self.limits.open_bytes_max {
                return self.refuse(caller, self.overloaded());
            }
            let enlisted = self.transaction(gtid).map_or(&[][..], |machine| machine.branches());
            let present = enlisted.iter().map(|branch| &branch.participant);
            if let Err(missing) = expect(&commit, present) {
                return self.refuse(caller, missing);
            }
        }
        let event = self.commit_event(caller, commit);
        self.event_with_payload(gtid, event, bytes);
    }

    /// A branch reports about a transaction with branches.
    fn branch_reports(&mut self, session: SessionId, BranchReport { gtid, branch, message }: BranchReport) {
        let Some((participant, instance)) = self.participant_of(session) else { return };
        let event = match message {
            branch::Message::Vote(vote) => Event::Voted { participant, branch, instance, vote },
            branch::Message::Acknowledge(acknowledgement) => {
                if let HookEnd::Failed(error) = &acknowledgement.end {
                    self.note_failure(gtid, Member { participant: participant.clone(), branch }, error);
                }
                Event::Acknowledged { participant, branch, acknowledgement }
            }
            branch::Message::Inquire => Event::Inquired { participant, branch, instance },
        };
        self.drive_transaction(gtid, event);
    }

    /// Keeps for operators why a branch of the roster has not ended yet.
    fn note_failure(&mut self, gtid: Gtid, member: Member, error: &str) {
        let is_member = self.transaction(gtid).is_some_and(|machine| machine.position_of(&member).is_some());
        if let Some(entry) = self.entries.get_mut(&gtid).filter(|_| is_member) {
            entry.failed(Failure { member, error: shortened(error), at_ms: self.now_ms });
        }
    }

    /// A branch named ahead of the commit, by a unary call.
    pub(super) fn name_branch(&mut self, gtid: Gtid, branch: CarriedBranch, caller: Caller) {
        if self.is_open(SessionId(caller.session)) {
            self.requests.taken(caller, gtid);
        }
        let refused = match self.entries.get(&gtid).map(|entry| &entry.machine) {
            None => not_open(),
            Some(Machine::Saga(_)) => {
                Reason::WrongProtocol.refused("this gtid is a saga's; its steps are in its definition")
            }
            Some(_) if self.is_full_for(gtid, &branch.participant) => self.too_many_branches().into(),
            Some(_) if self.bytes + branch.payload.len() > self.limits.open_bytes_max => self.overloaded(),
            Some(_) => {
                let (bytes, id) = (branch.payload.len(), self.next_branches(1));
                return self.event_with_payload(gtid, Event::BranchNamed { branch, id, caller }, bytes);
            }
        };
        self.refuse(caller, refused);
    }

    /// Whether another branch would be one too many. A participant that has one already asks again,
    /// and is no further branch: were it refused, it would undo what the transaction counts on.
    fn is_full_for(&self, gtid: Gtid, participant: &ParticipantName) -> bool {
        let Some(machine) = self.transaction(gtid) else { return false };
        machine.state() == State::Active
            && machine.branches().len() >= self.limits.branches_max
            && machine.branches().iter().all(|branch| branch.participant != *participant)
    }

    /// An event that brings payload. Of a request that is refused, or that comes again, nothing is
    /// kept, and nothing is counted.
    fn event_with_payload(&mut self, gtid: Gtid, event: Event, bytes: usize) {
        let before = self.branch_count(gtid);
        self.drive_transaction(gtid, event);
        if self.branch_count(gtid) > before {
            self.hold(gtid, bytes);
        }
    }

    /// Counts bytes that a transaction holds until it is forgotten.
    pub(super) fn hold(&mut self, gtid: Gtid, bytes: usize) {
        if let Some(entry) = self.entries.get_mut(&gtid) {
            entry.bytes += bytes;
            self.bytes += bytes;
        }
    }

    pub(super) fn commit_event(&mut self, caller: Caller, commit: Commit) -> Event {
        let digest = digest::of_commit(commit.protocol, &commit.branches);
        // A repeated request that finds nothing in the log has not run in one phase before: its
        // delegation would be there.
        let one_phase = match commit.branches.as_slice() {
            [branch] => self.peers.commits_in_one_phase(&branch.participant),
            _ => false,
        };
        Event::CommitRequested {
            first_id: self.next_branches(commit.branches.len()),
            branches: commit.branches,
            digest,
            one_phase,
            may_recur: commit.attempt != 1,
            caller,
            wait: commit.wait,
        }
    }

    pub(super) fn too_many_branches(&self) -> Refusal {
        Refusal::TooManyBranches { branches_max: self.limits.branches_max }
    }
}

/// Whether a commit has the branches that it expects: those of the transaction, which are present,
/// and its own.
pub(super) fn expect<'a>(
    commit: &'a Commit,
    present: impl Iterator<Item = &'a ParticipantName>,
) -> Result<(), Refused> {
    if commit.expected == Expected::Anything {
        return Ok(());
    }
    let carried = commit.branches.iter().map(|branch| &branch.participant);
    let present: BTreeSet<&ParticipantName> = present.chain(carried).collect();
    let missing = match &commit.expected {
        Expected::Branch if present.is_empty() => "any participant".to_owned(),
        Expected::Anything | Expected::Branch => return Ok(()),
        Expected::Of(participants) => match participants.iter().find(|expected| !present.contains(expected)) {
            Some(missing) => missing.to_string(),
            None => return Ok(()),
        },
    };
    Err(Reason::BranchMissing.refused(format!(
        "the transaction has no branch of {missing}, and this commit expects one: see that the call to the service \
         carries the transaction's context, and that the service enlists"
    )))
}

pub(super) fn not_open() -> Refused {
    Reason::NotFound.refused("no open transaction of this gtid: it has ended, or the coordinator restarted; begin anew")
}

/// Were this let through, the same commit after a restart would run without the branches that have
/// enlisted.
fn was_begun() -> Refused {
    Reason::Malformed
        .refused("this transaction was opened by Begin, and its commit says that it was not; say begun=true")
}

fn not_a_participant() -> Refused {
    Reason::NotAParticipant.refused("this session's Hello named no participant; dial with a name to enlist branches")
}
