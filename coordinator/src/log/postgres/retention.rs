//! The partitions of history: made ahead, and dropped behind.
//!
//! A day's partition is named after the day (UTC): `history_20261121`. Functions of the schema make
//! and drop them, since the role that serves has no right to (`migrations/postgres/0005`). Each
//! call is one transaction, which waits for locks only briefly: appends queue behind a waiting one.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgPool};

use super::loan::lend;
use super::trouble::Trouble;
use super::value::Timestamp;
use crate::log::Maintenance;

const DAY_MS: u64 = 86_400_000;

/// How many days' partitions are there before they are needed: a weekend without maintenance does
/// no harm.
const DAYS_AHEAD: u64 = 7;

pub(super) async fn maintain(pool: &PgPool, now_ms: u64, retention: Duration) -> Result<Maintenance, Trouble> {
    let mut loan = lend(pool).await?;
    let mut done = Maintenance::default();
    for days_ahead in 0..=DAYS_AHEAD {
        let is_new: bool =
            sqlx::query_scalar("select assent.create_history_partition(($1::timestamptz at time zone 'UTC')::date)")
                .bind(Timestamp(now_ms + days_ahead * DAY_MS))
                .fetch_one(&mut *loan)
                .await?;
        done.partitions_created += u64::from(is_new);
    }
    let retention_ms = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
    let keep_from = Timestamp(now_ms.saturating_sub(retention_ms));
    while let Some((kept, forgotten)) = drop_expired(&mut loan, keep_from).await? {
        done.partitions_dropped += 1;
        done.transactions_kept += kept;
        done.transactions_forgotten += forgotten;
    }
    let forgotten: i64 =
        sqlx::query_scalar("select assent.forget_unpinned_history($1)").bind(keep_from).fetch_one(&mut *loan).await?;
    done.transactions_forgotten += forgotten.unsigned_abs();
    loan.give_back();
    Ok(done)
}

/// Drops the oldest partition that is too old: how many of its transactions were kept, and how many
/// were forgotten. `None` if there is none.
async fn drop_expired(connection: &mut PgConnection, keep_from: Timestamp) -> Result<Option<(u64, u64)>, Trouble> {
    let dropped: Option<(i64, i64)> = sqlx::query_as("select kept, forgotten from assent.drop_history_partition($1)")
        .bind(keep_from)
        .fetch_optional(connection)
        .await?;
    Ok(dropped.map(|(kept, forgotten)| (kept.unsigned_abs(), forgotten.unsigned_abs())))
}
