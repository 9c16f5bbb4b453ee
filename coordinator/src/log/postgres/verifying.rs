//! Reads for the checks of a whole log, in transactions that cannot write. They work on a standby
//! too.

use std::collections::BTreeSet;

use assent_protocol::Gtid;
use futures::future::{BoxFuture, FutureExt as _};
use sqlx::postgres::{PgConnectOptions, PgPool, PgRow, PgTransaction};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use uuid::Uuid;

use super::link;
use super::loan::lend;
use super::reading::{HISTORY_COLUMNS, OPEN_COLUMNS, SNAPSHOT, count, gtid_of, history_rows, open_rows, steps_of};
use super::trouble::Trouble;
use super::value::uuids;
use crate::log::rows::HistoryRow;
use crate::log::verify::{OpenPage, Raw, Rows};
use crate::log::{LogError, Options, url};

/// A connection that only reads.
pub(super) struct Reader {
    pool: PgPool,
    place: String,
}

impl Reader {
    pub(super) fn open(target: &PgConnectOptions) -> Self {
        let options =
            Options { application_name: "assent verify-log".to_owned(), read_connections_max: 1, ..Options::default() };
        Self { pool: link::pool(target, &options), place: url::describe(target) }
    }

    async fn read<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgTransaction<'_>) -> Result<T, Trouble>,
    ) -> Result<T, LogError> {
        let read = async {
            let mut loan = lend(&self.pool).await?;
            let mut snapshot = loan.begin_with(SNAPSHOT).await?;
            // In the order of the index, and no page sorts the whole of history, whatever the
            // statistics say.
            sqlx::query("set local enable_seqscan = off").execute(&mut *snapshot).await?;
            let read = work(&mut snapshot).await?;
            snapshot.commit().await?;
            loan.give_back();
            Ok(read)
        };
        read.await.map_err(|trouble: Trouble| trouble.of_call(&self.place))
    }
}

impl Rows for Reader {
    fn identities(&mut self) -> BoxFuture<'_, Result<Vec<String>, LogError>> {
        let sql = "select coordinator_id::text from assent.identity";
        self.read(async move |snapshot| Ok(sqlx::query_scalar(sql).fetch_all(&mut **snapshot).await?)).boxed()
    }

    fn open_page(&mut self, after: Option<String>, limit: usize) -> BoxFuture<'_, Result<OpenPage, LogError>> {
        let work = async move |snapshot: &mut PgTransaction<'_>| {
            let sql = format!(
                "select {OPEN_COLUMNS}, o.definition::text as definition, o.roster::text as roster
                 from assent.open_transaction o
                 where $1::uuid is null or o.gtid > $1 order by o.gtid limit $2"
            );
            let query = sqlx::query(AssertSqlSafe(sql)).bind(cursor(after)).bind(count(limit));
            let rows = each(query.fetch_all(&mut **snapshot).await?, open_rows)?;
            let open: Vec<_> = rows.iter().filter_map(|raw| raw.row.clone()).collect();
            let steps = steps_of(snapshot, &open).await?;
            let query = sqlx::query_scalar("select distinct gtid from assent.history where gtid = any($1)");
            let ended: Vec<Uuid> =
                query.bind(uuids(open.iter().map(|row| row.gtid))).fetch_all(&mut **snapshot).await?;
            let ended: BTreeSet<Gtid> = ended.into_iter().filter_map(|uuid| Gtid::new(uuid).ok()).collect();
            let holders = sqlx::query_as("select name, epoch from assent.replica").fetch_all(&mut **snapshot).await?;
            let sql = "select case when is_called then last_value else 0 end from assent.epoch";
            let drawn = sqlx::query_scalar(sql).fetch_one(&mut **snapshot).await?;
            Ok(OpenPage { rows, steps, ended, holders, drawn })
        };
        self.read(work).boxed()
    }

    fn strays(&mut self, limit: usize) -> BoxFuture<'_, Result<Vec<String>, LogError>> {
        let sql = "select distinct s.gtid::text from assent.saga_step s
                   where not exists (
                       select from assent.open_transaction o where o.gtid = s.gtid and o.protocol = 'saga'
                   )
                   order by 1 limit $1";
        let limit = count(limit);
        self.read(async move |snapshot| Ok(sqlx::query_scalar(sql).bind(limit).fetch_all(&mut **snapshot).await?))
            .boxed()
    }

    fn history_page(
        &mut self,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Raw<HistoryRow>>, LogError>> {
        let work = async move |snapshot: &mut PgTransaction<'_>| {
            let sql = format!(
                "select {HISTORY_COLUMNS}, h.outputs::text as outputs from assent.history h
                 where $1::uuid is null or h.gtid > $1 order by h.gtid, h.ended_at limit $2"
            );
            let query = sqlx::query(AssertSqlSafe(sql)).bind(cursor(after)).bind(count(limit));
            each(query.fetch_all(&mut **snapshot).await?, history_rows)
        };
        self.read(work).boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move { self.pool.close().await }.boxed()
    }
}

fn cursor(after: Option<String>) -> Option<Uuid> {
    after.and_then(|text| text.parse().ok())
}

/// Each row, or only its id where that is none.
fn each<T>(rows: Vec<PgRow>, read: impl Fn(Vec<PgRow>) -> Result<Vec<T>, Trouble>) -> Result<Vec<Raw<T>>, Trouble> {
    let raw = |row: PgRow| {
        let uuid: Uuid = row.try_get("gtid")?;
        let row = if gtid_of(&row)?.is_some() { read(vec![row])?.pop() } else { None };
        Ok(Raw { key: uuid.to_string(), row })
    };
    rows.into_iter().map(raw).collect()
}
