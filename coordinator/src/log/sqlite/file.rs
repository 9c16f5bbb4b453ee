//! The file, and the one process that may have it.
//!
//! SQLite's own exclusive locking would shut out the readers of this very process too. So a second
//! file, `PATH.lock`, is locked for as long as the log is open: the system takes the lock back when
//! the process dies, however it dies. The lock file itself stays, and holds the number of the last
//! process. It must not be the database file: closing any handle of that would drop SQLite's own
//! locks.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Connection as _};

use super::trouble::Trouble;
use crate::log::{OpenError, Options};

/// The oldest library that does not corrupt a write-ahead log on reset.
const SQLITE_MIN: [u32; 3] = [3, 51, 3];
/// The same, for messages.
const SQLITE_MIN_TEXT: &str = "3.51.3";

/// How long a connection waits for another one of the same file: a checkpoint, or a person with an
/// SQLite shell.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// To this size the write-ahead log shrinks back after a peak, in bytes.
const WAL_BYTES_KEPT: &str = "67108864";

/// Where a log is, for messages.
pub(super) fn describe(path: &Path) -> String {
    format!("sqlite file {}", path.display())
}

/// The right to use the file, until it is dropped.
#[derive(Debug)]
pub(super) struct FileLock {
    _file: File,
}

impl FileLock {
    /// Takes it, or tells who has it.
    pub(super) fn take(path: &Path) -> Result<Self, OpenError> {
        check_place(path)?;
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let io = |error: std::io::Error| OpenError::File {
            log: describe(path),
            problem: format!(
                "its lock file {} cannot be written; check the directory's permissions",
                lock_path.display()
            ),
            source: error.into(),
        };
        let opened = private().read(true).write(true).create(true).truncate(false).open(&lock_path);
        let mut file = opened.map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for the message: the holder may not have written it yet.
                let _ = file.read_to_string(&mut holder);
                return Err(OpenError::InUse { log: describe(path), holder: holder.trim().parse().ok() });
            }
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        // SQLite would open a file that may not be written as one to read, and only the first
        // append would fail. Nobody in this process has the file open now, so that the handle may
        // be closed again.
        match OpenOptions::new().write(true).open(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let problem = "it cannot be written; check the permissions of the file".to_owned();
                return Err(OpenError::File { log: describe(path), problem, source: error.into() });
            }
            Ok(_) | Err(_) => {}
        }
        // SQLite gives its other files the mode of this one: payloads and reasons are nobody else's to read.
        if !path.exists() {
            private().write(true).create_new(true).open(path).map_err(io)?;
        }
        // The number is for messages only: on a full disk the log still opens, and can be read.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

/// To create files that only this user can read.
fn private() -> OpenOptions {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "modes are of Unix"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn check_place(path: &Path) -> Result<(), OpenError> {
    let refuse = |problem: String, kind: std::io::ErrorKind| {
        Err(OpenError::File { log: describe(path), problem, source: std::io::Error::from(kind).into() })
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !directory.is_dir() {
        let problem = format!("there is no directory {}; create it", directory.display());
        return refuse(problem, std::io::ErrorKind::NotFound);
    }
    if path.is_dir() {
        let problem = "it is a directory; name a file".to_owned();
        return refuse(problem, std::io::ErrorKind::IsADirectory);
    }
    Ok(())
}

fn connect_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("journal_size_limit", WAL_BYTES_KEPT)
        .pragma("trusted_schema", "off")
        .disable_statement_logging()
}

/// The one connection that writes.
pub(super) async fn writer(path: &Path) -> Result<SqliteConnection, Trouble> {
    Ok(SqliteConnection::connect_with(&connect_options(path).create_if_missing(true)).await?)
}

/// A connection that only looks.
pub(super) async fn reader(path: &Path) -> Result<SqliteConnection, Trouble> {
    Ok(SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path).read_only(true)).await?)
}

/// Connections for reads, which go on beside the writer.
pub(super) fn readers(path: &Path, options: &Options) -> SqlitePool {
    SqlitePoolOptions::new()
        .min_connections(0)
        .max_connections(options.read_connections_max.max(1))
        .acquire_timeout(options.read_timeout)
        .connect_lazy_with(connect_options(path).read_only(true))
}

/// Refuses a library that could corrupt the log.
pub(super) async fn check_library(connection: &mut SqliteConnection, path: &Path) -> Result<(), OpenError> {
    let found: String = sqlx::query_scalar("select sqlite_version()")
        .fetch_one(connection)
        .await
        .map_err(|error| Trouble::from(error).of_opening(path))?;
    if is_safe(&found) { Ok(()) } else { Err(OpenError::SqliteTooOld { found, needed: SQLITE_MIN_TEXT }) }
}

fn is_safe(version: &str) -> bool {
    let numbers: Vec<u32> = version.split('.').map_while(|number| number.parse().ok()).collect();
    numbers.as_slice() >= SQLITE_MIN.as_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sqlite_that_can_corrupt_the_log_is_refused() {
        for safe in ["3.51.3", "3.52.0", "4.0.0", "3.51.10"] {
            assert!(is_safe(safe), "{safe}");
        }
        for unsafe_one in ["3.51.2", "3.9.99", "3.51", "2.99.99", ""] {
            assert!(!is_safe(unsafe_one), "{unsafe_one}");
        }
    }
}
