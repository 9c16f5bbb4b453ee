//! What an error of Postgres means for the log.

use std::time::Duration;

use assent_postgres::is_refused_by_pooler;

use crate::log::{AppendError, Cause, LogError, OpenError};

/// Our own failures, beneath the public ones.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The client or the server said so.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Silence(Duration),
    /// What stands in the log is older than the record.
    #[error("the log does not show what was appended yet")]
    Unsettled,
    /// The log was closed.
    #[error("the log was closed")]
    Closed,
    /// Connections do not have a session each.
    #[error("a pooler shares the server's sessions among transactions")]
    Pooled,
    /// The row of our epoch names another connection.
    #[error("another connection appends under the same epoch")]
    Displaced,
}

/// What can be done about it.
enum Kind {
    /// Nobody there, or gone before anything was sent; come again.
    Unreachable,
    /// It was rolled back, because it took too long or others held locks.
    Busy,
    /// The disk is full; it was rolled back.
    Full,
    /// The connection broke, or was ended by the server.
    Lost,
    /// Wrong user or password.
    Refused,
    /// No such database.
    NoDatabase,
    /// A privilege is missing.
    Forbidden,
    /// There is a pooler that shares sessions.
    Pooled,
    /// There is a pooler that does not know what a connection asks for.
    PoolerRefuses,
    /// Everything else: schema, data, misuse.
    Unusable,
}

fn kind(error: &sqlx::Error) -> Kind {
    match error {
        _ if is_refused_by_pooler(error) => Kind::PoolerRefuses,
        sqlx::Error::Database(error) => kind_of_code(error.code().as_deref().unwrap_or_default()),
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => Kind::Lost,
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Kind::Unreachable,
        _ => Kind::Unusable,
    }
}

/// See the appendix "PostgreSQL Error Codes".
fn kind_of_code(code: &str) -> Kind {
    match code {
        "53100" => Kind::Full,
        // Serialization, deadlock, lock not available, cancelled, out of memory.
        "40001" | "40P01" | "55P03" | "57014" | "53200" => Kind::Busy,
        // Too many connections; starting up or shutting down; a standby, which a failover has yet
        // to promote.
        "53300" | "57P03" | "25006" => Kind::Unreachable,
        // Ended by an administrator, a crash of another backend, or a dropped database: after the
        // commit, maybe.
        "57P01" | "57P02" | "57P04" | "57P05" => Kind::Lost,
        "28000" | "28P01" => Kind::Refused,
        "3D000" => Kind::NoDatabase,
        "42501" => Kind::Forbidden,
        // A prepared statement of that name exists, or does not exist: the connection has got a
        // session that another one has used.
        "42P05" | "26000" => Kind::Pooled,
        code if code.starts_with("08") => Kind::Lost,
        _ => Kind::Unusable,
    }
}

impl Trouble {
    /// Whether an insert met a row that was there before.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Sql(sqlx::Error::Database(error)) if error.is_unique_violation())
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Sql(error) => kind(error),
            Self::Silence(_) | Self::Unsettled => Kind::Lost,
            Self::Closed | Self::Displaced => Kind::Unreachable,
            Self::Pooled => Kind::Pooled,
        }
    }

    fn cause(self) -> Cause {
        match self {
            Self::Sql(error) => error.into(),
            other => other.into(),
        }
    }

    /// As an append reports it. Before the statement was sent, a lost connection is no more than an
    /// unreachable log.
    pub(super) fn of_append(self, log: &str, was_sent: bool) -> AppendError {
        let (log, kind, source) = (log.to_owned(), self.kind(), self.cause());
        match kind {
            Kind::Lost if was_sent => AppendError::UnknownOutcome { log, source },
            Kind::Lost | Kind::Unreachable => AppendError::Unreachable { log, source },
            Kind::Busy => AppendError::Busy { log, source },
            Kind::Full => AppendError::Full { log, source },
            Kind::Pooled => AppendError::Pooled { log },
            Kind::Refused | Kind::NoDatabase | Kind::Forbidden | Kind::PoolerRefuses | Kind::Unusable => {
                AppendError::Unusable { log, source }
            }
        }
    }

    /// As any other call reports it.
    pub(super) fn of_call(self, log: &str) -> LogError {
        let (log, kind, source) = (log.to_owned(), self.kind(), self.cause());
        match kind {
            Kind::Lost | Kind::Unreachable => LogError::Unreachable { log, source },
            Kind::Busy => LogError::Busy { log, source },
            Kind::Full => LogError::Full { log, source },
            Kind::Pooled => LogError::Pooled { log },
            Kind::Refused | Kind::NoDatabase | Kind::Forbidden | Kind::PoolerRefuses | Kind::Unusable => {
                LogError::Unusable { log, source }
            }
        }
    }

    /// As opening and migrating report it.
    pub(super) fn of_opening(self, log: &str) -> OpenError {
        let (log, kind, source) = (log.to_owned(), self.kind(), self.cause());
        match kind {
            Kind::Lost | Kind::Unreachable | Kind::Busy => OpenError::Unreachable { log, source },
            Kind::Full => OpenError::Full { log, source },
            Kind::Refused => OpenError::Refused { log, source },
            Kind::NoDatabase => OpenError::DatabaseMissing { log, source },
            Kind::Forbidden => OpenError::Forbidden { log, source },
            Kind::Pooled => OpenError::Pooled { log },
            Kind::PoolerRefuses => OpenError::PoolerRefuses { log, source },
            Kind::Unusable => OpenError::Unusable { log, source },
        }
    }
}

/// Waits for an answer, but not for ever.
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(Trouble::Silence(limit)))
}
