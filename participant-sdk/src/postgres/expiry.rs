//! The end of a transaction whose time is up while somebody else holds it.
//!
//! A handler that hangs, or runs a statement that does not end, holds its guard and with it row
//! locks, long after the coordinator has aborted. The connection is in the handler's hands, so the
//! server is asked on another one to terminate its backend: that rolls back at once, whether a
//! statement runs or not. To cancel the statement would not do: what precedes a savepoint would
//! keep its locks.
//!
//! ```text
//!        arm            the guard prepares, or has rolled back
//!   ───────────▶ open ─────────────────────────────────────────▶ over
//!                  │ the deadline
//!                  ▼
//!               expired     the connection never returns to the pool
//! ```
//!
//! A process that stands still cannot ask. For that case the server has been told how long the
//! transaction may idle ([`limits`](super::limits)).

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use assent_protocol::Gtid;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::error::PostgresError;
use super::resource::Shared;
use super::session::Backend;

const OPEN: u8 = 0;
const OVER: u8 = 1;
const EXPIRED: u8 = 2;

/// The deadline of one open transaction.
pub(super) struct Expiry {
    gtid: Gtid,
    begun_at: Instant,
    state: Arc<AtomicU8>,
    /// `None` for a transaction without a deadline.
    watcher: Option<AbortHandle>,
}

impl Expiry {
    /// Watches over a transaction that has begun; zero for one without a deadline.
    pub(super) fn arm(shared: &Arc<Shared>, gtid: Gtid, backend: Backend, time_left: Duration) -> Self {
        let (begun_at, state) = (Instant::now(), Arc::new(AtomicU8::new(OPEN)));
        let watcher = (!time_left.is_zero()).then(|| {
            let (shared, state) = (Arc::clone(shared), Arc::clone(&state));
            tokio::spawn(async move {
                tokio::time::sleep(time_left).await;
                if state.compare_exchange(OPEN, EXPIRED, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                    tracing::warn!(%gtid, "a branch's transaction was still open at its deadline: it is rolled back");
                    shared.ends.terminate(backend).await;
                }
            })
            .abort_handle()
        });
        Self { gtid, begun_at, state, watcher }
    }

    /// # Errors
    /// [`PostgresError::PastDeadline`] once the transaction has expired.
    pub(super) fn check(&self) -> Result<(), PostgresError> {
        if self.state.load(Ordering::Acquire) == EXPIRED { Err(self.past_deadline()) } else { Ok(()) }
    }

    /// From here on the transaction does not expire.
    ///
    /// # Errors
    /// [`PostgresError::PastDeadline`] when it has: its connection is terminated, or about to be.
    pub(super) fn disarm(&self) -> Result<(), PostgresError> {
        if self.state.compare_exchange(OPEN, OVER, Ordering::AcqRel, Ordering::Acquire) == Err(EXPIRED) {
            return Err(self.past_deadline());
        }
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
        Ok(())
    }

    fn past_deadline(&self) -> PostgresError {
        PostgresError::PastDeadline { gtid: self.gtid, open_ms: self.begun_at.elapsed().as_millis() }
    }
}
