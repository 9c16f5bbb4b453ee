//! Reads: for recovery, answers and operators.

use assent_protocol::{Epoch, Gtid, ParticipantName};
use bytes::Bytes;
use sqlx::postgres::{PgPool, PgRow, PgTransaction};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::link::epoch_column;
use super::loan::lend;
use super::trouble::Trouble;
use super::value::{Timestamp, uuids};
use crate::log::Owned;
use crate::log::read::{Filter, Found, Kind, Page, PageToken, Shown, Unreadable};
use crate::log::rows::{self, HistoryRow, OpenRow, StepRow};

/// A row and its steps, or an open row and its end, have to be read at one moment.
pub(super) const SNAPSHOT: &str = "begin isolation level repeatable read read only";

pub(super) const OPEN_COLUMNS: &str =
    "o.gtid, o.owner_epoch, o.digest, o.begun_at, o.decided_at, o.protocol::text as protocol,
    o.decision::text as decision, o.participants, o.branch_ids, o.reason, o.remedy, o.voter,
    exists (select from assent.pin p where p.gtid = o.gtid) as pinned";

pub(super) const HISTORY_COLUMNS: &str =
    "h.gtid, h.ended_at, h.begun_at, h.decided_at, h.digest, h.protocol::text as protocol,
    h.outcome::text as outcome, h.branches, h.branch_ids, h.reason,
    exists (select from assent.pin p where p.gtid = h.gtid) as pinned";

pub(super) async fn open_transactions(
    pool: &PgPool,
    held: Epoch,
    after: Option<Gtid>,
    limit: usize,
) -> Result<Vec<(Gtid, Result<Owned, Unreadable>)>, Trouble> {
    let mut loan = lend(pool).await?;
    let mut snapshot = loan.begin_with(SNAPSHOT).await?;
    let sql = format!(
        "select {OPEN_COLUMNS}, o.definition::text as definition, o.roster::text as roster from assent.open_transaction o
         where ($1::uuid is null or o.gtid > $1) and o.owner_epoch = $3 order by o.gtid limit $2"
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(after.map(|gtid| gtid.as_uuid())).bind(count(limit));
    let query = query.bind(epoch_column(held));
    let open = open_rows(query.fetch_all(&mut *snapshot).await?)?;
    let steps = steps_of(&mut snapshot, &open).await?;
    snapshot.commit().await?;
    loan.give_back();
    Ok(rows::owned(&open, steps, held))
}

pub(super) async fn lookup(pool: &PgPool, gtids: &[Gtid]) -> Result<Vec<(Gtid, Found)>, Trouble> {
    if gtids.is_empty() {
        return Ok(Vec::new());
    }
    let (open, steps, history) = rows_of(pool, gtids).await?;
    Ok(rows::found(&open, steps, &history))
}

pub(super) async fn show(pool: &PgPool, gtid: Gtid) -> Result<Option<Shown>, Trouble> {
    let (open, steps, history) = rows_of(pool, &[gtid]).await?;
    Ok(rows::shown(open, steps, history))
}

async fn rows_of(pool: &PgPool, gtids: &[Gtid]) -> Result<(Vec<OpenRow>, Vec<StepRow>, Vec<HistoryRow>), Trouble> {
    let gtids = uuids(gtids.iter().copied());
    let mut loan = lend(pool).await?;
    let mut snapshot = loan.begin_with(SNAPSHOT).await?;
    let sql = format!(
        "select {OPEN_COLUMNS}, o.definition::text as definition, o.roster::text as roster from assent.open_transaction o
         where o.gtid = any($1) order by o.gtid"
    );
    let open = open_rows(sqlx::query(AssertSqlSafe(sql)).bind(&gtids).fetch_all(&mut *snapshot).await?)?;
    let steps = steps_of(&mut snapshot, &open).await?;
    let sql = format!(
        "select {HISTORY_COLUMNS}, h.outputs::text as outputs from assent.history h
         where h.gtid = any($1) order by h.gtid, h.ended_at"
    );
    let history = history_rows(sqlx::query(AssertSqlSafe(sql)).bind(&gtids).fetch_all(&mut *snapshot).await?)?;
    snapshot.commit().await?;
    loan.give_back();
    Ok((open, steps, history))
}

pub(super) async fn steps_of(snapshot: &mut PgTransaction<'_>, open: &[OpenRow]) -> Result<Vec<StepRow>, Trouble> {
    let sagas = uuids(open.iter().filter(|row| row.protocol == "saga").map(|row| row.gtid));
    if sagas.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "select gtid, step, compensation, attempt, result, output, reason, at from assent.saga_step
               where gtid = any($1) order by gtid, step, compensation";
    let mut steps = Vec::new();
    for row in sqlx::query(sql).bind(sagas).fetch_all(&mut **snapshot).await? {
        let Some(gtid) = gtid_of(&row)? else { continue };
        steps.push(StepRow {
            gtid,
            step: row.try_get::<i32, _>("step")?.into(),
            compensation: row.try_get("compensation")?,
            attempt: row.try_get("attempt")?,
            result: row.try_get("result")?,
            output: row.try_get::<Option<Vec<u8>>, _>("output")?.map(Bytes::from),
            reason: row.try_get("reason")?,
            at_ms: row.try_get::<Timestamp, _>("at")?.0,
        });
    }
    Ok(steps)
}

pub(super) async fn list(
    pool: &PgPool,
    filter: &Filter,
    page: Option<&PageToken>,
    limit: usize,
) -> Result<Page, Trouble> {
    let mut loan = lend(pool).await?;
    let states: Vec<&str> = filter.states.iter().map(|state| state.as_str()).collect();
    let before = page.map(|token| token.before.as_uuid());
    let participant = filter.participant.as_ref().map(ParticipantName::as_str);
    let begun_before = filter.begun_before_ms.map(Timestamp);
    let saga = filter.kind.map(|kind| kind == Kind::Saga);
    let limit_and_one = count(limit.saturating_add(1));
    // First the open ones and then history, so that a transaction that ends in between is seen at
    // least once.
    let mut open = Vec::new();
    if states.is_empty() || filter.states.iter().any(|state| !state.is_final()) {
        let sql = format!(
            "select {OPEN_COLUMNS}, null::text as definition, null::text as roster from assent.open_transaction o
             where ($1::uuid is null or o.gtid < $1)
               and (cardinality($2::text[]) = 0 or case
                       when o.remedy is not null then 'paused'
                       when o.protocol = 'saga' and o.decision is null then 'running'
                       when o.protocol = 'saga' then 'compensating'
                       when o.decision is null then 'preparing'
                       when o.decision = 'commit' then 'committing'
                       else 'aborting'
                   end = any($2))
               and ($3::text is null or strpos(',' || o.participants || ',', ',' || $3 || ',') > 0)
               and ($4::timestamptz is null or o.begun_at < $4)
               and ($5::boolean is null or (o.protocol = 'saga') = $5)
             order by o.gtid desc limit $6"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(before).bind(&states).bind(participant);
        open = open_rows(query.bind(begun_before).bind(saga).bind(limit_and_one).fetch_all(&mut *loan).await?)?;
    }
    let mut history = Vec::new();
    if states.is_empty() || filter.states.iter().any(|state| state.is_final()) {
        let sql = format!(
            "select {HISTORY_COLUMNS}, null::text as outputs from assent.history h
             where ($1::uuid is null or h.gtid < $1)
               and (cardinality($2::text[]) = 0 or h.outcome::text = any($2))
               and ($3::text is null or strpos(h.branches, $3) > 0 and exists (
                       select from unnest(string_to_array(h.branches, ',')) as b (entry)
                       where split_part(split_part(b.entry, '=', 1), '/', 1) = $3))
               and ($4::timestamptz is null or h.begun_at < $4)
               and ($5::boolean is null or (h.protocol = 'saga') = $5)
             order by h.gtid desc limit $6"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(before).bind(&states).bind(participant);
        history = history_rows(query.bind(begun_before).bind(saga).bind(limit_and_one).fetch_all(&mut *loan).await?)?;
    }
    loan.give_back();
    Ok(rows::page(open, history, limit))
}

pub(super) fn open_rows(rows: Vec<PgRow>) -> Result<Vec<OpenRow>, Trouble> {
    let mut open = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(gtid) = gtid_of(&row)? else { continue };
        open.push(OpenRow {
            gtid,
            owner_epoch: row.try_get("owner_epoch")?,
            digest: row.try_get("digest")?,
            begun_at_ms: row.try_get::<Timestamp, _>("begun_at")?.0,
            decided_at_ms: row.try_get::<Timestamp, _>("decided_at")?.0,
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

pub(super) fn history_rows(rows: Vec<PgRow>) -> Result<Vec<HistoryRow>, Trouble> {
    let mut history = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(gtid) = gtid_of(&row)? else { continue };
        history.push(HistoryRow {
            gtid,
            ended_at_ms: row.try_get::<Timestamp, _>("ended_at")?.0,
            begun_at_ms: row.try_get::<Timestamp, _>("begun_at")?.0,
            decided_at_ms: row.try_get::<Option<Timestamp>, _>("decided_at")?.map(|at| at.0),
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
pub(super) fn gtid_of(row: &PgRow) -> Result<Option<Gtid>, Trouble> {
    let uuid: uuid::Uuid = row.try_get("gtid")?;
    let gtid = Gtid::new(uuid);
    if let Err(error) = &gtid {
        tracing::error!(%uuid, %error, "a row of the log has no gtid; it is ignored");
    }
    Ok(gtid.ok())
}

pub(super) fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
