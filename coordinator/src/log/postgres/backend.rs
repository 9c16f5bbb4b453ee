//! A log on a Postgres server, before it is open.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _};
use sqlx::postgres::PgConnectOptions;

use super::trouble::within;
use super::verifying::Reader;
use super::{PostgresLog, link, migrate, roles};
use crate::log::backend::Backend;
use crate::log::verify::Rows;
use crate::log::{Durability, Granted, Lacking, Log, MigrationReport, OpenError, Options, url};

/// How to reach the server; boxed, because the options are large.
pub(in crate::log) struct Server(pub(in crate::log) Box<PgConnectOptions>);

impl Backend for Server {
    fn open(&self, options: Options) -> BoxFuture<'_, Result<Arc<dyn Log>, OpenError>> {
        async { Ok(Arc::new(PostgresLog::open((*self.0).clone(), options).await?) as Arc<dyn Log>) }.boxed()
    }

    fn migrate(&self) -> BoxFuture<'_, Result<MigrationReport, OpenError>> {
        migrate::migrate(&self.0).boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<MigrationReport, OpenError>> {
        migrate::check(&self.0).boxed()
    }

    fn grant<'a>(&'a self, role: &'a str) -> BoxFuture<'a, Result<Granted, OpenError>> {
        roles::grant(&self.0, role).boxed()
    }

    fn lacking<'a>(&'a self, role: &'a str) -> BoxFuture<'a, Result<Lacking, OpenError>> {
        roles::lacking_of(&self.0, role).boxed()
    }

    fn rows(&self) -> BoxFuture<'_, Result<Box<dyn Rows>, OpenError>> {
        async { Ok(Box::new(Reader::open(&self.0)) as Box<dyn Rows>) }.boxed()
    }

    fn durability(&self) -> BoxFuture<'_, Result<Durability, OpenError>> {
        async {
            let work = async {
                let mut connection = link::connect(&self.0, "assent", &Options::default()).await?;
                // What a connection had at first, before it set anything, is what any other one
                // gets.
                let sql = "select current_setting('fsync'), s.reset_val, s.setting from pg_settings s
                           where s.name = 'synchronous_commit'";
                Ok(sqlx::query_as(sql).fetch_one(&mut connection).await?)
            };
            let place = url::describe(&self.0);
            let (fsync, synchronous_commit, appends_synchronous_commit) =
                within(Options::default().read_timeout, work).await.map_err(|trouble| trouble.of_opening(&place))?;
            Ok(Durability::Postgres { fsync, synchronous_commit, appends_synchronous_commit })
        }
        .boxed()
    }
}
