//! The log, as one of the voters and as the keeper of what they agreed on.

use super::super::Ballot;
use super::super::roster::VoterName;
use super::super::voter::{Answer, Request, Voter, VoterRecord, VoterState};
use super::machine::forgets;
use super::{Appending, Ask, Asker, Coordinator, Draft, Effect, Stage};
use crate::durable::Appended;
use crate::ids::{BodyDigest, InstanceId};
use crate::reason::AbortReason;
use crate::record::{Decided, Decision, Member, Protocol, Record};
use crate::two_phase;

impl Coordinator {
    /// A participant leads an election, or has ended one.
    pub(super) fn asked(&mut self, member: Member, instance: InstanceId, request: Request, draft: &mut Draft) {
        let is_known = self.transaction.position_of(&member).is_some();
        match (self.stage, request) {
            (Stage::Agreed(decision), Request::Join { .. } | Request::Propose { .. }) if is_known => {
                let answer = Answer::Ended(decision);
                draft.effects.push(Effect::Answer { to: member.participant, instance, answer });
            }
            (Stage::Agreed(_), Request::Join { .. } | Request::Propose { .. })
            | (Stage::Voting, Request::Join { .. } | Request::Propose { .. }) => {
                // It learns what there is to learn as one that inquires does.
                let Member { participant, branch } = member;
                let inquired = two_phase::Event::Inquired { participant, branch, instance };
                self.two_phase(inquired, draft);
            }
            (Stage::Attempting | Stage::Agreeing, request @ (Request::Join { .. } | Request::Propose { .. })) => {
                self.ask_log(Ask { asker: Asker::Peer { member, instance }, request }, draft);
            }
            (_, Request::Decided(decision)) if is_known => {
                self.agree(decision, draft);
            }
            // A vote is a participant's own, and a stranger's word is nobody's.
            (
                Stage::Voting | Stage::Attempting | Stage::Agreeing | Stage::Agreed(_),
                Request::VoteYes { .. } | Request::VoteNo | Request::Elected(_) | Request::Decided(_),
            ) => {}
        }
    }

    /// Each asker has one question in the queue: a later one says that it has given up the earlier.
    pub(super) fn ask_log(&mut self, ask: Ask, draft: &mut Draft) {
        self.asks.retain(|earlier| earlier.asker != ask.asker);
        self.asks.push_back(ask);
        self.go_on_logging(draft);
    }

    pub(super) fn go_on_logging(&self, draft: &mut Draft) {
        let is_undecided = matches!(self.stage, Stage::Agreed(_)) && !self.is_decision_logged;
        let is_decision_due = is_undecided && (self.is_decision_due || self.end.is_some());
        if self.appending.is_none()
            && (!self.asks.is_empty() || is_decision_due)
            && !draft.effects.contains(&Effect::LogDue)
        {
            draft.effects.push(Effect::LogDue);
        }
    }

    pub(super) fn log_due(&mut self, draft: &mut Draft) {
        if self.appending.is_some() {
            return;
        }
        match self.stage {
            Stage::Voting | Stage::Attempting => {}
            Stage::Agreeing => self.vote_for_log(draft),
            Stage::Agreed(decision) => {
                for ask in std::mem::take(&mut self.asks) {
                    self.answer_asker(ask.asker, Answer::Ended(decision), draft);
                }
                if self.is_decision_logged || !draft.effects.is_empty() {
                    // What the log is not needed for does not wait for it.
                    return self.go_on_logging(draft);
                }
                if let Some(ended) = self.end.take() {
                    draft.effects.extend(forgets(&ended));
                    draft.forced = Some(Record::Ended(ended));
                    self.appending = Some(Appending::End);
                } else if self.is_decision_due {
                    draft.forced = Some(self.decision(decision));
                    self.appending = Some(Appending::Decision);
                }
            }
        }
    }

    /// Puts the next question to the log's voter.
    fn vote_for_log(&mut self, draft: &mut Draft) {
        let Some(Ask { asker, request }) = self.asks.pop_front() else { return };
        let (gtid, roster) = (self.transaction.gtid(), self.roster.clone());
        let stored = self.log.map(|state| VoterRecord {
            gtid,
            voter: VoterName::Log,
            roster,
            is_read_only: false,
            state,
            before: None,
        });
        let from = match &asker {
            Asker::OwnLeader => VoterName::Log,
            Asker::Peer { member, .. } => VoterName::Participant(member.participant.clone()),
        };
        let mut voter = Voter::load(gtid, VoterName::Log, self.log_store, stored.as_ref());
        let (forced, _, answers) = voter.handle(&from, request).unseal();
        match forced {
            Some(record) => {
                self.log = voter.state();
                draft.forced = Some(record);
                let own = if asker == Asker::OwnLeader { answers.first().copied() } else { None };
                self.appending = Some(Appending::Vote(own));
                if own.is_none() {
                    answers.into_iter().for_each(|answer| self.answer_asker(asker.clone(), answer, draft));
                }
            }
            None => {
                answers.into_iter().for_each(|answer| self.answer_asker(asker.clone(), answer, draft));
                self.go_on_logging(draft);
            }
        }
    }

    fn answer_asker(&mut self, asker: Asker, answer: Answer, draft: &mut Draft) {
        match asker {
            Asker::OwnLeader => self.answered(VoterName::Log, answer, draft),
            Asker::Peer { member, instance } => {
                draft.effects.push(Effect::Answer { to: member.participant, instance, answer });
            }
        }
    }

    fn decision(&self, decision: Decision) -> Record {
        let transaction = &self.transaction;
        Record::Agreed(Decided {
            gtid: transaction.gtid(),
            protocol: Protocol::ThreePhase,
            decision,
            members: transaction.members(),
            digest: transaction.digest().unwrap_or(BodyDigest(0)),
            begun_at_ms: transaction.begun_at_ms(),
            reason: transaction.reason().map(AbortReason::to_line),
        })
    }

    pub(super) fn appended(&mut self, appended: &Appended, draft: &mut Draft) {
        if matches!(appended, Appended::Durable(receipt) if receipt.gtid() != self.transaction.gtid()) {
            return;
        }
        match (self.appending.take(), appended) {
            (_, Appended::Undecided) => return,
            (None, Appended::Durable(_) | Appended::Overruled { .. }) => {}
            (Some(Appending::Plain), Appended::Durable(_) | Appended::Overruled { .. }) => {
                let output = self.transaction.handle(two_phase::Event::Appended(appended.clone()));
                self.relay(output, draft);
            }
            (Some(Appending::Attempt), Appended::Durable(_)) => {
                self.log = Some(VoterState::ATTEMPTED);
                if self.stage == Stage::Attempting {
                    self.stage = Stage::Agreeing;
                    let answer = Answer::Accepted { ballot: Ballot::FIRST };
                    self.answered(VoterName::Log, answer, draft);
                }
            }
            (Some(Appending::Attempt), Appended::Overruled { decision, .. }) => {
                self.is_decision_logged = true;
                if self.stage == Stage::Attempting {
                    // The proposals are never released, and the row is another writer's.
                    self.stage = Stage::Agreed(*decision);
                    self.leader = None;
                    let output = self.transaction.handle(two_phase::Event::Appended(appended.clone()));
                    self.relay(output, draft);
                }
            }
            (Some(Appending::Vote(own)), Appended::Durable(_)) => {
                if let Some(answer) = own {
                    self.answered(VoterName::Log, answer, draft);
                }
            }
            (Some(Appending::Vote(_)), Appended::Overruled { decision, .. }) => {
                self.is_decision_logged = true;
                self.agree(*decision, draft);
            }
            (Some(Appending::Decision | Appending::End), Appended::Durable(_)) => self.is_decision_logged = true,
            (Some(Appending::Decision | Appending::End), Appended::Overruled { decision, .. }) => {
                // Were it another decision, no quorum could have agreed on this one: it stays open, for a human to see.
                self.is_decision_logged = self.stage == Stage::Agreed(*decision);
                if !self.is_decision_logged {
                    return;
                }
            }
        }
        if self.is_decision_logged
            && let Some(ended) = self.end.take()
        {
            self.ended(ended, draft);
        }
        self.go_on_logging(draft);
    }
}
