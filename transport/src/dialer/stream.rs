//! The stream of a dialled connection, and why it failed.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::stream::Stream;

/// The first byte of a TLS alert, which HTTP never begins with.
const TLS_ALERT: u8 = 0x15;

/// Why nothing came of a connection.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// The network.
    Io(String),
    /// It was dialled without TLS, and answers with it.
    SpeaksTls,
    /// It was dialled with TLS, and answers without.
    SpeaksNoTls,
    /// The handshake, or a certificate.
    Tls(rustls::Error),
    /// A name of this machine that is another's.
    Leads(SocketAddr),
}

/// What is known of a connection, beside its stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    known: Arc<Mutex<Known>>,
    told: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Known {
    has_spoken: bool,
    trouble: Option<Trouble>,
}

impl Watch {
    fn tell(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner));
        self.told.notify_one();
    }

    /// Something went wrong. The first thing is kept: it is the cause of the others.
    pub(super) fn note(&self, trouble: Trouble) {
        self.tell(|known| {
            known.trouble.get_or_insert(trouble);
        });
    }

    /// The same, of a stream.
    pub(super) fn failed(&self, error: &io::Error) {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        self.note(match tls {
            Some(rustls::Error::InvalidMessage(_)) => Trouble::SpeaksNoTls,
            Some(error) => Trouble::Tls(error.clone()),
            None => Trouble::Io(error.to_string()),
        });
    }

    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).trouble.clone()
    }

    /// Waits until the other side has said something.
    pub(super) async fn spoken(&self) -> Result<(), Trouble> {
        loop {
            let told = self.told.notified();
            {
                let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(trouble) = &known.trouble {
                    return Err(trouble.clone());
                }
                if known.has_spoken {
                    return Ok(());
                }
            }
            told.await;
        }
    }
}

/// See the module.
pub(super) struct DialledStream {
    /// Taken when it is dropped before the other side has spoken.
    stream: Option<Stream>,
    watch: Watch,
    has_spoken: bool,
}

/// How long the last word of a connection that was given up is waited for.
const LAST_WORD_MAX: Duration = Duration::from_millis(500);

const WITHOUT_A_WORD: &str = "it closed the connection without a word";

impl DialledStream {
    pub(super) fn new(stream: Stream, watch: Watch) -> Self {
        Self { stream: Some(stream), watch, has_spoken: false }
    }

    fn stream(&mut self) -> Pin<&mut Stream> {
        Pin::new(self.stream.as_mut().expect("there until it is dropped"))
    }

    /// What the first bytes of the other side tell.
    fn first(&mut self, read: &io::Result<()>, bytes: &[u8]) -> Option<io::Error> {
        match (read, bytes.first(), &self.stream) {
            (Err(error), ..) => self.watch.failed(error),
            (Ok(()), Some(&TLS_ALERT), Some(Stream::Plain(_))) => {
                self.watch.note(Trouble::SpeaksTls);
                return Some(io::Error::new(io::ErrorKind::InvalidData, "the other side speaks TLS"));
            }
            (Ok(()), Some(_), _) => {
                self.has_spoken = true;
                self.watch.tell(|known| known.has_spoken = true);
            }
            (Ok(()), None, _) => self.watch.note(Trouble::Io(WITHOUT_A_WORD.to_owned())),
        }
        None
    }
}

/// HTTP gives a connection up when a write fails, and then reads nothing more from it. The other side
/// may have said why before it closed, such as that it does not know a certificate.
impl Drop for DialledStream {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take().filter(|_| !self.has_spoken) else { return };
        let watch = self.watch.clone();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                tokio::time::timeout(LAST_WORD_MAX, last_word(stream, &watch)).await.ok();
                watch.note(Trouble::Io(WITHOUT_A_WORD.to_owned()));
            })),
            Err(_) => watch.note(Trouble::Io(WITHOUT_A_WORD.to_owned())),
        }
    }
}

/// Reads the rest of a connection that was given up, for what went wrong.
async fn last_word(mut stream: Stream, watch: &Watch) {
    let mut bytes = [0; 512];
    match (stream.read(&mut bytes).await, bytes[0], &stream) {
        (Err(error), ..) => watch.failed(&error),
        (Ok(1..), TLS_ALERT, Stream::Plain(_)) => watch.note(Trouble::SpeaksTls),
        (Ok(_), ..) => {}
    }
}

impl AsyncRead for DialledStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(self.stream().poll_read(context, buffer));
        if self.has_spoken {
            return Poll::Ready(read);
        }
        match self.first(&read, &buffer.filled()[before..]) {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Ready(read),
        }
    }
}

impl AsyncWrite for DialledStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::is_write_vectored)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    /// Otherwise the dial would wait for a word until its time is up, and a process that has lost its
    /// session would stay away for as long.
    #[tokio::test]
    async fn a_connection_that_is_given_up_before_it_has_spoken_has_failed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let tcp = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let watch = Watch::default();
        drop(DialledStream::new(Stream::Plain(tcp), watch.clone()));
        let spoken = tokio::time::timeout(Duration::from_secs(60), watch.spoken()).await;
        assert!(matches!(spoken, Ok(Err(Trouble::Io(_)))), "{spoken:?}");
    }
}
