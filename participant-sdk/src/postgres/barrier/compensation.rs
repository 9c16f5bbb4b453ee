//! The way of a compensation through the barrier.

use assent_crash::crash_point;
use assent_postgres::Loan;
use bytes::Bytes;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, PgTransaction};

use super::action::still_whole;
use super::loan::{Cancelling, lend};
use super::{Barrier, BarrierError};
use crate::participant::BoxError;
use crate::saga::{Compensated, Step};
use crate::unreadable;

/// What [`Barrier::enter_compensation`] found.
#[must_use = "the transaction is rolled back when this is dropped"]
pub enum Compensation<'c> {
    /// The action took effect: undo it, then [`commit`](Undo::commit).
    Undo(Undo<'c>),
    /// There is nothing to undo, and nothing will come: this is the hook's answer. The transaction
    /// is over.
    Settled(Compensated),
}

/// An open transaction in which a step's action is undone. Dropped, it rolls back.
#[must_use = "the transaction is rolled back when this is dropped"]
pub struct Undo<'c> {
    output: Bytes,
    /// The process id of the server's process that does the work.
    process_id: i32,
    tx: PgTransaction<'c>,
}

impl Barrier {
    /// Undoes a step's work in a transaction of its own, if it was done, and at most once; and sees
    /// to it that it is not done later. This is the whole of a
    /// [`compensate`](crate::SagaParticipant::compensate).
    ///
    /// Where an action may wait, holding a connection, for something that only a compensation gives
    /// back, give compensations a pool of their own: otherwise the actions that wait can take every
    /// connection.
    ///
    /// `undo` is given the output of the action, and is not called where there is nothing to undo:
    /// read the input in there, so that a step that never took effect needs no readable input.
    /// After [`Compensated::Refused`] and errors everything is rolled back.
    ///
    /// # Errors
    /// The work's own, and [`BarrierError`]. The compensation is tried again, as after any error.
    pub async fn compensate<F>(&self, pool: &PgPool, step: &Step, undo: F) -> Result<Compensated, BoxError>
    where
        F: AsyncFnOnce(&mut PgConnection, Bytes) -> Result<Compensated, BoxError>,
    {
        let mut loan = lend(pool).await?;
        let compensated = self.compensate_on(&mut loan, step, undo).await?;
        loan.give_back();
        Ok(compensated)
    }

    async fn compensate_on<F>(&self, loan: &mut Loan<Cancelling>, step: &Step, undo: F) -> Result<Compensated, BoxError>
    where
        F: AsyncFnOnce(&mut PgConnection, Bytes) -> Result<Compensated, BoxError>,
    {
        let backend = loan.cleaning().backend();
        let tx = loan.begin().await.map_err(BarrierError::statement("begin a transaction"))?;
        let mut compensation = match self.enter_compensation(tx, step).await? {
            Compensation::Undo(compensation) => compensation,
            Compensation::Settled(compensated) => return Ok(compensated),
        };
        backend.set(compensation.process_id);
        let output = compensation.output.clone();
        match undo(compensation.connection(), output).await {
            Ok(Compensated::Done) => Ok(compensation.commit().await?),
            Ok(Compensated::Refused(reason)) => Ok(compensation.refuse(reason).await?),
            Err(error) => {
                if let Some(reason) = unreadable::refusal(&*error) {
                    return Ok(compensation.refuse(reason).await?);
                }
                // The work's error says more than one of the rollback, which happens in any case.
                compensation.tx.rollback().await.ok();
                Err(error)
            }
        }
    }

    /// Enters a step's compensation within a transaction of the caller's, as its first statement,
    /// and takes the transaction over. Where there is nothing to undo it commits, so that an action
    /// that comes later is refused.
    ///
    /// # Errors
    /// [`BarrierError`]: nothing has happened, or, if the commit failed, it is unknown and the next
    /// call finds out.
    pub async fn enter_compensation<'c>(
        &self,
        mut tx: PgTransaction<'c>,
        step: &Step,
    ) -> Result<Compensation<'c>, BarrierError> {
        let entered: Option<(bool, Vec<u8>, i32)> =
            sqlx::query_as(AssertSqlSafe(self.table.enter_compensation.clone()))
                .bind(step.gtid().as_uuid())
                .bind(step.participant().as_str())
                .bind(i32::from(step.index().0))
                .fetch_optional(&mut *tx)
                .await
                .map_err(BarrierError::statement("enter a compensation"))?;
        if let Some((true, output, process_id)) = entered {
            return Ok(Compensation::Undo(Undo { output: output.into(), process_id, tx }));
        }
        if entered.is_none() {
            // It was closed before. By a refusal only for attempts up to the refused one: from now
            // on it is for all of them.
            sqlx::query(AssertSqlSafe(self.table.close_refused.clone()))
                .bind(step.gtid().as_uuid())
                .bind(step.participant().as_str())
                .bind(i32::from(step.index().0))
                .execute(&mut *tx)
                .await
                .map_err(self.table.failed("bar an action"))?;
        }
        tx.commit().await.map_err(BarrierError::statement("bar an action"))?;
        Ok(Compensation::Settled(Compensated::Done))
    }
}

impl Undo<'_> {
    /// What the action gave.
    pub fn output(&self) -> &Bytes {
        &self.output
    }

    /// The connection to undo the work on.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.tx
    }

    /// Commits. The answer is for the hook to return.
    ///
    /// # Errors
    /// [`BarrierError`]. If the commit itself failed it is unknown whether it took effect; the next
    /// call finds out.
    pub async fn commit(mut self) -> Result<Compensated, BarrierError> {
        still_whole(&mut self.tx).await?;
        crash_point!(
            STEP_DUE,
            return Err(BarrierError::statement("commit a compensation")(sqlx::Error::WorkerCrashed))
        );
        self.tx.commit().await.map_err(BarrierError::statement("commit a compensation"))?;
        crash_point!(
            STEP_DONE,
            return Err(BarrierError::statement("commit a compensation")(sqlx::Error::WorkerCrashed))
        );
        Ok(Compensated::Done)
    }

    /// Rolls back: it cannot be undone, and a human has to see to it. The compensation may come
    /// again, and then finds the action undone by nobody.
    ///
    /// # Errors
    /// [`BarrierError::Statement`] if the connection is lost, which rolls back too.
    pub async fn refuse(self, reason: impl std::fmt::Display) -> Result<Compensated, BarrierError> {
        self.tx.rollback().await.map_err(BarrierError::statement("roll back"))?;
        Ok(Compensated::Refused(reason.to_string()))
    }
}
