//! Reads: for recovery, answers and operators.

use assent_protocol::{Epoch, Gtid, ParticipantName};
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};

use super::append::{epoch_column, json, time_column};
use super::trouble::Trouble;
use crate::log::Owned;
use crate::log::read::{Filter, Found, Kind, Page, PageToken, Shown, Unreadable};
use crate::log::rows::{self, HistoryRow, OpenRow, StepRow};
use crate::log::stored;

pub(super) const OPEN_COLUMNS: &str =
    "o.gtid, o.owner_epoch, o.digest, o.begun_at, o.decided_at, o.protocol, o.decision,
    o.participants, o.branch_ids, o.reason, o.remedy, o.voter, exists (select 1 from pin p where p.gtid = o.gtid) as pinned";

pub(super) const HISTORY_COLUMNS: &str =
    "h.gtid, h.ended_at, h.begun_at, h.decided_at, h.digest, h.protocol, h.outcome, h.branches,
    h.branch_ids, h.reason, exists (select 1 from pin p where p.gtid = h.gtid) as pinned";

/// A transaction reads one moment of the file, so that a row fits its steps, and none is missed on
/// its way to history.
pub(super) const SNAPSHOT: &str = "begin deferred";

pub(super) async fn open_transactions(
    pool: &SqlitePool,
    held: Epoch,
    after: Option<Gtid>,
    limit: usize,
) -> Result<Vec<(Gtid, Result<Owned, Unreadable>)>, Trouble> {
    let mut snapshot = pool.begin_with(SNAPSHOT).await?;
    let sql = format!(
        "select {OPEN_COLUMNS}, o.definition, o.roster from open_transaction o
         where (?1 is null or o.gtid > ?1) and o.owner_epoch = ?3 order by o.gtid limit ?2"
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(after.map(|gtid| gtid.to_string())).bind(count(limit));
    let query = query.bind(epoch_column(held));
    let open = open_rows(query.fetch_all(&mut *snapshot).await?)?;
    let steps = steps_of(&mut snapshot, &open).await?;
    snapshot.commit().await?;
    Ok(rows::owned(&open, steps, held))
}

pub(super) async fn lookup(pool: &SqlitePool, gtids: &[Gtid]) -> Result<Vec<(Gtid, Found)>, Trouble> {
    let (open, steps, history) = rows_of(pool, gtids).await?;
    Ok(rows::found(&open, steps, &history))
}

pub(super) async fn show(pool: &SqlitePool, gtid: Gtid) -> Result<Option<Shown>, Trouble> {
    let (open, steps, history) = rows_of(pool, &[gtid]).await?;
    Ok(rows::shown(open, steps, history))
}

async fn rows_of(pool: &SqlitePool, gtids: &[Gtid]) -> Result<(Vec<OpenRow>, Vec<StepRow>, Vec<HistoryRow>), Trouble> {
    let gtids = json(gtids.iter());
    let mut snapshot = pool.begin_with(SNAPSHOT).await?;
    let sql = format!(
        "select {OPEN_COLUMNS}, o.definition, o.roster from open_transaction o
         where o.gtid in (select value from json_each(?1)) order by o.gtid"
    );
    let open = open_rows(sqlx::query(AssertSqlSafe(sql)).bind(&gtids).fetch_all(&mut *snapshot).await?)?;
    let steps = steps_of(&mut snapshot, &open).await?;
    let sql = format!(
        "select {HISTORY_COLUMNS}, h.outputs from history h
         where h.gtid in (select value from json_each(?1)) order by h.gtid, h.ended_at"
    );
    let history = history_rows(sqlx::query(AssertSqlSafe(sql)).bind(&gtids).fetch_all(&mut *snapshot).await?)?;
    snapshot.commit().await?;
    Ok((open, steps, history))
}

pub(super) async fn steps_of(snapshot: &mut SqliteConnection, open: &[OpenRow]) -> Result<Vec<StepRow>, Trouble> {
    let sagas: Vec<Gtid> = open.iter().filter(|row| row.protocol == "saga").map(|row| row.gtid).collect();
    if sagas.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "select gtid, step, compensation, attempt, result, output, reason, at from saga_step
               where gtid in (select value from json_each(?1)) order by gtid, step, compensation";
    let mut steps = Vec::new();
    for row in sqlx::query(sql).bind(json(sagas.iter())).fetch_all(snapshot).await? {
        let Some(gtid) = gtid_of(&row)? else { continue };
        let output: Option<String> = row.try_get("output")?;
        steps.push(StepRow {
            gtid,
            step: row.try_get("step")?,
            compensation: row.try_get("compensation")?,
            attempt: row.try_get("attempt")?,
            result: row.try_get("result")?,
            // What is not base64 was not written by us: without an output the step is unreadable,
            // as it should be.
            output: output.and_then(|text| stored::parse_payload(&text).ok()),
            reason: row.try_get("reason")?,
            at_ms: time(row.try_get("at")?),
        });
    }
    Ok(steps)
}

pub(super) async fn list(
    pool: &SqlitePool,
    filter: &Filter,
    page: Option<&PageToken>,
    limit: usize,
) -> Result<Page, Trouble> {
    let states = json(filter.states.iter().map(|state| state.as_str()));
    let before = page.map(|token| token.before.to_string());
    let participant = filter.participant.as_ref().map(ParticipantName::as_str);
    let begun_before = filter.begun_before_ms.map(time_column);
    let saga = filter.kind.map(|kind| kind == Kind::Saga);
    let limit_and_one = count(limit.saturating_add(1));
    // First the open ones and then history, so that a transaction that ends in between is seen at
    // least once.
    let mut open = Vec::new();
    if filter.states.is_empty() || filter.states.iter().any(|state| !state.is_final()) {
        let sql = format!(
            "select {OPEN_COLUMNS}, null as definition, null as roster from open_transaction o
             where (?1 is null or o.gtid < ?1)
               and (?2 = '[]' or case
                       when o.remedy is not null then 'paused'
                       when o.protocol = 'saga' and o.decision is null then 'running'
                       when o.protocol = 'saga' then 'compensating'
                       when o.decision is null then 'preparing'
                       when o.decision = 'commit' then 'committing'
                       else 'aborting'
                   end in (select value from json_each(?2)))
               and (?3 is null or instr(',' || o.participants || ',', ',' || ?3 || ',') > 0)
               and (?4 is null or o.begun_at < ?4)
               and (?5 is null or (o.protocol = 'saga') = ?5)
             order by o.gtid desc limit ?6"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&before).bind(&states).bind(participant);
        open = open_rows(query.bind(begun_before).bind(saga).bind(limit_and_one).fetch_all(pool).await?)?;
    }
    let mut history = Vec::new();
    if filter.states.is_empty() || filter.states.iter().any(|state| state.is_final()) {
        let sql = format!(
            "select {HISTORY_COLUMNS}, null as outputs from history h
             where (?1 is null or h.gtid < ?1)
               and (?2 = '[]' or h.outcome in (select value from json_each(?2)))
               and (?3 is null or instr(h.branches, ?3) > 0 and exists (
                       select 1 from json_each('[\"' || replace(h.branches, ',', '\",\"') || '\"]') b
                       where b.value = ?3 or b.value glob ?3 || '[/=]*'))
               and (?4 is null or h.begun_at < ?4)
               and (?5 is null or (h.protocol = 'saga') = ?5)
             order by h.gtid desc limit ?6"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&before).bind(&states).bind(participant);
        history = history_rows(query.bind(begun_before).bind(saga).bind(limit_and_one).fetch_all(pool).await?)?;
    }
    Ok(rows::page(open, history, limit))
}

pub(super) fn open_rows(rows: Vec<SqliteRow>) -> Result<Vec<OpenRow>, Trouble> {
    let mut open = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(gtid) = gtid_of(&row)? else { continue };
        open.push(OpenRow {
            gtid,
            owner_epoch: row.try_get("owner_epoch")?,
            digest: row.try_get("digest")?,
            begun_at_ms: time(row.try_get("begun_at")?),
            decided_at_ms: time(row.try_get("decided_at")?),
            protocol: row.try_get("protocol")?,
            decision: row.try_get("decision")?,
            participants: row.try_get("participants")?,
            branch_ids: row.try_get("branch_ids")?,
            reason: row.try_get("reason")?,
            remedy: row.try_get("remedy")?,
            definition: row.try_get("definition")?,
            voter: row.try_get("voter")?,
            roster: row.try_get("roster")?,
            pinned: row.try_get("pinned")?,
        });
    }
    Ok(open)
}

pub(super) fn history_rows(rows: Vec<SqliteRow>) -> Result<Vec<HistoryRow>, Trouble> {
    let mut history = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(gtid) = gtid_of(&row)? else { continue };
        history.push(HistoryRow {
            gtid,
            ended_at_ms: time(row.try_get("ended_at")?),
            begun_at_ms: time(row.try_get("begun_at")?),
            decided_at_ms: row.try_get::<Option<i64>, _>("decided_at")?.map(time),
            digest: row.try_get("digest")?,
            protocol: row.try_get("protocol")?,
            outcome: row.try_get("outcome")?,
            branches: row.try_get("branches")?,
            branch_ids: row.try_get("branch_ids")?,
            reason: row.try_get("reason")?,
            outputs: row.try_get("outputs")?,
            pinned: row.try_get("pinned")?,
        });
    }
    Ok(history)
}

/// The row's gtid. A row whose id is none was written by hand, and nobody can ask for it: it is
/// reported and left alone.
pub(super) fn gtid_of(row: &SqliteRow) -> Result<Option<Gtid>, Trouble> {
    let text: &str = row.try_get("gtid")?;
    let gtid = text.parse::<Gtid>();
    if let Err(error) = &gtid {
        tracing::error!(text, %error, "a row of the log has no gtid; it is ignored");
    }
    Ok(gtid.ok())
}

fn time(column: i64) -> u64 {
    u64::try_from(column).unwrap_or_default()
}

pub(super) fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
