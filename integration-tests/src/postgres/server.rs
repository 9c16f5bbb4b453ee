//! A server, whatever it runs in: starting it, its databases, and what becomes of it.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use uuid::Uuid;

use super::choice::Choice;
use super::container::{self, Container};
use super::installed::{self, Installed};
use super::wire::{Access, Control};
use crate::{Port, shared_directory};

/// The superuser of every test server.
pub(super) const USER: &str = "assent";

/// What every test server is started with. `fsync` stays as it is: on.
const SETTINGS: &[(&str, &str)] = &[("max_connections", "500"), ("max_prepared_transactions", "500")];

/// How long a server may take until it answers, recovery included: after a crash it flushes every file that it has.
const READY_MAX: Duration = Duration::from_secs(300);

/// How often a start is tried: a program outside of this harness may have taken the reserved port.
const LAUNCH_ATTEMPTS_MAX: u32 = 3;

/// How often a database is dropped: sessions that are just being cut may still hold on to it.
const DROP_ATTEMPTS_MAX: u32 = 5;

/// One server.
pub(super) struct Server {
    kind: Kind,
    access: Access,
    databases: AtomicU64,
    /// Nothing in it needs to be cleaned up any more.
    removed: AtomicBool,
    _port: Port,
}

enum Kind {
    Container(Box<Container>),
    Installed(Installed),
}

impl Server {
    /// Creates a server with fresh data and returns when it answers. Later settings win over earlier ones.
    pub(super) async fn launch(
        choice: &Choice,
        origin: &Origin,
        password: &str,
        settings: &[(String, String)],
    ) -> anyhow::Result<Self> {
        let arguments: Vec<String> = SETTINGS
            .iter()
            .copied()
            .chain(settings.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            .flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")])
            .collect();
        let mut attempt = 1;
        loop {
            match Self::launch_once(choice, origin, password, &arguments).await {
                Err(error) if attempt < LAUNCH_ATTEMPTS_MAX => {
                    eprintln!("attempt {attempt} to start a server failed: {error:#}");
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn launch_once(
        choice: &Choice,
        origin: &Origin,
        password: &str,
        arguments: &[String],
    ) -> anyhow::Result<Self> {
        let port = Port::reserve();
        let (kind, host) = match choice {
            Choice::Image { name, tag } => {
                let container = Container::launch(name, tag, origin, port.number(), password, arguments)
                    .await
                    .with_context(|| format!("cannot start a container of {name}:{tag}"))?;
                let host = container.host().to_owned();
                (Kind::Container(Box::new(container)), host)
            }
            Choice::Installed { bin } => {
                let installed = Installed::launch(bin, origin, &port, password, arguments)
                    .await
                    .with_context(|| format!("cannot start the Postgres in {}", bin.display()))?;
                (Kind::Installed(installed), port.address().ip().to_string())
            }
        };
        let access = Access { host, port: port.number(), user: USER.to_owned(), password: password.to_owned() };
        let server = Self { kind, access, databases: AtomicU64::new(0), removed: AtomicBool::new(false), _port: port };
        match server.wait_until_ready().await {
            Ok(()) => Ok(server),
            Err(error) => {
                server.remove().await;
                Err(error)
            }
        }
    }

    pub(super) fn access(&self) -> Access {
        self.access.clone()
    }

    /// Does to the server what a test asked for.
    pub(super) async fn control(&self, control: Control) -> anyhow::Result<()> {
        match &self.kind {
            Kind::Container(container) => container.control(control).await?,
            Kind::Installed(installed) => installed.control(control).await?,
        }
        match control {
            Control::Start => self.wait_until_ready().await,
            Control::Kill | Control::Stop | Control::Pause | Control::Resume => Ok(()),
        }
    }

    /// Creates an empty database and returns its name.
    pub(super) async fn create_database(&self) -> anyhow::Result<String> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = self.connect("postgres").await?;
        connection
            .execute(AssertSqlSafe(format!("create database {name}")))
            .await
            .with_context(|| format!("cannot create the database {name}"))?;
        Ok(name)
    }

    /// Drops a database with everything that is open or prepared in it. What cannot be dropped goes with the server.
    pub(super) async fn drop_database(&self, name: &str) {
        for attempt in 1..=DROP_ATTEMPTS_MAX {
            match self.try_drop_database(name).await {
                Ok(()) => return,
                Err(_) if self.removed.load(Ordering::Relaxed) => return,
                Err(error) => eprintln!("attempt {attempt} to drop {name} failed: {error:#}"),
            }
        }
    }

    async fn try_drop_database(&self, name: &str) -> anyhow::Result<()> {
        // Prepared transactions hold a database, and only a session in it can end them.
        let mut inside = self.connect(name).await?;
        let prepared: Vec<String> =
            sqlx::query_scalar("select gid from pg_prepared_xacts where database = current_database()")
                .fetch_all(&mut inside)
                .await?;
        for gid in prepared {
            let gid = gid.replace('\'', "''");
            inside.execute(AssertSqlSafe(format!("rollback prepared '{gid}'"))).await?;
        }
        inside.close().await?;
        let mut outside = self.connect("postgres").await?;
        outside.execute(AssertSqlSafe(format!("drop database {name} with (force)"))).await?;
        Ok(())
    }

    /// Takes the server down and its data away. Done again, it does nothing.
    pub(super) async fn remove(&self) {
        self.removed.store(true, Ordering::Relaxed);
        let removed = match &self.kind {
            Kind::Container(container) => container.remove().await,
            Kind::Installed(installed) => installed.remove().await,
        };
        if let Err(error) = removed {
            eprintln!("could not remove a server: {error:#}");
        }
    }

    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let started_at = Instant::now();
        loop {
            let look = async {
                if let Kind::Installed(installed) = &self.kind {
                    installed.check_alive()?;
                }
                let mut connection = self.connect("postgres").await?;
                connection.execute("select 1").await?;
                anyhow::Ok(())
            };
            // One look has a deadline too: a forwarded port accepts before the server behind it listens.
            let outcome = tokio::time::timeout(Duration::from_secs(5), look).await;
            match outcome {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if error.is::<installed::Ended>() => return Err(error),
                Ok(Err(error)) if started_at.elapsed() > READY_MAX => {
                    return Err(error.context(format!("no answer within {READY_MAX:?}")));
                }
                Err(error) if started_at.elapsed() > READY_MAX => {
                    return Err(anyhow::Error::new(error).context(format!("no answer within {READY_MAX:?}")));
                }
                Ok(Err(_)) | Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn connect(&self, database: &str) -> anyhow::Result<PgConnection> {
        Ok(PgConnection::connect(&self.access.url(database)).await?)
    }
}

/// Whose servers these are: one keeper's. A dead keeper's servers are recognized by it and removed by the next one.
pub(super) struct Origin {
    id: String,
    /// Held as long as the keeper lives, by whatever means it dies.
    _lock: File,
}

impl Origin {
    pub(super) fn new() -> anyhow::Result<Self> {
        let _registry = Self::lock_registry()?;
        let id = Uuid::now_v7().simple().to_string();
        let lock = File::create(Self::path(&id))?;
        lock.lock()?;
        Ok(Self { id, _lock: lock })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Removes what keepers that died have left behind. It is no error when something cannot be removed.
    pub(super) async fn remove_stale(&self, choice: &Choice) {
        let outcome = async {
            let _registry = Self::lock_registry()?;
            let mut alive = Vec::new();
            for entry in std::fs::read_dir(shared_directory())? {
                let path = entry?.path();
                let Some(id) =
                    path.file_name().and_then(|name| name.to_str()?.strip_prefix("origin-")?.strip_suffix(".lock"))
                else {
                    continue;
                };
                if id == self.id || File::open(&path)?.try_lock().is_err() {
                    alive.push(id.to_owned());
                    continue;
                }
                installed::remove_stale(id)?;
                std::fs::remove_file(&path)?;
            }
            match choice {
                Choice::Image { .. } => container::remove_stale(&alive).await,
                Choice::Installed { .. } => Ok(()),
            }
        };
        if let Err(error) = outcome.await {
            eprintln!("could not remove what an earlier run left behind: {error:#}");
        }
    }

    /// Between a lock file's creation and its locking it would look like a dead keeper's.
    fn lock_registry() -> anyhow::Result<File> {
        let registry = File::create(shared_directory().join("origins.lock"))?;
        registry.lock()?;
        Ok(registry)
    }

    fn path(id: &str) -> PathBuf {
        shared_directory().join(format!("origin-{id}.lock"))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(Self::path(&self.id));
    }
}
