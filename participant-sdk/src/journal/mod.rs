//! A small durable journal, for participants whose resource has no prepared state that could be asked for.
//!
//! Such a participant writes down what it has promised before it votes yes, and that the branch has ended after it has carried the decision
//! out. What was promised and has not ended is in doubt after a crash.
//!
//! ```no_run
//! use assent_sdk::journal::Journal;
//! use assent_sdk::{BoxError, Branch, Coordinator, Gtid, Participant, Vote};
//!
//! struct Printer {
//!     journal: Journal,
//! }
//!
//! impl Participant for Printer {
//!     async fn prepare(&self, branch: &Branch) -> Result<Vote, BoxError> {
//!         self.journal.prepared(branch.gtid(), branch.payload().clone()).await?;
//!         Ok(Vote::Yes)
//!     }
//!     async fn commit(&self, branch: &Branch) -> Result<(), BoxError> {
//!         // Nothing is there when it has been printed already.
//!         if let Some(page) = self.journal.payload(branch.gtid()) {
//!             println!("{}", String::from_utf8_lossy(&page));
//!             self.journal.ended(branch.gtid()).await?;
//!         }
//!         Ok(())
//!     }
//!     async fn abort(&self, branch: &Branch) -> Result<(), BoxError> {
//!         Ok(self.journal.ended(branch.gtid()).await?)
//!     }
//!     async fn in_doubt(&self, _about: &Coordinator) -> Result<Vec<Gtid>, BoxError> {
//!         Ok(self.journal.in_doubt().into_iter().map(|(gtid, _)| gtid).collect())
//!     }
//! }
//!
//! # async fn example() -> Result<(), BoxError> {
//! let printer = Printer { journal: Journal::open("printer.journal").await? };
//! # Ok(()) }
//! ```
//!
//! The page is printed again if the process dies between printing and [`Journal::ended`]: a resource that is not transactional can be
//! given at-least-once, and must itself recognize the gtid for more.
//!
//! # What holds
//! - A call that has returned `Ok` survives the process and the machine; so far as the disk keeps what it has flushed.
//! - Calls at the same time share a flush.
//! - A file that a crash has cut short is mended when it is opened. One that is damaged otherwise is reported and left alone.
//! - One process has a journal open at a time: a lock on the file's neighbour `.lock` sees to it.
//! - The file stays in proportion to what is in doubt: it is rewritten when most of it is past.

mod crc32c;
mod format;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use assent_protocol::Gtid;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use format::Branches;
use writer::{Append, Change, Writer};

/// The largest payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// Appends that may wait for the writer; a full queue makes callers wait.
const APPENDS_MAX: usize = 1_024;

/// A journal that is open. Its clones are the same journal; when the last one is dropped it is closed.
#[derive(Clone, Debug)]
pub struct Journal {
    appends: mpsc::Sender<Append>,
    branches: Arc<Mutex<Branches>>,
}

/// What can go wrong with a journal.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system said no. The record is not in the journal.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the file system said.
        source: Arc<std::io::Error>,
    },
    /// Another process has it open, or this one has, twice.
    #[error("{path} is in use by another process: give each process a journal of its own")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file holds something else.
    #[error("{path} is not a journal: choose another path")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file was changed by something other than a crash.
    #[error(
        "{path} is damaged at byte {offset}: restore it from the disk's mirror, or move it away and end its branches by hand"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In bytes from the beginning.
        offset: usize,
    },
    /// A flush failed, and what is on disk is not known any more. Only opening the journal again can tell.
    #[error("{path} failed to flush, and takes no more records: restart the process")]
    Failed {
        /// The file.
        path: PathBuf,
    },
    /// The branch is prepared with another payload.
    #[error("branch {gtid} is prepared with another payload: a branch is prepared once")]
    OtherPayload {
        /// The branch.
        gtid: Gtid,
    },
    /// The payload is larger than [`PAYLOAD_BYTES_MAX`].
    #[error("a payload of {bytes} bytes is too large for the journal, which takes {PAYLOAD_BYTES_MAX}")]
    PayloadTooLarge {
        /// How large it is.
        bytes: usize,
    },
}

impl Journal {
    /// Opens the journal at a path, or creates it there. The directory must exist.
    ///
    /// # Errors
    /// [`JournalError::InUse`], [`JournalError::Foreign`], [`JournalError::Damaged`] and [`JournalError::Io`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        let path = path.as_ref().to_owned();
        let opened = tokio::task::spawn_blocking(move || Self::open_blocking(path)).await;
        // It is not cancelled, and a panic goes on here.
        opened.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    fn open_blocking(path: PathBuf) -> Result<Self, JournalError> {
        let branches = Arc::new(Mutex::new(Branches::new()));
        let (appends, queue) = mpsc::channel(APPENDS_MAX);
        let writer = Writer::open(path.clone(), Arc::clone(&branches))?;
        // A thread, not a task: it waits for the disk, and a runtime that shuts down must not cut it off.
        std::thread::Builder::new()
            .name("assent-journal".into())
            .spawn(move || writer.run(queue))
            .map_err(|error| JournalError::Io { doing: "start the writer of", path, source: error.into() })?;
        Ok(Self { appends, branches })
    }

    /// Writes down that a branch is prepared. Nothing happens if that is written already.
    ///
    /// # Errors
    /// [`JournalError::OtherPayload`] if it is prepared with another one; [`JournalError::PayloadTooLarge`]; [`JournalError::Io`] and
    /// [`JournalError::Failed`] if the disk does not take it: do not vote yes.
    pub async fn prepared(&self, gtid: Gtid, payload: impl Into<Bytes>) -> Result<(), JournalError> {
        let payload = payload.into();
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(JournalError::PayloadTooLarge { bytes: payload.len() });
        }
        self.append(Change::Prepared(gtid, payload)).await
    }

    /// Writes down that a branch has ended. Nothing happens if it is not prepared.
    ///
    /// # Errors
    /// [`JournalError::Io`] and [`JournalError::Failed`] if the disk does not take it. After a crash the branch is then in doubt again.
    pub async fn ended(&self, gtid: Gtid) -> Result<(), JournalError> {
        self.append(Change::Ended(gtid)).await
    }

    /// The payload of a branch that is prepared and has not ended.
    pub fn payload(&self, gtid: Gtid) -> Option<Bytes> {
        self.branches().get(&gtid).cloned()
    }

    /// The branches that are prepared and have not ended, with their payloads; the oldest transaction first.
    pub fn in_doubt(&self) -> Vec<(Gtid, Bytes)> {
        let mut branches: Vec<_> = self.branches().iter().map(|(gtid, payload)| (*gtid, payload.clone())).collect();
        branches.sort_unstable_by_key(|(gtid, _)| *gtid);
        branches
    }

    async fn append(&self, change: Change) -> Result<(), JournalError> {
        let (answer, answered) = oneshot::channel();
        self.appends.send(Append { change, answer }).await.expect(WRITER_LIVES);
        answered.await.expect(WRITER_LIVES)
    }

    fn branches(&self) -> std::sync::MutexGuard<'_, Branches> {
        // A map is whole after every insertion and removal.
        self.branches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const WRITER_LIVES: &str = "the writer runs until all journals are dropped, and answers all it has taken";
