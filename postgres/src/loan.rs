//! A connection of a pool, on loan.
//!
//! A call is dropped in the middle when its deadline is over, its caller hangs up, or a `select!`
//! has another answer first. The driver does not know of a BEGIN whose answer was never read: the
//! connection would go back to the pool within a transaction. Later callers would read what stood
//! there when it began, and what they write would never be committed. So a connection goes back
//! only from the hands of a call that has finished with it, or once it has been cleaned.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// How long a cleaning may take before the connection is closed instead. Meanwhile the connection
/// counts as one of the pool's, so that callers who give up and come again cannot open ever more.
pub const CLEANED_WITHIN: Duration = Duration::from_secs(10);

/// Makes a connection fit for the next use, whatever a dropped call has left on it.
pub trait Cleaning: Send + 'static {
    /// Ends what still runs there, and the transaction that is open. Given up after
    /// [`CLEANED_WITHIN`].
    ///
    /// # Errors
    /// Any error says that the connection is of no more use.
    fn clean(self, connection: &mut PgConnection) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

/// A connection that is cleaned, or closed, unless it is [given back](Self::give_back).
pub struct Loan<C: Cleaning> {
    /// Taken out when the loan ends.
    lent: Option<(PoolConnection<Postgres>, C)>,
}

impl<C: Cleaning> Loan<C> {
    /// Takes a connection out of a pool.
    ///
    /// # Errors
    /// The pool's: it has no connection, and cannot make one.
    pub async fn of(pool: &PgPool, cleaning: C) -> Result<Self, sqlx::Error> {
        Ok(Self { lent: Some((pool.acquire().await?, cleaning)) })
    }

    /// How the connection would be cleaned.
    pub fn cleaning(&self) -> &C {
        &self.lent().1
    }

    /// Returns the connection to its pool as it is: its last statement has been answered, and no
    /// transaction is open.
    pub fn give_back(mut self) {
        self.lent = None;
    }

    fn lent(&self) -> &(PoolConnection<Postgres>, C) {
        self.lent.as_ref().expect("on loan until it is given back")
    }
}

impl<C: Cleaning> Deref for Loan<C> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.lent().0
    }
}

impl<C: Cleaning> DerefMut for Loan<C> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.lent.as_mut().expect("on loan until it is given back").0
    }
}

impl<C: Cleaning> Drop for Loan<C> {
    fn drop(&mut self) {
        let Some((mut connection, cleaning)) = self.lent.take() else { return };
        let Ok(runtime) = Handle::try_current() else {
            drop(connection.detach());
            return;
        };
        runtime.spawn(async move {
            match timeout(CLEANED_WITHIN, cleaning.clean(&mut connection)).await {
                Ok(Ok(())) => drop(connection),
                // At once: the polite way waits for the server.
                Ok(Err(_)) | Err(_) => drop(connection.detach()),
            }
        });
    }
}
