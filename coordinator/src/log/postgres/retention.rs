//! The partitions of history: made ahead, and dropped behind.
//!
//! A day's partition is named after the day (UTC): `history_20261121`. Each is made or dropped in a
//! transaction of its own, which waits for locks only briefly: appends queue behind a waiting one.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, Connection as _};

use super::loan::lend;
use super::trouble::Trouble;
use super::value::Timestamp;
use crate::log::Maintenance;

const DAY_MS: u64 = 86_400_000;

/// How many days' partitions are there before they are needed: a weekend without maintenance does
/// no harm.
const DAYS_AHEAD: u64 = 7;

/// How long a change of partitions waits for locks, and holds up appends at most. In SQL's
/// notation.
const LOCK_WAIT: &str = "500ms";

/// Serializes the maintenance of all replicas; see `pg_advisory_xact_lock`.
const MAINTENANCE_LOCK: i64 = 0x6173_7365_6e74_0002;

/// A whole day, counted from 1970-01-01.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Day(u64);

impl Day {
    fn start(self) -> Timestamp {
        Timestamp(self.0 * DAY_MS)
    }

    fn end(self) -> Timestamp {
        Timestamp((self.0 + 1) * DAY_MS)
    }
}

pub(super) async fn maintain(pool: &PgPool, now_ms: u64, retention: Duration) -> Result<Maintenance, Trouble> {
    let mut connection = lend(pool).await?;
    let mut done = Maintenance::default();
    let today = now_ms / DAY_MS;
    for day in today..=today + DAYS_AHEAD {
        if create(&mut connection, Day(day)).await? {
            done.partitions_created += 1;
        }
    }
    let retention_ms = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
    let keep_from_ms = now_ms.saturating_sub(retention_ms);
    for (name, day) in partitions(&mut connection).await? {
        if day.end().0 <= keep_from_ms {
            drop_partition(&mut connection, &name, &mut done).await?;
        }
    }
    // Rows that were unpinned since, or came by the default partition to begin with.
    done.transactions_forgotten += sqlx::query(
        "delete from assent.history_other h
         where h.ended_at < $1 and not exists (select from assent.pin p where p.gtid = h.gtid)",
    )
    .bind(Timestamp(keep_from_ms))
    .execute(&mut *connection)
    .await?
    .rows_affected();
    connection.give_back();
    Ok(done)
}

/// The days' partitions, by their upper bound.
async fn partitions(connection: &mut PgConnection) -> Result<Vec<(String, Day)>, Trouble> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "select c.relname::text, to_date(right(c.relname, 8), 'YYYYMMDD') - date '1970-01-01' + 0::bigint
         from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'assent.history'::regclass and c.relname ~ '^history_[0-9]{8}$'
         order by c.relname",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().filter_map(|(name, day)| Some((name, Day(u64::try_from(day).ok()?)))).collect())
}

/// Makes a day's partition, unless it is there. Rows of that day that had to go elsewhere in the
/// meantime move in.
async fn create(connection: &mut PgConnection, day: Day) -> Result<bool, Trouble> {
    let name: String = sqlx::query_scalar("select 'history_' || to_char($1::timestamptz, 'YYYYMMDD')")
        .bind(day.start())
        .fetch_one(&mut *connection)
        .await?;
    if has_partition(connection, &name).await? {
        return Ok(false);
    }
    let mut transaction = connection.begin().await?;
    lock(&mut transaction).await?;
    if has_partition(&mut transaction, &name).await? {
        return Ok(false);
    }
    let bounds: String =
        sqlx::query_scalar("select format('from (%L) to (%L)', $1::timestamptz::text, $2::timestamptz::text)")
            .bind(day.start())
            .bind(day.end())
            .fetch_one(&mut *transaction)
            .await?;
    let create = format!("create table assent.{name} (like assent.history including defaults including constraints)");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut *transaction).await?;
    let r#move = format!(
        "with moved as (delete from assent.history_other where ended_at >= $1 and ended_at < $2 returning *)
         insert into assent.{name} select * from moved"
    );
    sqlx::query(AssertSqlSafe(r#move)).bind(day.start()).bind(day.end()).execute(&mut *transaction).await?;
    let attach = format!("alter table assent.history attach partition assent.{name} for values {bounds}");
    sqlx::raw_sql(AssertSqlSafe(attach)).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(true)
}

/// Drops a day's partition. The pinned rows in it move to the default partition first, which takes
/// what has no day.
async fn drop_partition(connection: &mut PgConnection, name: &str, done: &mut Maintenance) -> Result<(), Trouble> {
    let mut transaction = connection.begin().await?;
    lock(&mut transaction).await?;
    if !has_partition(&mut transaction, name).await? {
        return Ok(());
    }
    let sql = "select greatest(reltuples, 0)::bigint from pg_class where relnamespace = 'assent'::regnamespace and relname = $1";
    let estimate: i64 = sqlx::query_scalar(sql).bind(name).fetch_one(&mut *transaction).await?;
    let detach = format!("alter table assent.history detach partition assent.{name}");
    sqlx::raw_sql(AssertSqlSafe(detach)).execute(&mut *transaction).await?;
    let keep = format!(
        "insert into assent.history (gtid, ended_at, begun_at, decided_at, digest, protocol, outcome, branches, branch_ids, reason, outputs)
         select h.gtid, h.ended_at, h.begun_at, h.decided_at, h.digest, h.protocol, h.outcome, h.branches, h.branch_ids,
                h.reason, h.outputs
         from assent.pin p join assent.{name} h on h.gtid = p.gtid"
    );
    let kept = sqlx::query(AssertSqlSafe(keep)).execute(&mut *transaction).await?.rows_affected();
    sqlx::raw_sql(AssertSqlSafe(format!("drop table assent.{name}"))).execute(&mut *transaction).await?;
    transaction.commit().await?;
    done.partitions_dropped += 1;
    done.transactions_kept += kept;
    done.transactions_forgotten += estimate.unsigned_abs().saturating_sub(kept);
    Ok(())
}

/// Asked of the catalog's tables: a name that `to_regclass` did not find it may go on not to find,
/// whoever made it meanwhile.
async fn has_partition(connection: &mut PgConnection, name: &str) -> Result<bool, Trouble> {
    let sql = "select exists (select from pg_inherits i join pg_class c on c.oid = i.inhrelid
                              where i.inhparent = 'assent.history'::regclass and c.relname = $1)";
    Ok(sqlx::query_scalar(sql).bind(name).fetch_one(connection).await?)
}

async fn lock(transaction: &mut PgConnection) -> Result<(), Trouble> {
    sqlx::raw_sql(AssertSqlSafe(format!("set local lock_timeout = '{LOCK_WAIT}'"))).execute(&mut *transaction).await?;
    sqlx::query("select pg_advisory_xact_lock($1)").bind(MAINTENANCE_LOCK).execute(transaction).await?;
    Ok(())
}
