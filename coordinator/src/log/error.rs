//! What can go wrong with a log, and what to do about it.

use std::time::Duration;

use assent_protocol::Epoch;

use super::Lacking;

/// What lies beneath an error of the log.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// An append that was not confirmed.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Another process took over, under this replica's name or, its lease having lapsed, under
    /// another: nothing was appended, and nothing ever will be under this epoch. Stop driving.
    #[error("epoch {} was fenced by epoch {}: another process took over from this replica", held.0, current.0)]
    Fenced {
        /// The epoch of the batch; zero if none was acquired.
        held: Epoch,
        /// The epoch that stands in the log; zero if it knows no such replica.
        current: Epoch,
    },
    /// The log was not reached: nothing was appended. Repeat the batch.
    #[error("cannot reach the log at {log}")]
    Unreachable {
        /// Which log.
        log: String,
        /// What failed.
        source: Cause,
    },
    /// The log took too long, or others held its locks for too long: nothing was appended. Repeat
    /// the batch.
    #[error("the log at {log} took too long")]
    Busy {
        /// Which log.
        log: String,
        /// What failed.
        source: Cause,
    },
    /// The confirmation was lost: the batch is durable or not. Repeat it.
    #[error("the append to {log} may or may not have happened")]
    UnknownOutcome {
        /// Which log.
        log: String,
        /// What failed.
        source: Cause,
    },
    /// The log's disk is full: nothing was appended. Repeat the batch; it succeeds once there is
    /// space again.
    #[error("the disk of the log at {log} is full: make space, the log goes on by itself")]
    Full {
        /// Which log.
        log: String,
        /// What failed.
        source: Cause,
    },
    /// A pooler gives each transaction another session, and the log needs sessions of its own.
    #[error(
        "between this coordinator and the log at {log} is a pooler that gives each transaction another session, as PgBouncer does \
         with pool_mode = transaction: name the server itself in the log's URL, or set pool_mode = session for its database"
    )]
    Pooled {
        /// Which log.
        log: String,
    },
    /// The log answered, and refused: its schema or its data is not what this binary expects.
    /// Repeating helps only after a repair.
    #[error(
        "the log at {log} refused the append: check its schema with `assent migrate --check` and the database's own messages"
    )]
    Unusable {
        /// Which log.
        log: String,
        /// What failed.
        source: Cause,
    },
}

impl AppendError {
    /// Whether the replica has lost its epoch, so that repeating is of no use.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Fenced { .. })
    }
}

/// A call other than an append that failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log was not reached, or the connection was lost. Try again.
    #[error("cannot reach the log at {log}")]
    Unreachable {
        /// Which log.
        log: String,
        /// What failed.
        source: Cause,
    },
    /// It took too long, or others held a lock for too long. Try again.
    #[error("the log at {log} took too long")]
    Busy {
        /// Which log.
        log: String,
        /// What failed.
        source: Cause,
    },
    /// The log's disk is full.
    #[error("the disk of the log at {log} is full: make space, the log goes on by itself")]
    Full {
        /// Which log.
        log: String,
        /// What failed.
        source: Cause,
    },
    /// A pooler gives each transaction another session, and the log needs sessions of its own.
    #[error(
        "between this coordinator and the log at {log} is a pooler that gives each transaction another session, as PgBouncer does \
         with pool_mode = transaction: name the server itself in the log's URL, or set pool_mode = session for its database"
    )]
    Pooled {
        /// Which log.
        log: String,
    },
    /// The log answered, and refused: its schema or its data is not what this binary expects.
    #[error(
        "the log at {log} cannot be used: check its schema with `assent migrate --check` and the database's own messages"
    )]
    Unusable {
        /// Which log.
        log: String,
        /// What failed.
        source: Cause,
    },
    /// A replica of another name is alive: two that drive the same transactions would run each of
    /// them twice.
    #[error(
        "replica {replica} serves the log at {log}, and its lease lasts until {until} ({} more); stop it, or start this one \
         with --replica {replica} to take over from it, or wait until its lease lapses",
        humantime::format_duration(Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)))
    )]
    Leased {
        /// Which log.
        log: String,
        /// The name of the replica that is alive.
        replica: String,
        /// When its lease lapses unless it is renewed (RFC 3339), on the clock of the log's
        /// database.
        until: String,
        /// How long that is from now.
        left: Duration,
    },
    /// The page token was not made by this log's `list`.
    #[error("{token:?} is not a page token: pass the one that came with the previous page, or none for the first")]
    PageToken {
        /// What was offered, cut at 80 characters.
        token: String,
    },
}

/// A schema that does not fit this binary.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// There are no tables of Assent.
    #[error("{log} has no schema of Assent yet: run `assent migrate --log URL` once")]
    Missing {
        /// Which log.
        log: String,
    },
    /// An older binary made it.
    #[error("the schema of {log} has version {found}, and this binary needs {needed}: run `assent migrate --log URL`")]
    Older {
        /// Which log.
        log: String,
        /// The schema's version.
        found: i64,
        /// The version that this binary was built for.
        needed: i64,
    },
    /// A newer binary made it.
    #[error(
        "the schema of {log} has version {found}, newer than the {needed} that this binary knows: upgrade the binary"
    )]
    Newer {
        /// Which log.
        log: String,
        /// The schema's version.
        found: i64,
        /// The version that this binary was built for.
        needed: i64,
    },
    /// A migration was changed after it had been applied.
    #[error(
        "migration {version} of {log} is not the one that this binary knows: run the binary that migrated it, or restore the \
         schema from a backup"
    )]
    Changed {
        /// Which log.
        log: String,
        /// The migration's number.
        version: i64,
    },
}

/// A log that could not be opened or migrated.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is not one of a log.
    #[error("{url:?} does not name a log ({problem}): use sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    Url {
        /// What was offered, without its password.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Nobody answers there.
    #[error("cannot reach the log at {log}: check that the server runs and that host and port are right")]
    Unreachable {
        /// Which log.
        log: String,
        /// What failed.
        source: Cause,
    },
    /// The server does not let us in.
    #[error("the log at {log} refused to log us in: check user and password, and pg_hba.conf on the server")]
    Refused {
        /// Which log.
        log: String,
        /// What failed.
        source: Cause,
    },
    /// The server has no such database.
    #[error("the database of {log} does not exist: create it with `createdb`, then run `assent migrate --log URL`")]
    DatabaseMissing {
        /// Which log.
        log: String,
        /// What failed.
        source: Cause,
    },
    /// The user may not do what a log has to do.
    #[error("the user of {log} lacks a privilege: grant it, or migrate as the owner of the schema `assent`")]
    Forbidden {
        /// Which log.
        log: String,
        /// What failed.
        source: Cause,
    },
    /// The role that connects lacks what serving takes.
    #[error(
        "role {role} lacks {lacking}, and cannot serve {log}: run `assent migrate --log URL --server-role {role}` with the URL of \
         the role that owns the schema, or grant it as that role"
    )]
    Lacking {
        /// Which log.
        log: String,
        /// The role.
        role: String,
        /// What it lacks.
        lacking: Lacking,
    },
    /// A role cannot be made one that serves.
    #[error("role {role} cannot serve {log}: {problem}")]
    Role {
        /// Which log.
        log: String,
        /// The role.
        role: String,
        /// Why, and what to do.
        problem: String,
    },
    /// The schema does not fit.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// Another process has this file.
    #[error("{log} is in use by another process{}: stop that one, or give this one a log of its own", holder.map_or_else(String::new, |pid| format!(" (pid {pid})")))]
    InUse {
        /// Which log.
        log: String,
        /// The process, if it left its number.
        holder: Option<u32>,
    },
    /// The file cannot be opened or created.
    #[error("cannot open {log}: {problem}")]
    File {
        /// Which log.
        log: String,
        /// What is wrong, and what to do.
        problem: String,
        /// What failed.
        source: Cause,
    },
    /// The SQLite library is one that can corrupt the log.
    #[error("SQLite {found} can corrupt a write-ahead log on reset: {needed} or newer is needed, use the bundled one")]
    SqliteTooOld {
        /// The library's version.
        found: String,
        /// The oldest that is safe.
        needed: &'static str,
    },
    /// The disk is full.
    #[error("the disk of {log} is full: make space and try again")]
    Full {
        /// Which log.
        log: String,
        /// What failed.
        source: Cause,
    },
    /// A pooler gives each transaction another session, and the log needs sessions of its own.
    #[error(
        "between this coordinator and the log at {log} is a pooler that gives each transaction another session, as PgBouncer does \
         with pool_mode = transaction: name the server itself in the log's URL, or set pool_mode = session for its database"
    )]
    Pooled {
        /// Which log.
        log: String,
    },
    /// A pooler does not let the connection through.
    #[error(
        "a pooler refuses the connection to the log at {log}: name the server itself in the log's URL; or have PgBouncer ignore \
         what it names, with ignore_startup_parameters, and set pool_mode = session for its database"
    )]
    PoolerRefuses {
        /// Which log.
        log: String,
        /// What it said.
        source: Cause,
    },
    /// The log answered with something that it should not answer.
    #[error("the log at {log} cannot be used")]
    Unusable {
        /// Which log.
        log: String,
        /// What failed.
        source: Cause,
    },
}
