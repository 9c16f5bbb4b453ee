//! A test's connection to the keeper, which is started when there is none.

use std::fmt;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::Mutex;

use super::choice;
use super::wire::{Access, Control, Line, Reply, Request};
use crate::process::executable;
use crate::shared_directory;

/// The program that keeps the servers.
const KEEPER: &str = "test-postgres";

/// The keeper opens its socket before it does anything else.
const KEEPER_START_MAX: Duration = Duration::from_secs(30);

/// How often a connection is opened for one request.
const OPEN_ATTEMPTS_MAX: u32 = 5;

/// A connection to the keeper.
pub(super) struct Link(Mutex<Line>);

impl Link {
    /// Connects to the keeper, which is started first if none runs, and asks for a server.
    pub(super) async fn to_server(request: &Request) -> (Self, Access) {
        match Self::open(request).await {
            (link, Reply::Server(access)) => (link, access),
            (_, reply) => unexpected(request, &reply),
        }
    }

    /// Connects to the keeper, which is started first if none runs, and asks for a database.
    pub(super) async fn to_database(request: &Request) -> (Self, Access, String) {
        match Self::open(request).await {
            (link, Reply::Database { access, name }) => (link, access, name),
            (_, reply) => unexpected(request, &reply),
        }
    }

    /// Asks for a database in the server that this link is for.
    pub(super) async fn database(&self, request: &Request) -> (Access, String) {
        match self.ask(request).await {
            Reply::Database { access, name } => (access, name),
            reply => unexpected(request, &reply),
        }
    }

    /// Asks for something to be done to the server that this link is for.
    pub(super) async fn control(&self, control: Control) {
        let request = Request::Control(control);
        match self.ask(&request).await {
            Reply::Done => {}
            reply => unexpected(&request, &reply),
        }
    }

    async fn ask(&self, request: &Request) -> Reply {
        match exchange(&mut *self.0.lock().await, request).await {
            Ok(Some(reply)) => reply,
            Ok(None) => lost(&"it closed the connection"),
            Err(error) => lost(&error),
        }
    }

    async fn open(first: &Request) -> (Self, Reply) {
        let place = Place::of_keeper(&executable(KEEPER));
        let mut attempts_left = OPEN_ATTEMPTS_MAX;
        loop {
            let stream = match UnixStream::connect(&place.socket).await {
                Ok(stream) => stream,
                Err(_) => start_keeper(&place).await,
            };
            let mut line = Line::new(stream);
            attempts_left -= 1;
            match exchange(&mut line, first).await {
                Ok(Some(reply)) => return (Self(Mutex::new(line)), reply),
                // A keeper that ends for want of connections may close one that it has not seen yet.
                Ok(None) | Err(_) if attempts_left > 0 => {}
                Ok(None) => lost(&"it closed the connection"),
                Err(error) => lost(&error),
            }
        }
    }
}

async fn exchange(line: &mut Line, request: &Request) -> io::Result<Option<Reply>> {
    line.send(request).await?;
    line.receive().await
}

fn unexpected(request: &Request, reply: &Reply) -> ! {
    match reply {
        Reply::Failed(reason) => panic!("test Postgres: {request:?} failed: {reason}"),
        reply => panic!("test Postgres: the keeper answered {request:?} with {reply:?}"),
    }
}

fn lost(reason: &dyn fmt::Display) -> ! {
    let place = Place::of_keeper(&executable(KEEPER));
    panic!("test Postgres: lost the keeper: {reason}. Its last words are in {}", place.log.display())
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Link")
    }
}

/// The files of one keeper. Another build of the harness, and another choice of Postgres, have another keeper.
pub(super) struct Place {
    /// Where it listens.
    pub(super) socket: PathBuf,
    /// What it says.
    pub(super) log: PathBuf,
}

impl Place {
    pub(super) fn of_keeper(executable: &Path) -> Self {
        let mut hasher = DefaultHasher::new();
        executable.hash(&mut hasher);
        let built_at = std::fs::metadata(executable).and_then(|metadata| metadata.modified());
        built_at.ok().hash(&mut hasher);
        choice::stated().hash(&mut hasher);
        let name = format!("keeper-{:016x}", hasher.finish());
        Self::at(shared_directory().join(name).with_extension("socket"))
    }

    pub(super) fn at(socket: PathBuf) -> Self {
        Self { log: socket.with_extension("log"), socket }
    }
}

/// Locks out every other start and end of a keeper until the file is dropped.
pub(super) async fn lock_keepers() -> io::Result<File> {
    let lock = || {
        let file = File::create(shared_directory().join("keepers.lock"))?;
        file.lock()?;
        Ok(file)
    };
    tokio::task::spawn_blocking(lock).await.map_err(io::Error::other)?
}

/// Starts the keeper, unless another test was faster.
async fn start_keeper(place: &Place) -> UnixStream {
    let _starting = lock_keepers().await.expect("the lock of the keepers");
    if let Ok(stream) = UnixStream::connect(&place.socket).await {
        return stream;
    }

    let chosen = match choice::Choice::from_environment() {
        Ok(_) => Vec::new(),
        Err(_) => choice::decide().await.unwrap_or_else(|error| panic!("{error:#}")),
    };
    let log = File::create(&place.log).expect("the keeper's log");
    let mut keeper = Command::new(executable(KEEPER))
        .args(["keep".as_ref(), place.socket.as_os_str()])
        .envs(chosen)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("the keeper's log"))
        .stderr(log)
        // Out of the test's group: a test that is killed does not take everybody's server with it.
        .process_group(0)
        .spawn()
        .expect("the keeper starts");

    let started_at = Instant::now();
    loop {
        if let Ok(stream) = UnixStream::connect(&place.socket).await {
            return stream;
        }
        let ended = keeper.try_wait().ok().flatten();
        if ended.is_some() || started_at.elapsed() > KEEPER_START_MAX {
            let said = std::fs::read_to_string(&place.log).unwrap_or_default();
            panic!("the keeper of test servers did not start ({ended:?}):\n{said}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
