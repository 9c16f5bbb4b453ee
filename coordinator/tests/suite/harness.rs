//! Coordinators on a log of their own, and participants that do as they are told.

use std::future::Future;
use std::time::{Duration, Instant};

use assent::config::Config;
use assent::log::OpenError;
use assent::server::{Coordinator, StartError};
use assent_proto::error::{Reason, refusal_of};
use assent_proto::session::{Code, Refused};
use assent_proto::v1::admin_service_client::AdminServiceClient;
use assent_proto::v1::branch_order::Kind as Order;
use assent_proto::v1::branch_report::Kind as Report;
use assent_proto::v1::client_message::Kind as Said;
use assent_proto::v1::request::Ask;
use assent_proto::v1::server_message::Kind as Heard;
use assent_proto::v1::session_service_client::SessionServiceClient;
use assent_proto::v1::transaction_service_client::TransactionServiceClient;
use assent_proto::v1::{self, ClientMessage, ExchangeRequest};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;
use tonic::transport::Channel;
use uuid::Uuid;

/// How long anything may take; nothing here is slow but a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The folder of one coordinator's log; survives its restarts.
pub(crate) struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    pub(crate) fn log(&self) -> String {
        format!("sqlite:{}", self.folder.path().join("log.db").display())
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            listen: "127.0.0.1:0".to_owned(),
            log: self.log().into(),
            shards: 2,
            wait_for_log: Duration::ZERO,
            drain_max: Duration::from_secs(5),
            ..Config::default()
        }
    }

    pub(crate) async fn start(&self) -> Coordinator {
        self.start_with(self.config()).await
    }

    pub(crate) async fn start_with(&self, config: Config) -> Coordinator {
        let give_up_at = Instant::now() + PATIENCE;
        loop {
            match Coordinator::start(config.clone()).await {
                // A program that another test starts at this moment has the predecessor's lock for as long as it has no image of its own.
                Err(StartError::Log(OpenError::InUse { .. })) if Instant::now() < give_up_at => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                started => return started.expect("a coordinator"),
            }
        }
    }
}

/// A gtid of the caller's own.
pub(crate) fn gtid() -> String {
    Uuid::now_v7().to_string()
}

pub(crate) async fn channel(coordinator: &Coordinator) -> Channel {
    tonic::transport::Endpoint::from_shared(coordinator.endpoint())
        .expect("a URL")
        .connect()
        .await
        .expect("the coordinator listens")
}

pub(crate) async fn transactions(coordinator: &Coordinator) -> TransactionServiceClient<Channel> {
    TransactionServiceClient::new(channel(coordinator).await)
}

pub(crate) async fn admin(coordinator: &Coordinator) -> AdminServiceClient<Channel> {
    AdminServiceClient::new(channel(coordinator).await)
}

/// A branch of a commit.
pub(crate) fn branch(participant: &str, payload: &str) -> v1::CommitBranchRequest {
    v1::CommitBranchRequest { participant: participant.to_owned(), payload: payload.as_bytes().to_vec().into() }
}

/// A whole transaction in one call.
pub(crate) fn whole(gtid: &str, branches: Vec<v1::CommitBranchRequest>) -> v1::CommitRequest {
    v1::CommitRequest { gtid: gtid.to_owned(), branches, begun: Some(false), ..v1::CommitRequest::default() }
}

/// The commit of a transaction that was begun, without further branches.
pub(crate) fn begun(gtid: &str) -> v1::CommitRequest {
    v1::CommitRequest { gtid: gtid.to_owned(), ..v1::CommitRequest::default() }
}

/// What a call was refused for. Its message must say something.
pub(crate) fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Reason, String) {
    let status = answer.expect_err("a refusal");
    let refused = refusal_of(&status).unwrap_or_else(|| panic!("not one of ours: {status:?}"));
    let reason = refused.known_reason().expect("a known reason");
    assert!(!refused.message.is_empty());
    (reason, refused.message)
}

/// As [`refusal`], where reason, code, retry and advice have to be these.
pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, reason: Reason, parts: &[&str]) {
    let status = answer.expect_err("a refusal");
    let refused = refusal_of(&status).unwrap_or_else(|| panic!("not one of ours: {status:?}"));
    check_refusal(&refused, reason, parts);
}

/// The same of a refusal that came on a session.
pub(crate) fn check_refusal(refused: &Refused, reason: Reason, parts: &[&str]) {
    assert_eq!(refused.known_reason(), Some(reason), "{refused:?}");
    assert_eq!((refused.code, refused.retry_after_ms), (reason.code(), reason.retry_after_ms()), "{refused:?}");
    for part in parts {
        assert!(refused.message.contains(part), "it says {part:?}: {refused:?}");
    }
}

/// Nothing is left of what was refused: nothing is open, in memory or in the log, and the next transaction is served.
pub(crate) async fn nothing_is_left(coordinator: &Coordinator) {
    let _good = participant(coordinator, "good", Manner::Willing).await;
    let request = v1::CommitRequest { wait_for_end: true, ..whole(&gtid(), vec![branch("good", "after it")]) };
    let outcome = transactions(coordinator).await.commit(request).await.expect("an outcome").into_inner();
    assert_eq!(outcome.outcome(), v1::Outcome::Committed, "{outcome:?}");
    until("nothing is in memory", async || coordinator.statistics().snapshot().open == 0).await;
    let page = v1::ListTransactionsRequest { page_size: 1_000, ..Default::default() };
    let listed = admin(coordinator).await.list_transactions(page).await.expect("a list").into_inner();
    for one in listed.transactions {
        assert!(one.ended_at.is_some() && one.waiting_for.is_empty(), "{one:?} is open");
    }
}

/// A session whose client says what the test wants.
pub(crate) struct Session {
    say: mpsc::UnboundedSender<ExchangeRequest>,
    heard: tonic::Streaming<v1::ExchangeResponse>,
    waiting: std::collections::VecDeque<Heard>,
    requests: u64,
}

impl Session {
    /// Connects, and says nothing yet.
    pub(crate) async fn dial(coordinator: &Coordinator) -> Self {
        Self::over(channel(coordinator).await).await
    }

    /// The same, over a connection that is there.
    pub(crate) async fn over(channel: Channel) -> Self {
        let mut client = SessionServiceClient::new(channel).max_encoding_message_size(usize::MAX);
        let (say, said) = mpsc::unbounded_channel();
        let heard = client.exchange(UnboundedReceiverStream::new(said)).await.expect("a session").into_inner();
        Self { say, heard, waiting: Default::default(), requests: 0 }
    }

    /// Opens a session; an empty name is an initiator's.
    pub(crate) async fn open(coordinator: &Coordinator, participant: &str) -> Self {
        Self::dial(coordinator).await.greeted(hello(participant)).await
    }

    /// Says Hello, and waits for the welcome.
    pub(crate) async fn greeted(mut self, hello: v1::Hello) -> Self {
        self.say(Said::Hello(hello));
        let welcome = self.hear().await.expect("a greeting");
        assert!(matches!(welcome, Heard::Welcome(_)), "{welcome:?}");
        self
    }

    pub(crate) fn say(&mut self, kind: Said) {
        self.frame(vec![ClientMessage { kind: Some(kind) }]);
    }

    pub(crate) fn frame(&mut self, messages: Vec<ClientMessage>) {
        // One that is over shows so to those who listen.
        self.say.send(ExchangeRequest { messages }).ok();
    }

    /// The next message that is no heartbeat, or how the session ended.
    pub(crate) async fn hear(&mut self) -> Result<Heard, Status> {
        loop {
            while let Some(next) = self.waiting.pop_front() {
                if !matches!(next, Heard::Heartbeat(_)) {
                    return Ok(next);
                }
            }
            let frame = tokio::time::timeout(PATIENCE, self.heard.message()).await.expect("something is heard")?;
            let frame = frame.ok_or_else(|| Status::ok("it is over"))?;
            self.waiting.extend(frame.messages.into_iter().filter_map(|message| message.kind));
        }
    }

    /// Asks, with a number of its own, and gives the reply to it.
    pub(crate) async fn ask(&mut self, gtid: &Bytes, ask: Ask) -> v1::reply::Kind {
        self.requests += 1;
        let number = self.requests;
        self.say(request(number, gtid, ask));
        loop {
            match self.hear().await.expect("the session lives") {
                Heard::Reply(reply) if reply.request_id == number => return reply.kind.expect("a kind"),
                _ => {}
            }
        }
    }

    /// Asks what is to be refused.
    pub(crate) async fn refused(&mut self, reason: Reason, parts: &[&str], gtid: &Bytes, ask: Ask) {
        let reply = self.ask(gtid, ask).await;
        let v1::reply::Kind::Refused(refused) = reply else { panic!("{reply:?} is no refusal for {reason}") };
        let retry_after_ms = Some(refused.retry_after_ms).filter(|ms| *ms > 0);
        let code = Code::from_number(refused.code).expect("a code");
        check_refusal(
            &Refused { code, reason: refused.reason, message: refused.message, retry_after_ms },
            reason,
            parts,
        );
    }

    /// The coordinator ends the session, for this reason.
    pub(crate) async fn expect_end(mut self, reason: Reason, parts: &[&str]) {
        loop {
            match self.hear().await {
                Ok(_) => {}
                ended => return refused(ended, reason, parts),
            }
        }
    }
}

/// What a client says first.
pub(crate) fn hello(participant: &str) -> v1::Hello {
    v1::Hello {
        participant: participant.to_owned(),
        instance_id: Uuid::now_v7().as_u64_pair().1,
        protocol_version: 2,
        ..v1::Hello::default()
    }
}

/// Waits until gtids that are minted now cannot be from before the start: until then a session's Begin is told to mint another.
pub(crate) async fn settled(coordinator: &Coordinator) {
    let begin = v1::BeginRequest { timeout_ms: 1, ..Default::default() };
    transactions(coordinator).await.begin(begin).await.expect("begun");
}

/// A gtid of the caller's own, as sessions have it.
pub(crate) fn gtid_bytes() -> Bytes {
    Bytes::copy_from_slice(Uuid::now_v7().as_bytes())
}

/// A request as a session has it.
pub(crate) fn request(request_id: u64, gtid: &Bytes, ask: Ask) -> Said {
    Said::Request(v1::Request { request_id, gtid: gtid.clone(), ask: Some(ask) })
}

/// A branch's report.
pub(crate) fn report(gtid: &Bytes, branch: v1::BranchId, kind: Report) -> Said {
    Said::Branch(v1::BranchReport { gtid: gtid.clone(), branch: Some(branch), kind: Some(kind) })
}

/// A branch has done what it was ordered to.
pub(crate) fn done(decision: v1::Decision, epoch: u64, result: v1::BranchResult) -> Report {
    let end = Some(v1::acknowledge::End::Result(result.into()));
    Report::Acknowledge(v1::Acknowledge { decision: decision.into(), epoch, end })
}

/// What a session begins with.
pub(crate) fn begin(timeout_ms: u64) -> Ask {
    Ask::Begin(v1::Begin { timeout_ms, ..v1::Begin::default() })
}

/// A whole transaction as a session asks for it, for the first time.
pub(crate) fn commit(branches: &[(&str, &str)]) -> v1::Commit {
    let branches = branches.iter().map(|(participant, payload)| v1::CarriedBranch {
        participant: (*participant).to_owned(),
        payload: payload.as_bytes().to_vec().into(),
    });
    v1::Commit { branches: branches.collect(), attempt: 1, ..v1::Commit::default() }
}

/// Waits until a condition holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}, but not within {PATIENCE:?}");
}

/// How a participant answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Prepares, commits, aborts, executes and compensates whatever it is asked to.
    Willing,
    /// Votes no, and refuses every step.
    Unwilling,
    /// Prepares and does not acknowledge.
    Mute,
    /// Says nothing at all.
    Silent,
}

/// A participant's process: one session that answers.
pub(crate) struct Participant {
    task: JoinHandle<()>,
}

impl Drop for Participant {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Lets a participant join, and waits until it has.
pub(crate) async fn participant(coordinator: &Coordinator, name: &str, manner: Manner) -> Participant {
    let mut client = SessionServiceClient::new(channel(coordinator).await);
    let (say, said) = mpsc::unbounded_channel();
    say.send(frame(Said::Hello(hello(name)))).expect("open");
    let mut heard = client.exchange(UnboundedReceiverStream::new(said)).await.expect("a session").into_inner();
    let first = heard.message().await.expect("a frame").expect("a frame");
    assert!(matches!(first.messages[0].kind, Some(Heard::Welcome(_))), "{first:?}");
    let task = tokio::spawn(async move {
        while let Ok(Some(frame)) = heard.message().await {
            for message in frame.messages {
                let answer = message.kind.and_then(|order| answer(order, manner));
                if let Some(answer) = answer
                    && say.send(self::frame(answer)).is_err()
                {
                    return;
                }
            }
        }
    });
    let mut admin = admin(coordinator).await;
    let is_here = async |admin: &mut AdminServiceClient<Channel>| {
        let listed = admin.list_participants(v1::ListParticipantsRequest {}).await.expect("a list").into_inner();
        listed.participants.iter().any(|participant| participant.name == name && participant.sessions > 0)
    };
    let waited = tokio::time::timeout(PATIENCE, async {
        while !is_here(&mut admin).await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.expect("it joins");
    Participant { task }
}

pub(crate) fn frame(kind: Said) -> ExchangeRequest {
    ExchangeRequest { messages: vec![ClientMessage { kind: Some(kind) }] }
}

fn answer(order: Heard, manner: Manner) -> Option<Said> {
    let is_willing = matches!(manner, Manner::Willing | Manner::Mute);
    match order {
        Heard::Heartbeat(_) => Some(Said::Heartbeat(v1::Heartbeat {})),
        _ if manner == Manner::Silent => None,
        Heard::Branch(v1::BranchOrder { gtid, branch, epoch, kind }) => {
            let done = |decision| (manner != Manner::Mute).then(|| done(decision, epoch, v1::BranchResult::Done));
            let answer = match kind.expect("an order") {
                Order::Prepare(_) => Some(Report::Vote(v1::Vote {
                    vote: if is_willing { v1::VoteKind::Yes } else { v1::VoteKind::No }.into(),
                    reason: if is_willing { String::new() } else { "sold out".to_owned() },
                })),
                Order::Commit(_) => done(v1::Decision::Commit),
                Order::Abort(_) => done(v1::Decision::Abort),
            };
            Some(report(&gtid, branch.expect("a branch id"), answer?))
        }
        Heard::ExecuteStep(step) => Some(Said::Step(v1::StepAnswer {
            gtid: step.gtid,
            step: step.step,
            compensation: false,
            attempt: step.attempt,
            epoch: step.epoch,
            result: Some(if is_willing {
                v1::step_answer::Result::Done(format!("{} done", step.name).into_bytes().into())
            } else {
                v1::step_answer::Result::Refused("sold out".to_owned())
            }),
            is_final: false,
        })),
        Heard::CompensateStep(step) => Some(Said::Step(v1::StepAnswer {
            gtid: step.gtid,
            step: step.step,
            compensation: true,
            attempt: step.attempt,
            epoch: step.epoch,
            result: Some(v1::step_answer::Result::Done(Vec::new().into())),
            is_final: false,
        })),
        Heard::Welcome(_)
        | Heard::Reply(_)
        | Heard::GoAway(_)
        // It has no voter.
        | Heard::AskVoter(_)
        | Heard::LogAnswered(_)
        | Heard::AwaitDecision(_)
        | Heard::ForgetVoters(_) => None,
    }
}
