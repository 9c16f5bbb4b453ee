//! Connections to Postgres: one for appends, with settings of its own, and a pool for everything else.

use std::time::Duration;

use assent_protocol::{Epoch, Name};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};

use super::trouble::{Trouble, within};
use crate::log::Options;

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
/// - No statement timeout: with synchronous replication a cancelled wait for the standby would be reported as success. Locks are
///   waited for in bounded time, and a server that is silent for too long is left for a new connection.
/// - A commit waits for the disk, and for the standbys if there are any, whatever the server's default is.
/// - Plans are made once and always by index: the open table is all churn, and its statistics are right only by chance.
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

/// The pool for everything but appends. It connects when it is first used.
pub(super) fn pool(target: &PgConnectOptions, options: &Options) -> PgPool {
    let settings = read_settings(options);
    let target = target.clone().application_name(&options.application_name).disable_statement_logging();
    PgPoolOptions::new()
        .min_connections(0)
        .max_connections(options.read_connections_max.max(1))
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
/// The new number in the replica's row waits for a statement that an earlier connection may have left running, and outlaws those
/// that are still on their way. So after this nothing changes behind the committer's back. `None`: the epoch is gone.
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

/// Draws a new epoch for a replica's name, and takes over what its earlier epoch left open.
pub(super) async fn acquire(
    target: &PgConnectOptions,
    replica: &Name,
    options: &Options,
) -> Result<(Link, Held), Trouble> {
    let mut connection = connect(target, &format!("assent/{replica}"), options).await?;
    within(options.append_timeout, async {
        let mut transaction = connection.begin().await?;
        // The number is drawn only behind the row's lock, so that it is the highest when it is written. An append of
        // the old epoch either has ended when the lock is ours, or finds itself fenced.
        let previous: Option<i64> = sqlx::query_scalar("select epoch from assent.replica where name = $1 for update")
            .bind(replica.as_str())
            .fetch_optional(&mut *transaction)
            .await?;
        let row = sqlx::query(
            "insert into assent.replica as r (name, epoch, connection) values ($1, nextval('assent.epoch'), 1)
             on conflict (name) do update
             set epoch = nextval('assent.epoch'), connection = r.connection + 1, acquired_at = now()
             returning epoch, connection",
        )
        .bind(replica.as_str())
        .fetch_one(&mut *transaction)
        .await?;
        let epoch: i64 = row.try_get("epoch")?;
        let number = row.try_get("connection")?;
        if let Some(previous) = previous {
            sqlx::query("update assent.open_transaction set owner_epoch = $1 where owner_epoch = $2")
                .bind(epoch)
                .bind(previous)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        let held = Held { replica: replica.clone(), epoch: epoch_from_column(epoch) };
        Ok((Link { connection, number }, held))
    })
    .await
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
