//! A voter's state in a local file.
//!
//! The file is a [journal](crate::journal) of its own kind: records that replace one another, and a label with the store's identity. A
//! record's payload begins with its state, in a fixed form, so that "replace this state" can be said by its first bytes alone.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use assent_protocol::three_phase::{Ballot, NodeId, Roster, Standing, StoreId, VoterName, VoterRecord, VoterState};
use assent_protocol::{BranchId, BranchKey, Epoch, Gtid, GtidMap, ParticipantName};
use bytes::{Buf as _, Bytes};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::store::{Identity, Kept, Recalled, Store, VoterStoreError, Write, durable, readable};
use crate::journal::{Beginning, Change, JournalFile, Kind, Payload, Verdict};

/// A voter's state in a local file, for participants whose data is not in Postgres.
///
/// One process has it open at a time. Votes at the same time share a flush; a file that a crash has cut short is mended when it is opened. A
/// clone is the same store.
#[derive(Clone, Debug)]
pub struct FileVoters {
    file: JournalFile,
    owner: Arc<OnceLock<ParticipantName>>,
    memory: Arc<Mutex<Memory>>,
}

/// What need not be read, nor written as JSON, again.
#[derive(Debug, Default)]
struct Memory {
    /// The records that were written, as they are durable, or as was noted over that.
    records: GtidMap<Arc<VoterRecord>>,
    /// What was noted over which state, and when, in order.
    noted: VecDeque<(Instant, Gtid, VoterState)>,
    /// What stood last behind a state and the branches: whoever commits together once does so again,
    /// for other branches.
    rest: Option<Rest>,
}

impl Memory {
    fn is_decided(&self, gtid: Gtid) -> bool {
        self.records.get(&gtid).is_some_and(|record| record.state.standing.decision().is_some())
    }
}

/// What was noted so long ago is written down.
const NOTED: Duration = Duration::from_secs(1);

/// The label: the store's identity, and the coordinator's id behind it.
const STORE_ID_BYTES: usize = 16;

impl FileVoters {
    /// Opens the file at a path, or creates it there with an identity of its own. The directory must exist.
    ///
    /// # Errors
    /// [`VoterStoreError::File`] if the file is in use, damaged, or something else.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, VoterStoreError> {
        let file = JournalFile::open(Kind::Voters, path.as_ref()).await?;
        if file.label().is_empty() {
            file.append(Change::Labelled(label(StoreId(rand::random()), ""))).await?;
        }
        Ok(Self { file, owner: Arc::default(), memory: Arc::default() })
    }

    fn identity(&self) -> Identity {
        let label = self.file.label();
        // The label was written by `open`, with a checksum.
        let (id, coordinator) = label.split_at(STORE_ID_BYTES.min(label.len()));
        let id = StoreId(u128::from_be_bytes(id.try_into().unwrap_or_default()));
        let coordinator = String::from_utf8_lossy(coordinator).into_owned();
        Identity { id, coordinator: (!coordinator.is_empty()).then_some(coordinator) }
    }

    fn read(&self, gtid: Gtid) -> Result<Option<Arc<VoterRecord>>, VoterStoreError> {
        if let Some(record) = self.memory().records.get(&gtid) {
            return Ok(Some(Arc::clone(record)));
        }
        self.file.payload(BranchKey::whole(gtid)).map(|payload| decode(gtid, &payload).map(Arc::new)).transpose()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Each map is whole after every insertion and removal, and either may miss what the other has.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, Write { record, before }: &Write) -> Change {
        match before {
            Some(before) => begun(record.gtid, before, &record.state),
            None => {
                let mut memory = self.memory();
                let rest = match memory.rest.take().filter(|rest| rest.is_of(record)) {
                    Some(rest) => memory.rest.insert(rest),
                    None => memory.rest.insert(Rest::of(record)),
                };
                Change::Placed(BranchKey::whole(record.gtid), rest.payload(record))
            }
        }
    }

    /// Writes down what was noted [`NOTED`] ago; most was forgotten by then.
    async fn keep_notes_at(&self, now: Instant) -> Result<(), VoterStoreError> {
        let changes: Vec<Change> = {
            let mut memory = self.memory();
            let old = memory.noted.partition_point(|(since, ..)| *since + NOTED <= now);
            let noted: Vec<_> = memory.noted.drain(..old).collect();
            let kept = noted.into_iter().filter(|(_, gtid, _)| memory.is_decided(*gtid));
            let committed = |before| VoterState { standing: Standing::Committed, ..before };
            kept.map(|(_, gtid, before)| begun(gtid, &before, &committed(before))).collect()
        };
        if !changes.is_empty() {
            // One that is overtaken has moved on, or is gone.
            for verdict in self.file.append_all(changes).await {
                verdict?;
            }
        }
        Ok(())
    }

    fn records(&self) -> Vec<VoterRecord> {
        let noted = |gtid| self.memory().records.get(&gtid).map(|record| VoterRecord::clone(record));
        let record =
            |(key, payload): (BranchKey, Bytes)| noted(key.gtid).map_or_else(|| decode(key.gtid, &payload), Ok);
        readable(self.file.all().into_iter().map(record)).collect()
    }

    fn claim(&self, me: &ParticipantName) -> Result<Identity, VoterStoreError> {
        let mine = VoterName::Participant(me.clone());
        let stranger = self.records().into_iter().map(|record| record.voter).find(|voter| *voter != mine);
        let owner =
            stranger.map_or_else(|| self.owner.get_or_init(|| me.clone()).to_string(), |voter| voter.to_string());
        if owner != me.as_str() {
            return Err(VoterStoreError::OtherParticipant { owner, asked: me.clone() });
        }
        Ok(self.identity())
    }
}

impl Store for FileVoters {
    fn open(&self, me: &ParticipantName) -> BoxFuture<'_, Result<Identity, VoterStoreError>> {
        let claimed = self.claim(me);
        async move { claimed }.boxed()
    }

    fn bind(&self, coordinator: &str) -> BoxFuture<'_, Result<(), VoterStoreError>> {
        let Identity { id, coordinator: bound } = self.identity();
        let coordinator = coordinator.to_owned();
        async move {
            match bound {
                Some(bound) if bound == coordinator => Ok(()),
                Some(bound) => Err(VoterStoreError::OtherCoordinator { bound, found: coordinator }),
                None => {
                    self.file.append(Change::Labelled(label(id, &coordinator))).await?;
                    Ok(())
                }
            }
        }
        .boxed()
    }

    fn recall(&self, gtid: Gtid) -> Recalled {
        match self.read(gtid) {
            Ok(record) => Recalled::Known(record),
            // Whoever loads it is told what is wrong.
            Err(_) => Recalled::Unknown,
        }
    }

    fn load(&self, gtid: Gtid) -> BoxFuture<'_, Result<Option<Arc<VoterRecord>>, VoterStoreError>> {
        async move { self.read(gtid) }.boxed()
    }

    fn append(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Vec<Kept>, VoterStoreError>> {
        async move {
            let changes = writes.iter().map(|write| self.change(write)).collect();
            let verdicts = self.file.append_all(changes).await;
            let mut memory = self.memory();
            let kept = writes.into_iter().zip(verdicts).map(|(Write { record, .. }, verdict)| match verdict? {
                // It was noted meanwhile how the transaction has ended: whoever asked is to hear that.
                Verdict::Written if memory.is_decided(record.gtid) => Ok(Kept::Overtaken),
                Verdict::Written => {
                    let (gtid, id) = (record.gtid, record.id());
                    // Another append, or its end, may have come between the flush and this.
                    if self.file.begins_with(BranchKey::whole(gtid), &beginning(&record.state)) {
                        memory.records.insert(gtid, record);
                    }
                    Ok(durable(id))
                }
                Verdict::Overtaken => {
                    if !memory.is_decided(record.gtid) {
                        memory.records.remove(&record.gtid);
                    }
                    Ok(Kept::Overtaken)
                }
            });
            kept.collect()
        }
        .boxed()
    }

    /// Nobody else has the file open: whoever asks is answered from memory.
    fn note(&self, Write { record, before }: &Write) -> bool {
        let mut memory = self.memory();
        // It may have moved on meanwhile, or have been forgotten.
        let stands =
            before.is_some_and(|before| self.file.begins_with(BranchKey::whole(record.gtid), &beginning(&before)));
        if stands {
            memory.records.insert(record.gtid, Arc::clone(record));
            memory.noted.extend(before.map(|before| (Instant::now(), record.gtid, before)));
        }
        stands
    }

    fn keep_notes(&self) -> BoxFuture<'_, Result<(), VoterStoreError>> {
        self.keep_notes_at(Instant::now()).boxed()
    }

    fn forget(&self, gtids: Vec<Gtid>) -> BoxFuture<'_, Result<(), VoterStoreError>> {
        async move {
            // What is decided stays so: nobody comes in between.
            let may_go = |gtid: &Gtid| {
                if self.memory().is_decided(*gtid) {
                    return true;
                }
                let state = self.file.payload(BranchKey::whole(*gtid)).and_then(|payload| state(*gtid, &payload).ok());
                state.is_some_and(|state| state.standing.decision().is_some())
            };
            let gtids: Vec<Gtid> = gtids.into_iter().filter(may_go).collect();
            let ends = gtids.iter().map(|gtid| Change::Ended(BranchKey::whole(*gtid))).collect();
            let ended: Result<Vec<Verdict>, _> = self.file.append_all(ends).await.into_iter().collect();
            ended?;
            let mut memory = self.memory();
            for gtid in gtids {
                memory.records.remove(&gtid);
            }
            Ok(())
        }
        .boxed()
    }

    fn all(&self) -> BoxFuture<'_, Result<Vec<VoterRecord>, VoterStoreError>> {
        std::future::ready(Ok(self.records())).boxed()
    }
}

fn label(id: StoreId, coordinator: &str) -> Bytes {
    [&id.0.to_be_bytes()[..], coordinator.as_bytes()].concat().into()
}

// ---- a record's payload ------------------------------------------------------------------------------------------------

/// What stands behind the state and the branches, and its JSON. The roster is that of any branches.
#[derive(Clone, Debug)]
struct Rest {
    voter: VoterName,
    roster: Option<Roster>,
    is_read_only: bool,
    bytes: Bytes,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Written<V, R> {
    voter: V,
    roster: R,
    is_read_only: bool,
}

impl Rest {
    fn of(record: &VoterRecord) -> Self {
        let VoterRecord { voter, roster, is_read_only, .. } = record.clone();
        let written = Written { voter: &voter, roster: roster.as_ref().map(of_no_branches), is_read_only };
        // Names, numbers and addresses: there is nothing in it that JSON could refuse.
        let bytes = serde_json::to_vec(&written).expect("a voter's record is written as JSON").into();
        Self { voter, roster, is_read_only, bytes }
    }

    fn payload(&self, record: &VoterRecord) -> Payload {
        let mut beginning = beginning(&record.state);
        if let Some(roster) = &record.roster {
            put_branches(&mut beginning, roster);
        }
        Payload::new(beginning, self.bytes.clone())
    }

    fn is_of(&self, record: &VoterRecord) -> bool {
        let is_like = match (&self.roster, &record.roster) {
            (Some(one), Some(other)) => one.is_like(other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.is_read_only == record.is_read_only && self.voter == record.voter && is_like
    }
}

/// Stands in front of the branches: the JSON begins with another one.
const BRANCHES: u8 = b'b';
const BRANCH_BYTES: usize = 8 + 8;

fn of_no_branches(roster: &Roster) -> Roster {
    let none = roster.branches().map(|_| BranchId::NONE);
    roster.with_branches(none).expect("one for each participant")
}

/// The branches that are voted for, which no other transaction has. They are left out where none
/// has an id.
fn put_branches(bytes: &mut Beginning, roster: &Roster) {
    if roster.branches().all(|branch| branch.is_none()) {
        return;
    }
    bytes.push(BRANCHES);
    // A roster is shorter than that.
    let count = u16::try_from(roster.branches().len()).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&count.to_be_bytes());
    for BranchId { epoch, number } in roster.branches() {
        bytes.extend_from_slice(&epoch.0.to_be_bytes());
        bytes.extend_from_slice(&number.to_be_bytes());
    }
}

const BALLOT_BYTES: usize = 8 + 16;
/// Standing, last ballot joined, whether one was accepted, and which.
const STATE_BYTES: usize = 1 + BALLOT_BYTES + 1 + BALLOT_BYTES;

const STANDINGS: [Standing; 5] =
    [Standing::Waiting, Standing::PreCommitted, Standing::PreAborted, Standing::Committed, Standing::Aborted];

fn standing_number(standing: Standing) -> u8 {
    match standing {
        Standing::Waiting => 0,
        Standing::PreCommitted => 1,
        Standing::PreAborted => 2,
        Standing::Committed => 3,
        Standing::Aborted => 4,
    }
}

fn begun(gtid: Gtid, before: &VoterState, after: &VoterState) -> Change {
    Change::Begun { key: BranchKey::whole(gtid), before: beginning(before), beginning: beginning(after) }
}

/// What the payload of a record in this state begins with.
fn beginning(state: &VoterState) -> Beginning {
    let mut bytes = Beginning::new();
    let mut put_ballot = |ballot: Ballot, first: u8| {
        bytes.push(first);
        bytes.extend_from_slice(&ballot.round.to_be_bytes());
        bytes.extend_from_slice(&ballot.node.0.to_be_bytes());
    };
    put_ballot(state.joined, standing_number(state.standing));
    match state.accepted {
        Some(accepted) => put_ballot(accepted, 1),
        None => put_ballot(Ballot { round: 0, node: NodeId(0) }, 0),
    }
    bytes
}

/// The state that a payload begins with.
fn state(gtid: Gtid, payload: &[u8]) -> Result<VoterState, VoterStoreError> {
    let unreadable = |problem: String| VoterStoreError::Unreadable { gtid, problem };
    let state = payload.get(..STATE_BYTES).ok_or_else(|| unreadable("it is too short".to_owned()))?;
    let (joined, accepted) = state.split_at(1 + BALLOT_BYTES);
    let standing = STANDINGS.get(usize::from(joined[0])).copied();
    let ballot =
        |bytes| ballot(bytes).ok_or_else(|| unreadable("a ballot's round is none that there can be".to_owned()));
    Ok(VoterState {
        standing: standing.ok_or_else(|| unreadable(format!("standing {} is none", joined[0])))?,
        joined: ballot(&joined[1..])?,
        accepted: if accepted[0] == 1 { Some(ballot(&accepted[1..])?) } else { None },
    })
}

fn decode(gtid: Gtid, payload: &[u8]) -> Result<VoterRecord, VoterStoreError> {
    let unreadable = |problem: String| VoterStoreError::Unreadable { gtid, problem };
    let state = state(gtid, payload)?;
    let (branches, json) =
        split_branches(&payload[STATE_BYTES..]).ok_or_else(|| unreadable("its branches are cut short".to_owned()))?;
    let written: Written<VoterName, Option<Roster>> =
        serde_json::from_slice(json).map_err(|error| unreadable(error.to_string()))?;
    let Written { voter, mut roster, is_read_only } = written;
    if let Some(branches) = branches {
        let with_branches = roster.and_then(|roster| roster.with_branches(branches.into_iter()));
        roster = Some(with_branches.ok_or_else(|| unreadable("its branches are of another roster".to_owned()))?);
    }
    Ok(VoterRecord { gtid, voter, roster, is_read_only, state, before: None })
}

/// The branches, if there are any in front of it, and the JSON.
fn split_branches(bytes: &[u8]) -> Option<(Option<Vec<BranchId>>, &[u8])> {
    let Some((&BRANCHES, rest)) = bytes.split_first() else { return Some((None, bytes)) };
    let (count, rest) = rest.split_first_chunk()?;
    let (branches, json) = rest.split_at_checked(usize::from(u16::from_be_bytes(*count)) * BRANCH_BYTES)?;
    let branch = |mut bytes: &[u8]| BranchId { epoch: Epoch(bytes.get_u64()), number: bytes.get_u64() };
    Some((Some(branches.chunks_exact(BRANCH_BYTES).map(branch).collect()), json))
}

fn ballot(mut bytes: &[u8]) -> Option<Ballot> {
    let ballot = Ballot { round: bytes.get_u64(), node: NodeId(bytes.get_u128()) };
    (1..=Ballot::ROUND_MAX).contains(&ballot.round).then_some(ballot)
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests {
    use assent_protocol::three_phase::Seat;

    use super::*;

    fn gtid() -> Gtid {
        Gtid::new(uuid::Uuid::now_v7()).expect("version 7")
    }

    fn name(text: &str) -> ParticipantName {
        text.parse().expect("a name")
    }

    fn record(gtid: Gtid, state: VoterState, before: Option<VoterState>) -> VoterRecord {
        let seat = Seat {
            participant: name("bank-a"),
            branch: BranchId { epoch: Epoch(7), number: u64::MAX },
            address: "http://127.0.0.1:7421".parse().expect("an address"),
            store: StoreId(u128::MAX - 1),
        };
        let roster = Some(Roster::new(vec![seat], StoreId(7)).expect("a roster"));
        let voter = VoterName::Participant(name("bank-a"));
        VoterRecord { gtid, voter, roster, is_read_only: true, state, before }
    }

    const HIGH: Ballot = Ballot { round: Ballot::ROUND_MAX, node: NodeId(u128::MAX) };
    const JOINED: VoterState = VoterState { standing: Standing::Waiting, joined: HIGH, accepted: None };
    const ACCEPTED: VoterState = VoterState { standing: Standing::PreAborted, joined: HIGH, accepted: Some(HIGH) };
    const ENDED: VoterState = VoterState { standing: Standing::Aborted, ..ACCEPTED };

    fn write(gtid: Gtid, state: VoterState, before: Option<VoterState>) -> Write {
        record(gtid, state, before).into()
    }

    async fn kept(voters: &FileVoters, record: VoterRecord) -> bool {
        let kept = voters.append(vec![record.into()]).await.expect("written");
        matches!(kept.as_slice(), [Kept::Durable(_)])
    }

    #[test]
    fn what_is_written_is_read() {
        for state in [VoterState::WAITING, VoterState::ATTEMPTED, VoterState::REFUSED, JOINED, ACCEPTED, ENDED] {
            let record = record(gtid(), state, None);
            assert_eq!(decode(record.gtid, &Rest::of(&record).payload(&record).bytes()).expect("reads"), record);
            let refused = VoterRecord { roster: None, is_read_only: false, ..record };
            assert_eq!(decode(refused.gtid, &Rest::of(&refused).payload(&refused).bytes()).expect("reads"), refused);
        }
        let joined = record(gtid(), JOINED, None);
        let mut written = Rest::of(&joined).payload(&joined).bytes().to_vec();
        written[STATE_BYTES + 2] = 2;
        decode(gtid(), &written).expect_err("another count of branches");
        decode(gtid(), &written[..STATE_BYTES + 8]).expect_err("branches that are cut short");
        decode(gtid(), b"short").expect_err("too short");
        decode(gtid(), &[9; STATE_BYTES + 2]).expect_err("no standing");
    }

    #[tokio::test]
    async fn it_does_what_every_store_does() {
        let directory = tempfile::tempdir().expect("a directory");
        let voters = FileVoters::open(directory.path().join("voters")).await.expect("opens");
        super::super::conformance::run(async || voters.clone()).await;
    }

    #[tokio::test]
    async fn what_was_kept_is_there_when_it_is_opened_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("voters");
        let gtid = gtid();
        let voters = FileVoters::open(&path).await.expect("opens");
        let identity = Store::open(&voters, &name("bank-a")).await.expect("claimed");
        assert!(kept(&voters, record(gtid, VoterState::WAITING, None)).await);
        assert!(kept(&voters, record(gtid, ACCEPTED, Some(VoterState::WAITING))).await);
        drop(voters);
        let voters = FileVoters::open(&path).await.expect("opens again");
        assert_eq!(Store::open(&voters, &name("bank-a")).await.expect("claimed"), identity);
        assert_eq!(voters.all().await.expect("reads"), [record(gtid, ACCEPTED, None)]);
        assert!(kept(&voters, record(gtid, ENDED, Some(ACCEPTED))).await);
        voters.forget(vec![gtid]).await.expect("done");
        drop(voters);
        let voters = FileVoters::open(&path).await.expect("opens again");
        assert_eq!(voters.all().await.expect("reads"), []);
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_read_stops_no_other() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("voters");
        let (damaged, sound) = (gtid(), gtid());
        let voters = FileVoters::open(&path).await.expect("opens");
        assert!(kept(&voters, record(sound, VoterState::WAITING, None)).await);
        let no_record = Payload::new(beginning(&VoterState::WAITING), Bytes::from_static(b"no record"));
        voters.file.append(Change::Placed(BranchKey::whole(damaged), no_record)).await.expect("kept");
        drop(voters);
        let voters = FileVoters::open(&path).await.expect("opens");
        Store::open(&voters, &name("bank-a")).await.expect("claimed");
        assert_eq!(voters.all().await.expect("reads"), [record(sound, VoterState::WAITING, None)]);
        let error = voters.load(damaged).await.expect_err("it does not read");
        assert!(matches!(error, VoterStoreError::Unreadable { gtid, .. } if gtid == damaged), "{error}");
        assert!(kept(&voters, record(gtid(), VoterState::WAITING, None)).await, "votes go on");
    }

    const COMMITTED: VoterState = VoterState { standing: Standing::Committed, ..VoterState::ATTEMPTED };

    #[tokio::test]
    async fn what_is_noted_is_known_until_the_file_is_closed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("voters");
        let gtid = gtid();
        let voters = FileVoters::open(&path).await.expect("opens");
        assert!(kept(&voters, record(gtid, VoterState::WAITING, None)).await);
        assert!(kept(&voters, record(gtid, VoterState::ATTEMPTED, Some(VoterState::WAITING))).await);
        assert!(voters.note(&write(gtid, COMMITTED, Some(VoterState::ATTEMPTED))));
        let noted = Arc::new(record(gtid, COMMITTED, None));
        assert_eq!(voters.recall(gtid), Recalled::Known(Some(Arc::clone(&noted))));
        assert_eq!(voters.load(gtid).await.expect("reads"), Some(Arc::clone(&noted)));
        assert_eq!(voters.all().await.expect("reads"), std::slice::from_ref(&*noted));
        // What was under way when it was noted does not undo it, and whoever asked looks again.
        let joined = VoterState { joined: HIGH, ..VoterState::ATTEMPTED };
        assert!(!kept(&voters, record(gtid, joined, Some(VoterState::ATTEMPTED))).await);
        assert!(!kept(&voters, record(gtid, ACCEPTED, Some(VoterState::WAITING))).await);
        assert_eq!(voters.load(gtid).await.expect("reads"), Some(noted));
        drop(voters);
        let voters = FileVoters::open(&path).await.expect("opens again");
        assert_eq!(voters.all().await.expect("reads"), [record(gtid, joined, None)]);
        voters.forget(vec![gtid]).await.expect("done");
        assert_eq!(
            voters.all().await.expect("reads"),
            [record(gtid, joined, None)],
            "it has to learn the outcome first"
        );
        assert!(!voters.note(&write(gtid, COMMITTED, Some(VoterState::ATTEMPTED))), "it stands elsewhere");
        assert!(voters.note(&write(gtid, COMMITTED, Some(joined))));
        voters.forget(vec![gtid]).await.expect("done");
        assert_eq!(voters.all().await.expect("reads"), []);
        assert!(!voters.note(&write(gtid, COMMITTED, Some(joined))), "it is gone");
        assert_eq!(voters.recall(gtid), Recalled::Known(None));
    }

    #[tokio::test]
    async fn what_was_noted_some_time_ago_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("voters");
        let (late, forgotten, fresh) = (gtid(), gtid(), gtid());
        let voters = FileVoters::open(&path).await.expect("opens");
        for gtid in [late, forgotten, fresh] {
            assert!(kept(&voters, record(gtid, VoterState::ATTEMPTED, None)).await);
        }
        for gtid in [late, forgotten] {
            assert!(voters.note(&write(gtid, COMMITTED, Some(VoterState::ATTEMPTED))));
        }
        let noted = Instant::now();
        voters.forget(vec![forgotten]).await.expect("done");
        assert!(voters.note(&write(fresh, COMMITTED, Some(VoterState::ATTEMPTED))));
        voters.keep_notes_at(noted + NOTED).await.expect("kept");
        drop(voters);
        let voters = FileVoters::open(&path).await.expect("opens again");
        let expected = [record(late, COMMITTED, None), record(fresh, VoterState::ATTEMPTED, None)];
        assert_eq!(voters.all().await.expect("reads"), expected);
    }

    #[tokio::test]
    async fn a_file_belongs_to_one_participant_and_one_coordinator() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("voters");
        let voters = FileVoters::open(&path).await.expect("opens");
        let identity = Store::open(&voters, &name("bank-a")).await.expect("claimed");
        assert_eq!(identity.coordinator, None);
        voters.bind("one").await.expect("bound");
        assert!(kept(&voters, record(gtid(), VoterState::WAITING, None)).await);
        drop(voters);
        let voters = FileVoters::open(&path).await.expect("opens again");
        let error = Store::open(&voters, &name("bank-b")).await.expect_err("it has bank-a's votes");
        assert!(matches!(error, VoterStoreError::OtherParticipant { .. }), "{error}");
        let again = Store::open(&voters, &name("bank-a")).await.expect("claimed");
        assert_eq!(again, Identity { coordinator: Some("one".into()), ..identity });
    }

    #[tokio::test]
    async fn a_store_that_is_made_anew_has_another_identity() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("voters");
        let first = FileVoters::open(&path).await.expect("opens").identity();
        std::fs::remove_file(&path).expect("removed");
        assert_ne!(FileVoters::open(&path).await.expect("opens").identity().id, first.id);
        crate::journal::Journal::open(&path).await.expect_err("it is no journal");
    }
}
