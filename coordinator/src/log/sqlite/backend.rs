//! A log in an SQLite file, before it is open.

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _};
use sqlx::Connection as _;

use super::trouble::Trouble;
use super::verifying::Reader;
use super::{SqliteLog, file, migrate};
use crate::log::backend::Backend;
use crate::log::verify::Rows;
use crate::log::{Durability, Granted, Lacking, Log, MigrationReport, OpenError, Options};

/// The path of the file.
pub(in crate::log) struct File(pub(in crate::log) PathBuf);

impl File {
    fn has_no_roles(&self, role: &str) -> OpenError {
        let problem = "a log in a file has no roles: leave --server-role out".to_owned();
        OpenError::Role { log: file::describe(&self.0), role: role.to_owned(), problem }
    }
}

impl Backend for File {
    fn open(&self, options: Options) -> BoxFuture<'_, Result<Arc<dyn Log>, OpenError>> {
        async { Ok(Arc::new(SqliteLog::open(self.0.clone(), options).await?) as Arc<dyn Log>) }.boxed()
    }

    fn migrate(&self) -> BoxFuture<'_, Result<MigrationReport, OpenError>> {
        migrate::migrate(&self.0).boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<MigrationReport, OpenError>> {
        migrate::check(&self.0).boxed()
    }

    fn grant<'a>(&'a self, role: &'a str) -> BoxFuture<'a, Result<Granted, OpenError>> {
        std::future::ready(Err(self.has_no_roles(role))).boxed()
    }

    fn lacking<'a>(&'a self, role: &'a str) -> BoxFuture<'a, Result<Lacking, OpenError>> {
        std::future::ready(Err(self.has_no_roles(role))).boxed()
    }

    fn rows(&self) -> BoxFuture<'_, Result<Box<dyn Rows>, OpenError>> {
        async { Ok(Box::new(Reader::open(&self.0).await?) as Box<dyn Rows>) }.boxed()
    }

    fn durability(&self) -> BoxFuture<'_, Result<Durability, OpenError>> {
        async {
            let of_opening = |trouble: Trouble| trouble.of_opening(&self.0);
            let mut connection = file::writer(&self.0).await.map_err(of_opening)?;
            let level = sqlx::query_scalar("pragma synchronous").fetch_one(&mut connection).await;
            let level: i64 = level.map_err(|error| of_opening(error.into()))?;
            let synchronous = match level {
                0 => "off".to_owned(),
                1 => "normal".to_owned(),
                2 => "full".to_owned(),
                3 => "extra".to_owned(),
                other => other.to_string(),
            };
            connection.close().await.map_err(|error| of_opening(error.into()))?;
            Ok(Durability::Sqlite { synchronous })
        }
        .boxed()
    }
}
