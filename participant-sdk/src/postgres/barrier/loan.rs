//! How a connection of the service's own pool is cleaned after a step that was dropped in the
//! middle.
//!
//! A service wraps its hooks in timeouts, and a runtime drops them when it ends. A statement that
//! was dropped goes on at the server, with the locks of its transaction: the server is asked to
//! cancel it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use assent_postgres::{Cleaning, Loan};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::time::timeout;

use super::BarrierError;

/// How long a statement that was dropped may go on before the server is asked to cancel it.
const PATIENCE: Duration = Duration::from_millis(100);

/// Ends whatever transaction is open. Without the BEGIN the server would warn where none is.
const CLEAN: &str = "begin; rollback";

/// Has the server cancel the statement that was dropped, once it is known whose statements are to
/// be cancelled.
pub(super) struct Cancelling {
    pool: PgPool,
    backend: Backend,
}

/// The process id of the server's process for a connection; zero until it is known.
#[derive(Clone, Default)]
pub(super) struct Backend(Arc<AtomicI32>);

impl Backend {
    pub(super) fn set(&self, process_id: i32) {
        self.0.store(process_id, Ordering::Relaxed);
    }
}

impl Cancelling {
    /// Whose statements are to be cancelled, for whoever learns it.
    pub(super) fn backend(&self) -> Backend {
        self.backend.clone()
    }
}

impl Cleaning for Cancelling {
    async fn clean(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let mut cleaning = pin!(sqlx::raw_sql(CLEAN).execute(connection));
        if let Ok(cleaned) = timeout(PATIENCE, &mut cleaning).await {
            return cleaned.map(drop);
        }
        let process_id = self.backend.0.load(Ordering::Relaxed);
        if process_id != 0 {
            // Where this fails, the statement may still end by itself.
            cancel(&self.pool.connect_options(), process_id).await.ok();
        }
        cleaning.await.map(drop)
    }
}

/// Cancels what runs there. The process is still that of the connection, which is kept meanwhile.
async fn cancel(options: &PgConnectOptions, process_id: i32) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    sqlx::query("select pg_cancel_backend($1)").bind(process_id).persistent(false).execute(&mut connection).await?;
    connection.close().await
}

/// Takes a connection out of the service's pool.
pub(super) async fn lend(pool: &PgPool) -> Result<Loan<Cancelling>, BarrierError> {
    let cleaning = Cancelling { pool: pool.clone(), backend: Backend::default() };
    Loan::of(pool, cleaning).await.map_err(BarrierError::statement("take a connection"))
}
