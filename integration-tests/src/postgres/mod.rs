//! Real Postgres servers and databases for tests.
//!
//! [`Postgres::shared`] is one server for all tests of a run, in whichever processes they run: a test takes a fresh
//! [`Database`] from it and shares nothing else. [`Postgres::start`] is a server of the test's own, which it may kill, stop,
//! pause and start again on the same data and port.
//!
//! Servers belong to a *keeper*, a process of its own (`test-postgres`, see [`keeper`]): test runners start one process per
//! test, and none of them could own a server that others use. The first test that needs a server starts the keeper; a
//! connection to it is what keeps a server or a database alive. When the connection closes, because the value was dropped or
//! because its process was killed, the keeper rolls back what is prepared in there and takes it down. Without connections the
//! keeper ends after [`keeper::IDLE`].

mod choice;
mod container;
mod installed;
pub mod keeper;
mod link;
mod server;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{Connection as _, Row as _};

use link::Link;
use wire::{Access, Control, Request};

/// A server: the shared one, or one of the test's own. It lives at least as long as this value.
#[derive(Debug)]
pub struct Postgres {
    access: Access,
    link: Arc<Link>,
    ownership: Ownership,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ownership {
    Shared,
    Own,
}

impl Postgres {
    /// The server that all tests share. It is never killed, stopped or configured by a test.
    ///
    /// It has `max_connections` and `max_prepared_transactions` at 500, `fsync` on, and apart from those the defaults.
    ///
    /// # Panics
    /// When no Postgres can be had, with what to do about it.
    pub async fn shared() -> Self {
        let (link, access) = Link::to_server(&Request::SharedServer).await;
        Self { access, link: Arc::new(link), ownership: Ownership::Shared }
    }

    /// A server of the test's own, with the settings of the shared one.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A server of the test's own with further settings, for example `[("max_prepared_transactions", "0")]`.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (link, access) = Link::to_server(&Request::OwnServer { settings }).await;
        Self { access, link: Arc::new(link), ownership: Ownership::Own }
    }

    /// Creates an empty database with a name of its own.
    ///
    /// # Panics
    /// When the server does not create it.
    pub async fn create_database(&self) -> Database {
        match self.ownership {
            // On a connection of its own: it is dropped with the value, not with the server.
            Ownership::Shared => Database::create().await,
            Ownership::Own => {
                let (access, name) = self.link.database(&Request::CreateDatabase).await;
                Database { access, name, _link: Arc::clone(&self.link) }
            }
        }
    }

    /// The URL of a database in this server, with the superuser's name and password.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.access.url(database)
    }

    /// The address that clients connect to, as `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.access.host, self.access.port)
    }

    /// Kills every process of the server with SIGKILL, and returns when they are gone.
    ///
    /// # Panics
    /// On the shared server, and when the server does not run.
    pub async fn kill(&self) {
        self.control(Control::Kill).await;
    }

    /// Shuts the server down in good order: connections are cut, a checkpoint is written.
    ///
    /// # Panics
    /// On the shared server, and when the server does not run.
    pub async fn stop(&self) {
        self.control(Control::Stop).await;
    }

    /// Starts the server again after [`kill`](Self::kill) or [`stop`](Self::stop), on the same data, address and settings.
    /// It returns when the server has recovered and answers.
    ///
    /// # Panics
    /// On the shared server, and when the server runs or does not come back.
    pub async fn restart(&self) {
        self.control(Control::Start).await;
    }

    /// Freezes the server: its connections stay open and nothing answers on them.
    ///
    /// # Panics
    /// On the shared server, and when the server does not run.
    pub async fn pause(&self) {
        self.control(Control::Pause).await;
    }

    /// Ends a pause.
    ///
    /// # Panics
    /// On the shared server, and when the server is not paused.
    pub async fn resume(&self) {
        self.control(Control::Resume).await;
    }

    async fn control(&self, control: Control) {
        assert_eq!(
            self.ownership,
            Ownership::Own,
            "other tests use the shared server: take one of your own with Postgres::start()"
        );
        self.link.control(control).await;
    }
}

/// An empty database of one test. It is dropped with this value, or with its server when that is the test's own.
#[derive(Debug)]
pub struct Database {
    access: Access,
    name: String,
    /// What keeps it alive.
    _link: Arc<Link>,
}

impl Database {
    /// A fresh database in the shared server: short for [`Postgres::shared`] and [`Postgres::create_database`].
    ///
    /// # Panics
    /// When no Postgres can be had, with what to do about it.
    pub async fn create() -> Self {
        let (link, access, name) = Link::to_database(&Request::SharedDatabase).await;
        Self { access, name, _link: Arc::new(link) }
    }

    /// The URL of this database, with the superuser's name and password.
    #[must_use]
    pub fn url(&self) -> String {
        self.access.url(&self.name)
    }

    /// The URL of this database with the name and password of another role. The password needs no escaping in a URL.
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str) -> String {
        Access { user: user.to_owned(), password: password.to_owned(), ..self.access.clone() }.url(&self.name)
    }

    /// The URL of this database where its server is reached at another address, as through a relay.
    #[must_use]
    pub fn url_at(&self, address: SocketAddr) -> String {
        let (host, port) = (address.ip().to_string(), address.port());
        Access { host, port, ..self.access.clone() }.url(&self.name)
    }

    /// The address of its server.
    ///
    /// # Panics
    /// When the server's name has no address.
    pub async fn address(&self) -> SocketAddr {
        let mut found =
            tokio::net::lookup_host((self.access.host.as_str(), self.access.port)).await.expect("an address");
        found.find(SocketAddr::is_ipv4).expect("an IPv4 address")
    }

    /// The database's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection.
    ///
    /// # Panics
    /// When the server refuses it.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url()).await.expect("a connection to the test's database")
    }

    /// A pool with at most `connections_max` connections. All tests together have 500.
    ///
    /// # Panics
    /// When the server refuses its first connection.
    pub async fn pool(&self, connections_max: u32) -> PgPool {
        PgPoolOptions::new()
            .max_connections(connections_max)
            .connect(&self.url())
            .await
            .expect("a connection to the test's database")
    }

    /// The global identifiers of the transactions that are prepared in this database, in order.
    ///
    /// # Panics
    /// When the database cannot be asked.
    pub async fn prepared_transactions(&self) -> Vec<String> {
        let mut connection = self.connect().await;
        sqlx::query("select gid from pg_prepared_xacts where database = current_database() order by gid")
            .fetch_all(&mut connection)
            .await
            .expect("pg_prepared_xacts")
            .iter()
            .map(|row| row.get("gid"))
            .collect()
    }
}
