//! Connections of the resource's own, with two lanes to them.
//!
//! Two, because work waits for row locks that only the end of another branch releases. Were the
//! connections for work all waiting like this, and the ends queued behind them for a connection,
//! neither would ever move. So some connections are for ends alone; all others serve whoever comes
//! first, since how long prepares and commits take, and so how many of each are under way, depends
//! on the disk.
//!
//! Not a `sqlx::PgPool`: that sends a round trip when it hands out a connection and another when it
//! gets it back. A branch has four statements and takes two connections, so those would double what
//! is sent. Here the first statement is the test: if a connection that lay idle turns out to be
//! dead, that statement is sent again on a new one. That is right because the first statement is
//! always one that may be repeated: BEGIN, COMMIT PREPARED, ROLLBACK PREPARED, a query.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgQueryResult};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::error::{PostgresError, is_connection_lost};
use super::locks;

/// How long a server may take to accept a connection, and to answer a statement that waits for
/// nobody.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A connection is replaced when it is this old: its backend's caches grow, and names are resolved
/// anew.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(30 * 60);

/// A bounded number of connections to one database.
struct Pool {
    options: PgConnectOptions,
    permits: Arc<Semaphore>,
    /// The last one in is the first one out, so that no more of them stay warm than are needed.
    idle: Mutex<Vec<Session>>,
}

/// A way to the connections, for one purpose.
pub(super) struct Lane {
    purpose: &'static str,
    pool: Arc<Pool>,
    /// How many connections this lane may hold at once.
    share: Arc<Semaphore>,
    share_max: usize,
}

/// Of this many connections one is for ends alone; at least one always is.
const CONNECTIONS_PER_RESERVED: usize = 8;

/// One connection, and what was learnt about its session when it was made.
pub(super) struct Session {
    pub(super) connection: PgConnection,
    /// The OID of the database.
    pub(super) database: u32,
    pub(super) database_name: String,
    pub(super) backend: Backend,
    /// The `lock_timeout` from the role, the database or the server, in milliseconds; zero for
    /// none.
    configured_lock_timeout_ms: u64,
    /// The `statement_timeout` from there, in milliseconds; zero for none.
    configured_statement_timeout_ms: u64,
    /// The `idle_in_transaction_session_timeout` from there, in milliseconds; zero for none.
    configured_idle_timeout_ms: u64,
    /// What makes the session as it was when it was made, after the statements of [`Leftovers`].
    restore: &'static str,
    /// Whether a branch's work may have changed the session.
    is_touched: bool,
    made_at: Instant,
}

/// What the work of a branch may leave in its session, beyond what ends with its transaction.
///
/// `discard all` would do it and takes the statements along that sqlx has prepared. Statements that
/// the work has prepared by SQL's PREPARE stay, since to look for them costs more than all of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leftovers {
    /// Settings, roles, the last values of sequences, and session-level advisory locks. PREPARE
    /// TRANSACTION refuses all others.
    OfPrepared,
    /// Also temporary tables, cursors `with hold` and `listen`.
    OfCommitted,
}

impl Leftovers {
    const fn cleared_by(self) -> &'static str {
        match self {
            Self::OfPrepared => {
                "; set session authorization default; reset all; discard sequences; select pg_advisory_unlock_all()"
            }
            Self::OfCommitted => {
                "; set session authorization default; reset all; discard sequences; select pg_advisory_unlock_all()\
                 ; close all; unlisten *; discard temp"
            }
        }
    }
}

/// The server's process for one connection, to cancel or terminate what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    pub(super) process_id: i32,
    /// When it started, by the server's clock, in Unix microseconds; zero where the role may not
    /// see it. The system gives process ids out again.
    pub(super) started_unix_us: i64,
}

/// A connection on loan. It goes back only through [`release`](Self::release): whoever is
/// interrupted in the middle drops it, which closes the connection, and Postgres rolls back.
pub(super) struct Checkout {
    pub(super) session: Session,
    pub(super) work: AtWork,
    pool: Arc<Pool>,
    was_idle: bool,
}

/// What a connection does at the server, and its place among the connections.
///
/// A closed connection is noticed by a server process only when its statement has run, which may
/// wait for a lock or sleep, and keeps its locks. So work that was given up is ended there, and its
/// place is free only when it has ended: however often work is given up, no more of it goes on at
/// the server than there are connections.
pub(super) struct AtWork {
    /// Whether a transaction is open in which a branch's work may run a statement.
    pub(super) is_open: bool,
    backend: Backend,
    pool: Arc<Pool>,
    permits: Option<[OwnedSemaphorePermit; 2]>,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        // Without a runtime the process is about to end.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (pool, backend, permits) = (Arc::clone(&self.pool), self.backend, self.permits.take());
        let lane = Lane { purpose: "ending work", pool, share: Arc::new(Semaphore::new(1)), share_max: 1 };
        runtime.spawn(async move {
            Arc::new(lane).terminate(backend).await;
            drop(permits);
        });
    }
}

/// Two ways to at most `connections_max` connections, and at least two: for transactions that do a
/// branch's work, and so wait for locks; and for what ends branches, which waits for nobody.
pub(super) fn lanes(options: PgConnectOptions, connections_max: usize) -> (Arc<Lane>, Arc<Lane>) {
    let connections_max = connections_max.clamp(2, Semaphore::MAX_PERMITS);
    let reserved = (connections_max / CONNECTIONS_PER_RESERVED).max(1);
    let permits = Arc::new(Semaphore::new(connections_max));
    let pool = Arc::new(Pool { options, permits, idle: Mutex::default() });
    let lane = |purpose, share_max| {
        let share = Arc::new(Semaphore::new(share_max));
        Arc::new(Lane { purpose, pool: Arc::clone(&pool), share, share_max })
    };
    (lane("work", connections_max - reserved), lane("ending branches", connections_max))
}

impl Lane {
    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.pool.options
    }

    /// Takes a connection and runs a first statement on it, which is repeated when it turns out
    /// that the connection had been lost while it was idle. `sql` may hold several statements; it
    /// is made by us alone, and waits for nobody.
    pub(super) async fn first(
        self: &Arc<Self>,
        wait_max: Duration,
        doing: &'static str,
        sql: impl Fn(&Session) -> Result<String, PostgresError>,
    ) -> Result<(Checkout, Result<PgQueryResult, sqlx::Error>), PostgresError> {
        loop {
            let mut checkout = self.acquire(wait_max).await?;
            let sql = sql(&checkout.session)?;
            match checkout.session.execute(doing, sql).await? {
                Err(error) if checkout.was_lost_idle(&error) => self.pool.idle().clear(),
                result => return Ok((checkout, result)),
            }
        }
    }

    /// Takes a connection and begins a transaction on it that is of no use after `time_left`; zero
    /// for no limit. Its statements end by then, and its waits for locks after `lock_wait_max`,
    /// unless that is zero. The server ends it where this process does
    /// not: it may stand still, or be cut off, with the locks held.
    pub(super) async fn begin(
        self: &Arc<Self>,
        time_left: Duration,
        lock_wait_max: Duration,
    ) -> Result<Checkout, PostgresError> {
        let doing = "begin a transaction";
        let wait_max = if time_left.is_zero() { ANSWER_WITHIN } else { time_left };
        let lock_wait = shorter(time_left, locks::jittered(lock_wait_max));
        let (mut checkout, begun) =
            self.first(wait_max, doing, |session| Ok(session.begin_message(time_left, lock_wait))).await?;
        match begun {
            Ok(_) => {
                checkout.session.is_touched = true;
                checkout.work.is_open = true;
                Ok(checkout)
            }
            Err(source) => Err(PostgresError::Statement { doing, source }),
        }
    }

    /// Takes a connection: an idle one, or a new one. An idle one may be dead.
    pub(super) async fn acquire(self: &Arc<Self>, wait_max: Duration) -> Result<Checkout, PostgresError> {
        // The share comes first: whoever waits for a connection of the pool keeps none from the
        // other lane, and those for ends alone are never work's.
        let permits = async {
            let share = Arc::clone(&self.share).acquire_owned().await?;
            let connection = Arc::clone(&self.pool.permits).acquire_owned().await?;
            Ok::<_, AcquireError>([share, connection])
        };
        let no_connection = || PostgresError::NoConnection {
            purpose: self.purpose,
            connections_max: self.share_max,
            waited_ms: wait_max.as_millis(),
        };
        // The semaphores are never closed.
        let permits = timeout(wait_max, permits).await.map_err(|_| no_connection())?.map_err(|_| no_connection())?;
        let idle = self.pool.idle().pop();
        let was_idle = idle.is_some();
        let session = match idle {
            Some(session) => session,
            None => Session::connect(&self.pool.options).await?,
        };
        let (backend, pool) = (session.backend, Arc::clone(&self.pool));
        let work = AtWork { is_open: false, backend, pool: Arc::clone(&pool), permits: Some(permits) };
        Ok(Checkout { session, work, pool, was_idle })
    }

    /// Has the server end a connection, and with it what runs there and the open transaction.
    /// Returns when it has ended, or when it was asked often enough.
    pub(super) async fn terminate(self: &Arc<Self>, backend: Backend) {
        let mut pause = Duration::from_millis(100);
        for _ in 0..TERMINATE_ATTEMPTS_MAX {
            match self.try_to_terminate(backend).await {
                Ok(true) => return,
                Ok(false) => tracing::warn!(backend.process_id, "a session that was given up is yet to end"),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(backend.process_id, error, "a session that was given up is still to be ended");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    /// Whether it has ended.
    async fn try_to_terminate(self: &Arc<Self>, backend: Backend) -> Result<bool, PostgresError> {
        let mut checkout = self.acquire(ANSWER_WITHIN).await?;
        // The process id alone may have been given to another connection since.
        let statement = sqlx::query_scalar(
            "select pg_terminate_backend(pid, $3) from pg_stat_activity
             where pid = $1 and coalesce((extract(epoch from backend_start) * 1000000)::int8, 0) = $2",
        )
        .bind(backend.process_id)
        .bind(backend.started_unix_us)
        .bind(TERMINATE_WAIT_MS);
        let has_ended: Option<bool> = statement
            .fetch_optional(&mut checkout.session.connection)
            .await
            .map_err(PostgresError::statement("end a session that was given up"))?;
        checkout.release();
        Ok(has_ended.unwrap_or(true))
    }
}

/// How often the server is asked to end a session, at most, before its own limits have to do.
const TERMINATE_ATTEMPTS_MAX: u32 = 10;

/// How long it is waited for each time, in milliseconds.
const TERMINATE_WAIT_MS: i64 = 5_000;

impl Pool {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Session>> {
        // A Vec is whole after every push, pop and clear.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Checkout {
    /// Whether the connection was lost while nobody used it. The server was restarted, most likely,
    /// and the others are lost too.
    fn was_lost_idle(&self, error: &sqlx::Error) -> bool {
        self.was_idle && is_connection_lost(error)
    }

    /// Gives the connection back. It must be outside of any transaction and must have finished its
    /// last statement. One that work has touched, and that was not
    /// [cleared](Session::end_and_clear), is closed instead.
    pub(super) fn release(self) {
        if !self.session.is_touched && self.session.made_at.elapsed() < CONNECTION_AGE_MAX {
            self.pool.idle().push(self.session);
        }
    }
}

impl Session {
    async fn connect(options: &PgConnectOptions) -> Result<Self, PostgresError> {
        match timeout(ANSWER_WITHIN, Self::connect_without_limit(options)).await {
            Ok(session) => session.map_err(PostgresError::connect),
            Err(_) => Err(PostgresError::NoAnswer { doing: "connect", waited_ms: ANSWER_WITHIN.as_millis() }),
        }
    }

    async fn connect_without_limit(options: &PgConnectOptions) -> Result<Self, sqlx::Error> {
        let mut connection = PgConnection::connect_with(options).await?;
        // From here on sqlx believes that a transaction is open, for as long as the connection
        // lives; BEGIN and PREPARE TRANSACTION are sent behind its back. So what the work begins on
        // this connection becomes a savepoint, and the work's commit does not commit the branch.
        std::mem::forget(connection.begin().await?);
        let row = sqlx::query(
            "select pg_backend_pid() as process_id, oid::int8 as database, datname::text as database_name,
                    (select coalesce((extract(epoch from backend_start) * 1000000)::int8, 0) from pg_stat_activity
                     where pid = pg_backend_pid()) as started_unix_us,
                    (select setting::int8 from pg_settings where name = 'lock_timeout') as lock_timeout_ms,
                    (select setting::int8 from pg_settings where name = 'statement_timeout') as statement_timeout_ms,
                    (select setting::int8 from pg_settings where name = 'idle_in_transaction_session_timeout') as idle_timeout_ms,
                    current_setting('synchronous_commit') = 'off' as commits_are_lazy,
                    current_setting('role') <> 'none' as has_role
             from pg_database where datname = current_database()",
        )
        .persistent(false)
        .fetch_one(&mut connection)
        .await?;
        let database: i64 = row.try_get("database")?;
        let lock_timeout_ms: i64 = row.try_get("lock_timeout_ms")?;
        let statement_timeout_ms: i64 = row.try_get("statement_timeout_ms")?;
        let idle_timeout_ms: i64 = row.try_get("idle_timeout_ms")?;
        let backend =
            Backend { process_id: row.try_get("process_id")?, started_unix_us: row.try_get("started_unix_us")? };
        // A commit in one phase is told to the coordinator, so it must not be lost. Prepared
        // transactions are always flushed.
        let commits_are_lazy: bool = row.try_get("commits_are_lazy")?;
        let has_role: bool = row.try_get("has_role")?;
        let restore = match (commits_are_lazy, has_role) {
            (false, false) => "",
            (false, true) => "; reset role",
            (true, false) => "; set synchronous_commit = on",
            (true, true) => "; reset role; set synchronous_commit = on",
        };
        sqlx::raw_sql(AssertSqlSafe(format!("rollback{restore}"))).execute(&mut connection).await?;
        Ok(Self {
            connection,
            database: u32::try_from(database).map_err(sqlx::Error::decode)?,
            database_name: row.try_get("database_name")?,
            backend,
            configured_lock_timeout_ms: u64::try_from(lock_timeout_ms).unwrap_or(0),
            configured_statement_timeout_ms: u64::try_from(statement_timeout_ms).unwrap_or(0),
            configured_idle_timeout_ms: u64::try_from(idle_timeout_ms).unwrap_or(0),
            restore,
            is_touched: false,
            made_at: Instant::now(),
        })
    }

    /// Runs statements that wait for nobody, as one message.
    pub(super) async fn execute(
        &mut self,
        doing: &'static str,
        sql: String,
    ) -> Result<Result<PgQueryResult, sqlx::Error>, PostgresError> {
        timeout(ANSWER_WITHIN, sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection))
            .await
            .map_err(|_| PostgresError::NoAnswer { doing, waited_ms: ANSWER_WITHIN.as_millis() })
    }

    /// Runs the statements that end a transaction, and clears in the same message what its work has
    /// left in the session.
    pub(super) async fn end_and_clear(
        &mut self,
        doing: &'static str,
        sql: &str,
        leftovers: Leftovers,
    ) -> Result<Result<PgQueryResult, sqlx::Error>, PostgresError> {
        let result = self.execute(doing, format!("{sql}{}{}", leftovers.cleared_by(), self.restore)).await?;
        // What follows a failed statement in a message is not run.
        self.is_touched &= result.is_err();
        Ok(result)
    }

    /// BEGIN with its limits, which a shorter configured limit overrides. They hold for this
    /// transaction alone.
    fn begin_message(&self, time_left: Duration, lock_wait: Duration) -> String {
        let lock_timeout_ms = limit_ms(lock_wait, self.configured_lock_timeout_ms);
        let server_max = if time_left.is_zero() { time_left } else { time_left.saturating_add(SERVER_GRACE) };
        let statement_timeout_ms = limit_ms(server_max, self.configured_statement_timeout_ms);
        let idle_timeout_ms = limit_ms(server_max, self.configured_idle_timeout_ms);
        let mut message = "begin".to_owned();
        if lock_timeout_ms != self.configured_lock_timeout_ms {
            message.push_str(&format!("; set local lock_timeout = {lock_timeout_ms}"));
        }
        if statement_timeout_ms != self.configured_statement_timeout_ms {
            message.push_str(&format!("; set local statement_timeout = {statement_timeout_ms}"));
        }
        if idle_timeout_ms != self.configured_idle_timeout_ms {
            message.push_str(&format!("; set local idle_in_transaction_session_timeout = {idle_timeout_ms}"));
        }
        message
    }
}

/// How much later than this process the server ends a transaction whose time is up: this process
/// says why, the server does not.
const SERVER_GRACE: Duration = Duration::from_secs(1);

/// The shorter of two limits; zero is none.
fn shorter(one: Duration, other: Duration) -> Duration {
    match (one.is_zero(), other.is_zero()) {
        (true, _) => other,
        (false, true) => one,
        (false, false) => one.min(other),
    }
}

/// A limit for Postgres in milliseconds: zero is none, and the shorter of two holds.
fn limit_ms(wanted: Duration, configured_ms: u64) -> u64 {
    /// Postgres keeps it in milliseconds in 31 bits.
    const LONGEST_MS: u64 = i32::MAX.unsigned_abs() as u64;
    if wanted.is_zero() {
        return configured_ms;
    }
    let wanted_ms = u64::try_from(wanted.as_millis()).unwrap_or(LONGEST_MS).clamp(1, LONGEST_MS);
    if configured_ms == 0 { wanted_ms } else { wanted_ms.min(configured_ms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_longer_than_any() {
        let ms = Duration::from_millis;
        for (one, other, expected) in [(0, 0, 0), (0, 7, 7), (7, 0, 7), (5, 7, 5), (7, 5, 5)] {
            assert_eq!(shorter(ms(one), ms(other)), ms(expected), "{one} {other}");
        }
    }

    #[test]
    fn the_shorter_of_two_limits_holds() {
        for (wanted_ms, configured_ms, expected_ms) in [
            (0, 0, 0),
            (0, 700, 700),
            (1, 0, 1),
            (29_400, 0, 29_400),
            (29_400, 5_000, 5_000),
            (29_400, 60_000, 29_400),
            (u64::MAX, 0, 2_147_483_647),
        ] {
            assert_eq!(limit_ms(Duration::from_millis(wanted_ms), configured_ms), expected_ms, "{wanted_ms}");
        }
        assert_eq!(limit_ms(Duration::from_micros(1), 0), 1, "zero would be no limit");
        assert_eq!(limit_ms(Duration::MAX, 0), 2_147_483_647);
    }
}
