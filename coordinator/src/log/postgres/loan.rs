//! A connection of a pool, on loan.
//!
//! A call is dropped in the middle when its deadline is over or its caller hangs up. The driver
//! does not know of a BEGIN whose answer nobody waited for: such a connection would go back to the
//! pool within a transaction, and from its first statement on it would show each later caller the
//! log as it was then. So a connection goes back only from the hands of a call that has finished
//! with it, or once it has been cleaned.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};

use super::trouble::Trouble;

/// How long what was dropped may go on at the server before its connection is closed. Meanwhile it
/// counts as one of the pool's, so that callers who give up and come again cannot open ever more.
const CLEANED_WITHIN: Duration = Duration::from_secs(10);

/// Ends whatever transaction is open, and fails on a server that is no primary any more: the pool
/// is to connect anew then. Without the BEGIN the server would warn where nothing was open.
const CLEAN: &str = "begin; select version()::int where pg_is_in_recovery(); rollback";

/// A connection that is cleaned, or closed, unless it is [given back](Self::give_back).
pub(super) struct Loan {
    connection: Option<PoolConnection<Postgres>>,
}

impl Loan {
    pub(super) async fn of(pool: &PgPool) -> Result<Self, Trouble> {
        Ok(Self { connection: Some(pool.acquire().await?) })
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
        runtime.spawn(async move {
            let cleaning = sqlx::raw_sql(CLEAN).execute(&mut *connection);
            match tokio::time::timeout(CLEANED_WITHIN, cleaning).await {
                Ok(Ok(_)) => drop(connection),
                // At once: the polite way waits for the server.
                Ok(Err(_)) | Err(_) => drop(connection.detach()),
            }
        });
    }
}
