//! A participant: one database, and instances that come and go.

use std::collections::{BTreeMap, BTreeSet};

use assent_protocol::branch::{Hook, HookEnd};
use assent_protocol::ids::BranchId;
use assent_protocol::message::{FromClient, VoterPlace};
use assent_protocol::three_phase::{self, StoreId, VoterName, VoterRecord};
use assent_protocol::two_phase::{BranchResult, Vote};
use assent_protocol::{Decision, Gtid, ParticipantName};

use super::instance::Instance;
use super::setup::VoterKind;
use super::steps::Places;
use super::voter::VoterStore;

/// One branch at a participant. It may have others of the same transaction, where a call came twice.
pub(crate) type BranchKey = (Gtid, BranchId);

/// The participant's database, which all instances share.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    /// The branches that are prepared, and since when.
    pub(crate) prepared: BTreeMap<BranchKey, u64>,
    /// How often each transaction's work took effect.
    pub(crate) applied: BTreeMap<Gtid, u32>,
    /// The branches whose work took effect.
    pub(crate) committed: BTreeSet<BranchKey>,
    /// The branches that were prepared and are undone.
    pub(crate) undone: BTreeSet<BranchKey>,
    /// The branches whose hook said that they can commit, or have nothing to commit.
    pub(crate) agreed: BTreeSet<BranchKey>,
    /// What a one-phase prepare came to, recorded with its work.
    alone: BTreeMap<BranchKey, Vote>,
    /// The steps of sagas, behind the barrier.
    pub(crate) steps: Places,
    /// What the participant's voter keeps.
    pub(crate) voter: VoterStore,
    /// It was lost once: nothing has to end here, and nothing is expected of it.
    pub(crate) was_lost: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Bank {
    pub(crate) name: ParticipantName,
    pub(crate) database: Database,
    pub(crate) instances: Vec<Option<Instance>>,
}

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
    /// To the voters of other participants.
    pub(crate) questions: Vec<Question>,
    pub(crate) broken: Option<String>,
    /// What a prepare came to.
    pub(crate) vote: Option<Vote>,
}

/// A question to a peer's voter.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) gtid: Gtid,
    pub(crate) to: VoterName,
    pub(crate) request: three_phase::Request,
}

impl Bank {
    pub(crate) fn new(at: usize, name: ParticipantName, kind: VoterKind, instances: usize) -> Self {
        Self { name, database: Database::new(kind, StoreId(10 + at as u128)), instances: vec![None; instances] }
    }

    /// Where its voter is: all instances share the address.
    pub(crate) fn voter_place(&self) -> Option<VoterPlace> {
        let address = format!("http://{}:7421", self.name).parse().expect("an address");
        let store = self.database.voter.id;
        self.database.voter.is_there().then_some(VoterPlace { address, store })
    }

    pub(crate) fn voter_name(&self) -> VoterName {
        VoterName::Participant(self.name.clone())
    }
}

impl Database {
    fn new(kind: VoterKind, id: StoreId) -> Self {
        Self {
            prepared: BTreeMap::new(),
            applied: BTreeMap::new(),
            committed: BTreeSet::new(),
            undone: BTreeSet::new(),
            agreed: BTreeSet::new(),
            alone: BTreeMap::new(),
            steps: Places::new(),
            voter: VoterStore::new(kind, id),
            was_lost: false,
        }
    }

    /// An empty one takes its place. What had taken effect is not looked at any more.
    pub(crate) fn is_lost(&mut self) {
        let kind = if self.voter.is_there() { VoterKind::Table } else { VoterKind::None };
        *self = Self { was_lost: true, ..Self::new(kind, StoreId(self.voter.id.0 + 100)) };
    }

    pub(crate) fn prepares(&mut self, key: BranchKey, one_phase: bool, turn: Turn, now_ms: u64) -> Vote {
        if let Some(recorded) = self.alone.get(&key) {
            return recorded.clone();
        }
        if self.prepared.contains_key(&key) {
            self.agreed.insert(key);
            return Vote::Yes;
        }
        let error = || Vote::Unknown("error".into());
        match (turn, one_phase) {
            (Turn::FailsBefore, _) => error(),
            (Turn::No, false) => Vote::No("no".into()),
            (Turn::ReadOnly, false) => {
                self.agreed.insert(key);
                Vote::ReadOnly
            }
            (Turn::Well | Turn::FailsAfter, false) => {
                self.prepared.insert(key, now_ms);
                if turn == Turn::FailsAfter {
                    return error();
                }
                self.agreed.insert(key);
                Vote::Yes
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

    /// A service prepares a branch by itself.
    pub(crate) fn prepares_early(&mut self, key: BranchKey, now_ms: u64) {
        self.prepared.insert(key, now_ms);
        self.agreed.insert(key);
    }

    /// The service undoes what it has prepared by itself.
    pub(crate) fn withdraws(&mut self, key: BranchKey) {
        self.prepared.remove(&key);
    }

    /// The hook that ends a branch, and what it came to.
    pub(crate) fn hook_ends(&mut self, key: BranchKey, hook: &Hook, turn: Turn) -> HookEnd {
        let decision = if *hook == Hook::Commit { Decision::Commit } else { Decision::Abort };
        let failed = || HookEnd::Failed("error".into());
        match turn {
            Turn::FailsBefore => failed(),
            Turn::FailsAfter => {
                self.ends(key, decision);
                failed()
            }
            Turn::Well | Turn::No | Turn::ReadOnly => HookEnd::Ended(self.ends(key, decision)),
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
            Decision::Abort if was_prepared => drop(self.undone.insert(key)),
            Decision::Abort => {
                // A one-phase prepare that is still on its way finds that it was forbidden.
                self.alone.entry(key).or_insert_with(|| Vote::No("aborted before".into()));
            }
            Decision::Commit => {}
        }
        BranchResult::Done
    }

    /// What is wrong with calling a hook to end a branch now: a branch whose voter has voted follows
    /// it.
    pub(crate) fn contradicts_its_voter(&self, key: BranchKey, decision: Decision) -> Option<String> {
        let (name, record) = self.vote_for(key)?;
        let kept = record.state.standing.decision();
        let is_wrong = self.prepared.contains_key(&key) && kept != Some(decision);
        is_wrong.then(|| format!("I6 {name} is to {decision}, and its voter keeps {kept:?}"))
    }

    /// What is wrong with a branch that commits now: there has to be something to commit.
    pub(crate) fn commits_nothing(&self, key: BranchKey) -> Option<String> {
        let (name, record) = self.vote_for(key)?;
        let may_commit = self.prepared.contains_key(&key) || self.committed.contains(&key) || record.is_read_only;
        (!may_commit && !self.was_lost).then(|| format!("I2 {name} commits what is not prepared"))
    }

    /// The record of the voter that has voted for a branch.
    fn vote_for(&self, key: BranchKey) -> Option<(&ParticipantName, &VoterRecord)> {
        let record = self.voter.record(key.0)?;
        let seat = record.roster.as_ref()?.participants().iter().find(|seat| seat.branch == key.1)?;
        Some((&seat.participant, record))
    }
}
