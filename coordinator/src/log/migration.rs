//! Schema versions: which there are, which one a log has, and the way from one to the other.

use super::{OpenError, SchemaError, backend};

/// One step of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its number, from 1 without gaps.
    pub version: i64,
    /// What it brings.
    pub name: &'static str,
    /// Its statements.
    pub sql: &'static str,
}

/// What [`migrate`] did, or [`check`] would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationReport {
    /// Which log.
    pub log: String,
    /// The version that was found; zero for none.
    pub found: i64,
    /// The version that this binary needs.
    pub needed: i64,
    /// The migrations between the two, in order; empty if there is nothing to do.
    pub migrations: Vec<Migration>,
}

/// Brings the schema of a log to the version that this binary needs. Doing it again, or twice at
/// the same time, does no harm. An SQLite file is created if it is not there.
///
/// # Errors
/// [`OpenError`]; a migration that failed has left nothing behind.
pub async fn migrate(url: &str) -> Result<MigrationReport, OpenError> {
    backend::named_by(url)?.migrate().await
}

/// Tells what [`migrate`] would do, and changes nothing.
///
/// # Errors
/// [`OpenError`], also for a schema that is newer than this binary.
pub async fn check(url: &str) -> Result<MigrationReport, OpenError> {
    backend::named_by(url)?.check().await
}

/// The version that a list of migrations leads to.
pub(super) fn needed(migrations: &[Migration]) -> i64 {
    migrations.last().map_or(0, |last| last.version)
}

/// Whether a server may start on the version that was found.
pub(super) fn compare(log: &str, found: Option<i64>, migrations: &[Migration]) -> Result<(), SchemaError> {
    let needed = needed(migrations);
    let log = log.to_owned();
    match found {
        None | Some(0) => Err(SchemaError::Missing { log }),
        Some(found) if found < needed => Err(SchemaError::Older { log, found, needed }),
        Some(found) if found > needed => Err(SchemaError::Newer { log, found, needed }),
        Some(_) => Ok(()),
    }
}

/// What is left to do where these migrations, numbers and texts, have been applied.
pub(super) fn pending(
    log: &str,
    applied: &[(i64, String)],
    migrations: &'static [Migration],
) -> Result<MigrationReport, SchemaError> {
    let found = applied.iter().map(|(version, _)| *version).max().unwrap_or(0);
    let needed = needed(migrations);
    if found > needed {
        return Err(SchemaError::Newer { log: log.to_owned(), found, needed });
    }
    for (version, sql) in applied {
        let known = migrations.iter().find(|migration| migration.version == *version);
        if known.is_none_or(|known| known.sql != sql) {
            return Err(SchemaError::Changed { log: log.to_owned(), version: *version });
        }
    }
    let migrations = migrations.iter().filter(|migration| migration.version > found).copied().collect();
    Ok(MigrationReport { log: log.to_owned(), found, needed, migrations })
}
