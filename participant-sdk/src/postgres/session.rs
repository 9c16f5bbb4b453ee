//! One connection's session at the server: how it is made, and made as before after each branch.
//!
//! What the work has set (roles, settings, session-level advisory locks, the last values of
//! sequences) goes in the message that ends its transaction, before the end: behind it the server
//! would need another transaction for that. What must be looked at first is looked at by one
//! prepared statement, so that the server plans nothing and does only what there is to do.

use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgQueryResult, PgRow};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use tokio::time::timeout;

use super::error::PostgresError;
use super::limits::{Limits, Wanted};

/// How long a server may take to accept a connection, and to answer a statement that waits for
/// nobody.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_millis(ANSWER_WITHIN_MS);
const ANSWER_WITHIN_MS: u64 = 30_000;

/// One connection, and what was learnt about its session when it was made.
pub(super) struct Session {
    pub(super) connection: PgConnection,
    /// The OID of the database.
    pub(super) database: u32,
    pub(super) database_name: String,
    pub(super) backend: Backend,
    /// What it has where no transaction says otherwise.
    limits: Limits,
    configured: Configured,
    /// What RESET ALL takes away from this session: statements, each behind a semicolon.
    restore: String,
    /// Whether a branch's work may have changed the session.
    is_touched: bool,
    made_at: Instant,
}

/// What a session has from the role, the database or the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Configured {
    limits: Limits,
}

/// The server's process for one connection, to cancel or terminate what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    pub(super) process_id: i32,
    /// When it started, by the server's clock, in Unix microseconds; zero where the role may not
    /// see it. The system gives process ids out again.
    pub(super) started_unix_us: i64,
}

/// What the end of a transaction leaves in the session that is to be cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leftovers {
    /// Settings, roles, the last values of sequences, and session-level advisory locks. PREPARE
    /// TRANSACTION refuses all others.
    OfPrepared,
    /// Also temporary tables, cursors `with hold` and `listen`.
    OfCommitted,
}

impl Session {
    /// With what is configured.
    pub(super) async fn connect(options: &PgConnectOptions) -> Result<Self, PostgresError> {
        Self::connect_in_time(options, None).await
    }

    /// With limits that suit transactions like this one, as parameters of the connection.
    pub(super) async fn connect_limited(
        options: &PgConnectOptions,
        configured: Configured,
        wanted: Wanted,
    ) -> Result<Self, PostgresError> {
        let limits = Limits::for_many(wanted, configured.limits);
        let options = options.clone().options([
            ("lock_timeout", limits.lock_ms),
            ("statement_timeout", limits.statement_ms),
            ("idle_in_transaction_session_timeout", limits.idle_ms),
        ]);
        Self::connect_in_time(&options, Some(configured)).await
    }

    async fn connect_in_time(
        options: &PgConnectOptions,
        configured: Option<Configured>,
    ) -> Result<Self, PostgresError> {
        match timeout(ANSWER_WITHIN, Self::connect_without_limit(options, configured)).await {
            Ok(session) => session.map_err(PostgresError::connect),
            Err(_) => Err(PostgresError::NoAnswer { doing: "connect", waited_ms: ANSWER_WITHIN.as_millis() }),
        }
    }

    async fn connect_without_limit(
        options: &PgConnectOptions,
        configured: Option<Configured>,
    ) -> Result<Self, sqlx::Error> {
        let mut connection = PgConnection::connect_with(options).await?;
        // From here on sqlx believes that a transaction is open, for as long as the connection
        // lives; BEGIN and PREPARE TRANSACTION are sent behind its back. So what the work begins on
        // this connection becomes a savepoint, and the work's commit does not commit the branch.
        std::mem::forget(connection.begin().await?);
        let row = sqlx::query(
            "select pg_backend_pid() as process_id, oid::int8 as database, datname::text as database_name,
                    (select coalesce((extract(epoch from backend_start) * 1000000)::int8, 0) from pg_stat_activity
                     where pid = pg_backend_pid()) as started_unix_us,
                    (select setting::int8 from pg_settings where name = 'lock_timeout') as lock_ms,
                    (select setting::int8 from pg_settings where name = 'statement_timeout') as statement_ms,
                    (select setting::int8 from pg_settings where name = 'idle_in_transaction_session_timeout') as idle_ms,
                    current_setting('synchronous_commit') = 'off' as commits_are_lazy,
                    quote_literal(session_user) as session_user_quoted,
                    quote_literal(current_user) as current_user_quoted,
                    quote_literal(current_setting('statement_timeout')) as statement_timeout_quoted
             from pg_database where datname = current_database()",
        )
        .persistent(false)
        .fetch_one(&mut connection)
        .await?;
        let database: i64 = row.try_get("database")?;
        let backend =
            Backend { process_id: row.try_get("process_id")?, started_unix_us: row.try_get("started_unix_us")? };
        let milliseconds = |name| Ok::<_, sqlx::Error>(u64::try_from(row.try_get::<i64, _>(name)?).unwrap_or(0));
        let limits = Limits {
            lock_ms: milliseconds("lock_ms")?,
            statement_ms: milliseconds("statement_ms")?,
            idle_ms: milliseconds("idle_ms")?,
        };
        let mut restore = String::new();
        // A commit in one phase is told to the coordinator, so it must not be lost.
        if row.try_get("commits_are_lazy")? {
            restore.push_str("; set synchronous_commit = on");
        }
        let begins_with = format!("rollback{restore}; {}", Self::prepare_clearing(&row)?);
        sqlx::raw_sql(AssertSqlSafe(begins_with)).execute(&mut connection).await?;
        // PREPARE TRANSACTION is never cut short.
        if (1..ANSWER_WITHIN_MS).contains(&limits.statement_ms) {
            restore.push_str("; set local statement_timeout = 0");
        }
        Ok(Self {
            connection,
            database: u32::try_from(database).map_err(sqlx::Error::decode)?,
            database_name: row.try_get("database_name")?,
            backend,
            limits,
            configured: configured.unwrap_or(Configured { limits }),
            restore,
            is_touched: false,
            made_at: Instant::now(),
        })
    }

    /// The statement that looks what the work has left, in the session as it was made. It fails
    /// where no transaction is open: there the statement is a transaction of its own, which began
    /// with the message that it came with.
    ///
    /// A statement's limit that the work has set counts from the beginning of the message, until
    /// there is no limit: only then RESET ALL starts another one.
    fn prepare_clearing(row: &PgRow) -> Result<String, sqlx::Error> {
        let session_user: String = row.try_get("session_user_quoted")?;
        let current_user: String = row.try_get("current_user_quoted")?;
        let statement_timeout: String = row.try_get("statement_timeout_quoted")?;
        // Nothing is returned, and there is no function more than is needed: the server looks each
        // up for each execution, whether it is called or not. SET_CONFIG is never null.
        Ok(format!(
            "prepare assent_clear as
             select where case
                 when pg_catalog.pg_advisory_unlock_all() is null then null
                 when current_timestamp = pg_catalog.statement_timestamp()
                     then pg_catalog.set_config('statement_timeout', '{NO_TRANSACTION}', true) is null
                 when session_user <> {session_user} or current_user <> {current_user}
                         or pg_catalog.current_setting('statement_timeout') <> {statement_timeout}
                     then pg_catalog.set_config('session_authorization', null, false) is null
                         or pg_catalog.set_config('role', null, false) is null
                         or pg_catalog.set_config('statement_timeout', '0', true) is null
             end"
        ))
    }

    /// Whether a message failed because there was no transaction to end.
    pub(super) fn had_no_transaction(error: &sqlx::Error) -> bool {
        error.as_database_error().is_some_and(|error| error.message().contains(NO_TRANSACTION))
    }

    pub(super) fn configured(&self) -> Configured {
        self.configured
    }

    pub(super) fn age(&self) -> Duration {
        self.made_at.elapsed()
    }

    /// Whether the session is as it was made.
    pub(super) fn is_clean(&self) -> bool {
        !self.is_touched
    }

    /// From here on a branch's work may change it.
    pub(super) fn touch(&mut self) {
        self.is_touched = true;
    }

    /// BEGIN, with the limits that the session does not have.
    pub(super) fn begin_message(&self, wanted: Wanted) -> String {
        format!("begin{}", self.limits.set_local(wanted, self.configured.limits))
    }

    /// Runs statements that wait for no lock, as one message.
    pub(super) async fn execute(
        &mut self,
        doing: &'static str,
        sql: String,
    ) -> Result<Result<PgQueryResult, sqlx::Error>, PostgresError> {
        timeout(ANSWER_WITHIN, sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection))
            .await
            .map_err(|_| PostgresError::NoAnswer { doing, waited_ms: ANSWER_WITHIN.as_millis() })
    }

    /// Clears the session and runs the statement that ends its transaction, as one message.
    ///
    /// The deferred constraints are checked first, with the rights that the work has had.
    pub(super) async fn clear_and_end(
        &mut self,
        doing: &'static str,
        leftovers: Leftovers,
        end: &str,
    ) -> Result<Result<PgQueryResult, sqlx::Error>, PostgresError> {
        let restore = &self.restore;
        let also = match leftovers {
            Leftovers::OfPrepared => "",
            Leftovers::OfCommitted => CLEAR_COMMITTED,
        };
        let ended = self.execute(doing, format!("{CHECK_AND_CLEAR}{restore}{also}; {end}")).await?;
        // What follows a failed statement in a message is not run.
        self.is_touched &= ended.is_err();
        Ok(ended)
    }

    /// Rolls back, runs a check that fails on a session that is of no more use, and clears it.
    pub(super) async fn roll_back_and_clear(
        &mut self,
        check: &str,
    ) -> Result<Result<PgQueryResult, sqlx::Error>, PostgresError> {
        // The work may have committed something by itself.
        let sql = format!("rollback; {check}; {CLEAR_OUTSIDE}{}{CLEAR_COMMITTED}", self.restore);
        let rolled_back = self.execute("roll back", sql).await?;
        self.is_touched &= rolled_back.is_err();
        Ok(rolled_back)
    }

    /// How long a message is that prepares with a statement of so many bytes.
    pub(super) fn prepare_message_bytes(&self, statement_bytes: usize) -> usize {
        CHECK_AND_CLEAR.len() + self.restore.len() + "; ".len() + statement_bytes
    }
}

/// What the prepared statement fails with, as the value of a setting, where no transaction is open.
const NO_TRANSACTION: &str = "no transaction is open";

/// What precedes the end of a transaction. All but `assent_clear` is cheap where there is nothing
/// to do.
const CHECK_AND_CLEAR: &str = "set constraints all immediate; execute assent_clear; discard sequences; reset all";

/// The same where no transaction is open.
const CLEAR_OUTSIDE: &str = "set session authorization default; reset role; select pg_advisory_unlock_all(); \
                             discard sequences; reset all";

/// What PREPARE TRANSACTION refuses and COMMIT does not.
///
/// `discard all` would clear all at once, and takes the statements along that sqlx has prepared.
/// Statements that the work has prepared by SQL's PREPARE stay, since to look for them costs more
/// than all of this.
const CLEAR_COMMITTED: &str = "; close all; unlisten *; discard temp";
