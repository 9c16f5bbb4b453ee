//! The thread that owns a file: it appends what has queued while the last flush was under way, flushes once, and answers all.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use assent_protocol::{BranchKey, BranchMap};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::JournalError;
use super::format::{
    FRAME_HEADER_BYTES, Kind, Known, MARK_BYTES, Mark, PREPARED_BYTES, Unreadable, file_header, frame, read, seal,
    write_beginning, write_ended, write_label, write_prepared, write_similar,
};
use super::payload::{Beginning, Payload};

/// What is to be written, and who waits for it.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) changes: Vec<Change>,
    pub(super) answer: Answer,
}

/// One verdict for each change, in their order.
pub(super) type Verdicts = Vec<Result<Verdict, JournalError>>;

type Answer = oneshot::Sender<Verdicts>;

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is durable.
    Written,
    /// Something else stands there than it was to replace. Nothing was written for it.
    Overtaken,
}

/// One record.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// There is a branch, once and for all.
    Prepared(BranchKey, Payload),
    /// There is none any more.
    Ended(BranchKey),
    /// This payload stands from now on, where none stood. What many have in common behind their beginnings is written once for those that follow
    /// one another.
    Placed(BranchKey, Payload),
    /// The payload begins so from now on, where it began as before; both are of one length, and what follows stays.
    Begun { key: BranchKey, before: Beginning, beginning: Beginning },
    /// The file's label from now on.
    Labelled(Bytes),
}

/// The owner of the file.
pub(super) struct Writer {
    path: PathBuf,
    kind: Kind,
    file: File,
    mark: Mark,
    /// How long the file is, up to its last whole frame. Zeros follow.
    file_bytes: u64,
    /// How long it is with the zeros.
    laid_out_bytes: u64,
    /// What the branches in doubt take of that.
    live_bytes: u64,
    /// How long the file may become before it is looked at whether to rewrite it.
    compaction_at: u64,
    /// What is durable. Only the writer changes it.
    known: Arc<Mutex<Known>>,
    /// Whether a flush has failed.
    failed: bool,
    /// The room in which frames are put together.
    room: Vec<u8>,
    /// Whose payload was placed last as a whole.
    placed: Option<BranchKey>,
    /// Where those who wait are woken, if they are many.
    runtime: Option<tokio::runtime::Handle>,
    /// Held for as long as the journal is open.
    _lock: File,
}

/// While several write at a time, flushes begin at least this far apart: what others are about to write shares the next one. Whoever writes
/// alone never waits.
const PACE: Duration = Duration::from_micros(1_500);

/// How many bytes of payload are gathered into one frame before it is flushed.
const BATCH_BYTES: usize = 4 << 20;
/// How much of the room for frames is kept for the next one, in bytes.
const ROOM_BYTES: usize = 1 << 20;

/// How long a predecessor may take to close the journal: the process that this one replaces, or a clone that was just dropped.
const LOCK_WITHIN: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// So many zeros are laid out at a time, in bytes. To write over them changes nothing about the file but its contents, so that a flush is one write to the disk, and
/// not one more for the file's length.
const LAID_OUT_BYTES: u64 = 256 << 10;

/// A file below this is not worth rewriting, in bytes.
const COMPACTION_BYTES_MIN: u64 = 1 << 20;

impl Writer {
    pub(super) fn open(kind: Kind, path: PathBuf, known: Arc<Mutex<Known>>) -> Result<Self, JournalError> {
        let lock = lock(&path)?;
        let io = |doing| io_error(doing, &path);
        let contents = match std::fs::read(&path) {
            Ok(contents) => contents,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io("read")(error)),
        };
        let read = match read(kind, &contents) {
            Ok(read) => read,
            Err(Unreadable::Unborn) => {
                let fresh = Fresh::write(kind, &path, &Known::default())?;
                fresh.take_name(&path)?;
                flush_directory_of(&path)?;
                return Ok(Self::new(kind, path, fresh.file, fresh.mark, fresh.bytes, known, lock));
            }
            Err(Unreadable::Foreign) => return Err(JournalError::Foreign { path }),
            Err(Unreadable::Damaged { offset }) => return Err(JournalError::Damaged { path, offset }),
        };
        let mut file = OpenOptions::new().write(true).open(&path).map_err(io("open"))?;
        let file_bytes = read.whole_bytes as u64;
        let torn_bytes = contents[read.whole_bytes..].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if torn_bytes > 0 {
            tracing::warn!(path = %path.display(), torn_bytes, "mended a journal that a crash had cut short");
        }
        file.set_len(file_bytes).map_err(io("mend"))?;
        // What is read here is about to be acted on; it may so far be in the page cache only.
        file.sync_all().map_err(io("flush"))?;
        file.seek(SeekFrom::End(0)).map_err(io("read"))?;
        *known.lock().unwrap_or_else(PoisonError::into_inner) = read.known;
        Ok(Self::new(kind, path, file, read.mark, file_bytes, known, lock))
    }

    fn new(
        kind: Kind,
        path: PathBuf,
        file: File,
        mark: Mark,
        file_bytes: u64,
        known: Arc<Mutex<Known>>,
        lock: File,
    ) -> Self {
        let live_bytes =
            known.lock().unwrap_or_else(PoisonError::into_inner).branches.values().map(prepared_bytes).sum();
        let compaction_at = COMPACTION_BYTES_MIN;
        let runtime = tokio::runtime::Handle::try_current().ok();
        Self {
            path,
            kind,
            file,
            mark,
            file_bytes,
            laid_out_bytes: file_bytes,
            live_bytes,
            compaction_at,
            known,
            failed: false,
            room: Vec::new(),
            placed: None,
            runtime,
            _lock: lock,
        }
    }

    #[cfg(all(test, target_os = "linux"))]
    pub(super) fn write_to_a_full_disk(&mut self) {
        self.file = OpenOptions::new().write(true).open("/dev/full").expect("a device of every Linux");
    }

    /// Writes until nobody is left who could ask for it.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Append>) {
        let mut flushed_at = Instant::now();
        let mut are_many = false;
        while let Some(first) = queue.blocking_recv() {
            if are_many {
                std::thread::sleep(PACE.saturating_sub(flushed_at.elapsed()));
            }
            flushed_at = Instant::now();
            let mut appends = vec![first];
            let mut gathered_bytes = appends[0].bytes();
            while gathered_bytes < BATCH_BYTES
                && let Ok(append) = queue.try_recv()
            {
                gathered_bytes += append.bytes();
                appends.push(append);
            }
            are_many = appends.len() > 1;
            self.append(appends);
            if self.file_bytes > self.compaction_at && self.file_bytes / 4 > self.live_bytes {
                self.compact();
                // It quarters what it replaces, or waits until there is more to win.
                self.compaction_at = self.file_bytes.max(COMPACTION_BYTES_MIN / 2) + COMPACTION_BYTES_MIN / 2;
            }
        }
        // Whoever opens it next would do it.
        if !self.failed && self.laid_out_bytes > self.file_bytes {
            self.cut_off().ok();
        }
    }

    fn append(&mut self, appends: Vec<Append>) {
        let room = std::mem::take(&mut self.room);
        let mut batch = Batch::of(appends, room, self.placed, &self.known());
        let mut frame = std::mem::take(&mut batch.frame);
        let written = if frame.len() == FRAME_HEADER_BYTES { Ok(()) } else { self.write(&mut frame) };
        frame.clear();
        frame.shrink_to(ROOM_BYTES);
        self.room = frame;
        if written.is_ok() {
            self.placed = batch.placed;
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(label) = batch.label {
                known.label = label;
            }
            for (key, payload) in batch.changed {
                let before = match payload {
                    Some(payload) => {
                        self.live_bytes += prepared_bytes(&payload);
                        known.branches.insert(key, payload)
                    }
                    None => known.branches.remove(&key),
                };
                self.live_bytes -= before.as_ref().map_or(0, prepared_bytes);
            }
        }
        let answers = batch.answers.into_iter().map(|(answer, mut verdicts)| {
            if let Err(error) = &written {
                // What the refused ones met may be of this very batch; but for them nothing was to be written.
                for verdict in verdicts.iter_mut().filter(|verdict| matches!(verdict, Ok(Verdict::Written))) {
                    *verdict = Err(error.clone());
                }
            }
            (answer, verdicts)
        });
        let answers = Answers(answers.collect());
        match &self.runtime {
            // To wake each of them from this thread would cost more than to write what they wait for.
            Some(runtime) if answers.0.len() > 1 => drop(runtime.spawn(async move { drop(answers) })),
            Some(_) | None => drop(answers),
        }
    }

    /// Appends a frame, all but its header, and flushes it.
    fn write(&mut self, frame: &mut [u8]) -> Result<(), JournalError> {
        if self.failed {
            return Err(JournalError::Failed { path: self.path.clone() });
        }
        seal(&self.mark, frame);
        if let Err(error) = self.lay_out(frame.len() as u64).and_then(|()| self.file.write_all(frame)) {
            // The disk is full, for example. What has been written of it would be damage once something follows.
            self.failed = self.cut_off().is_err();
            return Err(io_error("write to", &self.path)(error));
        }
        if let Err(error) = self.file.sync_data() {
            // The kernel may have dropped the pages and would report success next time.
            self.failed = true;
            return Err(io_error("flush", &self.path)(error));
        }
        self.file_bytes += frame.len() as u64;
        Ok(())
    }

    /// Makes room for so many bytes.
    fn lay_out(&mut self, bytes: u64) -> io::Result<()> {
        if self.file_bytes + bytes <= self.laid_out_bytes {
            return Ok(());
        }
        let zeros = vec![0; (bytes + LAID_OUT_BYTES) as usize];
        self.file.write_all(&zeros)?;
        self.file.sync_all()?;
        self.laid_out_bytes = self.file_bytes + zeros.len() as u64;
        self.file.seek(SeekFrom::Start(self.file_bytes))?;
        Ok(())
    }

    /// Removes whatever stands behind the last whole frame.
    fn cut_off(&mut self) -> io::Result<()> {
        self.file.set_len(self.file_bytes)?;
        self.laid_out_bytes = self.file_bytes;
        self.file.seek(SeekFrom::Start(self.file_bytes))?;
        Ok(())
    }

    /// Replaces the file by one that only holds what is in doubt.
    fn compact(&mut self) {
        if self.failed {
            return;
        }
        let known = self.known().clone();
        let fresh = match Fresh::write(self.kind, &self.path, &known)
            .and_then(|fresh| fresh.take_name(&self.path).map(|()| fresh))
        {
            Ok(fresh) => fresh,
            Err(error) => {
                // The old file is as good as before.
                tracing::warn!(error = &error as &dyn std::error::Error, "a journal could not be made smaller");
                return;
            }
        };
        (self.file, self.mark, self.file_bytes) = (fresh.file, fresh.mark, fresh.bytes);
        self.laid_out_bytes = self.file_bytes;
        if let Err(error) = flush_directory_of(&self.path) {
            // After a crash the old file may have its name back, without what would be appended to the new one.
            tracing::error!(error = &error as &dyn std::error::Error, "a journal takes no more records");
            self.failed = true;
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Given when they are dropped: also by a runtime that shuts down.
struct Answers(Vec<(Answer, Verdicts)>);

impl Drop for Answers {
    fn drop(&mut self) {
        for (answer, verdicts) in self.0.drain(..) {
            // Whoever does not wait any more will find out when it asks again.
            answer.send(verdicts).ok();
        }
    }
}

/// Appends that are written together.
struct Batch {
    /// Room for the header, and the body.
    frame: Vec<u8>,
    /// See [`Writer::placed`].
    placed: Option<BranchKey>,
    /// What will be true when the frame is durable.
    changed: BranchMap<Option<Payload>>,
    label: Option<Bytes>,
    /// Given when the frame is durable, to those that are refused too: what they met may be in this very batch.
    answers: Vec<(Answer, Verdicts)>,
}

impl Batch {
    fn of(appends: Vec<Append>, mut room: Vec<u8>, placed: Option<BranchKey>, known: &Known) -> Self {
        room.clear();
        room.resize(FRAME_HEADER_BYTES, 0);
        let answers = Vec::with_capacity(appends.len());
        let mut batch = Self { frame: room, placed, changed: BranchMap::default(), label: None, answers };
        for Append { changes, answer } in appends {
            let verdicts = changes.into_iter().map(|change| batch.take(change, known)).collect();
            batch.answers.push((answer, verdicts));
        }
        batch
    }

    fn take(&mut self, change: Change, known: &Known) -> Result<Verdict, JournalError> {
        let before = |key| self.changed.get(key).map_or_else(|| known.branches.get(key), Option::as_ref);
        match change {
            Change::Prepared(key, payload) => match before(&key) {
                Some(before) if *before != payload => return Err(JournalError::OtherPayload { branch: key }),
                Some(_) => {}
                None => self.put(key, payload),
            },
            Change::Ended(key) => {
                if before(&key).is_some() {
                    write_ended(&mut self.frame, key);
                    self.changed.insert(key, None);
                }
            }
            Change::Placed(key, payload) => {
                if before(&key).is_some() {
                    return Ok(Verdict::Overtaken);
                }
                if let Some(like) = &self.placed
                    && before(like).is_some_and(|placed| placed.is_like(&payload))
                {
                    write_similar(&mut self.frame, key.gtid, payload.beginning(), like.gtid);
                    self.changed.insert(key, Some(payload));
                } else {
                    self.placed = Some(key);
                    self.put(key, payload);
                }
            }
            Change::Begun { key, before: expected, beginning } => {
                let found = before(&key).filter(|found| found.begins_with(&expected));
                let Some(payload) = found.and_then(|found| found.with_beginning(beginning.clone())) else {
                    return Ok(Verdict::Overtaken);
                };
                write_beginning(&mut self.frame, key.gtid, &beginning);
                self.changed.insert(key, Some(payload));
            }
            Change::Labelled(label) => {
                write_label(&mut self.frame, &label);
                self.label = Some(label);
            }
        }
        Ok(Verdict::Written)
    }

    fn put(&mut self, key: BranchKey, payload: Payload) {
        write_prepared(&mut self.frame, key, &payload);
        self.changed.insert(key, Some(payload));
    }
}

impl Append {
    fn bytes(&self) -> usize {
        let of = |change: &Change| match change {
            Change::Prepared(_, payload) | Change::Placed(_, payload) => payload.len(),
            Change::Labelled(label) => label.len(),
            Change::Begun { beginning, .. } => beginning.len(),
            Change::Ended(_) => 0,
        };
        self.changes.iter().map(|change| PREPARED_BYTES + of(change)).sum()
    }
}

fn prepared_bytes(payload: &Payload) -> u64 {
    (PREPARED_BYTES + payload.len()) as u64
}

/// A new journal beside the path, whole and flushed. There is no moment in which the path has no whole file.
struct Fresh {
    path: PathBuf,
    file: File,
    mark: Mark,
    bytes: u64,
}

impl Fresh {
    fn write(kind: Kind, beside_path: &Path, known: &Known) -> Result<Self, JournalError> {
        let path = beside(beside_path, ".new");
        let mark: Mark = rand::random::<[u8; MARK_BYTES]>();
        let mut contents = file_header(kind, &mark);
        let mut body = Vec::new();
        if !known.label.is_empty() {
            write_label(&mut body, &known.label);
        }
        for (key, payload) in &known.branches {
            write_prepared(&mut body, *key, payload);
            // A frame's length is a 32-bit number.
            if body.len() > BATCH_BYTES {
                contents.extend(frame(&mark, &std::mem::take(&mut body)));
            }
        }
        if !body.is_empty() {
            contents.extend(frame(&mark, &body));
        }
        let mut file =
            private().write(true).create(true).truncate(true).open(&path).map_err(io_error("create", &path))?;
        file.write_all(&contents).map_err(io_error("write to", &path))?;
        file.sync_all().map_err(io_error("flush", &path))?;
        Ok(Self { path, file, mark, bytes: contents.len() as u64 })
    }

    /// It does, or nothing has changed. It is not durable before the directory is flushed.
    fn take_name(&self, path: &Path) -> Result<(), JournalError> {
        std::fs::rename(&self.path, path).map_err(io_error("rename", &self.path))
    }
}

fn flush_directory_of(path: &Path) -> Result<(), JournalError> {
    // Other systems do not open directories as files.
    if cfg!(unix) {
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(io_error("flush the directory of", path))?;
    }
    Ok(())
}

pub(super) fn lock(path: &Path) -> Result<File, JournalError> {
    // Not the journal itself, which is replaced when it is compacted.
    let lock_path = beside(path, ".lock");
    let file =
        private().create(true).truncate(false).write(true).open(&lock_path).map_err(io_error("open", &lock_path))?;
    let give_up_at = Instant::now() + LOCK_WITHIN;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < give_up_at => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => return Err(JournalError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(io_error("lock", &lock_path)(error)),
        }
    }
}

/// To create files that only this user can read: they hold payloads.
fn private() -> OpenOptions {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "modes are of Unix"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn io_error(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Io { doing, path: path.clone(), source: Arc::new(source) }
}
