//! Three-phase commit, as a coordinator drives it: scripted participants around the production voter.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use assent::server::Coordinator;
use assent_proto::v1::branch_order::Kind as Order;
use assent_proto::v1::branch_report;
use assent_proto::v1::client_message::Kind as Said;
use assent_proto::v1::server_message::Kind as Heard;
use assent_proto::v1::session_service_client::SessionServiceClient;
use assent_proto::v1::voter_report::Kind as Report;
use assent_proto::v1::{self, CommitRequest, GetRequest, Outcome, TransactionState};
use assent_protocol::three_phase::voter::Request;
use assent_protocol::three_phase::{Roster, StoreId, Voter, VoterName, VoterRecord};
use assent_protocol::{BranchId, Decision, Durable, Gtid, ParticipantName, Parts, Record};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::harness::{
    Home, Manner, branch, channel, done, frame, gtid, hello, participant, report, transactions, until, whole,
};

/// A participant with a voter. Its store outlives its sessions.
struct Citizen {
    name: ParticipantName,
    store: StoreId,
    records: Mutex<HashMap<Gtid, VoterRecord>>,
    ended: Mutex<HashMap<Gtid, Decision>>,
    /// It does not hear what its voter is asked.
    is_deaf: AtomicBool,
    /// Orders to forget are lost on their way to it.
    keeps: AtomicBool,
}

impl Citizen {
    fn new(name: &str, store: u128) -> Arc<Self> {
        Arc::new(Self {
            name: name.parse().expect("a name"),
            store: StoreId(store),
            records: Mutex::default(),
            ended: Mutex::default(),
            is_deaf: AtomicBool::new(false),
            keeps: AtomicBool::new(false),
        })
    }

    /// Its disk was replaced: nothing is left of what it promised.
    fn reborn(&self, store: u128) -> Arc<Self> {
        Self::new(self.name.as_str(), store)
    }

    fn ended(&self, gtid: Gtid) -> Option<Decision> {
        self.ended.lock().expect("whole").get(&gtid).copied()
    }

    fn has_record(&self, gtid: Gtid) -> bool {
        self.records.lock().expect("whole").contains_key(&gtid)
    }

    /// Joins; the session ends with the handle.
    async fn join(self: &Arc<Self>, coordinator: &Coordinator) -> Joined {
        let mut client = SessionServiceClient::new(channel(coordinator).await);
        let (say, said) = mpsc::unbounded_channel();
        let voter = v1::VoterPlace {
            address: format!("http://{}.test:7421", self.name),
            store_id: self.store.0.to_be_bytes().to_vec().into(),
        };
        let hello = v1::Hello { voter: Some(voter), ..hello(self.name.as_str()) };
        say.send(frame(Said::Hello(hello))).expect("open");
        let mut heard = client.exchange(UnboundedReceiverStream::new(said)).await.expect("a session").into_inner();
        heard.message().await.expect("a frame").expect("a welcome");
        // What it has kept for long, it tells the log.
        let kept: Vec<_> = self.records.lock().expect("whole").values().cloned().collect();
        for record in kept {
            if let Some(decision) = record.state.standing.decision() {
                let roster = record.roster.as_ref().expect("it voted with one");
                let branch = Some(roster.seat(&self.name).expect("its own").branch.into());
                let request = Some(Request::Decided(decision).into());
                let kind = Some(Report::AskLog(v1::AskLog { branch, request }));
                let gtid = record.gtid.as_bytes().to_vec().into();
                say.send(frame(Said::Voter(v1::VoterReport { gtid, kind }))).expect("open");
            }
        }
        let citizen = Arc::clone(self);
        Joined(tokio::spawn(async move {
            while let Ok(Some(messages)) = heard.message().await {
                for answer in messages.messages.into_iter().filter_map(|message| citizen.hear(message.kind?)) {
                    if say.send(frame(answer)).is_err() {
                        return;
                    }
                }
            }
        }))
    }

    fn hear(&self, order: Heard) -> Option<Said> {
        let gtid = |bytes: &[u8]| Gtid::from_bytes(bytes).expect("a gtid");
        match order {
            Heard::Heartbeat(_) => Some(Said::Heartbeat(v1::Heartbeat {})),
            Heard::Branch(v1::BranchOrder { gtid: id, branch, epoch, kind }) => {
                let answer = match kind.expect("an order") {
                    Order::Prepare(prepare) => {
                        let roster = v1::Roster::decode(prepare.roster).expect("a roster");
                        let branches = prepare.roster_branches.into_iter().map(BranchId::from);
                        let roster =
                            Roster::try_from(roster).expect("a roster").with_branches(branches).expect("its own");
                        let me = VoterName::Participant(self.name.clone());
                        self.ask(gtid(&id), &me, Request::VoteYes { roster, is_read_only: false });
                        let vote = v1::VoteKind::Yes.into();
                        branch_report::Kind::Vote(v1::Vote { vote, reason: String::new() })
                    }
                    Order::Commit(_) => self.end(gtid(&id), Decision::Commit, epoch),
                    Order::Abort(_) => self.end(gtid(&id), Decision::Abort, epoch),
                };
                Some(report(&id, branch.expect("a branch id"), answer))
            }
            Heard::AskVoter(_) if self.is_deaf.load(SeqCst) => None,
            Heard::AskVoter(asked) => {
                let request = asked.request.expect("a request").try_into().expect("a request");
                let answer = self.ask(gtid(&asked.gtid), &VoterName::Log, request);
                let kind = Some(Report::Answered(answer));
                Some(Said::Voter(v1::VoterReport { gtid: asked.gtid, kind }))
            }
            Heard::ForgetVoters(_) if self.keeps.load(SeqCst) => None,
            Heard::ForgetVoters(forget) => {
                self.records.lock().expect("whole").retain(|kept, _| !forget.gtids.iter().any(|id| gtid(id) == *kept));
                None
            }
            Heard::Welcome(_)
            | Heard::Reply(_)
            | Heard::GoAway(_)
            | Heard::LogAnswered(_)
            | Heard::AwaitDecision(_)
            | Heard::ExecuteStep(_)
            | Heard::CompensateStep(_) => None,
        }
    }

    fn end(&self, gtid: Gtid, decision: Decision, epoch: u64) -> branch_report::Kind {
        self.ask(gtid, &VoterName::Log, Request::Decided(decision));
        let before = self.ended.lock().expect("whole").insert(gtid, decision);
        assert!(before.is_none_or(|before| before == decision), "{}: {before:?}, then {decision:?}", self.name);
        let decision = match decision {
            Decision::Commit => v1::Decision::Commit,
            Decision::Abort => v1::Decision::Abort,
        };
        done(decision, epoch, v1::BranchResult::Done)
    }

    /// The production voter over a map that counts as durable.
    fn ask(&self, gtid: Gtid, from: &VoterName, request: Request) -> v1::VoterAnswer {
        let mut records = self.records.lock().expect("whole");
        let me = VoterName::Participant(self.name.clone());
        let mut voter = Voter::load(gtid, me, self.store, records.get(&gtid));
        let mut answers = match voter.handle(from, request).split() {
            Parts::Free { lazy, effects } => {
                if let Some(Record::Voter(record)) = lazy.into_iter().next() {
                    records.insert(gtid, *record);
                }
                effects
            }
            Parts::AfterAppend { forced: Record::Voter(record), held, .. } => {
                let id = record.id();
                records.insert(gtid, *record);
                #[expect(clippy::disallowed_methods, reason = "the map is this test's durable store")]
                let receipt = Durable::attest(id);
                held.release(&receipt)
            }
            Parts::AfterAppend { forced, .. } => panic!("{forced:?} is no voter's record"),
        };
        answers.pop().expect("an answer").into()
    }
}

/// A session of a citizen's.
struct Joined(JoinHandle<()>);

impl Drop for Joined {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn three_phases(gtid: &str) -> CommitRequest {
    let branches = vec![branch("north", "-5"), branch("south", "+5")];
    CommitRequest { protocol: v1::Protocol::ThreePhase.into(), ..whole(gtid, branches) }
}

async fn shown(coordinator: &Coordinator, gtid: &str) -> v1::Transaction {
    let request = GetRequest { gtid: gtid.to_owned() };
    transactions(coordinator).await.get(request).await.expect("found").into_inner().transaction.expect("shown")
}

/// Asks to commit, and does not wait.
async fn asked(coordinator: &Coordinator, gtid: &str) -> JoinHandle<Option<Outcome>> {
    let mut client = transactions(coordinator).await;
    let request = three_phases(gtid);
    tokio::spawn(async move { client.commit(request).await.ok().map(|answer| answer.into_inner().outcome()) })
}

async fn agreeing(coordinator: &Coordinator, gtid: &str) {
    until("the voters are asked", async || {
        let known = transactions(coordinator).await.get(GetRequest { gtid: gtid.to_owned() }).await;
        known.is_ok_and(|known| {
            let waiting_for = known.into_inner().transaction.unwrap_or_default().waiting_for;
            waiting_for.contains("quorum")
        })
    })
    .await;
}

#[tokio::test]
async fn it_commits_and_every_voter_may_forget() {
    let home = Home::new();
    let coordinator = home.start().await;
    let (north, south) = (Citizen::new("north", 1), Citizen::new("south", 2));
    let _sessions = (north.join(&coordinator).await, south.join(&coordinator).await);
    let gtid = gtid();
    let request = CommitRequest { wait_for_end: true, ..three_phases(&gtid) };
    let mut client = transactions(&coordinator).await;
    let first = client.commit(request.clone()).await.expect("an outcome").into_inner();
    assert_eq!(first.outcome(), Outcome::Committed, "{first:?}");
    let id: Gtid = gtid.parse().expect("a gtid");
    for citizen in [&north, &south] {
        assert_eq!(citizen.ended(id), Some(Decision::Commit));
        until("its record is deleted", async || !citizen.has_record(id)).await;
    }
    assert_eq!(client.commit(request).await.expect("an outcome").into_inner(), first);
    let in_two_phases = whole(&gtid, vec![branch("north", "-5"), branch("south", "+5")]);
    let (reason, ..) = crate::harness::refusal(client.commit(in_two_phases).await);
    assert_eq!(reason, assent_proto::error::Reason::KeyReused, "another protocol is another request");
    until("its end is in the log", async || {
        let shown = shown(&coordinator, &gtid).await;
        shown.state() == TransactionState::Committed && shown.protocol() == v1::Protocol::ThreePhase
    })
    .await;
}

#[tokio::test]
async fn a_record_whose_order_to_forget_was_lost_goes_later() {
    let home = Home::new();
    let coordinator = home.start().await;
    let (north, south) = (Citizen::new("north", 1), Citizen::new("south", 2));
    north.keeps.store(true, SeqCst);
    let (lost, _south) = (north.join(&coordinator).await, south.join(&coordinator).await);
    let gtid = gtid();
    let request = CommitRequest { wait_for_end: true, ..three_phases(&gtid) };
    let answer = transactions(&coordinator).await.commit(request).await.expect("an outcome").into_inner();
    assert_eq!(answer.outcome(), Outcome::Committed, "{answer:?}");
    let id: Gtid = gtid.parse().expect("a gtid");
    until("the other's record is deleted", async || !south.has_record(id)).await;
    assert!(north.has_record(id));
    drop(lost);
    north.keeps.store(false, SeqCst);
    // While the transaction is in memory, with its end on the way to the log, nothing is answered; a later session is.
    until("its record is deleted", async || {
        let _session = north.join(&coordinator).await;
        tokio::time::timeout(Duration::from_millis(500), async {
            while north.has_record(id) {
                tokio::task::yield_now().await;
            }
        })
        .await
        .is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_participant_without_a_voter_is_told() {
    let home = Home::new();
    let coordinator = home.start().await;
    let north = Citizen::new("north", 1);
    let _north = north.join(&coordinator).await;
    let _south = participant(&coordinator, "south", Manner::Willing).await;
    let gtid = gtid();
    let answer = transactions(&coordinator).await.commit(three_phases(&gtid)).await.expect("an outcome").into_inner();
    let reason = answer.reason.clone().unwrap_or_default();
    assert_eq!((answer.outcome(), reason.code.as_str()), (Outcome::Aborted, "VOTER_MISSING"), "{answer:?}");
    assert_eq!(reason.participant, "south");
    assert!(reason.message.contains("store"), "{}", reason.message);
    assert!(!north.has_record(gtid.parse().expect("a gtid")), "nobody was asked to prepare");
}

#[tokio::test]
async fn after_a_restart_in_the_middle_an_election_finds_the_outcome() {
    let home = Home::new();
    let coordinator = home.start().await;
    let (north, south) = (Citizen::new("north", 1), Citizen::new("south", 2));
    let sessions = (north.join(&coordinator).await, south.join(&coordinator).await);
    north.is_deaf.store(true, SeqCst);
    south.is_deaf.store(true, SeqCst);
    let gtid = gtid();
    let waiting = asked(&coordinator, &gtid).await;
    agreeing(&coordinator, &gtid).await;
    assert!(!waiting.is_finished(), "nobody is told before a quorum has accepted");
    drop(sessions);
    coordinator.shutdown().await.expect("stopped");
    waiting.abort();

    let coordinator = home.start().await;
    agreeing(&coordinator, &gtid).await;
    north.is_deaf.store(false, SeqCst);
    // The log and one participant are a quorum of three; the log's report says that the commit was proposed.
    let _north = north.join(&coordinator).await;
    let id: Gtid = gtid.parse().expect("a gtid");
    until("one has ended", async || north.ended(id) == Some(Decision::Commit)).await;
    assert_eq!(shown(&coordinator, &gtid).await.state(), TransactionState::Committing);
    let _south = south.join(&coordinator).await;
    until("the other has too", async || south.ended(id) == Some(Decision::Commit)).await;
    until("it has ended", async || shown(&coordinator, &gtid).await.state() == TransactionState::Committed).await;
}

#[tokio::test]
async fn who_has_lost_its_state_is_named_and_does_not_count() {
    let home = Home::new();
    let coordinator = home.start().await;
    let (north, south) = (Citizen::new("north", 1), Citizen::new("south", 2));
    let sessions = (north.join(&coordinator).await, south.join(&coordinator).await);
    north.is_deaf.store(true, SeqCst);
    south.is_deaf.store(true, SeqCst);
    let gtid = gtid();
    let waiting = asked(&coordinator, &gtid).await;
    agreeing(&coordinator, &gtid).await;
    drop(sessions);
    let (lost_north, lost_south) = (north.reborn(3), south.reborn(4));
    let _sessions = (lost_north.join(&coordinator).await, lost_south.join(&coordinator).await);
    until("the loss is named", async || {
        let shown = shown(&coordinator, &gtid).await;
        let errors: Vec<_> = shown.branches.iter().map(|branch| branch.last_error.as_str()).collect();
        errors.iter().all(|error| error.contains("STATE_LOST")) && shown.waiting_for.contains("lost")
    })
    .await;
    let id: Gtid = gtid.parse().expect("a gtid");
    assert!(!waiting.is_finished() && lost_north.ended(id).is_none() && lost_south.ended(id).is_none());
    waiting.abort();
}
