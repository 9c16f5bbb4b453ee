//! What an error of SQLite means for the log.

use std::path::Path;

use crate::log::{AppendError, Cause, LogError, OpenError};

/// Our own failures, beneath the public ones.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// SQLite said so.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// What stands in the log is older than the record.
    #[error("the log does not show what was appended yet")]
    Unsettled,
    /// The log was closed.
    #[error("the log was closed")]
    Closed,
}

/// What can be done about it. See "Result and Error Codes" in SQLite's documentation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Another connection held the file for too long; nothing was written.
    Busy,
    /// The disk is full; nothing was written.
    Full,
    /// The disk failed, or the thread that works on it: written or not.
    Lost,
    /// The log was closed.
    Closed,
    /// The file is not a database.
    NotADatabase,
    /// The file cannot be opened, or not be written.
    NoAccess,
    /// Everything else: schema, data, corruption.
    Unusable,
}

impl Trouble {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Sql(sqlx::Error::Database(error)) => {
                // Extended codes have the primary one in their low byte.
                match error.code().and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff) {
                    Some(5 | 6) => Kind::Busy,
                    Some(13) => Kind::Full,
                    Some(10) => Kind::Lost,
                    Some(3 | 8 | 14) => Kind::NoAccess,
                    Some(26) => Kind::NotADatabase,
                    _ => Kind::Unusable,
                }
            }
            Self::Sql(sqlx::Error::WorkerCrashed | sqlx::Error::Io(_)) | Self::Unsettled => Kind::Lost,
            Self::Sql(sqlx::Error::PoolTimedOut) => Kind::Busy,
            Self::Sql(sqlx::Error::PoolClosed) | Self::Closed => Kind::Closed,
            Self::Sql(_) => Kind::Unusable,
        }
    }

    fn cause(self) -> Cause {
        match self {
            Self::Sql(error) => error.into(),
            other => other.into(),
        }
    }

    /// As an append reports it.
    pub(super) fn of_append(self, log: &str) -> AppendError {
        let (log, kind, source) = (log.to_owned(), self.kind(), self.cause());
        match kind {
            Kind::Busy => AppendError::Busy { log, source },
            Kind::Full => AppendError::Full { log, source },
            Kind::Lost => AppendError::UnknownOutcome { log, source },
            Kind::Closed => AppendError::Unreachable { log, source },
            Kind::NotADatabase | Kind::NoAccess | Kind::Unusable => AppendError::Unusable { log, source },
        }
    }

    /// As any other call reports it.
    pub(super) fn of_call(self, log: &str) -> LogError {
        let (log, kind, source) = (log.to_owned(), self.kind(), self.cause());
        match kind {
            Kind::Busy => LogError::Busy { log, source },
            Kind::Full => LogError::Full { log, source },
            Kind::Lost | Kind::Closed => LogError::Unreachable { log, source },
            Kind::NotADatabase | Kind::NoAccess | Kind::Unusable => LogError::Unusable { log, source },
        }
    }

    /// As opening and migrating report it.
    pub(super) fn of_opening(self, path: &Path) -> OpenError {
        let (log, kind, source) = (super::file::describe(path), self.kind(), self.cause());
        let file = |problem: &str, source| OpenError::File { log: log.clone(), problem: problem.to_owned(), source };
        match kind {
            Kind::Busy => OpenError::InUse { log, holder: None },
            Kind::Full => OpenError::Full { log, source },
            Kind::NotADatabase => file("it is not an SQLite database; choose another path", source),
            Kind::NoAccess => {
                file("it cannot be read and written; check the permissions of the file and its directory", source)
            }
            Kind::Lost | Kind::Closed | Kind::Unusable => OpenError::Unusable { log, source },
        }
    }
}
