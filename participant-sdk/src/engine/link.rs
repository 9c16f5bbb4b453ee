//! One session with a replica: dialled, greeted, then frames both ways.

use std::time::Duration;

use assent_proto::error::refusal_of;
use assent_proto::session::{Ask, FRAME_BYTES_MAX, FromClient, FromReplica, Hello, VoterMessage, Welcome};
use assent_proto::v1::session_service_client::SessionServiceClient;
use assent_proto::v1::{ClientMessage, ExchangeRequest, ExchangeResponse, ServerMessage};
use assent_protocol::ParticipantName;
use assent_protocol::branch::{HookEnd, Message};
use assent_protocol::saga::StepResult;
use assent_protocol::three_phase::{PeerAddress, Request};
use assent_protocol::two_phase::Vote;
use assent_transport::{Dialer, Target};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::error::ConnectError;

/// Frames that may wait for the network; what does not fit is collected into the next one.
const FRAMES_MAX: usize = 2;
/// A frame is closed once it holds so many bytes of payload.
const FRAME_BYTES_SOFT_MAX: usize = 1024 * 1024;
/// Or so many messages.
const FRAME_MESSAGES_MAX: usize = 4_096;
/// How long the replica may take to read the last frames.
const FINISH_MAX: Duration = Duration::from_secs(1);
/// gRPC counts its own envelope.
const ENVELOPE_BYTES: usize = 4_096;
/// What one participant's place in a roster takes at most.
const SEAT_BYTES_MAX: usize = ParticipantName::BYTES_MAX + PeerAddress::BYTES_MAX + 48;
/// How long a dialled replica may take for its Welcome.
const WELCOME_MAX: Duration = Duration::from_secs(10);

/// An open session.
pub(super) struct Link {
    pub(super) welcome: Welcome,
    pub(super) incoming: Streaming<ExchangeResponse>,
    /// What came in one frame with Welcome.
    pub(super) early: Vec<ServerMessage>,
    frames: mpsc::Sender<ExchangeRequest>,
}

/// What the process has to say, until there is room for it.
#[derive(Default)]
pub(super) struct Outbox {
    queued: Vec<FromClient>,
}

impl Outbox {
    /// Queues a message for the next frame.
    pub(super) fn send(&mut self, message: FromClient) {
        self.queued.push(message);
    }

    /// What was queued and never handed to the network.
    pub(super) fn unwritten(&self) -> &[FromClient] {
        &self.queued
    }

    /// Whether messages wait because the network is behind.
    pub(super) fn is_behind(&self) -> bool {
        !self.queued.is_empty()
    }
}

/// Where sessions go, with the credentials of the moment.
pub(super) fn target(dialer: &Dialer, address: &str, connect_timeout: Duration) -> Result<Target, ConnectError> {
    Ok(dialer.target(address)?.map(|endpoint| {
        endpoint
            .connect_timeout(connect_timeout)
            .initial_stream_window_size(Some(8 * 1024 * 1024))
            .initial_connection_window_size(Some(16 * 1024 * 1024))
    }))
}

impl Link {
    /// Dials, says Hello, and waits for Welcome.
    pub(super) async fn dial(target: &Target, mut hello: Hello) -> Result<Self, ConnectError> {
        let address = target.url();
        hello.token = target.token().map(|token| token.expose().to_owned()).unwrap_or_default();
        let unreachable =
            |source: crate::participant::BoxError| ConnectError::Unreachable { address: address.to_owned(), source };
        let channel = target.connect().await?;
        let mut client = SessionServiceClient::new(channel)
            .max_decoding_message_size(FRAME_BYTES_MAX + ENVELOPE_BYTES)
            .max_encoding_message_size(FRAME_BYTES_MAX + ENVELOPE_BYTES);
        let (frames, outgoing) = mpsc::channel(FRAMES_MAX);
        let first = ExchangeRequest { messages: vec![ClientMessage::from(FromClient::Hello(hello))] };
        // The queue is new and has room.
        frames.try_send(first).ok();
        let failed = |status: Status| match refusal_of(&status) {
            Some(source) => ConnectError::Refused { address: address.to_owned(), source },
            None => unreachable(status.into()),
        };
        let greeting = async {
            let mut incoming = client.exchange(ReceiverStream::new(outgoing)).await?.into_inner();
            let frame = incoming.message().await?;
            Ok::<_, Status>((incoming, frame))
        };
        let (incoming, frame) = tokio::time::timeout(WELCOME_MAX, greeting)
            .await
            .map_err(|elapsed| unreachable(elapsed.into()))?
            .map_err(failed)?;
        let mut messages = frame.map(|frame| frame.messages).unwrap_or_default().into_iter();
        let first = messages.next().map(FromReplica::try_from);
        match first {
            Some(Ok(FromReplica::Welcome(welcome))) => {
                Ok(Self { welcome, incoming, early: messages.collect(), frames })
            }
            Some(Err(malformed)) => Err(unreachable(malformed.into())),
            Some(Ok(_)) | None => Err(unreachable("it did not say Welcome; is this a coordinator?".into())),
        }
    }

    /// What tells when the network takes another frame.
    pub(super) fn gate(&self) -> Gate {
        Gate { frames: self.frames.clone() }
    }

    /// Sends what is queued, as far as the network takes it. Answers whether it sent a frame.
    pub(super) fn flush(&mut self, outbox: &mut Outbox) -> bool {
        let mut has_sent = false;
        while !outbox.queued.is_empty() {
            let Ok(permit) = self.frames.try_reserve() else { break };
            let mut bytes = 0;
            let fitting = outbox.queued.iter().take(FRAME_MESSAGES_MAX).take_while(|message| {
                let is_first = bytes == 0;
                bytes += payload_bytes(message) + 1;
                is_first || bytes <= FRAME_BYTES_SOFT_MAX
            });
            let count = fitting.count();
            #[cfg(debug_assertions)]
            sent(&outbox.queued[..count]);
            let messages = outbox.queued.drain(..count).map(ClientMessage::from).collect();
            permit.send(ExchangeRequest { messages });
            has_sent = true;
        }
        has_sent
    }

    /// Says that nothing more will come, and lets the replica read what did.
    pub(super) async fn finish(self) {
        let Self { mut incoming, frames, .. } = self;
        drop(frames);
        let until_its_end = async { while let Ok(Some(_)) = incoming.message().await {} };
        // A replica that does not end the session loses nothing: what it missed it asks for again.
        tokio::time::timeout(FINISH_MAX, until_its_end).await.ok();
    }
}

/// The crash points behind what was said.
#[cfg(debug_assertions)]
fn sent(messages: &[FromClient]) {
    use assent_crash::crash_point;
    use assent_proto::session::BranchReport;

    for message in messages {
        match message {
            FromClient::Branch(BranchReport { message: Message::Vote(_), .. }) => {
                crash_point!(VOTE_SENT);
            }
            FromClient::Branch(BranchReport { message: Message::Acknowledge(_), .. }) => {
                crash_point!(ACKNOWLEDGEMENT_SENT);
            }
            FromClient::Step(_) => {
                crash_point!(ANSWER_SENT);
            }
            FromClient::Branch(BranchReport { message: Message::Inquire, .. })
            | FromClient::Hello(_)
            | FromClient::Heartbeat
            | FromClient::Request(_)
            | FromClient::Voter(_) => {}
        }
    }
}

/// See [`Link::gate`].
pub(super) struct Gate {
    frames: mpsc::Sender<ExchangeRequest>,
}

impl Gate {
    /// Waits until the network takes another frame.
    pub(super) async fn room(&self) {
        // Closed counts as room: the next send finds out.
        self.frames.reserve().await.ok();
    }
}

/// The bytes of a message that users determine, with something for what is around them.
fn payload_bytes(message: &FromClient) -> usize {
    match message {
        FromClient::Hello(_) | FromClient::Heartbeat => 0,
        FromClient::Request(request) => request_bytes(&request.ask),
        FromClient::Branch(report) => match &report.message {
            Message::Vote(Vote::No(reason) | Vote::Unknown(reason)) => reason.len(),
            Message::Acknowledge(acknowledgement) => match &acknowledgement.end {
                HookEnd::Failed(error) => error.len(),
                HookEnd::Ended(_) => 0,
            },
            Message::Vote(Vote::Yes | Vote::ReadOnly | Vote::Committed) | Message::Inquire => 0,
        },
        FromClient::Step(answer) => match &answer.result {
            StepResult::Done(output) => output.len(),
            StepResult::Refused(reason) | StepResult::Unknown(reason) => reason.len(),
        },
        FromClient::Voter(report) => match &report.message {
            VoterMessage::AskLog { request: Request::Join { roster, .. }, .. } => {
                roster.participants().len() * SEAT_BYTES_MAX
            }
            VoterMessage::AskLog {
                request:
                    Request::VoteYes { .. }
                    | Request::VoteNo
                    | Request::Propose { .. }
                    | Request::Decided(_)
                    | Request::Elected(_),
                ..
            }
            | VoterMessage::Answered(_) => 0,
        },
    }
}

/// The same of a request.
pub(crate) fn request_bytes(ask: &Ask) -> usize {
    match ask {
        Ask::Commit(commit) => commit.branches.iter().map(|branch| branch.payload.len() + 64).sum(),
        Ask::StartSaga { definition, .. } => definition.steps().iter().map(|step| step.input.len() + 128).sum(),
        Ask::Abort { reason } => reason.len(),
        Ask::Begin { .. } | Ask::Await { .. } | Ask::Enlist { .. } => 0,
    }
}
