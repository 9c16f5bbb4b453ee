//! A load on a driver: transactions of every protocol, participants that refuse and fall silent,
//! sessions that come and go.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use assent_protocol::branch::{self, Acknowledgement, HookEnd};
use assent_protocol::message::{
    Ask, Commit, Expected, FromClient, FromReplica, Reply, StepAnswer, StepOrder, VoterMessage, VoterPlace,
};
use assent_protocol::replica;
use assent_protocol::saga::{Definition, StepDefinition, StepIndex, StepResult};
use assent_protocol::three_phase::{Answer, Request, Standing, StoreId};
use assent_protocol::two_phase::{BranchResult, CarriedBranch, EarlyVote, Vote};
use assent_protocol::{BranchId, Decision, Epoch, Gtid, InstanceId, Protocol, RetryPolicy, Wait};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::super::{Driver, Input, Limits, Outbound, Peer, SessionId};
use crate::log::memory::MemoryLog;

pub(super) const SHARDS: usize = 2;
const TRANSACTIONS: usize = 400;
const AT_ONCE: usize = 32;
/// How long anything may take; only a machine that is busy is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// A participant's process falls silent about this payload, and refuses the other.
const SILENT: &[u8] = b"silent";
const REFUSED: &[u8] = b"refused";

/// Two coordinators, one after the other, on one log. The second one finds open what the first one
/// could not end.
pub(super) async fn run() {
    let log = MemoryLog::new();
    let limits = Limits { ended_max: 64, ..Limits::default() };
    let name = "a".parse().expect("a name");
    let successor = log.another();
    let driver = Driver::start(Arc::new(log), &name, limits.clone(), SHARDS).await.expect("the log answers");
    Load::new(driver).run(true).await;
    let driver = Driver::start(Arc::new(successor), &name, limits, SHARDS).await.expect("the log answers");
    Load::new(driver).run(false).await;
}

/// One driver, and the sessions that it serves.
struct Load {
    driver: Driver,
    sessions: AtomicU64,
    requests: AtomicU64,
    /// Requests of the initiator that are not answered.
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Reply>>>>,
    stop: CancellationToken,
}

impl Load {
    fn new(driver: Driver) -> Arc<Self> {
        let (sessions, requests) = (AtomicU64::new(1), AtomicU64::new(1));
        Arc::new(Self { driver, sessions, requests, waiting: Arc::default(), stop: CancellationToken::new() })
    }

    async fn run(self: Arc<Self>, leaves_some_open: bool) {
        let mut served = tokio::task::JoinSet::new();
        for (participant, instance) in [("bank-a", 1), ("bank-b", 1), ("hotel", 1)] {
            let session = self.open(Some(participant), instance).await;
            served.spawn(Arc::clone(&self).serve(session, usize::MAX));
        }
        let coming_and_going = Arc::clone(&self);
        served.spawn(async move {
            while !coming_and_going.stop.is_cancelled() {
                let session = coming_and_going.open(Some("bank-b"), 2).await;
                Arc::clone(&coming_and_going).serve(session, 12).await;
            }
        });
        let (initiator, answers) = self.open(None, 0).await;
        served.spawn(Arc::clone(&self).hear(answers));
        let transactions = (0..TRANSACTIONS).map(|number| self.transaction(initiator, number));
        let load = futures::stream::iter(transactions).buffer_unordered(AT_ONCE).count();
        tokio::time::timeout(PATIENCE, load).await.expect("every request is answered");
        if leaves_some_open {
            let definition = saga(&[("reserve", "hotel", b"room"), ("pay", "bank-a", SILENT)]);
            let ask = Ask::StartSaga { definition, wait: Wait::Decided, attempt: 1 };
            for _ in 0..AT_ONCE {
                self.ask(initiator, gtid(), ask.clone()).await;
            }
        }
        tokio::time::timeout(PATIENCE, self.driver.drain()).await.expect("everything is decided");
        self.stop.cancel();
        served.join_all().await;
        let load = Arc::into_inner(self).expect("every task has ended");
        load.driver.close().await;
    }

    async fn give_all(&self, input: impl Fn() -> Input) {
        for shard in 0..SHARDS {
            self.driver.give(shard, input()).await;
        }
    }

    async fn open(
        &self,
        participant: Option<&str>,
        instance: u64,
    ) -> (SessionId, mpsc::UnboundedReceiver<Vec<FromReplica>>) {
        let session = SessionId(self.sessions.fetch_add(1, Relaxed));
        let address = "http://127.0.0.1:1".parse().expect("an address");
        let peer = Peer {
            session,
            participant: participant.map(|name| name.parse().expect("a name")),
            instance: InstanceId(instance),
            one_phase: participant == Some("bank-a"),
            voter: participant.map(|name| VoterPlace { address, store: StoreId(name.len() as u128) }),
        };
        // Nothing lowers the backlog, which is far above what this load sends to one session.
        let (outbound, messages, _) = Outbound::channel();
        self.give_all(|| Input::SessionOpened { peer: peer.clone(), outbound: outbound.clone() }).await;
        (session, messages)
    }

    /// Answers as a participant, for so many messages; then the session is gone.
    async fn serve(
        self: Arc<Self>,
        (session, mut messages): (SessionId, mpsc::UnboundedReceiver<Vec<FromReplica>>),
        most: usize,
    ) {
        let mut served = 0;
        while served < most {
            let heard = tokio::select! {
                heard = messages.recv() => heard,
                () = self.stop.cancelled() => None,
            };
            let Some(heard) = heard else { break };
            served += heard.len();
            for message in heard.into_iter().filter_map(answer) {
                let shard = message.gtid().map_or(0, |gtid| self.driver.shard_of(gtid));
                self.driver.give(shard, Input::Messages { session, messages: vec![message] }).await;
            }
        }
        self.give_all(|| Input::Core(replica::Input::SessionRetires(session))).await;
        self.give_all(|| Input::SessionClosed(session)).await;
    }

    /// Takes the answers to the initiator's requests.
    async fn hear(self: Arc<Self>, mut messages: mpsc::UnboundedReceiver<Vec<FromReplica>>) {
        loop {
            let heard = tokio::select! {
                heard = messages.recv() => heard,
                () = self.stop.cancelled() => None,
            };
            let Some(heard) = heard else { return };
            for message in heard {
                if let FromReplica::Reply { request_id, reply } = message
                    && let Some(waiting) = self.waiting.lock().expect("no task panics with it").remove(&request_id)
                {
                    waiting.send(reply).ok();
                }
            }
        }
    }

    async fn ask(&self, session: SessionId, gtid: Gtid, ask: Ask) {
        self.request(gtid, |request_id| Input::Messages {
            session,
            messages: vec![FromClient::request(request_id, gtid, ask)],
        })
        .await;
    }

    async fn request(&self, gtid: Gtid, input: impl FnOnce(u64) -> Input) {
        let request_id = self.requests.fetch_add(1, Relaxed);
        let (answer, reply) = oneshot::channel();
        self.waiting.lock().expect("no task panics with it").insert(request_id, answer);
        self.driver.give(self.driver.shard_of(gtid), input(request_id)).await;
        // Its sender is there until the answer comes.
        reply.await.expect("an answer");
    }

    /// One transaction, or saga, from its first request to the end of the repeated one.
    async fn transaction(&self, session: SessionId, number: usize) {
        let gtid = gtid();
        match number % 8 {
            0 => self.carried(session, gtid, Protocol::TwoPhase, &[("bank-a", b"-5"), ("bank-b", b"+5")]).await,
            1 => self.carried(session, gtid, Protocol::TwoPhase, &[("bank-a", REFUSED), ("bank-b", b"+5")]).await,
            2 => self.carried(session, gtid, Protocol::TwoPhase, &[("bank-a", b"-5")]).await,
            3 => self.carried(session, gtid, Protocol::TwoPhase, &[("bank-a", SILENT), ("hotel", b"room")]).await,
            4 => self.carried(session, gtid, Protocol::ThreePhase, &[("bank-a", b"-5"), ("hotel", b"room")]).await,
            5 => self.begun(session, gtid).await,
            6 => self.saga(session, gtid, saga(&[("reserve", "hotel", b"room"), ("pay", "bank-a", b"-5")])).await,
            _ => self.saga(session, gtid, saga(&[("reserve", "hotel", b"room"), ("pay", "bank-b", REFUSED)])).await,
        }
        self.ask(session, gtid, Ask::Await { wait: Wait::Ended }).await;
    }

    async fn carried(&self, session: SessionId, gtid: Gtid, protocol: Protocol, branches: &[(&str, &'static [u8])]) {
        let branches: Vec<CarriedBranch> = branches.iter().map(|(name, payload)| branch(name, payload)).collect();
        let timeout_ms = if branches.iter().any(|branch| branch.payload == SILENT) { 50 } else { 0 };
        for attempt in [1, 2] {
            let (branches, wait) = (branches.clone(), Wait::Decided);
            let (begun, first_epoch, expected) = (false, None, Expected::Anything);
            let commit = Commit { branches, attempt, begun, timeout_ms, wait, protocol, first_epoch, expected };
            self.ask(session, gtid, Ask::Commit(commit)).await;
        }
    }

    async fn begun(&self, session: SessionId, gtid: Gtid) {
        self.ask(session, gtid, Ask::Begin { timeout_ms: 0, protocol: Protocol::TwoPhase, first_epoch: None }).await;
        let (changes, mut watched) = mpsc::channel(16);
        self.driver.give(self.driver.shard_of(gtid), Input::Watch { gtid, changes }).await;
        self.request(gtid, |request_id| {
            let branch = branch("bank-b", b"+5");
            Input::Core(replica::Input::NameBranch { gtid, branch, session, request_id })
        })
        .await;
        // The initiator's session serves no participant: refused, and the rest goes on.
        let branch = BranchId { epoch: Epoch(1), number: 1 };
        self.ask(session, gtid, Ask::Enlist { branch, vote: EarlyVote::Yes }).await;
        let commit = Commit {
            branches: Vec::new(),
            attempt: 1,
            begun: true,
            timeout_ms: 0,
            wait: Wait::Ended,
            protocol: Protocol::TwoPhase,
            first_epoch: None,
            expected: Expected::Anything,
        };
        self.ask(session, gtid, Ask::Commit(commit)).await;
        watched.recv().await;
    }

    async fn saga(&self, session: SessionId, gtid: Gtid, definition: Definition) {
        for attempt in [1, 2] {
            let ask = Ask::StartSaga { definition: definition.clone(), wait: Wait::Ended, attempt };
            self.ask(session, gtid, ask).await;
        }
    }
}

/// What a participant answers; `None` if it says nothing.
fn answer(message: FromReplica) -> Option<FromClient> {
    let ended = |gtid, branch, decision, epoch| {
        let acknowledgement = Acknowledgement { decision, epoch, end: HookEnd::Ended(BranchResult::Done) };
        Some(FromClient::branch(gtid, branch, branch::Message::Acknowledge(acknowledgement)))
    };
    let step = |order: StepOrder, compensation: bool| {
        let StepOrder { gtid, epoch, step, attempt, input, .. } = order;
        let result = match &*input {
            // The one who took it died with it: the next epoch's order is answered.
            SILENT if epoch.0 == 1 => return None,
            REFUSED if !compensation => StepResult::Refused("refused".into()),
            _ => StepResult::Done(Bytes::from_static(b"done")),
        };
        Some(FromClient::Step(StepAnswer { gtid, step, compensation, attempt, epoch, result, is_final: false }))
    };
    match message {
        FromReplica::Prepare { payload, .. } if payload == SILENT => None,
        FromReplica::Prepare { gtid, branch, payload, one_phase, .. } => {
            let vote = match one_phase {
                _ if payload == REFUSED => Vote::No("refused".into()),
                true => Vote::Committed,
                false => Vote::Yes,
            };
            Some(FromClient::branch(gtid, branch, branch::Message::Vote(vote)))
        }
        FromReplica::CommitBranch { gtid, branch, epoch } => ended(gtid, branch, Decision::Commit, epoch),
        FromReplica::AbortBranch { gtid, branch, epoch } => ended(gtid, branch, Decision::Abort, epoch),
        FromReplica::ExecuteStep { order, .. } => step(order, false),
        FromReplica::CompensateStep { order, .. } => step(order, true),
        FromReplica::AskVoter { gtid, request: Request::Propose { ballot, .. } } => {
            Some(FromClient::voter(gtid, VoterMessage::Answered(Answer::Accepted { ballot })))
        }
        FromReplica::AskVoter { gtid, request: Request::Join { ballot, .. } } => {
            let answer = Answer::Joined { ballot, standing: Standing::Waiting, accepted: None };
            Some(FromClient::voter(gtid, VoterMessage::Answered(answer)))
        }
        FromReplica::AskVoter { .. }
        | FromReplica::Welcome(_)
        | FromReplica::Heartbeat
        | FromReplica::Reply { .. }
        | FromReplica::GoAway { .. }
        | FromReplica::LogAnswered { .. }
        | FromReplica::AwaitDecision { .. }
        | FromReplica::ForgetVoters { .. } => None,
    }
}

fn gtid() -> Gtid {
    Gtid::new(uuid::Uuid::now_v7()).expect("version 7")
}

fn branch(participant: &str, payload: &'static [u8]) -> CarriedBranch {
    CarriedBranch { participant: participant.parse().expect("a name"), payload: Bytes::from_static(payload) }
}

/// Steps one behind the other: name, participant, input.
fn saga(steps: &[(&str, &str, &'static [u8])]) -> Definition {
    let steps = steps.iter().zip(0..).map(|((name, participant, input), position): (_, u16)| StepDefinition {
        name: name.parse().expect("a name"),
        participant: participant.parse().expect("a name"),
        input: Bytes::from_static(input),
        after: position.checked_sub(1).map(StepIndex).into_iter().collect(),
        retry: RetryPolicy::default(),
        compensation_retry: RetryPolicy::default(),
        pivot: false,
        durable: false,
    });
    Definition::new(steps.collect()).expect("a saga")
}
