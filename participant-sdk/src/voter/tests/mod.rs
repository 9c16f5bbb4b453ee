//! The engine with a scripted coordinator over a real socket, and peers over real sockets.

pub(crate) mod hub;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use assent_proto::session::{FromClient, FromReplica, VoterMessage};
use assent_proto::v1::peer_service_client::PeerServiceClient;
use assent_proto::voter::PeerQuestion;
use assent_protocol::branch::Message;
use assent_protocol::three_phase::{
    Answer, Ballot, Bar, NodeId, Proposal, Request, Roster, Seat, Standing, StoreId, VoterRecord,
};
use assent_protocol::two_phase::Vote as Verdict;
use assent_protocol::{BranchId, BranchKey, Decision, Epoch, Gtid, ParticipantName};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::store::{Identity, Kept, Recalled, Store, Write};
use super::{FileVoters, VoterStoreError};
use crate::assent::mint;
use crate::{Assent, BoxError, Branch, Coordinator, Participant, Vote};
use hub::Hub;

const DEADLINE: Duration = Duration::from_secs(120);
const EPOCH: Epoch = Epoch(1);
const BRANCH: BranchId = BranchId { epoch: EPOCH, number: 31 };

/// A resource that survives its process.
#[derive(Clone, Debug, Default)]
struct Resource {
    prepared: Arc<Mutex<HashSet<Gtid>>>,
    ended: Arc<Mutex<BTreeMap<Gtid, Decision>>>,
}

impl Resource {
    fn end(&self, gtid: Gtid, decision: Decision) {
        self.prepared.lock().expect("no panic").remove(&gtid);
        let before = self.ended.lock().expect("no panic").insert(gtid, decision);
        assert!(before.is_none_or(|before| before == decision), "{gtid} ended twice, and differently");
    }

    fn ended(&self, gtid: Gtid) -> Option<Decision> {
        self.ended.lock().expect("no panic").get(&gtid).copied()
    }
}

impl Participant for Resource {
    async fn prepare(&self, branch: &Branch) -> Result<Vote, BoxError> {
        self.prepared.lock().expect("no panic").insert(branch.gtid());
        Ok(Vote::Yes)
    }
    async fn commit(&self, branch: &Branch) -> Result<(), BoxError> {
        self.end(branch.gtid(), Decision::Commit);
        Ok(())
    }
    async fn abort(&self, branch: &Branch) -> Result<(), BoxError> {
        self.end(branch.gtid(), Decision::Abort);
        Ok(())
    }
    async fn in_doubt(&self, _about: &Coordinator) -> Result<Vec<BranchKey>, BoxError> {
        Ok(self.prepared.lock().expect("no panic").iter().map(|gtid| BranchKey { gtid: *gtid, id: BRANCH }).collect())
    }
}

/// A participant that can be restarted: its port, its file and its resource stay.
struct Site {
    name: ParticipantName,
    address: String,
    listen: std::net::SocketAddr,
    file: PathBuf,
    resource: Resource,
    assent: Option<Assent>,
}

impl Site {
    async fn start(name: &str, directory: &Path, hub: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let listen = listener.local_addr().expect("bound");
        let mut site = Self {
            name: name.parse().expect("a name"),
            address: format!("http://{listen}"),
            listen,
            file: directory.join(name),
            resource: Resource::default(),
            assent: None,
        };
        site.join(hub, listener).await;
        site
    }

    async fn join(&mut self, hub: &str, listener: TcpListener) {
        let voters = FileVoters::open(&self.file).await.expect("opens");
        let assent = Assent::dial(hub)
            .participant(self.name.as_str(), self.resource.clone())
            .voter(voters, &self.address)
            .connect()
            .await
            .expect("joins");
        tokio::spawn(assent.serve_peers(listener).expect("it has a voter"));
        self.assent = Some(assent);
    }

    /// Ends the process, so to say, and starts it again.
    async fn restart(&mut self, hub: &str) {
        self.stop().await;
        let listener = loop {
            match TcpListener::bind(self.listen).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        self.join(hub, listener).await;
    }

    async fn stop(&mut self) {
        if let Some(assent) = self.assent.take() {
            assent.shutdown().await;
        }
    }

    fn store_id(&self) -> StoreId {
        let shared = self.assent.as_ref().expect("it runs").voter().expect("it has a voter");
        shared.id()
    }

    fn seat(&self) -> Seat {
        let address = self.address.parse().expect("an address");
        Seat { participant: self.name.clone(), branch: BRANCH, address, store: self.store_id() }
    }
}

fn roster(sites: &[&Site]) -> Roster {
    Roster::new(sites.iter().map(|site| site.seat()).collect(), StoreId(7)).expect("a roster")
}

fn prepare(gtid: Gtid, roster: &Roster) -> FromReplica {
    FromReplica::Prepare {
        gtid,
        branch: BRANCH,
        epoch: EPOCH,
        payload: bytes::Bytes::new(),
        timeout_ms: 10_000,
        one_phase: false,
        roster: Some(roster.clone()),
        is_prepared: false,
    }
}

fn branch_message(message: &FromClient) -> Option<&Message> {
    if let FromClient::Branch(report) = message { Some(&report.message) } else { None }
}

fn voter_message(message: &FromClient) -> Option<&VoterMessage> {
    if let FromClient::Voter(report) = message { Some(&report.message) } else { None }
}

fn is_yes(message: &FromClient, of: Gtid) -> bool {
    *message == FromClient::branch(of, BRANCH, Message::Vote(Verdict::Yes))
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"));
}

/// A store that waits for leave before it writes.
struct Gated {
    store: FileVoters,
    /// So many were asked for.
    writes: Arc<AtomicUsize>,
    gate: Arc<Notify>,
}

impl Store for Gated {
    fn open(&self, me: &ParticipantName) -> BoxFuture<'_, Result<Identity, VoterStoreError>> {
        self.store.open(me)
    }
    fn bind(&self, coordinator: &str) -> BoxFuture<'_, Result<(), VoterStoreError>> {
        self.store.bind(coordinator)
    }
    fn recall(&self, _gtid: Gtid) -> Recalled {
        Recalled::Unknown
    }
    fn load(&self, gtid: Gtid) -> BoxFuture<'_, Result<Option<Arc<VoterRecord>>, VoterStoreError>> {
        self.store.load(gtid)
    }
    fn append(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Vec<Kept>, VoterStoreError>> {
        async move {
            self.writes.fetch_add(writes.len(), SeqCst);
            self.gate.notified().await;
            self.store.append(writes).await
        }
        .boxed()
    }
    fn note(&self, _write: &Write) -> bool {
        false
    }
    fn keep_notes(&self) -> BoxFuture<'_, Result<(), VoterStoreError>> {
        self.store.keep_notes()
    }
    fn forget(&self, gtids: Vec<Gtid>) -> BoxFuture<'_, Result<(), VoterStoreError>> {
        self.store.forget(gtids)
    }
    fn all(&self) -> BoxFuture<'_, Result<Vec<VoterRecord>, VoterStoreError>> {
        self.store.all()
    }
}

/// Bank A, whose store waits for leave before it writes.
struct GatedSite {
    _directory: tempfile::TempDir,
    hub: Hub,
    assent: Assent,
    resource: Resource,
    store: FileVoters,
    writes: Arc<AtomicUsize>,
    gate: Arc<Notify>,
    roster: Roster,
}

impl GatedSite {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let hub = Hub::start().await;
        let (writes, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let store = FileVoters::open(directory.path().join("voters")).await.expect("opens");
        let gated = Gated { store: store.clone(), writes: Arc::clone(&writes), gate: Arc::clone(&gate) };
        let resource = Resource::default();
        let address = "http://127.0.0.1:1";
        let assent = Assent::dial(hub.address())
            .participant("bank-a", resource.clone())
            .voter(gated, address)
            .connect()
            .await
            .expect("joins");
        let seat = Seat {
            participant: "bank-a".parse().expect("a name"),
            branch: BRANCH,
            address: address.parse().expect("an address"),
            store: assent.voter().expect("it has one").id(),
        };
        let roster = Roster::new(vec![seat], StoreId(7)).expect("a roster");
        Self { _directory: directory, hub, assent, resource, store, writes, gate, roster }
    }

    async fn asked_for(&self, writes: usize) {
        eventually("the voter is asked", || self.writes.load(SeqCst) >= writes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_yes_leaves_once_it_is_durable_and_the_branch_ends_once_the_outcome_is() {
    let mut site = GatedSite::start().await;
    let gtid = mint();
    site.hub.tell("bank-a", prepare(gtid, &site.roster));
    site.asked_for(1).await;
    let has_voted = site.hub.has_heard(|message| matches!(branch_message(message), Some(Message::Vote(_)))).await;
    assert!(!has_voted, "a vote that is not durable");
    site.gate.notify_one();
    site.hub.expect("a yes", |message| is_yes(message, gtid)).await;
    let stored = site.store.load(gtid).await.expect("reads");
    assert_eq!(stored.map(|record| record.state.standing), Some(Standing::Waiting));

    site.hub.tell("bank-a", FromReplica::CommitBranch { gtid, branch: BRANCH, epoch: EPOCH });
    site.asked_for(2).await;
    assert_eq!(site.resource.ended(gtid), None, "an end that is not durable");
    site.gate.notify_one();
    site.hub
        .expect("an acknowledgement", |message| matches!(branch_message(message), Some(Message::Acknowledge(_))))
        .await;
    assert_eq!(site.resource.ended(gtid), Some(Decision::Commit));

    site.hub.tell("bank-a", FromReplica::ForgetVoters { gtids: vec![gtid] });
    eventually("the record goes", || matches!(site.store.recall(gtid), Recalled::Known(None))).await;
    site.assent.shutdown().await;
}

/// Two of three have accepted, and the third is told to commit while it does: it would write a commit over a mere vote, in vain.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_waits_for_the_acceptance_that_is_under_way() {
    let mut site = GatedSite::start().await;
    let (gtid, other) = (mint(), mint());
    site.hub.tell("bank-a", prepare(gtid, &site.roster));
    site.asked_for(1).await;
    site.gate.notify_one();
    site.hub.expect("a yes", |message| is_yes(message, gtid)).await;
    let request = Request::Propose { ballot: Ballot::FIRST, proposal: Proposal::PreCommit };
    site.hub.tell("bank-a", FromReplica::AskVoter { gtid, request });
    site.asked_for(2).await;
    site.hub.tell("bank-a", FromReplica::CommitBranch { gtid, branch: BRANCH, epoch: EPOCH });
    site.hub.tell("bank-a", prepare(other, &site.roster));
    site.asked_for(3).await;
    assert_eq!(site.writes.load(SeqCst), 3, "the acceptance, and the other one's vote");
    let gate = Arc::clone(&site.gate);
    let opening = tokio::spawn(async move {
        loop {
            gate.notify_one();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    site.hub
        .expect("an acknowledgement", |message| matches!(branch_message(message), Some(Message::Acknowledge(_))))
        .await;
    assert_eq!(site.resource.ended(gtid), Some(Decision::Commit));
    opening.abort();
    site.assent.shutdown().await;
}

/// Bank A votes yes in a transaction of its own.
async fn votes_alone(hub: &mut Hub, site: &Site) -> Gtid {
    let gtid = mint();
    hub.tell("bank-a", prepare(gtid, &roster(&[site])));
    hub.expect("a yes", |message| is_yes(message, gtid)).await;
    gtid
}

/// Bank A is told to commit, and does.
async fn commits(hub: &mut Hub, gtid: Gtid) {
    hub.tell("bank-a", FromReplica::CommitBranch { gtid, branch: BRANCH, epoch: EPOCH });
    hub.expect("an acknowledgement", |message| matches!(branch_message(message), Some(Message::Acknowledge(_)))).await;
}

/// The order to forget was lost with a session: the next one asks whether anybody needs the record.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_kept_too_long_is_told_to_the_log() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut hub = Hub::start().await;
    let mut site = Site::start("bank-a", directory.path(), hub.address()).await;
    let gtid = votes_alone(&mut hub, &site).await;
    commits(&mut hub, gtid).await;
    site.restart(hub.address()).await;
    let is_told = |message: &FromClient| {
        *message
            == FromClient::voter(
                gtid,
                VoterMessage::AskLog { branch: BRANCH, request: Request::Decided(Decision::Commit) },
            )
    };
    hub.expect("the outcome, for the log", is_told).await;
    hub.tell("bank-a", FromReplica::ForgetVoters { gtids: vec![gtid] });
    let voter = site.assent.as_ref().and_then(Assent::voter).expect("it has one");
    eventually("the record goes", || matches!(voter.store().recall(gtid), Recalled::Known(None))).await;
}

/// It is not forced, so a process that dies is in doubt again, and finds the outcome where it found it before.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_over_a_pre_commit_is_learnt_once_more_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut hub = Hub::start().await;
    let mut site = Site::start("bank-a", directory.path(), hub.address()).await;
    let gtid = votes_alone(&mut hub, &site).await;
    let request = Request::Propose { ballot: Ballot::FIRST, proposal: Proposal::PreCommit };
    hub.tell("bank-a", FromReplica::AskVoter { gtid, request });
    hub.expect("an acceptance", |message| matches!(voter_message(message), Some(VoterMessage::Answered(_)))).await;
    commits(&mut hub, gtid).await;
    let standing = |site: &Site| match site.assent.as_ref().and_then(Assent::voter).map(|own| own.store().recall(gtid))
    {
        Some(Recalled::Known(record)) => record.map(|record| record.state.standing),
        Some(Recalled::Unknown) | None => panic!("a file knows"),
    };
    assert_eq!(standing(&site), Some(Standing::Committed));
    site.restart(hub.address()).await;
    // It does not inquire, since an abort may be presumed where the transaction is forgotten: the log is asked by one that knows of every vote.
    let is_asked = |message: &FromClient| {
        message.gtid() == Some(gtid)
            && matches!(
                voter_message(message),
                Some(VoterMessage::AskLog { request: Request::Join { has_voted: true, .. }, .. })
            )
    };
    hub.expect("a question to the log", is_asked).await;
    assert!(!hub.has_heard(|message| branch_message(message) == Some(&Message::Inquire)).await);
    // The order to forget comes first: it has yet to learn the outcome.
    hub.tell("bank-a", FromReplica::ForgetVoters { gtids: vec![gtid] });
    commits(&mut hub, gtid).await;
    assert_eq!(site.resource.ended(gtid), Some(Decision::Commit));
    eventually("the record goes", || standing(&site).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn participants_whose_coordinator_is_gone_end_all_the_same_way() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut hub = Hub::start().await;
    let mut sites = Vec::new();
    for name in ["bank-a", "bank-b", "bank-c"] {
        sites.push(Site::start(name, directory.path(), hub.address()).await);
    }
    let roster = roster(&sites.iter().collect::<Vec<_>>());
    // So many of them have accepted the commit when the coordinator dies.
    let transactions: Vec<(Gtid, usize)> = [0, 1, 3].map(|accepted| (mint(), accepted)).into();
    for (gtid, accepted) in &transactions {
        for site in &sites {
            hub.tell(site.name.as_str(), prepare(*gtid, &roster));
        }
        for _ in &sites {
            hub.expect("a yes", |message| is_yes(message, *gtid)).await;
        }
        for site in &sites[..*accepted] {
            let request = Request::Propose { ballot: Ballot::FIRST, proposal: Proposal::PreCommit };
            hub.tell(site.name.as_str(), FromReplica::AskVoter { gtid: *gtid, request });
            let accepts = |message: &FromClient| {
                voter_message(message) == Some(&VoterMessage::Answered(Answer::Accepted { ballot: Ballot::FIRST }))
            };
            hub.expect("an acceptance", accepts).await;
        }
    }
    let address = hub.address().to_owned();
    hub.stop().await;
    // One of them restarts meanwhile: it finds its votes, and needs no coordinator to go on.
    sites[2].restart(&address).await;
    for (gtid, accepted) in &transactions {
        let expected = if *accepted == 0 { Decision::Abort } else { Decision::Commit };
        for site in &sites {
            eventually(&format!("{} ends", site.name), || site.resource.ended(*gtid).is_some()).await;
            assert_eq!(site.resource.ended(*gtid), Some(expected), "{} after {accepted} acceptances", site.name);
        }
    }
    for site in &mut sites {
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_waits_and_ends_when_it_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut hub = Hub::start().await;
    let one = Site::start("bank-a", directory.path(), hub.address()).await;
    let mut other = Site::start("bank-b", directory.path(), hub.address()).await;
    let roster = roster(&[&one, &other]);
    let gtid = mint();
    for site in [&one, &other] {
        hub.tell(site.name.as_str(), prepare(gtid, &roster));
        hub.expect("a yes", |message| is_yes(message, gtid)).await;
    }
    other.stop().await;
    // It leads, in vain, and asks the log, which does not answer.
    hub.expect("a question to the log", |message| matches!(voter_message(message), Some(VoterMessage::AskLog { .. })))
        .await;
    assert_eq!(one.resource.ended(gtid), None);
    hub.tell("bank-a", FromReplica::AbortBranch { gtid, branch: BRANCH, epoch: EPOCH });
    eventually("it ends", || one.resource.ended(gtid) == Some(Decision::Abort)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_in_the_roster_and_asks_whom_it_means() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut hub = Hub::start().await;
    let site = Site::start("bank-a", directory.path(), hub.address()).await;
    let roster = roster(&[&site]);
    let gtid = mint();
    let ask_as = async |to: &str, from: &str| {
        let ballot = Ballot { round: 2, node: NodeId(9) };
        let request = Request::Join { ballot, roster: roster.clone(), has_voted: false };
        let question =
            PeerQuestion { gtid, from: from.parse().expect("a name"), to: to.parse().expect("a name"), request };
        let mut client = PeerServiceClient::connect(site.address.clone()).await.expect("connects");
        let answer = client.ask(tonic::Request::new(question.into())).await.expect("answers").into_inner().answer;
        Answer::try_from(answer.expect("an answer")).expect("well-formed")
    };
    let ask = async |from: &str| ask_as("bank-a", from).await;
    let answer = ask("bank-x").await;
    assert_eq!(answer, Answer::Barred(Bar::Stranger));
    let answer = ask_as("bank-b", "bank-a").await;
    assert_eq!(answer, Answer::Barred(Bar::NotInRoster), "it does not answer for another one");
    // Asked before it has voted, it says no for good.
    let answer = ask("bank-a").await;
    assert_eq!(answer, Answer::Ended(Decision::Abort));
    hub.tell("bank-a", prepare(gtid, &roster));
    eventually("it aborts", || site.resource.ended(gtid) == Some(Decision::Abort)).await;
    assert!(!hub.has_heard(|message| is_yes(message, gtid)).await, "it has said no");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_two_phase_branch_keeps_its_yes_although_the_participant_has_a_voter() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut hub = Hub::start().await;
    let mut site = Site::start("bank-a", directory.path(), hub.address()).await;
    let gtid = mint();
    let FromReplica::Prepare { epoch, payload, timeout_ms, .. } = prepare(gtid, &roster(&[&site])) else {
        unreachable!("it is one")
    };
    let (one_phase, is_prepared) = (false, false);
    hub.tell(
        "bank-a",
        FromReplica::Prepare { gtid, branch: BRANCH, epoch, payload, timeout_ms, one_phase, roster: None, is_prepared },
    );
    hub.expect("a yes", |message| is_yes(message, gtid)).await;
    let address = hub.address().to_owned();
    site.restart(&address).await;
    hub.expect("a question", |message| *message == FromClient::branch(gtid, BRANCH, Message::Inquire)).await;
    assert_eq!(site.resource.ended(gtid), None);
    hub.tell("bank-a", FromReplica::CommitBranch { gtid, branch: BRANCH, epoch: EPOCH });
    eventually("it commits", || site.resource.ended(gtid) == Some(Decision::Commit)).await;
}

#[tokio::test]
async fn a_voter_needs_a_participant_and_an_address() {
    let directory = tempfile::tempdir().expect("a directory");
    let voters = FileVoters::open(directory.path().join("voters")).await.expect("opens");
    let dial = || Assent::dial("http://127.0.0.1:1").wait_for_coordinator(Duration::ZERO);
    let error = dial().voter(voters.clone(), "http://127.0.0.1:2").connect().await.expect_err("for whom?");
    assert!(matches!(error, crate::ConnectError::VoterWithoutParticipant), "{error}");
    for address in ["", "bank-a", "http://a b", "127.0.0.1:7421"] {
        let builder = dial().participant("bank-a", Resource::default()).voter(voters.clone(), address);
        let error = builder.connect().await.expect_err("no address");
        assert!(matches!(error, crate::ConnectError::VoterAddress { .. }), "{address}: {error}");
    }
    // It has never met a coordinator, and cannot start without one.
    let builder = dial().participant("bank-a", Resource::default()).voter(voters, "http://127.0.0.1:2");
    let error = builder.connect().await.expect_err("nobody is there");
    assert!(matches!(error, crate::ConnectError::Unreachable { .. }), "{error}");
}
