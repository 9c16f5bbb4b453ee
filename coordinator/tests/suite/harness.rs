//! Coordinators on a log of their own, and participants that do as they are told.

use std::future::Future;
use std::time::Duration;

use assent::config::Config;
use assent::server::Coordinator;
use assent_proto::error::Reason;
use assent_proto::session::Refused;
use assent_proto::v1::admin_service_client::AdminServiceClient;
use assent_proto::v1::client_message::Kind as Said;
use assent_proto::v1::server_message::Kind as Heard;
use assent_proto::v1::session_service_client::SessionServiceClient;
use assent_proto::v1::transaction_service_client::TransactionServiceClient;
use assent_proto::v1::{self, ClientMessage, ExchangeRequest};
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
        Coordinator::start(config).await.expect("a coordinator")
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
    let refused = Refused::from_status(&status).unwrap_or_else(|| panic!("not one of ours: {status:?}"));
    let reason = refused.known_reason().expect("a known reason");
    assert!(!refused.message.is_empty());
    (reason, refused.message)
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
    let hello = v1::Hello {
        participant: name.to_owned(),
        instance_id: Uuid::now_v7().as_u64_pair().1,
        protocol_version: 1,
        ..v1::Hello::default()
    };
    say.send(frame(Said::Hello(hello))).expect("open");
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

fn frame(kind: Said) -> ExchangeRequest {
    ExchangeRequest { messages: vec![ClientMessage { kind: Some(kind) }] }
}

fn answer(order: Heard, manner: Manner) -> Option<Said> {
    let is_willing = matches!(manner, Manner::Willing | Manner::Mute);
    match order {
        Heard::Heartbeat(_) => Some(Said::Heartbeat(v1::Heartbeat {})),
        _ if manner == Manner::Silent => None,
        Heard::Prepare(prepare) => Some(Said::Vote(v1::Vote {
            gtid: prepare.gtid,
            vote: if is_willing { v1::VoteKind::Yes } else { v1::VoteKind::No }.into(),
            reason: if is_willing { String::new() } else { "sold out".to_owned() },
        })),
        Heard::CommitBranch(v1::CommitBranch { gtid, .. }) | Heard::AbortBranch(v1::AbortBranch { gtid, .. }) => {
            (manner != Manner::Mute)
                .then(|| Said::Acknowledge(v1::Acknowledge { gtid, result: v1::BranchResult::Done.into() }))
        }
        Heard::ExecuteStep(step) => Some(Said::StepAnswer(v1::StepAnswer {
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
        })),
        Heard::CompensateStep(step) => Some(Said::StepAnswer(v1::StepAnswer {
            gtid: step.gtid,
            step: step.step,
            compensation: true,
            attempt: step.attempt,
            epoch: step.epoch,
            result: Some(v1::step_answer::Result::Done(Vec::new().into())),
        })),
        Heard::Welcome(_) | Heard::Reply(_) | Heard::GoAway(_) => None,
    }
}
