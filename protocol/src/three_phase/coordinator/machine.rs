//! The transitions.

use bytes::Bytes;

use super::super::leader::{self, Leader};
use super::super::roster::{Roster, StoreId, VoterName};
use super::super::{Answer, NodeId, VoterState};
use super::{Appending, Ask, Asker, Coordinator, Draft, Effect, Event, Order, Stage, Timer};
use crate::durable::Output;
use crate::ids::{BranchId, Epoch, Gtid, InstanceId, ParticipantName};
use crate::reason::{AbortCode, AbortReason, Refusal};
use crate::record::{Attempted, Decided, Decision, Ended, Member, Protocol, Record};
use crate::two_phase::{self, CarriedBranch, EarlyVote, Patience, Reply, TwoPhase, Vote};
use std::collections::{BTreeMap, VecDeque};

impl Coordinator {
    /// Opens a transaction. `log` is the identity of the log, from its `identity` table; `node` is drawn for this machine alone.
    pub fn begin(
        gtid: Gtid,
        epoch: Epoch,
        begun_at_ms: u64,
        patience: Patience,
        node: NodeId,
        log: StoreId,
    ) -> (Self, Output<Effect>) {
        Self::wrap(TwoPhase::begin(gtid, epoch, begun_at_ms, patience), node, log)
    }

    /// Takes up a transaction whose row has 'attempt 1 sent' and no decision: by an election, never alone. `state` is what
    /// the row has of the log as a voter.
    pub fn recover(
        attempted: &Attempted,
        state: VoterState,
        epoch: Epoch,
        node: NodeId,
        log: StoreId,
    ) -> (Self, Output<Effect>) {
        let mut machine = Self::new(TwoPhase::resume(attempted, epoch), node, log);
        machine.stage = Stage::Agreeing;
        machine.roster = Some(attempted.roster.clone());
        machine.log = Some(state);
        let mut draft = Draft::default();
        match state.standing.decision() {
            // The row lacks the decision, and its voter knows it: nobody is left to ask.
            Some(decision) => machine.agree(decision, &mut draft),
            None => {
                let (leader, output) = Leader::elect(attempted.roster.clone(), node, state.joined);
                machine.leader = Some(leader);
                machine.lead(output, &mut draft);
            }
        }
        (machine, draft.finish())
    }

    /// Takes up a decision that the log holds: every branch that may not have learnt it is told. There is a roster if the row has
    /// 'attempt 1 sent'.
    pub fn recover_decided(
        decided: &Decided,
        roster: Option<Roster>,
        epoch: Epoch,
        node: NodeId,
        log: StoreId,
    ) -> (Self, Output<Effect>) {
        // Whoever is in the roster has voted, and is told, be it that the row's other list lacks it: it would be taken for a stranger, and told to abort.
        let mut whole = decided.clone();
        for seat in roster.iter().flat_map(Roster::participants) {
            let member = seat.member();
            if !whole.members.contains(&member) {
                whole.members.push(member);
            }
        }
        let (transaction, output) = TwoPhase::recover(&whole, epoch);
        let mut machine = Self::new(transaction, node, log);
        machine.stage = Stage::Agreed(decided.decision);
        machine.roster = roster;
        machine.is_decision_logged = true;
        let mut draft = Draft::default();
        machine.relay(output, &mut draft);
        (machine, draft.finish())
    }

    /// Answers whoever asks about a transaction of which the log has no row, be it an inquiry or a leader: the abort is made durable, which is the log's
    /// own no; no attempt can be marked after it.
    pub fn presume_abort(
        gtid: Gtid,
        epoch: Epoch,
        now_ms: u64,
        inquirer: Member,
        instance: InstanceId,
        node: NodeId,
        log: StoreId,
    ) -> (Self, Output<Effect>) {
        Self::wrap(TwoPhase::presume_abort(gtid, epoch, now_ms, inquirer, instance), node, log)
    }

    /// Answers a request about a transaction of which nothing is known any more, as
    /// [`TwoPhase::forgotten`].
    pub fn forgotten(
        gtid: Gtid,
        epoch: Epoch,
        now_ms: u64,
        message: &str,
        node: NodeId,
        log: StoreId,
    ) -> (Self, Output<Effect>) {
        Self::wrap(TwoPhase::forgotten(gtid, epoch, now_ms, message), node, log)
    }

    fn wrap(
        (transaction, output): (TwoPhase, Output<two_phase::Effect>),
        node: NodeId,
        log: StoreId,
    ) -> (Self, Output<Effect>) {
        let mut machine = Self::new(transaction, node, log);
        let mut draft = Draft::default();
        machine.relay(output, &mut draft);
        (machine, draft.finish())
    }

    fn new(transaction: TwoPhase, node: NodeId, log_store: StoreId) -> Self {
        Self {
            transaction,
            node,
            log_store,
            stage: Stage::Voting,
            voters: BTreeMap::new(),
            early: BTreeMap::new(),
            roster: None,
            leader: None,
            log: None,
            asks: VecDeque::new(),
            appending: None,
            is_decision_due: false,
            is_decision_logged: false,
            end: None,
        }
    }

    /// Takes one event.
    pub fn handle(&mut self, event: Event) -> Output<Effect> {
        let mut draft = Draft::default();
        match event {
            Event::TwoPhase(event) => self.two_phase(event, &mut draft),
            Event::Introduced { participant, introduction } => self.introduced(&participant, introduction, &mut draft),
            Event::Answered { participant, answer } => {
                self.answered(VoterName::Participant(participant), answer, &mut draft);
            }
            Event::Asked { member, instance, request } => self.asked(member, instance, request, &mut draft),
            Event::LogDue => self.log_due(&mut draft),
            Event::ElectionDue => self.tell_leader(leader::Event::RetryDue, &mut draft),
        }
        draft.finish()
    }

    // ---- what two phases have too ------------------------------------------------------------------------------------

    pub(super) fn two_phase(&mut self, event: two_phase::Event, draft: &mut Draft) {
        let event = match event {
            two_phase::Event::Appended(appended) => return self.appended(&appended, draft),
            // Its voter has yet to vote under a roster: it is asked at the commit, as a branch that was named.
            two_phase::Event::Enlisted { participant, branch: id, instance, vote: EarlyVote::Yes, caller } => {
                if !self.enlists(&participant, id, instance) {
                    let reply = Reply::Refused(Refusal::DuplicateBranch(participant));
                    return draft.effects.push(Effect::Reply { to: caller, reply });
                }
                let branch = CarriedBranch { participant, payload: Bytes::new() };
                two_phase::Event::BranchNamed { branch, id, caller }
            }
            two_phase::Event::CommitRequested { branches, first_id, digest, one_phase: _, may_recur, caller, wait } => {
                let one_phase = false;
                two_phase::Event::CommitRequested { branches, first_id, digest, one_phase, may_recur, caller, wait }
            }
            // A voter of the roster that has not voted yes could still vote no.
            two_phase::Event::Voted { participant, branch, instance, vote: Vote::ReadOnly | Vote::Committed } => {
                let vote =
                    Vote::Unknown("with three phases a voter that has nothing to commit votes yes too".to_owned());
                two_phase::Event::Voted { participant, branch, instance, vote }
            }
            two_phase::Event::TimerFired(two_phase::Timer::Resend) => {
                // The end is not near: whoever takes over should find the decision.
                self.is_decision_due = true;
                two_phase::Event::TimerFired(two_phase::Timer::Resend)
            }
            two_phase::Event::Inquired { participant, branch, instance } => {
                let member = Member { participant, branch };
                self.comfort(&member, instance, draft);
                two_phase::Event::Inquired { participant: member.participant, branch, instance }
            }
            event @ (two_phase::Event::BeginRequested { .. }
            | two_phase::Event::Enlisted { vote: EarlyVote::ReadOnly, .. }
            | two_phase::Event::BranchNamed { .. }
            | two_phase::Event::AbortRequested { .. }
            | two_phase::Event::OutcomeAwaited { .. }
            | two_phase::Event::CallerLeft { .. }
            | two_phase::Event::Routed { .. }
            | two_phase::Event::Voted { .. }
            | two_phase::Event::Acknowledged { .. }
            | two_phase::Event::Joined { .. }
            | two_phase::Event::Left { .. }
            | two_phase::Event::TimerFired(two_phase::Timer::Deadline | two_phase::Timer::Absence)) => event,
        };
        let output = self.transaction.handle(event);
        self.relay(output, draft);
        self.go_on_logging(draft);
    }

    /// Passes on what the two-phase machine wants done, except for its decision to commit: that is the voters'.
    pub(super) fn relay(&mut self, output: Output<two_phase::Effect>, draft: &mut Draft) {
        let (forced, lazy, effects) = output.unseal();
        match forced {
            Some(Record::Decided(decided))
                if decided.decision == Decision::Commit
                    && self.stage == Stage::Voting
                    && let Some(roster) = self.roster.clone() =>
            {
                // Orders and answers are dropped here: they come again when the voters have agreed.
                return self.attempt(decided, roster, draft);
            }
            Some(Record::Decided(decided)) => {
                draft.forced = Some(Record::Decided(Decided { protocol: Protocol::ThreePhase, ..decided }));
                self.appending = Some(Appending::Plain);
            }
            Some(record) => draft.forced = Some(record),
            None => {}
        }
        for record in lazy {
            match record {
                Record::Ended(ended) => self.ended(Ended { protocol: Protocol::ThreePhase, ..ended }, draft),
                record @ (Record::Decided(_)
                | Record::Delegated(_)
                | Record::Attempted(_)
                | Record::Agreed(_)
                | Record::Voter(_)
                | Record::SagaStarted(_)
                | Record::SagaTurned(_)
                | Record::SagaStep(_)
                | Record::SagaPaused(_)) => draft.lazy.push(record),
            }
        }
        for effect in effects {
            self.relay_effect(effect, draft);
        }
        self.freeze(draft);
    }

    fn relay_effect(&mut self, effect: two_phase::Effect, draft: &mut Draft) {
        draft.effects.push(match effect {
            two_phase::Effect::Send { to, branch, prefer, order: two_phase::Order::Prepare { payload, .. } } => {
                match self.roster.clone() {
                    Some(roster) => self.prepare(Member { participant: to, branch }, prefer, payload, roster),
                    // It is sent once everybody is known.
                    None if self.voters.contains_key(&to) => return,
                    None => Effect::Introduce(to),
                }
            }
            two_phase::Effect::Send { to, branch, prefer, order: two_phase::Order::Commit } => {
                Effect::Send { to, branch, prefer, order: Order::Commit }
            }
            two_phase::Effect::Send { to, branch, prefer, order: two_phase::Order::Abort } => {
                Effect::Send { to, branch, prefer, order: Order::Abort }
            }
            two_phase::Effect::Reply { to, reply } => Effect::Reply { to, reply },
            two_phase::Effect::SetTimer { timer, after_ms, jitter } => {
                let (after_ms, jitter_ms) = if jitter { (0, after_ms) } else { (after_ms, 0) };
                Effect::SetTimer { timer: Timer::TwoPhase(timer), after_ms, jitter_ms }
            }
            two_phase::Effect::CancelTimer(timer) => Effect::CancelTimer(Timer::TwoPhase(timer)),
        });
    }

    pub(super) fn prepare(&self, member: Member, prefer: Option<InstanceId>, payload: Bytes, roster: Roster) -> Effect {
        let Member { participant: to, branch } = member;
        // Only the instance that prepared early knows of it.
        let early = self.early.get(&to).map(|(_, instance)| *instance);
        let order = Order::Prepare { payload, roster, is_prepared: early.is_some() };
        Effect::Send { to, branch, prefer: early.or(prefer), order }
    }

    /// Whether an early prepare is this participant's only branch.
    pub(super) fn enlists(&mut self, participant: &ParticipantName, id: BranchId, instance: InstanceId) -> bool {
        match self.early.get(participant) {
            Some(earlier) => *earlier == (id, instance),
            None if self.transaction.position(participant).is_some() => false,
            None => {
                if self.transaction.state() == two_phase::State::Active {
                    self.early.insert(participant.clone(), (id, instance));
                }
                true
            }
        }
    }

    /// Whoever asks while votes are collected is told that somebody is at work, and need not lead an election.
    pub(super) fn comfort(&self, member: &Member, instance: InstanceId, draft: &mut Draft) {
        let is_collecting = matches!(self.transaction.state(), two_phase::State::Active | two_phase::State::Preparing);
        if is_collecting && self.transaction.position_of(member).is_some() {
            let (Member { participant: to, branch }, prefer) = (member.clone(), Some(instance));
            draft.effects.push(Effect::Send { to, branch, prefer, order: Order::Wait });
        }
    }

    // ---- the attempt, and elections --------------------------------------------------------------------------------------

    /// Every vote is in: 'attempt 1 sent' is made durable, and the proposals wait for the receipt.
    pub(super) fn attempt(&mut self, decided: Decided, roster: Roster, draft: &mut Draft) {
        let attempted = Attempted {
            gtid: decided.gtid,
            roster: roster.clone(),
            digest: decided.digest,
            begun_at_ms: decided.begun_at_ms,
        };
        draft.forced = Some(Record::Attempted(attempted));
        self.appending = Some(Appending::Attempt);
        self.stage = Stage::Attempting;
        let (leader, output) = Leader::first(roster, self.node);
        self.leader = Some(leader);
        self.lead(output, draft);
    }

    pub(super) fn answered(&mut self, voter: VoterName, answer: Answer, draft: &mut Draft) {
        self.tell_leader(leader::Event::Answered { voter, answer }, draft);
    }

    pub(super) fn tell_leader(&mut self, event: leader::Event, draft: &mut Draft) {
        match self.stage {
            Stage::Agreeing => {
                let Some(leader) = &mut self.leader else { return };
                let output = leader.handle(event);
                self.lead(output, draft);
            }
            // The proposals are sealed behind the mark: nobody can have answered them.
            Stage::Voting | Stage::Attempting | Stage::Agreed(_) => {}
        }
    }

    pub(super) fn lead(&mut self, output: Output<leader::Effect>, draft: &mut Draft) {
        let (_, _, effects) = output.unseal();
        for effect in effects {
            match effect {
                leader::Effect::Ask { voter: VoterName::Participant(to), request } => {
                    let branch = self.transaction.branches().iter().find(|branch| branch.participant == to);
                    let prefer = branch.and_then(|branch| branch.instance);
                    let branch = branch.map_or(BranchId::NONE, |branch| branch.id);
                    draft.effects.push(Effect::Send { to, branch, prefer, order: Order::Ask(request) });
                }
                leader::Effect::Ask { voter: VoterName::Log, request } => {
                    self.ask_log(Ask { asker: Asker::OwnLeader, request }, draft);
                }
                leader::Effect::SetTimer { after_ms, jitter_ms } => {
                    draft.effects.push(Effect::SetTimer { timer: Timer::Election, after_ms, jitter_ms });
                }
                leader::Effect::Announce(decision) => self.agree(decision, draft),
            }
        }
    }

    /// The outcome is certain: a quorum accepted it, or somebody knew it. It is told at once, and logged with the end, or before it if
    /// that lets itself be waited for.
    pub(super) fn agree(&mut self, decision: Decision, draft: &mut Draft) {
        match self.stage {
            Stage::Voting => {
                // No attempt was made, so there is no commit to agree on; the abort is as unlogged as any other.
                if decision == Decision::Abort {
                    self.tell_transaction(decision, draft);
                }
            }
            Stage::Attempting | Stage::Agreeing => {
                self.stage = Stage::Agreed(decision);
                self.leader = None;
                self.asks.retain(|ask| ask.asker != Asker::OwnLeader);
                draft.effects.push(Effect::CancelTimer(Timer::Election));
                self.tell_transaction(decision, draft);
                self.go_on_logging(draft);
            }
            Stage::Agreed(_) => {}
        }
    }

    fn tell_transaction(&mut self, decision: Decision, draft: &mut Draft) {
        let reason = (decision == Decision::Abort).then(|| {
            let message =
                "its voters elected to abort, since not enough of them were known to have accepted the commit";
            AbortReason::new(AbortCode::Forgotten, message)
        });
        let before = cfg!(debug_assertions).then(|| self.transaction.clone());
        let output = self.transaction.agreed(decision, reason);
        if let Some(before) = before {
            debug_assert_eq!(two_phase::invariant::check_agreed(&before, &self.transaction, &output), Ok(()));
        }
        self.relay(output, draft);
    }

    // ---- the end -------------------------------------------------------------------------------------------------------

    /// Every branch has ended. Their voters may forget once nobody can be left in doubt: when the log has the decision, which the end itself
    /// brings if nothing else has, or when it was an abort before any attempt.
    pub(super) fn ended(&mut self, ended: Ended, draft: &mut Draft) {
        let is_kept = self.is_decision_logged || self.stage == Stage::Voting;
        if is_kept {
            draft.effects.extend(forgets(&ended));
            draft.lazy.push(Record::Ended(ended));
        } else {
            self.end = Some(ended);
            self.go_on_logging(draft);
        }
    }
}

pub(super) fn forgets(ended: &Ended) -> impl Iterator<Item = Effect> {
    ended.branches.iter().map(|branch| Effect::Send {
        to: branch.participant.clone(),
        branch: branch.branch,
        prefer: None,
        order: Order::Forget,
    })
}
