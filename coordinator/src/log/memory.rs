//! The log in memory, for simulation and tests: deterministic, with failures on demand. It keeps
//! nothing.
//!
//! A [`MemoryLog`] is one process's handle; [`MemoryLog::another`] gives another process's handle
//! to the same storage. So a crash is to drop a handle, and a zombie is to keep one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use assent_protocol::record::{Attempted, Decided, Delegated, Ended, SagaStarted, SagaStep};
use assent_protocol::saga::StepIndex;
use assent_protocol::three_phase::{Roster, VoterState};
use assent_protocol::verdict::Standing;
use assent_protocol::{Appended, Epoch, Gtid, Name, ParticipantName, Protocol};
use futures::future::{BoxFuture, FutureExt as _, ready};

use super::lease::Holder;
use super::plan::{Plan, Written};
use super::verdict::{answer, durable};
use super::{
    AppendError, Batch, EndedTransaction, Filter, Found, Kind, Lease, Log, LogError, LoggedStep, Maintenance, OpenSaga,
    OpenTransaction, Owned, Page, PageToken, Shown, State, Transaction, Unreadable, stored,
};

/// How long a lease lasts, by the log's own clock.
const LEASE: Duration = Duration::from_secs(10);

/// What the next append of a handle does instead of succeeding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// Nothing is appended, and the log was not reached.
    Unreachable,
    /// Nothing is appended, and nobody knows.
    UnknownAndLost,
    /// It is appended, and nobody knows.
    UnknownButApplied,
    /// Nothing is appended: the disk is full.
    Full,
}

/// A handle to a log in memory.
#[derive(Debug, Default)]
pub struct MemoryLog {
    storage: Arc<Mutex<Storage>>,
    handle: Mutex<Handle>,
}

/// What one process has.
#[derive(Debug, Default)]
struct Handle {
    held: Option<(Name, Epoch)>,
    failures: VecDeque<Failure>,
    /// The log cannot be reached at all.
    is_out: bool,
    is_closed: bool,
}

/// What all processes share.
#[derive(Debug, Default)]
struct Storage {
    replicas: BTreeMap<Name, Replica>,
    drawn: u64,
    /// The clock of the leases, which stands still but for [`MemoryLog::pass`].
    passed: Duration,
    open: BTreeMap<Gtid, Row>,
    unreadable: BTreeMap<Gtid, String>,
    history: BTreeMap<Gtid, EndedTransaction>,
    pins: BTreeSet<Gtid>,
    participants: BTreeSet<ParticipantName>,
    appends: u64,
}

#[derive(Debug)]
struct Replica {
    epoch: Epoch,
    leased_until: Duration,
}

#[derive(Debug)]
enum Row {
    /// With what the log had as a voter, where it was one.
    Decided {
        record: Decided,
        vote: Option<(Roster, VoterState)>,
        at_ms: u64,
        owner: Epoch,
    },
    Delegated {
        record: Delegated,
        at_ms: u64,
        owner: Epoch,
    },
    Attempted {
        record: Attempted,
        state: VoterState,
        at_ms: u64,
        owner: Epoch,
    },
    Saga(SagaRow),
}

impl Row {
    fn owner(&self) -> Epoch {
        match self {
            Self::Decided { owner, .. }
            | Self::Delegated { owner, .. }
            | Self::Attempted { owner, .. }
            | Self::Saga(SagaRow { owner, .. }) => *owner,
        }
    }

    fn owner_mut(&mut self) -> &mut Epoch {
        match self {
            Self::Decided { owner, .. }
            | Self::Delegated { owner, .. }
            | Self::Attempted { owner, .. }
            | Self::Saga(SagaRow { owner, .. }) => owner,
        }
    }
}

#[derive(Debug)]
struct SagaRow {
    started: SagaStarted,
    turned: Option<String>,
    paused: Option<String>,
    steps: BTreeMap<(StepIndex, bool), LoggedStep>,
    at_ms: u64,
    owner: Epoch,
}

#[derive(Debug, thiserror::Error)]
#[error("injected: {0}")]
struct Injected(&'static str);

impl MemoryLog {
    /// A handle to a new, empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another process's handle to the same log. It holds no epoch.
    pub fn another(&self) -> Self {
        Self { storage: Arc::clone(&self.storage), handle: Mutex::default() }
    }

    /// Makes the next append of this handle fail; more calls make the ones after it fail too, in
    /// order.
    pub fn fail_next_append(&self, failure: Failure) {
        self.handle().failures.push_back(failure);
    }

    /// Starts or ends an outage, for this handle: while it lasts every call fails as unreachable.
    pub fn set_outage(&self, is_out: bool) {
        self.handle().is_out = is_out;
    }

    /// Draws a higher epoch for the replica of this handle, as another process of its name would:
    /// this one is fenced.
    pub fn fence(&self) {
        if let Some((name, _)) = &self.handle().held {
            // One of the same name is never refused.
            self.storage().acquire(name, None).ok();
        }
    }

    /// Lets time pass for all leases, which lapse in no other way.
    pub fn pass(&self, time: Duration) {
        self.storage().passed += time;
    }

    /// Makes an open transaction unreadable, as a damaged row would be.
    pub fn spoil(&self, gtid: Gtid, reason: &str) {
        self.storage().unreadable.insert(gtid, reason.to_owned());
    }

    /// How many batches were applied, by all handles.
    pub fn appends(&self) -> u64 {
        self.storage().appends
    }

    fn handle(&self) -> MutexGuard<'_, Handle> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn storage(&self) -> MutexGuard<'_, Storage> {
        self.storage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append_now(&self, batch: &Batch) -> Result<Vec<Appended>, AppendError> {
        let mut handle = self.handle();
        let unreachable = |why| AppendError::Unreachable { log: self.describe(), source: Injected(why).into() };
        if handle.is_closed {
            return Err(unreachable("closed"));
        }
        if handle.is_out {
            return Err(unreachable("outage"));
        }
        let failure = handle.failures.pop_front();
        let unknown =
            || AppendError::UnknownOutcome { log: self.describe(), source: Injected("connection lost").into() };
        match failure {
            None | Some(Failure::UnknownButApplied) => {}
            Some(Failure::Unreachable) => return Err(unreachable("no connection")),
            Some(Failure::UnknownAndLost) => return Err(unknown()),
            Some(Failure::Full) => {
                return Err(AppendError::Full { log: self.describe(), source: Injected("disk full").into() });
            }
        }
        let Some((replica, held)) = &handle.held else {
            return Err(AppendError::Fenced { held: Epoch::default(), current: Epoch::default() });
        };
        let mut storage = self.storage();
        let current = storage.current_epoch(replica);
        if current != *held {
            return Err(AppendError::Fenced { held: *held, current });
        }
        let answers = storage.append(batch, *held);
        if failure.is_some() {
            return Err(unknown());
        }
        answers.ok_or_else(unknown)
    }

    fn call<T>(&self, work: impl FnOnce(&mut Storage) -> T) -> Result<T, LogError> {
        let handle = self.handle();
        if handle.is_out || handle.is_closed {
            let why = if handle.is_closed { "closed" } else { "outage" };
            return Err(LogError::Unreachable { log: self.describe(), source: Injected(why).into() });
        }
        Ok(work(&mut self.storage()))
    }
}

impl Storage {
    /// `own` is what the handle held before.
    fn acquire(&mut self, replica: &Name, own: Option<&(Name, Epoch)>) -> Result<Epoch, Holder> {
        let now = self.passed;
        let is_own =
            |name: &Name, other: &Replica| own.is_some_and(|(own, epoch)| own == name && *epoch == other.epoch);
        let others = self.replicas.iter().filter(|(name, other)| *name != replica && !is_own(name, other));
        let holder = others.max_by_key(|(_, other)| other.leased_until).filter(|(_, other)| other.leased_until > now);
        if let Some((name, other)) = holder {
            let until_ms = u64::try_from(other.leased_until.as_millis()).unwrap_or(u64::MAX);
            return Err(Holder { replica: name.to_string(), until_ms, left: other.leased_until - now });
        }
        for other in self.replicas.values_mut() {
            self.drawn += 1;
            *other = Replica { epoch: Epoch(self.drawn), leased_until: now };
        }
        self.drawn += 1;
        let epoch = Epoch(self.drawn);
        self.replicas.insert(replica.clone(), Replica { epoch, leased_until: now + LEASE });
        for row in self.open.values_mut() {
            *row.owner_mut() = epoch;
        }
        Ok(epoch)
    }

    /// Zero if there is no such replica.
    fn current_epoch(&self, replica: &Name) -> Epoch {
        self.replicas.get(replica).map(|replica| replica.epoch).unwrap_or_default()
    }

    /// Renews the lease of an epoch, or gives it up. Answers whether the epoch stands.
    fn lease_for(&mut self, replica: &Name, held: Epoch, lease: Duration) -> bool {
        let now = self.passed;
        match self.replicas.get_mut(replica) {
            Some(replica) if replica.epoch == held => {
                replica.leased_until = now + lease;
                true
            }
            Some(_) | None => false,
        }
    }

    /// `None`: what stands is older than a record, as it can only be when a batch breaks its
    /// contract.
    fn append(&mut self, batch: &Batch, held: Epoch) -> Option<Vec<Appended>> {
        let plan = Plan::new(batch);
        let written = self.write(&plan, batch.at_ms, held);
        self.appends += 1;
        if written.settles(batch, &plan) {
            return Some(batch.forced.iter().map(durable).collect());
        }
        batch.forced.iter().map(|record| answer(record, self.standing(record.gtid()).as_ref(), held)).collect()
    }

    fn write(&mut self, plan: &Plan<'_>, at_ms: u64, owner: Epoch) -> Written {
        let mut written = Written::default();
        for decided in &plan.decisions {
            let row = Row::Decided { record: (*decided).clone(), vote: None, at_ms, owner };
            let is_written = self.insert(decided.gtid, row) || self.settle(decided, at_ms, owner);
            written.opened += u64::from(is_written);
        }
        for delegated in &plan.delegations {
            let row = Row::Delegated { record: (*delegated).clone(), at_ms, owner };
            written.opened += u64::from(self.insert(delegated.gtid, row));
        }
        for decided in &plan.agreements {
            written.agreed += u64::from(self.agree(decided, at_ms, owner));
        }
        for attempted in &plan.attempts {
            let row = Row::Attempted { record: (*attempted).clone(), state: VoterState::ATTEMPTED, at_ms, owner };
            written.opened += u64::from(self.insert(attempted.gtid, row));
        }
        for vote in &plan.votes {
            match self.open.get_mut(&vote.gtid) {
                Some(Row::Attempted { state, owner: theirs, .. }) if *theirs == owner && *state == vote.before => {
                    *state = vote.state;
                    written.voted += 1;
                }
                Some(Row::Attempted { .. } | Row::Delegated { .. } | Row::Decided { .. } | Row::Saga(_)) | None => {}
            }
        }
        for started in &plan.starts {
            let (turned, paused, steps) = (None, None, BTreeMap::new());
            let row = Row::Saga(SagaRow { started: (*started).clone(), turned, paused, steps, at_ms, owner });
            written.opened += u64::from(self.insert(started.gtid, row));
        }
        for change in &plan.changes {
            let Some(saga) = self.own_saga(change.gtid, owner) else { continue };
            if let Some(reason) = change.turned {
                saga.turned.get_or_insert_with(|| reason.to_owned());
            }
            if let Some(remedy) = change.paused {
                saga.paused = remedy.map(str::to_owned);
            }
            written.changed += 1;
        }
        for step in &plan.steps {
            let Some(saga) = self.own_saga(step.gtid, owner) else { continue };
            let logged = LoggedStep { record: SagaStep::clone(step), at_ms };
            saga.steps.insert((step.step, step.compensation), logged);
            written.stepped += 1;
        }
        for ended in &plan.ends {
            if !self.standing(ended.gtid).is_some_and(|row| row.is_ended_by(ended, owner)) {
                continue;
            }
            let Some(row) = self.open.remove(&ended.gtid) else { continue };
            let (begun_at_ms, digest, decided_at_ms) = match row {
                Row::Decided { record, at_ms, .. } => (record.begun_at_ms, record.digest, at_ms),
                Row::Delegated { record, .. } => (record.begun_at_ms, record.digest, at_ms),
                Row::Attempted { record, .. } => (record.begun_at_ms, record.digest, at_ms),
                Row::Saga(saga) => (saga.started.begun_at_ms, saga.started.digest, saga.at_ms),
            };
            let ended = Ended { begun_at_ms, digest, ..Ended::clone(ended) };
            self.end(&ended, Some(decided_at_ms), at_ms);
            written.ended += 1;
        }
        for ended in &plan.unopened {
            if !self.open.contains_key(&ended.gtid) && !self.history.contains_key(&ended.gtid) {
                self.end(ended, None, at_ms);
            }
        }
        written
    }

    fn own_saga(&mut self, gtid: Gtid, held: Epoch) -> Option<&mut SagaRow> {
        match self.open.get_mut(&gtid) {
            Some(Row::Saga(saga)) if saga.owner == held => Some(saga),
            Some(_) | None => None,
        }
    }

    /// The row gets the voters' decision, and keeps what it was opened with.
    fn agree(&mut self, decided: &Decided, at_ms: u64, held: Epoch) -> bool {
        let Some(row) = self.open.get_mut(&decided.gtid) else { return false };
        let Row::Attempted { record, state, owner, .. } = row else { return false };
        if *owner != held {
            return false;
        }
        let vote = Some((record.roster.clone(), *state));
        let Attempted { digest, begun_at_ms, .. } = *record;
        let record = Decided { digest, begun_at_ms, ..decided.clone() };
        *row = Row::Decided { record, vote, at_ms, owner: held };
        true
    }

    /// Our own delegation gets a decision, and keeps what it was opened with.
    fn settle(&mut self, decided: &Decided, at_ms: u64, held: Epoch) -> bool {
        let Some(row) = self.open.get_mut(&decided.gtid) else { return false };
        let Row::Delegated { record, owner, .. } = row else { return false };
        if *owner != held {
            return false;
        }
        let (digest, begun_at_ms) = (record.digest, record.begun_at_ms);
        let record = Decided { protocol: Protocol::TwoPhase, digest, begun_at_ms, ..decided.clone() };
        *row = Row::Decided { record, vote: None, at_ms, owner: held };
        true
    }

    fn insert(&mut self, gtid: Gtid, row: Row) -> bool {
        let is_new = !self.open.contains_key(&gtid) && !self.history.contains_key(&gtid);
        if is_new {
            self.open.insert(gtid, row);
        }
        is_new
    }

    fn end(&mut self, ended: &Ended, decided_at_ms: Option<u64>, ended_at_ms: u64) {
        let record = Ended { has_open_row: false, ..ended.clone() };
        self.history.insert(ended.gtid, EndedTransaction { record, decided_at_ms, ended_at_ms });
    }

    fn standing(&self, gtid: Gtid) -> Option<Standing> {
        match self.open.get(&gtid) {
            Some(Row::Decided { record, vote, owner, .. }) => Some(Standing::Decided {
                decision: record.decision,
                owner: *owner,
                members: record.members.clone(),
                vote: vote.as_ref().map(|(_, state)| *state),
            }),
            Some(Row::Delegated { record, owner, .. }) => {
                Some(Standing::Delegated { owner: *owner, digest: record.digest, member: record.member.clone() })
            }
            Some(Row::Attempted { record, state, owner, .. }) => Some(Standing::Attempted {
                owner: *owner,
                digest: record.digest,
                vote: Some((record.roster.clone(), *state)),
            }),
            Some(Row::Saga(saga)) => Some(Standing::Saga {
                owner: saga.owner,
                digest: saga.started.digest,
                has_turned: saga.turned.is_some(),
            }),
            None => self.history.get(&gtid).map(|EndedTransaction { record, .. }| Standing::Ended {
                outcome: record.outcome,
                members: record.told_to_commit(),
            }),
        }
    }

    fn read_open(&self, gtid: Gtid, row: &Row) -> Result<OpenTransaction, Unreadable> {
        if let Some(reason) = self.unreadable.get(&gtid) {
            return Err(Unreadable { gtid, reason: reason.clone() });
        }
        Ok(match row {
            Row::Decided { record, vote, at_ms, owner } => {
                let roster = vote.as_ref().map(|(roster, _)| roster.clone());
                OpenTransaction::Decided { record: record.clone(), roster, decided_at_ms: *at_ms, owner: *owner }
            }
            Row::Delegated { record, at_ms, owner } => {
                OpenTransaction::Delegated { record: record.clone(), delegated_at_ms: *at_ms, owner: *owner }
            }
            Row::Attempted { record, state, at_ms, owner } => OpenTransaction::Attempted {
                record: record.clone(),
                state: *state,
                attempted_at_ms: *at_ms,
                owner: *owner,
            },
            Row::Saga(saga) => OpenTransaction::Saga(OpenSaga {
                started: saga.started.clone(),
                turned: saga.turned.clone(),
                paused: saga.paused.clone(),
                steps: saga.steps.values().cloned().collect(),
                started_at_ms: saga.at_ms,
                owner: saga.owner,
            }),
        })
    }

    fn find(&self, gtid: Gtid) -> Option<Found> {
        match self.open.get(&gtid) {
            Some(row) => Some(self.read_open(gtid, row).map_or_else(Found::Unreadable, Found::Open)),
            None => self.history.get(&gtid).cloned().map(Found::Ended),
        }
    }

    fn list_open(&self, row: &Row) -> Transaction {
        match row {
            Row::Decided { record, at_ms, owner, .. } => Transaction {
                gtid: record.gtid,
                protocol: record.protocol,
                state: record.decision.into(),
                participants: record.members.iter().map(|member| member.participant.clone()).collect(),
                begun_at_ms: record.begun_at_ms,
                decided_at_ms: Some(*at_ms),
                ended_at_ms: None,
                reason: record.reason.clone(),
                remedy: None,
                owner: Some(*owner),
                pinned: self.pins.contains(&record.gtid),
            },
            Row::Delegated { record, owner, .. } => Transaction {
                gtid: record.gtid,
                protocol: Protocol::TwoPhase,
                state: State::Preparing,
                participants: vec![record.member.participant.clone()],
                begun_at_ms: record.begun_at_ms,
                decided_at_ms: None,
                ended_at_ms: None,
                reason: None,
                remedy: None,
                owner: Some(*owner),
                pinned: self.pins.contains(&record.gtid),
            },
            Row::Attempted { record, owner, .. } => Transaction {
                gtid: record.gtid,
                protocol: Protocol::ThreePhase,
                state: State::Preparing,
                participants: stored::voter_names(&record.roster).cloned().collect(),
                begun_at_ms: record.begun_at_ms,
                decided_at_ms: None,
                ended_at_ms: None,
                reason: None,
                remedy: None,
                owner: Some(*owner),
                pinned: self.pins.contains(&record.gtid),
            },
            Row::Saga(saga) => Transaction {
                gtid: saga.started.gtid,
                protocol: Protocol::Saga,
                state: match (&saga.paused, &saga.turned) {
                    (Some(_), _) => State::Paused,
                    (None, Some(_)) => State::Compensating,
                    (None, None) => State::Running,
                },
                participants: stored::saga_roster(&saga.started.definition).into_iter().cloned().collect(),
                begun_at_ms: saga.started.begun_at_ms,
                decided_at_ms: Some(saga.at_ms),
                ended_at_ms: None,
                reason: saga.turned.clone(),
                remedy: saga.paused.clone(),
                owner: Some(saga.owner),
                pinned: self.pins.contains(&saga.started.gtid),
            },
        }
    }

    fn list_ended(&self, ended: &EndedTransaction) -> Transaction {
        let mut participants: Vec<ParticipantName> = Vec::new();
        for branch in &ended.record.branches {
            if !participants.contains(&branch.participant) {
                participants.push(branch.participant.clone());
            }
        }
        Transaction {
            gtid: ended.record.gtid,
            protocol: ended.record.protocol,
            state: ended.record.outcome.into(),
            participants,
            begun_at_ms: ended.record.begun_at_ms,
            decided_at_ms: ended.decided_at_ms,
            ended_at_ms: Some(ended.ended_at_ms),
            reason: ended.record.reason.clone(),
            remedy: None,
            owner: None,
            pinned: self.pins.contains(&ended.record.gtid),
        }
    }

    fn list(&self, filter: &Filter, before: Option<Gtid>, limit: usize) -> Page {
        let open = self.open.values().map(|row| self.list_open(row));
        let ended = self.history.values().map(|ended| self.list_ended(ended));
        let all: BTreeMap<Gtid, Transaction> = open.chain(ended).map(|one| (one.gtid, one)).collect();
        let fits = |one: &Transaction| {
            (filter.states.is_empty() || filter.states.contains(&one.state))
                && filter.participant.as_ref().is_none_or(|name| one.participants.contains(name))
                && filter.begun_before_ms.is_none_or(|before_ms| one.begun_at_ms < before_ms)
                && filter.kind.is_none_or(|kind| (kind == Kind::Saga) == (one.protocol == Protocol::Saga))
                && before.is_none_or(|before| one.gtid < before)
        };
        let mut transactions: Vec<Transaction> = all.into_values().rev().filter(fits).collect();
        let has_more = transactions.len() > limit;
        transactions.truncate(limit);
        let next = transactions.last().filter(|_| has_more).map(|last| PageToken { before: last.gtid });
        Page { transactions, next }
    }

    fn show(&self, gtid: Gtid) -> Option<Shown> {
        let found = self.find(gtid)?;
        let open = self.open.get(&gtid).map(|row| self.list_open(row));
        let transaction = open.or_else(|| self.history.get(&gtid).map(|ended| self.list_ended(ended)))?;
        Some(Shown { transaction, found })
    }

    fn maintain(&mut self, now_ms: u64, retention: Duration) -> Maintenance {
        let keep_from_ms = now_ms.saturating_sub(u64::try_from(retention.as_millis()).unwrap_or(u64::MAX));
        let mut done = Maintenance::default();
        self.history.retain(|gtid, ended| {
            let is_old = ended.ended_at_ms < keep_from_ms;
            let is_pinned = self.pins.contains(gtid);
            done.transactions_forgotten += u64::from(is_old && !is_pinned);
            done.transactions_kept += u64::from(is_old && is_pinned);
            !is_old || is_pinned
        });
        done
    }

    fn pin(&mut self, gtid: Gtid, pinned: bool) -> bool {
        let is_known = self.open.contains_key(&gtid) || self.history.contains_key(&gtid);
        if pinned && is_known {
            self.pins.insert(gtid);
        } else {
            self.pins.remove(&gtid);
        }
        is_known
    }
}

impl Log for MemoryLog {
    fn append<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Vec<Appended>, AppendError>> {
        async move { self.append_now(batch) }.boxed()
    }

    fn acquire<'a>(&'a self, replica: &'a Name) -> BoxFuture<'a, Result<Epoch, LogError>> {
        async move {
            let own = self.handle().held.clone();
            let acquired = self.call(|storage| storage.acquire(replica, own.as_ref()))?;
            let epoch = acquired.map_err(|holder| holder.refusal(&self.describe()))?;
            self.handle().held = Some((replica.clone(), epoch));
            Ok(epoch)
        }
        .boxed()
    }

    fn renew(&self) -> BoxFuture<'_, Result<Lease, LogError>> {
        async move {
            let Some((replica, held)) = self.handle().held.clone() else { return Ok(Lease::NotAcquired) };
            let is_renewed = self.call(|storage| storage.lease_for(&replica, held, LEASE))?;
            Ok(if is_renewed { Lease::Renewed } else { Lease::Lost })
        }
        .boxed()
    }

    fn lease(&self) -> Duration {
        LEASE
    }

    fn open_transactions(
        &self,
        after: Option<Gtid>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(Gtid, Result<Owned, Unreadable>)>, LogError>> {
        let held = self.handle().held.clone();
        let read = move |storage: &mut Storage| {
            let Some((_, held)) = held else { return Vec::new() };
            let behind = storage.open.iter().filter(|(gtid, _)| after.is_none_or(|after| **gtid > after));
            let own = behind.filter(|(_, row)| row.owner() == held).take(limit);
            let read = own.map(|(gtid, row)| (*gtid, storage.read_open(*gtid, row)));
            read.filter_map(|(gtid, read)| Some((gtid, read.map(|open| Owned::by(held, open)).transpose()?))).collect()
        };
        async move { self.call(read) }.boxed()
    }

    fn lookup<'a>(&'a self, gtids: &'a [Gtid]) -> BoxFuture<'a, Result<Vec<(Gtid, Found)>, LogError>> {
        let read = |storage: &mut Storage| {
            let gtids: BTreeSet<Gtid> = gtids.iter().copied().collect();
            gtids.into_iter().filter_map(|gtid| Some((gtid, storage.find(gtid)?))).collect()
        };
        async move { self.call(read) }.boxed()
    }

    fn list<'a>(
        &'a self,
        filter: &'a Filter,
        page: Option<&'a PageToken>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, LogError>> {
        async move { self.call(|storage| storage.list(filter, page.map(|token| token.before), limit)) }.boxed()
    }

    fn show(&self, gtid: Gtid) -> BoxFuture<'_, Result<Option<Shown>, LogError>> {
        async move { self.call(|storage| storage.show(gtid)) }.boxed()
    }

    fn coordinator_id(&self) -> BoxFuture<'_, Result<String, LogError>> {
        async move { self.call(|_| "00000000-0000-4000-8000-000000000000".to_owned()) }.boxed()
    }

    fn participants(&self) -> BoxFuture<'_, Result<Vec<ParticipantName>, LogError>> {
        async move { self.call(|storage| storage.participants.iter().cloned().collect()) }.boxed()
    }

    fn note_participant<'a>(&'a self, name: &'a ParticipantName) -> BoxFuture<'a, Result<(), LogError>> {
        let note = |storage: &mut Storage| {
            storage.participants.insert(name.clone());
        };
        async move { self.call(note) }.boxed()
    }

    fn maintain(&self, now_ms: u64, retention: Duration) -> BoxFuture<'_, Result<Maintenance, LogError>> {
        async move { self.call(|storage| storage.maintain(now_ms, retention)) }.boxed()
    }

    fn pin(&self, gtid: Gtid, pinned: bool) -> BoxFuture<'_, Result<bool, LogError>> {
        async move { self.call(|storage| storage.pin(gtid, pinned)) }.boxed()
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), LogError>> {
        async move { self.call(|_| ()) }.boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let mut handle = self.handle();
        if let Some((replica, held)) = handle.held.as_ref().filter(|_| !handle.is_closed && !handle.is_out) {
            self.storage().lease_for(replica, *held, Duration::ZERO);
        }
        handle.is_closed = true;
        ready(()).boxed()
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

#[cfg(test)]
mod tests;
