//! The end of a branch's transaction: prepared, committed in one phase, or rolled back.
//!
//! A transaction that has failed answers PREPARE TRANSACTION and COMMIT with `ROLLBACK` as if
//! nothing were wrong; so does, for PREPARE TRANSACTION, a session that is in no transaction. Only
//! the command tag tells, and sqlx drops it. So the end is sent as one message behind statements
//! that clear the session ([`Session::clear_and_end`]): in a failed transaction they fail, one of
//! them fails where no transaction is open, and what follows a failed statement in a message is not
//! run. From there PREPARE TRANSACTION has no silent way out. Reading the gid back from
//! `pg_prepared_xacts` costs far more; that is done where the answer leaves doubt: when the gid is
//! in use, and when a branch is ended or found after a crash.

use std::time::Duration;

use super::connections::Checkout;
use super::error::{PostgresError, is_connection_lost, sqlstate, sqlstate_of};
use super::gid::{Gid, Prefix};
use super::session::{Leftovers, Session};
use assent_crash::crash_point;

/// What came of PREPARE TRANSACTION.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Prepared {
    /// The work is prepared.
    Now,
    /// Another call had prepared it. This one's work is rolled back.
    Before,
    /// A deferred constraint refused it, and it is rolled back.
    Refused(String),
}

/// What came of COMMIT.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Committed {
    /// The work is committed.
    Now,
    /// A deferred constraint refused it, and it is rolled back.
    Refused(String),
}

/// What the message that prepares ends with; an abort looks for it in `pg_stat_activity`.
pub(super) fn prepare_statement(gid: &Gid) -> String {
    format!("prepare transaction '{gid}'")
}

/// How long that is at most for a branch of a participant.
pub(super) fn statement_bytes_max(prefix: &Prefix) -> usize {
    "prepare transaction ''".len() + prefix.gid_bytes_max()
}

/// Prepares the transaction that is open on the connection. The connection goes back, or is closed
/// where the outcome is unknown.
pub(super) async fn prepare(mut checkout: Checkout, gid: &Gid) -> Result<Prepared, PostgresError> {
    let doing = "prepare the transaction";
    // Its work is done. Whether it is prepared is found out where this is dropped.
    checkout.work.is_open = false;
    crash_point!(PREPARE_DUE, return Err(PostgresError::NoAnswer { doing, waited_ms: 0 }));
    let prepare = prepare_statement(gid);
    let result = checkout.session.clear_and_end(doing, Leftovers::OfPrepared, &prepare).await?;
    let Err(error) = result else {
        crash_point!(PREPARE_DONE, return Err(PostgresError::NoAnswer { doing, waited_ms: 0 }));
        checkout.release();
        return Ok(Prepared::Now);
    };
    if sqlstate_of(&error).as_deref() == Some(sqlstate::DUPLICATE_OBJECT) {
        let is_prepared = is_prepared(&mut checkout.session, gid).await?;
        roll_back(checkout).await;
        // Otherwise it is being prepared this moment, and that may fail yet.
        return if is_prepared { Ok(Prepared::Before) } else { Err(PostgresError::Busy { gid: gid.to_string() }) };
    }
    refused_or_failed(checkout, doing, error).await.map(Prepared::Refused)
}

/// Commits the transaction that is open on the connection.
pub(super) async fn commit(mut checkout: Checkout) -> Result<Committed, PostgresError> {
    let doing = "commit the transaction";
    checkout.work.is_open = false;
    crash_point!(ONE_PHASE_DUE, return Err(PostgresError::NoAnswer { doing, waited_ms: 0 }));
    match checkout.session.clear_and_end(doing, Leftovers::OfCommitted, "commit").await? {
        Ok(_) => {
            crash_point!(ONE_PHASE_DONE, return Err(PostgresError::NoAnswer { doing, waited_ms: 0 }));
            checkout.release();
            Ok(Committed::Now)
        }
        Err(error) => refused_or_failed(checkout, doing, error).await.map(Committed::Refused),
    }
}

/// How long a rollback waits for a statement that the work has given up, before that is ended.
const ROLL_BACK_PATIENCE: Duration = Duration::from_secs(1);

/// Fails on a session that cannot write, so that it is not used again: it was made while the
/// address led to a standby, or while the database only let read.
const CAN_WRITE: &str =
    "select version()::int where pg_is_in_recovery() or current_setting('transaction_read_only')::bool";

/// Rolls back the transaction that is open on the connection, or has failed there. Where that fails
/// the connection is closed, with the same effect.
pub(super) async fn roll_back(checkout: Checkout) {
    if let Some(checkout) = rolled_back(checkout).await {
        checkout.release();
    }
}

/// Rolls back as [`roll_back`] does, and leaves it to the caller to release the connection; `None`
/// where it was closed, or is ended at the server because a statement runs on it.
pub(super) async fn rolled_back(mut checkout: Checkout) -> Option<Checkout> {
    let rolling_back = checkout.session.roll_back_and_clear(CAN_WRITE);
    let is_rolled_back = match tokio::time::timeout(ROLL_BACK_PATIENCE, rolling_back).await {
        Ok(Ok(Ok(_))) => true,
        Ok(Ok(Err(error))) => {
            tracing::debug!(%error, "a connection was closed instead of rolled back");
            false
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "a connection was closed instead of rolled back");
            false
        }
        Err(_) => return None,
    };
    // The server has answered: nothing runs there any more.
    checkout.work.is_open = false;
    is_rolled_back.then_some(checkout)
}

/// Whether a transaction is prepared under this gid, in this database.
pub(super) async fn is_prepared(session: &mut Session, gid: &Gid) -> Result<bool, PostgresError> {
    sqlx::query_scalar("select exists (select from pg_prepared_xacts where gid = $1 and database = current_database())")
        .bind(gid.as_str())
        .fetch_one(&mut session.connection)
        .await
        .map_err(PostgresError::statement("look for a prepared transaction"))
}

/// Whether a branch of a transaction is prepared, in this database: one whose gid is this, or begins
/// with this and a colon.
pub(super) async fn has_prepared(session: &mut Session, transaction: &str) -> Result<bool, PostgresError> {
    sqlx::query_scalar(
        "select exists (
             select from pg_prepared_xacts
             where database = current_database() and (gid = $1 or starts_with(gid, $1 || ':'))
         )",
    )
    .bind(transaction)
    .fetch_one(&mut session.connection)
    .await
    .map_err(PostgresError::statement("look for a prepared transaction"))
}

/// The transaction did not reach its end. Where Postgres said so, it is rolled back.
async fn refused_or_failed(
    checkout: Checkout,
    doing: &'static str,
    error: sqlx::Error,
) -> Result<String, PostgresError> {
    if !is_connection_lost(&error) {
        roll_back(checkout).await;
    }
    if Session::had_no_transaction(&error) {
        return Err(PostgresError::EndedByWork);
    }
    match sqlstate_of(&error).as_deref() {
        Some(sqlstate::IN_FAILED_SQL_TRANSACTION) => Err(PostgresError::FailedBefore),
        Some(sqlstate::OUT_OF_MEMORY) => Err(PostgresError::TooManyPrepared(error)),
        Some(code) if code.starts_with(sqlstate::INTEGRITY_CONSTRAINT_CLASS) => {
            Ok(error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned()))
        }
        Some(_) | None => Err(PostgresError::Statement { doing, source: error }),
    }
}
