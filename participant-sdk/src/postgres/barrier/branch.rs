//! The record of a two-phase branch: written in the transaction of its work, so it is there if and
//! only if that has committed.
//!
//! An abort commits a *tombstone* under the same key. The two exclude one another whichever comes
//! first, since the key is unique: work whose PREPARE was held up on its way, or has yet to begin,
//! finds the tombstone and can never commit. As every row, it goes with [`Barrier::clean_up`], when
//! the transaction has ended and `unchanged_for` has passed.
//!
//! The record of a branch without an identity stands among the steps: it was prepared before
//! branches had one.

use assent_protocol::{BranchKey, ParticipantName};
use sqlx::{AssertSqlSafe, PgConnection};

use super::table::WHOLE_BRANCH;
use super::{Barrier, BarrierError};

/// How a branch has ended, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::postgres) enum BranchRecord {
    /// Its work is committed.
    Committed,
    /// There is a tombstone: its work is not committed, and never will be.
    Aborted,
}

/// What the output of a tombstone for a branch without an identity says.
pub(super) const UNIDENTIFIED_TOMBSTONE: &str = "aborted";

/// What the message that writes a tombstone begins with, in `pg_stat_activity`.
pub(in crate::postgres) const TOMBSTONE_MARK: &str = "/* assent tombstone */";

impl Barrier {
    /// Records the branch in the open transaction; what is recorded already if there is. It waits
    /// while another transaction that has recorded it is open or prepared.
    pub(in crate::postgres) async fn record_branch(
        &self,
        connection: &mut PgConnection,
        key: BranchKey,
        participant: &ParticipantName,
    ) -> Result<Option<BranchRecord>, BarrierError> {
        let recorded = sqlx::query(AssertSqlSafe(self.table.record_branch.clone()))
            .bind(key.gtid.as_uuid())
            .bind(participant.as_str())
            .bind(key.id.to_string())
            .execute(&mut *connection)
            .await
            .map_err(BarrierError::statement("record a branch"))?;
        if recorded.rows_affected() == 1 {
            return Ok(None);
        }
        self.branch_record(connection, key, participant).await?.map(Some).ok_or(BarrierError::Ended)
    }

    /// The committed record of the branch; `None` if there is none.
    pub(in crate::postgres) async fn branch_record(
        &self,
        connection: &mut PgConnection,
        key: BranchKey,
        participant: &ParticipantName,
    ) -> Result<Option<BranchRecord>, BarrierError> {
        let is_aborted: Option<bool> = sqlx::query_scalar(AssertSqlSafe(self.table.look_up_branch.clone()))
            .bind(key.gtid.as_uuid())
            .bind(participant.as_str())
            .bind(key.id.to_string())
            .fetch_optional(connection)
            .await
            .map_err(BarrierError::statement("look up a branch"))?;
        Ok(is_aborted.map(|is_aborted| if is_aborted { BranchRecord::Aborted } else { BranchRecord::Committed }))
    }

    /// The message that commits a tombstone unless there is a record, whose transaction it waits
    /// for at most so long; it affects one row or none. The names in it cannot hold a quote by
    /// their types.
    pub(in crate::postgres) fn tombstone_message(
        &self,
        key: BranchKey,
        participant: &ParticipantName,
        wait_max_ms: u128,
    ) -> String {
        let (table, branches, BranchKey { gtid, id }) = (&self.table.name, &self.table.branches, key);
        let insert = if id.is_none() {
            format!(
                "insert into {table} (gtid, participant, step, executed_at, output) \
                 values ('{gtid}', '{participant}', {WHOLE_BRANCH}, clock_timestamp(), '{UNIDENTIFIED_TOMBSTONE}') \
                 on conflict (gtid, participant, step) do nothing"
            )
        } else {
            format!(
                "insert into {branches} (gtid, participant, branch, is_aborted) \
                 values ('{gtid}', '{participant}', '{id}', true) on conflict (gtid, participant, branch) do nothing"
            )
        };
        format!(
            "{TOMBSTONE_MARK} begin isolation level read committed; set local lock_timeout = {wait_max_ms}; \
             {insert}; commit"
        )
    }
}
