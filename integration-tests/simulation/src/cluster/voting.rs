//! Branches of three-phase transactions in a process: their machines, the own voter, and the peers.

use assent_protocol::branch::{self, Message};
use assent_protocol::ids::BranchId;
use assent_protocol::message::{FromClient, FromReplica, VoterMessage};
use assent_protocol::three_phase::participant::{Effect, Event};
use assent_protocol::three_phase::{
    Answer, Bar, NodeId, Participant, Request, VoterName, VoterRecord, cells, invariant,
};
use assent_protocol::two_phase::Vote;
use assent_protocol::{Gtid, Output, ParticipantName};

use super::bank::{BranchKey, Database, Question, Said};
use super::cells::THREE_PHASE;
use super::instance::{Instance, KEPT_TOO_LONG_MS, Machine, OwnQuestion, contradiction};
use super::voter::Asked;

impl Instance {
    // ---- orders ----------------------------------------------------------------------------------------------------

    /// What a replica says that only three-phase transactions know.
    pub(super) fn is_told_as_a_voter(
        &mut self,
        database: &mut Database,
        message: FromReplica,
        now_ms: u64,
        said: &mut Said,
    ) {
        match message {
            FromReplica::Prepare { gtid, branch, roster: Some(_), .. } if !database.voter.is_there() => {
                let vote = Message::Vote(Vote::No("this instance has no voter".to_owned()));
                said.messages.push(FromClient::branch(gtid, branch, vote));
            }
            FromReplica::Prepare { gtid, branch, epoch, payload, roster: Some(roster), is_prepared, .. } => {
                let key = (gtid, branch);
                self.meets_with_record(database, key, now_ms, said);
                let event = Event::PrepareOrdered { epoch, payload, roster, is_prepared };
                self.prepares_with_roster(database, key, event, now_ms, said);
            }
            FromReplica::AskVoter { gtid, .. } if !database.voter.is_there() => {
                let answer = VoterMessage::Answered(Answer::Barred(Bar::NotInRoster));
                said.messages.push(FromClient::voter(gtid, answer));
            }
            FromReplica::AskVoter { gtid, request } => {
                self.questions.push(OwnQuestion { gtid, from: VoterName::Log, request });
            }
            FromReplica::LogAnswered { gtid, answer } => {
                let event = Event::PeerAnswered { voter: VoterName::Log, answer };
                self.votes_if_met(database, gtid, event, now_ms, said);
            }
            FromReplica::AwaitDecision { gtid } => self.votes_if_met(database, gtid, Event::Waited, now_ms, said),
            FromReplica::ForgetVoters { gtids } => {
                for gtid in gtids {
                    match self.voting(gtid) {
                        Some(key) => self.votes(database, key, Event::Forgotten, now_ms, said),
                        // It has ended and left memory.
                        None => drop(self.forgets.insert(gtid)),
                    }
                }
            }
            other => said.broken = Some(format!("an instance is told {other:?}")),
        }
    }

    fn prepares_with_roster(
        &mut self,
        database: &mut Database,
        key: BranchKey,
        event: Event,
        now_ms: u64,
        said: &mut Said,
    ) {
        if self.voting(key.0).is_some_and(|other| other != key) {
            // A participant has one vote in a transaction.
            let vote = Message::Vote(Vote::No("the voter votes for another branch".to_owned()));
            return said.messages.push(FromClient::branch(key.0, key.1, vote));
        }
        match self.branches.get(&key) {
            Some(Machine::ThreePhase(_)) => {}
            // Prepared by the service itself, or found so, before anybody said that this is a
            // three-phase transaction.
            Some(Machine::TwoPhase(branch)) if branch.state() == branch::State::InDoubt && branch.is_prepared() => {
                let node = self.draws_node();
                let (machine, output) = Participant::prepared(key.0, self.participant(), node);
                self.adopts(database, key, machine, output, now_ms, said);
            }
            Some(Machine::TwoPhase(_)) => return,
            None => {}
        }
        self.votes(database, key, event, now_ms, said);
    }

    // ---- branches with a record ------------------------------------------------------------------------------------

    /// The branch of a transaction that agrees in three phases, if one is in memory.
    fn voting(&self, gtid: Gtid) -> Option<BranchKey> {
        let is_voting =
            |(key, machine): &(&BranchKey, &Machine)| key.0 == gtid && matches!(machine, Machine::ThreePhase(_));
        self.branches.iter().find(is_voting).map(|(key, _)| *key)
    }

    /// Which branch a voter's record is about. It has no roster where the voter has refused before
    /// it knew one.
    pub(super) fn recorded_branch(&self, record: &VoterRecord, otherwise: BranchId) -> BranchKey {
        let seat = record.roster.as_ref().and_then(|roster| roster.seat(&self.participant()));
        (record.gtid, seat.map_or(otherwise, |seat| seat.branch))
    }

    /// An order about a branch that is not in memory, or only as one that was found prepared: its
    /// voter's store knows whether it has voted, be it by another instance.
    pub(super) fn meets_with_record(&mut self, database: &mut Database, key: BranchKey, now_ms: u64, said: &mut Said) {
        let is_found = |machine: &Machine| match machine {
            Machine::TwoPhase(branch) => branch.state() == branch::State::InDoubt,
            Machine::ThreePhase(_) => false,
        };
        if !database.voter.is_there() {
            return;
        }
        if let Some(record) = database.voter.record(key.0).cloned()
            && self.branches.get(&self.recorded_branch(&record, key.1)).is_none_or(is_found)
        {
            self.revives(database, &record, key.1, now_ms, said);
        }
    }

    /// A branch whose voter has a record takes its place in memory.
    pub(super) fn revives(
        &mut self,
        database: &mut Database,
        record: &VoterRecord,
        otherwise: BranchId,
        now_ms: u64,
        said: &mut Said,
    ) {
        let key = self.recorded_branch(record, otherwise);
        // Another instance may have voted, and had nothing to commit. What was found prepared here
        // has to be ended all the same.
        let is_read_only = record.is_read_only && !self.branches.contains_key(&key);
        let record = VoterRecord { is_read_only, ..record.clone() };
        let node = self.draws_node();
        let (machine, output) = Participant::recover(&record, self.participant(), node);
        self.adopts(database, key, machine, output, now_ms, said);
    }

    /// A machine takes its place, in a two-phase one's if need be.
    fn adopts(
        &mut self,
        database: &mut Database,
        key: BranchKey,
        machine: Participant,
        output: Output<Effect>,
        now_ms: u64,
        said: &mut Said,
    ) {
        self.leaves_memory(key);
        self.branches.insert(key, Machine::ThreePhase(Box::new(machine)));
        self.carries_out_votes(database, key, output, now_ms, said);
    }

    /// Old records that are not in memory: their instance is gone, or the order to forget them was
    /// lost. Those that have ended are told to the log; the others are in doubt here from now on.
    pub(crate) fn looks_for_records(&mut self, database: &mut Database, now_ms: u64) -> Said {
        let mut said = Said::default();
        self.looks_for_records_at_ms = now_ms + KEPT_TOO_LONG_MS;
        let is_old = |record: &&VoterRecord| record.gtid.minted_at_ms() + KEPT_TOO_LONG_MS <= now_ms;
        let records: Vec<VoterRecord> = database.voter.records().filter(is_old).cloned().collect();
        for record in records.iter().filter(|record| self.voting(record.gtid).is_none()).collect::<Vec<_>>() {
            let (gtid, branch) = self.recorded_branch(record, BranchId::NONE);
            let Some(decision) = record.state.standing.decision() else {
                self.revives(database, record, branch, now_ms, &mut said);
                continue;
            };
            let message = VoterMessage::AskLog { branch, request: Request::Decided(decision) };
            said.messages.push(FromClient::voter(gtid, message));
        }
        said
    }

    /// Whether it has the branch of a record in memory.
    pub(crate) fn knows(&self, record: &VoterRecord) -> bool {
        self.voting(record.gtid).is_some()
    }

    // ---- the machine -----------------------------------------------------------------------------------------------

    fn votes_if_met(&mut self, database: &mut Database, gtid: Gtid, event: Event, now_ms: u64, said: &mut Said) {
        if let Some(key) = self.voting(gtid) {
            self.votes(database, key, event, now_ms, said);
        }
    }

    pub(super) fn votes(
        &mut self,
        database: &mut Database,
        key: BranchKey,
        event: Event,
        now_ms: u64,
        said: &mut Said,
    ) {
        let before = match self.branches.get(&key) {
            Some(Machine::ThreePhase(machine)) => Some(Participant::clone(machine)),
            Some(Machine::TwoPhase(_)) => return,
            None => None,
        };
        for (state, kind) in cells::of_participant(before.as_ref(), &event) {
            THREE_PHASE.hit(state, kind);
        }
        let (after, output) = match before.clone() {
            Some(mut machine) => {
                let output = machine.handle(event.clone());
                (machine, output)
            }
            None => {
                let node = self.draws_node();
                Participant::meet(key.0, self.participant(), node, None, event.clone())
            }
        };
        if let Err(violation) = invariant::check_participant(before.as_ref(), &event, &after, &output) {
            said.broken = Some(violation.to_string());
        }
        self.branches.insert(key, Machine::ThreePhase(Box::new(after)));
        self.carries_out_votes(database, key, output, now_ms, said);
    }

    fn carries_out_votes(
        &mut self,
        database: &Database,
        key: BranchKey,
        output: Output<Effect>,
        now_ms: u64,
        said: &mut Said,
    ) {
        let (gtid, branch) = key;
        for effect in output.peek_effects().iter().cloned() {
            match effect {
                Effect::Call(hook) => self.hooks.push((key, hook)),
                Effect::Send(message) => said.messages.push(FromClient::branch(gtid, branch, message)),
                Effect::AskVoter(request) => {
                    self.questions.push(OwnQuestion { gtid, from: self.me.clone(), request });
                }
                Effect::AskPeer { voter: VoterName::Log, request, .. } => {
                    said.messages.push(FromClient::voter(gtid, VoterMessage::AskLog { branch, request }));
                }
                Effect::AskPeer { voter, request, .. } => said.questions.push(Question { gtid, to: voter, request }),
                Effect::ForgetVoter => drop(self.forgets.insert(gtid)),
                Effect::SetTimer { timer, after_ms, jitter_ms } => {
                    // Processes draw differently, and none draws nothing.
                    let drawn_ms = jitter_ms * (1 + self.id.0 % 4) / 4;
                    self.timers.insert((key, timer), now_ms + after_ms + drawn_ms);
                }
                Effect::CancelTimer(timer) => drop(self.timers.remove(&(key, timer))),
                Effect::Contradiction { doing } if !database.was_lost => said.broken = Some(contradiction(doing)),
                Effect::Contradiction { .. } => {}
            }
        }
        if matches!(self.branches.get(&key), Some(Machine::ThreePhase(machine)) if machine.is_ended()) {
            self.leaves_memory(key);
            // What it had yet to ask its voter goes with it.
            let me = self.me.clone();
            self.questions.retain(|question| question.gtid != gtid || question.from != me);
        }
    }

    // ---- the own voter ---------------------------------------------------------------------------------------------

    /// The questions that the own voter can be asked now: one of each transaction at a time, in
    /// order.
    pub(crate) fn questions_due(&self) -> impl Iterator<Item = usize> {
        let is_first = |at: &usize| {
            let gtid = self.questions[*at].gtid;
            self.questions[..*at].iter().all(|earlier| earlier.gtid != gtid)
        };
        (0..self.questions.len()).filter(is_first)
    }

    /// The own voter answers a question, the participant's own or the coordinator's.
    pub(crate) fn voter_answers(&mut self, database: &mut Database, at: usize, now_ms: u64) -> Said {
        let running = self.hooks.len();
        let mut said = self.hears_its_voter(database, at, now_ms);
        self.checks_hooks(running, database, &mut said);
        said
    }

    fn hears_its_voter(&mut self, database: &mut Database, at: usize, now_ms: u64) -> Said {
        let mut said = Said::default();
        let OwnQuestion { gtid, from, request } = self.questions.remove(at);
        let asked = database.voter.asks(gtid, &self.me, &from, request.clone());
        if from == VoterName::Log {
            said.messages.push(FromClient::voter(gtid, VoterMessage::Answered(asked.answer)));
            self.overhears(database, gtid, from, request, asked, now_ms, &mut said);
            return said;
        }
        said.broken = asked.broken;
        let roster = asked.kept.as_ref().and_then(|kept| kept.roster.clone());
        let is_read_only = asked.kept.filter(|kept| kept.roster.is_some()).map(|kept| kept.is_read_only);
        let event = Event::VoterAnswered { answer: asked.answer, roster, is_read_only };
        self.votes_if_met(database, gtid, event, now_ms, &mut said);
        said
    }

    /// A peer asks the own voter, which answers by itself.
    pub(crate) fn is_asked_by_peer(
        &mut self,
        database: &mut Database,
        gtid: Gtid,
        from: VoterName,
        request: Request,
        now_ms: u64,
    ) -> (Said, Answer) {
        let mut said = Said::default();
        let asked = database.voter.asks(gtid, &self.me, &from, request.clone());
        let answer = asked.answer;
        self.overhears(database, gtid, from, request, asked, now_ms, &mut said);
        (said, answer)
    }

    /// The voter of a peer has answered.
    pub(crate) fn peer_answers(
        &mut self,
        database: &mut Database,
        gtid: Gtid,
        voter: VoterName,
        answer: Answer,
        now_ms: u64,
    ) -> Said {
        let mut said = Said::default();
        self.votes_if_met(database, gtid, Event::PeerAnswered { voter, answer }, now_ms, &mut said);
        said
    }

    /// A peer has asked the participant's own voter: the branch hears of it.
    #[expect(clippy::too_many_arguments, reason = "what was asked and answered, and where")]
    fn overhears(
        &mut self,
        database: &mut Database,
        gtid: Gtid,
        from: VoterName,
        request: Request,
        asked: Asked,
        now_ms: u64,
        said: &mut Said,
    ) {
        let Asked { answer, kept, has_changed, broken } = asked;
        said.broken = broken;
        // A refusal is kept without the roster under which it was asked for.
        let otherwise = match &request {
            Request::Join { roster, .. } => roster.seat(&self.participant()).map(|seat| seat.branch),
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
            let key = self.recorded_branch(&kept, otherwise.unwrap_or(BranchId::NONE));
            let is_to_be_met = match self.branches.get(&key) {
                // Another instance's branch, perhaps of one that is gone.
                None => has_changed || is_undecided,
                // Found prepared, and as it turns out it has not voted. A hook that runs is left to
                // finish.
                Some(Machine::TwoPhase(branch)) => has_changed && branch.state() == branch::State::InDoubt,
                Some(Machine::ThreePhase(_)) => false,
            };
            if is_to_be_met {
                self.revives(database, &kept, key.1, now_ms, said);
            }
        }
        self.votes_if_met(database, gtid, event, now_ms, said);
    }

    // ---- names -----------------------------------------------------------------------------------------------------

    fn participant(&self) -> ParticipantName {
        match &self.me {
            VoterName::Participant(name) => name.clone(),
            VoterName::Log => unreachable!("an instance is a participant's"),
        }
    }

    /// For one machine alone: above the names that replicas draw.
    fn draws_node(&mut self) -> NodeId {
        self.nodes += 1;
        NodeId(1 << 127 | u128::from(self.id.0) << 64 | u128::from(self.nodes))
    }
}
