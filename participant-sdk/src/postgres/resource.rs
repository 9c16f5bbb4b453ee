//! The resource: a participant whose branches are prepared transactions of its own Postgres
//! database.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use assent_protocol::{BranchKey, ParticipantName};
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;

use super::barrier::{Barrier, BranchRecord};
use super::connections::{self, Checkout, Lane};
use super::ending::{Coming, End, Ended};
use super::error::PostgresError;
use super::gid::{Gid, Prefix};
use super::hazards::{Ends, Hazards};
use super::locks;
use super::preparing::{self, Committed, Prepared};
use super::session::ANSWER_WITHIN;
use crate::participant::{BoxError, Branch, Coordinator, Heuristic, Participant, Vote};
use crate::unreadable;

/// The work of a branch: what a participant does in its database for a transaction.
///
/// It runs inside a transaction that the resource has begun and will end. It has effect if and only
/// if the distributed transaction commits.
pub trait PostgresWork: Send + Sync + 'static {
    /// Does the work and says whether it may commit.
    ///
    /// After [`Vote::No`], [`Vote::ReadOnly`] and errors it is rolled back. It may be called again
    /// for the same transaction after that. Return the errors of statements: a transaction in which
    /// one failed cannot be prepared. A transaction begun on `connection` is a savepoint. What
    /// Postgres cannot prepare is: a transaction that has used a temporary table or any other
    /// temporary object, has declared a cursor `with hold`, has run `listen`, `unlisten` or
    /// `notify` (`pg_notify` too, be it in a trigger), has exported a snapshot, has changed a
    /// subscription, or holds the same advisory lock for itself and for its session.
    ///
    /// Its statements end at the transaction's deadline, and it waits for locks no longer than
    /// [`with_lock_wait`](PostgresResource::with_lock_wait) says; limits that the role, the
    /// database or the server set are kept where they are shorter.
    ///
    /// What it sets in its session (roles, settings, session-level advisory locks) is undone when
    /// the branch has been prepared, committed or rolled back, so that the next branch finds the
    /// session as it was configured; only statements made by SQL's PREPARE are the work's own to
    /// deallocate, by name: `deallocate all` takes along what the session is cleared with, and so
    /// fails the branch. The session must be the resource's own: a pooler in front of the database
    /// must not pool transactions.
    ///
    /// # Errors
    /// An error aborts the transaction, without saying that this participant refused it;
    /// [`Unreadable`](crate::Unreadable) alone is a no.
    fn perform(
        &self,
        branch: &Branch,
        connection: &mut PgConnection,
    ) -> impl Future<Output = Result<Vote, BoxError>> + Send;
}

/// For a participant whose service only prepares by itself, through [`PostgresResource::begin`]: it
/// refuses to be asked to prepare.
#[derive(Clone, Copy, Debug, Default)]
pub struct EarlyOnly;

impl PostgresWork for EarlyOnly {
    async fn perform(&self, _: &Branch, _: &mut PgConnection) -> Result<Vote, BoxError> {
        Ok(Vote::no("this participant works when its service is called, and takes no work from the initiator"))
    }
}

/// A participant whose branches are prepared transactions in its own Postgres database.
///
/// Prepare is BEGIN, the work, PREPARE TRANSACTION; then COMMIT PREPARED or ROLLBACK PREPARED. All
/// of them may be repeated, by any instance. The server needs `max_prepared_transactions` of at
/// least `max_connections`, which is checked at the start.
///
/// A clone is the same resource: register one as the participant, and keep another for
/// [`begin`](Self::begin).
///
/// # In-doubt branches
/// They are what `pg_prepared_xacts` lists under gids that begin with
/// `assent:{coordinator}:{database OID}:{participant}:`. Whatever is called otherwise is never
/// touched. They hold their locks until they end, and survive restarts and failovers of the
/// database.
///
/// # Recorded branches
/// [`recorded`](Self::recorded) writes a row for each branch, in the branch's own transaction. It
/// costs an insert, and for an abort a transaction that commits a tombstone. It gives
/// - one-phase commit, where a transaction has one branch only;
/// - the knowledge of how a branch ended that somebody has ended by hand;
/// - aborts that fence: once one is acknowledged, the branch cannot be prepared any more, not even
///   by a process that has been standing still, or by a PREPARE TRANSACTION that the network has
///   held up.
///
/// Without it a branch that is gone, and that this process has not ended itself, counts as ended
/// the way it was decided; such [`hazards`](Self::hazards) are counted and logged. And an abort
/// sees a PREPARE TRANSACTION that the server is executing, but none that is still on its way: such
/// a branch is prepared after its abort, and keeps its locks until it is found by
/// [`in_doubt_for`](Self::in_doubt_for) or at the next start, and aborted again.
///
/// Records and tombstones stay until [`Barrier::clean_up`] deletes those of ended transactions that
/// have not changed for the time that it is given: a tombstone fences for at least as long, so
/// choose a time longer than any process or message is held up.
///
/// ```no_run
/// use assent_sdk::postgres::{PostgresResource, PostgresWork};
/// use assent_sdk::{BoxError, Branch, Vote};
/// use sqlx::PgConnection;
///
/// struct Withdraw;
///
/// impl PostgresWork for Withdraw {
///     async fn perform(&self, branch: &Branch, connection: &mut PgConnection) -> Result<Vote, BoxError> {
///         let (account, amount): (String, i64) = branch.json()?;
///         let withdrawn = sqlx::query("update account set balance = balance - $2 where id = $1 and balance >= $2")
///             .bind(&account)
///             .bind(amount)
///             .execute(connection)
///             .await?;
///         if withdrawn.rows_affected() == 1 { Ok(Vote::Yes) } else { Ok(Vote::no("insufficient funds")) }
///     }
/// }
///
/// # fn example() -> Result<(), BoxError> {
/// let bank = PostgresResource::new("bank-a".parse()?, "postgres://bank@localhost/bank".parse()?, Withdraw);
/// # Ok(()) }
/// ```
pub struct PostgresResource<W, const RECORDED: bool = false> {
    pub(super) shared: Arc<Shared>,
    work: Arc<W>,
}

/// What clones of a resource, and the guards of its transactions, have in common.
pub(super) struct Shared {
    pub(super) participant: ParticipantName,
    /// For transactions that do a branch's work, and so wait for locks.
    pub(super) works: Arc<Lane>,
    /// For what ends branches, which waits for nobody.
    pub(super) ends: Arc<Lane>,
    pub(super) recorded_in: Option<Barrier>,
    pub(super) ended: Arc<Ends>,
    /// How long work waits for a lock; zero for as long as it has time.
    pub(super) lock_wait_max: Duration,
    /// The id of the coordinator that the resource was started for.
    coordinator: OnceLock<String>,
}

/// The most connections, unless [`PostgresResource::with_connections`] says otherwise.
const CONNECTIONS_MAX: usize = 24;

/// When work has taken this long, it is looked up whether it waits for its own branch, prepared by
/// another instance.
const PATIENCE: Duration = Duration::from_millis(250);

impl<W: PostgresWork> PostgresResource<W> {
    /// A resource for a participant, with connections of its own. It connects when it is used.
    pub fn new(participant: ParticipantName, database: PgConnectOptions, work: W) -> Self {
        let shared = Shared::new(participant, database);
        Self { shared: Arc::new(shared), work: Arc::new(work) }
    }

    /// Records each branch in the barrier's table, which must be [installed](Barrier::install).
    ///
    /// Switch this on or off only while no branch is in doubt: one that was prepared without a
    /// record and ends with one looks as if it had been rolled back by hand.
    #[must_use]
    pub fn recorded(self, barrier: Barrier) -> PostgresResource<W, true> {
        let shared = self.shared.rebuilt(|shared| shared.recorded_in = Some(barrier));
        PostgresResource { shared, work: self.work }
    }
}

impl PostgresResource<EarlyOnly> {
    /// A resource for a participant whose service does all work by itself, between
    /// [`begin`](Self::begin) and [`prepare`](super::PostgresGuard::prepare).
    pub fn early(participant: ParticipantName, database: PgConnectOptions) -> Self {
        Self::new(participant, database, EarlyOnly)
    }
}

impl<W, const RECORDED: bool> PostgresResource<W, RECORDED> {
    /// How many connections it may have; 24 by default, at least 2. One of eight is for committing
    /// and aborting prepared branches alone.
    ///
    /// A connection is in use for work from BEGIN until PREPARE TRANSACTION; so there are fewer
    /// branches at work in this process than it has connections, while any number may be prepared.
    #[must_use]
    pub fn with_connections(mut self, connections_max: usize) -> Self {
        let database = self.shared.works.options().clone();
        self.shared =
            self.shared.rebuilt(|shared| (shared.works, shared.ends) = connections::lanes(database, connections_max));
        self
    }
}

impl<W, const RECORDED: bool> PostgresResource<W, RECORDED> {
    /// How long the work of a branch waits for a lock, give or take a quarter; 4 seconds by
    /// default. Zero: for as long as the transaction has time.
    ///
    /// The locks of a prepared branch are held until its transaction ends everywhere, so two
    /// transactions may wait for each other in two databases, where no database sees it. The
    /// bound ends that, long before a transaction's timeout would; the transaction aborts, and the
    /// reason names who held the lock.
    #[must_use]
    pub fn with_lock_wait(mut self, lock_wait_max: Duration) -> Self {
        self.shared = self.shared.rebuilt(|shared| shared.lock_wait_max = lock_wait_max);
        self
    }

    /// How often it was not known whether a branch had ended as ordered. With
    /// [`recorded`](PostgresResource::recorded) it always is.
    pub fn hazards(&self) -> Hazards {
        self.shared.ended.hazards()
    }

    /// The branches that have been prepared for at least `prepared_for` and have not ended: those
    /// in doubt, without the ones that are voting at this moment. For looking again while the
    /// participant is up.
    ///
    /// # Errors
    /// [`PostgresError`], when the database cannot be asked.
    pub async fn in_doubt_for(
        &self,
        about: &Coordinator,
        prepared_for: Duration,
    ) -> Result<Vec<BranchKey>, PostgresError> {
        self.shared.in_doubt(about, prepared_for).await
    }
}

impl<W, const RECORDED: bool> Clone for PostgresResource<W, RECORDED> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), work: Arc::clone(&self.work) }
    }
}

impl Shared {
    fn new(participant: ParticipantName, database: PgConnectOptions) -> Self {
        let (works, ends) = connections::lanes(database, CONNECTIONS_MAX);
        Self {
            participant,
            works,
            ends,
            recorded_in: None,
            ended: Arc::default(),
            lock_wait_max: locks::WAIT_MAX,
            coordinator: OnceLock::new(),
        }
    }

    /// Another one with something changed. Clones of the resource made before keep the old one.
    fn rebuilt(&self, change: impl FnOnce(&mut Self)) -> Arc<Self> {
        let mut shared = Self {
            participant: self.participant.clone(),
            works: Arc::clone(&self.works),
            ends: Arc::clone(&self.ends),
            recorded_in: self.recorded_in.clone(),
            ended: Arc::clone(&self.ended),
            lock_wait_max: self.lock_wait_max,
            coordinator: OnceLock::new(),
        };
        change(&mut shared);
        Arc::new(shared)
    }

    /// The coordinator that it was started for.
    pub(super) fn started_for(&self) -> Result<&str, PostgresError> {
        self.coordinator.get().map(String::as_str).ok_or(PostgresError::NotJoined)
    }

    /// Binds it to a coordinator, once.
    pub(super) fn serve(&self, coordinator: &Coordinator) -> Result<(), PostgresError> {
        let started = self.coordinator.get_or_init(|| coordinator.id.clone());
        if *started == coordinator.id {
            return Ok(());
        }
        Err(PostgresError::OtherCoordinator { started: started.clone(), asked: coordinator.id.clone() })
    }

    fn check(&self, branch: &Branch) -> Result<(), PostgresError> {
        if *branch.participant() != self.participant {
            let (made_for, asked) = (self.participant.clone(), branch.participant().clone());
            return Err(PostgresError::OtherParticipant { made_for, asked });
        }
        self.serve(branch.coordinator())
    }

    async fn is_prepared(&self, gid: &Gid) -> Result<bool, PostgresError> {
        let mut checkout = self.ends.acquire(ANSWER_WITHIN).await?;
        let is_prepared = preparing::is_prepared(&mut checkout.session, gid).await?;
        checkout.release();
        Ok(is_prepared)
    }

    /// What the record says of the branch.
    async fn record_of(&self, barrier: &Barrier, key: BranchKey) -> Result<Option<BranchRecord>, PostgresError> {
        let mut checkout = self.ends.acquire(ANSWER_WITHIN).await?;
        let record = barrier.branch_record(&mut checkout.session.connection, key, &self.participant).await?;
        checkout.release();
        Ok(record)
    }
}

/// How the work of a branch went.
enum Worked {
    /// It said what may be done with it.
    Voted(Vote),
    /// There is a record of how the branch has ended.
    EndedBefore(BranchRecord),
    /// Another instance has prepared the branch, and this work would wait for that one's locks.
    PreparedBefore,
}

impl<W: PostgresWork, const RECORDED: bool> PostgresResource<W, RECORDED> {
    /// Runs the work in a fresh transaction, which stays open.
    async fn work(&self, branch: &Branch) -> Result<(Checkout, Gid, Worked), BoxError> {
        self.shared.check(branch)?;
        let mut checkout = self.shared.works.begin(branch.timeout(), self.shared.lock_wait_max).await?;
        let gid =
            Prefix::new(&branch.coordinator().id, checkout.session.database, branch.participant())?.gid(branch.key());
        match self.work_on(branch, &mut checkout, &gid).await {
            Ok(worked) => Ok((checkout, gid, worked)),
            Err(Failed::Returned(error)) => {
                preparing::roll_back(checkout).await;
                Err(error)
            }
            // What is under way on the connection is ended at the server.
            Err(Failed::TooLate { blocker }) => {
                Err(PostgresError::TooLate { waited_ms: branch.timeout().as_millis(), blocker }.into())
            }
        }
    }

    async fn work_on(&self, branch: &Branch, checkout: &mut Checkout, gid: &Gid) -> Result<Worked, Failed> {
        let backend = checkout.session.backend;
        let connection = &mut checkout.session.connection;
        let mut work = pin!(async {
            if let Some(barrier) = &self.shared.recorded_in
                && let Some(record) = barrier.record_branch(connection, branch.key(), branch.participant()).await?
            {
                return Ok(Worked::EndedBefore(record));
            }
            match self.work.perform(branch, connection).await {
                Ok(vote) => Ok(Worked::Voted(vote)),
                Err(error) => match unreadable::refusal(&*error) {
                    Some(reason) => Ok(Worked::Voted(Vote::No(reason))),
                    None => Err(error),
                },
            }
        });
        let time_is_up = async {
            if branch.timeout().is_zero() {
                std::future::pending().await
            } else {
                tokio::time::sleep(branch.timeout()).await;
            }
        };
        let mut time_is_up = pin!(time_is_up);
        let (mut patience, mut blocker) = (PATIENCE, None);
        loop {
            tokio::select! {
                biased;
                worked = &mut work => {
                    return worked.map_err(|error| Failed::Returned(locks::with_blocker(error, blocker)));
                }
                () = &mut time_is_up => return Err(Failed::TooLate { blocker }),
                () = tokio::time::sleep(patience) => patience *= 2,
            }
            // The lookups are a favour: if they fail, the work goes on and finds out by itself.
            if self.shared.is_prepared(gid).await.unwrap_or(false) {
                return Ok(Worked::PreparedBefore);
            }
            if let Ok(Some(holder)) = self.shared.blocker_of(backend).await {
                blocker = Some(holder);
            }
        }
    }

    async fn prepare_branch(&self, branch: &Branch) -> Result<Vote, BoxError> {
        let (checkout, gid, worked) = self.work(branch).await?;
        match worked {
            Worked::Voted(Vote::Yes) => match preparing::prepare(checkout, &gid).await? {
                Prepared::Now | Prepared::Before => Ok(Vote::Yes),
                Prepared::Refused(reason) => Ok(Vote::No(reason)),
            },
            Worked::Voted(vote) => {
                preparing::roll_back(checkout).await;
                Ok(vote)
            }
            Worked::EndedBefore(record) => {
                preparing::roll_back(checkout).await;
                Ok(vote_again(record))
            }
            // The connection is in the middle of a statement, which is ended at the server.
            Worked::PreparedBefore => Ok(Vote::Yes),
        }
    }
}

/// The vote of a branch that has ended before this call of its work. After a yes, a commit finds it
/// ended as decided; an abort finds that it is too late and says so.
fn vote_again(record: BranchRecord) -> Vote {
    match record {
        BranchRecord::Committed => Vote::Yes,
        BranchRecord::Aborted => Vote::no("the branch was aborted before this work came"),
    }
}

/// Why there is nothing to vote about.
enum Failed {
    Returned(BoxError),
    TooLate { blocker: Option<String> },
}

impl<W: PostgresWork, const RECORDED: bool> Participant for PostgresResource<W, RECORDED> {
    const ONE_PHASE: bool = RECORDED;

    async fn prepare(&self, branch: &Branch) -> Result<Vote, BoxError> {
        self.prepare_branch(branch).await
    }

    async fn commit(&self, branch: &Branch) -> Result<(), BoxError> {
        self.shared.check(branch)?;
        let ended = self.shared.end(End::Commit, Coming::IsFenced, &branch.coordinator().id, branch.key()).await?;
        match (ended, &self.shared.recorded_in) {
            (Ended::Now, _) => {
                self.shared.ended.remember(branch.key(), End::Commit);
                Ok(())
            }
            (Ended::Before, None) => match self.shared.ended.of_unrecorded(branch.key(), End::Commit) {
                End::Commit => Ok(()),
                End::RollBack => Err(Heuristic::Aborted.into()),
            },
            (Ended::Before, Some(barrier)) => match self.shared.record_of(barrier, branch.key()).await? {
                Some(BranchRecord::Committed) => Ok(()),
                Some(BranchRecord::Aborted) | None => Err(Heuristic::Aborted.into()),
            },
        }
    }

    async fn abort(&self, branch: &Branch) -> Result<(), BoxError> {
        self.shared.check(branch)?;
        let (coordinator, key) = (&branch.coordinator().id, branch.key());
        let Some(barrier) = &self.shared.recorded_in else {
            let ended = self.shared.end(End::RollBack, Coming::MayCome, coordinator, key).await?;
            return match ended {
                Ended::Now => {
                    self.shared.ended.remember(key, End::RollBack);
                    Ok(())
                }
                Ended::Before => match self.shared.ended.of_unrecorded(key, End::RollBack) {
                    End::RollBack => Ok(()),
                    End::Commit => Err(Heuristic::Committed.into()),
                },
            };
        };
        match self.shared.abort_recorded(barrier, coordinator, key).await? {
            BranchRecord::Aborted => Ok(()),
            BranchRecord::Committed => Err(Heuristic::Committed.into()),
        }
    }

    async fn start(&self, about: &Coordinator) -> Result<(), BoxError> {
        Ok(self.shared.start(about).await?)
    }

    async fn in_doubt(&self, about: &Coordinator) -> Result<Vec<BranchKey>, BoxError> {
        Ok(self.shared.in_doubt(about, Duration::ZERO).await?)
    }

    async fn commit_one_phase(&self, branch: &Branch) -> Result<Vote, BoxError> {
        if !RECORDED {
            return Err("this resource does not commit in one phase: it records no branches".into());
        }
        let (checkout, _, worked) = self.work(branch).await?;
        match worked {
            Worked::Voted(Vote::Yes) => match preparing::commit(checkout).await? {
                Committed::Now => Ok(Vote::Yes),
                Committed::Refused(reason) => Ok(Vote::No(reason)),
            },
            Worked::Voted(vote) => {
                preparing::roll_back(checkout).await;
                Ok(vote)
            }
            Worked::EndedBefore(record) => {
                preparing::roll_back(checkout).await;
                Ok(vote_again(record))
            }
            // By an order of an earlier coordinator, which went no further: had it decided, this
            // one would carry that out. The decision is this branch's now.
            Worked::PreparedBefore => {
                self.commit(branch).await?;
                Ok(Vote::Yes)
            }
        }
    }
}
