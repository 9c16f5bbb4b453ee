//! Waits for locks: how long, and for whom.
//!
//! The locks of a prepared branch belong to no session. So `pg_blocking_pids` names nobody for
//! them, and the deadlock detector of a server does not see a circle that closes in another
//! database.

use std::time::Duration;

use super::error::{PostgresError, sqlstate, sqlstate_of};
use super::resource::Shared;
use super::session::{ANSWER_WITHIN, Backend};
use crate::participant::BoxError;

/// How long work waits for a lock, unless the resource was told otherwise. Longer than a queue for
/// a busy row takes; short against the timeout of a transaction, so that a circle of transactions
/// that wait for each other is broken while there is time to try again.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(4);

impl Shared {
    /// Who holds the lock that a session waits for; `None` if it waits for none. Where others wait
    /// for the same in front of it, who holds theirs.
    pub(super) async fn blocker_of(&self, waiting: Backend) -> Result<Option<String>, PostgresError> {
        let mut checkout = self.ends.acquire(ANSWER_WITHIN).await?;
        let blocker = sqlx::query_scalar(
            "with waiting as materialized (
                 select pid from unnest(array[$1] || pg_blocking_pids($1)) pid where pid <> 0
             ),
             holder as materialized (
                 select h.pid, h.virtualtransaction, h.transactionid, w.pid = $1 as is_direct
                 from pg_locks w join pg_locks h
                     on h.granted and h.locktype = w.locktype
                         and (h.database, h.relation, h.page, h.tuple, h.transactionid, h.virtualxid, h.classid, h.objid, h.objsubid)
                             is not distinct from
                             (w.database, w.relation, w.page, w.tuple, w.transactionid, w.virtualxid, w.classid, w.objid, w.objsubid)
                 where not w.granted and w.pid in (select pid from waiting) and h.pid is distinct from w.pid
             )
             select coalesce(
                 (select format('prepared transaction %s, prepared %s s ago', p.gid,
                                round(extract(epoch from clock_timestamp() - p.prepared)))
                  from holder join pg_prepared_xacts p on p.transaction = coalesce(
                      holder.transactionid,
                      (select x.transactionid from pg_locks x
                       where x.virtualtransaction = holder.virtualtransaction and x.pid is null
                           and x.locktype = 'transactionid' and x.granted limit 1))
                  where holder.pid is null order by holder.is_direct desc, p.prepared limit 1),
                 (select format('the session of process %s (%s)', a.pid, coalesce(nullif(a.application_name, ''), 'no application name'))
                  from holder join pg_stat_activity a using (pid) order by holder.is_direct desc limit 1)
             )",
        )
        .bind(waiting.process_id)
        .fetch_one(&mut checkout.session.connection)
        .await
        .map_err(PostgresError::statement("look who holds a lock"))?;
        checkout.release();
        Ok(blocker)
    }
}

/// The error of work that gave up waiting for a lock names who held it, where that is known.
pub(super) fn with_blocker(error: BoxError, blocker: Option<String>) -> BoxError {
    match blocker {
        Some(blocker) if is_lock_wait(&*error) => PostgresError::LockWait { blocker, source: error }.into(),
        Some(_) | None => error,
    }
}

fn is_lock_wait(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<sqlx::Error>()
            && sqlstate_of(error).as_deref() == Some(sqlstate::LOCK_NOT_AVAILABLE)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lock_wait_has_a_blocker() {
        let error = with_blocker("no funds".into(), Some("somebody".into()));
        assert_eq!(error.to_string(), "no funds");
    }
}
