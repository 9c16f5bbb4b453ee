//! Early prepare: a service does its part of a transaction while it answers a call, and prepares
//! before it answers.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use assent_protocol::two_phase::EarlyVote;
use assent_protocol::{BranchKey, Gtid};
use sqlx::PgConnection;

use super::connections::Checkout;
use super::ending::{Coming, End};
use super::error::PostgresError;
use super::expiry::Expiry;
use super::gid::{Gid, Prefix};
use super::preparing::{self, Prepared};
use super::resource::{PostgresResource, Shared};
use crate::assent::{Assent, draw_branch};
use crate::error::EnlistError;
use crate::participant::BoxError;
use crate::propagation::Context;

/// Whoever tells the coordinator that a branch has prepared by itself: [`Assent`], or a double of
/// it in the tests of a service.
pub trait Enlist: Clone + Send + Sync + 'static {
    /// Makes the branch part of the transaction.
    ///
    /// # Errors
    /// [`EnlistError`]. After [`EnlistError::Unknown`] it goes on asking what became of the branch,
    /// and calls the participant's hooks with the answer, as for any branch in doubt.
    fn enlist(&self, key: BranchKey, vote: EarlyVote) -> impl Future<Output = Result<(), EnlistError>> + Send;
}

impl Enlist for Assent {
    fn enlist(&self, key: BranchKey, vote: EarlyVote) -> impl Future<Output = Result<(), EnlistError>> + Send {
        // The inherent one.
        Self::enlist(self, key, vote)
    }
}

/// Why a guard's branch takes no part.
#[derive(thiserror::Error)]
pub enum EarlyPrepareError {
    /// It could not be prepared, and is rolled back. Where the database did not answer, that is
    /// seen to in the background.
    #[error("the branch could not be prepared")]
    NotPrepared(#[from] PostgresError),
    /// A deferred constraint refused the work, and it is rolled back.
    #[error("the work breaks a constraint: {0}")]
    WorkRefused(String),
    /// The branch is not part of the transaction, and is rolled back: the transaction is decided
    /// already, or unknown.
    #[error("the branch could not be enlisted, and is rolled back")]
    NotEnlisted(#[source] EnlistError),
    /// It is prepared and may be part of the transaction. It ends as that is decided; answer the
    /// caller with an error, so that the initiator aborts.
    #[error("the branch is prepared, and it is not known whether it is part of the transaction")]
    InDoubt(#[source] BoxError),
}

crate::error_chain::debug_as_chain!(EarlyPrepareError);

impl<W, const RECORDED: bool> PostgresResource<W, RECORDED> {
    /// Begins a branch's transaction, for a service that works while it is called. The context came
    /// with the call.
    ///
    /// ```no_run
    /// # use assent_sdk::postgres::{PostgresResource, EarlyOnly};
    /// # use assent_sdk::{Assent, BoxError, Context};
    /// # async fn handler(bank: PostgresResource<EarlyOnly>, assent: Assent, context: Context) -> Result<(), BoxError> {
    /// let mut branch = bank.begin(&context).await?;
    /// sqlx::query("update account set balance = balance + 10 where id = 'alice'").execute(branch.connection()?).await?;
    /// branch.prepare(&assent).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`PostgresError::AlreadyPrepared`] when this participant has a prepared branch in the
    /// transaction: the call came twice, or a second one belongs to the same transaction.
    /// Others when no transaction can be begun.
    pub async fn begin(&self, context: &Context) -> Result<PostgresGuard, PostgresError> {
        let coordinator = self.shared.started_for()?;
        let time_left = time_left(context, SystemTime::now());
        let mut checkout = self.shared.works.begin(time_left, self.shared.lock_wait_max).await?;
        let expiry = Expiry::arm(&self.shared, context.gtid, checkout.session.backend, time_left);
        let key = draw_branch(context.gtid, context.epoch.unwrap_or_default());
        let prefix = Prefix::new(coordinator, checkout.session.database, &self.shared.participant)?;
        let gid = prefix.gid(key);
        // Otherwise the work would wait for the locks of another branch of its own transaction.
        let mut known = preparing::has_prepared(&mut checkout.session, &prefix.of_transaction(context.gtid))
            .await?
            .then_some(PostgresError::AlreadyPrepared);
        if known.is_none()
            && let Some(barrier) = &self.shared.recorded_in
        {
            let connection = &mut checkout.session.connection;
            let recorded = barrier.record_branch(connection, key, &self.shared.participant).await?;
            known = recorded.map(|_| PostgresError::AlreadyPrepared);
        }
        let open = Open { checkout, expiry };
        if let Some(known) = known {
            open.roll_back().await;
            return Err(known);
        }
        Ok(PostgresGuard { shared: Arc::clone(&self.shared), key, gid, open: Some(open) })
    }
}

/// An open transaction that becomes a branch. Work on its [`connection`](Self::connection), then
/// [`prepare`](Self::prepare).
///
/// Dropped before that, it rolls back. The same happens at the transaction's deadline, wherever the
/// guard is then: its locks stand in the way of others, and the coordinator has aborted. A
/// statement that runs at that moment fails as one does whose connection is terminated (SQLSTATE
/// 57P01); the next use of the guard says [`PostgresError::PastDeadline`]. A context without a
/// deadline sets no limit.
#[must_use = "dropping the guard rolls its work back"]
pub struct PostgresGuard {
    shared: Arc<Shared>,
    key: BranchKey,
    gid: Gid,
    /// Present until the guard is consumed or dropped.
    open: Option<Open>,
}

/// The open transaction of a guard.
struct Open {
    checkout: Checkout,
    expiry: Expiry,
}

impl Open {
    /// The deadline counts until the rollback is done: a statement may run that the server ends
    /// only then.
    async fn roll_back(self) {
        if let Some(checkout) = preparing::rolled_back(self.checkout).await
            && self.expiry.disarm().is_ok()
        {
            checkout.release();
        }
    }
}

impl PostgresGuard {
    /// The transaction.
    pub fn gtid(&self) -> Gtid {
        self.key.gtid
    }

    /// Which branch of the transaction this is. Every guard is one of its own.
    pub fn key(&self) -> BranchKey {
        self.key
    }

    /// The connection to do the work on, within the transaction.
    ///
    /// # Errors
    /// [`PostgresError::PastDeadline`]: the work is rolled back.
    pub fn connection(&mut self) -> Result<&mut PgConnection, PostgresError> {
        let open = self.open.as_mut().expect("a guard is used before it is consumed");
        open.expiry.check()?;
        Ok(&mut open.checkout.session.connection)
    }

    /// Prepares the work and enlists it with a yes. On success its effect depends on the
    /// transaction's decision only.
    ///
    /// It runs to its end although the future is dropped: a server drops its handler when the
    /// caller hangs up, and a branch that was prepared and not enlisted would be forgotten.
    ///
    /// # Errors
    /// [`EarlyPrepareError`]: answer the call with an error, so that the initiator aborts.
    pub async fn prepare(self, assent: &impl Enlist) -> Result<(), EarlyPrepareError> {
        let assent = assent.clone();
        match tokio::spawn(async move { self.prepare_and_enlist(&assent).await }).await {
            Ok(result) => result,
            // The runtime shuts down. What is prepared by then is found in doubt at the next start.
            Err(error) => Err(EarlyPrepareError::InDoubt(error.into())),
        }
    }

    async fn prepare_and_enlist(mut self, assent: &impl Enlist) -> Result<(), EarlyPrepareError> {
        let Open { checkout, expiry } = self.take();
        // PREPARE TRANSACTION and its answer are bounded, and what is prepared waits for the
        // decision.
        expiry.disarm()?;
        match preparing::prepare(checkout, &self.gid).await {
            Ok(Prepared::Now) => {}
            // Of two calls at the same time, the other was first. That branch is enlisted by that
            // call.
            Ok(Prepared::Before) => return Err(PostgresError::AlreadyPrepared.into()),
            Ok(Prepared::Refused(reason)) => return Err(EarlyPrepareError::WorkRefused(reason)),
            Err(error) => {
                if matches!(error, PostgresError::Statement { .. } | PostgresError::NoAnswer { .. }) {
                    // It may be prepared, and nobody but this process knows of it.
                    self.roll_back_prepared().await;
                }
                return Err(error.into());
            }
        }
        match assent.enlist(self.key, EarlyVote::Yes).await {
            Ok(()) => Ok(()),
            // There is a branch of this name already that may rest on what is prepared here. It
            // will end both.
            Err(error @ (EnlistError::Unknown | EnlistError::Duplicate(_))) => {
                Err(EarlyPrepareError::InDoubt(error.into()))
            }
            Err(error @ (EnlistError::Refused(_) | EnlistError::NotAParticipant | EnlistError::Closed)) => {
                self.roll_back_prepared().await;
                Err(EarlyPrepareError::NotEnlisted(error))
            }
        }
    }

    /// Rolls the work back and waits for it.
    pub async fn roll_back(mut self) {
        self.take().roll_back().await;
    }

    /// Ends a prepared transaction that is no branch of anything; in the background if it cannot be
    /// done at once. Should the process die over it, it is found in doubt at the next start.
    async fn roll_back_prepared(&self) {
        let Ok(coordinator) = self.shared.started_for() else { return };
        if self.shared.end(End::RollBack, Coming::MayCome, coordinator, self.key).await.is_ok() {
            return;
        }
        let (shared, coordinator, key) = (Arc::clone(&self.shared), coordinator.to_owned(), self.key);
        tokio::spawn(async move {
            let mut pause = Duration::from_millis(100);
            while let Err(error) = shared.end(End::RollBack, Coming::MayCome, &coordinator, key).await {
                tracing::warn!(gtid = %key.gtid, branch = %key.id, %error, "a prepared transaction that takes no part is still to be rolled back");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(10));
            }
        });
    }

    fn take(&mut self) -> Open {
        self.open.take().expect("a guard is consumed once")
    }
}

impl Drop for PostgresGuard {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else { return };
        // Outside of a runtime the connection is closed, which rolls back too.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(open.roll_back());
        }
    }
}

/// How long a branch may stay open that begins after its transaction's deadline by this machine's
/// clock. Either the clocks differ, or the work is in vain and the coordinator will say so.
const PAST_DEADLINE_MAX: Duration = Duration::from_secs(5);

/// The time until the transaction's deadline; zero, for no limit, where the context tells none.
fn time_left(context: &Context, now: SystemTime) -> Duration {
    let Some(deadline_unix_ms) = context.deadline_unix_ms else { return Duration::ZERO };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    match Duration::from_millis(deadline_unix_ms).checked_sub(now) {
        Some(time_left) if !time_left.is_zero() => time_left,
        Some(_) | None => PAST_DEADLINE_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_may_be_open_until_the_deadline() {
        let gtid = "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("a gtid");
        let context = |deadline_unix_ms| Context {
            gtid,
            coordinator: "http://localhost:7420".into(),
            deadline_unix_ms,
            epoch: None,
        };
        let now = UNIX_EPOCH + Duration::from_millis(10_000);
        assert_eq!(time_left(&context(None), now), Duration::ZERO);
        assert_eq!(time_left(&context(Some(12_500)), now), Duration::from_millis(2_500));
        assert_eq!(time_left(&context(Some(10_000)), now), PAST_DEADLINE_MAX, "zero would be no limit");
        assert_eq!(time_left(&context(Some(9_000)), now), PAST_DEADLINE_MAX);
    }
}
