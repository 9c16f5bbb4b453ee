//! The barrier's table: its name, its definition, its statements.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};

use super::loan::lend;
use super::{Barrier, BarrierError};
use crate::postgres::error::{sqlstate, sqlstate_of};

/// The names of the two tables, and the statements that hold them.
#[derive(Debug)]
pub(super) struct Table {
    /// That of the steps: quoted, and with its schema where one was given.
    pub(super) name: String,
    /// The same of the table of branches.
    pub(super) branches: String,
    pub(super) enter_action: Arc<str>,
    pub(super) look_up: Arc<str>,
    pub(super) keep_output: Arc<str>,
    pub(super) enter_pivot: Arc<str>,
    pub(super) look_up_pivot: Arc<str>,
    pub(super) keep_refusal: Arc<str>,
    pub(super) enter_compensation: Arc<str>,
    pub(super) close_refused: Arc<str>,
    pub(super) record_branch: Arc<str>,
    pub(super) look_up_branch: Arc<str>,
    pub(super) list_old: Arc<str>,
    pub(super) delete_ended: Arc<str>,
}

/// The position that stands for a branch of a two-phase commit, in place of a saga step's: of one
/// that was prepared before branches had an identity.
pub(super) const WHOLE_BRANCH: i32 = -1;

/// What the name of the table of branches has behind that of the steps'.
const BRANCHES: &str = "_branch";

impl Default for Barrier {
    /// The tables `assent_barrier` and `assent_barrier_branch`, in the first schema of the search
    /// path that has them.
    fn default() -> Self {
        let (name, branches) = ("\"assent_barrier\"".into(), "\"assent_barrier_branch\"".into());
        Self { table: Arc::new(Table::new(name, branches)) }
    }
}

impl Barrier {
    /// A table of another name, in a given schema or else in the search path's. That of the branches
    /// has `_branch` behind it, so a name has at most 56 bytes.
    ///
    /// # Errors
    /// [`BarrierError::TableName`] if one of the two cannot be a name in Postgres.
    pub fn in_table(schema: Option<&str>, table: &str) -> Result<Self, BarrierError> {
        let schema = schema.map(quoted).transpose()?.map_or_else(String::new, |schema| schema + ".");
        let branches =
            quoted(&format!("{table}{BRANCHES}")).map_err(|_| BarrierError::TableName { name: table.to_owned() })?;
        let table = Table::new(schema.clone() + &quoted(table)?, schema + &branches);
        Ok(Self { table: Arc::new(table) })
    }

    /// The statements that create the tables, for the service's own migrations. They may be run
    /// again.
    pub fn schema(&self) -> String {
        self.table.sql(SCHEMA) + &self.table.sql(BRANCHES_SCHEMA) + &self.table.sql(REFUSALS)
    }

    /// Creates the tables that are not there, and adds the columns that an earlier version did not
    /// have.
    ///
    /// To add columns, the table of the steps is locked for a moment. Where a transaction holds it for longer,
    /// such as one that is prepared, a warning is logged and the columns are left to the next
    /// start: until then pivots are not executed, and all else is.
    ///
    /// # Errors
    /// [`BarrierError::Statement`], for example because the role may not create tables.
    pub async fn install(&self, pool: &PgPool) -> Result<(), BarrierError> {
        let mut loan = lend(pool).await?;
        self.install_on(&mut loan).await?;
        loan.give_back();
        Ok(())
    }

    async fn install_on(&self, connection: &mut PgConnection) -> Result<(), BarrierError> {
        let failed = BarrierError::statement("create its table");
        let mut tx = connection.begin().await.map_err(&failed)?;
        // Two instances that start at the same time would both find no table and one would fail to
        // create it; the key is `assent_b` in ASCII.
        let sql = format!(
            "select pg_advisory_xact_lock(7022083123482746722);\n{}{}",
            self.table.sql(SCHEMA),
            self.table.sql(BRANCHES_SCHEMA)
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await.map_err(&failed)?;
        let has_refusals: bool = sqlx::query_scalar(
            "select exists (select from pg_attribute
                where attrelid = to_regclass($1) and attname = 'refusal' and not attisdropped)",
        )
        .bind(&self.table.name)
        .persistent(false)
        .fetch_one(&mut *tx)
        .await
        .map_err(&failed)?;
        if !has_refusals {
            let sql = format!("savepoint refusals; set local lock_timeout = '5s';\n{}", self.table.sql(REFUSALS));
            match sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await {
                Ok(_) => {}
                // Who holds the table may be a branch that is in doubt, and only ends once this
                // service is up.
                Err(error) if sqlstate_of(&error).as_deref() == Some(sqlstate::LOCK_NOT_AVAILABLE) => {
                    let table = &self.table.name;
                    tracing::warn!(
                        table,
                        "a transaction holds the barrier's table: it gets its new columns at the next start"
                    );
                    // The table of the branches is there all the same.
                    sqlx::raw_sql("rollback to savepoint refusals").execute(&mut *tx).await.map_err(&failed)?;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        tx.commit().await.map_err(failed)
    }

    /// Checks that the tables are there and may be used.
    ///
    /// # Errors
    /// [`BarrierError::Table`] and [`BarrierError::Privileges`].
    pub async fn check(&self, connection: &mut PgConnection) -> Result<(), BarrierError> {
        let steps = "gtid, participant, step, executed_at, compensated_at, output";
        check_table(connection, &self.table.name, steps).await?;
        check_table(connection, &self.table.branches, "gtid, participant, branch, is_aborted, recorded_at").await
    }
}

async fn check_table(connection: &mut PgConnection, table: &str, columns: &str) -> Result<(), BarrierError> {
    let unfit = |source| match sqlstate_of(&source).as_deref() {
        Some(sqlstate::INSUFFICIENT_PRIVILEGE) => BarrierError::Privileges { table: table.to_owned() },
        Some(_) | None => BarrierError::Table { table: table.to_owned(), source },
    };
    let columns = format!("select {columns} from {table} where false");
    sqlx::query(AssertSqlSafe(columns)).persistent(false).execute(&mut *connection).await.map_err(unfit)?;
    let is_allowed: bool = sqlx::query_scalar(
        "select has_table_privilege($1::regclass, 'select') and has_table_privilege($1::regclass, 'insert')
            and has_table_privilege($1::regclass, 'update') and has_table_privilege($1::regclass, 'delete')",
    )
    .bind(table)
    .persistent(false)
    .fetch_one(connection)
    .await
    .map_err(unfit)?;
    if is_allowed { Ok(()) } else { Err(BarrierError::Privileges { table: table.to_owned() }) }
}

impl Table {
    fn sql(&self, text: &str) -> String {
        text.replace("{table}", &self.name).replace("{branches}", &self.branches)
    }

    /// For statements that need columns which an earlier version did not have.
    pub(super) fn failed(&self, doing: &'static str) -> impl Fn(sqlx::Error) -> BarrierError {
        move |source| match sqlstate_of(&source).as_deref() {
            Some(sqlstate::UNDEFINED_COLUMN) => BarrierError::Table { table: self.name.clone(), source },
            Some(_) | None => BarrierError::Statement { doing, source },
        }
    }

    fn new(name: String, branches: String) -> Self {
        let sql = |text: &str| -> Arc<str> { text.replace("{table}", &name).replace("{branches}", &branches).into() };
        Self {
            enter_action: sql(
                "insert into {table} (gtid, participant, step, executed_at) values ($1, $2, $3, clock_timestamp())
                 on conflict (gtid, participant, step) do nothing
                 returning pg_backend_pid()",
            ),
            look_up: sql(
                "select compensated_at is not null, output from {table} where gtid = $1 and participant = $2 and step = $3",
            ),
            keep_output: sql("update {table} set output = $4 where gtid = $1 and participant = $2 and step = $3"),
            // Nothing is updated where it was done or compensated, or refused at this attempt or a
            // later one.
            enter_pivot: sql(
                "insert into {table} as known (gtid, participant, step, executed_at) values ($1, $2, $3, clock_timestamp())
                 on conflict (gtid, participant, step) do update
                     set executed_at = excluded.executed_at, compensated_at = null,
                         refused_epoch = null, refused_attempt = null, refusal = null
                     where (known.refused_epoch, known.refused_attempt) < ($4, $5)
                 returning pg_backend_pid()",
            ),
            look_up_pivot: sql(
                "select refusal, compensated_at is not null, output from {table}
                 where gtid = $1 and participant = $2 and step = $3",
            ),
            keep_refusal: sql(
                "update {table}
                 set executed_at = null, compensated_at = clock_timestamp(),
                     refused_epoch = $4, refused_attempt = $5, refusal = $6
                 where gtid = $1 and participant = $2 and step = $3",
            ),
            close_refused: sql(
                "update {table} set refused_epoch = null, refused_attempt = null, refusal = null
                 where gtid = $1 and participant = $2 and step = $3 and refusal is not null",
            ),
            // No row comes back where it was compensated before.
            enter_compensation: sql(
                "insert into {table} as known (gtid, participant, step, compensated_at) values ($1, $2, $3, clock_timestamp())
                 on conflict (gtid, participant, step) do update set compensated_at = excluded.compensated_at
                     where known.compensated_at is null
                 returning executed_at is not null, output, pg_backend_pid()",
            ),
            record_branch: sql(
                "insert into {branches} (gtid, participant, branch, is_aborted) values ($1, $2, $3, false)
                 on conflict (gtid, participant, branch) do nothing",
            ),
            look_up_branch: sql(
                "select is_aborted from {branches} where gtid = $1 and participant = $2 and branch = $3
                 union all
                 select output = 'aborted' from {table}
                 where gtid = $1 and participant = $2 and step = -1 and $3 = '0.0'
                 limit 1",
            ),
            list_old: sql(
                "select gtid from {table}
                 where participant = $1 and gtid > $2
                     and greatest(executed_at, compensated_at) < clock_timestamp() - make_interval(secs => $3)
                 union
                 select gtid from {branches}
                 where participant = $1 and gtid > $2
                     and recorded_at < clock_timestamp() - make_interval(secs => $3)
                 order by gtid limit $4",
            ),
            delete_ended: sql(
                "with branch as (
                     delete from {branches}
                     where gtid = any($1) and participant = $2
                         and recorded_at < clock_timestamp() - make_interval(secs => $3)
                     returning 1
                 ), step as (
                     delete from {table}
                     where gtid = any($1) and participant = $2
                         and greatest(executed_at, compensated_at) < clock_timestamp() - make_interval(secs => $3)
                     returning 1
                 )
                 select (select count(*) from branch) + (select count(*) from step)",
            ),
            name,
            branches,
        }
    }
}

const SCHEMA: &str = "\
create table if not exists {table} (
    gtid uuid not null,
    participant text not null check (octet_length(participant) between 1 and 63),
    step integer not null check (step between -1 and 65535),
    executed_at timestamptz,
    compensated_at timestamptz,
    output bytea not null default '',
    primary key (gtid, participant, step),
    constraint something_happened check (executed_at is not null or compensated_at is not null),
    constraint a_branch_is_not_compensated check (step >= 0 or compensated_at is null),
    constraint only_actions_have_outputs check (executed_at is not null or output = '')
);
comment on table {table} is
    'Which saga steps and two-phase branches have taken effect in this database: written in the transaction of their work.';
comment on column {table}.gtid is 'The saga or transaction.';
comment on column {table}.participant is 'The name that this service takes part under.';
comment on column {table}.step is 'The position of the step in its saga; -1 for a branch of a two-phase commit that was prepared before branches had an identity.';
comment on column {table}.executed_at is 'When the action took effect; null if it never did, and never will.';
comment on column {table}.compensated_at is
    'When the step was compensated, or its refusal was kept; from then on its action is refused.';
comment on column {table}.output is 'What the action gave, to be given again when it is repeated.';
";

/// A table of its own: to change the key of the other one would wait for every branch in doubt.
const BRANCHES_SCHEMA: &str = "\
create table if not exists {branches} (
    gtid uuid not null,
    participant text not null check (octet_length(participant) between 1 and 63),
    branch text not null check (branch ~ '^[0-9]{1,20}[.][0-9a-f]{1,16}$'),
    is_aborted boolean not null,
    recorded_at timestamptz not null default clock_timestamp(),
    primary key (gtid, participant, branch)
);
comment on table {branches} is
    'How two-phase branches have ended in this database: written in the transaction of their work, or by their abort.';
comment on column {branches}.gtid is 'The transaction.';
comment on column {branches}.participant is 'The name that this service takes part under.';
comment on column {branches}.branch is
    'Which of its branches in the transaction: an epoch and a hexadecimal number, as at the end of the gid.';
comment on column {branches}.is_aborted is
    'Whether this is a tombstone: the branch has no effect, and will never have one. Otherwise its work is committed.';
comment on column {branches}.recorded_at is 'When the branch began to work, or was aborted.';
";

/// What the first version of the table did not have. An instance of that version takes a refused
/// pivot for a compensated one, and refuses it.
const REFUSALS: &str = "\
alter table {table}
    add column if not exists refused_epoch bigint,
    add column if not exists refused_attempt bigint,
    add column if not exists refusal text constraint a_refusal_is_whole check (
        num_nonnulls(refused_epoch, refused_attempt, refusal) in (0, 3)
        and (refusal is null or (executed_at is null and compensated_at is not null))
    );
comment on column {table}.refused_epoch is 'The epoch of the last attempt of a pivot that was refused.';
comment on column {table}.refused_attempt is
    'The number of that attempt: it and those before it, by epoch and number, have no effect, whenever they come.';
comment on column {table}.refusal is 'Why it was refused; null if it was not, or if a later attempt took effect.';
";

fn quoted(name: &str) -> Result<String, BarrierError> {
    // A longer one would be cut by Postgres, and name something else.
    if (1..=63).contains(&name.len()) && !name.contains('\0') {
        Ok(format!("\"{}\"", name.replace('"', "\"\"")))
    } else {
        Err(BarrierError::TableName { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_can_be_named_anything_that_postgres_takes() {
        let named = |schema, table| Barrier::in_table(schema, table).map(|barrier| barrier.table.name.clone());
        assert_eq!(named(None, "steps").expect("fit"), "\"steps\"");
        assert_eq!(named(Some("My Schema"), "a\"b").expect("fit"), "\"My Schema\".\"a\"\"b\"");
        for unfit in ["", "a\0b", &"x".repeat(64)] {
            assert!(named(None, unfit).is_err(), "{unfit:?}");
            assert!(named(Some(unfit), "steps").is_err(), "{unfit:?}");
        }
    }
}
