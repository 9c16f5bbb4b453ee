//! A pooler as PgBouncer is with `pool_mode = transaction`: clients share a few sessions of the
//! server, one transaction at a time.
//!
//! The first clients' own logins open the server's sessions. Later clients are let in with what the
//! server said at the first.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

pub(crate) struct TransactionPooler {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

struct Pool {
    server: SocketAddr,
    /// How many sessions may still be opened.
    places: Mutex<usize>,
    give: UnboundedSender<TcpStream>,
    take: tokio::sync::Mutex<UnboundedReceiver<TcpStream>>,
    /// The server's messages from AuthenticationOk to ReadyForQuery.
    greeting: Mutex<Vec<u8>>,
}

impl TransactionPooler {
    /// Listens, and hands out at most so many sessions of the server, the one first that came back
    /// first.
    pub(crate) async fn start(server: SocketAddr, sessions_max: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (give, take) = unbounded_channel();
        let pool = Arc::new(Pool {
            server,
            places: Mutex::new(sessions_max),
            give,
            take: tokio::sync::Mutex::new(take),
            greeting: Mutex::default(),
        });
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let pool = Arc::clone(&pool);
                // A client that hangs up ends its task.
                tokio::spawn(async move { pool.serve(client).await.ok() });
            }
        });
        Self { address, accepting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for TransactionPooler {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Pool {
    async fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let startup = startup(&mut client).await?;
        if self.has_place() {
            let session = self.log_in(&mut client, &startup).await?;
            self.give.send(session).ok();
        } else {
            let greeting = self.greeting.lock().expect("not poisoned").clone();
            client.write_all(&greeting).await?;
        }
        loop {
            let mut message = typed(&mut client).await?;
            if message[0] == b'X' {
                return Ok(());
            }
            let mut session = self.take.lock().await.recv().await.ok_or(io::ErrorKind::BrokenPipe)?;
            loop {
                session.write_all(&message).await?;
                // Query and Sync are answered up to ReadyForQuery.
                if matches!(message[0], b'Q' | b'S') && until_ready(&mut session, &mut client).await? == b'I' {
                    break;
                }
                message = typed(&mut client).await?;
            }
            self.give.send(session).ok();
        }
    }

    fn has_place(&self) -> bool {
        let mut places = self.places.lock().expect("not poisoned");
        let has_place = *places > 0;
        *places = places.saturating_sub(1);
        has_place
    }

    async fn log_in(&self, client: &mut TcpStream, startup: &[u8]) -> io::Result<TcpStream> {
        let mut session = TcpStream::connect(self.server).await?;
        session.write_all(startup).await?;
        let mut greeting = Vec::new();
        loop {
            let message = typed(&mut session).await?;
            client.write_all(&message).await?;
            let is_authentication = message[0] == b'R';
            let is_ok = is_authentication && message[5..9] == [0; 4];
            if is_ok || !greeting.is_empty() {
                greeting.extend_from_slice(&message);
            }
            match message[0] {
                b'Z' => break,
                b'E' => return Err(io::ErrorKind::PermissionDenied.into()),
                // SASLFinal is followed by AuthenticationOk without the client's doing.
                b'R' if !is_ok && message[5..9] != [0, 0, 0, 12] => {
                    let answer = typed(client).await?;
                    session.write_all(&answer).await?;
                }
                _ => {}
            }
        }
        *self.greeting.lock().expect("not poisoned") = greeting;
        Ok(session)
    }
}

/// A pooler of sessions that knows no `options` in a client's startup message.
pub(crate) async fn without_options(server: SocketAddr) -> (SocketAddr, AbortOnDrop) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let accepting = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move { let_in_without_options(client, server).await.ok() });
        }
    });
    (address, AbortOnDrop(accepting))
}

pub(crate) struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn let_in_without_options(mut client: TcpStream, server: SocketAddr) -> io::Result<()> {
    let startup = startup(&mut client).await?;
    if startup.windows(9).any(|window| window == b"\0options\0") {
        let fields = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0";
        let bytes = u32::try_from(4 + fields.len()).expect("a short message").to_be_bytes();
        return client.write_all(&[b"E", &bytes[..], fields].concat()).await;
    }
    let mut session = TcpStream::connect(server).await?;
    session.write_all(&startup).await?;
    tokio::io::copy_bidirectional(&mut client, &mut session).await.map(drop)
}

/// A client's startup message.
async fn startup(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let message = untyped(client).await?;
    // A request for TLS: there is none.
    if message[4..8] == 80_877_103_u32.to_be_bytes() {
        client.write_all(b"N").await?;
        return untyped(client).await;
    }
    Ok(message)
}

/// Passes the server's messages on, up to ReadyForQuery, and returns the transaction's state that
/// this tells.
async fn until_ready(session: &mut TcpStream, client: &mut TcpStream) -> io::Result<u8> {
    loop {
        let message = typed(session).await?;
        client.write_all(&message).await?;
        if message[0] == b'Z' {
            return Ok(message[5]);
        }
    }
}

/// A message that begins with its type and length.
async fn typed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let kind = stream.read_u8().await?;
    let mut message = untyped(stream).await?;
    message.insert(0, kind);
    Ok(message)
}

/// A message that begins with its length, as the first one of a client.
async fn untyped(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    let mut message = length.to_be_bytes().to_vec();
    message.resize(usize::try_from(length).expect("fits"), 0);
    stream.read_exact(&mut message[4..]).await?;
    Ok(message)
}
