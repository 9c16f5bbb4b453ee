//! A participant: one database, and instances that come and go.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use assent_protocol::branch::{self, Branch, Effect, Event, Hook, HookEnd, Message};
use assent_protocol::ids::BranchId;
use assent_protocol::message::{FromClient, FromReplica};
use assent_protocol::two_phase::{BranchResult, EarlyVote, Vote};
use assent_protocol::{Decision, Gtid, InstanceId, ParticipantName};

use super::steps::{Places, Running};

/// One branch at a participant. It may have others of the same transaction, where a call came twice.
pub(crate) type BranchKey = (Gtid, BranchId);

/// The participant's database, which all instances share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Database {
    /// The branches that are prepared, and since when.
    pub(crate) prepared: BTreeMap<BranchKey, u64>,
    /// How often each transaction's work took effect.
    pub(crate) applied: BTreeMap<Gtid, u32>,
    /// The branches whose work took effect.
    pub(crate) committed: BTreeSet<BranchKey>,
    /// What a one-phase prepare came to, recorded with its work.
    alone: BTreeMap<BranchKey, Vote>,
    /// The steps of sagas, behind the barrier.
    pub(crate) steps: Places,
}

/// One process of the participant.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) branches: BTreeMap<BranchKey, Branch>,
    /// Hooks that run.
    pub(crate) hooks: Vec<(BranchKey, Hook)>,
    pub(crate) timers: BTreeMap<(BranchKey, branch::Timer), u64>,
    /// When it looks again for what is prepared and unknown to it: another instance may have gone
    /// for good.
    pub(crate) looks_at_ms: u64,
    /// Branches that it prepared while it was called, by the number of the request to enlist them
    /// that is not answered yet.
    pub(crate) enlisting: BTreeMap<u64, BranchKey>,
    /// Branches that it prepared while it was called, and whose call has failed since: it cleans up.
    pub(crate) failed: VecDeque<BranchKey>,
    /// Steps whose hooks run.
    pub(crate) steps: Vec<Running>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Bank {
    pub(crate) name: ParticipantName,
    pub(crate) database: Database,
    pub(crate) instances: Vec<Option<Instance>>,
}

/// How often an instance looks for branches of others.
const LOOK_INTERVAL_MS: u64 = 60_000;
/// What is younger belongs to an instance that is still at work, as far as a look can tell.
pub(crate) const GRACE_MS: u64 = 60_000;

/// How a hook turns out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Turn {
    /// As it should.
    Well,
    /// The work is refused, or there is none.
    No,
    ReadOnly,
    /// An error before anything took effect.
    FailsBefore,
    /// An error after everything took effect.
    FailsAfter,
}

/// What an instance says, and what went wrong.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) messages: Vec<FromClient>,
    pub(crate) broken: Option<String>,
    /// What a prepare came to.
    pub(crate) vote: Option<Vote>,
}

impl Database {
    fn prepares(&mut self, key: BranchKey, one_phase: bool, turn: Turn, now_ms: u64) -> Vote {
        if let Some(recorded) = self.alone.get(&key) {
            return recorded.clone();
        }
        if self.prepared.contains_key(&key) {
            return Vote::Yes;
        }
        let error = || Vote::Unknown("error".into());
        match (turn, one_phase) {
            (Turn::FailsBefore, _) => error(),
            (Turn::No, false) => Vote::No("no".into()),
            (Turn::ReadOnly, false) => Vote::ReadOnly,
            (Turn::Well | Turn::FailsAfter, false) => {
                self.prepared.insert(key, now_ms);
                if turn == Turn::Well { Vote::Yes } else { error() }
            }
            (_, true) => {
                let vote = match turn {
                    Turn::No => Vote::No("no".into()),
                    Turn::ReadOnly => Vote::ReadOnly,
                    Turn::Well | Turn::FailsAfter | Turn::FailsBefore => {
                        *self.applied.entry(key.0).or_default() += 1;
                        Vote::Committed
                    }
                };
                self.alone.insert(key, vote.clone());
                if turn == Turn::FailsAfter { error() } else { vote }
            }
        }
    }

    fn ends(&mut self, key: BranchKey, decision: Decision) -> BranchResult {
        let was_prepared = self.prepared.remove(&key).is_some();
        match decision {
            Decision::Commit if was_prepared => {
                *self.applied.entry(key.0).or_default() += 1;
                self.committed.insert(key);
            }
            Decision::Abort if self.alone.get(&key) == Some(&Vote::Committed) => {
                return BranchResult::HeuristicCommitted;
            }
            Decision::Abort if !was_prepared => {
                // A one-phase prepare that is still on its way finds that it was forbidden.
                self.alone.entry(key).or_insert_with(|| Vote::No("aborted before".into()));
            }
            Decision::Commit | Decision::Abort => {}
        }
        BranchResult::Done
    }
}

impl Instance {
    pub(crate) fn new(id: InstanceId) -> Self {
        Self {
            id,
            branches: BTreeMap::new(),
            hooks: Vec::new(),
            timers: BTreeMap::new(),
            looks_at_ms: 0,
            enlisting: BTreeMap::new(),
            failed: VecDeque::new(),
            steps: Vec::new(),
        }
    }

    /// What has been prepared in the database for long enough, and is unknown here, is in doubt.
    pub(crate) fn looks(&mut self, database: &Database, now_ms: u64, grace_ms: u64) {
        self.looks_at_ms = now_ms + LOOK_INTERVAL_MS;
        for (key, since_ms) in &database.prepared {
            if !self.branches.contains_key(key) && since_ms + grace_ms <= now_ms {
                let (branch, output) = Branch::in_doubt(key.0);
                self.branches.insert(*key, branch);
                self.carry_out(*key, now_ms, output.peek_effects(), &mut Said::default());
            }
        }
    }

    /// A session is there to ask over.
    pub(crate) fn session_is_up(&mut self, now_ms: u64) -> Said {
        let mut said = Said::default();
        let keys: Vec<BranchKey> = self.branches.keys().copied().collect();
        for key in keys {
            self.takes(key, Event::SessionUp, now_ms, &mut said);
        }
        said
    }

    /// An order of a replica.
    pub(crate) fn is_told(&mut self, message: FromReplica, now_ms: u64) -> Said {
        let mut said = Said::default();
        let (key, event) = match message {
            FromReplica::Prepare { gtid, branch, epoch, payload, one_phase, .. } => {
                ((gtid, branch), Event::PrepareOrdered { epoch, payload, one_phase })
            }
            FromReplica::CommitBranch { gtid, branch, epoch } => {
                ((gtid, branch), Event::Decided { epoch, decision: Decision::Commit })
            }
            FromReplica::AbortBranch { gtid, branch, epoch } => {
                ((gtid, branch), Event::Decided { epoch, decision: Decision::Abort })
            }
            other => {
                said.broken = Some(format!("an instance is told {other:?}"));
                return said;
            }
        };
        self.takes(key, event, now_ms, &mut said);
        said
    }

    /// A hook comes to its end.
    pub(crate) fn hook_returns(&mut self, database: &mut Database, at: usize, turn: Turn, now_ms: u64) -> Said {
        let mut said = Said::default();
        let (key, hook) = self.hooks.remove(at);
        let event = match hook {
            Hook::Prepare { one_phase, .. } => {
                let vote = database.prepares(key, one_phase, turn, now_ms);
                said.vote = Some(vote.clone());
                Event::PrepareFinished(vote)
            }
            Hook::Commit | Hook::Abort => {
                let decision = if hook == Hook::Commit { Decision::Commit } else { Decision::Abort };
                let failed = || HookEnd::Failed("error".into());
                Event::EndFinished(match turn {
                    Turn::FailsBefore => failed(),
                    Turn::FailsAfter => {
                        database.ends(key, decision);
                        failed()
                    }
                    Turn::Well | Turn::No | Turn::ReadOnly => HookEnd::Ended(database.ends(key, decision)),
                })
            }
        };
        self.takes(key, event, now_ms, &mut said);
        said
    }

    pub(crate) fn timer_fires(&mut self, key: BranchKey, timer: branch::Timer, now_ms: u64) -> Said {
        let mut said = Said::default();
        self.timers.remove(&(key, timer));
        self.takes(key, Event::TimerFired(timer), now_ms, &mut said);
        said
    }

    /// A service is called: it prepares a branch of its own, and enlists it.
    pub(crate) fn is_called(&mut self, database: &mut Database, key: BranchKey, now_ms: u64) -> EarlyVote {
        database.prepared.insert(key, now_ms);
        let (branch, output) = Branch::in_doubt(key.0);
        self.branches.insert(key, branch);
        self.carry_out(key, now_ms, output.peek_effects(), &mut Said::default());
        EarlyVote::Yes
    }

    /// The enlistment was refused, or the call failed before it: the service undoes its work.
    pub(crate) fn withdraws(&mut self, database: &mut Database, key: BranchKey) {
        self.branches.remove(&key);
        self.timers.retain(|(of, _), _| *of != key);
        database.prepared.remove(&key);
    }

    fn takes(&mut self, key: BranchKey, event: Event, now_ms: u64, said: &mut Said) {
        let before = self.branches.remove(&key);
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
        self.branches.insert(key, after);
        self.carry_out(key, now_ms, output.peek_effects(), said);
        if is_ended {
            self.branches.remove(&key);
            self.timers.retain(|(of, _), _| *of != key);
        }
    }

    fn carry_out(&mut self, key: BranchKey, now_ms: u64, effects: &[Effect], said: &mut Said) {
        for effect in effects {
            match effect {
                Effect::Call(hook) => self.hooks.push((key, hook.clone())),
                Effect::Send(message) => said.messages.push(FromClient::branch(key.0, key.1, Message::clone(message))),
                Effect::SetTimer { timer, after_ms, .. } => {
                    self.timers.insert((key, *timer), now_ms + after_ms);
                }
                Effect::Contradiction { doing } => {
                    said.broken =
                        Some(format!("I3 a decision never changes: {doing:?} was ordered, and now the other"));
                }
            }
        }
    }
}
