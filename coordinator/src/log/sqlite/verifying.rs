//! Reads for the checks of a whole log, over a connection that cannot write. A server may have the
//! file meanwhile.

use std::collections::BTreeSet;
use std::path::Path;

use assent_protocol::Gtid;
use futures::future::{BoxFuture, FutureExt as _};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::append::json;
use super::file;
use super::reading::{HISTORY_COLUMNS, OPEN_COLUMNS, SNAPSHOT, count, gtid_of, history_rows, open_rows, steps_of};
use super::trouble::Trouble;
use crate::log::rows::HistoryRow;
use crate::log::verify::{OpenPage, Raw, Rows};
use crate::log::{LogError, OpenError};

/// A connection that only reads.
pub(super) struct Reader {
    connection: SqliteConnection,
    place: String,
}

impl Reader {
    pub(super) async fn open(path: &Path) -> Result<Self, OpenError> {
        let of_opening = |trouble: Trouble| trouble.of_opening(path);
        let mut connection = file::reader(path).await.map_err(of_opening)?;
        let query_only = sqlx::query("pragma query_only = on").execute(&mut connection).await;
        query_only.map_err(|error| of_opening(error.into()))?;
        Ok(Self { connection, place: file::describe(path) })
    }

    async fn read<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, Trouble>,
    ) -> Result<T, LogError> {
        work(&mut self.connection).await.map_err(|trouble| trouble.of_call(&self.place))
    }
}

impl Rows for Reader {
    fn identities(&mut self) -> BoxFuture<'_, Result<Vec<String>, LogError>> {
        let sql = "select coordinator_id from identity";
        self.read(async move |connection| Ok(sqlx::query_scalar(sql).fetch_all(connection).await?)).boxed()
    }

    fn open_page(&mut self, after: Option<String>, limit: usize) -> BoxFuture<'_, Result<OpenPage, LogError>> {
        let work = async move |connection: &mut SqliteConnection| {
            let mut snapshot = connection.begin_with(SNAPSHOT).await?;
            let sql = format!(
                "select {OPEN_COLUMNS}, o.definition, o.roster from open_transaction o
                 where ?1 is null or o.gtid > ?1 order by o.gtid limit ?2"
            );
            let query = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(count(limit));
            let rows = each(query.fetch_all(&mut *snapshot).await?, open_rows)?;
            let open: Vec<_> = rows.iter().filter_map(|raw| raw.row.clone()).collect();
            let steps = steps_of(&mut snapshot, &open).await?;
            let sql = "select distinct gtid from history where gtid in (select value from json_each(?1))";
            let query = sqlx::query_scalar(sql).bind(json(open.iter().map(|row| row.gtid)));
            let ended: Vec<String> = query.fetch_all(&mut *snapshot).await?;
            let ended: BTreeSet<Gtid> = ended.iter().filter_map(|text| text.parse().ok()).collect();
            let holders = sqlx::query_as("select name, epoch from replica").fetch_all(&mut *snapshot).await?;
            let drawn = sqlx::query_scalar("select drawn from epoch").fetch_one(&mut *snapshot).await?;
            snapshot.commit().await?;
            Ok(OpenPage { rows, steps, ended, holders, drawn })
        };
        self.read(work).boxed()
    }

    fn strays(&mut self, limit: usize) -> BoxFuture<'_, Result<Vec<String>, LogError>> {
        let sql = "select distinct s.gtid from saga_step s
                   where not exists (select 1 from open_transaction o where o.gtid = s.gtid and o.protocol = 'saga')
                   order by s.gtid limit ?1";
        let limit = count(limit);
        self.read(async move |connection| Ok(sqlx::query_scalar(sql).bind(limit).fetch_all(connection).await?)).boxed()
    }

    fn history_page(
        &mut self,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Raw<HistoryRow>>, LogError>> {
        let work = async move |connection: &mut SqliteConnection| {
            let sql = format!(
                "select {HISTORY_COLUMNS}, h.outputs from history h
                 where ?1 is null or h.gtid > ?1 order by h.gtid, h.ended_at limit ?2"
            );
            let query = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(count(limit));
            each(query.fetch_all(connection).await?, history_rows)
        };
        self.read(work).boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        // It has changed nothing, so nothing can be lost.
        async move { drop(self.connection.close().await) }.boxed()
    }
}

/// Each row, or only its id where that is none.
fn each<T>(
    rows: Vec<SqliteRow>,
    read: impl Fn(Vec<SqliteRow>) -> Result<Vec<T>, Trouble>,
) -> Result<Vec<Raw<T>>, Trouble> {
    let raw = |row: SqliteRow| {
        let key = row.try_get("gtid")?;
        let row = if gtid_of(&row)?.is_some() { read(vec![row])?.pop() } else { None };
        Ok(Raw { key, row })
    };
    rows.into_iter().map(raw).collect()
}
