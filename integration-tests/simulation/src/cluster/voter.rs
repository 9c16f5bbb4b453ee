//! The store of a participant's voter, which all of its instances share.

use std::collections::{BTreeMap, BTreeSet};

use assent_protocol::three_phase::{Answer, Request, StoreId, Voter, VoterName, VoterRecord, cells, invariant};
use assent_protocol::{Decision, Gtid, Record};

use super::cells::THREE_PHASE;
use super::setup::VoterKind;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct VoterStore {
    kind: VoterKind,
    /// Its identity: another one takes its place once it is lost.
    pub(crate) id: StoreId,
    records: BTreeMap<Gtid, VoterRecord>,
    /// What a crash leaves of those of which the rest is only noted.
    on_disk: BTreeMap<Gtid, VoterRecord>,
    /// The transactions whose records were deleted.
    pub(crate) forgotten: BTreeSet<Gtid>,
}

/// What a voter answered.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) answer: Answer,
    /// What the store has now.
    pub(crate) kept: Option<VoterRecord>,
    pub(crate) has_changed: bool,
    pub(crate) broken: Option<String>,
}

impl VoterStore {
    pub(crate) fn new(kind: VoterKind, id: StoreId) -> Self {
        Self { kind, id, records: BTreeMap::new(), on_disk: BTreeMap::new(), forgotten: BTreeSet::new() }
    }

    /// Whether there is a voter at all.
    pub(crate) fn is_there(&self) -> bool {
        self.kind != VoterKind::None
    }

    pub(crate) fn record(&self, gtid: Gtid) -> Option<&VoterRecord> {
        self.records.get(&gtid)
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &VoterRecord> {
        self.records.values()
    }

    /// Loads the voter, asks it, and keeps what it wants kept.
    pub(crate) fn asks(&mut self, gtid: Gtid, me: &VoterName, from: &VoterName, request: Request) -> Asked {
        let before = Voter::load(gtid, me.clone(), self.id, self.records.get(&gtid));
        let (state, kind) = cells::of_voter(&before, &request);
        THREE_PHASE.hit(state, kind);
        let mut voter = before.clone();
        let output = voter.handle(from, request.clone());
        let broken = invariant::check_voter(&before, &request, &voter, &output).err();
        let answer = output.peek_effects()[0];
        let mut has_changed = false;
        if let Some(Record::Voter(record)) = output.records().next() {
            has_changed = true;
            let before = self.records.insert(gtid, (**record).clone());
            if output.forced().is_some() {
                self.on_disk.remove(&gtid);
            } else if let (VoterKind::File, Some(before)) = (self.kind, before) {
                self.on_disk.entry(gtid).or_insert(before);
            }
        }
        let kept = self.records.get(&gtid).cloned();
        Asked { answer, kept, has_changed, broken: broken.map(|violation| violation.to_string()) }
    }

    /// The only process dies.
    pub(crate) fn loses_notes(&mut self) {
        self.records.append(&mut self.on_disk);
    }

    /// Deletes a record, if it knows how the transaction ended.
    pub(crate) fn forgets(&mut self, gtid: Gtid) -> Option<Decision> {
        let decision = self.records.get(&gtid)?.state.standing.decision()?;
        self.records.remove(&gtid);
        self.on_disk.remove(&gtid);
        self.forgotten.insert(gtid);
        Some(decision)
    }

    /// The decision that a voter which had voted keeps. A refusal without a vote says nothing once
    /// the transaction is forgotten.
    pub(crate) fn decision(&self, gtid: Gtid) -> Option<Decision> {
        let record = self.records.get(&gtid)?;
        let is_refusal = record.roster.is_none() && self.forgotten.contains(&gtid);
        record.state.standing.decision().filter(|_| !is_refusal)
    }
}
