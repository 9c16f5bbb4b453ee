//! The participant's own voter: loaded from its store for each request, asked, and kept before it answers.

use std::fmt;
use std::sync::Arc;

use assent_protocol::three_phase::{Answer, Request, StoreId, Voter, VoterName, VoterRecord};
use assent_protocol::{Gtid, ParticipantName, Parts, Record};

use super::store::{AnyStore, Kept, Recalled, VoterStoreError};

/// The voter of one participant.
pub(crate) struct OwnVoter {
    me: ParticipantName,
    name: VoterName,
    id: StoreId,
    store: AnyStore,
}

/// What a voter answered.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The answer. What it rests on is durable.
    pub(crate) answer: Answer,
    /// What the store has now.
    pub(crate) kept: Option<VoterRecord>,
    /// Whether this request has changed it.
    pub(crate) has_changed: bool,
}

/// A question of somebody else to the own voter, and what it answered.
#[derive(Debug)]
pub(crate) struct Overheard {
    /// Who asked.
    pub(crate) from: VoterName,
    /// What.
    pub(crate) request: Request,
    /// And the answer.
    pub(crate) asked: Asked,
}

impl OwnVoter {
    pub(crate) fn new(me: ParticipantName, id: StoreId, store: AnyStore) -> Arc<Self> {
        let name = VoterName::Participant(me.clone());
        Arc::new(Self { me, name, id, store })
    }

    pub(crate) fn participant(&self) -> &ParticipantName {
        &self.me
    }

    /// Who asks when the participant itself does.
    pub(crate) fn name(&self) -> &VoterName {
        &self.name
    }

    pub(crate) fn id(&self) -> StoreId {
        self.id
    }

    pub(crate) fn store(&self) -> &AnyStore {
        &self.store
    }

    /// Asks it, in the name of whoever the transport has authenticated.
    pub(crate) async fn ask(&self, gtid: Gtid, from: &VoterName, request: Request) -> Result<Asked, VoterStoreError> {
        let mut known = match self.store.recall(gtid) {
            Recalled::Known(record) => record.map(|record| *record),
            // A vote of yes is nearly always the first word: it is appended over nothing, and who finds something there looks.
            Recalled::Unknown if matches!(request, Request::VoteYes { .. }) => None,
            Recalled::Unknown => self.store.load(gtid).await?,
        };
        loop {
            let mut voter = Voter::load(gtid, self.name.clone(), self.id, known.clone());
            #[cfg(debug_assertions)]
            let before = voter.clone();
            let output = voter.handle(from, request.clone());
            #[cfg(debug_assertions)]
            if let Err(violation) =
                assent_protocol::three_phase::invariant::check_voter(&before, &request, &voter, &output)
            {
                panic!("{violation}: {request:?} on {before:?}");
            }
            match output.split() {
                Parts::Free { effects, .. } => {
                    return Ok(Asked { answer: only(effects), kept: known, has_changed: false });
                }
                Parts::AfterAppend { forced: Record::Voter(record), held, .. } => {
                    let record = *record;
                    match self.store.append(record.clone()).await? {
                        Kept::Durable(receipt) => {
                            let kept = Some(VoterRecord { before: None, ..record });
                            return Ok(Asked { answer: only(held.release(&receipt)), kept, has_changed: true });
                        }
                        // Each time, somebody else's request has got through.
                        Kept::Overtaken => known = self.store.load(gtid).await?,
                    }
                }
                Parts::AfterAppend { forced, .. } => unreachable!("a voter keeps voters' records, and not {forced:?}"),
            }
        }
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
