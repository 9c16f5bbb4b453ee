//! Sessions: one bidirectional stream for each client process.
//!
//! | file | subject |
//! |---|---|
//! | `mod.rs` | the gRPC service, and what a session may do |
//! | `reader.rs` | Hello, then frames in: parsed once, checked, given to the shards |
//! | `writer.rs` | messages out: whatever has queued becomes one frame |
//!
//! A reader waits while a shard's queue is full, which stops the client through HTTP/2 flow control. A writer never makes a
//! shard wait: a session that does not take its messages is cut (see [`Backlog`](crate::driver::Backlog)).

mod reader;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use assent_proto::session::FRAME_BYTES_MAX;
use assent_proto::v1::session_service_server::{SessionService, SessionServiceServer};
use assent_proto::v1::{ExchangeRequest, ExchangeResponse};
use assent_transport::{Greeting, PeerInfo};
use futures::stream::BoxStream;
use tokio::sync::{Semaphore, watch};
use tonic::{Request, Response, Status, Streaming};

use crate::access::{Access, Caller, Gate};
use crate::driver::{Driver, Limits, SessionId};
use crate::log::Log;

/// How sessions are held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The replica's name, for Welcome.
    pub replica: String,
    /// The same for every replica of one log, forever: prefixes what participants prepare.
    pub coordinator_id: String,
    /// Something is said at least this often.
    pub heartbeat_interval: Duration,
    /// A peer that is silent for longer is gone.
    pub silence_max: Duration,
    /// Sessions at once; more are refused.
    pub sessions_max: usize,
    /// What a message may hold.
    pub limits: Limits,
}

/// The service; see the module.
#[derive(Debug)]
pub struct Sessions {
    shared: Arc<Shared>,
}

/// What all sessions of a replica share.
#[derive(Debug)]
struct Shared {
    driver: Driver,
    settings: Settings,
    log: Arc<dyn Log>,
    access: Arc<Access>,
    places: Arc<Semaphore>,
    next: AtomicU64,
    leaving: watch::Receiver<bool>,
}

/// Session numbers below this are for callers inside the process.
const FIRST_SESSION: u64 = 1_000;

/// The most bytes of a message as gRPC counts it: a frame, and its envelope.
pub(crate) const MESSAGE_BYTES_MAX: usize = FRAME_BYTES_MAX + 4_096;

/// The session service, to be served by tonic. When `leaving` turns true, sessions are told to go away.
pub fn service(
    driver: Driver,
    settings: Settings,
    log: Arc<dyn Log>,
    access: Arc<Access>,
    leaving: watch::Receiver<bool>,
) -> SessionServiceServer<Sessions> {
    let places = Arc::new(Semaphore::new(settings.sessions_max));
    let next = AtomicU64::new(FIRST_SESSION);
    let shared = Arc::new(Shared { driver, settings, log, access, places, next, leaving });
    SessionServiceServer::new(Sessions { shared })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

#[tonic::async_trait]
impl SessionService for Sessions {
    type ExchangeStream = BoxStream<'static, Result<ExchangeResponse, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let session = SessionId(self.shared.next.fetch_add(1, Relaxed));
        let (peer, gate) =
            (request.extensions().get::<PeerInfo>().cloned(), request.extensions().get::<Gate>().cloned());
        let address = peer.as_ref().and_then(PeerInfo::address);
        let caller = request.extensions().get::<Caller>().cloned();
        let greeting = request.extensions().get::<Arc<Greeting>>().cloned();
        let door = reader::Door { peer, gate: gate.unwrap_or_default(), caller, greeting };
        let (end, outgoing) = writer::channel(&self.shared.settings);
        let reader = reader::Reader::new(Arc::clone(&self.shared), session, request.into_inner(), end, door);
        // The stream is answered at once, so that clients that wait for headers before they send Hello are served too.
        tokio::spawn(async move {
            tracing::debug!(session = session.0, ?address, "session opened");
            reader.run().await;
            tracing::debug!(session = session.0, "session closed");
        });
        Ok(Response::new(outgoing))
    }
}
