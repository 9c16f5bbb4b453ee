//! What a voter's store does, whatever it is made of.

use std::sync::Arc;

use assent_protocol::three_phase::{StoreId, VoterRecord, VoterState};
use assent_protocol::{Durable, Gtid, ParticipantName, RecordId};
use futures::future::BoxFuture;

use crate::journal::JournalError;
use crate::participant::BoxError;

/// Where a participant's voter keeps its state: [`FileVoters`](super::FileVoters), or `postgres::PostgresVoters`.
///
/// Others cannot be added: a store's word is what makes a vote durable, and every answer of the voter waits for it.
pub trait VoterStore: sealed::Store {}

impl<S: sealed::Store> VoterStore for S {}

/// A store could not do its part. What was to be written may or may not be there.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum VoterStoreError {
    /// The file.
    #[error(transparent)]
    File(#[from] JournalError),
    /// The database.
    #[error("the voters' table cannot be used to {doing}")]
    Database {
        /// What was attempted.
        doing: &'static str,
        /// What the database or the connection said.
        source: BoxError,
    },
    /// The table is not there, or not as it should be.
    #[error(
        "the tables of the voters are missing or unfit: run PostgresVoters::install, or the statements of PostgresVoters::schema"
    )]
    Table(#[source] BoxError),
    /// The database answers before it has flushed.
    #[error(
        "synchronous_commit is off for the voters' connection: a vote could be lost after it was told; switch it on for this role"
    )]
    NotFlushed,
    /// A session is not the voters' own from one transaction to the next.
    #[error(
        "between the voters and their database is a pooler that gives each transaction another session, as PgBouncer does with \
         pool_mode = transaction: connect to Postgres itself, or set pool_mode = session for this database"
    )]
    TransactionPooler,
    /// A record does not read.
    #[error(
        "the voter's record of {gtid} does not read: {problem}; restore the store, or resolve the transaction by hand"
    )]
    Unreadable {
        /// Whose.
        gtid: Gtid,
        /// What is wrong with it.
        problem: String,
    },
    /// A store belongs to one coordinator.
    #[error(
        "the store has the votes of coordinator {bound}, and {found} answers; give each coordinator a store of its own"
    )]
    OtherCoordinator {
        /// Whose votes it has.
        bound: String,
        /// Who was dialled.
        found: String,
    },
    /// A store that is open belongs to one participant, and a file for good.
    #[error("the store has the votes of {owner}, and {asked} was to use it; give each participant a store of its own")]
    OtherParticipant {
        /// Whose votes it has.
        owner: String,
        /// Who was to use it.
        asked: ParticipantName,
    },
}

crate::error_chain::debug_as_chain!(VoterStoreError);

/// What a store says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Drawn when it was made.
    pub(crate) id: StoreId,
    /// The id of the coordinator whose votes it has, once it has met one.
    pub(crate) coordinator: Option<String>,
}

/// What a store knows of a record without a look at the disk or the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recalled {
    /// This is what there is, or was a moment ago. A record that is gone since, or a later state of it, is found out by whoever appends.
    Known(Option<Arc<VoterRecord>>),
    /// It has to look.
    Unknown,
}

/// A record to be kept, where what it replaces still stands.
#[derive(Clone, Debug)]
pub struct Write {
    /// What is to stand from now on; without its own [`VoterRecord::before`].
    pub(crate) record: Arc<VoterRecord>,
    /// What has to stand there: nothing, or this state.
    pub(crate) before: Option<VoterState>,
}

impl From<VoterRecord> for Write {
    fn from(mut record: VoterRecord) -> Self {
        let before = record.before.take();
        Self { record: Arc::new(record), before }
    }
}

/// What became of an append.
#[derive(Debug)]
pub enum Kept {
    /// It is on stable storage.
    Durable(Durable),
    /// Something else stood there than [`Write::before`] says. Nothing has changed: load, and start over.
    Overtaken,
}

pub(crate) mod sealed {
    use super::*;

    /// See [`VoterStore`](super::VoterStore).
    pub trait Store: Send + Sync + 'static {
        /// Gets ready to keep a participant's records.
        fn open(&self, me: &ParticipantName) -> BoxFuture<'_, Result<Identity, VoterStoreError>>;

        /// Writes down whose coordinator's votes these are.
        fn bind(&self, coordinator: &str) -> BoxFuture<'_, Result<(), VoterStoreError>>;

        /// What it knows at once.
        fn recall(&self, gtid: Gtid) -> Recalled;

        /// What stands in the store.
        fn load(&self, gtid: Gtid) -> BoxFuture<'_, Result<Option<Arc<VoterRecord>>, VoterStoreError>>;

        /// Makes records durable, each where what it replaces still stands, with one flush where it can. Of each transaction there
        /// is one at most. The answers are in their order; with an error, each of them may have been kept or not.
        fn append(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Vec<Kept>, VoterStoreError>>;

        /// Takes note of a record that may be lost with the process, over what stands there as [`recall`](Self::recall) or
        /// [`load`](Self::load) has it. Answers whether it did; if not, it is to be appended as any other.
        fn note(&self, write: &Write) -> bool;

        /// Makes durable what was noted some time ago and has not been forgotten since. Nobody waits for it.
        fn keep_notes(&self) -> BoxFuture<'_, Result<(), VoterStoreError>>;

        /// Deletes records, as far as they [may be](assent_protocol::three_phase::Voter::may_be_forgotten).
        fn forget(&self, gtids: Vec<Gtid>) -> BoxFuture<'_, Result<(), VoterStoreError>>;

        /// All records that can be read, the oldest transaction first.
        fn all(&self) -> BoxFuture<'_, Result<Vec<VoterRecord>, VoterStoreError>>;
    }
}

pub(crate) use sealed::Store;

/// The records that can be read. One that cannot never stops the others: it is left alone, and
/// whatever is asked about its transaction is answered with the error.
pub(crate) fn readable(
    records: impl IntoIterator<Item = Result<VoterRecord, VoterStoreError>>,
) -> impl Iterator<Item = VoterRecord> {
    let tell = |error: &VoterStoreError| {
        let error = error as &dyn std::error::Error;
        tracing::error!(error, "a record of the voter is left alone; all others are taken up");
    };
    records.into_iter().filter_map(move |record| record.inspect_err(tell).ok())
}

/// A store of any kind.
pub(crate) type AnyStore = Arc<dyn Store>;

/// The receipt for a record that the storage has confirmed.
pub(crate) fn durable(record: RecordId) -> Kept {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where the voters' stores give their word, after the storage gave its own"
    )]
    let receipt = Durable::attest(record);
    Kept::Durable(receipt)
}
