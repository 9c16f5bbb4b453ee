//! The log on Postgres: production.
//!
//! One connection appends, one batch after the other, each batch one statement in one implicit
//! transaction; a small pool does all else. The appending connection is made anew after every
//! failure, and the new one outlaws what the old one may have left behind: see `link`.
//!
//! It has to be a direct connection, or one through a pooler in session mode: behind one that gives
//! each transaction another session, its settings, among them that a commit waits for the disk, and
//! its prepared statements would be another's.

mod append;
mod backend;
mod link;
mod loan;
mod migrate;
mod reading;
mod retention;
mod roles;
mod statement;
mod trouble;
mod value;
mod verifying;

use std::sync::PoisonError;
use std::time::Duration;

use assent_crash::crash_point;
use assent_protocol::{Appended, Epoch, Gtid, Name, ParticipantName};
use futures::future::{BoxFuture, FutureExt as _};
use sqlx::postgres::{PgConnectOptions, PgPool};
use tokio::sync::Mutex;

use self::link::{Acquired, Held, Link};
use self::loan::lend;
use self::trouble::{Trouble, within};
use super::{
    AppendError, Batch, Filter, Found, Lease, Log, LogError, Maintenance, OpenError, Options, Owned, Page, PageToken,
    Shown, Unreadable,
};

pub(super) use self::backend::Server;

/// A log on Postgres.
pub struct PostgresLog {
    place: String,
    target: PgConnectOptions,
    options: Options,
    appender: Mutex<Appender>,
    /// What was acquired. Changed only by [`Log::acquire`], which has the appender meanwhile.
    held: std::sync::Mutex<Option<Held>>,
    pool: PgPool,
    /// One connection of its own, so that slow reads do not cost the lease.
    lease_pool: PgPool,
}

/// Over which connection to append.
#[derive(Default)]
struct Appender {
    /// Taken out for the time of an append, and put back only when it succeeded: a connection that
    /// failed, or whose append was given up half-way, is never used again.
    link: Option<Link>,
    is_closed: bool,
}

/// Without the connection options, which hold the password.
impl std::fmt::Debug for PostgresLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresLog")
            .field("place", &self.place)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl PostgresLog {
    /// Connects, and compares the schema with what this binary needs.
    async fn open(target: PgConnectOptions, options: Options) -> Result<Self, OpenError> {
        let place = super::url::describe(&target);
        let of_opening = |trouble: Trouble| trouble.of_opening(&place);
        let mut connection = link::connect(&target, &options.application_name, &options).await.map_err(of_opening)?;
        let mut other = link::connect(&target, &options.application_name, &options).await.map_err(of_opening)?;
        let looking = async { Ok(assent_postgres::shares_sessions(&mut connection, &mut other).await?) };
        if within(options.connect_timeout, looking).await.map_err(of_opening)? {
            return Err(of_opening(Trouble::Pooled));
        }
        let role = roles::connected(&mut connection).await.map_err(of_opening)?;
        let lacking = roles::lacking(&mut connection, &role).await.map_err(of_opening)?;
        if !lacking.is_empty() {
            return Err(OpenError::Lacking { log: place, role, lacking });
        }
        let found = migrate::version(&mut connection).await.map_err(of_opening)?;
        super::migration::compare(&place, found, &migrate::MIGRATIONS)?;
        if roles::changes_schema(&mut connection, &role).await.map_err(of_opening)? {
            tracing::warn!(
                log = place,
                role,
                "this role could change the schema of the log, and delete from it: let `assent migrate --server-role NAME` make \
                 one that could not, and serve as that one"
            );
        }
        let pool = link::pool(&target, &options);
        let lease_pool = link::lease_pool(&target, &options);
        let (appender, held) = (Mutex::default(), std::sync::Mutex::default());
        Ok(Self { place, target, options, appender, held, pool, lease_pool })
    }

    /// The epoch that is held, if any.
    fn held(&self) -> Option<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_held(&self, held: Option<Held>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }

    async fn append_now(&self, batch: &Batch) -> Result<Vec<Appended>, AppendError> {
        let mut appender = self.appender.lock().await;
        let unsent = |trouble: Trouble| trouble.of_append(&self.place, false);
        if appender.is_closed {
            return Err(unsent(Trouble::Closed));
        }
        let Some(held) = self.held() else {
            return Err(AppendError::Fenced { held: Epoch::default(), current: Epoch::default() });
        };
        let mut link = match appender.link.take() {
            Some(link) => link,
            None => match link::relink(&self.target, &held, &self.options).await.map_err(unsent)? {
                Some(link) => link,
                None => return Err(self.fenced(&held).await),
            },
        };
        if batch.is_empty() {
            appender.link = Some(link);
            return Ok(Vec::new());
        }
        crash_point!(LOG_BEFORE_BEGIN, return Err(unsent(Trouble::Closed)));
        match within(self.options.append_timeout, append::append(&mut link, &held, batch)).await {
            Ok(Some(answers)) => {
                crash_point!(
                    LOG_AFTER_COMMIT,
                    return Err(Trouble::Silence(self.options.append_timeout).of_append(&self.place, true))
                );
                appender.link = Some(link);
                Ok(answers)
            }
            Ok(None) => Err(self.fenced(&held).await),
            Err(trouble) => Err(trouble.of_append(&self.place, true)),
        }
    }

    /// Why the fence refused: another epoch, as a rule.
    async fn fenced(&self, held: &Held) -> AppendError {
        let current = async {
            let mut loan = lend(&self.pool).await?;
            let current = link::current_epoch(&mut loan, &held.replica).await?;
            loan.give_back();
            Ok(current)
        };
        match within(self.options.connect_timeout + self.options.read_timeout, current).await {
            Ok(current) if current == held.epoch => Trouble::Displaced.of_append(&self.place, false),
            Ok(current) => AppendError::Fenced { held: held.epoch, current },
            Err(trouble) => trouble.of_append(&self.place, false),
        }
    }

    /// Runs something over the pool, in bounded time.
    async fn call<T>(&self, work: impl Future<Output = Result<T, Trouble>>) -> Result<T, LogError> {
        let limit = self.options.connect_timeout + self.options.read_timeout;
        within(limit, work).await.map_err(|trouble| trouble.of_call(&self.place))
    }
}

impl Log for PostgresLog {
    fn append<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Vec<Appended>, AppendError>> {
        self.append_now(batch).boxed()
    }

    fn acquire<'a>(&'a self, replica: &'a Name) -> BoxFuture<'a, Result<Epoch, LogError>> {
        async move {
            let mut appender = self.appender.lock().await;
            if appender.is_closed {
                return Err(Trouble::Closed.of_call(&self.place));
            }
            appender.link = None;
            let own = self.held();
            let of_call = |trouble: Trouble| trouble.of_call(&self.place);
            match link::acquire(&self.target, replica, own.as_ref(), &self.options).await.map_err(of_call)? {
                Acquired::Held(mut link, held) => {
                    let epoch = held.epoch;
                    // Before the rows are taken over, which may take longer than a lease: it is
                    // renewed meanwhile.
                    self.set_held(Some(held.clone()));
                    if let Err(trouble) = link::take_over(&mut link, &held, &self.options).await {
                        self.set_held(None);
                        return Err(of_call(trouble));
                    }
                    appender.link = Some(link);
                    Ok(epoch)
                }
                Acquired::LeasedTo(holder) => Err(holder.refusal(&self.place)),
            }
        }
        .boxed()
    }

    fn renew(&self) -> BoxFuture<'_, Result<Lease, LogError>> {
        let work = async {
            let Some(held) = self.held() else { return Ok(Lease::NotAcquired) };
            let is_renewed = link::renew(&self.lease_pool, &held, self.options.lease).await?;
            Ok(if is_renewed { Lease::Renewed } else { Lease::Lost })
        };
        self.call(work).boxed()
    }

    fn lease(&self) -> Duration {
        self.options.lease
    }

    fn open_transactions(
        &self,
        after: Option<Gtid>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(Gtid, Result<Owned, Unreadable>)>, LogError>> {
        let work = async move {
            let Some(held) = self.held() else { return Ok(Vec::new()) };
            reading::open_transactions(&self.pool, held.epoch, after, limit).await
        };
        self.call(work).boxed()
    }

    fn lookup<'a>(&'a self, gtids: &'a [Gtid]) -> BoxFuture<'a, Result<Vec<(Gtid, Found)>, LogError>> {
        self.call(reading::lookup(&self.pool, gtids)).boxed()
    }

    fn list<'a>(
        &'a self,
        filter: &'a Filter,
        page: Option<&'a PageToken>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, LogError>> {
        self.call(reading::list(&self.pool, filter, page, limit)).boxed()
    }

    fn show(&self, gtid: Gtid) -> BoxFuture<'_, Result<Option<Shown>, LogError>> {
        self.call(reading::show(&self.pool, gtid)).boxed()
    }

    fn coordinator_id(&self) -> BoxFuture<'_, Result<String, LogError>> {
        let work = async {
            let mut loan = lend(&self.pool).await?;
            let sql = "select coordinator_id::text from assent.identity";
            let id = sqlx::query_scalar(sql).fetch_one(&mut *loan).await?;
            loan.give_back();
            Ok(id)
        };
        self.call(work).boxed()
    }

    fn participants(&self) -> BoxFuture<'_, Result<Vec<ParticipantName>, LogError>> {
        let work = async {
            let sql = "select name from assent.participant order by name collate \"C\"";
            let mut loan = lend(&self.pool).await?;
            let names: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut *loan).await?;
            loan.give_back();
            Ok(names.iter().filter_map(|name| Name::new(name).ok()).collect())
        };
        self.call(work).boxed()
    }

    fn note_participant<'a>(&'a self, name: &'a ParticipantName) -> BoxFuture<'a, Result<(), LogError>> {
        let work = async {
            let sql = "insert into assent.participant (name) values ($1) on conflict do nothing";
            let mut loan = lend(&self.pool).await?;
            sqlx::query(sql).bind(name.as_str()).execute(&mut *loan).await?;
            loan.give_back();
            Ok(())
        };
        self.call(work).boxed()
    }

    fn maintain(&self, now_ms: u64, retention: Duration) -> BoxFuture<'_, Result<Maintenance, LogError>> {
        self.call(retention::maintain(&self.pool, now_ms, retention)).boxed()
    }

    fn pin(&self, gtid: Gtid, pinned: bool) -> BoxFuture<'_, Result<bool, LogError>> {
        let work = async move {
            let known = "exists (select from assent.open_transaction where gtid = $1)
                         or exists (select from assent.history where gtid = $1)";
            let sql = if pinned {
                format!(
                    "with pinned as (insert into assent.pin (gtid) select $1 where {known} on conflict do nothing)
                     select {known}"
                )
            } else {
                format!("with unpinned as (delete from assent.pin where gtid = $1) select {known}")
            };
            let mut loan = lend(&self.pool).await?;
            let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(gtid.as_uuid());
            let is_known = query.fetch_one(&mut *loan).await?;
            loan.give_back();
            Ok(is_known)
        };
        self.call(work).boxed()
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), LogError>> {
        let work = async {
            let mut loan = lend(&self.pool).await?;
            sqlx::query("select 1").execute(&mut *loan).await?;
            loan.give_back();
            Ok(())
        };
        self.call(work).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            let mut appender = self.appender.lock().await;
            appender.is_closed = true;
            if let Some(link) = appender.link.take() {
                // Politely, but whether the server hears it does not matter: everything confirmed
                // is durable.
                let goodbye = sqlx::Connection::close(link.connection);
                let _ = tokio::time::timeout(self.options.connect_timeout, goodbye).await;
            }
            // Now that nothing is appended any more. Where this fails, the lease lapses by itself.
            if let Some(held) = self.held() {
                let _ = within(self.options.connect_timeout, link::give_up(&self.lease_pool, &held)).await;
            }
            self.lease_pool.close().await;
            self.pool.close().await;
        }
        .boxed()
    }

    fn describe(&self) -> String {
        self.place.clone()
    }
}
