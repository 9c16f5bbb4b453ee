//! How a connection of the log's pools is cleaned after a call that was dropped in the middle.

use assent_postgres::{Cleaning, Loan};
use sqlx::postgres::{PgConnection, PgPool};

use super::trouble::Trouble;

/// Ends whatever transaction is open, and fails on a server that is no primary any more: the pool
/// is to connect anew then. Without the BEGIN the server would warn where nothing was open.
const CLEAN: &str = "begin; select version()::int where pg_is_in_recovery(); rollback";

/// Waits for the statement that was dropped, which the server ends in bounded time by itself.
pub(super) struct OnPrimary;

impl Cleaning for OnPrimary {
    async fn clean(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(CLEAN).execute(connection).await.map(drop)
    }
}

/// Takes a connection out of one of the log's pools.
pub(super) async fn lend(pool: &PgPool) -> Result<Loan<OnPrimary>, Trouble> {
    Ok(Loan::of(pool, OnPrimary).await?)
}
