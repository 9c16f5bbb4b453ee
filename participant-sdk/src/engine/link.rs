//! One session with a replica: dialled, greeted, then frames both ways.

use std::time::Duration;

use assent_proto::error::refusal_of;
use assent_proto::session::{FRAME_BYTES_MAX, FromClient, FromReplica, Hello, Welcome};
use assent_proto::v1::session_service_client::SessionServiceClient;
use assent_proto::v1::{ClientMessage, ExchangeRequest, ExchangeResponse, ServerMessage};
use assent_protocol::agent::{Agent, SessionId};
use assent_transport::{Dialer, Target};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::error::ConnectError;

/// Frames that may wait for the network; what does not fit is collected into the next one.
const FRAMES_MAX: usize = 2;
/// How long the replica may take to read the last frames.
const FINISH_MAX: Duration = Duration::from_secs(1);
/// gRPC counts its own envelope.
const ENVELOPE_BYTES: usize = 4_096;
/// How long a dialled replica may take for its Welcome.
const WELCOME_MAX: Duration = Duration::from_secs(10);

/// An open session.
pub(super) struct Link {
    pub(super) session: SessionId,
    pub(super) welcome: Welcome,
    pub(super) incoming: Streaming<ExchangeResponse>,
    /// What came in one frame with Welcome.
    pub(super) early: Vec<ServerMessage>,
    frames: mpsc::Sender<ExchangeRequest>,
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
    pub(super) async fn dial(session: SessionId, target: &Target, mut hello: Hello) -> Result<Self, ConnectError> {
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
                Ok(Self { session, welcome, incoming, early: messages.collect(), frames })
            }
            Some(Err(malformed)) => Err(unreachable(malformed.into())),
            Some(Ok(_)) | None => Err(unreachable("it did not say Welcome; is this a coordinator?".into())),
        }
    }

    /// What tells when the network takes another frame.
    pub(super) fn gate(&self) -> Gate {
        Gate { frames: self.frames.clone() }
    }

    /// Sends what the agent has for this session, as far as the network takes it. Answers whether
    /// it sent a frame.
    pub(super) fn flush(&mut self, agent: &mut Agent) -> bool {
        let mut has_sent = false;
        while agent.messages_waiting(self.session) > 0
            && let Ok(permit) = self.frames.try_reserve()
        {
            let mut messages = Vec::with_capacity(agent.messages_waiting(self.session));
            agent.take_frame(self.session, |message| {
                #[cfg(debug_assertions)]
                sent(&message);
                messages.push(ClientMessage::from(message));
            });
            if !messages.is_empty() {
                permit.send(ExchangeRequest { messages });
                has_sent = true;
            }
        }
        has_sent
    }

    /// Says that the process is still there, unless frames wait for the network anyway.
    pub(super) fn send_heartbeat(&self) {
        let messages = vec![ClientMessage::from(FromClient::Heartbeat)];
        self.frames.try_send(ExchangeRequest { messages }).ok();
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
fn sent(message: &FromClient) {
    use assent_crash::crash_point;
    use assent_proto::session::BranchReport;
    use assent_protocol::branch::Message;

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
