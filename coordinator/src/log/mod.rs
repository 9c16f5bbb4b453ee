//! The durable transaction log: where a decision becomes a fact.
//!
//! One trait, [`Log`], with three implementations behind one conformance suite:
//!
//! | URL | implementation | for |
//! |---|---|---|
//! | `postgres://...` | [`postgres`] | production |
//! | `sqlite:PATH` | [`sqlite`] | one embedded process |
//! | (none) | [`memory`] | simulation, with injected failures |
//!
//! The contract, which every implementation keeps and the conformance suite (feature `conformance`)
//! checks:
//! 1. [`Log::append`] is atomic: all of a batch is durable, or nothing of it.
//! 2. It is idempotent: the committer repeats the very same batch after any error but
//!    [`AppendError::Fenced`], and the repetition answers what the first would have answered.
//! 3. The first decision of a transaction wins, for ever (I3); later writers are told
//!    [`Appended::Overruled`].
//! 4. A batch of an older epoch than the replica's changes nothing (I7).
//! 5. What is lost on a crash is at most the lazy records of batches that were never confirmed.
//! 6. An open row is written by the epoch that owns it, and by no other. Recovery is given
//!    [`Owned`] rows only.
//! 7. One name drives at a time: while a replica's lease lasts, [`Log::acquire`] refuses every
//!    other name. A lease gives liveness only; what stops a stale owner is the epoch.
//!
//! The order of calls: [`open`], [`Log::acquire`], [`Log::open_transactions`] until it is
//! exhausted, then [`Log::append`] one batch after the other, and [`Log::renew`] beside them. Reads
//! may run at any time, beside an append too.

mod backend;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod durability;
mod error;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod lease;
pub mod memory;
mod migration;
mod plan;
pub mod postgres;
mod read;
mod roles;
mod rows;
pub mod sqlite;
mod stored;
mod url;
mod verdict;
pub mod verify;

use std::sync::Arc;
use std::time::Duration;

use assent_protocol::{Appended, Epoch, Gtid, Name, ParticipantName, Record};
use futures::future::BoxFuture;

pub use assent_protocol::found::Owned;
pub(crate) use durability::{Durability, durability};
pub use error::{AppendError, Cause, LogError, OpenError, SchemaError};
pub use lease::Lease;
pub use migration::{Migration, MigrationReport, check, migrate};
pub use read::{
    EndedTransaction, Filter, Found, Kind, LoggedStep, OpenSaga, OpenTransaction, Page, PageToken, Shown, State,
    Transaction, Unreadable,
};
pub use roles::{Granted, Lacking, grant, lacking};

/// The records that become durable together.
///
/// A machine emits the records that follow from a forced one only after that one's receipt. So a
/// transaction's end, or a saga's step, never rides in the batch of its own decision or start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The wall clock of the batch, in Unix milliseconds: every record in it is stamped with this
    /// time.
    pub at_ms: u64,
    /// Somebody waits for each of these.
    pub forced: Vec<Record>,
    /// These ride along; losing one only repeats idempotent messages.
    pub lazy: Vec<Record>,
}

impl Batch {
    /// Whether there is nothing to append.
    pub fn is_empty(&self) -> bool {
        self.forced.is_empty() && self.lazy.is_empty()
    }
}

/// What [`Log::maintain`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maintenance {
    /// History partitions that were created ahead.
    pub partitions_created: u64,
    /// History partitions that were dropped because all of it was older than the retention.
    pub partitions_dropped: u64,
    /// Ended transactions that were forgotten. For a dropped partition that was never analyzed it
    /// is an estimate.
    pub transactions_forgotten: u64,
    /// Ended transactions that outlived the retention because they are pinned.
    pub transactions_kept: u64,
}

/// A durable transaction log. See the module for the contract.
pub trait Log: Send + Sync + 'static {
    /// Makes a batch durable and answers one [`Appended`] for each forced record, in their order.
    ///
    /// [`Appended::Durable`] means that the record, or one that says the same, is on stable
    /// storage. [`Appended::Overruled`] means that another writer's decision stands. For a saga's
    /// start it means that the gtid is taken: `Commit` if a transaction of that gtid is open or
    /// took effect, `Abort` if one ended without effect; [`Log::lookup`] tells which. For a saga's
    /// later records it means that the saga is no longer open and ended otherwise.
    /// [`Appended::Undecided`] means that a three-phase transaction's row stands in the way,
    /// without a decision, and that this record has no right to it: nothing was written. Within it,
    /// only the owner's epoch moves the log on as a voter, or writes what the voters agreed on.
    ///
    /// One append at a time: a second one waits for the first.
    ///
    /// # Errors
    /// After any error but [`AppendError::Fenced`] repeat the very same batch, `at_ms` included.
    fn append<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Vec<Appended>, AppendError>>;

    /// Registers the replica under a new epoch, higher than any drawn before, with a lease, and
    /// takes over every open transaction. Appends of this log carry that epoch from then on.
    ///
    /// The process that held the name is fenced at once, whatever its lease: a restart does not
    /// wait. Replicas of other names are fenced if their leases have lapsed; a log that held
    /// another name itself gives that one up.
    ///
    /// # Errors
    /// [`LogError::Leased`] if the lease of a replica of another name lasts; nothing was changed.
    /// Another [`LogError`] if the log cannot be reached or used; call again, which draws another
    /// epoch.
    fn acquire<'a>(&'a self, replica: &'a Name) -> BoxFuture<'a, Result<Epoch, LogError>>;

    /// Renews the lease of the epoch that this log holds, for a whole [`Log::lease`] from now on
    /// the clock of the log's database. One that has lapsed is renewed too, as long as no other
    /// replica has taken over. Does not wait for the append under way.
    ///
    /// # Errors
    /// [`LogError`] if the log cannot be reached or used: the lease was renewed or not. Call again.
    fn renew(&self) -> BoxFuture<'_, Result<Lease, LogError>>;

    /// How long a lease lasts.
    fn lease(&self) -> Duration;

    /// The open transactions behind `after` that the epoch of this log owns, by gtid, at most
    /// `limit` of them. Fewer than `limit` entries mean that there are no more. Without an epoch
    /// there are none.
    ///
    /// # Errors
    /// [`LogError`] if the log cannot be reached or used. A transaction that cannot be read gives
    /// an [`Unreadable`] in its place, and hinders no other.
    #[expect(
        clippy::type_complexity,
        reason = "a page of entries, each readable or not: an alias would hide just that"
    )]
    fn open_transactions(
        &self,
        after: Option<Gtid>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(Gtid, Result<Owned, Unreadable>)>, LogError>>;

    /// What the log knows about each of these transactions, open or ended, by gtid. The ones that
    /// it does not know are left out.
    ///
    /// # Errors
    /// [`LogError`] if the log cannot be reached or used.
    fn lookup<'a>(&'a self, gtids: &'a [Gtid]) -> BoxFuture<'a, Result<Vec<(Gtid, Found)>, LogError>>;

    /// Transactions for an operator, newest gtid first.
    ///
    /// # Errors
    /// [`LogError`] if the log cannot be reached or used.
    fn list<'a>(
        &'a self,
        filter: &'a Filter,
        page: Option<&'a PageToken>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, LogError>>;

    /// One transaction for an operator, with all that the log has about it; `None` if it has
    /// nothing.
    ///
    /// # Errors
    /// [`LogError`] if the log cannot be reached or used.
    fn show(&self, gtid: Gtid) -> BoxFuture<'_, Result<Option<Shown>, LogError>>;

    /// The coordinator's identity: a UUID as text, minted with the log's schema. It moves with the
    /// log, and never changes: participants prefix with it what they prepare.
    ///
    /// # Errors
    /// [`LogError`] if the log cannot be reached or used.
    fn coordinator_id(&self) -> BoxFuture<'_, Result<String, LogError>>;

    /// The names of all participants that were ever noted, sorted.
    ///
    /// # Errors
    /// [`LogError`] if the log cannot be reached or used.
    fn participants(&self) -> BoxFuture<'_, Result<Vec<ParticipantName>, LogError>>;

    /// Notes that a participant of this name exists. Noting it again changes nothing.
    ///
    /// # Errors
    /// [`LogError`] if the log cannot be reached or used.
    fn note_participant<'a>(&'a self, name: &'a ParticipantName) -> BoxFuture<'a, Result<(), LogError>>;

    /// Prepares for the days to come and forgets ended transactions that are older than
    /// `retention`, unless they are pinned. To be called every few minutes, with the wall clock in
    /// Unix milliseconds.
    ///
    /// # Errors
    /// [`LogError`] if the log cannot be reached or used, or others held its tables for too long;
    /// call again later.
    fn maintain(&self, now_ms: u64, retention: Duration) -> BoxFuture<'_, Result<Maintenance, LogError>>;

    /// Keeps a transaction beyond the retention, or no longer. Answers whether the log knows the
    /// transaction.
    ///
    /// # Errors
    /// [`LogError`] if the log cannot be reached or used.
    fn pin(&self, gtid: Gtid, pinned: bool) -> BoxFuture<'_, Result<bool, LogError>>;

    /// Whether the log answers.
    ///
    /// # Errors
    /// [`LogError`] if it does not.
    fn ping(&self) -> BoxFuture<'_, Result<(), LogError>>;

    /// Waits for the append under way, gives up the lease so that another name may start at once,
    /// and closes the connections. Every later call fails.
    fn close(&self) -> BoxFuture<'_, ()>;

    /// Where the log is, for messages: never with a password.
    fn describe(&self) -> String;
}

impl std::fmt::Debug for dyn Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Log({})", self.describe())
    }
}

/// How a log is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How the connections name themselves to Postgres until [`Log::acquire`]; from then on the
    /// appending one is `assent/REPLICA`.
    pub application_name: String,
    /// How long a connection attempt may take.
    pub connect_timeout: Duration,
    /// How long one append may take before its outcome counts as unknown and it is repeated on a
    /// new connection.
    pub append_timeout: Duration,
    /// How long one read may take.
    pub read_timeout: Duration,
    /// How many connections reads use, beside the one for appends.
    pub read_connections_max: u32,
    /// How long a lease lasts. A log in a file has none: the lock of the file ends with its
    /// process.
    pub lease: Duration,
}

impl Default for Options {
    /// 5 s to connect, 15 s to append, 30 s to read, 4 connections for reads, leases of 10 s.
    fn default() -> Self {
        Self {
            application_name: "assent".to_owned(),
            connect_timeout: Duration::from_secs(5),
            append_timeout: Duration::from_secs(15),
            read_timeout: Duration::from_secs(30),
            read_connections_max: 4,
            lease: Duration::from_secs(10),
        }
    }
}

/// Whether a URL names a log, wherever that may be.
///
/// # Errors
/// [`OpenError::Url`] if it names none.
pub fn check_url(url: &str) -> Result<(), OpenError> {
    backend::named_by(url).map(drop)
}

/// Opens the log behind a URL: `sqlite:PATH` (created and migrated as needed) or
/// `postgres://USER:PASSWORD@HOST:PORT/DATABASE` (which must have been migrated by `assent
/// migrate`).
///
/// # Errors
/// [`OpenError`], which says what to do next.
pub async fn open(url: &str, options: Options) -> Result<Arc<dyn Log>, OpenError> {
    backend::named_by(url)?.open(options).await
}
