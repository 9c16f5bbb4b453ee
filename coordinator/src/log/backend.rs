//! The one place that knows which kinds of logs there are: everything that is done with a log
//! before it is open goes through a [`Backend`], which its URL chooses.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::url::Target;
use super::verify::Rows;
use super::{Durability, Granted, Lacking, Log, MigrationReport, OpenError, Options, postgres, sqlite};

/// Where a log is kept.
pub(super) trait Backend: Send + Sync {
    /// Opens the log; see [`open`](super::open).
    fn open(&self, options: Options) -> BoxFuture<'_, Result<Arc<dyn Log>, OpenError>>;

    /// Brings the schema to the version that this binary needs; see [`migrate`](super::migrate).
    fn migrate(&self) -> BoxFuture<'_, Result<MigrationReport, OpenError>>;

    /// Tells what [`migrate`](Self::migrate) would do, and changes nothing.
    fn check(&self) -> BoxFuture<'_, Result<MigrationReport, OpenError>>;

    /// Makes a role one that serves; see [`grant`](super::grant).
    fn grant<'a>(&'a self, role: &'a str) -> BoxFuture<'a, Result<Granted, OpenError>>;

    /// What a role lacks to serve.
    fn lacking<'a>(&'a self, role: &'a str) -> BoxFuture<'a, Result<Lacking, OpenError>>;

    /// All that stands in the log, row by row, over connections that cannot write.
    fn rows(&self) -> BoxFuture<'_, Result<Box<dyn Rows>, OpenError>>;

    /// On which settings the word of the log rests, asked over a connection as the one that
    /// appends.
    fn durability(&self) -> BoxFuture<'_, Result<Durability, OpenError>>;
}

/// The backend that a URL names.
///
/// # Errors
/// [`OpenError::Url`] if it names none.
pub(super) fn named_by(url: &str) -> Result<Box<dyn Backend>, OpenError> {
    Ok(match Target::parse(url)? {
        Target::Sqlite(path) => Box::new(sqlite::File(path)),
        Target::Postgres(target) => Box::new(postgres::Server(target)),
    })
}
