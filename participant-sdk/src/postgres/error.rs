//! What can go wrong between a participant and its database.

use assent_protocol::{Gtid, ParticipantName};

/// Why a branch could not be prepared or ended, or a participant not started.
///
/// The work of a branch was rolled back, or will be as soon as Postgres notices the closed
/// connection, unless the variant says otherwise.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// No connection could be made.
    #[error("cannot connect to the participant's database")]
    Connect(#[source] sqlx::Error),
    /// Every connection was in use for as long as the caller could wait.
    #[error(
        "all {connections_max} connections for {purpose} were in use for {waited_ms} ms; allow more, or make the transactions shorter"
    )]
    NoConnection {
        /// What the connection was wanted for.
        purpose: &'static str,
        /// How many there are.
        connections_max: usize,
        /// How long it waited.
        waited_ms: u128,
    },
    /// A statement failed. Whether it took effect is unknown when the connection was lost
    /// meanwhile.
    #[error("cannot {doing}")]
    Statement {
        /// What the statement was to do.
        doing: &'static str,
        /// What Postgres or the connection said.
        source: sqlx::Error,
    },
    /// The database did not answer in time. Whether the statement took effect is unknown.
    #[error("cannot {doing}: no answer within {waited_ms} ms")]
    NoAnswer {
        /// What the statement was to do.
        doing: &'static str,
        /// How long it waited.
        waited_ms: u128,
    },
    /// The work took longer than the coordinator waits for the vote.
    #[error(
        "the work was given up after {waited_ms} ms: its vote would have come too late{}",
        blocker.as_ref().map_or_else(String::new, |blocker| format!("; it waited for {blocker}"))
    )]
    TooLate {
        /// How long it was given.
        waited_ms: u128,
        /// Who held the lock that it waited for, where it did.
        blocker: Option<String>,
    },
    /// The work waited too long for a lock. Where two transactions lock the same rows of two
    /// databases in opposite order, no database sees that they wait for each other: have all of
    /// them lock in the same order, or commit with
    /// [`commit_with_retry`](crate::Transaction::commit_with_retry).
    #[error(
        "the work waited too long for a lock of {blocker}: it may be tried again in a new transaction; \
         PostgresResource::with_lock_wait sets how long is too long"
    )]
    LockWait {
        /// Who held it: a prepared transaction by its gid, or a session.
        blocker: String,
        /// What the work said.
        source: crate::participant::BoxError,
    },
    /// The transaction's deadline came while its branch was still open.
    #[error(
        "transaction {gtid} has passed its deadline, {open_ms} ms after this branch began: the branch's work was rolled back and its \
         locks are released; answer the call with an error, and have the initiator begin a new transaction, with a longer timeout if \
         the work needs it"
    )]
    PastDeadline {
        /// The transaction.
        gtid: Gtid,
        /// How long ago the branch began.
        open_ms: u128,
    },
    /// A statement of the work failed, and the work went on as if it had not. PREPARE TRANSACTION
    /// would have answered this with a silent rollback.
    #[error(
        "the transaction had failed before it was to be prepared: a statement of the work failed and its error was dropped; return it"
    )]
    FailedBefore,
    /// The work ended the transaction that it was given.
    #[error("the work has ended its own transaction: do not commit or roll back the connection that the work is given")]
    EndedByWork,
    /// The server does not prepare transactions.
    #[error(
        "max_prepared_transactions is 0: set it to at least max_connections in postgresql.conf and restart Postgres"
    )]
    PreparedTransactionsDisabled,
    /// The server has no room for another prepared transaction.
    #[error(
        "the server already holds as many prepared transactions as it may: raise max_prepared_transactions and restart Postgres, \
         and look for forgotten ones in pg_prepared_xacts"
    )]
    TooManyPrepared(#[source] sqlx::Error),
    /// Another session is preparing or ending this prepared transaction now.
    #[error("another session is preparing or ending {gid} now")]
    Busy {
        /// The prepared transaction.
        gid: String,
    },
    /// Only the role that prepared a transaction, or a superuser, may end it.
    #[error(
        "{gid} was prepared by another role, and only that role or a superuser may end it: connect as that role; or run, as a \
         superuser in database {database}: {statement}"
    )]
    NotOwner {
        /// The prepared transaction.
        gid: String,
        /// The name of its database.
        database: String,
        /// What ends it as it was decided.
        statement: String,
    },
    /// This transaction's branch is prepared already.
    #[error(
        "the branch of this transaction is prepared already: a participant has one branch in a transaction, and prepares it once"
    )]
    AlreadyPrepared,
    /// The database cannot be written to.
    #[error(
        "the database is a standby: give an address that always leads to the primary, such as that of a proxy or of the cluster's \
         service; the driver dials one host, and knows no target_session_attrs"
    )]
    Standby,
    /// A session is not the participant's own from one transaction to the next.
    #[error(
        "between this participant and its database is a pooler that gives each transaction another session, as PgBouncer does with \
         pool_mode = transaction: connect to Postgres itself, or set pool_mode = session for this database"
    )]
    TransactionPooler,
    /// A pooler does not let the connection through.
    #[error(
        "a pooler refuses the connection: connect to Postgres itself; or have PgBouncer ignore what it names, with \
         ignore_startup_parameters, and set pool_mode = session for this database"
    )]
    PoolerRefuses(#[source] sqlx::Error),
    /// The server does not show what its sessions do, so an abort could not see that its branch is
    /// being prepared.
    #[error(
        "track_activities is off: an abort could not see a prepare that is still under way; set track_activities = on, in \
         postgresql.conf or for this database and role"
    )]
    ActivitiesUntracked,
    /// The server shows too little of what its sessions do.
    #[error(
        "track_activity_query_size is {bytes}: an abort could not see a prepare that is still under way; set it to at least \
         {bytes_min} in postgresql.conf and restart Postgres"
    )]
    ActivitiesCut {
        /// What it is set to.
        bytes: usize,
        /// What this participant needs.
        bytes_min: usize,
    },
    /// The server is too old.
    #[error("the server's version is {version}; at least {version_min} is needed")]
    Version {
        /// The server's `server_version`.
        version: String,
        /// The oldest that will do.
        version_min: u32,
    },
    /// `pg_prepared_xacts` cannot be read, so branches in doubt would not be found.
    #[error("role {role} may not read pg_prepared_xacts: grant select on pg_catalog.pg_prepared_xacts to it")]
    PreparedTransactionsHidden {
        /// The role that connected.
        role: String,
    },
    /// The id of a coordinator that cannot be part of a gid.
    #[error("{id:?} is not the id of a coordinator: 1 to 36 of a-z 0-9 -")]
    CoordinatorId {
        /// What was offered, cut at 80 characters.
        id: String,
    },
    /// A resource belongs to one coordinator.
    #[error(
        "the resource was started for coordinator {started} and is asked to work for {asked}; give each coordinator its own"
    )]
    OtherCoordinator {
        /// The one it was started for.
        started: String,
        /// The one that asks.
        asked: String,
    },
    /// A resource belongs to one participant.
    #[error(
        "the resource was made for participant {made_for} and is asked to work for {asked}; register it under its own name"
    )]
    OtherParticipant {
        /// The one it was made for.
        made_for: ParticipantName,
        /// The one that asks.
        asked: ParticipantName,
    },
    /// Work began before the participant had joined a coordinator.
    #[error("the participant has not joined a coordinator yet: register the resource and connect before work begins")]
    NotJoined,
    /// The table of the barrier is not as it should be.
    #[error(transparent)]
    Barrier(#[from] super::barrier::BarrierError),
}

crate::error_chain::debug_as_chain!(PostgresError);

impl PostgresError {
    pub(super) fn connect(source: sqlx::Error) -> Self {
        if assent_postgres::is_refused_by_pooler(&source) {
            return Self::PoolerRefuses(source);
        }
        if sqlstate_of(&source).as_deref() == Some(sqlstate::DUPLICATE_PREPARED_STATEMENT) {
            return Self::TransactionPooler;
        }
        Self::Connect(source)
    }

    pub(super) fn statement(doing: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |source| Self::Statement { doing, source }
    }
}

/// The SQLSTATEs that mean something here, by their names in the manual's appendix A.
pub(super) mod sqlstate {
    /// Class 23: the work broke a constraint. For deferred ones Postgres finds out when it
    /// prepares.
    pub(in crate::postgres) const INTEGRITY_CONSTRAINT_CLASS: &str = "23";
    /// A new connection's session has prepared statements already: it was another connection's.
    pub(in crate::postgres) const DUPLICATE_PREPARED_STATEMENT: &str = "42P05";
    /// The transaction has failed and only its end is taken.
    pub(in crate::postgres) const IN_FAILED_SQL_TRANSACTION: &str = "25P02";
    /// Only who prepared a transaction may end it.
    pub(in crate::postgres) const INSUFFICIENT_PRIVILEGE: &str = "42501";
    /// There is no such table.
    pub(in crate::postgres) const UNDEFINED_TABLE: &str = "42P01";
    /// The table is of an earlier version.
    pub(in crate::postgres) const UNDEFINED_COLUMN: &str = "42703";
    /// `lock_timeout` is over.
    pub(in crate::postgres) const LOCK_NOT_AVAILABLE: &str = "55P03";
    /// There is no prepared transaction of that gid.
    pub(in crate::postgres) const UNDEFINED_OBJECT: &str = "42704";
    /// The gid is in use.
    pub(in crate::postgres) const DUPLICATE_OBJECT: &str = "42710";
    /// `max_prepared_transactions` are prepared. Postgres files this under its shared memory being
    /// full.
    pub(in crate::postgres) const OUT_OF_MEMORY: &str = "53200";
    /// Ending: another session has the prepared transaction. Preparing: `max_prepared_transactions`
    /// is 0.
    pub(in crate::postgres) const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
    /// The session cannot write: its server is a standby, or was told so.
    pub(in crate::postgres) const READ_ONLY_SQL_TRANSACTION: &str = "25006";
    /// Classes 57P and 08: the server ends the connection, or it is not there.
    pub(in crate::postgres) const CONNECTION_ENDED_CLASSES: [&str; 2] = ["57P", "08"];
}

/// The SQLSTATE of an error that Postgres answered with; `None` where the connection failed
/// instead.
pub(super) fn sqlstate_of(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|error| error.code()).map(std::borrow::Cow::into_owned)
}

/// Whether the connection is of no more use: it is lost, or leads to a server that is no primary
/// any more.
pub(super) fn is_connection_lost(error: &sqlx::Error) -> bool {
    match sqlstate_of(error) {
        Some(code) if code == sqlstate::READ_ONLY_SQL_TRANSACTION => true,
        Some(code) => sqlstate::CONNECTION_ENDED_CLASSES.iter().any(|class| code.starts_with(class)),
        None => true,
    }
}
