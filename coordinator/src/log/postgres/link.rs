//! Connections to Postgres: one for appends, with settings of its own, and a pool for everything
//! else.

use std::time::Duration;

use assent_protocol::{Epoch, Name};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};
use uuid::Uuid;

use super::loan::lend;
use super::trouble::{Trouble, within};
use crate::log::Options;
use crate::log::lease::Holder;

/// The appending connection, under an epoch.
pub(super) struct Link {
    /// The connection.
    pub(super) connection: PgConnection,
    /// Its number in the replica's row.
    pub(super) number: i64,
}

/// What an append has to hold.
#[derive(Clone)]
pub(super) struct Held {
    /// The replica's name.
    pub(super) replica: Name,
    /// Its epoch.
    pub(super) epoch: Epoch,
}

/// Settings of the appending connection.
///
/// - No statement timeout: with synchronous replication a cancelled wait for the standby would be
///   reported as success. Locks are waited for in bounded time, and a server that is silent for too
///   long is left for a new connection.
/// - A commit waits for the disk, and for the standbys if there are any, whatever the server's
///   default is.
/// - Plans are made once and always by index: the open table is all churn, and its statistics are
///   right only by chance.
/// - A dead peer is noticed by the server too, so that its locks do not outlive it for long.
fn append_settings(options: &Options) -> String {
    let lock_ms = (options.append_timeout / 2).as_millis().max(1);
    let idle_ms = options.append_timeout.as_millis().max(1);
    format!(
        "select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') <> 'remote_apply';
         set statement_timeout = 0; set lock_timeout = {lock_ms}; set idle_in_transaction_session_timeout = {idle_ms};
         set plan_cache_mode = force_generic_plan; set jit = off; set max_parallel_workers_per_gather = 0;
         set enable_seqscan = off; set enable_nestloop = off; set enable_mergejoin = off;
         {SHARED_SETTINGS}"
    )
}

/// Settings of the connections for reads and operators.
fn read_settings(options: &Options) -> String {
    let read_ms = options.read_timeout.as_millis().max(1);
    format!(
        "set statement_timeout = {read_ms}; set lock_timeout = {read_ms}; set idle_in_transaction_session_timeout = {read_ms};
         {SHARED_SETTINGS}"
    )
}

const SHARED_SETTINGS: &str = "set timezone = 'UTC'; set search_path = ''; set default_transaction_isolation = 'read committed';
    set default_transaction_read_only = off; set idle_session_timeout = 0; set client_connection_check_interval = '10s';
    set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3; set tcp_user_timeout = '20s'";

/// Connects once, for appends, schema checks and migrations.
pub(super) async fn connect(target: &PgConnectOptions, name: &str, options: &Options) -> Result<PgConnection, Trouble> {
    let target = target.clone().application_name(name).disable_statement_logging();
    within(options.connect_timeout, async {
        let mut connection = PgConnection::connect_with(&target).await?;
        sqlx::raw_sql(AssertSqlSafe(append_settings(options))).execute(&mut connection).await?;
        Ok(connection)
    })
    .await
}

/// The pool for everything but appends and leases. It connects when it is first used.
pub(super) fn pool(target: &PgConnectOptions, options: &Options) -> PgPool {
    pool_of(target, options, options.read_connections_max.max(1))
}

/// The pool for the lease alone. A renewal that takes as long as the lease is given up, here and at
/// the server.
pub(super) fn lease_pool(target: &PgConnectOptions, options: &Options) -> PgPool {
    let options = Options { read_timeout: options.read_timeout.min(options.lease), ..options.clone() };
    pool_of(target, &options, 1)
}

fn pool_of(target: &PgConnectOptions, options: &Options, connections_max: u32) -> PgPool {
    let settings = read_settings(options);
    let target = target.clone().application_name(&options.application_name).disable_statement_logging();
    PgPoolOptions::new()
        .min_connections(0)
        .max_connections(connections_max)
        .acquire_timeout(options.connect_timeout)
        .idle_timeout(Duration::from_secs(300))
        .after_connect(move |connection, _| {
            let settings = settings.clone();
            Box::pin(async move {
                sqlx::raw_sql(AssertSqlSafe(settings)).execute(connection).await?;
                Ok(())
            })
        })
        .connect_lazy_with(target)
}

/// Connects anew under the epoch that is held.
///
/// The new number in the replica's row waits for a statement that an earlier connection may have
/// left running, and outlaws those that are still on their way. So after this nothing changes
/// behind the committer's back. `None`: the epoch is gone.
pub(super) async fn relink(target: &PgConnectOptions, held: &Held, options: &Options) -> Result<Option<Link>, Trouble> {
    let mut connection = connect(target, &format!("assent/{}", held.replica), options).await?;
    within(options.append_timeout, async {
        let sql =
            "update assent.replica set connection = connection + 1 where name = $1 and epoch = $2 returning connection";
        let number: Option<i64> = sqlx::query_scalar(sql)
            .bind(held.replica.as_str())
            .bind(epoch_column(held.epoch))
            .fetch_optional(&mut connection)
            .await?;
        Ok(number.map(|number| Link { connection, number }))
    })
    .await
}

/// What came of acquiring a name.
pub(super) enum Acquired {
    /// It is held.
    Held(Link, Held),
    /// A replica of another name is alive; nothing was changed.
    LeasedTo(Holder),
}

/// Those who acquire do so one after the other; see `pg_advisory_xact_lock`.
const ACQUIRE_LOCK: i64 = 0x6173_7365_6e74_0003;

/// Draws a new epoch for a replica's name and fences every other one. What is open is [taken
/// over](take_over) afterwards. `own` is what this log held before.
pub(super) async fn acquire(
    target: &PgConnectOptions,
    replica: &Name,
    own: Option<&Held>,
    options: &Options,
) -> Result<Acquired, Trouble> {
    let mut connection = connect(target, &format!("assent/{replica}"), options).await?;
    within(options.append_timeout, async {
        let mut transaction = connection.begin().await?;
        let lock = sqlx::query("select pg_advisory_xact_lock($1)").bind(ACQUIRE_LOCK);
        lock.execute(&mut *transaction).await?;
        if let Some(own) = own.filter(|own| own.replica != *replica) {
            release(&mut transaction, own).await?;
        }
        if let Some(holder) = fence_others(&mut transaction, replica).await? {
            transaction.rollback().await?;
            return Ok(Acquired::LeasedTo(holder));
        }
        // The number is drawn only behind the row's lock, so that it is the highest when it is
        // written. An append of the old epoch either has ended when the lock is ours, or finds
        // itself fenced.
        sqlx::query("select epoch from assent.replica where name = $1 for update")
            .bind(replica.as_str())
            .execute(&mut *transaction)
            .await?;
        let row = sqlx::query(
            "insert into assent.replica as r (name, epoch, connection, leased_until)
             values ($1, nextval('assent.epoch'), 1, clock_timestamp() + make_interval(secs => $2))
             on conflict (name) do update
             set epoch = nextval('assent.epoch'), connection = r.connection + 1, acquired_at = now(),
                 leased_until = excluded.leased_until
             returning epoch, connection",
        )
        .bind(replica.as_str())
        .bind(options.lease.as_secs_f64())
        .fetch_one(&mut *transaction)
        .await?;
        let epoch: i64 = row.try_get("epoch")?;
        let number = row.try_get("connection")?;
        transaction.commit().await?;
        let held = Held { replica: replica.clone(), epoch: epoch_from_column(epoch) };
        Ok(Acquired::Held(Link { connection, number }, held))
    })
    .await
}

/// How many open rows are taken over in one transaction: few enough to be far within the time of an
/// append.
const TAKEN_AT_ONCE: i64 = 5_000;

/// Gives every open row to the epoch that was acquired, page by page: however many there are, no
/// statement takes longer than an append may.
///
/// Every other epoch is fenced, so that no row of theirs is added behind a page that is done.
/// Should this process die half-way, the rows are those of several epochs; the next one to acquire
/// takes all of them. One that is fenced itself leaves the rest to its successor.
pub(super) async fn take_over(link: &mut Link, held: &Held, options: &Options) -> Result<(), Trouble> {
    let mut after = Uuid::nil();
    loop {
        let page = sqlx::query_as(
            "with fence as materialized (
                 select from assent.replica where name = $1 and epoch = $2 and connection = $3 for share
             ),
             page as materialized (
                 select gtid, owner_epoch from assent.open_transaction where gtid > $4 order by gtid limit $5
             ),
             taken as (
                 update assent.open_transaction o set owner_epoch = $2
                 where o.gtid = any(array(select gtid from page where owner_epoch <> $2)) and exists (select from fence)
                 returning 1
             )
             select exists (select from fence), (select count(*) from taken), (select count(*) from page),
                    (select gtid from page order by gtid desc limit 1)",
        )
        .bind(held.replica.as_str())
        .bind(epoch_column(held.epoch))
        .bind(link.number)
        .bind(after)
        .bind(TAKEN_AT_ONCE)
        .fetch_one(&mut link.connection);
        let page: (bool, i64, i64, Option<Uuid>) =
            within(options.append_timeout, async { page.await.map_err(Trouble::from) }).await?;
        match page {
            (true, _, TAKEN_AT_ONCE, Some(last)) => after = last,
            (true | false, ..) => return Ok(()),
        }
    }
}

/// Raises the epochs of all other names, so that their appends fail, unless the lease of one of
/// them lasts: then that one is told.
///
/// A row whose replica renews its lease in this very moment is waited for, and read anew.
async fn fence_others(transaction: &mut PgConnection, replica: &Name) -> Result<Option<Holder>, Trouble> {
    let fenced: Vec<String> = sqlx::query_scalar(
        "update assent.replica set epoch = nextval('assent.epoch'), connection = connection + 1
         where name <> $1 and leased_until <= clock_timestamp()
         returning name",
    )
    .bind(replica.as_str())
    .fetch_all(&mut *transaction)
    .await?;
    // Whatever was not fenced counts as alive, even where its lease has lapsed since.
    let holder = sqlx::query(
        "select name, (extract(epoch from leased_until) * 1000)::bigint as until_ms,
                (extract(epoch from leased_until - clock_timestamp()) * 1000)::bigint as left_ms
         from assent.replica where name <> $1 and name <> all($2) order by leased_until desc limit 1",
    )
    .bind(replica.as_str())
    .bind(fenced)
    .fetch_optional(transaction)
    .await?;
    let Some(holder) = holder else { return Ok(None) };
    let ms = |column| holder.try_get::<i64, _>(column).map(|ms| u64::try_from(ms).unwrap_or_default());
    Ok(Some(Holder {
        replica: holder.try_get("name")?,
        until_ms: ms("until_ms")?,
        left: Duration::from_millis(ms("left_ms")?),
    }))
}

/// Gives a lease up: another name may take over from now on.
async fn release(connection: &mut PgConnection, held: &Held) -> Result<(), Trouble> {
    sqlx::query("update assent.replica set leased_until = clock_timestamp() where name = $1 and epoch = $2")
        .bind(held.replica.as_str())
        .bind(epoch_column(held.epoch))
        .execute(connection)
        .await?;
    Ok(())
}

/// The same, over a connection of the pool.
pub(super) async fn give_up(pool: &PgPool, held: &Held) -> Result<(), Trouble> {
    let mut loan = lend(pool).await?;
    release(&mut loan, held).await?;
    loan.give_back();
    Ok(())
}

/// Renews a lease from now on. Answers whether the epoch still stands.
pub(super) async fn renew(pool: &PgPool, held: &Held, lease: Duration) -> Result<bool, Trouble> {
    let sql = "update assent.replica set leased_until = clock_timestamp() + make_interval(secs => $3)
               where name = $1 and epoch = $2";
    let query = sqlx::query(sql).bind(held.replica.as_str()).bind(epoch_column(held.epoch)).bind(lease.as_secs_f64());
    let mut loan = lend(pool).await?;
    let is_renewed = query.execute(&mut *loan).await?.rows_affected() > 0;
    loan.give_back();
    Ok(is_renewed)
}

/// The epoch that stands in the replica's row; zero if there is none.
pub(super) async fn current_epoch(connection: &mut PgConnection, replica: &Name) -> Result<Epoch, Trouble> {
    let epoch: Option<i64> = sqlx::query_scalar("select epoch from assent.replica where name = $1")
        .bind(replica.as_str())
        .fetch_optional(connection)
        .await?;
    Ok(epoch.map(epoch_from_column).unwrap_or_default())
}

/// An epoch as a column; the sequence never exceeds the column's range.
pub(super) fn epoch_column(epoch: Epoch) -> i64 {
    i64::try_from(epoch.0).unwrap_or(i64::MAX)
}

/// The epoch in a column.
pub(super) fn epoch_from_column(column: i64) -> Epoch {
    Epoch(u64::try_from(column).unwrap_or_default())
}
