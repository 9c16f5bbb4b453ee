//! The barrier: each saga step takes effect once, and never after its compensation.
//!
//! A step's action may come twice: its answer was lost. Its compensation may come before it, or
//! without it: the action timed out on its way. And the action may come after its compensation: it
//! was only slow. The barrier keeps a row for each step in the participant's own database and
//! writes it in the same transaction as the step's work, so that both have happened or neither has.
//!
//! | what comes | there is | what happens |
//! |---|---|---|
//! | action | nothing | row with `executed_at`; the work is done |
//! | action | `executed_at` | nothing: the output of the first time is given again |
//! | action | `compensated_at` | nothing: refused |
//! | pivot's action, refused by the work | nothing, or an earlier attempt's `refusal` | row with `compensated_at` and `refusal`; the work is rolled back |
//! | pivot's action | `refusal` of the same attempt or a later one | nothing: refused again, for the same reason |
//! | pivot's action | `refusal` of an earlier attempt | `executed_at` in its place; the work is done |
//! | compensation | nothing | row with `compensated_at`; nothing to undo, and an action that still comes is refused |
//! | compensation | `executed_at` only | `compensated_at` is set; the work is undone |
//! | compensation | `compensated_at` | nothing: it is done; from now on a `refusal` holds for later attempts too |
//!
//! The row is written before the work, and its key is unique: whoever comes second waits for the
//! first one's transaction to end, and then finds its row or none. That holds at READ COMMITTED,
//! for any number of instances; at the higher levels one of the two fails with a serialization
//! error and is tried again.
//!
//! Only a pivot's refusal is kept. Behind any other step the saga compensates what may still come;
//! nothing compensates a pivot, so its refusal has to see to it that no earlier attempt takes
//! effect any more: see [`SagaParticipant`](crate::SagaParticipant).
//!
//! The transaction must be durable when it has committed: do not run steps with `synchronous_commit
//! = off`.

mod action;
mod branch;
mod clean_up;
mod compensation;
mod loan;
mod table;

use std::sync::Arc;

use crate::participant::BoxError;

pub use action::{Action, FirstAction};
pub(super) use branch::{BranchRecord, TOMBSTONE_MARK};
pub use compensation::{Compensation, Undo};

/// The barrier's table in a participant's database. Cheap to clone.
///
/// ```no_run
/// use assent_sdk::postgres::Barrier;
/// use assent_sdk::{BoxError, Compensated, Executed, SagaParticipant, Step};
/// use sqlx::PgPool;
///
/// struct Hotel {
///     pool: PgPool,
///     barrier: Barrier,
/// }
///
/// impl SagaParticipant for Hotel {
///     async fn execute(&self, step: &Step) -> Result<Executed, BoxError> {
///         let room: i32 = step.input_json()?;
///         self.barrier
///             .execute(&self.pool, step, async move |tx| {
///                 let booked = sqlx::query("update room set is_free = false where id = $1 and is_free")
///                     .bind(room)
///                     .execute(tx)
///                     .await?;
///                 Ok(if booked.rows_affected() == 1 { Executed::done() } else { Executed::refused("taken") })
///             })
///             .await
///     }
///
///     async fn compensate(&self, step: &Step) -> Result<Compensated, BoxError> {
///         let room: i32 = step.input_json()?;
///         self.barrier
///             .compensate(&self.pool, step, async move |tx, _output| {
///                 sqlx::query("update room set is_free = true where id = $1").bind(room).execute(tx).await?;
///                 Ok(Compensated::Done)
///             })
///             .await
///     }
/// }
///
/// # async fn example(pool: PgPool) -> Result<(), BoxError> {
/// let barrier = Barrier::default();
/// barrier.install(&pool).await?;
/// let hotel = Hotel { pool, barrier };
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Barrier {
    table: Arc<table::Table>,
}

/// Why the barrier could not do its part. The transaction is rolled back, unless the commit itself
/// failed: then it is unknown, and the next call finds out.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BarrierError {
    /// A statement failed.
    #[error("the barrier cannot {doing}")]
    Statement {
        /// What the statement was to do.
        doing: &'static str,
        /// What Postgres or the connection said.
        source: sqlx::Error,
    },
    /// A statement of the work failed, and the work went on as if it had not. COMMIT would have
    /// answered this with a silent rollback.
    #[error(
        "the transaction had failed before it was to be committed: a statement failed and its error was dropped; return it"
    )]
    FailedBefore,
    /// The table is not there, or not as it should be.
    #[error(
        "the table {table} of the barrier is missing or unfit: run Barrier::install, or the statements of Barrier::schema"
    )]
    Table {
        /// Its name, quoted.
        table: String,
        /// What Postgres said.
        source: sqlx::Error,
    },
    /// The role lacks privileges on the table.
    #[error("the role that connects needs select, insert, update and delete on {table}")]
    Privileges {
        /// Its name, quoted.
        table: String,
    },
    /// The table's name is none.
    #[error("{name:?} does not name a table: 1 to 63 bytes without NUL for each of schema and table")]
    TableName {
        /// What was offered.
        name: String,
    },
    /// The step's row was cleaned up while its action ran again: the saga has ended.
    #[error("the saga has ended, and its record was cleaned up")]
    Ended,
    /// Whoever was to tell which sagas have ended could not.
    #[error("it is not known which sagas have ended")]
    Unanswered(#[source] BoxError),
}

crate::error_chain::debug_as_chain!(BarrierError);

impl BarrierError {
    fn statement(doing: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |source| Self::Statement { doing, source }
    }
}
