//! Whether connections have a session of the server each, for as long as they last.
//!
//! Behind a pooler of transactions they do not: locks, settings and prepared statements of one are
//! found by another.

use sqlx::{Executor as _, PgConnection, Row as _};

/// How often two connections are asked in turn.
const LOOKS: usize = 3;

/// Whether a session was shared or changed. A pooler with several sessions gives out the last one
/// that it got back, or the first one.
pub(super) async fn shares_sessions(one: &mut PgConnection, other: &mut PgConnection) -> Result<bool, sqlx::Error> {
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
