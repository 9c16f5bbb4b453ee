//! The participant's own voter: loaded from its store for each request, asked, and kept before it answers.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use assent_protocol::agent::{Asked, Question};
use assent_protocol::three_phase::{Answer, Bar, Request, StoreId, Voter, VoterName, VoterRecord};
use assent_protocol::{Durable, Gtid, GtidSet, Held, ParticipantName, Parts, Record};

use super::store::{AnyStore, Kept, Recalled, VoterStoreError, Write};

/// The voter of one participant.
pub(crate) struct OwnVoter {
    me: ParticipantName,
    name: VoterName,
    id: StoreId,
    store: AnyStore,
    forgotten: Mutex<Forgotten>,
}

/// The transactions whose records were deleted lately, in two generations: the older one goes as a whole.
struct Forgotten {
    recent: GtidSet,
    older: GtidSet,
    /// When the recent generation began.
    since: Instant,
    /// When the youngest of them was minted, by its initiator's clock: what is younger is not among them.
    youngest_ms: u64,
}

/// How long they are remembered, at least, and while fewer than 50,000 are forgotten each second: longer than a peer waits for an answer, and than an order to prepare is on its way. Without this the voter, which
/// has no record any more, would refuse the one and vote anew on the other. Whoever knows of its vote needs no such time, see docs/decisions/0007.
const REMEMBERED: Duration = Duration::from_secs(10);
/// At most so many in each generation.
const REMEMBERED_MAX: usize = 1 << 19;

impl Forgotten {
    fn new() -> Self {
        Self { recent: GtidSet::default(), older: GtidSet::default(), since: Instant::now(), youngest_ms: 0 }
    }

    fn remember(&mut self, gtids: &[Gtid]) {
        let now = Instant::now();
        if now.duration_since(self.since) > REMEMBERED || self.recent.len() >= REMEMBERED_MAX {
            self.older = std::mem::take(&mut self.recent);
            self.since = now;
        }
        self.recent.extend(gtids);
        self.youngest_ms = gtids.iter().map(Gtid::minted_at_ms).fold(self.youngest_ms, u64::max);
    }

    fn contains(&self, gtid: Gtid) -> bool {
        gtid.minted_at_ms() <= self.youngest_ms && (self.recent.contains(&gtid) || self.older.contains(&gtid))
    }
}

impl OwnVoter {
    pub(crate) fn new(me: ParticipantName, id: StoreId, store: AnyStore) -> Arc<Self> {
        let name = VoterName::Participant(me.clone());
        Arc::new(Self { me, name, id, store, forgotten: Mutex::new(Forgotten::new()) })
    }

    pub(crate) fn participant(&self) -> &ParticipantName {
        &self.me
    }

    pub(crate) fn id(&self) -> StoreId {
        self.id
    }

    pub(crate) fn store(&self) -> &AnyStore {
        &self.store
    }

    /// Deletes the records of transactions that have ended everywhere.
    pub(crate) async fn forget(&self, gtids: Vec<Gtid>) -> Result<(), VoterStoreError> {
        self.forgotten().remember(&gtids);
        self.store.forget(gtids).await
    }

    /// Whether its record was deleted lately.
    pub(crate) fn has_forgotten(&self, gtid: Gtid) -> bool {
        self.forgotten().contains(gtid)
    }

    fn forgotten(&self) -> MutexGuard<'_, Forgotten> {
        // Whatever it was interrupted in, a transaction too few or too many is remembered.
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks it, in the name of whoever the transport has authenticated.
    pub(crate) async fn ask(&self, gtid: Gtid, from: &VoterName, request: Request) -> Result<Asked, VoterStoreError> {
        let mut known = match self.recalled(gtid, &request) {
            Recalled::Known(known) => known,
            Recalled::Unknown => self.store.load(gtid).await?,
        };
        loop {
            match self.hear(gtid, from, request.clone(), known) {
                Heard::Answered(asked) => return Ok(asked),
                Heard::ToKeep(write, answer) => {
                    let record = Arc::clone(&write.record);
                    let kept = self.store.append(vec![write]).await?;
                    match kept.into_iter().next() {
                        Some(Kept::Durable(receipt)) => return Ok(answer.released(record, &receipt)),
                        // Each time, somebody else's request has got through.
                        Some(Kept::Overtaken) | None => known = self.store.load(gtid).await?,
                    }
                }
            }
        }
    }

    /// Asks about many transactions, and keeps what follows with one append. `None` where that is not enough, because the store has to be
    /// looked at, somebody else came first, or it failed: [`ask`](Self::ask) then.
    pub(crate) async fn ask_each(&self, questions: &[Question]) -> Vec<Option<Asked>> {
        let mut answers: Vec<Option<Asked>> = Vec::with_capacity(questions.len());
        let (mut writes, mut waiting) = (Vec::new(), Vec::new());
        let mut changing = GtidSet::with_capacity_and_hasher(questions.len(), Default::default());
        for Question { gtid, from, request, .. } in questions {
            let Recalled::Known(known) = self.recalled(*gtid, request) else {
                answers.push(None);
                continue;
            };
            match self.hear(*gtid, from, request.clone(), known) {
                Heard::Answered(asked) => answers.push(Some(asked)),
                Heard::ToKeep(write, answer) => {
                    // What follows from a second question depends on what becomes of the first.
                    if changing.insert(*gtid) {
                        waiting.push((answers.len(), Arc::clone(&write.record), answer));
                        writes.push(write);
                    }
                    answers.push(None);
                }
            }
        }
        if writes.is_empty() {
            return answers;
        }
        match self.store.append(writes).await {
            Ok(kept) => {
                for ((at, record, answer), kept) in waiting.into_iter().zip(kept) {
                    if let Kept::Durable(receipt) = kept {
                        answers[at] = Some(answer.released(record, &receipt));
                    }
                }
            }
            Err(error) => tracing::debug!(
                error = &error as &dyn std::error::Error,
                questions = questions.len(),
                "the voter's store fails; asking one by one"
            ),
        }
        answers
    }

    /// Asks, if the answer needs no append and no look at the disk or the network.
    pub(crate) fn ask_at_once(&self, question: &Question) -> Option<Asked> {
        let Question { gtid, from, request, .. } = question;
        let Recalled::Known(known) = self.recalled(*gtid, request) else { return None };
        match self.hear(*gtid, from, request.clone(), known) {
            Heard::Answered(asked) => Some(asked),
            Heard::ToKeep(..) => None,
        }
    }

    /// What there is, as far as it is known or nearly certain.
    fn recalled(&self, gtid: Gtid, request: &Request) -> Recalled {
        match self.store.recall(gtid) {
            // A vote of yes is nearly always the first word: it is appended over nothing, and who finds something there looks.
            Recalled::Unknown if matches!(request, Request::VoteYes { .. }) => Recalled::Known(None),
            recalled => recalled,
        }
    }

    fn hear(&self, gtid: Gtid, from: &VoterName, request: Request, known: Option<Arc<VoterRecord>>) -> Heard {
        if known.is_none() && !matches!(request, Request::Decided(_)) && self.has_forgotten(gtid) {
            let answer = Answer::Barred(Bar::Forgotten);
            return Heard::Answered(Asked { answer, kept: None, has_changed: false });
        }
        let mut voter = Voter::load(gtid, self.name.clone(), self.id, known.as_deref());
        #[cfg(debug_assertions)]
        let (before, asked) = (voter.clone(), request.clone());
        let output = voter.handle(from, request);
        #[cfg(debug_assertions)]
        if let Err(violation) = assent_protocol::three_phase::invariant::check_voter(&before, &asked, &voter, &output) {
            panic!("{violation}: {asked:?} on {before:?}");
        }
        match output.split() {
            Parts::Free { lazy, effects } => match lazy.into_iter().next() {
                None => Heard::Answered(Asked { answer: only(effects), kept: known, has_changed: false }),
                Some(Record::Voter(record)) => {
                    let (write, answer) = (Write::from(*record), only(effects));
                    if self.store.note(&write) {
                        Heard::Answered(Asked { answer, kept: Some(write.record), has_changed: true })
                    } else {
                        Heard::ToKeep(write, Waiting::Free(answer))
                    }
                }
                Some(other) => unreachable!("a voter keeps voters' records, and not {other:?}"),
            },
            Parts::AfterAppend { forced: Record::Voter(record), held, .. } => {
                Heard::ToKeep(Write::from(*record), Waiting::Held(held))
            }
            Parts::AfterAppend { forced, .. } => unreachable!("a voter keeps voters' records, and not {forced:?}"),
        }
    }
}

/// What a voter says at once.
enum Heard {
    /// Its answer, which needs nothing to be kept.
    Answered(Asked),
    /// What has to be kept first.
    ToKeep(Write, Waiting),
}

/// An answer that waits until a record is kept.
enum Waiting {
    /// It rests on it.
    Held(Held<Answer>),
    /// It does not, but this store loses nothing.
    Free(Answer),
}

impl Waiting {
    fn released(self, record: Arc<VoterRecord>, receipt: &Durable) -> Asked {
        let answer = match self {
            Self::Held(held) => only(held.release(receipt)),
            Self::Free(answer) => answer,
        };
        Asked { answer, kept: Some(record), has_changed: true }
    }
}

fn only(answers: Vec<Answer>) -> Answer {
    answers.into_iter().next().expect("a voter answers every request")
}

impl fmt::Debug for OwnVoter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnVoter").field("participant", &self.me).field("store", &self.id).finish_non_exhaustive()
    }
}
