//! The record of a two-phase branch: written in the transaction of its work, so it is there if and
//! only if that has committed.
//!
//! An abort commits a *tombstone* under the same key. The two exclude one another whichever comes
//! first, since the key is unique: work whose PREPARE was held up on its way, or has yet to begin,
//! finds the tombstone and can never commit. A tombstone is a record whose output says so, which
//! the table took from its first version on. As every row, it goes with [`Barrier::clean_up`], when
//! the transaction has ended and `unchanged_for` has passed.

use assent_protocol::{Gtid, ParticipantName};
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

/// The output of a tombstone. The record of a branch that has committed has none.
const TOMBSTONE: &str = "aborted";

/// What the message that writes a tombstone begins with, in `pg_stat_activity`.
pub(in crate::postgres) const TOMBSTONE_MARK: &str = "/* assent tombstone */";

impl Barrier {
    /// Records the branch in the open transaction; what is recorded already if there is. It waits
    /// while another transaction that has recorded it is open or prepared.
    pub(in crate::postgres) async fn record_branch(
        &self,
        connection: &mut PgConnection,
        gtid: Gtid,
        participant: &ParticipantName,
    ) -> Result<Option<BranchRecord>, BarrierError> {
        let recorded = sqlx::query(AssertSqlSafe(self.table.record_branch.clone()))
            .bind(gtid.as_uuid())
            .bind(participant.as_str())
            .execute(&mut *connection)
            .await
            .map_err(BarrierError::statement("record a branch"))?;
        if recorded.rows_affected() == 1 {
            return Ok(None);
        }
        self.branch_record(connection, gtid, participant).await?.map(Some).ok_or(BarrierError::Ended)
    }

    /// The committed record of the branch; `None` if there is none.
    pub(in crate::postgres) async fn branch_record(
        &self,
        connection: &mut PgConnection,
        gtid: Gtid,
        participant: &ParticipantName,
    ) -> Result<Option<BranchRecord>, BarrierError> {
        let known: Option<(bool, Vec<u8>)> = sqlx::query_as(AssertSqlSafe(self.table.look_up.clone()))
            .bind(gtid.as_uuid())
            .bind(participant.as_str())
            .bind(WHOLE_BRANCH)
            .fetch_optional(connection)
            .await
            .map_err(BarrierError::statement("look up a branch"))?;
        Ok(known.map(
            |(_, output)| {
                if output == TOMBSTONE.as_bytes() { BranchRecord::Aborted } else { BranchRecord::Committed }
            },
        ))
    }

    /// The message that commits a tombstone unless there is a record, whose transaction it waits
    /// for at most so long; it affects one row or none. The names in it cannot hold a quote by
    /// their types.
    pub(in crate::postgres) fn tombstone_message(
        &self,
        gtid: Gtid,
        participant: &ParticipantName,
        wait_max_ms: u128,
    ) -> String {
        let table = &self.table.name;
        format!(
            "{TOMBSTONE_MARK} begin isolation level read committed; set local lock_timeout = {wait_max_ms}; \
             insert into {table} (gtid, participant, step, executed_at, output) \
             values ('{gtid}', '{participant}', {WHOLE_BRANCH}, clock_timestamp(), '{TOMBSTONE}') \
             on conflict (gtid, participant, step) do nothing; commit"
        )
    }
}
