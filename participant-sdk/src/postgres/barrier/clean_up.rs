//! Forgetting what can never come again.

use std::time::Duration;

use assent_protocol::{Gtid, ParticipantName};
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use super::loan::lend;
use super::{Barrier, BarrierError};
use crate::participant::BoxError;

/// How many transactions are asked about at once.
const BATCH: i64 = 500;

impl Barrier {
    /// Deletes the rows of a participant that have not changed for `unchanged_for` and belong to
    /// transactions that have ended. Returns how many.
    ///
    /// Age alone says nothing: a saga may be retried for days, and without its row a late action
    /// would be done twice or after its compensation. So `which_have_ended` is asked, with up to
    /// 500 at a time, and answers with those of them whose end is durable;
    /// [`Assent::ended`](crate::Assent::ended) of the coordinator that the participant joins does
    /// so. `unchanged_for` is for what the coordinator cannot know: an attempt that it gave up on
    /// while the process that had it was standing still. Choose longer than any process of this
    /// service stands still and lives on; an hour is a good choice.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use assent_sdk::postgres::Barrier;
    /// # use assent_sdk::{Assent, ParticipantName};
    /// # async fn example(assent: Assent, pool: sqlx::PgPool, barrier: Barrier, name: ParticipantName) {
    /// let mut hourly = tokio::time::interval(Duration::from_secs(3_600));
    /// loop {
    ///     hourly.tick().await;
    ///     let ended = async |gtids: Vec<_>| assent.ended(&gtids).await;
    ///     if let Err(error) = barrier.clean_up(&pool, &name, Duration::from_secs(3_600), ended).await {
    ///         tracing::warn!(%error, "trying again in an hour");
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`BarrierError::Unanswered`] if `which_have_ended` fails, [`BarrierError::Statement`]. What
    /// was deleted before stays deleted.
    pub async fn clean_up<A, E>(
        &self,
        pool: &PgPool,
        participant: &ParticipantName,
        unchanged_for: Duration,
        which_have_ended: A,
    ) -> Result<u64, BarrierError>
    where
        A: AsyncFn(Vec<Gtid>) -> Result<Vec<Gtid>, E>,
        E: Into<BoxError>,
    {
        let mut deleted = 0;
        let mut after = Uuid::nil();
        loop {
            let mut loan = lend(pool).await?;
            // In the order of the key, which is that of time: gtids are UUIDs of version 7.
            let old: Vec<Uuid> = sqlx::query_scalar(AssertSqlSafe(self.table.list_old.clone()))
                .bind(participant.as_str())
                .bind(after)
                .bind(unchanged_for.as_secs_f64())
                .bind(BATCH)
                .fetch_all(&mut *loan)
                .await
                .map_err(BarrierError::statement("list old steps"))?;
            // The coordinator may take its time.
            loan.give_back();
            let Some(last) = old.last() else { return Ok(deleted) };
            after = *last;
            // Anything else was not written by a barrier.
            let asked: Vec<Gtid> = old.into_iter().filter_map(|gtid| Gtid::new(gtid).ok()).collect();
            let ended =
                which_have_ended(asked.clone()).await.map_err(|error| BarrierError::Unanswered(error.into()))?;
            let ended: Vec<Uuid> = ended.into_iter().filter(|gtid| asked.contains(gtid)).map(Uuid::from).collect();
            if ended.is_empty() {
                continue;
            }
            let mut loan = lend(pool).await?;
            let rows: i64 = sqlx::query_scalar(AssertSqlSafe(self.table.delete_ended.clone()))
                .bind(ended)
                .bind(participant.as_str())
                .bind(unchanged_for.as_secs_f64())
                .fetch_one(&mut *loan)
                .await
                .map_err(BarrierError::statement("delete ended steps"))?;
            loan.give_back();
            deleted += rows.unsigned_abs();
        }
    }
}
