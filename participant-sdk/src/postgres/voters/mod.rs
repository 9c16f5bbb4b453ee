//! A voter's state in the participant's own Postgres database.
//!
//! One task owns one connection: whatever queued while its last batch was under way goes out as one
//! statement for reading, one for keeping and one for deleting, so that votes at the same time
//! share a round trip and a flush. Records are kept by compare-and-set against the state that they
//! replace, in that very statement: instances that share the table find out who was first.
//!
//! A connection of its own, so that a vote never waits behind work for one, which may itself wait
//! for locks that only the end of a prepared branch releases.
//!
//! | file | subject |
//! |---|---|
//! | `clerk.rs` | the task with its connection, and what it does together |
//! | `rows.rs` | records as rows, and back |
//! | `schema.sql` | the table |

mod clerk;
mod rows;

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use assent_protocol::three_phase::{StoreId, VoterRecord};
use assent_protocol::{Gtid, ParticipantName};
use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use self::clerk::{Answer, Ask, Cache, Clerk, cache};
use self::rows::{LIST, read};
use super::error::{sqlstate, sqlstate_of};
use crate::voter::VoterStoreError;
use crate::voter::store::{Identity, Kept, Recalled, Store, Write, readable};

/// A voter's state in the participant's own Postgres database, in the table `assent_voter`, which
/// the participant's instances share.
///
/// ```no_run
/// use assent_sdk::postgres::PostgresVoters;
/// # use assent_sdk::{Assent, BoxError, Participant};
/// # async fn example(bank: impl Participant) -> Result<(), BoxError> {
/// let voters = PostgresVoters::new("postgres://bank@localhost/bank".parse()?);
/// voters.install().await?;
/// let assent = Assent::dial("http://127.0.0.1:7420")
///     .participant("bank-a", bank)
///     .voter(voters, "http://10.0.0.7:7421")
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
///
/// It uses one connection. The record of a vote is not part of the branch's prepared transaction,
/// in which no other session could read it; see [`voter`](crate::voter) for what a crash in between leaves.
#[derive(Clone)]
pub struct PostgresVoters {
    shared: Arc<Shared>,
}

struct Shared {
    options: PgConnectOptions,
    owner: OnceLock<ParticipantName>,
    asks: mpsc::Sender<Ask>,
    /// Until the task that takes them is started.
    queue: Mutex<Option<mpsc::Receiver<Ask>>>,
    known: Arc<Mutex<Cache>>,
}

/// Questions that may wait; a full queue makes those who ask wait.
const ASKS_MAX: usize = 4_096;
/// How long the database may take to accept a connection, and to answer a batch.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The statements that create the table.
const SCHEMA: &str = include_str!("schema.sql");

impl PostgresVoters {
    /// A store in this database. It connects when it is used.
    pub fn new(database: PgConnectOptions) -> Self {
        let (asks, queue) = mpsc::channel(ASKS_MAX);
        let shared = Shared {
            options: database,
            owner: OnceLock::new(),
            asks,
            queue: Mutex::new(Some(queue)),
            known: Arc::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The statements that create the table, for the service's own migrations. They may be run
    /// again.
    pub fn schema() -> &'static str {
        SCHEMA
    }

    /// Creates the table if it is not there.
    ///
    /// # Errors
    /// [`VoterStoreError::Database`], for example because the role may not create tables.
    pub async fn install(&self) -> Result<(), VoterStoreError> {
        let mut connection = connect(&self.shared.options).await?;
        // One message is one transaction, and the lock is for instances that start at the same
        // time; the key is `assent_v` in ASCII.
        let sql = format!("select pg_advisory_xact_lock(7022083123482746742);\n{SCHEMA}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.map_err(failed("create their table"))?;
        connection.close().await.ok();
        Ok(())
    }

    async fn claim(&self, me: &ParticipantName) -> Result<Identity, VoterStoreError> {
        let owner = self.shared.owner.get_or_init(|| me.clone());
        if owner != me {
            return Err(VoterStoreError::OtherParticipant { owner: owner.to_string(), asked: me.clone() });
        }
        let mut connection = connect(&self.shared.options).await?;
        let mut other = connect(&self.shared.options).await?;
        let are_shared = within(assent_postgres::shares_sessions(&mut connection, &mut other));
        if are_shared.await.map_err(failed("look whose their session is"))? {
            return Err(VoterStoreError::TransactionPooler);
        }
        other.close().await.ok();
        let unfit = |error: sqlx::Error| match sqlstate_of(&error) {
            Some(_) => VoterStoreError::Table(error.into()),
            None => failed("read their identity")(error),
        };
        let flushes: bool = sqlx::query_scalar("select current_setting('synchronous_commit') <> 'off'")
            .fetch_one(&mut connection)
            .await
            .map_err(failed("read the server's settings"))?;
        if !flushes {
            return Err(VoterStoreError::NotFlushed);
        }
        // The instance that comes second finds the first one's.
        sqlx::query(
            "insert into assent_voter (participant, gtid, store_id) values ($1, $2, $3)
             on conflict (participant, gtid) do nothing",
        )
        .bind(me.as_str())
        .bind(Uuid::nil())
        .bind(Uuid::from_u128(rand::random()))
        .execute(&mut connection)
        .await
        .map_err(unfit)?;
        let row = sqlx::query("select store_id, coordinator from assent_voter where participant = $1 and gtid = $2")
            .bind(me.as_str())
            .bind(Uuid::nil())
            .fetch_one(&mut connection)
            .await
            .map_err(unfit)?;
        connection.close().await.ok();
        let id: Uuid = row.try_get("store_id").map_err(unfit)?;
        let coordinator = row.try_get("coordinator").map_err(unfit)?;
        let queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(queue) = queue {
            let clerk = Clerk::new(self.shared.options.clone(), me.clone(), Arc::clone(&self.shared.known));
            tokio::spawn(clerk.run(queue));
        }
        Ok(Identity { id: StoreId(id.as_u128()), coordinator })
    }

    async fn bind_to(&self, found: String) -> Result<(), VoterStoreError> {
        let me = self.shared.owner.get().map(ParticipantName::as_str).unwrap_or_default();
        let mut connection = connect(&self.shared.options).await?;
        let bound: String = sqlx::query_scalar(
            "update assent_voter set coordinator = coalesce(coordinator, $3) where participant = $1 and gtid = $2
             returning coordinator",
        )
        .bind(me)
        .bind(Uuid::nil())
        .bind(&found)
        .fetch_one(&mut connection)
        .await
        .map_err(failed("keep the coordinator's id"))?;
        connection.close().await.ok();
        if bound == found { Ok(()) } else { Err(VoterStoreError::OtherCoordinator { bound, found }) }
    }

    async fn list(&self) -> Result<Vec<VoterRecord>, VoterStoreError> {
        let me = self.shared.owner.get().map(ParticipantName::as_str).unwrap_or_default();
        let mut connection = connect(&self.shared.options).await?;
        let rows = sqlx::query(LIST)
            .bind(me)
            .bind(Uuid::nil())
            .fetch_all(&mut connection)
            .await
            .map_err(failed("list the votes"))?;
        connection.close().await.ok();
        Ok(readable(rows.iter().map(|row| read(me, row))).collect())
    }

    async fn ask<T>(&self, ask: impl FnOnce(Answer<T>) -> Ask) -> Result<T, VoterStoreError> {
        let gone = || VoterStoreError::Database { doing: "keep votes", source: "its task has ended".into() };
        let (answer, answered) = oneshot::channel();
        self.shared.asks.send(ask(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Store for PostgresVoters {
    fn open(&self, me: &ParticipantName) -> BoxFuture<'_, Result<Identity, VoterStoreError>> {
        let me = me.clone();
        async move { self.claim(&me).await }.boxed()
    }

    fn bind(&self, coordinator: &str) -> BoxFuture<'_, Result<(), VoterStoreError>> {
        self.bind_to(coordinator.to_owned()).boxed()
    }

    fn recall(&self, gtid: Gtid) -> Recalled {
        match cache(&self.shared.known).get(&gtid) {
            Some(record) => Recalled::Known(Some(Arc::clone(record))),
            None => Recalled::Unknown,
        }
    }

    fn load(&self, gtid: Gtid) -> BoxFuture<'_, Result<Option<Arc<VoterRecord>>, VoterStoreError>> {
        self.ask(move |answer| Ask::Load(gtid, answer)).boxed()
    }

    fn append(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Vec<Kept>, VoterStoreError>> {
        // What is asked at once shares a statement.
        let asks = writes.into_iter().map(|write| self.ask(|answer| Ask::Append(write, answer)));
        try_join_all(asks.collect::<Vec<_>>()).boxed()
    }

    /// Other instances are to find it, too.
    fn note(&self, _write: &Write) -> bool {
        false
    }

    fn keep_notes(&self) -> BoxFuture<'_, Result<(), VoterStoreError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn forget(&self, gtids: Vec<Gtid>) -> BoxFuture<'_, Result<(), VoterStoreError>> {
        self.ask(move |answer| Ask::Forget(gtids, answer)).boxed()
    }

    fn all(&self) -> BoxFuture<'_, Result<Vec<VoterRecord>, VoterStoreError>> {
        self.list().boxed()
    }
}

impl fmt::Debug for PostgresVoters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the options, which hold the password.
        f.debug_struct("PostgresVoters").field("owner", &self.shared.owner).finish_non_exhaustive()
    }
}

/// A statement that is not answered in time leaves a connection of no more use.
async fn within<T>(statement: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let no_answer = || std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time");
    tokio::time::timeout(ANSWER_WITHIN, statement).await.unwrap_or_else(|_| Err(sqlx::Error::Io(no_answer())))
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, VoterStoreError> {
    within(PgConnection::connect_with(options)).await.map_err(failed("connect"))
}

fn failed(doing: &'static str) -> impl Fn(sqlx::Error) -> VoterStoreError {
    move |error| match sqlstate_of(&error).as_deref() {
        Some(sqlstate::UNDEFINED_TABLE) => VoterStoreError::Table(error.into()),
        Some(_) | None => VoterStoreError::Database { doing, source: error.into() },
    }
}
