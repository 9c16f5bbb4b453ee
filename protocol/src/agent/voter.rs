//! The participant's own voter, and its peers: what they are asked, and what follows from their
//! answers.
//!
//! A branch asks its voter one question at a time and in order, and after those of the coordinator
//! that came before: a commit that two of three have accepted meets the acceptance of the third. A
//! peer's question goes to the voter's store beside that. The store's compare-and-set puts them in
//! order, and the agent overhears it, so that its machine knows which peer is at work.
//!
//! An order to forget is lost with its session, or with the replica that ended the transaction, and
//! after some ends there is none. So all records are read at an interval. An old one that has ended
//! is told to the log, which answers whether any voter needs it. An old one that is in doubt, and
//! not in memory, is another instance's that may be gone for good: its branch is taken up.

use std::sync::Arc;

use super::branches::Machine;
use super::timers::Timer;
use super::{Agent, SessionId};
use crate::branch::State;
use crate::ids::{BranchId, BranchKey, Gtid, ParticipantName};
use crate::message::{FromClient, VoterMessage};
use crate::three_phase::participant::Event;
use crate::three_phase::{Answer, Bar, PeerAddress, Request, VoterName, VoterRecord};

/// A question to the own voter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// About which transaction.
    pub gtid: Gtid,
    /// In whose name: the participant's own, or the log's if the coordinator asks.
    pub from: VoterName,
    /// What.
    pub request: Request,
    /// The session that brought it, if the coordinator asks.
    pub session: Option<SessionId>,
}

/// A question to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerQuestion {
    /// About which transaction.
    pub gtid: Gtid,
    /// Whom.
    pub to: ParticipantName,
    /// Where.
    pub address: PeerAddress,
    /// What.
    pub request: Request,
}

/// What the own voter answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The answer. What it rests on is durable.
    pub answer: Answer,
    /// What the store has now.
    pub kept: Option<Arc<VoterRecord>>,
    /// Whether this request has changed it.
    pub has_changed: bool,
}

/// A question of another process to the own voter, and what the voter answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overheard {
    /// Who asked.
    pub from: VoterName,
    /// What.
    pub request: Request,
    /// And the answer.
    pub asked: Asked,
}

/// What the agent has of the participant's own voter.
#[derive(Clone, Debug)]
pub(super) struct OwnVoter {
    /// Whose it is; `None` without a voter.
    pub(super) me: Option<ParticipantName>,
    kept_max_ms: u64,
    is_reading_due: bool,
    pub(super) questions: Vec<Question>,
    pub(super) peer_questions: Vec<PeerQuestion>,
    pub(super) forgotten: Vec<Gtid>,
}

impl OwnVoter {
    pub(super) fn new(me: Option<ParticipantName>, kept_max_ms: u64) -> Self {
        Self {
            me,
            kept_max_ms,
            is_reading_due: false,
            questions: Vec::new(),
            peer_questions: Vec::new(),
            forgotten: Vec::new(),
        }
    }

    pub(super) fn take_reading(&mut self) -> bool {
        std::mem::take(&mut self.is_reading_due)
    }
}

impl Agent {
    pub(super) fn has_voter(&self) -> bool {
        self.voter.me.is_some()
    }

    // ---- questions to the own voter --------------------------------------------------------------------------------

    /// A branch has a question. It waits behind those that the branch has had before.
    pub(super) fn branch_asks(&mut self, key: BranchKey, request: Request) {
        match self.branches.entries.get_mut(&key) {
            Some(entry) if entry.is_asked() || !entry.asks.is_empty() => entry.asks.push_back(request),
            Some(_) => self.ask_own_voter(key, request),
            None => {}
        }
    }

    fn ask_own_voter(&mut self, key: BranchKey, request: Request) {
        let Some(me) = self.voter.me.clone() else { return };
        let Some(entry) = self.branches.entries.get_mut(&key) else { return };
        entry.is_asking = true;
        let question = Question { gtid: key.gtid, from: VoterName::Participant(me), request, session: None };
        self.voter.questions.push(question);
    }

    /// The coordinator, or a replica that leads an election, has a question.
    pub(super) fn log_asks(&mut self, session: SessionId, gtid: Gtid, request: Request) {
        if !self.has_voter() {
            let answer = VoterMessage::Answered(Answer::Barred(Bar::NotInRoster));
            return self.sessions.send(Some(session), FromClient::voter(gtid, answer));
        }
        // A question that comes after one of the branch itself does not hold that one up.
        if let Some((_, entry)) = self.branches.voting_mut(gtid).filter(|(_, entry)| entry.asks.is_empty()) {
            entry.asked_by_log += 1;
        }
        self.voter.questions.push(Question { gtid, from: VoterName::Log, request, session: Some(session) });
    }

    /// The own voter has answered.
    pub(super) fn voter_answered(&mut self, question: Question, asked: Option<Asked>) {
        let Question { gtid, from, request, session } = question;
        if from == VoterName::Log {
            if let Some(asked) = asked {
                let answer = VoterMessage::Answered(asked.answer);
                self.sessions.send(session, FromClient::voter(gtid, answer));
                self.overheard(gtid, Overheard { from, request, asked });
            }
            if let Some((_, entry)) = self.branches.voting_mut(gtid) {
                // One that came before the branch was met, or after a question of its own, is not
                // counted.
                entry.asked_by_log = entry.asked_by_log.saturating_sub(1);
            }
            return self.ask_what_waits(gtid);
        }
        if let Some((_, entry)) = self.branches.voting_mut(gtid) {
            entry.is_asking = false;
        }
        if let Some(Asked { answer, kept, .. }) = asked {
            let roster = kept.as_ref().and_then(|kept| kept.roster.clone());
            let is_read_only = kept.as_ref().filter(|kept| kept.roster.is_some()).map(|kept| kept.is_read_only);
            self.three_phase_event(gtid, Event::VoterAnswered { answer, roster, is_read_only });
        }
        self.ask_what_waits(gtid);
    }

    fn ask_what_waits(&mut self, gtid: Gtid) {
        if let Some((key, entry)) = self.branches.voting_mut(gtid)
            && !entry.is_asked()
            && let Some(next) = entry.asks.pop_front()
        {
            self.ask_own_voter(key, next);
        }
    }

    // ---- questions of others ---------------------------------------------------------------------------------------

    /// Another process has asked the own voter: the branch hears of it.
    pub(super) fn overheard(&mut self, gtid: Gtid, overheard: Overheard) {
        let Overheard { from, request, asked: Asked { answer, kept, has_changed } } = overheard;
        // A voter that refuses has no roster; that of the question says which branch it refuses
        // for.
        let named = match (&request, &self.voter.me) {
            (Request::Join { roster, .. }, Some(me)) => roster.seat(me).map(|seat| seat.branch),
            _ => None,
        };
        let event = match (request, answer) {
            (_, Answer::Barred(_)) => return,
            (Request::Decided(decision), Answer::Ended(kept)) if decision == kept => {
                Event::PeerDecided { from, decision: kept }
            }
            (Request::Join { ballot, .. } | Request::Propose { ballot, .. }, _) => Event::PeerSeen { ballot },
            (Request::Decided(_) | Request::Elected(_) | Request::VoteYes { .. } | Request::VoteNo, _) => return,
        };
        if let Some(kept) = kept {
            let is_undecided = kept.state.standing.decision().is_none();
            let key = self.recorded_branch(&kept, named.unwrap_or(BranchId::NONE));
            let is_to_be_met = match self.branches.entries.get(&key).map(|entry| &entry.machine) {
                // Another instance's branch, perhaps of one that is gone.
                None => has_changed || is_undecided,
                // Found prepared, and as it turns out it has not voted. A hook that runs is left to
                // finish.
                Some(Machine::TwoPhase(machine)) => has_changed && machine.state() == State::InDoubt,
                Some(Machine::ThreePhase(_)) => false,
            };
            if is_to_be_met {
                let session = self.session_of(key);
                self.revive(&kept, key.id, session);
            }
        }
        self.three_phase_event(gtid, event);
    }

    pub(super) fn ask_peer(&mut self, gtid: Gtid, to: ParticipantName, address: PeerAddress, request: Request) {
        self.voter.peer_questions.push(PeerQuestion { gtid, to, address, request });
    }

    // ---- the end ---------------------------------------------------------------------------------------------------

    pub(super) fn forget_record(&mut self, gtid: Gtid) {
        if self.has_voter() {
            self.voter.forgotten.push(gtid);
        }
    }

    /// All records are read when this has passed.
    pub(super) fn read_records_later(&mut self) {
        if self.has_voter() {
            self.timers.set_about(Timer::Kept, self.voter.kept_max_ms);
        }
    }

    pub(super) fn kept_due(&mut self) {
        self.voter.is_reading_due = true;
        self.read_records_later();
    }

    /// All records of the store. What is known of their branches in memory goes on by itself.
    pub(super) fn records_read(&mut self, records: &[VoterRecord]) {
        let before_ms = self.now_ms.saturating_sub(self.voter.kept_max_ms);
        for record in records.iter().filter(|record| record.gtid.minted_at_ms() < before_ms) {
            let (gtid, key) = (record.gtid, self.recorded_branch(record, BranchId::NONE));
            if self.branches.voting(gtid).is_some() {
                continue;
            }
            if let Some(decision) = record.state.standing.decision() {
                let message = VoterMessage::AskLog { branch: key.id, request: Request::Decided(decision) };
                self.sessions.send_to_all(&FromClient::voter(gtid, message));
            } else if !self.is_shutting_down && self.may_revive(key) {
                self.revive(record, BranchId::NONE, None);
                self.ask_about_doubt(key);
            }
        }
    }
}
