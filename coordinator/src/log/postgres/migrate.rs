//! The schema on Postgres.

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use super::link;
use super::trouble::Trouble;
use crate::log::migration::{Migration, MigrationReport, pending};
use crate::log::{OpenError, Options, url};

/// All of them, in order.
pub(super) static MIGRATIONS: [Migration; 5] = [
    Migration { version: 1, name: "log", sql: include_str!("../../../../migrations/postgres/0001_log.sql") },
    Migration { version: 2, name: "views", sql: include_str!("../../../../migrations/postgres/0002_views.sql") },
    Migration {
        version: 3,
        name: "three_phase",
        sql: include_str!("../../../../migrations/postgres/0003_three_phase.sql"),
    },
    Migration {
        version: 4,
        name: "leases and delegations",
        sql: include_str!("../../../../migrations/postgres/0004_leases_and_delegations.sql"),
    },
    Migration {
        version: 5,
        name: "retention by functions",
        sql: include_str!("../../../../migrations/postgres/0005_retention_by_functions.sql"),
    },
];

/// Those who change the schema, or who may use it, wait for each other here; see
/// `pg_advisory_xact_lock`.
const MIGRATION_LOCK: i64 = 0x6173_7365_6e74_0001;

const BOOKKEEPING: &str = "
comment on schema assent is 'The transaction log of Assent. The assent_v1_ views are the contract for readers.';
create table assent.migration (
    version    bigint      primary key check (version > 0),
    name       text        not null,
    sql        text        not null,
    applied_at timestamptz not null default now(),
    applied_by text        not null default session_user
);
comment on table assent.migration is 'The migrations that made this schema.';
comment on column assent.migration.version is 'The number; the highest is the schema''s version.';
comment on column assent.migration.name is 'What it brought.';
comment on column assent.migration.sql is 'Its statements, to compare with those that a binary has.';
comment on column assent.migration.applied_at is 'When.';
comment on column assent.migration.applied_by is 'As which user.';
";

/// The schema's version; `None` if there is no schema.
pub(super) async fn version(connection: &mut PgConnection) -> Result<Option<i64>, Trouble> {
    if !has_bookkeeping(connection).await? {
        return Ok(None);
    }
    Ok(sqlx::query_scalar("select max(version) from assent.migration").fetch_one(connection).await?)
}

/// It may have been made for its owner, who need not be able to.
async fn has_schema(connection: &mut PgConnection) -> Result<bool, Trouble> {
    let sql = "select exists (select from pg_namespace where nspname = 'assent')";
    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
}

/// Asked of the catalog's tables, which every role may read: one that may not use the schema is to
/// be told that, and not that there is none.
async fn has_bookkeeping(connection: &mut PgConnection) -> Result<bool, Trouble> {
    let sql = "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                              where n.nspname = 'assent' and c.relname = 'migration')";
    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
}

/// Waits for its turn, and becomes the owner of the schema if that is another role: all that is
/// made belongs to one role.
pub(super) async fn take_turn(transaction: &mut PgConnection) -> Result<(), Trouble> {
    sqlx::query("select pg_advisory_xact_lock($1)").bind(MIGRATION_LOCK).execute(&mut *transaction).await?;
    let sql = "select quote_ident(r.rolname) from pg_namespace n join pg_roles r on r.oid = n.nspowner
               where n.nspname = 'assent' and r.rolname <> current_user";
    let owner: Option<String> = sqlx::query_scalar(sql).fetch_optional(&mut *transaction).await?;
    if let Some(owner) = owner {
        sqlx::raw_sql(AssertSqlSafe(format!("set local role {owner}"))).execute(transaction).await?;
    }
    Ok(())
}

/// All or nothing: DDL is transactional, and the lock ends with the transaction.
pub(super) async fn migrate(target: &PgConnectOptions) -> Result<MigrationReport, OpenError> {
    let place = url::describe(target);
    let of_opening = |trouble: Trouble| trouble.of_opening(&place);
    let mut connection = connect(target).await.map_err(of_opening)?;
    let sql = |error: sqlx::Error| Trouble::from(error).of_opening(&place);
    let mut transaction = connection.begin().await.map_err(sql)?;
    take_turn(&mut transaction).await.map_err(of_opening)?;
    if !has_bookkeeping(&mut transaction).await.map_err(of_opening)? {
        if !has_schema(&mut transaction).await.map_err(of_opening)? {
            transaction.execute("create schema assent").await.map_err(sql)?;
        }
        transaction.execute(BOOKKEEPING).await.map_err(sql)?;
    }
    let report = pending(&place, &applied(&mut transaction).await.map_err(of_opening)?, &MIGRATIONS)?;
    for migration in &report.migrations {
        transaction.execute(migration.sql).await.map_err(sql)?;
        sqlx::query("insert into assent.migration (version, name, sql) values ($1, $2, $3)")
            .bind(migration.version)
            .bind(migration.name)
            .bind(migration.sql)
            .execute(&mut *transaction)
            .await
            .map_err(sql)?;
    }
    transaction.commit().await.map_err(sql)?;
    Ok(report)
}

pub(super) async fn check(target: &PgConnectOptions) -> Result<MigrationReport, OpenError> {
    let place = url::describe(target);
    let work = async {
        let mut connection = connect(target).await?;
        if has_bookkeeping(&mut connection).await? { applied(&mut connection).await } else { Ok(Vec::new()) }
    };
    let applied = work.await.map_err(|trouble| trouble.of_opening(&place))?;
    Ok(pending(&place, &applied, &MIGRATIONS)?)
}

async fn applied(connection: &mut PgConnection) -> Result<Vec<(i64, String)>, Trouble> {
    Ok(sqlx::query_as("select version, sql from assent.migration order by version").fetch_all(connection).await?)
}

/// A migration waits for locks as long as it takes: whoever runs it is looking on.
pub(super) async fn connect(target: &PgConnectOptions) -> Result<PgConnection, Trouble> {
    let mut connection = link::connect(target, "assent migrate", &Options::default()).await?;
    connection.execute("set lock_timeout = 0; set idle_in_transaction_session_timeout = 0").await?;
    Ok(connection)
}
