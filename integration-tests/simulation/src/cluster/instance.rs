//! One process of a participant: its branches, driven as the SDK drives them. What is particular to
//! three-phase transactions is in `voting`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use assent_protocol::branch::{self, Branch, Effect, Event, Hook};
use assent_protocol::ids::BranchId;
use assent_protocol::message::{FromClient, FromReplica};
use assent_protocol::replica::SessionId;
use assent_protocol::three_phase::{self, Participant, VoterName, participant};
use assent_protocol::two_phase::EarlyVote;
use assent_protocol::{Decision, Gtid, InstanceId, Output};

use super::bank::{BranchKey, Database, Said, Turn};
use super::steps::Running;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    /// The participant, as a voter.
    pub(super) me: VoterName,
    pub(crate) branches: BTreeMap<BranchKey, Machine>,
    /// Hooks that run.
    pub(crate) hooks: Vec<(BranchKey, Hook)>,
    /// When each timer is due.
    pub(crate) timers: BTreeMap<(BranchKey, participant::Timer), u64>,
    /// When it looks again for what is prepared and unknown to it: another instance may have gone
    /// for good.
    pub(crate) looks_at_ms: u64,
    /// When it looks for voters' records that are not in memory.
    pub(crate) looks_for_records_at_ms: u64,
    /// Branches that it prepared while it was called, by the number of the request to enlist them
    /// that is not answered yet.
    pub(crate) enlisting: BTreeMap<u64, BranchKey>,
    /// Branches that it prepared while it was called, and whose call has failed since: it cleans up.
    pub(crate) failed: VecDeque<BranchKey>,
    /// Steps whose hooks run.
    pub(crate) steps: Vec<Running>,
    /// What the own voter has yet to be asked.
    pub(crate) questions: Vec<OwnQuestion>,
    /// The session that brought the last order about each transaction: what answers it goes there.
    pub(crate) orders: BTreeMap<Gtid, SessionId>,
    /// Transactions whose records may be deleted.
    pub(crate) forgets: BTreeSet<Gtid>,
    /// How many machines that may lead elections it has named.
    pub(super) nodes: u64,
}

/// By which protocol a branch agrees.
#[derive(Clone, Debug)]
pub(crate) enum Machine {
    TwoPhase(Branch),
    ThreePhase(Box<Participant>),
}

/// A question to the own voter, in whose name.
#[derive(Clone, Debug)]
pub(crate) struct OwnQuestion {
    pub(crate) gtid: Gtid,
    pub(crate) from: VoterName,
    pub(crate) request: three_phase::Request,
}

/// How often an instance looks for branches of others.
const LOOK_INTERVAL_MS: u64 = 60_000;
/// A record that is older and not in memory is one whose instance is gone, or whose order to forget
/// was lost. They are looked for as often.
pub(super) const KEPT_TOO_LONG_MS: u64 = 60_000;

impl Instance {
    pub(crate) fn new(id: InstanceId, me: VoterName) -> Self {
        Self {
            id,
            me,
            branches: BTreeMap::new(),
            hooks: Vec::new(),
            timers: BTreeMap::new(),
            looks_at_ms: 0,
            looks_for_records_at_ms: 0,
            enlisting: BTreeMap::new(),
            failed: VecDeque::new(),
            steps: Vec::new(),
            questions: Vec::new(),
            orders: BTreeMap::new(),
            forgets: BTreeSet::new(),
            nodes: 0,
        }
    }

    // ---- what it finds ---------------------------------------------------------------------------------------------

    /// It starts with what is prepared, and with what its voter has on record. What is to be said
    /// is asked for once there is a session.
    pub(crate) fn starts(&mut self, database: &mut Database, now_ms: u64) {
        self.looks_for_records_at_ms = now_ms + KEPT_TOO_LONG_MS;
        self.looks(database, now_ms, 0);
        let records: Vec<_> = database.voter.records().cloned().collect();
        for record in records {
            let prepared = database.prepared.keys().find(|(gtid, _)| *gtid == record.gtid);
            let otherwise = prepared.map_or(BranchId::NONE, |(_, id)| *id);
            self.revives(database, &record, otherwise, now_ms, &mut Said::default());
        }
    }

    /// What has been prepared in the database for long enough, and is unknown here, is in doubt.
    pub(crate) fn looks(&mut self, database: &mut Database, now_ms: u64, grace_ms: u64) {
        self.looks_at_ms = now_ms + LOOK_INTERVAL_MS;
        let is_old = |(_, since_ms): &(&BranchKey, &u64)| **since_ms + grace_ms <= now_ms;
        let found: Vec<BranchKey> = database.prepared.iter().filter(is_old).map(|(key, _)| *key).collect();
        for key in found {
            if self.branches.contains_key(&key) {
                continue;
            }
            self.finds(key, now_ms);
            // The voter may have voted for another branch of the transaction.
            let record = database.voter.record(key.0).cloned();
            if let Some(record) = record.filter(|record| self.recorded_branch(record, key.1) == key) {
                self.revives(database, &record, key.1, now_ms, &mut Said::default());
            }
        }
    }

    /// A branch that is prepared and in doubt.
    fn finds(&mut self, key: BranchKey, now_ms: u64) {
        let (branch, output) = Branch::in_doubt(key.0);
        self.branches.insert(key, Machine::TwoPhase(branch));
        self.carries_out(key, now_ms, output, &mut Said::default());
    }

    /// A session is there to ask over.
    pub(crate) fn session_is_up(&mut self, database: &mut Database, now_ms: u64) -> Said {
        let mut said = Said::default();
        let keys: Vec<BranchKey> = self.branches.keys().copied().collect();
        for key in keys {
            match self.branches.get(&key) {
                Some(Machine::TwoPhase(_)) => self.takes(key, Event::SessionUp, now_ms, &mut said),
                Some(Machine::ThreePhase(_)) => {
                    self.votes(database, key, participant::Event::SessionUp, now_ms, &mut said);
                }
                None => {}
            }
        }
        said
    }

    // ---- orders, hooks and timers ----------------------------------------------------------------------------------

    /// An order of a replica, and the session over which it came.
    pub(crate) fn is_told(
        &mut self,
        database: &mut Database,
        session: SessionId,
        message: FromReplica,
        now_ms: u64,
    ) -> Said {
        let running = self.hooks.len();
        if let Some(gtid) = ordered(&message) {
            self.orders.insert(gtid, session);
        }
        let mut said = self.obeys(database, message, now_ms);
        self.checks_hooks(running, database, &mut said);
        said
    }

    /// The hooks that are called now follow the voter.
    pub(super) fn checks_hooks(&self, running: usize, database: &Database, said: &mut Said) {
        for (key, hook) in self.hooks.iter().skip(running) {
            let decision = match hook {
                Hook::Prepare { .. } => continue,
                Hook::Commit => Decision::Commit,
                Hook::Abort => Decision::Abort,
            };
            if let Some(problem) = database.contradicts_its_voter(*key, decision) {
                said.broken = Some(problem);
            }
        }
    }

    fn obeys(&mut self, database: &mut Database, message: FromReplica, now_ms: u64) -> Said {
        let mut said = Said::default();
        let (gtid, branch, event) = match message {
            FromReplica::Prepare { gtid, branch, epoch, payload, one_phase, roster: None, .. } => {
                (gtid, branch, Event::PrepareOrdered { epoch, payload, one_phase })
            }
            FromReplica::CommitBranch { gtid, branch, epoch } => {
                (gtid, branch, Event::Decided { epoch, decision: Decision::Commit })
            }
            FromReplica::AbortBranch { gtid, branch, epoch } => {
                (gtid, branch, Event::Decided { epoch, decision: Decision::Abort })
            }
            other => {
                self.is_told_as_a_voter(database, other, now_ms, &mut said);
                return said;
            }
        };
        let key = (gtid, branch);
        if let Event::Decided { epoch, decision } = event {
            self.meets_with_record(database, key, now_ms, &mut said);
            if let Some(Machine::ThreePhase(_)) = self.branches.get(&key) {
                let event = participant::Event::Decided { epoch, decision };
                self.votes(database, key, event, now_ms, &mut said);
                return said;
            }
        }
        self.takes(key, event, now_ms, &mut said);
        said
    }

    /// A hook comes to its end.
    pub(crate) fn hook_returns(&mut self, database: &mut Database, at: usize, turn: Turn, now_ms: u64) -> Said {
        let mut said = Said::default();
        let (key, hook) = self.hooks.remove(at);
        let is_voting = matches!(self.branches.get(&key), Some(Machine::ThreePhase(_)));
        if let Hook::Prepare { one_phase, .. } = hook {
            let vote = database.prepares(key, one_phase, turn, now_ms);
            said.vote = Some(vote.clone());
            if is_voting {
                self.votes(database, key, participant::Event::PrepareFinished(vote), now_ms, &mut said);
            } else {
                self.takes(key, Event::PrepareFinished(vote), now_ms, &mut said);
            }
            return said;
        }
        let decision = if hook == Hook::Commit { Decision::Commit } else { Decision::Abort };
        said.broken = database.commits_nothing(key).filter(|_| decision == Decision::Commit);
        let end = database.hook_ends(key, &hook, turn);
        if is_voting {
            self.votes(database, key, participant::Event::EndFinished(end), now_ms, &mut said);
        } else {
            self.takes(key, Event::EndFinished(end), now_ms, &mut said);
        }
        said
    }

    pub(crate) fn timer_fires(
        &mut self,
        database: &mut Database,
        key: BranchKey,
        timer: participant::Timer,
        now_ms: u64,
    ) -> Said {
        let mut said = Said::default();
        self.timers.remove(&(key, timer));
        match (self.branches.get(&key), timer) {
            (Some(Machine::TwoPhase(_)), participant::Timer::Branch(timer)) => {
                self.takes(key, Event::TimerFired(timer), now_ms, &mut said);
            }
            (Some(Machine::ThreePhase(_)), timer) => {
                self.votes(database, key, participant::Event::TimerFired(timer), now_ms, &mut said);
            }
            (Some(Machine::TwoPhase(_)), participant::Timer::Election | participant::Timer::Round) | (None, _) => {}
        }
        said
    }

    // ---- branches that are prepared early --------------------------------------------------------------------------

    /// A service is called: it prepares a branch of its own, and enlists it.
    pub(crate) fn is_called(&mut self, database: &mut Database, key: BranchKey, now_ms: u64) -> EarlyVote {
        database.prepares_early(key, now_ms);
        self.finds(key, now_ms);
        EarlyVote::Yes
    }

    /// The enlistment was refused, or the call failed before it: the service undoes its work.
    pub(crate) fn withdraws(&mut self, database: &mut Database, key: BranchKey) {
        self.leaves_memory(key);
        database.withdraws(key);
    }

    // ---- the machine of two phases ---------------------------------------------------------------------------------

    pub(super) fn takes(&mut self, key: BranchKey, event: Event, now_ms: u64, said: &mut Said) {
        let before = match self.branches.remove(&key) {
            Some(Machine::TwoPhase(branch)) => Some(branch),
            Some(other @ Machine::ThreePhase(_)) => {
                self.branches.insert(key, other);
                return;
            }
            None => None,
        };
        if before.is_none() && matches!(event, Event::TimerFired(_) | Event::SessionUp) {
            return;
        }
        let (after, output) = match before.clone() {
            Some(mut branch) => {
                let output = branch.handle(event.clone());
                (branch, output)
            }
            None => Branch::meet(key.0, event.clone()),
        };
        if let Err(violation) = branch::invariant::check(before.as_ref(), &event, &after, &output) {
            said.broken = Some(violation.to_string());
        }
        let is_ended = after.is_ended();
        self.branches.insert(key, Machine::TwoPhase(after));
        self.carries_out(key, now_ms, output, said);
        if is_ended {
            self.leaves_memory(key);
        }
    }

    fn carries_out(&mut self, key: BranchKey, now_ms: u64, output: Output<Effect>, said: &mut Said) {
        for effect in output.peek_effects() {
            match effect {
                Effect::Call(hook) => self.hooks.push((key, hook.clone())),
                Effect::Send(message) => said.messages.push(FromClient::branch(key.0, key.1, message.clone())),
                Effect::SetTimer { timer, after_ms, .. } => {
                    self.timers.insert((key, participant::Timer::Branch(*timer)), now_ms + after_ms);
                }
                Effect::Contradiction { doing } => said.broken = Some(contradiction(*doing)),
            }
        }
    }

    pub(super) fn leaves_memory(&mut self, key: BranchKey) {
        self.branches.remove(&key);
        self.timers.retain(|(of, _), _| *of != key);
    }
}

/// The transaction of an order that is answered.
fn ordered(message: &FromReplica) -> Option<Gtid> {
    match message {
        FromReplica::Prepare { gtid, .. }
        | FromReplica::CommitBranch { gtid, .. }
        | FromReplica::AbortBranch { gtid, .. }
        | FromReplica::AskVoter { gtid, .. } => Some(*gtid),
        _ => None,
    }
}

pub(super) fn contradiction(doing: Decision) -> String {
    format!("I3 a decision never changes: {doing:?} was ordered, and now the other")
}
