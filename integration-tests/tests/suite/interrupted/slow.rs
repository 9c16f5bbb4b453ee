//! A way to a server on which answers can be held back: what is sent arrives, and the caller does
//! not hear of it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A relay that holds back the server's answers on one connection, from a message of the client on.
pub(super) struct Slow {
    pub(super) address: SocketAddr,
    valve: watch::Sender<Valve>,
}

#[derive(Default)]
struct Valve {
    shuts: Option<Shuts>,
    /// On how many connections an answer is held back.
    held: u64,
}

/// From which message on a connection's answers are held back.
enum Shuts {
    /// From one that has these words.
    AtWords(&'static [u8]),
    /// From the one before which this many others are sent, on whatever connection.
    After(u64),
    /// It was shut on one connection, and stays open on all others.
    Done,
}

impl Valve {
    /// Whether it shuts at this message of a client.
    fn shuts_at(&mut self, message: &[u8]) -> bool {
        match &mut self.shuts {
            Some(Shuts::AtWords(words)) => message.windows(words.len()).any(|window| window == *words),
            Some(Shuts::After(0)) => {
                self.shuts = Some(Shuts::Done);
                true
            }
            Some(Shuts::After(left)) => {
                *left -= 1;
                false
            }
            Some(Shuts::Done) | None => false,
        }
    }
}

impl Slow {
    pub(super) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (valve, _) = watch::channel(Valve::default());
        let shared = valve.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, shared.clone()));
            }
        });
        Self { address, valve }
    }

    /// From now on what the server answers on a connection is held back as soon as the client has
    /// sent these words there.
    pub(super) fn hold_answers_to(&self, words: &'static str) {
        self.valve.send_replace(Valve { shuts: Some(Shuts::AtWords(words.as_bytes())), held: 0 });
    }

    /// What the server answers to one message is held back: the one before which this many others
    /// are sent from now on.
    pub(super) fn hold_an_answer_after(&self, messages: u64) {
        self.valve.send_replace(Valve { shuts: Some(Shuts::After(messages)), held: 0 });
    }

    /// Waits until an answer is held back.
    pub(super) async fn holds(&self) {
        self.valve.subscribe().wait_for(|valve| valve.held > 0).await.expect("the relay is there");
    }

    pub(super) fn release(&self) {
        self.valve.send_replace(Valve::default());
    }
}

async fn carry(client: TcpStream, server: SocketAddr, valve: watch::Sender<Valve>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let was_said = AtomicBool::new(false);
    let (said, heard) = (&was_said, &was_said);
    let shared = valve.clone();
    let upward = async move {
        let mut buffer = vec![0; 65_536];
        while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
            shared.send_modify(|valve| {
                if valve.shuts_at(&buffer[..count]) {
                    said.store(true, Ordering::SeqCst);
                }
            });
            if to_server.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    let downward = async move {
        let mut buffer = vec![0; 65_536];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            if heard.swap(false, Ordering::SeqCst) {
                valve.send_modify(|valve| valve.held += u64::from(valve.shuts.is_some()));
                if valve.subscribe().wait_for(|valve| valve.shuts.is_none()).await.is_err() {
                    return;
                }
            }
            if to_client.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = upward => {}
        () = downward => {}
    }
}
