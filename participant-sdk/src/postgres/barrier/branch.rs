//! The record of a two-phase branch: written in the transaction of its work, so it is there if and only if that has committed.

use assent_protocol::{Gtid, ParticipantName};
use sqlx::{AssertSqlSafe, PgConnection};

use super::table::WHOLE_BRANCH;
use super::{Barrier, BarrierError};

impl Barrier {
    /// Records the branch in the open transaction; false if there is a committed record already. It waits while another
    /// transaction that has recorded it is open or prepared.
    pub(in crate::postgres) async fn record_branch(
        &self,
        connection: &mut PgConnection,
        gtid: Gtid,
        participant: &ParticipantName,
    ) -> Result<bool, BarrierError> {
        let recorded = sqlx::query(AssertSqlSafe(self.table.record_branch.clone()))
            .bind(gtid.as_uuid())
            .bind(participant.as_str())
            .execute(connection)
            .await
            .map_err(BarrierError::statement("record a branch"))?;
        Ok(recorded.rows_affected() == 1)
    }

    /// Whether there is a committed record of the branch.
    pub(in crate::postgres) async fn has_branch_committed(
        &self,
        connection: &mut PgConnection,
        gtid: Gtid,
        participant: &ParticipantName,
    ) -> Result<bool, BarrierError> {
        let known: Option<(bool, Vec<u8>)> = sqlx::query_as(AssertSqlSafe(self.table.look_up.clone()))
            .bind(gtid.as_uuid())
            .bind(participant.as_str())
            .bind(WHOLE_BRANCH)
            .fetch_optional(connection)
            .await
            .map_err(BarrierError::statement("look up a branch"))?;
        Ok(known.is_some())
    }
}
