//! The participant's voter: its store, and its peers. The agent decides what they are asked.
//!
//! All questions of a turn are asked together, so that they share an append, and those that this
//! could not answer one by one; only an outcome for which nothing has to be kept is answered at
//! once.

use std::sync::Arc;
use std::time::Duration;

use assent_proto::session::VoterPlace;
use assent_proto::voter;
use assent_protocol::Gtid;
use assent_protocol::agent::{Asked, Input, PeerQuestion, Question};
use assent_protocol::three_phase::{PeerAddress, Request, VoterName, VoterRecord};
use rand::RngExt;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Engine, Settings};
use crate::error::ConnectError;
use crate::voter::store::{Recalled, VoterStoreError};
use crate::voter::{OwnVoter, Peers};

/// What the engine has of the participant's voter.
pub(super) struct Voting {
    own: Arc<OwnVoter>,
    peers: Arc<Peers>,
    address: PeerAddress,
    coordinator: Option<String>,
    /// Records to be deleted together, and when.
    forgotten: Vec<Gtid>,
    forget_at: Instant,
}

/// A record that may go stays for so long, so that many go at once; were it much longer, what is
/// kept in memory would outgrow the processor's caches. Nothing rests on it; see
/// [`OwnVoter::has_forgotten`] for what does.
const FORGET_TOGETHER: Duration = Duration::from_millis(15);
/// How often outcomes that were noted and not forgotten are made durable.
const NOTES_KEPT_EVERY: Duration = if cfg!(test) { Duration::from_secs(3_600) } else { Duration::from_secs(1) };
/// How long an engine that ends waits for its last records to be deleted.
const FORGET_LAST_MAX: Duration = Duration::from_secs(1);
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
    /// An outcome that was only noted is kept after a while, unless it was ordered to be forgotten
    /// by then.
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

    /// What the agent wants of the voter, its store and its peers. What is answered at once may
    /// lead to more.
    pub(super) fn ask_voter(&mut self) {
        let Some(voting) = &mut self.voting else { return };
        let own = Arc::clone(&voting.own);
        let mut questions = Vec::new();
        loop {
            let mut answered = Vec::new();
            for question in self.agent.take_questions() {
                match at_once(&own, &question) {
                    Some(asked) => answered.push(Input::VoterAnswered { question, asked: Some(asked) }),
                    None => questions.push(question),
                }
            }
            let lookups: Vec<Gtid> = self.agent.take_lookups().collect();
            for gtid in lookups {
                match own.store().recall(gtid) {
                    Recalled::Known(record) => {
                        answered.push(Input::LookedUp { gtid, record, is_forgotten: own.has_forgotten(gtid) });
                    }
                    Recalled::Unknown => self.look_up(&own, gtid),
                }
            }
            if answered.is_empty() {
                break;
            }
            for input in answered {
                self.handle(input);
            }
        }
        if !questions.is_empty() {
            let (own, finish) = (Arc::clone(&own), self.finish.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = ask_all(&own, questions, &finish) => {}
                    // The engine has ended, and with it the agent that would hear the answers.
                    () = finish.closed() => {}
                }
            });
        }
        if self.agent.take_reading() {
            self.read_records(&own);
        }
        let peer_questions: Vec<PeerQuestion> = self.agent.take_peer_questions().collect();
        for question in peer_questions {
            self.ask_peer(question);
        }
        let forgotten: Vec<Gtid> = self.agent.take_forgotten().collect();
        if let Some(voting) = &mut self.voting
            && !forgotten.is_empty()
        {
            if voting.forgotten.is_empty() {
                voting.forget_at = Instant::now() + FORGET_TOGETHER;
            }
            voting.forgotten.extend(forgotten);
        }
    }

    fn look_up(&self, own: &Arc<OwnVoter>, gtid: Gtid) {
        let own = Arc::clone(own);
        self.spawn(async move {
            let record = until_it_answers(gtid, || own.store().load(gtid)).await;
            Some(Input::LookedUp { gtid, record, is_forgotten: own.has_forgotten(gtid) })
        });
    }

    fn read_records(&self, own: &Arc<OwnVoter>) {
        let own = Arc::clone(own);
        self.spawn(async move {
            match own.store().all().await {
                Ok(records) => Some(Input::RecordsRead(records)),
                // They are read again after a while.
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "ended records cannot be read");
                    None
                }
            }
        });
    }

    fn ask_peer(&self, question: PeerQuestion) {
        let Some(voting) = &self.voting else { return };
        let (peers, from) = (Arc::clone(&voting.peers), voting.own.participant().clone());
        let PeerQuestion { gtid, to, address, request } = question;
        self.spawn(async move {
            let question = voter::PeerQuestion { gtid, from, to: to.clone(), request };
            let answer = peers.ask(&address, question).await?;
            Some(Input::PeerAnswered { gtid, voter: VoterName::Participant(to), answer })
        });
    }
}

/// Mostly there is nothing to be kept for an outcome.
fn at_once(own: &OwnVoter, question: &Question) -> Option<Asked> {
    let is_outcome = question.session.is_none() && matches!(question.request, Request::Decided(_));
    is_outcome.then(|| own.ask_at_once(question)).flatten()
}

/// Asks all questions of a turn, and alone each that this does not answer.
async fn ask_all(own: &Arc<OwnVoter>, questions: Vec<Question>, finish: &mpsc::UnboundedSender<Input>) {
    let answers = own.ask_each(&questions).await;
    for (question, asked) in questions.into_iter().zip(answers) {
        if asked.is_some() {
            finish.send(Input::VoterAnswered { question, asked }).ok();
            continue;
        }
        let (own, finish) = (Arc::clone(own), finish.clone());
        tokio::spawn(async move {
            tokio::select! {
                asked = ask_alone(&own, &question) => drop(finish.send(Input::VoterAnswered { question: question.clone(), asked })),
                () = finish.closed() => {}
            }
        });
    }
}

/// A question of the branch itself is asked until it is answered. The coordinator asks its own once
/// more.
async fn ask_alone(own: &OwnVoter, question: &Question) -> Option<Asked> {
    let Question { gtid, from, request, .. } = question;
    if *from != VoterName::Log {
        return Some(until_it_answers(*gtid, || own.ask(*gtid, from, request.clone())).await);
    }
    match own.ask(*gtid, from, request.clone()).await {
        Ok(asked) => Some(asked),
        Err(error) => {
            tracing::warn!(%gtid, error = &error as &dyn std::error::Error, "the coordinator's question cannot be answered");
            None
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
