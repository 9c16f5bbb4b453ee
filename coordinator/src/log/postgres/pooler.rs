//! Whether a pooler that gives each transaction another session stands before the server.
//!
//! Behind one the log cannot be kept: its settings, among them that a commit waits for the disk,
//! and its prepared statements belong to a session. That shows in the middle of things and looks
//! like a broken schema, so it is looked for at the start.

use sqlx::{Executor as _, PgConnection, Row as _};

use super::trouble::Trouble;

/// How often two connections are asked in turn.
const LOOKS: usize = 3;

/// Fails where two connections do not have a session each, for as long as they last. A pooler with
/// several sessions gives out the last one that it got back, or the first one.
pub(super) async fn refuse(one: &mut PgConnection, other: &mut PgConnection) -> Result<(), Trouble> {
    let known = [process_id(one).await?, process_id(other).await?];
    let mut is_pooled = known[0] == known[1];
    for _ in 0..LOOKS {
        for _ in 0..2 {
            is_pooled |= process_id(one).await? != known[0];
        }
        for _ in 0..2 {
            is_pooled |= process_id(other).await? != known[1];
        }
    }
    if is_pooled { Err(Trouble::Pooled) } else { Ok(()) }
}

/// In the simple protocol, which every pooler lets through.
async fn process_id(connection: &mut PgConnection) -> Result<i32, Trouble> {
    Ok(connection.fetch_one(sqlx::raw_sql("select pg_backend_pid() as process_id")).await?.try_get("process_id")?)
}
