//! The barrier's table: its name, its definition, its statements.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use super::{Barrier, BarrierError};
use crate::postgres::error::{sqlstate, sqlstate_of};

/// The table's name, and the statements that hold it.
#[derive(Debug)]
pub(super) struct Table {
    /// Quoted, and with its schema where one was given.
    pub(super) name: String,
    pub(super) enter_action: Arc<str>,
    pub(super) look_up: Arc<str>,
    pub(super) keep_output: Arc<str>,
    pub(super) enter_compensation: Arc<str>,
    pub(super) record_branch: Arc<str>,
    pub(super) list_old: Arc<str>,
    pub(super) delete_ended: Arc<str>,
}

/// The position that stands for a whole branch of a two-phase commit, in place of a saga step's.
pub(super) const WHOLE_BRANCH: i32 = -1;

impl Default for Barrier {
    /// The table `assent_barrier`, in the first schema of the search path that has it.
    fn default() -> Self {
        Self { table: Arc::new(Table::new("\"assent_barrier\"".into())) }
    }
}

impl Barrier {
    /// A table of another name, in a given schema or else in the search path's.
    ///
    /// # Errors
    /// [`BarrierError::TableName`] if one of the two cannot be a name in Postgres.
    pub fn in_table(schema: Option<&str>, table: &str) -> Result<Self, BarrierError> {
        let name = match schema {
            Some(schema) => format!("{}.{}", quoted(schema)?, quoted(table)?),
            None => quoted(table)?,
        };
        Ok(Self { table: Arc::new(Table::new(name)) })
    }

    /// The statements that create the table, for the service's own migrations. They may be run again.
    pub fn schema(&self) -> String {
        SCHEMA.replace("{table}", &self.table.name)
    }

    /// Creates the table if it is not there.
    ///
    /// # Errors
    /// [`BarrierError::Statement`], for example because the role may not create tables.
    pub async fn install(&self, pool: &PgPool) -> Result<(), BarrierError> {
        // One message is one transaction. Two instances that start at the same time would both find no table and one would fail to
        // create it; the key is `assent_b` in ASCII.
        let sql = format!("select pg_advisory_xact_lock(7022083123482746722);\n{}", self.schema());
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.map_err(BarrierError::statement("create its table"))?;
        Ok(())
    }

    /// Checks that the table is there and may be used.
    ///
    /// # Errors
    /// [`BarrierError::Table`] and [`BarrierError::Privileges`].
    pub async fn check(&self, connection: &mut PgConnection) -> Result<(), BarrierError> {
        let table = &self.table.name;
        let unfit = |source| match sqlstate_of(&source).as_deref() {
            Some(sqlstate::INSUFFICIENT_PRIVILEGE) => BarrierError::Privileges { table: table.clone() },
            Some(_) | None => BarrierError::Table { table: table.clone(), source },
        };
        let columns =
            format!("select gtid, participant, step, executed_at, compensated_at, output from {table} where false");
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
        if is_allowed { Ok(()) } else { Err(BarrierError::Privileges { table: table.clone() }) }
    }
}

impl Table {
    fn new(name: String) -> Self {
        let sql = |text: &str| -> Arc<str> { text.replace("{table}", &name).into() };
        Self {
            enter_action: sql(
                "insert into {table} (gtid, participant, step, executed_at) values ($1, $2, $3, clock_timestamp())
                 on conflict (gtid, participant, step) do nothing",
            ),
            look_up: sql(
                "select compensated_at is not null, output from {table} where gtid = $1 and participant = $2 and step = $3",
            ),
            keep_output: sql("update {table} set output = $4 where gtid = $1 and participant = $2 and step = $3"),
            // No row comes back where it was compensated before.
            enter_compensation: sql(
                "insert into {table} as known (gtid, participant, step, compensated_at) values ($1, $2, $3, clock_timestamp())
                 on conflict (gtid, participant, step) do update set compensated_at = excluded.compensated_at
                     where known.compensated_at is null
                 returning executed_at is not null, output",
            ),
            record_branch: sql(
                "insert into {table} (gtid, participant, step, executed_at) values ($1, $2, -1, clock_timestamp())
                 on conflict (gtid, participant, step) do nothing",
            ),
            list_old: sql(
                "select distinct gtid from {table}
                 where participant = $1 and gtid > $2
                     and greatest(executed_at, compensated_at) < clock_timestamp() - make_interval(secs => $3)
                 order by gtid limit $4",
            ),
            delete_ended: sql(
                "delete from {table}
                 where gtid = any($1) and participant = $2
                     and greatest(executed_at, compensated_at) < clock_timestamp() - make_interval(secs => $3)",
            ),
            name,
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
comment on column {table}.step is 'The position of the step in its saga; -1 for a whole branch of a two-phase commit.';
comment on column {table}.executed_at is 'When the action took effect; null if it never did, and never will.';
comment on column {table}.compensated_at is 'When the step was compensated; from then on its action is refused.';
comment on column {table}.output is 'What the action gave, to be given again when it is repeated.';
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
