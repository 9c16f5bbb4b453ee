//! The conformance suite of the log on a real Postgres, each case in a database of its own, as a
//! role that can serve and do nothing else.

use std::sync::Arc;

use assent::log::conformance::{Ground, SharedGround};
use assent::log::{self, Log, Options};
use assent_protocol::{Epoch, Gtid, Name};
use futures::future::{BoxFuture, FutureExt as _};
use integration_tests::postgres::{Database, Postgres};
use sqlx::{AssertSqlSafe, Connection as _};

/// Of the role that serves.
const PASSWORD: &str = "serves-and-nothing-else";

/// A migrated database, and a role that can serve the log in it and do nothing else.
pub(crate) struct PostgresGround {
    pub(crate) database: Database,
    /// The role's name. Roles are the server's, so it is called after the database.
    pub(crate) server_role: String,
    _server: Postgres,
}

impl PostgresGround {
    pub(crate) async fn fresh() -> Self {
        let server = Postgres::shared().await;
        let database = server.create_database().await;
        log::migrate(&database.url()).await.expect("an empty database can be migrated");
        let server_role = format!("{}_server", database.name());
        let granted = log::grant(&database.url(), &server_role).await.expect("a superuser makes roles");
        assert!(granted.is_new, "it is this database's own");
        let ground = Self { database, server_role, _server: server };
        ground.execute(format!("alter role \"{}\" password '{PASSWORD}'", ground.server_role)).await;
        ground
    }

    /// The URL that a server of the log is given.
    pub(crate) fn url(&self) -> String {
        self.database.url_as(&self.server_role, PASSWORD)
    }

    /// Opens the log and acquires a replica's name.
    pub(crate) async fn start(&self, replica: &str) -> Arc<dyn Log> {
        let log = self.open().await;
        log.acquire(&Name::new(replica).expect("a name")).await.expect("the name is free to take");
        log
    }

    /// Changes the database behind the log's back.
    pub(crate) async fn execute(&self, sql: impl Into<String>) {
        let mut connection = self.database.connect().await;
        sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(&mut connection).await.expect("the statement");
        connection.close().await.expect("closed");
    }
}

impl Ground for PostgresGround {
    fn open(&self) -> BoxFuture<'_, Arc<dyn Log>> {
        async move { log::open(&self.url(), Options::default()).await.expect("the log opens") }.boxed()
    }

    fn rival_acquires<'a>(&'a self, replica: &'a Name) -> BoxFuture<'a, Epoch> {
        async move {
            // What it takes over is given back, so that the test sees what the fence alone does.
            self.execute("create table public.owners as select gtid, owner_epoch from assent.open_transaction").await;
            let epoch = self.open().await.acquire(replica).await.expect("the name is free to take");
            let give_back =
                "update assent.open_transaction o set owner_epoch = w.owner_epoch from public.owners w where w.gtid = o.gtid";
            self.execute(give_back).await;
            epoch
        }
        .boxed()
    }

    fn spoil(&self, saga: Gtid) -> BoxFuture<'_, ()> {
        let sql = format!("update assent.open_transaction set definition = '[{{\"name\": 7}}]' where gtid = '{saga}'");
        self.execute(sql).boxed()
    }
}

impl SharedGround for PostgresGround {
    fn leases_lapse(&self) -> BoxFuture<'_, ()> {
        self.execute("update assent.replica set leased_until = clock_timestamp()").boxed()
    }

    fn revive<'a>(&'a self, replica: &'a Name, epoch: Epoch) -> BoxFuture<'a, ()> {
        let sql = format!(
            "update assent.replica set epoch = {}, connection = connection - 1 where name = '{replica}'",
            epoch.0
        );
        self.execute(sql).boxed()
    }
}

assent::log_conformance! { PostgresGround::fresh().await }
assent::log_conformance_shared! { PostgresGround::fresh().await }
