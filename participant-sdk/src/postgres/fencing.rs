//! The abort of a recorded branch, for good.
//!
//! A process may have sent PREPARE TRANSACTION and died; or the message is still on its way, held
//! up by the network, and will arrive after the abort has been acknowledged. Then a branch would be
//! prepared that belongs to no transaction any more. So an abort commits a tombstone under the key
//! of the branch's record ([`barrier::branch`](super::barrier)), and is acknowledged only when that
//! stands.
//!
//! The tombstone must not wait for the work, which holds the key while its transaction is open: it
//! may be open for long, at a process that stands still. The work is in vain, so the server is
//! asked to terminate its backend. If it has prepared meanwhile, that is rolled back like any
//! prepared branch.

use std::convert::Infallible;
use std::time::Duration;

use assent_protocol::BranchKey;

use super::barrier::{Barrier, BranchRecord, TOMBSTONE_MARK};
use super::ending::{BUSY_MAX, Coming, End};
use super::error::{PostgresError, sqlstate, sqlstate_of};
use super::gid::Prefix;
use super::resource::Shared;
use super::session::{ANSWER_WITHIN, Backend};

/// How long the tombstone waits for whoever holds its key.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// When it has waited this long, the holder is terminated.
const PATIENCE: Duration = Duration::from_millis(50);

impl Shared {
    /// Rolls a recorded branch back and sees to it that it never commits. Returns how it has ended:
    /// it may have committed.
    pub(super) async fn abort_recorded(
        &self,
        barrier: &Barrier,
        coordinator: &str,
        key: BranchKey,
    ) -> Result<BranchRecord, PostgresError> {
        let mut waited = Duration::ZERO;
        loop {
            self.end(End::RollBack, Coming::IsFenced, coordinator, key).await?;
            match self.bury(barrier, key).await? {
                Some(record) => return Ok(record),
                None if waited < BUSY_MAX => waited += WAIT_MAX,
                None => return Err(self.busy(coordinator, key).await),
            }
        }
    }

    /// Commits the tombstone, or finds what stands in its place; `None` if another transaction held
    /// its key to the end.
    async fn bury(&self, barrier: &Barrier, key: BranchKey) -> Result<Option<BranchRecord>, PostgresError> {
        let doing = "write the tombstone of a branch";
        let mut checkout = self.ends.acquire(ANSWER_WITHIN).await?;
        let waiting = checkout.session.backend;
        let message = barrier.tombstone_message(key, &self.participant, WAIT_MAX.as_millis());
        let written = tokio::select! {
            biased;
            written = checkout.session.execute(doing, message) => written?,
            never = self.terminate_holders(key, waiting) => match never {},
        };
        let record = match written {
            Ok(written) if written.rows_affected() == 1 => Some(BranchRecord::Aborted),
            Ok(_) => barrier.branch_record(&mut checkout.session.connection, key, &self.participant).await?,
            Err(error) if sqlstate_of(&error).as_deref() == Some(sqlstate::LOCK_NOT_AVAILABLE) => {
                checkout.session.execute(doing, "rollback".into()).await?.map_err(PostgresError::statement(doing))?;
                None
            }
            Err(source) => return Err(PostgresError::Statement { doing, source }),
        };
        checkout.release();
        Ok(record)
    }

    /// Goes on for as long as it is polled: who has the key next may be another attempt at the same
    /// branch.
    async fn terminate_holders(&self, key: BranchKey, waiting: Backend) -> Infallible {
        loop {
            tokio::time::sleep(PATIENCE).await;
            if let Err(error) = self.terminate_holder(waiting).await {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(gtid = %key.gtid, branch = %key.id, error, "the work of an aborted branch is waited for");
            }
        }
    }

    /// Ends the transaction that a backend waits for, unless that is prepared.
    async fn terminate_holder(&self, waiting: Backend) -> Result<(), PostgresError> {
        let mut checkout = self.ends.acquire(ANSWER_WITHIN).await?;
        // Only who has inserted the same key, which is this branch's work: not who holds the table,
        // say to change it. Nor another abort, which commits this moment.
        sqlx::query(
            "select pg_terminate_backend(holder.pid)
             from pg_locks waiting join pg_locks holder using (locktype, transactionid)
             where waiting.pid = $1 and waiting.locktype = 'transactionid' and not waiting.granted
                 and holder.granted and holder.pid is not null
                 and not exists (select from pg_stat_activity where pid = holder.pid and starts_with(query, $2))",
        )
        .bind(waiting.process_id)
        .bind(TOMBSTONE_MARK)
        .execute(&mut checkout.session.connection)
        .await
        .map_err(PostgresError::statement("end the work of an aborted branch"))?;
        checkout.release();
        Ok(())
    }

    async fn busy(&self, coordinator: &str, key: BranchKey) -> PostgresError {
        let gid = async {
            let checkout = self.ends.acquire(ANSWER_WITHIN).await?;
            let gid = Prefix::new(coordinator, checkout.session.database, &self.participant)?.gid(key);
            checkout.release();
            Ok(gid)
        };
        match gid.await {
            Ok(gid) => PostgresError::Busy { gid: gid.to_string() },
            Err(error) => error,
        }
    }
}
