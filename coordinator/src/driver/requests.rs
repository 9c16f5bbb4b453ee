//! What sessions say becomes events of machines.
//!
//! A gtid that is not in memory is one of three things: new, ended, or lost with the memory of an earlier process. Only
//! the log can tell, unless it is certain to be new ([`Ended::is_fresh`](super::ended::Ended::is_fresh)); so requests about
//! such a gtid wait for [`Lookups`](super::lookup::Lookups).

use assent_proto::error::Reason;
use assent_proto::session::{Commit, FromClient, FromReplica, Refused, Reply};
use assent_protocol::record::Ended;
use assent_protocol::saga::{self, Definition, Saga, StepResult};
use assent_protocol::three_phase::{self, Bar, Coordinator, Request};
use assent_protocol::two_phase::{self, CarriedBranch, Order, Patience, TwoPhase, Vote};
use assent_protocol::{
    AbortCode, AbortReason, BodyDigest, Caller, Gtid, InstanceId, Name, Outcome, ParticipantName, Protocol, Refusal,
    Wait,
};
use bytes::Bytes;

use super::entry::{Entry, Machine, draw_node, now_ms};
use super::lookup::Answer;
use super::peers::SessionId;
use super::recovery::contradiction;
use super::shard::Shard;
use super::statistics::add;
use crate::digest;
use crate::log::{Found, LogError, OpenTransaction};

/// What is known about a gtid that is not in memory.
#[derive(Debug)]
enum Knowledge {
    /// It is new, or was lost without a trace: the log does not know it.
    Absent,
    /// The log knows it.
    Logged(Found),
    /// The log did not answer.
    Unanswered(Refused),
}

impl Shard {
    /// One message of a session.
    pub(super) fn message(&mut self, session: SessionId, message: FromClient) {
        let Some(gtid) = gtid_of(&message) else { return };
        if self.lookups.is_waiting(gtid) {
            // Behind those that wait, so that the order stays.
            self.wait_for_log(gtid, session, message);
        } else if self.entries.contains_key(&gtid) {
            self.in_memory(gtid, session, message);
        } else if let Some(answer) = self.answer_at_hand(gtid, &message) {
            self.answer_ended(gtid, session, &message, answer);
        } else if self.ended.get(gtid).is_none() && self.needs_no_lookup(gtid, &message) {
            self.not_in_memory(gtid, session, message, Knowledge::Absent);
        } else {
            self.wait_for_log(gtid, session, message);
        }
    }

    fn wait_for_log(&mut self, gtid: Gtid, session: SessionId, message: FromClient) {
        if self.lookups.is_full() {
            let refused = Reason::Overloaded.refused("too many requests wait for the log; try again");
            return self.refuse(session, &message, refused);
        }
        self.lookups.wait(gtid, session, message);
    }

    /// Messages that change nothing, or certainly are the first about their gtid.
    fn needs_no_lookup(&self, gtid: Gtid, message: &FromClient) -> bool {
        match message {
            FromClient::Begin { .. } => self.ended.is_fresh(gtid, now_ms()),
            FromClient::Commit(commit) => commit.attempt == 1 && !commit.begun && self.ended.is_fresh(gtid, now_ms()),
            FromClient::StartSaga { attempt, .. } => *attempt == 1 && self.ended.is_fresh(gtid, now_ms()),
            // A branch that voted no or read-only, or that has ended, waits for nothing.
            FromClient::Vote { vote, .. } => !matches!(vote, Vote::Yes | Vote::Unknown(_)),
            FromClient::Enlist { .. }
            | FromClient::Acknowledge { .. }
            | FromClient::StepAnswer { .. }
            | FromClient::VoterAnswered { .. }
            | FromClient::Hello(_)
            | FromClient::Heartbeat => true,
            FromClient::Abort { .. }
            | FromClient::Await { .. }
            | FromClient::Inquire { .. }
            | FromClient::AskLog { .. } => false,
        }
    }

    /// The log has answered: the requests that waited go on.
    pub(super) fn looked_up(&mut self, answer: Answer) {
        let mut found = match answer.found {
            Ok(found) => Ok(found),
            Err(error) => Err(log_refusal(&error)),
        };
        for gtid in answer.gtids {
            for (session, message) in self.lookups.resume(gtid) {
                // The first of them may have brought it into memory.
                if self.entries.contains_key(&gtid) {
                    self.in_memory(gtid, session, message);
                    continue;
                }
                let knowledge = match &mut found {
                    Ok(found) => found.get(&gtid).cloned().map_or(Knowledge::Absent, Knowledge::Logged),
                    Err(refused) => Knowledge::Unanswered(refused.clone()),
                };
                self.not_in_memory(gtid, session, message, knowledge);
            }
        }
    }

    // ---- in memory -------------------------------------------------------------------------------------------------

    fn in_memory(&mut self, gtid: Gtid, session: SessionId, message: FromClient) {
        let Some(entry) = self.entries.get(&gtid) else { return };
        match &entry.machine {
            Machine::TwoPhase(_) | Machine::ThreePhase(_) => {
                let branches = self.branch_count(gtid);
                self.in_transaction(gtid, session, message, branches);
            }
            Machine::Saga(_) => self.in_saga(gtid, session, message),
        }
    }

    fn in_transaction(&mut self, gtid: Gtid, session: SessionId, message: FromClient, branches: usize) {
        let caller = |request: u64| Caller { session: session.0, request };
        let event = match message {
            FromClient::Begin { request_id, protocol, .. } if self.protocol_of(gtid) != Some(protocol) => {
                return self.reply(caller(request_id), Reply::Refused(Refusal::KeyReused.into()));
            }
            FromClient::Begin { request_id, .. } => two_phase::Event::BeginRequested { caller: caller(request_id) },
            FromClient::Commit(commit) => {
                if !commit.begun && self.is_active(gtid) {
                    return self.reply(caller(commit.request_id), Reply::Refused(was_begun()));
                }
                // A repeated request meets its own branches.
                if self.is_active(gtid) && branches + commit.branches.len() > self.limits.branches_max {
                    let refused = Refusal::TooManyBranches { branches_max: self.limits.branches_max }.into();
                    return self.reply(caller(commit.request_id), Reply::Refused(refused));
                }
                let bytes = commit.branches.iter().map(|branch| branch.payload.len()).sum();
                if self.is_active(gtid) && self.bytes + bytes > self.limits.open_bytes_max {
                    let refused = self.overloaded();
                    return self.reply(caller(commit.request_id), Reply::Refused(refused));
                }
                let event = self.commit_event(session, commit);
                return self.event_with_payload(gtid, event, bytes);
            }
            FromClient::Abort { request_id, reason, .. } => {
                two_phase::Event::AbortRequested { reason, caller: caller(request_id) }
            }
            FromClient::Await { request_id, wait, .. } => {
                two_phase::Event::OutcomeAwaited { caller: caller(request_id), wait }
            }
            FromClient::Enlist { request_id, vote, .. } => {
                let Some((participant, instance)) = self.participant_of(session) else {
                    return self.reply(caller(request_id), Reply::Refused(not_a_participant()));
                };
                if self.is_full_for(gtid, &participant) {
                    let refused = Refusal::TooManyBranches { branches_max: self.limits.branches_max }.into();
                    return self.reply(caller(request_id), Reply::Refused(refused));
                }
                two_phase::Event::Enlisted { participant, instance, vote, caller: caller(request_id) }
            }
            FromClient::Vote { vote, .. } => {
                let Some((participant, instance)) = self.participant_of(session) else { return };
                two_phase::Event::Voted { participant, instance, vote }
            }
            FromClient::Acknowledge { result, .. } => {
                let Some((participant, _)) = self.participant_of(session) else { return };
                two_phase::Event::Acknowledged { participant, result }
            }
            FromClient::Inquire { .. } => {
                let Some((participant, instance)) = self.participant_of(session) else { return };
                two_phase::Event::Inquired { participant, instance }
            }
            FromClient::StartSaga { request_id, .. } => {
                let refused = Reason::WrongProtocol.refused("this gtid is a transaction's; mint a new one for a saga");
                return self.reply(caller(request_id), Reply::Refused(refused));
            }
            FromClient::VoterAnswered { answer, .. } => return self.voter_answered(gtid, session, answer),
            FromClient::AskLog { request, .. } => return self.log_asked(gtid, session, request),
            FromClient::StepAnswer { .. } | FromClient::Hello(_) | FromClient::Heartbeat => return,
        };
        self.transaction_event(gtid, event);
    }

    fn in_saga(&mut self, gtid: Gtid, session: SessionId, message: FromClient) {
        let caller = |request: u64| Caller { session: session.0, request };
        let event = match message {
            FromClient::StartSaga { request_id, definition, wait, .. } => saga::Event::StartRequested {
                digest: digest::of_definition(&definition),
                caller: caller(request_id),
                wait: saga_wait(wait),
            },
            FromClient::Await { request_id, wait, .. } => {
                saga::Event::WaitRequested { caller: caller(request_id), wait: saga_wait(wait) }
            }
            FromClient::Abort { request_id, reason, .. } => {
                let reason = AbortReason::new(AbortCode::Requested, reason).to_line();
                saga::Event::CompensateRequested { reason, caller: caller(request_id) }
            }
            FromClient::StepAnswer { step, compensation, attempt, epoch, result, .. } => {
                let Some((_, instance)) = self.participant_of(session) else { return };
                // Attempts are counted anew under each epoch: an answer to an earlier one is nobody's.
                if epoch != self.epoch {
                    return;
                }
                // Kept until the saga ends: not as a piece of the frame that it came in.
                let result = match result {
                    StepResult::Done(output) => {
                        self.hold(gtid, output.len());
                        StepResult::Done(Bytes::copy_from_slice(&output))
                    }
                    StepResult::Refused(_) | StepResult::Unknown(_) => result,
                };
                saga::Event::StepAnswered { step, compensation, attempt, instance, result }
            }
            FromClient::Begin { request_id, .. }
            | FromClient::Enlist { request_id, .. }
            | FromClient::Commit(Commit { request_id, .. }) => {
                let refused = Reason::WrongProtocol.refused("this gtid is a saga's; mint a new one for a transaction");
                return self.reply(caller(request_id), Reply::Refused(refused));
            }
            FromClient::Vote { .. }
            | FromClient::Acknowledge { .. }
            | FromClient::Inquire { .. }
            | FromClient::VoterAnswered { .. }
            | FromClient::AskLog { .. }
            | FromClient::Hello(_)
            | FromClient::Heartbeat => return,
        };
        self.saga_event(gtid, event);
    }

    /// A branch named ahead of the commit, by a unary call.
    pub(super) fn name_branch(&mut self, gtid: Gtid, branch: CarriedBranch, session: SessionId, request_id: u64) {
        let caller = Caller { session: session.0, request: request_id };
        let refused = match self.entries.get(&gtid).map(|entry| &entry.machine) {
            None => not_open(),
            Some(Machine::Saga(_)) => {
                Reason::WrongProtocol.refused("this gtid is a saga's; its steps are in its definition")
            }
            Some(_) if self.is_full_for(gtid, &branch.participant) => {
                Refusal::TooManyBranches { branches_max: self.limits.branches_max }.into()
            }
            Some(_) if self.bytes + branch.payload.len() > self.limits.open_bytes_max => self.overloaded(),
            Some(_) => {
                let bytes = branch.payload.len();
                return self.event_with_payload(gtid, two_phase::Event::BranchNamed { branch, caller }, bytes);
            }
        };
        self.reply(caller, Reply::Refused(refused));
    }

    /// Whether another branch would be one too many. A participant that has one already asks again, and is no further branch:
    /// were it refused, it would undo what the transaction counts on.
    fn is_full_for(&self, gtid: Gtid, participant: &ParticipantName) -> bool {
        let Some(machine) = self.transaction(gtid) else { return false };
        machine.state() == two_phase::State::Active
            && machine.branches().len() >= self.limits.branches_max
            && machine.branches().iter().all(|branch| branch.participant != *participant)
    }

    /// An event that brings payload. Of a request that is refused, or that comes again, nothing is kept, and nothing is counted.
    fn event_with_payload(&mut self, gtid: Gtid, event: two_phase::Event, bytes: usize) {
        let before = self.branch_count(gtid);
        self.transaction_event(gtid, event);
        if self.branch_count(gtid) > before {
            self.hold(gtid, bytes);
        }
    }

    fn branch_count(&self, gtid: Gtid) -> usize {
        self.transaction(gtid).map_or(0, |machine| machine.branches().len())
    }

    /// The machine of a transaction with branches, in two phases or three.
    fn transaction(&self, gtid: Gtid) -> Option<&TwoPhase> {
        self.entries.get(&gtid)?.machine.transaction()
    }

    fn protocol_of(&self, gtid: Gtid) -> Option<Protocol> {
        Some(self.entries.get(&gtid)?.machine.protocol())
    }

    /// Whether it is open to enlist: only what Begin opened ever is.
    fn is_active(&self, gtid: Gtid) -> bool {
        self.transaction(gtid).is_some_and(|machine| machine.state() == two_phase::State::Active)
    }

    /// Counts bytes that a transaction holds until it is forgotten.
    fn hold(&mut self, gtid: Gtid, bytes: usize) {
        if let Some(entry) = self.entries.get_mut(&gtid) {
            entry.bytes += bytes;
            self.bytes += bytes;
        }
    }

    fn commit_event(&self, session: SessionId, commit: Commit) -> two_phase::Event {
        let digest = digest::of_commit(commit.protocol, &commit.branches);
        // A repeated request may have run in one phase before. Whoever cannot be asked now whether it can is asked so all the same:
        // a participant that has only two phases prepares. A begun transaction never does: lost with the coordinator's memory it
        // is aborted, which must not meet a branch that has committed by itself.
        let one_phase = !commit.begun
            && match commit.branches.as_slice() {
                [branch] if commit.attempt == 1 => self.peers.commits_in_one_phase(&branch.participant),
                [branch] => self.peers.may_commit_in_one_phase(&branch.participant),
                _ => false,
            };
        two_phase::Event::CommitRequested {
            branches: commit.branches,
            digest,
            one_phase,
            may_recur: commit.attempt != 1,
            caller: Caller { session: session.0, request: commit.request_id },
            wait: commit.wait,
        }
    }

    // ---- not in memory ---------------------------------------------------------------------------------------------

    fn not_in_memory(&mut self, gtid: Gtid, session: SessionId, message: FromClient, knowledge: Knowledge) {
        let found = match knowledge {
            Knowledge::Unanswered(refused) => return self.refuse(session, &message, refused),
            Knowledge::Logged(Found::Ended(ended)) => {
                let answer = EndedHere {
                    digest: Some(ended.record.digest),
                    outcome: ended.record.outcome,
                    reason: ended.record.reason.as_deref().map(AbortReason::from_line),
                    outputs: named_outputs(&ended.record),
                };
                return self.answer_ended(gtid, session, &message, answer);
            }
            Knowledge::Logged(Found::Open(open)) => Some(self.parked(&open)),
            Knowledge::Logged(Found::Unreadable(unreadable)) => {
                let message = format!("{unreadable}; an operator has to look at it");
                Some(Reason::Internal.refused(message))
            }
            Knowledge::Absent => None,
        };
        if let Some(refused) = found {
            return self.refuse(session, &message, refused);
        }
        self.unknown_to_the_log(gtid, session, message);
    }

    fn unknown_to_the_log(&mut self, gtid: Gtid, session: SessionId, message: FromClient) {
        let caller = |request: u64| Caller { session: session.0, request };
        match message {
            FromClient::Begin { request_id, .. } if self.ended.may_be_lost(gtid) => {
                let reason = AbortReason::new(
                    AbortCode::Forgotten,
                    "this gtid is older than the coordinator's memory, and may have been begun before; mint a new one",
                );
                let reply = Reply::Outcome { outcome: Outcome::Aborted, reason: Some(reason), outputs: Vec::new() };
                self.reply(caller(request_id), reply);
            }
            FromClient::Begin { request_id, timeout_ms, protocol, .. } => match self.admit(0, timeout_ms) {
                Err(refused) => self.reply(caller(request_id), Reply::Refused(refused)),
                Ok(timeout_ms) => {
                    self.open_transaction(gtid, protocol, timeout_ms, 0);
                    self.transaction_event(gtid, two_phase::Event::BeginRequested { caller: caller(request_id) });
                }
            },
            FromClient::Commit(commit) if commit.begun => {
                // The branches that enlisted are not known any more, so nothing can be committed: presumed abort.
                let reason = AbortReason::new(
                    AbortCode::Forgotten,
                    "the coordinator restarted before the commit was asked for; begin anew",
                );
                let reply = Reply::Outcome { outcome: Outcome::Aborted, reason: Some(reason), outputs: Vec::new() };
                self.reply(caller(commit.request_id), reply);
            }
            FromClient::Commit(commit) => self.commit_anew(gtid, session, commit),
            FromClient::StartSaga { request_id, definition, wait, .. } => {
                self.start_saga(gtid, definition, wait, caller(request_id));
            }
            FromClient::Abort { request_id, .. } | FromClient::Await { request_id, .. } => {
                let message = format!(
                    "no transaction {gtid}: it never began here, or it was aborted without a trace; check the gtid"
                );
                self.reply(caller(request_id), Reply::Refused(Reason::NotFound.refused(message)));
            }
            FromClient::Enlist { request_id, .. } => {
                self.reply(caller(request_id), Reply::Refused(not_open()));
            }
            // Every vote was in, so 'attempt 1 sent' was logged: its row is gone since, and no abort may be presumed.
            FromClient::AskLog { request, .. } if request.knows_of_a_vote() => {
                let answer = three_phase::Answer::Barred(Bar::Forgotten);
                self.peers.send(session, FromReplica::LogAnswered { gtid, answer });
            }
            FromClient::Inquire { .. }
            | FromClient::AskLog { request: Request::Join { .. } | Request::Propose { .. }, .. }
            | FromClient::Vote { vote: Vote::Yes | Vote::Unknown(_), .. } => {
                let Some((participant, instance)) = self.participant_of(session) else { return };
                let (machine, output) = TwoPhase::presume_abort(gtid, self.epoch, now_ms(), participant, instance);
                self.insert(gtid, Machine::TwoPhase(machine), 0, 0);
                self.two_phase_output(gtid, output);
            }
            // There is nothing to end: it was an abort that nobody logged, or retention has removed the row. Nobody needs the record.
            FromClient::AskLog { request: Request::Decided(_), .. } => {
                self.peers.forget(session, gtid);
            }
            FromClient::Vote { vote: Vote::No(_) | Vote::ReadOnly | Vote::Committed, .. }
            | FromClient::Acknowledge { .. }
            | FromClient::StepAnswer { .. }
            | FromClient::VoterAnswered { .. }
            | FromClient::AskLog { .. }
            | FromClient::Hello(_)
            | FromClient::Heartbeat => {}
        }
    }

    fn commit_anew(&mut self, gtid: Gtid, session: SessionId, commit: Commit) {
        let caller = Caller { session: session.0, request: commit.request_id };
        if commit.branches.len() > self.limits.branches_max {
            let refused = Refusal::TooManyBranches { branches_max: self.limits.branches_max }.into();
            return self.reply(caller, Reply::Refused(refused));
        }
        let bytes = commit.branches.iter().map(|branch| branch.payload.len()).sum();
        match self.admit(bytes, commit.timeout_ms) {
            Err(refused) => self.reply(caller, Reply::Refused(refused)),
            Ok(timeout_ms) => {
                if let Some(twice) = first_duplicate(&commit.branches) {
                    return self.reply(caller, Reply::Refused(Refusal::DuplicateBranch(twice).into()));
                }
                self.open_transaction(gtid, commit.protocol, timeout_ms, bytes);
                let event = self.commit_event(session, commit);
                self.transaction_event(gtid, event);
            }
        }
    }

    fn start_saga(&mut self, gtid: Gtid, definition: Definition, wait: Wait, caller: Caller) {
        let bytes = definition.steps().iter().map(|step| step.input.len()).sum();
        if let Err(refused) = self.admit(bytes, 0) {
            return self.reply(caller, Reply::Refused(refused));
        }
        if let Some(step) = definition.steps().iter().find(|step| !self.peers.is_known(&step.participant)) {
            let message = format!(
                "step {} is for participant {}, and none of that name has ever joined; check the name, or start it",
                step.name, step.participant
            );
            return self.reply(caller, Reply::Refused(Reason::UnknownParticipant.refused(message)));
        }
        let definition = definition.detached();
        let digest = digest::of_definition(&definition);
        let (machine, output) = Saga::start(gtid, self.epoch, definition, digest, now_ms(), caller, saga_wait(wait));
        self.insert(gtid, Machine::Saga(Box::new(machine)), 0, bytes);
        self.saga_output(gtid, output);
    }

    /// Whether there is room for another transaction; answers its timeout, in milliseconds.
    fn admit(&self, bytes: usize, timeout_ms: u64) -> Result<u64, Refused> {
        if self.is_draining {
            return Err(Reason::Draining.refused("this replica is leaving; ask another, or this one when it is back"));
        }
        if self.entries.len() >= self.limits.open_max || self.bytes + bytes > self.limits.open_bytes_max {
            return Err(self.overloaded());
        }
        let timeout_max_ms = self.limits.timeout_max_ms;
        match timeout_ms {
            0 => Ok(self.limits.timeout_default_ms),
            _ if timeout_ms > timeout_max_ms => {
                let message = format!(
                    "a timeout of {timeout_ms} ms is over the {timeout_max_ms} ms of limits.timeout_max; ask for less, or raise it"
                );
                Err(Reason::InvalidTimeout.refused(message))
            }
            _ => Ok(timeout_ms),
        }
    }

    fn overloaded(&self) -> Refused {
        let message = format!(
            "{} transactions with {} bytes of payload are open on this shard, as many as it may hold; try again",
            self.entries.len(),
            self.bytes
        );
        Reason::Overloaded.refused(message)
    }

    fn open_transaction(&mut self, gtid: Gtid, protocol: Protocol, timeout_ms: u64, bytes: usize) {
        let begun_at_ms = now_ms();
        let patience = Patience { timeout_ms, absence_ms: self.limits.absence_ms.min(timeout_ms) };
        let deadline_unix_ms = begun_at_ms + timeout_ms;
        if protocol == Protocol::ThreePhase {
            let (node, log) = (draw_node(), self.log_store);
            let (machine, output) = Coordinator::begin(gtid, self.epoch, begun_at_ms, patience, node, log);
            self.insert(gtid, Machine::ThreePhase(Box::new(machine)), deadline_unix_ms, bytes);
            self.three_phase_output(gtid, output);
        } else {
            let (machine, output) = TwoPhase::begin(gtid, self.epoch, begun_at_ms, patience);
            self.insert(gtid, Machine::TwoPhase(machine), deadline_unix_ms, bytes);
            self.two_phase_output(gtid, output);
        }
    }

    pub(super) fn insert(&mut self, gtid: Gtid, machine: Machine, deadline_unix_ms: u64, bytes: usize) {
        self.bytes += bytes;
        add(&self.statistics.begun, 1);
        add(&self.statistics.open, 1);
        self.entries.insert(gtid, Entry { machine, timers: Vec::new(), deadline_unix_ms, bytes, appending: 0 });
    }

    // ---- ended -----------------------------------------------------------------------------------------------------

    fn answer_at_hand(&self, gtid: Gtid, message: &FromClient) -> Option<EndedHere> {
        if matches!(message, FromClient::Hello(_) | FromClient::Heartbeat) {
            return None;
        }
        let answer = self.ended.get(gtid)??;
        Some(EndedHere {
            digest: answer.digest,
            outcome: answer.outcome,
            reason: answer.reason.clone(),
            outputs: Vec::new(),
        })
    }

    fn answer_ended(&mut self, gtid: Gtid, session: SessionId, message: &FromClient, ended: EndedHere) {
        let is_saga = matches!(ended.outcome, Outcome::Completed | Outcome::Compensated);
        let digest = match message {
            FromClient::Commit(commit) if !is_saga => Some(digest::of_commit(commit.protocol, &commit.branches)),
            FromClient::StartSaga { definition, .. } if is_saga => Some(digest::of_definition(definition)),
            FromClient::Commit(_) | FromClient::StartSaga { .. } => Some(BodyDigest(0)),
            FromClient::Begin { .. }
            | FromClient::Abort { .. }
            | FromClient::Await { .. }
            | FromClient::Enlist { .. }
            | FromClient::Vote { .. }
            | FromClient::Acknowledge { .. }
            | FromClient::Inquire { .. }
            | FromClient::StepAnswer { .. }
            | FromClient::VoterAnswered { .. }
            | FromClient::AskLog { .. }
            | FromClient::Hello(_)
            | FromClient::Heartbeat => None,
        };
        // A transaction that aborted before its commit was asked for has no digest: any body meets the same abort.
        let has_other_body = match (digest, ended.digest) {
            (Some(asked), Some(known)) => asked != known && known != BodyDigest(0),
            (Some(_), None) | (None, _) => false,
        };
        if has_other_body {
            return self.refuse(session, message, Refusal::KeyReused.into());
        }
        match message {
            FromClient::Begin { .. }
            | FromClient::Commit(_)
            | FromClient::StartSaga { .. }
            | FromClient::Abort { .. }
            | FromClient::Await { .. } => {
                if let Some(request) = request_of(message) {
                    let EndedHere { outcome, reason, outputs, .. } = ended;
                    let caller = Caller { session: session.0, request };
                    self.reply(caller, Reply::Outcome { outcome, reason, outputs });
                }
            }
            FromClient::Enlist { .. } => self.refuse(session, message, not_open()),
            // A voter has the outcome on record, and may not have heard that it need not keep it.
            FromClient::AskLog { request: Request::Decided(_), .. } => {
                self.peers.forget(session, gtid);
            }
            FromClient::Inquire { .. }
            | FromClient::AskLog { .. }
            | FromClient::Vote { vote: Vote::Yes | Vote::Unknown(_), .. } => {
                self.repeat_decision(gtid, session, ended.outcome);
            }
            FromClient::Vote { vote: Vote::No(_) | Vote::ReadOnly | Vote::Committed, .. }
            | FromClient::Acknowledge { .. }
            | FromClient::StepAnswer { .. }
            | FromClient::VoterAnswered { .. }
            | FromClient::Hello(_)
            | FromClient::Heartbeat => {}
        }
    }

    /// A branch that is still, or again, prepared although its transaction has ended.
    fn repeat_decision(&mut self, gtid: Gtid, session: SessionId, outcome: Outcome) {
        let Some((participant, instance)) = self.participant_of(session) else { return };
        let order = match outcome {
            Outcome::Committed => Order::Commit,
            Outcome::Aborted => Order::Abort,
            Outcome::Completed | Outcome::Compensated => return,
        };
        let effect = two_phase::Effect::Send { to: participant, prefer: Some(instance), order };
        self.two_phase_effects(gtid, vec![effect]);
    }

    // ---- both ------------------------------------------------------------------------------------------------------

    /// In the log, open, and not in memory: recovery could not resume it.
    fn parked(&self, open: &OpenTransaction) -> Refused {
        let problem = match open {
            OpenTransaction::Saga(saga) => contradiction(saga, self.epoch),
            OpenTransaction::Decided { .. } | OpenTransaction::Attempted { .. } => None,
        };
        let why = problem.map_or_else(String::new, |problem| format!(": {problem}"));
        let message = format!(
            "transaction {} could not be resumed after a restart{why}; an operator has to look at it",
            open.gtid()
        );
        Reason::Internal.refused(message)
    }

    fn refuse(&mut self, session: SessionId, message: &FromClient, refused: Refused) {
        // Whoever cannot be answered asks again by itself.
        if let Some(request) = request_of(message) {
            self.reply(Caller { session: session.0, request }, Reply::Refused(refused));
        }
    }

    pub(super) fn participant_of(&self, session: SessionId) -> Option<(ParticipantName, InstanceId)> {
        let peer = self.peers.get(session)?;
        Some((peer.participant.clone()?, peer.instance))
    }
}

/// A transaction that has ended, from the cache or from the log.
struct EndedHere {
    digest: Option<BodyDigest>,
    outcome: Outcome,
    reason: Option<AbortReason>,
    outputs: Vec<(Name, Bytes)>,
}

fn named_outputs(ended: &Ended) -> Vec<(Name, Bytes)> {
    ended
        .outputs
        .iter()
        .filter_map(|(step, output)| {
            let name = ended.branches.get(usize::from(step.0))?.step.clone()?;
            Some((name, output.clone()))
        })
        .collect()
}

fn gtid_of(message: &FromClient) -> Option<Gtid> {
    match message {
        FromClient::Begin { gtid, .. }
        | FromClient::Commit(Commit { gtid, .. })
        | FromClient::Abort { gtid, .. }
        | FromClient::StartSaga { gtid, .. }
        | FromClient::Await { gtid, .. }
        | FromClient::Enlist { gtid, .. }
        | FromClient::Vote { gtid, .. }
        | FromClient::Acknowledge { gtid, .. }
        | FromClient::Inquire { gtid }
        | FromClient::StepAnswer { gtid, .. }
        | FromClient::VoterAnswered { gtid, .. }
        | FromClient::AskLog { gtid, .. } => Some(*gtid),
        FromClient::Hello(_) | FromClient::Heartbeat => None,
    }
}

/// Which transaction a message is about; for the sessions, which choose the shard by it.
pub(crate) fn subject(message: &FromClient) -> Option<Gtid> {
    gtid_of(message)
}

fn request_of(message: &FromClient) -> Option<u64> {
    match message {
        FromClient::Begin { request_id, .. }
        | FromClient::Commit(Commit { request_id, .. })
        | FromClient::Abort { request_id, .. }
        | FromClient::StartSaga { request_id, .. }
        | FromClient::Await { request_id, .. }
        | FromClient::Enlist { request_id, .. } => Some(*request_id),
        FromClient::Vote { .. }
        | FromClient::Acknowledge { .. }
        | FromClient::Inquire { .. }
        | FromClient::StepAnswer { .. }
        | FromClient::VoterAnswered { .. }
        | FromClient::AskLog { .. }
        | FromClient::Hello(_)
        | FromClient::Heartbeat => None,
    }
}

fn first_duplicate(branches: &[CarriedBranch]) -> Option<ParticipantName> {
    branches
        .iter()
        .enumerate()
        .find(|(at, branch)| branches[..*at].iter().any(|earlier| earlier.participant == branch.participant))
        .map(|(_, branch)| branch.participant.clone())
}

fn saga_wait(wait: Wait) -> saga::Wait {
    match wait {
        Wait::Decided => saga::Wait::Started,
        Wait::Ended => saga::Wait::Ended,
    }
}

fn not_open() -> Refused {
    Reason::NotFound.refused("no open transaction of this gtid: it has ended, or the coordinator restarted; begin anew")
}

/// Were this let through, the same commit after a restart would run without the branches that have enlisted.
fn was_begun() -> Refused {
    Reason::Malformed
        .refused("this transaction was opened by Begin, and its commit says that it was not; say begun=true")
}

fn not_a_participant() -> Refused {
    Reason::NotAParticipant.refused("this session's Hello named no participant; dial with a name to enlist branches")
}

fn log_refusal(error: &LogError) -> Refused {
    let reason = match error {
        LogError::Full { .. } => Reason::LogFull,
        LogError::Unusable { .. } | LogError::PageToken { .. } => Reason::Internal,
        LogError::Unreachable { .. } | LogError::Busy { .. } => Reason::LogUnreachable,
    };
    reason.refused(format!("{error}; this request was not carried out, ask again"))
}
