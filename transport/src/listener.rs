//! Every incoming connection: handshakes, deadlines, who may wait.
//!
//! A task accepts, one task for each connection shakes hands, and what has a stream to read from is given to the server. None of them
//! waits for another: a peer that dawdles holds nobody up.

mod connection;
mod waiting;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;

use crate::tls::ServerTls;

pub use connection::{Connection, Greeting, PeerInfo};
use waiting::Waiting;

/// How long a connection may take for its handshake, and then for its first request.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// How many connections that have not authenticated are open at a time. One more closes the oldest of them.
pub const WAITING_MAX: usize = 1_024;

/// The pause after a connection that could not be accepted: without one, a process that has run out of descriptors would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections with a stream that the server has not taken yet.
const READY_MAX: usize = 64;
/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// A fatal alert, "protocol version": what a client that began without TLS is told.
const NO_TLS_HERE: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 70];

/// The connections that come in at a port, as a stream for a server.
#[derive(Debug)]
pub struct Listener {
    ready: mpsc::Receiver<Connection>,
    accepting: tokio::task::JoinHandle<()>,
    following: Option<tokio::task::JoinHandle<()>>,
}

/// How a port is listened at.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Handshakes are made with this; without it, connections are in clear.
    pub tls: Option<Arc<ServerTls>>,
    /// Connections at a time; one more is closed at once.
    pub connections_max: usize,
    /// Cuts every connection.
    pub severed: CancellationToken,
}

struct Shared {
    rules: Rules,
    waiting: Arc<Waiting>,
    places: Arc<Semaphore>,
}

impl Listener {
    /// Accepts connections until it is dropped.
    pub fn new(listener: TcpListener, rules: Rules) -> Self {
        let (give, ready) = mpsc::channel(READY_MAX);
        let following = rules.tls.as_ref().map(|tls| tokio::spawn(ServerTls::follow(Arc::downgrade(tls))));
        let places = Arc::new(Semaphore::new(rules.connections_max.min(Semaphore::MAX_PERMITS)));
        let shared = Arc::new(Shared { rules, waiting: Waiting::new(WAITING_MAX), places });
        let accepting = tokio::spawn(accept(listener, shared, give));
        Self { ready, accepting, following }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
        if let Some(following) = &self.following {
            following.abort();
        }
    }
}

impl Stream for Listener {
    type Item = Result<Connection, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(context).map(|connection| connection.map(Ok))
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, give: mpsc::Sender<Connection>) {
    let mut is_full = false;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&shared.places).try_acquire_owned() else {
            // Told once for each time that it fills up.
            if !std::mem::replace(&mut is_full, true) {
                tracing::warn!(
                    connections_max = shared.rules.connections_max,
                    "as many connections as this process may have; more are closed at once"
                );
            }
            continue;
        };
        is_full = false;
        // Small messages must not wait for larger company; a socket that refuses is no worse off.
        stream.set_nodelay(true).ok();
        let pass = shared.waiting.enter(place);
        let (shared, give) = (Arc::clone(&shared), give.clone());
        tokio::spawn(async move {
            let severed = shared.rules.severed.clone();
            let cut = pass.cut();
            let shaken = tokio::select! {
                shaken = tokio::time::timeout(HANDSHAKE_MAX, shake(stream, &shared, pass)) => shaken,
                () = cut.cancelled() => return,
                () = severed.cancelled() => return,
            };
            match shaken {
                Ok(Ok(connection)) => {
                    // Fails once nobody serves any more.
                    give.send(connection).await.ok();
                }
                Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
                Err(_) => tracing::debug!("a handshake took too long"),
            }
        });
    }
}

async fn shake(mut stream: TcpStream, shared: &Shared, pass: waiting::Pass) -> io::Result<Connection> {
    let address = stream.peer_addr().ok();
    let Some(tls) = &shared.rules.tls else {
        return Ok(Connection::plain(stream, address, pass, shared.rules.severed.clone()));
    };
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first != [TLS_HANDSHAKE] {
        stream.write_all(&NO_TLS_HERE).await?;
        // What has come must be read, or the alert is lost with the connection.
        stream.shutdown().await?;
        tokio::io::copy(&mut tokio::io::AsyncReadExt::take(&mut stream, 64 * 1024), &mut tokio::io::sink()).await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it began without TLS"));
    }
    let stream = TlsAcceptor::from(tls.current()).accept(stream).await?;
    Ok(Connection::tls(stream, address, pass, shared.rules.severed.clone()))
}
