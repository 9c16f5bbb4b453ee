//! Every incoming connection: handshakes, deadlines, who may wait.
//!
//! One task for each connection shakes hands, and what has a stream to read from is given to the server. None of them waits for another: a
//! peer that dawdles holds up no other.

mod connection;
mod waiting;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Sleep;
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

/// The connections that come in at a port, as a stream for a server. The port is closed when it is dropped.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    ready: mpsc::Receiver<Connection>,
    give: mpsc::Sender<Connection>,
    shared: Arc<Shared>,
    /// Until then nothing is accepted.
    pause: Option<Pin<Box<Sleep>>>,
    /// Told once for each time that it fills up.
    is_full: bool,
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

#[derive(Debug)]
struct Shared {
    rules: Rules,
    waiting: Arc<Waiting>,
    places: Arc<Semaphore>,
}

impl Listener {
    /// Accepts connections for as long as it is polled.
    pub fn new(listener: TcpListener, rules: Rules) -> Self {
        let (give, ready) = mpsc::channel(READY_MAX);
        let following = rules.tls.as_ref().map(|tls| tokio::spawn(ServerTls::follow(Arc::downgrade(tls))));
        let places = Arc::new(Semaphore::new(rules.connections_max.min(Semaphore::MAX_PERMITS)));
        let shared = Arc::new(Shared { rules, waiting: Waiting::new(WAITING_MAX), places });
        Self { listener, ready, give, shared, pause: None, is_full: false, following }
    }

    fn accepted(&mut self, stream: TcpStream) {
        let Ok(place) = Arc::clone(&self.shared.places).try_acquire_owned() else {
            if !std::mem::replace(&mut self.is_full, true) {
                let connections_max = self.shared.rules.connections_max;
                tracing::warn!(
                    connections_max,
                    "as many connections as this process may have; more are closed at once"
                );
            }
            return;
        };
        self.is_full = false;
        // Small messages must not wait for larger company; a socket that refuses is no worse off.
        stream.set_nodelay(true).ok();
        let pass = self.shared.waiting.enter(place);
        tokio::spawn(receive(stream, Arc::clone(&self.shared), pass, self.give.clone()));
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(following) = &self.following {
            following.abort();
        }
    }
}

impl Stream for Listener {
    type Item = Result<Connection, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Poll::Ready(connection) = self.ready.poll_recv(context) {
                return Poll::Ready(connection.map(Ok));
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok((stream, _)) => self.accepted(stream),
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}

/// Shakes hands, and hands the connection over.
async fn receive(stream: TcpStream, shared: Arc<Shared>, pass: waiting::Pass, give: mpsc::Sender<Connection>) {
    let severed = shared.rules.severed.clone();
    let cut = pass.cut();
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(HANDSHAKE_MAX, shake(stream, &shared, pass)) => shaken,
        () = cut.cancelled() => return,
        () = severed.cancelled() => return,
    };
    match shaken {
        Ok(Ok(connection)) => {
            // Fails once the server is gone.
            give.send(connection).await.ok();
        }
        Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
        Err(_) => tracing::debug!("a handshake took too long"),
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
