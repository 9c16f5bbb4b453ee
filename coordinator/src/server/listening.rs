//! The port and its connections.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{self, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::StartError;

/// The pause after a connection that could not be accepted: without one, a process that has run out of descriptors would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens the port.
pub(super) async fn bind(address: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| error(address, source))
}

/// Why there is no port, and what to do.
pub(super) fn error(address: &str, source: io::Error) -> StartError {
    let next = match source.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there; stop it, or choose another port with --listen (port 0 takes any free one)"
        }
        io::ErrorKind::AddrNotAvailable => "no such address on this machine; choose another with --listen",
        io::ErrorKind::PermissionDenied => "this user may not; choose a port from 1024 on with --listen",
        _ => "check the address, or choose another with --listen",
    };
    StartError::Listen { address: address.to_owned(), next, source }
}

/// The connections that come in, each to be cut by `severed`.
pub(super) fn connections(
    listener: TcpListener,
    severed: CancellationToken,
) -> impl Stream<Item = Result<Connection, io::Error>> {
    stream::unfold((listener, severed), |(listener, severed)| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Small messages must not wait for larger company; a socket that refuses is no worse off.
                    stream.set_nodelay(true).ok();
                    let connection =
                        Connection { stream, severed: Box::pin(severed.clone().cancelled_owned()), is_severed: false };
                    return Some((Ok(connection), (listener, severed)));
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// A connection that can be cut from the outside: sessions last for as long as both sides live, and a shutdown does not wait so long.
pub(super) struct Connection {
    stream: TcpStream,
    severed: Pin<Box<WaitForCancellationFutureOwned>>,
    is_severed: bool,
}

impl Connection {
    /// Whether it was cut; has the task woken when it is.
    fn poll_severed(&mut self, context: &mut Context<'_>) -> Option<io::Error> {
        self.is_severed = self.is_severed || self.severed.as_mut().poll(context).is_ready();
        self.is_severed.then(|| io::Error::new(io::ErrorKind::ConnectionAborted, "the coordinator has stopped"))
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever serves a connection always reads it, so this is where the cut is noticed.
        if let Some(error) = self.poll_severed(context) {
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
