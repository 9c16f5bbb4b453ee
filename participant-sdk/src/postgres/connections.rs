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

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgQueryResult};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::error::{PostgresError, is_connection_lost};
use super::limits::Wanted;
use super::session::{ANSWER_WITHIN, Backend, Configured, Session};

/// A connection is replaced when it is this old: its backend's caches grow, and names are resolved
/// anew.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(30 * 60);

/// A bounded number of connections to one database.
struct Pool {
    options: PgConnectOptions,
    permits: Arc<Semaphore>,
    /// The last one in is the first one out, so that no more of them stay warm than are needed.
    idle: Mutex<Vec<Session>>,
    /// The limits of the last transaction that was begun: a session is made with these.
    wanted: Mutex<Wanted>,
    known: Mutex<Option<Known>>,
}

/// What the last session has told that was made without limits of ours.
#[derive(Clone, Copy)]
struct Known {
    configured: Configured,
    /// Whether the server has refused, behind this, to make one with limits.
    refuses_limits: bool,
    learnt_at: Instant,
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
    let (idle, wanted, known) = (Mutex::default(), Mutex::new(Wanted::USUAL), Mutex::default());
    let pool = Arc::new(Pool { options, permits, idle, wanted, known });
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
                Err(error) if checkout.was_lost_idle(&error) => locked(&self.pool.idle).clear(),
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
        let wanted = Wanted { time_left, lock_wait_max };
        *locked(&self.pool.wanted) = wanted;
        let (mut checkout, begun) = self.first(wait_max, doing, |session| Ok(session.begin_message(wanted))).await?;
        match begun {
            Ok(_) => {
                checkout.session.touch();
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
        let idle = locked(&self.pool.idle).pop();
        let was_idle = idle.is_some();
        let session = match idle {
            Some(session) => session,
            // Boxed, since it is rare, and large: each branch would have room for it.
            None => Box::pin(self.pool.connect()).await?,
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
    /// A new session, with the limits that transactions want of late.
    ///
    /// They cover what is configured, so from time to time one is made without them, to look.
    async fn connect(&self) -> Result<Session, PostgresError> {
        let known = locked(&self.known).filter(|known| known.learnt_at.elapsed() < CONNECTION_AGE_MAX);
        if let Some(Known { configured, refuses_limits: false, .. }) = known {
            let wanted = *locked(&self.wanted);
            match Session::connect_limited(&self.options, configured, wanted).await {
                // As a pooler does that does not know the parameter, each in its own words.
                Err(PostgresError::Connect(sqlx::Error::Database(_)) | PostgresError::PoolerRefuses(_)) => {}
                connected => return connected,
            }
        }
        let session = Session::connect(&self.options).await?;
        let (configured, learnt_at) = (session.configured(), Instant::now());
        *locked(&self.known) = Some(Known { configured, refuses_limits: known.is_some(), learnt_at });
        Ok(session)
    }
}

/// What these guard is whole after every step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Checkout {
    /// Whether the connection was lost while nobody used it. The server was restarted, most likely,
    /// and the others are lost too.
    fn was_lost_idle(&self, error: &sqlx::Error) -> bool {
        self.was_idle && is_connection_lost(error)
    }

    /// Gives the connection back. It must be outside of any transaction and must have finished its
    /// last statement. One that work has touched, and that was not
    /// cleared, is closed instead.
    pub(super) fn release(self) {
        if self.session.is_clean() && self.session.age() < CONNECTION_AGE_MAX {
            locked(&self.pool.idle).push(self.session);
        }
    }
}
