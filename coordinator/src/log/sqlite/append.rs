//! One append: one transaction, with one statement for each kind of write, whatever the number of
//! its rows.
//!
//! The rows travel as one JSON text, which SQLite takes apart with `json_each`: a call into
//! SQLite's thread costs more than the rows of a whole batch. Each JSON row is an array, in the
//! order of its columns.

use std::collections::BTreeMap;

use assent_crash::crash_point;
use assent_protocol::{Appended, Epoch, Gtid, Name, Record};
use serde::Serialize;
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::trouble::Trouble;
use crate::log::plan::{Plan, Written};
use crate::log::rows::StandingRow;
use crate::log::verdict::{answer, durable};
use crate::log::{Batch, stored};
use assent_protocol::record::{Decided, Delegated, Ended};
use assent_protocol::saga::StepResult;
use assent_protocol::three_phase::VoterState;
use assent_protocol::verdict::Standing;

/// What an append has to hold.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// The replica's name.
    pub(super) replica: Name,
    /// Its epoch.
    pub(super) epoch: Epoch,
}

/// What became of an append.
pub(super) enum Done {
    /// It is durable.
    Appended(Vec<Appended>),
    /// The replica's row has this epoch.
    Fenced(Epoch),
}

/// Appends a batch, all or nothing.
pub(super) async fn append(connection: &mut SqliteConnection, held: &Held, batch: &Batch) -> Result<Done, Trouble> {
    crash_point!(LOG_BEFORE_BEGIN, return Err(Trouble::Closed));
    sqlx::query("begin immediate").execute(&mut *connection).await?;
    match append_within(connection, held, batch).await {
        Ok(Done::Appended(answers)) => {
            crash_point!(LOG_BEFORE_COMMIT, return Err(Trouble::Closed));
            sqlx::query("commit").execute(connection).await?;
            crash_point!(LOG_AFTER_COMMIT, return Err(Trouble::Sql(sqlx::Error::WorkerCrashed)));
            Ok(Done::Appended(answers))
        }
        Ok(Done::Fenced(current)) => {
            sqlx::query("rollback").execute(connection).await?;
            Ok(Done::Fenced(current))
        }
        Err(trouble) => Err(trouble),
    }
}

async fn append_within(connection: &mut SqliteConnection, held: &Held, batch: &Batch) -> Result<Done, Trouble> {
    let current = current_epoch(connection, &held.replica).await?;
    if current != held.epoch {
        return Ok(Done::Fenced(current));
    }
    let plan = Plan::new(batch);
    let written = write(connection, held, &plan, time_column(batch.at_ms)).await?;
    if written.settles(batch, &plan) {
        return Ok(Done::Appended(batch.forced.iter().map(durable).collect()));
    }
    let standings = read_back(connection, batch.forced.iter().map(Record::gtid)).await?;
    let answers = batch.forced.iter().map(|record| answer(record, standings.get(&record.gtid()), held.epoch));
    answers.collect::<Option<Vec<_>>>().map(Done::Appended).ok_or(Trouble::Unsettled)
}

/// The epoch that stands in the replica's row; zero if there is none.
pub(super) async fn current_epoch(connection: &mut SqliteConnection, replica: &Name) -> Result<Epoch, Trouble> {
    let current: Option<i64> = sqlx::query_scalar("select epoch from replica where name = ?1")
        .bind(replica.as_str())
        .fetch_optional(connection)
        .await?;
    Ok(Epoch(u64::try_from(current.unwrap_or_default()).unwrap_or_default()))
}

async fn write(connection: &mut SqliteConnection, held: &Held, plan: &Plan<'_>, at: i64) -> Result<Written, Trouble> {
    let mut written = Written::default();
    let epoch = epoch_column(held.epoch);
    if !plan.decisions.is_empty() {
        let rows = decisions(&plan.decisions);
        let inserted = execute(connection, DECISIONS, &rows, &[at, epoch]).await?;
        written.opened += inserted;
        if !usize::try_from(inserted).is_ok_and(|inserted| inserted == plan.decisions.len()) {
            // A decision over a delegation is a conflict, and there are few of them.
            written.opened += execute(connection, SETTLED, &rows, &[at, epoch]).await?;
        }
    }
    if !plan.delegations.is_empty() {
        written.opened += execute(connection, DELEGATIONS, &delegations(plan), &[at, epoch]).await?;
    }
    if !plan.agreements.is_empty() {
        written.agreed = execute(connection, AGREEMENTS, &decisions(&plan.agreements), &[at, epoch]).await?;
    }
    if !plan.attempts.is_empty() {
        written.opened += execute(connection, ATTEMPTS, &attempts(plan), &[at, epoch]).await?;
    }
    if !plan.votes.is_empty() {
        written.voted = execute(connection, VOTES, &votes(plan), &[epoch]).await?;
    }
    if !plan.starts.is_empty() {
        written.opened += execute(connection, STARTS, &starts(plan), &[at, epoch]).await?;
    }
    if !plan.changes.is_empty() {
        written.changed = execute(connection, CHANGES, &changes(plan), &[epoch]).await?;
    }
    if !plan.steps.is_empty() {
        written.stepped = execute(connection, STEPS, &steps(plan), &[at, epoch]).await?;
    }
    if !plan.ends.is_empty() {
        written.ended = execute(connection, ENDS, &ends(&plan.ends), &[at, epoch]).await?;
        let gtids = json(plan.ends.iter().map(|ended| ended.gtid));
        execute(connection, CLOSE, &gtids, &[at]).await?;
    }
    if !plan.unopened.is_empty() {
        execute(connection, UNOPENED, &ends(&plan.unopened), &[at]).await?;
    }
    Ok(written)
}

/// Executes a statement whose first parameter is the rows, and answers how many it wrote.
async fn execute(
    connection: &mut SqliteConnection,
    sql: &'static str,
    rows: &str,
    rest: &[i64],
) -> Result<u64, Trouble> {
    let query = rest.iter().fold(sqlx::query(sql).bind(rows), |query, parameter| query.bind(*parameter));
    Ok(query.execute(connection).await?.rows_affected())
}

const DECISIONS: &str = "
insert into open_transaction
    (gtid, digest, begun_at, protocol, decision, participants, reason, branch_ids, decided_at, owner_epoch)
select n.value ->> 0, n.value ->> 1, n.value ->> 2, n.value ->> 3, n.value ->> 4, n.value ->> 5, n.value ->> 6, n.value ->> 7,
       ?2, ?3
from json_each(?1) n
where not exists (select 1 from history h where h.gtid = n.value ->> 0)
on conflict (gtid) do nothing";

fn decisions(decisions: &[&Decided]) -> String {
    json(decisions.iter().map(|decided| {
        (
            decided.gtid,
            stored::digest_column(decided.digest),
            time_column(decided.begun_at_ms),
            decided.protocol.as_str(),
            decided.decision.as_str(),
            stored::names(&decided.members),
            decided.reason.as_deref().map(stored::text),
            stored::ids(&decided.members),
        )
    }))
}

/// Into our own row, which keeps what it was opened with.
const AGREEMENTS: &str = "
update open_transaction as o
set decision = n.decision, participants = n.participants, branch_ids = n.branch_ids, reason = n.reason, decided_at = ?2
from (select value ->> 0 as gtid, value ->> 4 as decision, value ->> 5 as participants, value ->> 6 as reason, value ->> 7 as branch_ids
      from json_each(?1)) n
where o.gtid = n.gtid and o.protocol = '3pc' and o.decision is null and o.owner_epoch = ?3";

/// The same over our own delegation.
const SETTLED: &str = "
update open_transaction as o
set decision = n.decision, participants = n.participants, branch_ids = n.branch_ids, reason = n.reason, decided_at = ?2
from (select value ->> 0 as gtid, value ->> 4 as decision, value ->> 5 as participants, value ->> 6 as reason, value ->> 7 as branch_ids
      from json_each(?1)) n
where o.gtid = n.gtid and o.protocol = '2pc' and o.decision is null and o.owner_epoch = ?3";

const DELEGATIONS: &str = "
insert into open_transaction (gtid, digest, begun_at, participants, branch_ids, protocol, decided_at, owner_epoch)
select n.value ->> 0, n.value ->> 1, n.value ->> 2, n.value ->> 3, n.value ->> 4, '2pc', ?2, ?3
from json_each(?1) n
where not exists (select 1 from history h where h.gtid = n.value ->> 0)
on conflict (gtid) do nothing";

fn delegations(plan: &Plan<'_>) -> String {
    json(plan.delegations.iter().map(|delegated: &&Delegated| {
        let (digest, begun_at) = (stored::digest_column(delegated.digest), time_column(delegated.begun_at_ms));
        let members = std::slice::from_ref(&delegated.member);
        (delegated.gtid, digest, begun_at, stored::names(members), stored::ids(members))
    }))
}

const ATTEMPTS: &str = "
insert into open_transaction
    (gtid, digest, begun_at, participants, voter, roster, branch_ids, protocol, decided_at, owner_epoch)
select n.value ->> 0, n.value ->> 1, n.value ->> 2, n.value ->> 3, n.value ->> 4, n.value ->> 5, n.value ->> 6, '3pc', ?2, ?3
from json_each(?1) n
where not exists (select 1 from history h where h.gtid = n.value ->> 0)
on conflict (gtid) do nothing";

fn attempts(plan: &Plan<'_>) -> String {
    json(plan.attempts.iter().map(|attempted| {
        (
            attempted.gtid,
            stored::digest_column(attempted.digest),
            time_column(attempted.begun_at_ms),
            stored::roster(stored::voter_names(&attempted.roster)),
            stored::voter(&VoterState::ATTEMPTED),
            stored::voters(&attempted.roster),
            stored::voter_ids(&attempted.roster),
        )
    }))
}

const VOTES: &str = "
update open_transaction as o
set voter = n.state
from (select value ->> 0 as gtid, value ->> 1 as before, value ->> 2 as state from json_each(?1)) n
where o.gtid = n.gtid and o.voter = n.before and o.decision is null and o.owner_epoch = ?2";

fn votes(plan: &Plan<'_>) -> String {
    json(plan.votes.iter().map(|vote| (vote.gtid, stored::voter(&vote.before), stored::voter(&vote.state))))
}

const STARTS: &str = "
insert into open_transaction (gtid, digest, begun_at, participants, definition, protocol, decided_at, owner_epoch)
select n.value ->> 0, n.value ->> 1, n.value ->> 2, n.value ->> 3, n.value ->> 4, 'saga', ?2, ?3
from json_each(?1) n
where not exists (select 1 from history h where h.gtid = n.value ->> 0)
on conflict (gtid) do nothing";

fn starts(plan: &Plan<'_>) -> String {
    json(plan.starts.iter().map(|started| {
        (
            started.gtid,
            stored::digest_column(started.digest),
            time_column(started.begun_at_ms),
            stored::roster(stored::saga_roster(&started.definition)),
            stored::definition(&started.definition),
        )
    }))
}

const CHANGES: &str = "
update open_transaction as o
set decision = case when n.turned is null then o.decision else 'abort' end,
    reason = coalesce(o.reason, n.turned),
    remedy = case when n.pauses then n.remedy else o.remedy end
from (select value ->> 0 as gtid, value ->> 1 as turned, value ->> 2 as pauses, value ->> 3 as remedy from json_each(?1)) n
where o.gtid = n.gtid and o.protocol = 'saga' and o.owner_epoch = ?2";

fn changes(plan: &Plan<'_>) -> String {
    json(plan.changes.iter().map(|change| {
        let remedy = change.paused.flatten().map(stored::text);
        (change.gtid, change.turned.map(stored::text), change.paused.is_some(), remedy)
    }))
}

const STEPS: &str = "
insert into saga_step (gtid, step, compensation, attempt, result, output, reason, at)
select n.value ->> 0, n.value ->> 1, n.value ->> 2, n.value ->> 3, n.value ->> 4, n.value ->> 5, n.value ->> 6, ?2
from json_each(?1) n
where exists (select 1 from open_transaction o where o.gtid = n.value ->> 0 and o.protocol = 'saga' and o.owner_epoch = ?3)
on conflict (gtid, step, compensation) do update
set attempt = excluded.attempt, result = excluded.result, output = excluded.output, reason = excluded.reason,
    at = excluded.at";

fn steps(plan: &Plan<'_>) -> String {
    json(plan.steps.iter().map(|step| {
        let output = match &step.result {
            StepResult::Done(output) => Some(stored::payload(output)),
            StepResult::Refused(_) | StepResult::Unknown(_) => None,
        };
        let (kind, reason) = stored::result(&step.result);
        (step.gtid, step.step.0, step.compensation, step.attempt, kind, output, reason)
    }))
}

/// An end moves only the row that it is an end of, as [`Standing::is_ended_by`] has it.
const ENDS: &str = "
insert into history (gtid, ended_at, begun_at, decided_at, digest, protocol, outcome, branches, reason, outputs, branch_ids)
select o.gtid, ?2, o.begun_at, iif(o.protocol <> 'saga' and o.decision is null, ?2, o.decided_at), o.digest, o.protocol,
       n.value ->> 4, n.value ->> 5, n.value ->> 6, n.value ->> 7, n.value ->> 8
from json_each(?1) n join open_transaction o on o.gtid = n.value ->> 0
where o.owner_epoch = ?3 and case n.value ->> 3
          when 'saga' then o.protocol = 'saga'
          else o.decision = iif(n.value ->> 4 = 'committed', 'commit', 'abort') and o.protocol <> 'saga'
              or o.decision is null and o.protocol <> 'saga' and n.value ->> 3 = o.protocol
      end
on conflict (gtid, ended_at) do nothing";

/// What has moved to history. The steps of a saga go with its row.
const CLOSE: &str = "
delete from open_transaction
where gtid in (select h.gtid from json_each(?1) n join history h on h.gtid = n.value and h.ended_at = ?2)";

const UNOPENED: &str = "
insert into history (gtid, ended_at, begun_at, digest, protocol, outcome, branches, reason, outputs, branch_ids)
select n.value ->> 0, ?2, n.value ->> 2, n.value ->> 1, n.value ->> 3, n.value ->> 4, n.value ->> 5, n.value ->> 6, n.value ->> 7,
       n.value ->> 8
from json_each(?1) n
where not exists (select 1 from history h where h.gtid = n.value ->> 0)
  and not exists (select 1 from open_transaction o where o.gtid = n.value ->> 0)
on conflict (gtid, ended_at) do nothing";

fn ends(ends: &[&Ended]) -> String {
    json(ends.iter().map(|ended| {
        (
            ended.gtid,
            stored::digest_column(ended.digest),
            time_column(ended.begun_at_ms),
            ended.protocol.as_str(),
            ended.outcome.as_str(),
            stored::branches(ended.outcome, &ended.branches),
            ended.reason.as_deref().map(stored::text),
            stored::outputs(&ended.outputs),
            stored::ended_ids(&ended.branches),
        )
    }))
}

/// What stands for these transactions, open or ended. An open row is the one that counts: it is
/// still driven.
async fn read_back(
    connection: &mut SqliteConnection,
    gtids: impl Iterator<Item = Gtid>,
) -> Result<BTreeMap<Gtid, Standing>, Trouble> {
    let rows = sqlx::query(
        "select gtid, protocol, decision, owner_epoch, digest, participants, branch_ids, voter, roster, null as outcome
         from open_transaction where gtid in (select value from json_each(?1))
         union all
         select gtid, protocol, null, 0, digest, branches, branch_ids, null, null, outcome
         from history where gtid in (select value from json_each(?1))",
    )
    .bind(json(gtids))
    .fetch_all(connection)
    .await?;
    let mut standings = BTreeMap::new();
    for row in rows {
        let unreadable = |error: String| Trouble::Sql(sqlx::Error::Decode(error.into()));
        let gtid: Gtid = row.try_get::<&str, _>("gtid")?.parse().map_err(|_| unreadable("no gtid".to_owned()))?;
        let owner: i64 = row.try_get("owner_epoch")?;
        let standing = StandingRow {
            protocol: row.try_get("protocol")?,
            decision: row.try_get("decision")?,
            outcome: row.try_get("outcome")?,
            owner: Epoch(u64::try_from(owner).unwrap_or_default()),
            digest: row.try_get("digest")?,
            participants: row.try_get("participants")?,
            branch_ids: row.try_get("branch_ids")?,
            voter: row.try_get("voter")?,
            roster: row.try_get("roster")?,
        };
        standings.entry(gtid).or_insert(standing.read().map_err(unreadable)?);
    }
    Ok(standings)
}

/// Rows as one JSON text.
pub(super) fn json<T: Serialize>(rows: impl Iterator<Item = T>) -> String {
    let rows: Vec<T> = rows.collect();
    serde_json::to_string(&rows).expect("ids, numbers and strings can always be said in JSON")
}

/// An epoch as a column.
pub(super) fn epoch_column(epoch: Epoch) -> i64 {
    i64::try_from(epoch.0).unwrap_or(i64::MAX)
}

/// A time as a column.
pub(super) fn time_column(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}
