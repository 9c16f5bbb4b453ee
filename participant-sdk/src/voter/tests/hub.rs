//! A coordinator that says what a test tells it to say, and nothing else.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use assent_proto::session::{FromClient, FromReplica, Welcome};
use assent_proto::v1::session_service_server::{SessionService, SessionServiceServer};
use assent_proto::v1::{ExchangeRequest, ExchangeResponse, ServerMessage};
use assent_protocol::Epoch;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::DEADLINE;

type Frame = Result<ExchangeResponse, Status>;

/// A coordinator's place.
pub(crate) struct Hub {
    address: String,
    sessions: Sessions,
    heard: mpsc::UnboundedReceiver<FromClient>,
    stop: Option<oneshot::Sender<()>>,
    server: Option<tokio::task::JoinHandle<()>>,
}

#[derive(Clone, Default)]
struct Sessions(Arc<Mutex<HashMap<String, mpsc::Sender<Frame>>>>);

struct Service {
    sessions: Sessions,
    told: mpsc::UnboundedSender<FromClient>,
}

impl Hub {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address")).await
    }

    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let at: SocketAddr = listener.local_addr().expect("bound");
        let sessions = Sessions::default();
        let (told, heard) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let service = SessionServiceServer::new(Service { sessions: sessions.clone(), told });
        let server = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let serving = tonic::transport::Server::builder().serve_with_incoming(service, incoming);
            // Killed, not shut down.
            tokio::select! {
                _ = serving => {}
                _ = stopped => {}
            }
        });
        Self { address: format!("http://{at}"), sessions, heard, stop: Some(stop), server: Some(server) }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Dies.
    pub(crate) async fn stop(&mut self) {
        self.stop.take();
        if let Some(server) = self.server.take() {
            server.await.expect("no panic");
        }
        self.sessions.0.lock().expect("no panic").clear();
    }

    pub(crate) fn tell(&self, participant: &str, message: FromReplica) {
        let sessions = self.sessions.0.lock().expect("no panic");
        let session = sessions.get(participant).expect("it has joined");
        session.try_send(Ok(frame(message))).expect("there is room");
    }

    /// Waits for a message, past all others.
    pub(crate) async fn expect(&mut self, what: &str, is_it: impl Fn(&FromClient) -> bool) -> FromClient {
        let waiting = async {
            loop {
                let message = self.heard.recv().await.expect("the hub lives");
                if is_it(&message) {
                    return message;
                }
            }
        };
        tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("{what} did not come"))
    }

    /// Whether such a message has come, or comes within the time that a message takes.
    pub(crate) async fn has_heard(&mut self, is_it: impl Fn(&FromClient) -> bool) -> bool {
        let waiting = async {
            loop {
                let message = self.heard.recv().await.expect("the hub lives");
                if is_it(&message) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_millis(300), waiting).await.is_ok()
    }
}

fn frame(message: FromReplica) -> ExchangeResponse {
    ExchangeResponse { messages: vec![ServerMessage::from(message)] }
}

#[tonic::async_trait]
impl SessionService for Service {
    type ExchangeStream = ReceiverStream<Frame>;

    async fn exchange(
        &self,
        request: Request<Streaming<ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let mut incoming = request.into_inner();
        let (frames, outgoing) = mpsc::channel(1_024);
        let (sessions, told) = (self.sessions.clone(), self.told.clone());
        tokio::spawn(async move {
            while let Ok(Some(frame)) = incoming.message().await {
                for message in frame.messages {
                    let message = FromClient::try_from(message).expect("well-formed");
                    if let FromClient::Hello(hello) = &message {
                        let welcome = FromReplica::Welcome(Welcome {
                            protocol_version: *hello.protocol_versions.end(),
                            replica: "hub".into(),
                            epoch: Epoch(1),
                            peers: Vec::new(),
                            heartbeat_interval_ms: 60_000,
                            silence_max_ms: 600_000,
                            payload_bytes_max: 1_000_000,
                            branches_max: 16,
                            coordinator_id: "hub".into(),
                        });
                        if let Some(name) = &hello.participant {
                            sessions.0.lock().expect("no panic").insert(name.to_string(), frames.clone());
                        }
                        frames.send(Ok(super::hub::frame(welcome))).await.ok();
                    }
                    told.send(message).ok();
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}
