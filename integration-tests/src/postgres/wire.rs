//! What a test and the keeper say to each other: one JSON object per line, request and reply in turn.
//!
//! The first request says what the connection is for. What it gave lives until the connection closes, however that happens.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::UnixStream;

/// From a test to the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// First: keep the shared server up. Answered by [`Reply::Server`].
    SharedServer,
    /// First: a fresh database in the shared server. Answered by [`Reply::Database`].
    SharedDatabase,
    /// First: a server of one's own, with these settings on its command line. Answered by [`Reply::Server`].
    OwnServer {
        /// Name and value.
        settings: Vec<(String, String)>,
    },
    /// On one's own server: a fresh database. Answered by [`Reply::Database`].
    CreateDatabase,
    /// On one's own server. Answered by [`Reply::Done`].
    Control(Control),
    /// First: end now, and take everything down. Answered by [`Reply::Done`].
    Shutdown,
}

/// What can be done to a server of one's own.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Control {
    /// SIGKILL to every process of the server.
    Kill,
    /// A fast shutdown: connections are cut, a checkpoint is written.
    Stop,
    /// Start it again after `Kill` or `Stop`, on the same data and port.
    Start,
    /// Freeze every process: connections stay open and nothing answers.
    Pause,
    /// End a pause.
    Resume,
}

/// From the keeper to a test.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// How to reach a server.
    Server(Access),
    /// How to reach a database.
    Database {
        /// Its server.
        access: Access,
        /// Its name in there.
        name: String,
    },
    /// It is done.
    Done,
    /// It could not be done, and why.
    Failed(String),
}

/// How to reach a server as its superuser.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Access {
    /// Host name or address.
    pub(super) host: String,
    /// TCP port.
    pub(super) port: u16,
    /// Name of the superuser.
    pub(super) user: String,
    /// Its password. It needs no escaping in a URL.
    pub(super) password: String,
}

impl Access {
    /// The URL of a database in this server.
    pub(super) fn url(&self, database: &str) -> String {
        let Self { host, port, user, password } = self;
        format!("postgres://{user}:{password}@{host}:{port}/{database}")
    }
}

/// One connection between a test and the keeper, seen from either side.
pub(super) struct Line(BufStream<UnixStream>);

impl Line {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self(BufStream::new(stream))
    }

    /// Sends one message.
    pub(super) async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(message)?;
        bytes.push(b'\n');
        self.0.write_all(&bytes).await?;
        self.0.flush().await
    }

    /// Receives one message; `None` when the peer has closed the connection.
    pub(super) async fn receive<M: DeserializeOwned>(&mut self) -> io::Result<Option<M>> {
        let mut line = String::new();
        if self.0.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&line)?))
    }
}
