//! The keeper: the process that owns the test servers.
//!
//! It listens on a Unix socket. What a connection asked for lives until the connection closes; the keeper then cleans up,
//! whatever became of the test. It ends when nobody has been connected for [`IDLE`], on SIGTERM and SIGINT, and when
//! `test-postgres stop` tells it to; and takes every server with it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OnceCell, mpsc, watch};
use uuid::Uuid;

use super::choice::Choice;
use super::link::{Place, lock_keepers};
use super::server::{Origin, Server};
use super::wire::{Line, Reply, Request};

/// How long the keeper stays without a connection: longer than a run is between two tests that need Postgres, short enough
/// to leave nothing behind for long.
pub const IDLE: Duration = Duration::from_secs(30);

/// Runs the program `test-postgres` with these arguments (without the program's name).
///
/// `keep SOCKET` is how the harness starts it; `stop` ends the keeper of this build at once, if one runs.
///
/// # Errors
/// On other arguments; when the socket cannot be opened; when the keeper that is told to stop does not answer.
pub async fn run(arguments: Vec<String>) -> anyhow::Result<()> {
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["keep", socket] => keep(Place::at(PathBuf::from(socket))).await,
        ["stop"] => stop().await,
        _ => bail!("usage: test-postgres keep SOCKET | test-postgres stop"),
    }
}

async fn stop() -> anyhow::Result<()> {
    let place = Place::of_keeper(&std::env::current_exe()?);
    let Ok(stream) = UnixStream::connect(&place.socket).await else {
        return Ok(()); // None runs.
    };
    let mut line = Line::new(stream);
    line.send(&Request::Shutdown).await?;
    match line.receive().await? {
        Some(Reply::Failed(reason)) => bail!(reason),
        _ => Ok(()),
    }
}

async fn keep(place: Place) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    // Whoever starts a keeper holds the lock and found nobody listening: a socket that is there is a dead one's.
    let _ = std::fs::remove_file(&place.socket);
    let listener =
        UnixListener::bind(&place.socket).with_context(|| format!("cannot listen on {}", place.socket.display()))?;

    let (shutdown, mut shutdown_asked) = mpsc::channel(1);
    let keeper = Arc::new(Keeper {
        choice: Choice::from_environment()?,
        origin: Origin::new()?,
        shared: OnceCell::new(),
        running: Mutex::default(),
        next: AtomicU64::new(0),
        shutdown,
    });
    keeper.origin.remove_stale(&keeper.choice).await;

    let (connections, mut connected) = watch::channel(0_usize);
    let connections = Arc::new(connections);
    let mut told_to_end = None;
    let _ending = loop {
        let idle = async {
            let _ = connected.wait_for(|count| *count == 0).await;
            tokio::time::sleep(IDLE).await;
        };
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.context("the socket broke")?;
                connections.send_modify(|count| *count += 1);
                let open = Open(Arc::clone(&connections));
                let keeper = Arc::clone(&keeper);
                tokio::spawn(async move {
                    let _open = open;
                    keeper.serve(Line::new(stream)).await;
                });
            }
            () = idle => {
                // Held to the end: the next keeper starts when this one's servers are gone.
                let ending = lock_keepers().await?;
                if *connected.borrow() == 0 {
                    break Some(ending);
                }
            }
            line = shutdown_asked.recv() => { told_to_end = line; break None }
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
        }
    };
    // A test that connects at this moment sees its connection closed, and starts another keeper.
    let _ = std::fs::remove_file(&place.socket);
    keeper.remove_all().await;
    if std::fs::metadata(&place.log).is_ok_and(|log| log.len() == 0) {
        let _ = std::fs::remove_file(&place.log);
    }
    if let Some(mut line) = told_to_end {
        let _ = line.send(&Reply::Done).await;
    }
    Ok(())
}

/// Counts a connection for as long as its task lives, cleaning up included.
struct Open(Arc<watch::Sender<usize>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

struct Keeper {
    choice: Choice,
    origin: Origin,
    shared: OnceCell<Arc<Server>>,
    /// Every server, for the end. Never locked across an await.
    running: Mutex<BTreeMap<u64, Arc<Server>>>,
    next: AtomicU64,
    shutdown: mpsc::Sender<Line>,
}

impl Keeper {
    /// One connection, from its first request to its end.
    async fn serve(&self, mut line: Line) {
        let request = match line.receive::<Request>().await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => return eprintln!("a connection broke before its first request: {error}"),
        };
        match request {
            Request::SharedServer => match self.shared().await {
                Ok(server) => until_closed(&mut line, &Reply::Server(server.access())).await,
                Err(error) => refuse(&mut line, &error).await,
            },
            Request::SharedDatabase => match self.shared_database().await {
                Ok((server, name)) => {
                    let reply = Reply::Database { access: server.access(), name: name.clone() };
                    until_closed(&mut line, &reply).await;
                    server.drop_database(&name).await;
                }
                Err(error) => refuse(&mut line, &error).await,
            },
            Request::OwnServer { settings } => match self.launch(&settings).await {
                Ok((key, server)) => {
                    serve_own(&mut line, &server).await;
                    self.forget(key);
                    server.remove().await;
                }
                Err(error) => refuse(&mut line, &error).await,
            },
            Request::Shutdown => {
                let _ = self.shutdown.send(line).await;
            }
            Request::CreateDatabase | Request::Control(_) => {
                refuse(&mut line, &anyhow::anyhow!("no server of one's own was asked for")).await;
            }
        }
    }

    async fn shared(&self) -> anyhow::Result<&Arc<Server>> {
        self.shared.get_or_try_init(|| async { Ok(self.launch(&[]).await?.1) }).await
    }

    async fn shared_database(&self) -> anyhow::Result<(&Arc<Server>, String)> {
        let server = self.shared().await?;
        Ok((server, server.create_database().await?))
    }

    async fn launch(&self, settings: &[(String, String)]) -> anyhow::Result<(u64, Arc<Server>)> {
        let password = Uuid::now_v7().simple().to_string();
        let server = Arc::new(Server::launch(&self.choice, &self.origin, &password, settings).await?);
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&server));
        Ok((key, server))
    }

    fn forget(&self, key: u64) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    async fn remove_all(&self) {
        let servers = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        futures::future::join_all(servers.values().map(|server| server.remove())).await;
    }
}

/// A server of a test's own, until the test closes the connection.
async fn serve_own(line: &mut Line, server: &Server) {
    if line.send(&Reply::Server(server.access())).await.is_err() {
        return;
    }
    while let Ok(Some(request)) = line.receive::<Request>().await {
        let reply = match request {
            Request::Control(control) => server.control(control).await.map(|()| Reply::Done),
            Request::CreateDatabase => {
                server.create_database().await.map(|name| Reply::Database { access: server.access(), name })
            }
            Request::SharedServer | Request::SharedDatabase | Request::OwnServer { .. } | Request::Shutdown => {
                Err(anyhow::anyhow!("only as the first request of a connection"))
            }
        };
        if line.send(&reply.unwrap_or_else(|error| Reply::Failed(format!("{error:#}")))).await.is_err() {
            return;
        }
    }
}

/// Answers, and returns when the test has closed the connection.
async fn until_closed(line: &mut Line, reply: &Reply) {
    if line.send(reply).await.is_ok() {
        while let Ok(Some(request)) = line.receive::<Request>().await {
            refuse(line, &anyhow::anyhow!("{request:?} is not for what other tests use")).await;
        }
    }
}

async fn refuse(line: &mut Line, error: &anyhow::Error) {
    eprintln!("refused: {error:#}");
    let _ = line.send(&Reply::Failed(format!("{error:#}"))).await;
}
