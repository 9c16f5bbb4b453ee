//! One append: the statement, what it wrote, and what stands where it wrote nothing.
//!
//! Inserts are tried without `on conflict` first, which saves a second index lookup and a WAL
//! record for each row. A conflict means that the batch is a repetition, or that another writer
//! came first: then the batch is done again with `on conflict do nothing`, and what stands is read
//! back with a second statement. It has to be a second one: the row of a transaction that committed
//! after the first one's snapshot is a conflict for it, but not visible to it.

use std::collections::BTreeMap;

use assent_crash::crash_point;
use assent_protocol::verdict::Standing;
use assent_protocol::{Appended, Gtid, Record};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

use super::link::{Held, Link, epoch_from_column};
use super::statement::{OnConflict, Statement};
use super::trouble::Trouble;
use super::value::uuids;
use crate::log::Batch;
use crate::log::plan::{Plan, Written};
use crate::log::rows::StandingRow;
use crate::log::verdict::{answer, durable};

/// Appends a batch. `Ok(None)`: the fence refused.
pub(super) async fn append(link: &mut Link, held: &Held, batch: &Batch) -> Result<Option<Vec<Appended>>, Trouble> {
    let plan = Plan::new(batch);
    let written = match write(link, held, batch.at_ms, &plan, OnConflict::Fail).await {
        Err(trouble) if trouble.is_conflict() => write(link, held, batch.at_ms, &plan, OnConflict::Skip).await?,
        other => other?,
    };
    let Some(written) = written else { return Ok(None) };
    if written.settles(batch, &plan) {
        return Ok(Some(batch.forced.iter().map(durable).collect()));
    }
    let standings = read_back(&mut link.connection, batch.forced.iter().map(Record::gtid)).await?;
    let answers = batch.forced.iter().map(|record| answer(record, standings.get(&record.gtid()), held.epoch));
    answers.collect::<Option<Vec<_>>>().map(Some).ok_or(Trouble::Unsettled)
}

async fn write(
    link: &mut Link,
    held: &Held,
    at_ms: u64,
    plan: &Plan<'_>,
    on_conflict: OnConflict,
) -> Result<Option<Written>, Trouble> {
    let statement = Statement::build(held, link.number, at_ms, plan, on_conflict).map_err(sqlx::Error::Encode)?;
    crash_point!(LOG_BEFORE_COMMIT, return Err(Trouble::Sql(sqlx::Error::WorkerCrashed)));
    let row =
        sqlx::query_with(AssertSqlSafe(statement.sql), statement.arguments).fetch_one(&mut link.connection).await?;
    if row.try_get::<i64, _>("fence")? == 0 {
        return Ok(None);
    }
    let count = |column| row.try_get::<i64, _>(column).map(|count| u64::try_from(count).unwrap_or_default());
    Ok(Some(Written {
        opened: count("opened")?,
        // Only the batches that have them count them, so that all others share their statements.
        agreed: if plan.agreements.is_empty() { 0 } else { count("agreed")? },
        voted: if plan.votes.is_empty() { 0 } else { count("voted")? },
        changed: count("changed")?,
        stepped: count("stepped")?,
        ended: count("ended")?,
    }))
}

/// What stands for these transactions, open or ended.
async fn read_back(
    connection: &mut PgConnection,
    gtids: impl Iterator<Item = Gtid>,
) -> Result<BTreeMap<Gtid, Standing>, Trouble> {
    let rows = sqlx::query(
        "select gtid, protocol::text as protocol, decision::text as decision, owner_epoch, digest, participants, branch_ids,
                voter, roster::text as roster, null as outcome
         from assent.open_transaction where gtid = any($1)
         union all
         select gtid, protocol::text, null, 0, digest, branches, branch_ids, null, null, outcome::text
         from assent.history where gtid = any($1)",
    )
    .bind(uuids(gtids))
    .fetch_all(connection)
    .await?;
    let mut standings = BTreeMap::new();
    for row in rows {
        let unreadable = |error: String| Trouble::Sql(sqlx::Error::Decode(error.into()));
        let gtid = Gtid::new(row.try_get("gtid")?).map_err(|error| unreadable(error.to_string()))?;
        let standing = StandingRow {
            protocol: row.try_get("protocol")?,
            decision: row.try_get("decision")?,
            outcome: row.try_get("outcome")?,
            owner: epoch_from_column(row.try_get("owner_epoch")?),
            digest: row.try_get("digest")?,
            participants: row.try_get("participants")?,
            branch_ids: row.try_get("branch_ids")?,
            voter: row.try_get("voter")?,
            roster: row.try_get("roster")?,
        };
        // An open row comes first, and it is the one that counts: it is still driven.
        standings.entry(gtid).or_insert(standing.read().map_err(unreadable)?);
    }
    Ok(standings)
}
