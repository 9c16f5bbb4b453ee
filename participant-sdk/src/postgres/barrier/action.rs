//! The way of an action through the barrier.

use assent_crash::crash_point;
use assent_postgres::Loan;
use assent_proto::text::one_line;
use bytes::Bytes;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, PgTransaction};

use super::loan::{Cancelling, lend};
use super::{Barrier, BarrierError};
use crate::participant::BoxError;
use crate::postgres::error::{sqlstate, sqlstate_of};
use crate::saga::{Executed, Step};
use crate::unreadable;

/// What [`Barrier::enter_action`] found.
#[must_use = "the transaction is rolled back when this is dropped"]
pub enum Action<'c> {
    /// It is the first time: do the work, then [`commit`](FirstAction::commit).
    First(FirstAction<'c>),
    /// There is nothing to do: this is the hook's answer. The transaction is over.
    Settled(Executed),
}

/// An open transaction in which a step's action is done for the first time. Dropped, it rolls back.
#[must_use = "the transaction is rolled back when this is dropped"]
pub struct FirstAction<'c> {
    barrier: Barrier,
    step: Step,
    /// The process id of the server's process that does the work.
    process_id: i32,
    tx: PgTransaction<'c>,
}

impl Barrier {
    /// Does a step's work in a transaction of its own, at most once. This is the whole of an
    /// [`execute`](crate::SagaParticipant::execute).
    ///
    /// After [`Executed::Refused`] and errors everything is rolled back, and so it is when this is
    /// dropped before it returns: then the server is asked to cancel what runs there. Where the step is a
    /// [pivot](Step::is_pivot), the refusal is kept, and final: the answer is
    /// [`Executed::FinallyRefused`], and attempts up to this one do nothing from then on. So refuse
    /// a pivot in here rather than before it: a refusal that is not kept does not turn a saga back
    /// as long as an earlier attempt has no known outcome. An [`Unreadable`](crate::Unreadable)
    /// input is a refusal too, so read it in here.
    ///
    /// # Errors
    /// The work's own, and [`BarrierError`]. The step is tried again, as after any error.
    pub async fn execute<F>(&self, pool: &PgPool, step: &Step, work: F) -> Result<Executed, BoxError>
    where
        F: AsyncFnOnce(&mut PgConnection) -> Result<Executed, BoxError>,
    {
        let mut loan = lend(pool).await?;
        let executed = self.execute_on(&mut loan, step, work).await?;
        loan.give_back();
        Ok(executed)
    }

    async fn execute_on<F>(&self, loan: &mut Loan<Cancelling>, step: &Step, work: F) -> Result<Executed, BoxError>
    where
        F: AsyncFnOnce(&mut PgConnection) -> Result<Executed, BoxError>,
    {
        let backend = loan.cleaning().backend();
        let tx = loan.begin().await.map_err(BarrierError::statement("begin a transaction"))?;
        let mut action = match self.enter_action(tx, step).await? {
            Action::First(action) => action,
            Action::Settled(executed) => return Ok(executed),
        };
        backend.set(action.process_id);
        match work(action.connection()).await {
            Ok(Executed::Done(output)) => Ok(action.commit(output).await?),
            Ok(Executed::Refused(reason) | Executed::FinallyRefused(reason)) => Ok(action.refuse(reason).await?),
            Err(error) => {
                if let Some(reason) = unreadable::refusal(&*error) {
                    return Ok(action.refuse(reason).await?);
                }
                // The work's error says more than one of the rollback, which happens in any case.
                action.tx.rollback().await.ok();
                Err(error)
            }
        }
    }

    /// Enters a step's action within a transaction of the caller's, as its first statement, and
    /// takes the transaction over.
    ///
    /// The transaction is handed in by value, so that the barrier's row and the work are committed
    /// together or not at all.
    ///
    /// ```no_run
    /// # use assent_sdk::postgres::{Barrier, barrier::Action};
    /// # use assent_sdk::{BoxError, Executed, Step};
    /// # async fn execute(pool: &sqlx::PgPool, barrier: &Barrier, step: &Step) -> Result<Executed, BoxError> {
    /// match barrier.enter_action(pool.begin().await?, step).await? {
    ///     Action::Settled(executed) => Ok(executed),
    ///     Action::First(mut action) => {
    ///         sqlx::query("update room set is_free = false where id = 7").execute(action.connection()).await?;
    ///         Ok(action.commit("room 7").await?)
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`BarrierError`]: nothing has happened.
    pub async fn enter_action<'c>(&self, mut tx: PgTransaction<'c>, step: &Step) -> Result<Action<'c>, BarrierError> {
        if step.is_pivot() {
            return self.enter_pivot(tx, step).await;
        }
        let entered: Option<i32> = sqlx::query_scalar(AssertSqlSafe(self.table.enter_action.clone()))
            .bind(step.gtid().as_uuid())
            .bind(step.participant().as_str())
            .bind(i32::from(step.index().0))
            .fetch_optional(&mut *tx)
            .await
            .map_err(BarrierError::statement("enter an action"))?;
        if let Some(process_id) = entered {
            return Ok(Action::First(FirstAction { barrier: self.clone(), step: step.clone(), process_id, tx }));
        }
        // The insert has waited until whoever was first had committed; this statement sees that.
        let known: Option<(bool, Vec<u8>)> = sqlx::query_as(AssertSqlSafe(self.table.look_up.clone()))
            .bind(step.gtid().as_uuid())
            .bind(step.participant().as_str())
            .bind(i32::from(step.index().0))
            .fetch_optional(&mut *tx)
            .await
            .map_err(BarrierError::statement("look up an action"))?;
        tx.rollback().await.map_err(BarrierError::statement("roll back"))?;
        match known {
            Some((true, _)) => {
                Ok(Action::Settled(Executed::refused("the step was compensated before its action came")))
            }
            Some((false, output)) => Ok(Action::Settled(Executed::Done(output.into()))),
            None => Err(BarrierError::Ended),
        }
    }

    /// The same for a pivot, which may find that it was refused: then only a later attempt enters.
    async fn enter_pivot<'c>(&self, mut tx: PgTransaction<'c>, step: &Step) -> Result<Action<'c>, BarrierError> {
        let (epoch, attempt) = order_of(step);
        let entered: Option<i32> = sqlx::query_scalar(AssertSqlSafe(self.table.enter_pivot.clone()))
            .bind(step.gtid().as_uuid())
            .bind(step.participant().as_str())
            .bind(i32::from(step.index().0))
            .bind(epoch)
            .bind(attempt)
            .fetch_optional(&mut *tx)
            .await
            .map_err(self.table.failed("enter a pivot"))?;
        if let Some(process_id) = entered {
            // A refusal takes back the work, and keeps the row.
            sqlx::raw_sql("savepoint assent_pivot")
                .execute(&mut *tx)
                .await
                .map_err(BarrierError::statement("enter a pivot"))?;
            return Ok(Action::First(FirstAction { barrier: self.clone(), step: step.clone(), process_id, tx }));
        }
        let known: Option<(Option<String>, bool, Vec<u8>)> =
            sqlx::query_as(AssertSqlSafe(self.table.look_up_pivot.clone()))
                .bind(step.gtid().as_uuid())
                .bind(step.participant().as_str())
                .bind(i32::from(step.index().0))
                .fetch_optional(&mut *tx)
                .await
                .map_err(BarrierError::statement("look up a pivot"))?;
        tx.rollback().await.map_err(BarrierError::statement("roll back"))?;
        match known {
            Some((Some(refusal), ..)) => Ok(Action::Settled(Executed::finally_refused(refusal))),
            Some((None, true, _)) => {
                Ok(Action::Settled(Executed::finally_refused("the step was compensated before its action came")))
            }
            Some((None, false, output)) => Ok(Action::Settled(Executed::Done(output.into()))),
            None => Err(BarrierError::Ended),
        }
    }
}

/// The order of an attempt among all of its step, in the columns' types: the log of a coordinator
/// keeps epochs in the same.
fn order_of(step: &Step) -> (i64, i64) {
    (i64::try_from(step.epoch()).unwrap_or(i64::MAX), i64::from(step.attempt()))
}

impl<'c> FirstAction<'c> {
    /// The connection to do the work on.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.tx
    }

    /// Keeps the output and commits the work. The answer is for the hook to return. An output that
    /// is larger than [`Step::output_bytes_max`] is [refused](Self::refuse) instead: it could not
    /// be told.
    ///
    /// # Errors
    /// [`BarrierError`]. If the commit itself failed it is unknown whether it took effect; the next
    /// call finds out.
    pub async fn commit(mut self, output: impl Into<Bytes>) -> Result<Executed, BarrierError> {
        let output = output.into();
        let (bytes, bytes_max) = (output.len(), self.step.output_bytes_max());
        if bytes > bytes_max {
            return self
                .refuse(format!(
                    "the output has {bytes} bytes, and the coordinator takes {bytes_max}; give a reference to the data"
                ))
                .await;
        }
        if output.is_empty() {
            still_whole(&mut self.tx).await?;
        } else {
            sqlx::query(AssertSqlSafe(self.barrier.table.keep_output.clone()))
                .bind(self.step.gtid().as_uuid())
                .bind(self.step.participant().as_str())
                .bind(i32::from(self.step.index().0))
                .bind(&output[..])
                .execute(&mut *self.tx)
                .await
                .map_err(failed_before_or("keep an action's output"))?;
        }
        crash_point!(STEP_DUE, return Err(BarrierError::statement("commit an action")(sqlx::Error::WorkerCrashed)));
        self.tx.commit().await.map_err(BarrierError::statement("commit an action"))?;
        crash_point!(STEP_DONE, return Err(BarrierError::statement("commit an action")(sqlx::Error::WorkerCrashed)));
        Ok(Executed::Done(output))
    }

    /// Rolls the work back. The action may come again, and is then first again.
    ///
    /// Where the step is a [pivot](Step::is_pivot), commits the refusal: attempts up to this one
    /// are answered with it from now on, and only a later one is first again. The answer,
    /// [`Executed::FinallyRefused`], says so.
    ///
    /// # Errors
    /// [`BarrierError::Statement`] if the connection is lost, which rolls back too. If the commit
    /// itself failed it is unknown whether the refusal was kept.
    pub async fn refuse(mut self, reason: impl std::fmt::Display) -> Result<Executed, BarrierError> {
        if self.step.is_pivot() {
            let refused = self.keep_refusal(one_line(reason.to_string())).await?;
            self.tx.commit().await.map_err(BarrierError::statement("commit a pivot's refusal"))?;
            return Ok(refused);
        }
        self.tx.rollback().await.map_err(BarrierError::statement("roll back"))?;
        Ok(Executed::refused(reason))
    }
}

impl FirstAction<'_> {
    async fn keep_refusal(&mut self, reason: String) -> Result<Executed, BarrierError> {
        const DOING: &str = "keep a pivot's refusal";
        sqlx::raw_sql("rollback to savepoint assent_pivot")
            .execute(&mut *self.tx)
            .await
            .map_err(BarrierError::statement(DOING))?;
        let (epoch, attempt) = order_of(&self.step);
        sqlx::query(AssertSqlSafe(self.barrier.table.keep_refusal.clone()))
            .bind(self.step.gtid().as_uuid())
            .bind(self.step.participant().as_str())
            .bind(i32::from(self.step.index().0))
            .bind(epoch)
            .bind(attempt)
            .bind(&reason)
            .execute(&mut *self.tx)
            .await
            .map_err(self.barrier.table.failed(DOING))?;
        Ok(Executed::FinallyRefused(reason))
    }
}

/// Fails where COMMIT would roll back silently: when a statement has failed and its error was
/// dropped.
pub(super) async fn still_whole(tx: &mut PgTransaction<'_>) -> Result<(), BarrierError> {
    sqlx::raw_sql("savepoint assent").execute(&mut **tx).await.map_err(failed_before_or("check the transaction"))?;
    Ok(())
}

fn failed_before_or(doing: &'static str) -> impl Fn(sqlx::Error) -> BarrierError {
    move |source| match sqlstate_of(&source).as_deref() {
        Some(sqlstate::IN_FAILED_SQL_TRANSACTION) => BarrierError::FailedBefore,
        Some(_) | None => BarrierError::Statement { doing, source },
    }
}
