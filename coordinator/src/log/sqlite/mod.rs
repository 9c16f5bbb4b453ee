//! The log in one SQLite file: the embedded default, for one process.
//!
//! The lock of the file is the lease: the system takes it back when its process dies, and nobody
//! else has the file meanwhile. So a replica of any name may start as soon as the file can be
//! opened, and nothing has to be renewed.
//!
//! Write-ahead log with `synchronous=FULL`: a commit is on the disk before it is confirmed. One
//! connection writes, a small pool reads beside it. A full disk fails the append as a whole, and
//! the next one tries again.

mod append;
mod backend;
mod file;
mod migrate;
mod reading;
mod trouble;
mod verifying;

use std::path::PathBuf;
use std::time::Duration;

use assent_protocol::{Appended, Epoch, Gtid, Name, ParticipantName};
use futures::future::{BoxFuture, FutureExt as _};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use tokio::sync::Mutex;

use self::append::{Done, Held, current_epoch, time_column};
use self::file::FileLock;
use self::trouble::{Kind, Trouble};
use super::{
    AppendError, Batch, Filter, Found, Lease, Log, LogError, Maintenance, OpenError, Options, Owned, Page, PageToken,
    Shown, Unreadable,
};

pub(super) use self::backend::File;

/// How many rows of history are forgotten in one transaction, so that appends do not wait for long.
const FORGOTTEN_AT_ONCE: i64 = 2_000;

/// A log in an SQLite file.
#[derive(Debug)]
pub struct SqliteLog {
    path: PathBuf,
    place: String,
    lease: Duration,
    writer: Mutex<Writer>,
    pool: SqlitePool,
}

#[derive(Debug)]
struct Writer {
    held: Option<Held>,
    /// Taken out while it writes, and put back when it is known to be outside of any transaction:
    /// one whose work was given up half-way is closed, which rolls back.
    connection: Option<SqliteConnection>,
    /// `None` once the log is closed.
    lock: Option<FileLock>,
}

impl SqliteLog {
    /// Opens a file, creates it if it is not there, and migrates it.
    async fn open(path: PathBuf, options: Options) -> Result<Self, OpenError> {
        let lock = FileLock::take(&path)?;
        let mut connection = file::writer(&path).await.map_err(|trouble| trouble.of_opening(&path))?;
        file::check_library(&mut connection, &path).await?;
        migrate::apply(&mut connection, &path).await?;
        let pool = file::readers(&path, &options);
        let place = file::describe(&path);
        let writer = Writer { held: None, connection: Some(connection), lock: Some(lock) };
        Ok(Self { path, place, lease: options.lease, writer: Mutex::new(writer), pool })
    }

    /// Runs something on the writing connection.
    async fn write<T>(
        &self,
        writer: &mut Writer,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        if writer.lock.is_none() {
            return Err(Trouble::Closed);
        }
        let mut connection = match writer.connection.take() {
            Some(connection) => connection,
            None => file::writer(&self.path).await?,
        };
        let result = work(&mut connection).await;
        let is_clean = match &result {
            Ok(_) => true,
            // What a failed disk did to the connection is anyone's guess. After anything else it is
            // enough to roll back, which is an error where the failure has done so itself.
            Err(trouble) if trouble.kind() == Kind::Lost => false,
            Err(_) => {
                let _ = sqlx::query("rollback").execute(&mut connection).await;
                true
            }
        };
        if is_clean {
            writer.connection = Some(connection);
        }
        result
    }

    async fn call<T>(
        &self,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, Trouble>,
    ) -> Result<T, LogError> {
        let mut writer = self.writer.lock().await;
        self.write(&mut writer, work).await.map_err(|trouble| trouble.of_call(&self.place))
    }

    async fn read<T>(&self, work: impl Future<Output = Result<T, Trouble>>) -> Result<T, LogError> {
        work.await.map_err(|trouble| trouble.of_call(&self.place))
    }

    async fn forget(&self, before_ms: u64) -> Result<u64, LogError> {
        let mut forgotten = 0;
        loop {
            let now = self
                .call(async |connection| {
                    let sql = "delete from history where (gtid, ended_at) in (
                                   select h.gtid, h.ended_at from history h
                                   where h.ended_at < ?1 and not exists (select 1 from pin p where p.gtid = h.gtid)
                                   order by h.ended_at limit ?2)";
                    let query = sqlx::query(sql).bind(time_column(before_ms)).bind(FORGOTTEN_AT_ONCE);
                    Ok(query.execute(connection).await?.rows_affected())
                })
                .await?;
            forgotten += now;
            if now < FORGOTTEN_AT_ONCE.unsigned_abs() {
                return Ok(forgotten);
            }
        }
    }
}

/// Draws a new epoch for a replica's name, and takes over every open transaction: whoever drove
/// them had the file before.
async fn acquire(connection: &mut SqliteConnection, replica: &Name) -> Result<Epoch, Trouble> {
    let mut transaction = connection.begin_with("begin immediate").await?;
    let epoch: i64 =
        sqlx::query_scalar("update epoch set drawn = drawn + 1 returning drawn").fetch_one(&mut *transaction).await?;
    sqlx::query(
        "insert into replica (name, epoch, acquired_at) values (?1, ?2, cast(unixepoch('subsec') * 1000 as integer))
         on conflict (name) do update set epoch = excluded.epoch, acquired_at = excluded.acquired_at",
    )
    .bind(replica.as_str())
    .bind(epoch)
    .execute(&mut *transaction)
    .await?;
    sqlx::query("update open_transaction set owner_epoch = ?1 where owner_epoch <> ?1")
        .bind(epoch)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(Epoch(u64::try_from(epoch).unwrap_or_default()))
}

impl Log for SqliteLog {
    fn append<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Vec<Appended>, AppendError>> {
        async move {
            let mut writer = self.writer.lock().await;
            let Some(held) = writer.held.clone() else {
                return Err(AppendError::Fenced { held: Epoch::default(), current: Epoch::default() });
            };
            let done = self.write(&mut writer, async |connection| append::append(connection, &held, batch).await).await;
            match done {
                Ok(Done::Appended(answers)) => Ok(answers),
                Ok(Done::Fenced(current)) => Err(AppendError::Fenced { held: held.epoch, current }),
                Err(trouble) => Err(trouble.of_append(&self.place)),
            }
        }
        .boxed()
    }

    fn acquire<'a>(&'a self, replica: &'a Name) -> BoxFuture<'a, Result<Epoch, LogError>> {
        async move {
            let mut writer = self.writer.lock().await;
            let drawn = self.write(&mut writer, async |connection| acquire(connection, replica).await).await;
            let epoch = drawn.map_err(|trouble| trouble.of_call(&self.place))?;
            writer.held = Some(Held { replica: replica.clone(), epoch });
            Ok(epoch)
        }
        .boxed()
    }

    fn renew(&self) -> BoxFuture<'_, Result<Lease, LogError>> {
        async move {
            let mut writer = self.writer.lock().await;
            let Some(held) = writer.held.clone() else { return Ok(Lease::NotAcquired) };
            let current =
                self.write(&mut writer, async |connection| current_epoch(connection, &held.replica).await).await;
            let current = current.map_err(|trouble| trouble.of_call(&self.place))?;
            Ok(if current == held.epoch { Lease::Renewed } else { Lease::Lost })
        }
        .boxed()
    }

    fn lease(&self) -> Duration {
        self.lease
    }

    fn open_transactions(
        &self,
        after: Option<Gtid>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(Gtid, Result<Owned, Unreadable>)>, LogError>> {
        let work = async move {
            let Some(held) = self.writer.lock().await.held.clone() else { return Ok(Vec::new()) };
            reading::open_transactions(&self.pool, held.epoch, after, limit).await
        };
        self.read(work).boxed()
    }

    fn lookup<'a>(&'a self, gtids: &'a [Gtid]) -> BoxFuture<'a, Result<Vec<(Gtid, Found)>, LogError>> {
        self.read(reading::lookup(&self.pool, gtids)).boxed()
    }

    fn list<'a>(
        &'a self,
        filter: &'a Filter,
        page: Option<&'a PageToken>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, LogError>> {
        self.read(reading::list(&self.pool, filter, page, limit)).boxed()
    }

    fn show(&self, gtid: Gtid) -> BoxFuture<'_, Result<Option<Shown>, LogError>> {
        self.read(reading::show(&self.pool, gtid)).boxed()
    }

    fn coordinator_id(&self) -> BoxFuture<'_, Result<String, LogError>> {
        let work = async { Ok(sqlx::query_scalar("select coordinator_id from identity").fetch_one(&self.pool).await?) };
        self.read(work).boxed()
    }

    fn participants(&self) -> BoxFuture<'_, Result<Vec<ParticipantName>, LogError>> {
        let work = async {
            let names: Vec<String> =
                sqlx::query_scalar("select name from participant order by name").fetch_all(&self.pool).await?;
            Ok(names.iter().filter_map(|name| Name::new(name).ok()).collect())
        };
        self.read(work).boxed()
    }

    fn note_participant<'a>(&'a self, name: &'a ParticipantName) -> BoxFuture<'a, Result<(), LogError>> {
        let work = async |connection: &mut SqliteConnection| {
            let sql =
                "insert into participant (name, noted_at) values (?1, cast(unixepoch('subsec') * 1000 as integer))
                       on conflict (name) do nothing";
            sqlx::query(sql).bind(name.as_str()).execute(connection).await?;
            Ok(())
        };
        self.call(work).boxed()
    }

    fn maintain(&self, now_ms: u64, retention: Duration) -> BoxFuture<'_, Result<Maintenance, LogError>> {
        async move {
            let retention_ms = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
            let keep_from_ms = now_ms.saturating_sub(retention_ms);
            let transactions_forgotten = self.forget(keep_from_ms).await?;
            let kept = async {
                let sql = "select count(*) from pin p join history h on h.gtid = p.gtid where h.ended_at < ?1";
                let kept: i64 = sqlx::query_scalar(sql).bind(time_column(keep_from_ms)).fetch_one(&self.pool).await?;
                Ok(kept.unsigned_abs())
            };
            let transactions_kept = self.read(kept).await?;
            Ok(Maintenance { transactions_forgotten, transactions_kept, ..Maintenance::default() })
        }
        .boxed()
    }

    fn pin(&self, gtid: Gtid, pinned: bool) -> BoxFuture<'_, Result<bool, LogError>> {
        let work = async move |connection: &mut SqliteConnection| {
            let known = "select exists (select 1 from open_transaction where gtid = ?1)
                             or exists (select 1 from history where gtid = ?1)";
            let known = sqlx::query_scalar(known).bind(gtid.to_string()).fetch_one(&mut *connection).await?;
            let sql = match (pinned, known) {
                (true, true) => "insert into pin (gtid) values (?1) on conflict (gtid) do nothing",
                (true, false) => return Ok(false),
                (false, _) => "delete from pin where gtid = ?1",
            };
            sqlx::query(sql).bind(gtid.to_string()).execute(connection).await?;
            Ok(known)
        };
        self.call(work).boxed()
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), LogError>> {
        let work = async {
            sqlx::query("select 1").execute(&self.pool).await?;
            Ok(())
        };
        self.read(work).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            let mut writer = self.writer.lock().await;
            self.pool.close().await;
            if let Some(connection) = writer.connection.take() {
                // The last connection copies the write-ahead log back; if that fails, the next
                // process does it.
                if let Err(error) = connection.close().await {
                    tracing::warn!(log = self.place, %error, "the log was not closed cleanly; nothing is lost");
                }
            }
            writer.lock = None;
        }
        .boxed()
    }

    fn describe(&self) -> String {
        self.place.clone()
    }
}

#[cfg(test)]
mod tests;
