//! A voter's state in the participant's own Postgres database.
//!
//! One task owns one connection: whatever queued while its last batch was under way goes out as one
//! statement for reading, one for keeping and one for deleting, so that votes at the same time
//! share a round trip and a flush. Records are kept by compare-and-set against the state that they
//! replace, in that very statement: instances that share the table find out who was first.
//!
//! A connection of its own, so that a vote never waits behind work for one, which may itself wait
//! for locks that only the end of a prepared branch releases.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use assent_protocol::three_phase::{Ballot, NodeId, Roster, Standing, StoreId, VoterName, VoterRecord, VoterState};
use assent_protocol::{Gtid, GtidMap, ParticipantName};
use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::error::{is_connection_lost, sqlstate, sqlstate_of};
use crate::voter::VoterStoreError;
use crate::voter::store::{Identity, Kept, Recalled, Store, Write, durable, readable};

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
/// in which nobody could read it; see [`voter`](crate::voter) for what a crash in between leaves.
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

/// The records that this instance has seen last. Another one may have changed them: whoever appends
/// finds out.
type Cache = GtidMap<Arc<VoterRecord>>;
/// How many of them are remembered.
const CACHE_MAX: usize = 16_384;

type Answer<T> = oneshot::Sender<Result<T, VoterStoreError>>;

/// What the task is asked to do.
enum Ask {
    Load(Gtid, Answer<Option<Arc<VoterRecord>>>),
    Append(Write, Answer<Kept>),
    Forget(Vec<Gtid>, Answer<()>),
}

/// Questions that may wait; a full queue makes those who ask wait.
const ASKS_MAX: usize = 4_096;
/// Questions of one batch.
const BATCH_MAX: usize = 1_024;
/// How long the database may take to accept a connection, and to answer a batch.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

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
        // Whoever comes second finds the first one's.
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
            let clerk = Clerk {
                options: self.shared.options.clone(),
                me: me.clone(),
                connection: None,
                known: Arc::clone(&self.shared.known),
            };
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

// ---- the task --------------------------------------------------------------------------------------------------------------

/// The owner of the connection.
struct Clerk {
    options: PgConnectOptions,
    me: ParticipantName,
    connection: Option<PgConnection>,
    known: Arc<Mutex<Cache>>,
}

/// What is carried out together. A transaction has at most one append in it.
#[derive(Default)]
struct Batch {
    loads: Vec<(Gtid, Answer<Option<Arc<VoterRecord>>>)>,
    appends: Vec<(Write, Answer<Kept>)>,
    forgets: Vec<(Vec<Gtid>, Answer<()>)>,
    /// Waits for the next batch.
    later: Vec<Ask>,
}

impl Batch {
    fn of(asks: impl IntoIterator<Item = Ask>) -> Self {
        let mut batch = Self::default();
        let mut appended = HashSet::new();
        for ask in asks {
            match ask {
                Ask::Load(gtid, answer) => batch.loads.push((gtid, answer)),
                Ask::Append(write, answer) if appended.insert(write.record.gtid) => {
                    batch.appends.push((write, answer));
                }
                Ask::Append(..) => batch.later.push(ask),
                Ask::Forget(gtids, answer) => batch.forgets.push((gtids, answer)),
            }
        }
        batch
    }
}

impl Clerk {
    /// Works until nobody is left who could ask.
    async fn run(mut self, mut queue: mpsc::Receiver<Ask>) {
        let mut asks = Vec::with_capacity(BATCH_MAX);
        while !asks.is_empty() || queue.recv_many(&mut asks, BATCH_MAX).await > 0 {
            let batch = Batch::of(asks.drain(..));
            self.append(batch.appends).await;
            self.load(batch.loads).await;
            self.forget(batch.forgets).await;
            asks.extend(batch.later);
            // What has queued meanwhile goes along.
            while asks.len() < BATCH_MAX
                && !asks.is_empty()
                && let Ok(ask) = queue.try_recv()
            {
                asks.push(ask);
            }
        }
    }

    async fn append(&mut self, appends: Vec<(Write, Answer<Kept>)>) {
        if appends.is_empty() {
            return;
        }
        let (writes, answers): (Vec<_>, Vec<_>) = appends.into_iter().unzip();
        let rows = Rows::of(&writes);
        match self.on_connection(Statement::Keep(&rows)).await {
            Ok(kept) => {
                let kept: HashSet<Uuid> = kept.iter().filter_map(gtid_of).collect();
                let mut cache = cache(&self.known);
                if cache.len() > CACHE_MAX {
                    cache.clear();
                }
                for (Write { record, .. }, answer) in writes.into_iter().zip(answers) {
                    let (gtid, id) = (record.gtid, record.id());
                    let is_kept = kept.contains(&gtid.as_uuid());
                    if is_kept {
                        cache.insert(gtid, record);
                    } else {
                        cache.remove(&gtid);
                    }
                    answer.send(Ok(if is_kept { durable(id) } else { Kept::Overtaken })).ok();
                }
            }
            Err(error) => {
                let mut cache = cache(&self.known);
                for (Write { record, .. }, answer) in writes.into_iter().zip(answers) {
                    // It may have been written.
                    cache.remove(&record.gtid);
                    answer.send(Err(error.told())).ok();
                }
            }
        }
    }

    async fn load(&mut self, loads: Vec<(Gtid, Answer<Option<Arc<VoterRecord>>>)>) {
        if loads.is_empty() {
            return;
        }
        let gtids: Vec<Uuid> = loads.iter().map(|(gtid, _)| gtid.as_uuid()).collect();
        match self.on_connection(Statement::Load(&gtids)).await {
            Ok(rows) => {
                let rows: HashMap<Uuid, &PgRow> = rows.iter().filter_map(|row| Some((gtid_of(row)?, row))).collect();
                for (gtid, answer) in loads {
                    let record =
                        rows.get(&gtid.as_uuid()).map(|row| read(self.me.as_str(), row).map(Arc::new)).transpose();
                    if let Ok(Some(record)) = &record {
                        cache(&self.known).insert(gtid, Arc::clone(record));
                    }
                    answer.send(record).ok();
                }
            }
            Err(error) => {
                for (_, answer) in loads {
                    answer.send(Err(error.told())).ok();
                }
            }
        }
    }

    async fn forget(&mut self, forgets: Vec<(Vec<Gtid>, Answer<()>)>) {
        let gtids: Vec<Gtid> = forgets.iter().flat_map(|(gtids, _)| gtids.iter().copied()).collect();
        if gtids.is_empty() {
            return;
        }
        let ids: Vec<Uuid> = gtids.iter().map(Gtid::as_uuid).collect();
        let deleted = self.on_connection(Statement::Forget(&ids)).await;
        let mut cache = cache(&self.known);
        for gtid in &gtids {
            cache.remove(gtid);
        }
        for (_, answer) in forgets {
            answer.send(deleted.as_ref().map_or_else(|error| Err(error.told()), |_| Ok(()))).ok();
        }
    }

    /// Runs a statement; once more on a new connection, where the old one turns out to be lost.
    /// Each may be repeated: what was kept the first time is found to be there.
    async fn on_connection(&mut self, statement: Statement<'_>) -> Result<Vec<PgRow>, Failed> {
        let failed = |error: sqlx::Error| Failed { doing: statement.doing(), error: Arc::new(error) };
        let mut was_idle = self.connection.is_some();
        loop {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => within(PgConnection::connect_with(&self.options)).await.map_err(failed)?,
            };
            match within(statement.run(&self.me, &mut connection)).await {
                Ok(done) => {
                    self.connection = Some(connection);
                    return Ok(done);
                }
                Err(error) if was_idle && is_connection_lost(&error) => was_idle = false,
                Err(error) => {
                    if !is_connection_lost(&error) {
                        self.connection = Some(connection);
                    }
                    return Err(failed(error));
                }
            }
        }
    }
}

/// What is sent for a batch.
enum Statement<'a> {
    /// Writes those whose predecessor stands there, and says which.
    Keep(&'a Rows),
    Load(&'a [Uuid]),
    Forget(&'a [Uuid]),
}

impl Statement<'_> {
    const fn doing(&self) -> &'static str {
        match self {
            Self::Keep(_) => "keep votes",
            Self::Load(_) => "look up votes",
            Self::Forget(_) => "delete votes",
        }
    }

    async fn run(&self, me: &ParticipantName, connection: &mut PgConnection) -> Result<Vec<PgRow>, sqlx::Error> {
        let query = match self {
            Self::Keep(rows) => sqlx::query(KEEP)
                .bind(me.as_str())
                .bind(&rows.gtid)
                .bind(&rows.roster)
                .bind(&rows.is_read_only)
                .bind(&rows.standing)
                .bind(&rows.joined)
                .bind(&rows.accepted)
                .bind(&rows.old_standing)
                .bind(&rows.old_joined)
                .bind(&rows.old_accepted),
            Self::Load(gtids) => sqlx::query(LOAD).bind(me.as_str()).bind(*gtids),
            Self::Forget(gtids) => sqlx::query(FORGET).bind(me.as_str()).bind(*gtids),
        };
        query.fetch_all(connection).await
    }
}

/// A failure that many are told of.
struct Failed {
    doing: &'static str,
    error: Arc<sqlx::Error>,
}

impl Failed {
    fn told(&self) -> VoterStoreError {
        VoterStoreError::Database { doing: self.doing, source: Arc::clone(&self.error).into() }
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

fn cache(known: &Mutex<Cache>) -> MutexGuard<'_, Cache> {
    // A map is whole after every insertion and removal.
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- rows --------------------------------------------------------------------------------------------------------------------

/// Records, column by column.
#[derive(Default)]
struct Rows {
    gtid: Vec<Uuid>,
    roster: Vec<Option<String>>,
    is_read_only: Vec<bool>,
    standing: Vec<&'static str>,
    joined: Vec<String>,
    accepted: Vec<Option<String>>,
    old_standing: Vec<Option<&'static str>>,
    old_joined: Vec<Option<String>>,
    old_accepted: Vec<Option<String>>,
}

impl Rows {
    fn of(writes: &[Write]) -> Self {
        let mut rows = Self::default();
        for Write { record, before } in writes {
            rows.gtid.push(record.gtid.as_uuid());
            // A roster does not change, and is not written again.
            let roster = record.roster.as_ref().filter(|_| before.is_none());
            // Names, numbers and addresses: there is nothing in it that JSON could refuse.
            rows.roster.push(roster.map(|roster| serde_json::to_string(roster).expect("a roster is written as JSON")));
            rows.is_read_only.push(record.is_read_only);
            rows.standing.push(record.state.standing.as_str());
            rows.joined.push(record.state.joined.to_string());
            rows.accepted.push(record.state.accepted.map(|ballot| ballot.to_string()));
            rows.old_standing.push(before.map(|before| before.standing.as_str()));
            rows.old_joined.push(before.map(|before| before.joined.to_string()));
            rows.old_accepted.push(before.and_then(|before| before.accepted).map(|ballot| ballot.to_string()));
        }
        rows
    }
}

const KEEP: &str = "with record as (
         select * from unnest($2::uuid[], $3::text[], $4::boolean[], $5::text[], $6::text[], $7::text[],
                              $8::text[], $9::text[], $10::text[])
             as r (gtid, roster, is_read_only, standing, joined, accepted, old_standing, old_joined, old_accepted)
         order by gtid
     ), voted as (
         insert into assent_voter (participant, gtid, roster, is_read_only, standing, joined, accepted)
         select $1, gtid, roster::jsonb, is_read_only, standing, joined, accepted
         from record where old_standing is null
         on conflict (participant, gtid) do nothing
         returning gtid
     ), moved as (
         update assent_voter v
         set standing = r.standing, joined = r.joined, accepted = r.accepted, changed_at = clock_timestamp()
         from record r
         where v.participant = $1 and v.gtid = r.gtid and v.standing = r.old_standing and v.joined = r.old_joined
             and v.accepted is not distinct from r.old_accepted
         returning v.gtid
     )
     select gtid from voted union all select gtid from moved";

const LOAD: &str = "select gtid, roster::text as roster, is_read_only, standing, joined, accepted from assent_voter
    where participant = $1 and gtid = any($2)";

const LIST: &str = "select gtid, roster::text as roster, is_read_only, standing, joined, accepted from assent_voter
    where participant = $1 and gtid <> $2 order by gtid";

const FORGET: &str = "delete from assent_voter
    where participant = $1 and gtid = any($2) and standing in ('committed', 'aborted')";

fn gtid_of(row: &PgRow) -> Option<Uuid> {
    row.try_get("gtid").ok()
}

fn read(me: &str, row: &PgRow) -> Result<VoterRecord, VoterStoreError> {
    let id: Uuid = row.try_get("gtid").map_err(failed("read a vote"))?;
    let gtid = Gtid::new(id).map_err(|error| VoterStoreError::Database {
        doing: "read a vote",
        source: format!("{id} is no gtid: {error}").into(),
    })?;
    let unreadable = |problem: String| VoterStoreError::Unreadable { gtid, problem };
    let column = |error: sqlx::Error| unreadable(error.to_string());
    let standing: String = row.try_get("standing").map_err(column)?;
    let standing = Standing::from_word(&standing).ok_or_else(|| unreadable(format!("standing {standing}")))?;
    let joined: String = row.try_get("joined").map_err(column)?;
    let accepted: Option<String> = row.try_get("accepted").map_err(column)?;
    let ballot = |text: &str| read_ballot(text).ok_or_else(|| unreadable(format!("ballot {text}")));
    let state =
        VoterState { standing, joined: ballot(&joined)?, accepted: accepted.as_deref().map(ballot).transpose()? };
    let roster: Option<String> = row.try_get("roster").map_err(column)?;
    let roster: Option<Roster> = roster
        .map(|roster| serde_json::from_str(&roster))
        .transpose()
        .map_err(|error| unreadable(format!("roster: {error}")))?;
    let me = ParticipantName::new(me).map_err(|error| unreadable(error.to_string()))?;
    let is_read_only = row.try_get("is_read_only").map_err(column)?;
    Ok(VoterRecord { gtid, voter: VoterName::Participant(me), roster, is_read_only, state, before: None })
}

fn read_ballot(text: &str) -> Option<Ballot> {
    let (round, node) = text.split_once('.')?;
    let round = round.parse().ok().filter(|round| (1..=Ballot::ROUND_MAX).contains(round))?;
    Some(Ballot { round, node: NodeId(u128::from_str_radix(node, 16).ok()?) })
}

const SCHEMA: &str = "\
create table if not exists assent_voter (
    participant text not null check (octet_length(participant) between 1 and 63),
    gtid uuid not null,
    roster jsonb,
    is_read_only boolean,
    standing text check (standing in ('waiting', 'pre_committed', 'pre_aborted', 'committed', 'aborted')),
    joined text check (joined ~ '^[1-9][0-9]{0,19}\\.[0-9a-f]{32}$'),
    accepted text check (accepted ~ '^[1-9][0-9]{0,19}\\.[0-9a-f]{32}$'),
    store_id uuid,
    coordinator text check (octet_length(coordinator) between 1 and 255),
    changed_at timestamptz not null default clock_timestamp(),
    primary key (participant, gtid),
    constraint the_identity_or_a_vote check (
        case when gtid = '00000000-0000-0000-0000-000000000000'
            then store_id is not null
                and num_nonnulls(roster, is_read_only, standing, joined, accepted) = 0
            else store_id is null and coordinator is null
                and num_nulls(is_read_only, standing, joined) = 0
        end
    ),
    constraint a_yes_has_a_roster check (standing = 'aborted' or standing is null or roster is not null),
    constraint stands_by_what_it_accepted check (
        case standing
            when 'waiting' then accepted is null
            when 'pre_committed' then accepted is not null
            when 'pre_aborted' then accepted is not null
            else true
        end
    )
) with (fillfactor = 70);
comment on table assent_voter is
    'How participants of this database voted in three-phase transactions, and what they have accepted since. Deleted when a transaction has ended everywhere. Never restore an older state of it while such transactions are open.';
comment on column assent_voter.participant is 'The name that this service takes part under.';
comment on column assent_voter.gtid is 'The transaction; 00000000-0000-0000-0000-000000000000 for the row that identifies the store.';
comment on column assent_voter.roster is 'Who votes: participants in order, each with the address of its voter and the identity of its store; log, the identity of the coordinator''s log. Null where it refused before it had seen one.';
comment on column assent_voter.is_read_only is 'Whether its branch has nothing to commit.';
comment on column assent_voter.standing is 'Where it stands: waiting, pre_committed, pre_aborted, committed, aborted.';
comment on column assent_voter.joined is 'The last ballot it joined: round.node, the node in hexadecimal digits.';
comment on column assent_voter.accepted is 'The last ballot whose proposal it accepted, in the same form.';
comment on column assent_voter.store_id is 'The identity of the store, drawn when its row is made. A voter that comes back with another one has lost its promises.';
comment on column assent_voter.coordinator is 'In the row that identifies the store: the id of the coordinator whose votes these are.';
comment on column assent_voter.changed_at is 'When it changed last.';
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ballot_is_written_as_it_is_read() {
        for ballot in [Ballot::FIRST, Ballot { round: Ballot::ROUND_MAX, node: NodeId(u128::MAX) }] {
            assert_eq!(read_ballot(&ballot.to_string()), Some(ballot));
        }
        for bad in ["", "1", "1.", ".1", "-1.2", "1.g"] {
            assert_eq!(read_ballot(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_transaction_is_appended_once_in_a_batch() {
        let gtid = Gtid::new(Uuid::now_v7()).expect("version 7");
        let voter = VoterName::Participant("bank-a".parse().expect("a name"));
        let ask = || {
            let (state, voter) = (VoterState::REFUSED, voter.clone());
            let record = VoterRecord { gtid, voter, roster: None, is_read_only: false, state, before: None };
            Ask::Append(record.into(), oneshot::channel().0)
        };
        let batch = Batch::of([ask(), ask(), ask()]);
        assert_eq!((batch.appends.len(), batch.later.len()), (1, 2));
    }
}
