//! On which settings the word of a log rests: what a benchmark says beside its figures.

use serde::Serialize;

use super::{OpenError, backend};

/// The settings that decide whether what was confirmed survives a loss of power.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Durability {
    /// A log in Postgres.
    Postgres {
        /// `fsync` of the server: with `off` nothing is forced to the disk.
        fsync: String,
        /// `synchronous_commit` as a new connection gets it: the participants' and the baselines'
        /// statements run under it.
        synchronous_commit: String,
        /// The same on the connection that appends to the log, which sets it for itself.
        appends_synchronous_commit: String,
    },
    /// A log in a file.
    Sqlite {
        /// `synchronous` of the connection that appends.
        synchronous: String,
    },
}

/// Asks a log that is there, over a connection as the one that appends.
pub(crate) async fn durability(url: &str) -> Result<Durability, OpenError> {
    backend::named_by(url)?.durability().await
}
