//! Whether a pooler that gives each transaction another session stands before the server.
//!
//! Behind one, locks, settings and prepared statements of one connection are found by another. That
//! shows in the middle of things and looks like a broken schema, so it is looked for at the start.

use sqlx::{Executor as _, PgConnection, Row as _};

/// How often two connections are asked in turn.
const LOOKS: usize = 3;

/// Whether two connections do not have a session each, for as long as they last. A pooler with
/// several sessions gives out the last one that it got back, or the first one.
///
/// # Errors
/// The connection's, or the server's.
pub async fn shares_sessions(one: &mut PgConnection, other: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let known = [process_id(one).await?, process_id(other).await?];
    let mut are_shared = known[0] == known[1];
    for _ in 0..LOOKS {
        for _ in 0..2 {
            are_shared |= process_id(one).await? != known[0];
        }
        for _ in 0..2 {
            are_shared |= process_id(other).await? != known[1];
        }
    }
    Ok(are_shared)
}

/// In the simple protocol, which every pooler lets through.
async fn process_id(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    connection.fetch_one(sqlx::raw_sql("select pg_backend_pid() as process_id")).await?.try_get("process_id")
}

/// Whether a pooler does not let a connection through, because of a setting that it names. In
/// PgBouncer's words: a server has no such message.
pub fn is_refused_by_pooler(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.message().contains("unsupported startup parameter"))
}
