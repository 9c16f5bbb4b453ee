//! The outgoing half: whatever has queued becomes one frame.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use assent_proto::session::FromReplica;
use assent_proto::v1::{ExchangeResponse, ServerMessage};
use assent_protocol::message::payload_bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::Settings;
use crate::driver::{Backlog, Outbound};

/// A frame is closed once it holds so many bytes of payload; a single message may be larger.
const FRAME_BYTES_SOFT_MAX: usize = 1024 * 1024;
/// Or so many messages, so that the client can start on them.
const FRAME_MESSAGES_MAX: usize = 4_096;

/// Messages of the reader itself that may wait; beyond it the client has stopped reading.
const OWN_MAX: usize = 1_024;

/// The reader's end: how it reaches the client.
pub(super) struct End {
    /// For the shards.
    pub(super) outbound: Outbound,
    /// Ends the stream with a status.
    pub(super) close: oneshot::Sender<Status>,
    /// For the reader itself, ahead of the shards.
    pub(super) first: mpsc::Sender<FromReplica>,
}

struct Writer {
    queue: mpsc::UnboundedReceiver<Vec<FromReplica>>,
    own: mpsc::Receiver<FromReplica>,
    backlog: Arc<Backlog>,
    carried: VecDeque<FromReplica>,
    /// How many of those carried count in the backlog.
    counted: usize,
    closed: oneshot::Receiver<Status>,
    heartbeat_interval: Duration,
    is_over: bool,
}

/// Makes the outgoing stream of a session and the reader's end of it.
pub(super) fn channel(settings: &Settings) -> (End, BoxStream<'static, Result<ExchangeResponse, Status>>) {
    let (outbound, queue, backlog) = Outbound::channel();
    let (first, own) = mpsc::channel(OWN_MAX);
    let (close, closed) = oneshot::channel();
    let writer = Writer {
        queue,
        own,
        backlog,
        carried: VecDeque::new(),
        counted: 0,
        closed,
        heartbeat_interval: settings.heartbeat_interval,
        is_over: false,
    };
    let stream = stream::unfold(writer, |mut writer| async move {
        if writer.is_over {
            return None;
        }
        let frame = writer.next().await;
        writer.is_over = frame.is_err();
        Some((frame, writer))
    });
    (End { outbound, close, first }, stream.boxed())
}

impl Writer {
    /// Waits for something to say, and says all that has queued by then.
    async fn next(&mut self) -> Result<ExchangeResponse, Status> {
        if self.carried.is_empty() {
            tokio::select! {
                biased;
                status = &mut self.closed => return Err(status.unwrap_or_else(|_| Status::cancelled("session over"))),
                Some(message) = self.own.recv() => {
                    // Alone, although orders of recovered transactions may be there as soon as the session is: a client greets first.
                    let is_welcome = matches!(message, FromReplica::Welcome(_));
                    self.carried.push_back(message);
                    if is_welcome {
                        return Ok(self.frame());
                    }
                }
                messages = self.queue.recv() => match messages {
                    Some(messages) => self.take(messages),
                    None => return Err(self.end().await),
                },
                () = tokio::time::sleep(self.heartbeat_interval) => self.carried.push_back(FromReplica::Heartbeat),
            }
        }
        while self.carried.len() < FRAME_MESSAGES_MAX {
            let Ok(messages) = self.queue.try_recv() else { break };
            self.take(messages);
        }
        Ok(self.frame())
    }

    fn take(&mut self, messages: Vec<FromReplica>) {
        self.counted += messages.len();
        self.carried.extend(messages);
    }

    fn frame(&mut self) -> ExchangeResponse {
        let mut messages = Vec::with_capacity(self.carried.len().min(FRAME_MESSAGES_MAX));
        let mut bytes = 0;
        while messages.len() < FRAME_MESSAGES_MAX {
            let Some(message) = self.carried.pop_front() else { break };
            let size = payload_bytes(&message);
            if bytes > 0 && bytes + size > FRAME_BYTES_SOFT_MAX {
                self.carried.push_front(message);
                break;
            }
            bytes += size;
            messages.push(ServerMessage::from(message));
        }
        // Heartbeats and the reader's own messages were never counted.
        let sent = messages.len().min(self.counted);
        self.counted -= sent;
        self.backlog.sent(sent);
        ExchangeResponse { messages }
    }

    /// The shards have let go of the session: the reader knows why.
    async fn end(&mut self) -> Status {
        (&mut self.closed).await.unwrap_or_else(|_| Status::cancelled("session over"))
    }
}
