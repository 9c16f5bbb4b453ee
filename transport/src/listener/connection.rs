//! The stream of an accepted connection, and who is at its other end.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::HANDSHAKE_MAX;
use super::waiting::Pass;
use crate::identity::uris_of;
use crate::stream::Stream;

/// What is known of the other end of a connection: in the extensions of each request.
#[derive(Clone)]
pub struct PeerInfo {
    address: Option<SocketAddr>,
    is_tls: bool,
    uris: Arc<[String]>,
    pass: Arc<Pass>,
    greetings: Arc<AtomicUsize>,
}

/// The most requests at a time on one connection whose callers are not known yet. A process has one session; a proxy has some more.
const GREETINGS_MAX: usize = 16;

/// A request whose caller is not known yet; over when it is dropped.
#[derive(Debug)]
pub struct Greeting(Arc<AtomicUsize>);

impl Drop for Greeting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl PeerInfo {
    /// Where it is.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The URIs of its certificate, which was verified; none, if it showed none.
    pub fn uris(&self) -> &[String] {
        &self.uris
    }

    /// A request has come: the connection may go on without authenticating, as long as there is room.
    pub fn spoke(&self) {
        self.pass.speak();
    }

    /// One more request is served whose caller is not known yet; `None` if there are too many of them on this connection, until one of
    /// the others is known or over.
    pub fn greet(&self) -> Option<Greeting> {
        let taken = self.greetings.fetch_update(Relaxed, Relaxed, |taken| (taken < GREETINGS_MAX).then_some(taken + 1));
        taken.is_ok().then(|| Greeting(Arc::clone(&self.greetings)))
    }

    /// The other end has authenticated: the connection stays.
    pub fn admit(&self) {
        self.pass.admit();
    }
}

impl fmt::Debug for PeerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerInfo").field("address", &self.address).field("uris", &self.uris).finish_non_exhaustive()
    }
}

/// A connection that can be cut from the outside: sessions last for as long as both sides live, and a shutdown does not wait so long.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    peer: PeerInfo,
    severed: Pin<Box<WaitForCancellationFutureOwned>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Until the first request has come.
    deadline: Option<Pin<Box<Sleep>>>,
    is_over: Option<&'static str>,
}

impl Connection {
    pub(super) fn plain(
        stream: TcpStream,
        address: Option<SocketAddr>,
        pass: Pass,
        severed: CancellationToken,
    ) -> Self {
        Self::new(
            Stream::Plain(stream),
            PeerInfo { address, is_tls: false, uris: Arc::default(), pass: Arc::new(pass), greetings: Arc::default() },
            severed,
        )
    }

    pub(super) fn tls(
        stream: TlsStream<TcpStream>,
        address: Option<SocketAddr>,
        pass: Pass,
        severed: CancellationToken,
    ) -> Self {
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let uris = certificate.map(uris_of).unwrap_or_default().into();
        let peer = PeerInfo { address, is_tls: true, uris, pass: Arc::new(pass), greetings: Arc::default() };
        Self::new(Stream::tls(stream), peer, severed)
    }

    fn new(stream: Stream, peer: PeerInfo, severed: CancellationToken) -> Self {
        let cut = Box::pin(peer.pass.cut().cancelled_owned());
        let deadline = Some(Box::pin(tokio::time::sleep(HANDSHAKE_MAX)));
        Self { stream, peer, severed: Box::pin(severed.cancelled_owned()), cut, deadline, is_over: None }
    }

    /// Whether it is over; has the task woken when it is.
    fn poll_over(&mut self, context: &mut Context<'_>) -> Option<io::Error> {
        if self.is_over.is_none() {
            if self.severed.as_mut().poll(context).is_ready() {
                self.is_over = Some("the server has stopped");
            } else if self.cut.as_mut().poll(context).is_ready() {
                self.is_over = Some("too many connections have not authenticated");
            } else if let Some(deadline) = &mut self.deadline {
                if self.peer.pass.has_spoken() {
                    self.deadline = None;
                } else if deadline.as_mut().poll(context).is_ready() {
                    self.is_over = Some("nothing was asked in time");
                }
            }
        }
        self.is_over.map(|why| io::Error::new(io::ErrorKind::ConnectionAborted, why))
    }
}

impl Connected for Connection {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The server always reads a connection, so this is where its end is noticed.
        if let Some(error) = self.poll_over(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
