//! A small durable journal, for participants whose resource has no prepared state that could be asked for.
//!
//! Such a participant writes down what it has promised before it votes yes, and that the branch has ended after it has carried the decision
//! out. What was promised and has not ended is in doubt after a crash.
//!
//! ```no_run
//! use assent_sdk::journal::Journal;
//! use assent_sdk::{BoxError, Branch, BranchKey, Coordinator, Participant, Vote};
//!
//! struct Printer {
//!     journal: Journal,
//! }
//!
//! impl Participant for Printer {
//!     async fn prepare(&self, branch: &Branch) -> Result<Vote, BoxError> {
//!         self.journal.prepared(branch.key(), branch.payload().clone()).await?;
//!         Ok(Vote::Yes)
//!     }
//!     async fn commit(&self, branch: &Branch) -> Result<(), BoxError> {
//!         // Nothing is there when it has been printed already.
//!         if let Some(page) = self.journal.payload(branch.key()) {
//!             println!("{}", String::from_utf8_lossy(&page));
//!             self.journal.ended(branch.key()).await?;
//!         }
//!         Ok(())
//!     }
//!     async fn abort(&self, branch: &Branch) -> Result<(), BoxError> {
//!         Ok(self.journal.ended(branch.key()).await?)
//!     }
//!     async fn in_doubt(&self, _about: &Coordinator) -> Result<Vec<BranchKey>, BoxError> {
//!         Ok(self.journal.in_doubt().into_iter().map(|(branch, _)| branch).collect())
//!     }
//! }
//!
//! # async fn example() -> Result<(), BoxError> {
//! let printer = Printer { journal: Journal::open("printer.journal").await? };
//! # Ok(()) }
//! ```
//!
//! The page is printed again if the process dies between printing and [`Journal::ended`]: a resource that is not transactional can be
//! given at-least-once, and must itself recognize the branch for more.
//!
//! # What holds
//! - A call that has returned `Ok` survives the process and the machine; so far as the disk keeps what it has flushed.
//! - Calls at the same time share a flush.
//! - A file that a crash has cut short is mended when it is opened. One that is damaged otherwise is reported and left alone.
//! - One process has a journal open at a time: a lock on the file's neighbour `.lock` sees to it.
//! - The file stays in proportion to what is in doubt: it is rewritten when most of it is past.

mod format;
mod payload;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use assent_protocol::BranchKey;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use format::{Branches, Known};
use writer::{Append, Verdicts, Writer};

pub(crate) use format::Kind;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use format::fuzz;
pub(crate) use payload::{Beginning, Payload};
pub(crate) use writer::{Change, Verdict};

/// The largest payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// Appends that may wait for the writer; a full queue makes callers wait.
const APPENDS_MAX: usize = 1_024;

/// A journal that is open. Its clones are the same journal; when the last one is dropped it is closed.
#[derive(Clone, Debug)]
pub struct Journal {
    file: JournalFile,
}

/// A file of records by gtid, and what it says. A [`Journal`], or a voter's store.
#[derive(Clone, Debug)]
pub(crate) struct JournalFile {
    appends: mpsc::Sender<Append>,
    known: Arc<Mutex<Known>>,
}

/// What can go wrong with a journal.
#[derive(Clone, thiserror::Error)]
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
    #[error("branch {branch} is prepared with another payload: a branch is prepared once")]
    OtherPayload {
        /// The branch.
        branch: BranchKey,
    },
    /// The payload is larger than [`PAYLOAD_BYTES_MAX`].
    #[error("a payload of {bytes} bytes is too large for the journal, which takes {PAYLOAD_BYTES_MAX}")]
    PayloadTooLarge {
        /// How large it is.
        bytes: usize,
    },
}

crate::error_chain::debug_as_chain!(JournalError);

impl Journal {
    /// Opens the journal at a path, or creates it there. The directory must exist.
    ///
    /// # Errors
    /// [`JournalError::InUse`], [`JournalError::Foreign`], [`JournalError::Damaged`] and [`JournalError::Io`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        Ok(Self { file: JournalFile::open(Kind::Journal, path.as_ref()).await? })
    }

    /// Writes down that a branch is prepared. Nothing happens if that is written already.
    ///
    /// # Errors
    /// [`JournalError::OtherPayload`] if it is prepared with another one; [`JournalError::PayloadTooLarge`]; [`JournalError::Io`] and
    /// [`JournalError::Failed`] if the disk does not take it: do not vote yes.
    pub async fn prepared(&self, branch: BranchKey, payload: impl Into<Bytes>) -> Result<(), JournalError> {
        let payload = payload.into();
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(JournalError::PayloadTooLarge { bytes: payload.len() });
        }
        self.append(Change::Prepared(branch, payload.into())).await
    }

    /// Writes down that a branch has ended. Nothing happens if it is not prepared.
    ///
    /// # Errors
    /// [`JournalError::Io`] and [`JournalError::Failed`] if the disk does not take it. After a crash the branch is then in doubt again.
    pub async fn ended(&self, branch: BranchKey) -> Result<(), JournalError> {
        self.append(Change::Ended(branch)).await
    }

    /// The payload of a branch that is prepared and has not ended.
    pub fn payload(&self, branch: BranchKey) -> Option<Bytes> {
        self.file.payload(branch)
    }

    /// The branches that are prepared and have not ended, with their payloads; the oldest transaction first.
    pub fn in_doubt(&self) -> Vec<(BranchKey, Bytes)> {
        self.file.all()
    }

    async fn append(&self, change: Change) -> Result<(), JournalError> {
        // Only what replaces something is overtaken.
        self.file.append(change).await.map(|_verdict| ())
    }
}

impl JournalFile {
    /// Opens or creates the file at a path; see [`Journal::open`].
    pub(crate) async fn open(kind: Kind, path: &Path) -> Result<Self, JournalError> {
        let path = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || Self::open_blocking(kind, path)).await;
        // It is not cancelled, and a panic goes on here.
        opened.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    fn open_blocking(kind: Kind, path: PathBuf) -> Result<Self, JournalError> {
        let known = Arc::new(Mutex::new(Known::default()));
        let (appends, queue) = mpsc::channel(APPENDS_MAX);
        let writer = Writer::open(kind, path.clone(), Arc::clone(&known))?;
        // A thread, not a task: it waits for the disk, and a runtime that shuts down must not cut it off.
        std::thread::Builder::new()
            .name("assent-journal".into())
            .spawn(move || writer.run(queue))
            .map_err(|error| JournalError::Io { doing: "start the writer of", path, source: error.into() })?;
        Ok(Self { appends, known })
    }

    /// Makes a change, and answers when it is durable. Changes at the same time share a flush.
    pub(crate) async fn append(&self, change: Change) -> Result<Verdict, JournalError> {
        let verdicts = self.append_all(vec![change]).await;
        verdicts.into_iter().next().expect("one verdict for each change")
    }

    /// Makes changes with one flush, and answers when they are durable: one verdict for each, in their order.
    pub(crate) async fn append_all(&self, changes: Vec<Change>) -> Verdicts {
        let (answer, answered) = oneshot::channel();
        self.appends.send(Append { changes, answer }).await.expect(WRITER_LIVES);
        answered.await.expect(WRITER_LIVES)
    }

    /// What is durable of a branch.
    pub(crate) fn payload(&self, branch: BranchKey) -> Option<Bytes> {
        self.known().branches.get(&branch).map(Payload::bytes)
    }

    /// Whether what is durable of a branch begins so.
    pub(crate) fn begins_with(&self, branch: BranchKey, beginning: &[u8]) -> bool {
        self.known().branches.get(&branch).is_some_and(|payload| payload.begins_with(beginning))
    }

    /// What is durable, the oldest transaction first.
    pub(crate) fn all(&self) -> Vec<(BranchKey, Bytes)> {
        let all = |branches: &Branches| branches.iter().map(|(branch, payload)| (*branch, payload.bytes())).collect();
        let mut all: Vec<_> = all(&self.known().branches);
        all.sort_unstable_by_key(|(branch, _)| *branch);
        all
    }

    /// The durable label; empty if there never was one.
    pub(crate) fn label(&self) -> Bytes {
        self.known().label.clone()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // A map is whole after every insertion and removal.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const WRITER_LIVES: &str = "the writer runs until all journals are dropped, and answers all it has taken";

#[cfg(test)]
mod tests {
    use assent_protocol::Gtid;

    use super::*;

    fn branch() -> BranchKey {
        let gtid = Gtid::new(uuid::Uuid::now_v7()).expect("version 7");
        BranchKey { gtid, id: "7.1f".parse().expect("a branch id") }
    }

    fn directory() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal");
        (directory, path)
    }

    async fn open(path: &Path) -> Journal {
        Journal::open(path).await.expect("the journal opens")
    }

    /// Closes it, and waits until its writer has.
    fn close(journal: Journal, path: &Path) {
        drop(journal);
        drop(writer::lock(path).expect("the writer lets go of it"));
    }

    #[tokio::test]
    async fn what_was_prepared_and_has_not_ended_is_in_doubt() {
        let (_directory, path) = directory();
        let (kept, ended) = (branch(), branch());
        let journal = open(&path).await;
        journal.prepared(kept, "a page").await.expect("written");
        journal.prepared(ended, "another").await.expect("written");
        journal.ended(ended).await.expect("written");
        journal.ended(branch()).await.expect("nothing to write");
        drop(journal);
        let journal = open(&path).await;
        assert_eq!(journal.in_doubt(), [(kept, Bytes::from("a page"))]);
        assert_eq!(journal.payload(kept), Some("a page".into()));
        assert_eq!(journal.payload(ended), None);
    }

    #[tokio::test]
    async fn a_branch_is_prepared_once() {
        let (_directory, path) = directory();
        let journal = open(&path).await;
        let branch = branch();
        journal.prepared(branch, "one").await.expect("written");
        journal.prepared(branch, "one").await.expect("again is no other");
        let error = journal.prepared(branch, "two").await.expect_err("another payload");
        assert!(matches!(error, JournalError::OtherPayload { .. }), "{error}");
        assert_eq!(journal.payload(branch), Some("one".into()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn calls_at_the_same_time_share_a_flush_and_are_all_kept() {
        let (_directory, path) = directory();
        let journal = open(&path).await;
        let gtids: Vec<_> = (0..2_000).map(|_| branch()).collect();
        let appends = gtids.iter().map(|branch| {
            let (journal, branch) = (journal.clone(), *branch);
            tokio::spawn(async move {
                journal.prepared(branch, branch.to_string()).await?;
                // Every other one ends.
                if branch.gtid.as_bytes()[15] % 2 == 0 { journal.ended(branch).await } else { Ok(()) }
            })
        });
        for append in futures::future::join_all(appends).await {
            append.expect("no panic").expect("written");
        }
        drop(journal);
        let mut expected: Vec<_> = gtids.into_iter().filter(|branch| branch.gtid.as_bytes()[15] % 2 == 1).collect();
        expected.sort_unstable();
        let found: Vec<_> = open(&path).await.in_doubt().into_iter().map(|(branch, _)| branch).collect();
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn a_torn_end_is_mended_and_written_over() {
        let (_directory, path) = directory();
        let (whole, torn, after) = (branch(), branch(), branch());
        let journal = open(&path).await;
        journal.prepared(whole, "whole").await.expect("written");
        journal.prepared(torn, "torn").await.expect("written");
        close(journal, &path);
        let bytes = std::fs::metadata(&path).expect("it is there").len();
        std::fs::File::options().write(true).open(&path).expect("opens").set_len(bytes - 1).expect("cut");
        let journal = open(&path).await;
        assert_eq!(journal.in_doubt(), [(whole, Bytes::from("whole"))]);
        journal.prepared(after, "after").await.expect("written");
        drop(journal);
        assert_eq!(open(&path).await.in_doubt().len(), 2);
    }

    /// What a crash leaves: nobody has removed the zeros that were laid out ahead.
    #[tokio::test]
    async fn zeros_behind_the_last_frame_are_no_damage() {
        let (_directory, path) = directory();
        let (before, after) = (branch(), branch());
        let journal = open(&path).await;
        journal.prepared(before, "before").await.expect("written");
        let left = std::fs::read(&path).expect("it is there");
        assert!(left.ends_with(&[0; 4_096]), "{} bytes", left.len());
        close(journal, &path);
        assert!(std::fs::metadata(&path).expect("it is there").len() < 4_096, "a journal that is closed has none");
        std::fs::write(&path, &left).expect("written");
        let journal = open(&path).await;
        journal.prepared(after, "after").await.expect("written");
        close(journal, &path);
        assert_eq!(open(&path).await.in_doubt().len(), 2);
    }

    #[tokio::test]
    async fn damage_is_reported_and_left_alone() {
        let (_directory, path) = directory();
        let journal = open(&path).await;
        for payload in ["one", "two", "three"] {
            journal.prepared(branch(), payload).await.expect("written");
        }
        close(journal, &path);
        let mut bytes = std::fs::read(&path).expect("it is there");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, &bytes).expect("written");
        let error = Journal::open(&path).await.expect_err("damaged");
        assert!(matches!(error, JournalError::Damaged { .. }), "{error}");
        assert_eq!(std::fs::read(&path).expect("it is there"), bytes);
    }

    #[tokio::test]
    async fn two_processes_cannot_have_it() {
        let (_directory, path) = directory();
        let journal = open(&path).await;
        let error = Journal::open(&path).await.expect_err("in use");
        assert!(matches!(error, JournalError::InUse { .. }), "{error}");
        drop(journal);
        open(&path).await;
    }

    #[tokio::test]
    async fn the_file_stays_small_and_keeps_what_is_in_doubt() {
        let (_directory, path) = directory();
        let journal = open(&path).await;
        let kept = branch();
        journal.prepared(kept, "kept").await.expect("written");
        let mut largest = 0;
        for _ in 0..40 {
            let passing = branch();
            journal.prepared(passing, vec![1; 200_000]).await.expect("written");
            journal.ended(passing).await.expect("written");
            largest = largest.max(std::fs::metadata(&path).expect("it is there").len());
        }
        assert!(largest < 2_000_000, "{largest} bytes");
        drop(journal);
        assert_eq!(open(&path).await.in_doubt(), [(kept, Bytes::from("kept"))]);
    }

    #[tokio::test]
    async fn a_payload_has_a_bound() {
        let (_directory, path) = directory();
        let error = open(&path).await.prepared(branch(), vec![0; PAYLOAD_BYTES_MAX + 1]).await.expect_err("too large");
        assert!(matches!(error, JournalError::PayloadTooLarge { .. }), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_full_disk_is_an_error_and_no_damage() {
        // Writes to it fail as on a full disk, and it cannot be cut back: the journal takes no more.
        let (_directory, path) = directory();
        let journal = open(&path).await;
        journal.prepared(branch(), "before").await.expect("written");
        drop(journal);
        let known = Arc::new(Mutex::new(Known::default()));
        let mut writer = Writer::open(Kind::Journal, path.clone(), Arc::clone(&known)).expect("opens");
        writer.write_to_a_full_disk();
        let (appends, queue) = mpsc::channel(1);
        let thread = std::thread::spawn(move || writer.run(queue));
        let journal = Journal { file: JournalFile { appends, known } };
        let error = journal.prepared(branch(), "during").await.expect_err("no space");
        assert!(matches!(error, JournalError::Io { .. }), "{error}");
        let error = journal.prepared(branch(), "after").await.expect_err("no space");
        assert!(matches!(error, JournalError::Failed { .. }), "{error}");
        assert_eq!(journal.in_doubt().len(), 1);
        drop(journal);
        thread.join().expect("the writer ends");
        assert_eq!(open(&path).await.in_doubt().len(), 1);
    }
}
