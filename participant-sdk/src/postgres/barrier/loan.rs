//! A connection of the service's own pool, on loan.
//!
//! A service wraps its hooks in timeouts, and a runtime drops them when it ends. The driver does
//! not know of a BEGIN whose answer nobody waited for: such a connection would go back to the pool
//! within a transaction, and what the service writes on it next would never be committed. And a
//! statement that was dropped goes on at the server, with the locks of its transaction.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres};
use tokio::time::timeout;

/// How long a statement that was dropped may go on before the server is asked to cancel it.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long the server has to end it, and to answer the request. Meanwhile the connection counts as
/// one of the pool's; afterwards it is closed.
const CLEANED_WITHIN: Duration = Duration::from_secs(10);

/// Ends whatever transaction is open. Without the BEGIN the server would warn where none is.
const CLEAN: &str = "begin; rollback";

/// A connection that is cleaned, or closed, unless it is [given back](Self::give_back).
pub(super) struct Loan {
    connection: Option<PoolConnection<Postgres>>,
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

impl Loan {
    pub(super) async fn of(pool: &PgPool) -> Result<Self, sqlx::Error> {
        let connection = Some(pool.acquire().await?);
        Ok(Self { connection, pool: pool.clone(), backend: Backend::default() })
    }

    /// Whose statements are to be cancelled, for whoever learns it.
    pub(super) fn backend(&self) -> Backend {
        self.backend.clone()
    }

    /// Its last statement has been answered, and no transaction is open.
    pub(super) fn give_back(mut self) {
        drop(self.connection.take());
    }
}

impl Deref for Loan {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect("on loan until it is given back")
    }
}

impl DerefMut for Loan {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("on loan until it is given back")
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            drop(connection.detach());
            return;
        };
        let (options, process_id) = (self.pool.connect_options(), self.backend.0.load(Ordering::Relaxed));
        runtime.spawn(async move {
            let is_clean = {
                let mut cleaning = std::pin::pin!(sqlx::raw_sql(CLEAN).execute(&mut *connection));
                match timeout(PATIENCE, &mut cleaning).await {
                    Ok(cleaned) => cleaned.is_ok(),
                    Err(_) => {
                        if process_id != 0 {
                            timeout(CLEANED_WITHIN, cancel(&options, process_id)).await.ok();
                        }
                        matches!(timeout(CLEANED_WITHIN, cleaning).await, Ok(Ok(_)))
                    }
                }
            };
            if !is_clean {
                // At once: the polite way waits for the server.
                drop(connection.detach());
            }
        });
    }
}

/// Cancels what runs there. The process is still that of the connection, which is kept meanwhile.
async fn cancel(options: &PgConnectOptions, process_id: i32) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    sqlx::query("select pg_cancel_backend($1)").bind(process_id).persistent(false).execute(&mut connection).await?;
    connection.close().await
}
