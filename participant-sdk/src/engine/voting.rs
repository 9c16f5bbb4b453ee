//! Branches of three-phase transactions: their machines, the own voter, and the peers.
//!
//! The own voter is asked by tasks: one for all questions of a turn, so that they share an append,
//! and one for each that this could not answer; only an outcome for which nothing has to be kept is
//! answered at once. A branch asks one question at a time and in order, for as long as its store is
//! away, and after those of the coordinator that came before: a commit that two of three have
//! accepted meets the acceptance of the third. A peer's question goes to the store beside that; the
//! store's compare-and-set puts them in order, and the engine is told, so that its machine knows
//! who is at work.
//!
//! A branch that is not in memory is met with what its voter's store has: another instance may have
//! voted, or an earlier life of this one.

use std::sync::Arc;
use std::time::Duration;

use assent_proto::session::{FromClient, FromReplica, VoterMessage, VoterPlace};
use assent_proto::voter::PeerQuestion;
use assent_protocol::branch::{Message, State};
use assent_protocol::three_phase::leader::Heard;
use assent_protocol::three_phase::participant::{Effect, Event, Timer};
use assent_protocol::three_phase::{
    Answer, Bar, Leader, NodeId, Participant, PeerAddress, Request, VoterName, VoterRecord,
};
use assent_protocol::two_phase::Vote;
use assent_protocol::{BranchId, BranchKey, Decision, Gtid, Output};
use rand::RngExt;
use tokio::time::Instant;

use super::branches::{Entry, Machine, effects_of};
use super::link::Outbox;
use super::{Done, Engine, Settings};
use crate::error::ConnectError;
use crate::voter::store::{Recalled, VoterStoreError};
use crate::voter::{Asked, Overheard, OwnVoter, Peers};

/// What the engine has of the participant's voter.
pub(super) struct Voting {
    own: Arc<OwnVoter>,
    peers: Arc<Peers>,
    address: PeerAddress,
    coordinator: Option<String>,
    /// What its voter is to be asked at the end of this turn.
    questions: Vec<Question>,
    /// Records to be deleted together, and when.
    forgotten: Vec<Gtid>,
    forget_at: Instant,
}

/// About which transaction, in whose name (the own, or the log's if it is the coordinator), and
/// what.
pub(super) type Question = (Gtid, VoterName, Request);

/// What a task about a branch's voter came back with.
pub(super) enum Answered {
    /// The own voter.
    Own(Box<Overheard>),
    /// Nobody: the store fails, and the coordinator will ask once more.
    NotTheLog,
    /// Another voter.
    Peer(VoterName, Answer),
    /// The store, about a branch that was not in memory.
    Store(Option<Arc<VoterRecord>>),
    /// The store, about a branch that ended some time ago.
    Kept(BranchId, Decision),
}

/// A record that may go stays for so long, so that many go at once; were it much longer, what is
/// kept in memory would outgrow the processor's caches. Nothing rests on it; see
/// [`OwnVoter::has_forgotten`] for what does.
const FORGET_TOGETHER: Duration = Duration::from_millis(15);
/// How often it is looked for outcomes that were noted and not forgotten.
const NOTES_KEPT_EVERY: Duration = if cfg!(test) { Duration::from_secs(3_600) } else { Duration::from_secs(1) };
/// How long an engine that ends waits for its last ones to be deleted.
const FORGET_LAST_MAX: Duration = Duration::from_secs(1);
/// An ended record that is older than this, and still there so long after a session began, is one
/// whose order to forget was lost.
const KEPT_TOO_LONG: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(60) };
/// The bounds of the waits between attempts to reach the store.
const STORE_RETRY_INITIAL: Duration = Duration::from_millis(50);
const STORE_RETRY_MAX: Duration = Duration::from_secs(5);

impl Voting {
    /// Opens the voter's store, if the process has one.
    pub(super) async fn open(settings: &Settings) -> Result<Option<Self>, ConnectError> {
        let Some(voter) = &settings.voter else { return Ok(None) };
        let me = settings.name.clone().filter(|_| settings.branches.is_some());
        let me = me.ok_or(ConnectError::VoterWithoutParticipant)?;
        let identity = voter.store.open(&me).await?;
        Ok(Some(Self {
            own: OwnVoter::new(me, identity.id, Arc::clone(&voter.store)),
            peers: Peers::new(settings.dialer.clone()),
            address: voter.address.clone(),
            coordinator: identity.coordinator,
            questions: Vec::new(),
            forgotten: Vec::new(),
            forget_at: Instant::now(),
        }))
    }

    /// Writes down whose votes these are.
    pub(super) async fn bind(&self, coordinator: &str) -> Result<String, VoterStoreError> {
        self.own.store().bind(coordinator).await?;
        Ok(coordinator.to_owned())
    }

    /// What was voted and not forgotten.
    pub(super) async fn records(&self) -> Result<Vec<VoterRecord>, VoterStoreError> {
        self.own.store().all().await
    }

    /// The coordinator that it has met before.
    pub(super) fn coordinator(&self) -> Option<&str> {
        self.coordinator.as_deref()
    }

    pub(super) fn own(&self) -> Arc<OwnVoter> {
        Arc::clone(&self.own)
    }

    pub(super) fn place(&self) -> VoterPlace {
        VoterPlace { address: self.address.clone(), store: self.own.id() }
    }

    /// Deletes at once what was to be deleted together, before the engine ends.
    pub(super) async fn forget_the_last(voting: &mut Option<Self>) {
        let Some(voting) = voting.as_mut().filter(|voting| !voting.forgotten.is_empty()) else { return };
        let forgetting = voting.own.forget(std::mem::take(&mut voting.forgotten));
        // They are met again after the next start.
        tokio::time::timeout(FORGET_LAST_MAX, forgetting).await.ok();
    }

    /// Deletes the records of transactions that have ended everywhere, once they are due.
    /// Cancelled, nothing is lost.
    pub(super) async fn forgetting(voting: &mut Option<Self>) {
        let Some(voting) = voting else { return std::future::pending().await };
        if voting.forgotten.is_empty() {
            return std::future::pending().await;
        }
        tokio::time::sleep_until(voting.forget_at).await;
        let gtids = std::mem::take(&mut voting.forgotten);
        let own = Arc::clone(&voting.own);
        tokio::spawn(async move {
            if let Err(error) = own.forget(gtids).await {
                // They take room, and are met again some time after the next session has begun.
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "records of ended transactions are not deleted"
                );
            }
        });
    }
}

impl Engine {
    /// An outcome that was only noted is kept after a while, if nobody has ordered it to be
    /// forgotten by then.
    pub(super) fn keep_notes(&self) {
        let Some(voting) = &self.voting else { return };
        let (own, finish) = (Arc::clone(&voting.own), self.finish.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(NOTES_KEPT_EVERY) => {}
                    () = finish.closed() => return,
                }
                if let Err(error) = own.store().keep_notes().await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "outcomes are noted, and cannot be kept");
                }
            }
        });
    }

    /// Found in the voter's store at the start, or by a look. A record without a roster is of the
    /// branch that is `otherwise` known.
    pub(super) fn found_recorded(&mut self, record: &VoterRecord, otherwise: BranchId) {
        // There is no session yet; what is to be said is asked for again.
        let mut dropped = Outbox::default();
        self.revive(&mut dropped, record, otherwise);
    }

    /// Which branch a voter's record is about. It has no roster where the voter has refused before
    /// it knew one.
    pub(super) fn recorded_branch(&self, record: &VoterRecord, otherwise: BranchId) -> BranchKey {
        let seat = self.voting.as_ref().and_then(|voting| record.roster.as_ref()?.seat(voting.own.participant()));
        BranchKey { gtid: record.gtid, id: seat.map_or(otherwise, |seat| seat.branch) }
    }

    /// An order to forget is lost with its session, or with the replica that ended the transaction.
    /// Some time after each new session, whatever has ended and is still kept is told to the log:
    /// it answers whether anybody needs it.
    pub(super) fn look_for_kept(&self) {
        let Some(voting) = &self.voting else { return };
        let (store, finish) = (Arc::clone(voting.own.store()), self.finish.clone());
        let me = voting.own.participant().clone();
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(KEPT_TOO_LONG) => {}
                () = finish.closed() => return,
            }
            let records = match store.all().await {
                Ok(records) => records,
                // The next session looks again.
                Err(error) => {
                    return tracing::warn!(error = &error as &dyn std::error::Error, "ended records cannot be read");
                }
            };
            let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let before_ms = now_ms.saturating_sub(KEPT_TOO_LONG).as_millis();
            for record in records.iter().filter(|record| u128::from(record.gtid.minted_at_ms()) < before_ms) {
                if let Some(decision) = record.state.standing.decision() {
                    let seat = record.roster.as_ref().and_then(|roster| roster.seat(&me));
                    let branch = seat.map_or(BranchId::NONE, |seat| seat.branch);
                    finish.send(Done::Voting(record.gtid, Answered::Kept(branch, decision))).ok();
                }
            }
        });
    }

    /// A branch whose voter has a record takes its place in memory.
    fn revive(&mut self, outbox: &mut Outbox, record: &VoterRecord, otherwise: BranchId) {
        let Some(voting) = &self.voting else { return };
        let me = voting.own.participant().clone();
        let key = self.recorded_branch(record, otherwise);
        // Another instance may have voted, and had nothing to commit. What was found prepared here
        // has to be ended all the same.
        let is_read_only = record.is_read_only && !self.branches.entries.contains_key(&key);
        let record = VoterRecord { is_read_only, ..record.clone() };
        let (machine, output) = Participant::recover(&record, me, draw_node());
        self.adopt(outbox, key, machine, Duration::ZERO, output);
    }

    /// A machine takes its place, in a two-phase one's if need be.
    fn adopt(
        &mut self,
        outbox: &mut Outbox,
        key: BranchKey,
        machine: Participant,
        timeout: Duration,
        output: Output<Effect>,
    ) {
        self.forget(key);
        self.branches.insert(key, Entry::new(Machine::ThreePhase(Box::new(machine)), timeout));
        self.voting_output(outbox, key, output);
    }

    /// Takes what concerns three-phase transactions, and gives back every other order.
    pub(super) fn voting_order(&mut self, outbox: &mut Outbox, order: FromReplica) -> Option<FromReplica> {
        let is_met = |engine: &Self, gtid, id| engine.branches.entries.contains_key(&BranchKey { gtid, id });
        match order {
            FromReplica::Prepare { gtid, branch, roster: Some(_), .. } if self.voting.is_none() => {
                let problem = "this instance has no voter; connect it with Builder::voter, or commit in two phases";
                outbox.send(FromClient::branch(gtid, branch, Message::Vote(Vote::No(problem.to_owned()))));
                None
            }
            FromReplica::Prepare { gtid, branch, roster: Some(_), .. }
                if self.is_shutting_down && !is_met(self, gtid, branch) =>
            {
                None
            }
            FromReplica::Prepare { gtid, branch, roster: Some(_), .. }
            | FromReplica::CommitBranch { gtid, branch, .. }
            | FromReplica::AbortBranch { gtid, branch, .. }
                if self.voting.is_some() && !is_met(self, gtid, branch) =>
            {
                self.meet_with_record(outbox, BranchKey { gtid, id: branch }, order);
                None
            }
            FromReplica::Prepare { roster: Some(_), .. } => self.three_phase_order(outbox, order),
            FromReplica::CommitBranch { gtid, branch, .. } | FromReplica::AbortBranch { gtid, branch, .. }
                if self.is_voting(gtid, branch) =>
            {
                self.three_phase_order(outbox, order)
            }
            FromReplica::AskVoter { gtid, request } => {
                self.coordinator_asks(outbox, gtid, request);
                None
            }
            FromReplica::LogAnswered { gtid, answer } => {
                self.voting_event(outbox, gtid, Event::PeerAnswered { voter: VoterName::Log, answer });
                None
            }
            FromReplica::AwaitDecision { gtid } => {
                self.voting_event(outbox, gtid, Event::Waited);
                None
            }
            FromReplica::ForgetVoters { gtids } => {
                for gtid in gtids {
                    self.forget_voter(outbox, gtid);
                }
                None
            }
            other => Some(other),
        }
    }

    fn is_voting(&self, gtid: Gtid, id: BranchId) -> bool {
        self.branches.voting(gtid) == Some(BranchKey { gtid, id })
    }

    /// Carries out an order to a branch that agrees in three phases; gives back every other.
    fn three_phase_order(&mut self, outbox: &mut Outbox, order: FromReplica) -> Option<FromReplica> {
        match order {
            FromReplica::Prepare {
                gtid,
                branch,
                epoch,
                payload,
                timeout_ms,
                roster: Some(roster),
                is_prepared,
                ..
            } => {
                let (key, timeout) = (BranchKey { gtid, id: branch }, Duration::from_millis(timeout_ms));
                let event = Event::PrepareOrdered { epoch, payload, roster, is_prepared };
                self.prepare_with_roster(outbox, key, event, timeout);
                None
            }
            FromReplica::CommitBranch { gtid, branch, epoch } if self.is_voting(gtid, branch) => {
                self.voting_event(outbox, gtid, Event::Decided { epoch, decision: Decision::Commit });
                None
            }
            FromReplica::AbortBranch { gtid, branch, epoch } if self.is_voting(gtid, branch) => {
                self.voting_event(outbox, gtid, Event::Decided { epoch, decision: Decision::Abort });
                None
            }
            other => Some(other),
        }
    }

    // ---- meeting a branch -----------------------------------------------------------------------------------------------

    /// An order about a branch that is not in memory: its voter's store knows whether it has voted.
    fn meet_with_record(&mut self, outbox: &mut Outbox, key: BranchKey, order: FromReplica) {
        let gtid = key.gtid;
        if let Some(orders) = self.branches.lookups.get_mut(&gtid) {
            orders.push((key.id, order));
            return;
        }
        let Some(voting) = &self.voting else { return };
        if matches!(order, FromReplica::Prepare { .. }) && voting.own.has_forgotten(gtid) {
            // It was on its way for longer than everything else of this transaction.
            return;
        }
        match voting.own.store().recall(gtid) {
            Recalled::Known(record) => self.met(outbox, record, vec![(key.id, order)]),
            Recalled::Unknown => {
                self.branches.lookups.insert(gtid, vec![(key.id, order)]);
                let store = Arc::clone(voting.own.store());
                self.spawn(gtid, async move {
                    let record = until_it_answers(gtid, || store.load(gtid)).await;
                    Some(Answered::Store(record))
                });
            }
        }
    }

    /// What the store has is known: the orders are carried out.
    fn met(&mut self, outbox: &mut Outbox, record: Option<Arc<VoterRecord>>, orders: Vec<(BranchId, FromReplica)>) {
        if let (Some(record), Some((first, _))) = (&record, orders.first())
            && !self.branches.entries.contains_key(&self.recorded_branch(record, *first))
        {
            self.revive(outbox, record, *first);
        }
        for (_, order) in orders {
            // The others are about branches that never voted here in three phases, and have nothing
            // to keep.
            if let Some(other) = self.three_phase_order(outbox, order) {
                self.two_phase_order(outbox, other);
            }
        }
    }

    fn prepare_with_roster(&mut self, outbox: &mut Outbox, key: BranchKey, event: Event, timeout: Duration) {
        let Some(voting) = &self.voting else { return };
        let (gtid, me) = (key.gtid, voting.own.participant().clone());
        if self.branches.voting(gtid).is_some_and(|other| other != key) {
            // A participant has one vote in a transaction.
            let problem = "the participant's voter votes for another branch of this transaction".to_owned();
            return outbox.send(FromClient::branch(gtid, key.id, Message::Vote(Vote::No(problem))));
        }
        match self.branches.entries.get_mut(&key).map(|entry| (&entry.machine, &mut entry.timeout)) {
            Some((Machine::ThreePhase(_), _)) => {}
            // Prepared by the service itself, or found so, before anybody said that this is a
            // three-phase transaction.
            Some((Machine::TwoPhase(machine), _)) if machine.state() == State::InDoubt && machine.is_prepared() => {
                let (machine, output) = Participant::prepared(gtid, me, draw_node());
                self.adopt(outbox, key, machine, timeout, output);
            }
            Some((Machine::TwoPhase(_), _)) => return,
            None => {
                let (machine, output) = Participant::meet(gtid, me, draw_node(), None, event.clone());
                #[cfg(debug_assertions)]
                check(None, &event, &machine, &output);
                return self.adopt(outbox, key, machine, timeout, output);
            }
        }
        self.voting_event(outbox, gtid, event);
    }

    // ---- the machine ----------------------------------------------------------------------------------------------------

    pub(super) fn voting_event(&mut self, outbox: &mut Outbox, gtid: Gtid, event: Event) {
        let Some((key, Entry { machine: Machine::ThreePhase(machine), .. })) = self.branches.voting_mut(gtid) else {
            return;
        };
        #[cfg(debug_assertions)]
        let checked = (machine.clone(), event.clone());
        if event == Event::TimerFired(Timer::Round) {
            tell_who_is_missing(gtid, machine);
        }
        let output = machine.handle(event);
        #[cfg(debug_assertions)]
        check(Some(&checked.0), &checked.1, machine, &output);
        self.voting_output(outbox, key, output);
    }

    fn voting_output(&mut self, outbox: &mut Outbox, key: BranchKey, output: Output<Effect>) {
        let BranchKey { gtid, id: branch } = key;
        let mut ask = None;
        for effect in effects_of(output) {
            match effect {
                Effect::Call(hook) => self.call_branch_hook(key, hook),
                Effect::Send(message) => outbox.send(FromClient::branch(gtid, branch, message)),
                // Once all else is done: an answer that comes at once leads to more.
                Effect::AskVoter(request) => match self.branches.entries.get_mut(&key) {
                    Some(entry) if entry.is_asked() || ask.is_some() || !entry.asks.is_empty() => {
                        entry.asks.push_back(request);
                    }
                    Some(_) => ask = Some(request),
                    None => {}
                },
                Effect::AskPeer { voter: VoterName::Log, request, .. } => {
                    outbox.send(FromClient::voter(gtid, VoterMessage::AskLog { branch, request }));
                }
                Effect::AskPeer { voter, address: Some(address), request } => {
                    self.ask_peer(gtid, voter, address, request);
                }
                Effect::AskPeer { address: None, .. } => {}
                Effect::ForgetVoter => self.forget_record(gtid),
                Effect::SetTimer { timer, after_ms, jitter_ms } => self.set_timer(key, timer, after_ms, jitter_ms),
                Effect::CancelTimer(timer) => self.cancel_timer(key, timer),
                Effect::Contradiction { doing } => {
                    tracing::error!(%gtid, %doing, "somebody contradicts the outcome that is known; nothing was done");
                }
            }
        }
        if let Some(request) = ask {
            self.ask_own_voter(outbox, gtid, request);
        }
        self.forget_if_ended(key);
    }

    // ---- the own voter --------------------------------------------------------------------------------------------------

    /// Asks a question, while none is under way.
    fn ask_own_voter(&mut self, outbox: &mut Outbox, gtid: Gtid, request: Request) {
        let Some(voting) = &mut self.voting else { return };
        let Some((_, entry)) = self.branches.voting_mut(gtid) else { return };
        entry.is_asking = true;
        let from = voting.own.name().clone();
        // Mostly there is nothing to be kept for an outcome.
        if matches!(request, Request::Decided(_))
            && let Some(asked) = voting.own.ask_at_once(gtid, &from, &request)
        {
            return self.own_answered(outbox, gtid, Overheard { from, request, asked });
        }
        voting.questions.push((gtid, from, request));
    }

    /// The coordinator, or a replica that leads an election, asks the own voter.
    fn coordinator_asks(&mut self, outbox: &mut Outbox, gtid: Gtid, request: Request) {
        let Some(voting) = &mut self.voting else {
            return outbox.send(FromClient::voter(gtid, VoterMessage::Answered(Answer::Barred(Bar::NotInRoster))));
        };
        voting.questions.push((gtid, VoterName::Log, request));
        // Those that come after an own one do not hold it up.
        if let Some((_, entry)) = self.branches.voting_mut(gtid).filter(|(_, entry)| entry.asks.is_empty()) {
            entry.asked_by_log += 1;
        }
    }

    /// At the end of a turn: all that it has to ask the own voter.
    pub(super) fn ask_voter(&mut self) {
        let Some(voting) = self.voting.as_mut().filter(|voting| !voting.questions.is_empty()) else { return };
        let questions = std::mem::take(&mut voting.questions);
        let (own, finish) = (Arc::clone(&voting.own), self.finish.clone());
        tokio::spawn(async move {
            tokio::select! {
                answers = own.ask_each(&questions) => drop(finish.send(Done::Voter(questions, answers))),
                // The engine has ended, and with it whoever would hear the answers.
                () = finish.closed() => {}
            }
        });
    }

    /// What [`ask_voter`](Self::ask_voter) has found out. What it has not is asked alone.
    pub(super) fn voter_answered(
        &mut self,
        outbox: &mut Outbox,
        questions: Vec<Question>,
        answers: Vec<Option<Asked>>,
    ) {
        for ((gtid, from, request), asked) in questions.into_iter().zip(answers) {
            match asked {
                Some(asked) => self.own_answered(outbox, gtid, Overheard { from, request, asked }),
                None => self.ask_alone(gtid, from, request),
            }
        }
    }

    fn ask_alone(&self, gtid: Gtid, from: VoterName, request: Request) {
        let Some(voting) = &self.voting else { return };
        let own = Arc::clone(&voting.own);
        self.spawn(gtid, async move {
            let asked = if from == VoterName::Log {
                match own.ask(gtid, &from, request.clone()).await {
                    Ok(asked) => asked,
                    Err(error) => {
                        tracing::warn!(%gtid, error = &error as &dyn std::error::Error, "the coordinator's question cannot be answered");
                        return Some(Answered::NotTheLog);
                    }
                }
            } else {
                until_it_answers(gtid, || own.ask(gtid, &from, request.clone())).await
            };
            Some(Answered::Own(Box::new(Overheard { from, request, asked })))
        });
    }

    fn own_answered(&mut self, outbox: &mut Outbox, gtid: Gtid, overheard: Overheard) {
        let Overheard { from, asked: Asked { answer, kept, .. }, .. } = &overheard;
        if *from == VoterName::Log {
            outbox.send(FromClient::voter(gtid, VoterMessage::Answered(*answer)));
            self.voter_was_asked(outbox, gtid, overheard);
            return self.log_is_answered(outbox, gtid);
        }
        if let Some((_, entry)) = self.branches.voting_mut(gtid) {
            entry.is_asking = false;
        }
        let roster = kept.as_ref().and_then(|kept| kept.roster.clone());
        let is_read_only = kept.as_ref().filter(|kept| kept.roster.is_some()).map(|kept| kept.is_read_only);
        self.voting_event(outbox, gtid, Event::VoterAnswered { answer: *answer, roster, is_read_only });
        self.ask_what_waits(outbox, gtid);
    }

    fn log_is_answered(&mut self, outbox: &mut Outbox, gtid: Gtid) {
        if let Some((_, entry)) = self.branches.voting_mut(gtid) {
            // One that came before the branch was met, or after a question of its own, is not
            // counted.
            entry.asked_by_log = entry.asked_by_log.saturating_sub(1);
        }
        self.ask_what_waits(outbox, gtid);
    }

    fn ask_what_waits(&mut self, outbox: &mut Outbox, gtid: Gtid) {
        if let Some((_, entry)) = self.branches.voting_mut(gtid)
            && !entry.is_asked()
            && let Some(next) = entry.asks.pop_front()
        {
            self.ask_own_voter(outbox, gtid, next);
        }
    }

    pub(super) fn voting_answered(&mut self, outbox: &mut Outbox, gtid: Gtid, answered: Answered) {
        match answered {
            Answered::Own(overheard) => self.own_answered(outbox, gtid, *overheard),
            Answered::NotTheLog => self.log_is_answered(outbox, gtid),
            Answered::Peer(voter, answer) => {
                self.voting_event(outbox, gtid, Event::PeerAnswered { voter, answer });
            }
            // In memory it has yet to end here; the next session looks again.
            Answered::Kept(branch, decision) => {
                if self.branches.voting(gtid).is_none() {
                    let request = Request::Decided(decision);
                    outbox.send(FromClient::voter(gtid, VoterMessage::AskLog { branch, request }));
                }
            }
            Answered::Store(record) => {
                let orders = self.branches.lookups.remove(&gtid).unwrap_or_default();
                self.met(outbox, record, orders);
            }
        }
    }

    /// Somebody else has asked the own voter: the branch hears of it.
    pub(super) fn voter_was_asked(&mut self, outbox: &mut Outbox, gtid: Gtid, overheard: Overheard) {
        let Overheard { from, request, asked: Asked { answer, kept, has_changed } } = overheard;
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
            let key = self.recorded_branch(&kept, BranchId::NONE);
            let is_to_be_met = match self.branches.entries.get(&key).map(|entry| &entry.machine) {
                // Another instance's branch, perhaps of one that is gone.
                None => has_changed || is_undecided,
                // Found prepared, and as it turns out it has not voted. A hook that runs is left to
                // finish.
                Some(Machine::TwoPhase(machine)) => has_changed && machine.state() == State::InDoubt,
                Some(Machine::ThreePhase(_)) => false,
            };
            if is_to_be_met {
                self.revive(outbox, &kept, key.id);
            }
        }
        self.voting_event(outbox, gtid, event);
    }

    // ---- peers ------------------------------------------------------------------------------------------------------------

    fn ask_peer(&mut self, gtid: Gtid, voter: VoterName, address: PeerAddress, request: Request) {
        let (Some(voting), VoterName::Participant(to)) = (&self.voting, &voter) else { return };
        let peers = Arc::clone(&voting.peers);
        let question = PeerQuestion { gtid, from: voting.own.participant().clone(), to: to.clone(), request };
        self.spawn(gtid, async move {
            let answer = peers.ask(&address, question).await?;
            Some(Answered::Peer(voter, answer))
        });
    }

    fn spawn(&self, gtid: Gtid, task: impl Future<Output = Option<Answered>> + Send + 'static) {
        let finish = self.finish.clone();
        tokio::spawn(async move {
            let answered = tokio::select! {
                answered = task => answered,
                // The engine has ended, and with it whoever would hear the answer.
                () = finish.closed() => None,
            };
            if let Some(answered) = answered {
                finish.send(Done::Voting(gtid, answered)).ok();
            }
        });
    }

    // ---- the end ------------------------------------------------------------------------------------------------------------

    /// Every branch of the transaction has ended.
    fn forget_voter(&mut self, outbox: &mut Outbox, gtid: Gtid) {
        match self.branches.voting(gtid) {
            Some(_) => self.voting_event(outbox, gtid, Event::Forgotten),
            // It has ended and left memory.
            None => self.forget_record(gtid),
        }
    }

    fn forget_record(&mut self, gtid: Gtid) {
        if let Some(voting) = &mut self.voting {
            if voting.forgotten.is_empty() {
                voting.forget_at = Instant::now() + FORGET_TOGETHER;
            }
            voting.forgotten.push(gtid);
        }
    }
}

/// Asks a store until it answers.
async fn until_it_answers<T, F>(gtid: Gtid, ask: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, VoterStoreError>>,
{
    let mut bound = STORE_RETRY_INITIAL;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                tracing::warn!(%gtid, error = &error as &dyn std::error::Error, "the voter's store fails; trying again");
            }
        }
        let wait = bound.mul_f64(rand::rng().random_range(0.5..=1.0));
        tokio::time::sleep(wait).await;
        bound = (bound * 2).min(STORE_RETRY_MAX);
    }
}

/// An election that fails again: whoever looks after this process has to know for whom it waits.
/// The more seldom, the longer it lasts.
fn tell_who_is_missing(gtid: Gtid, machine: &Participant) {
    let failures = machine.leader().map_or(0, Leader::failures);
    if failures > 0 && failures.is_power_of_two() {
        let waiting_for = machine.waiting_for();
        // Who listens elsewhere than its roster says is silent, too.
        let asked_at = machine.leader().map(silent_addresses).unwrap_or_default();
        tracing::warn!(%gtid, elections = failures, waiting_for, asked_at, "in doubt, and too few voters answer to end it; trying again");
    }
}

/// Where the peers that do not answer were asked.
fn silent_addresses(leader: &Leader) -> String {
    let silent = leader.heard().filter(|(_, heard)| *heard == Heard::Nothing);
    let seats = silent.filter_map(|(voter, _)| match voter {
        VoterName::Participant(name) => leader.roster().seat(&name),
        VoterName::Log => None,
    });
    let places: Vec<_> = seats.map(|seat| format!("{} at {}", seat.participant, seat.address)).collect();
    places.join(", ")
}

/// For one machine alone.
fn draw_node() -> NodeId {
    NodeId(rand::random())
}

#[cfg(debug_assertions)]
fn check(before: Option<&Participant>, event: &Event, after: &Participant, output: &Output<Effect>) {
    use assent_protocol::three_phase::invariant;
    if let Err(violation) = invariant::check_participant(before, event, after, output) {
        panic!("{violation}: {event:?} on {before:?}");
    }
}
