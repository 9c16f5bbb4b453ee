//! The schema on Postgres.

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Executor as _};

use super::link;
use super::trouble::Trouble;
use crate::log::migration::{Migration, MigrationReport, pending};
use crate::log::{OpenError, Options, url};

/// All of them, in order.
pub(super) static MIGRATIONS: [Migration; 4] = [
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
];

/// Two migrators wait for each other here; see `pg_advisory_xact_lock`.
const MIGRATION_LOCK: i64 = 0x6173_7365_6e74_0001;

const BOOKKEEPING: &str = "
create schema if not exists assent;
comment on schema assent is 'The transaction log of Assent. The assent_v1_ views are the contract for readers.';
create table if not exists assent.migration (
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

async fn has_bookkeeping(connection: &mut PgConnection) -> Result<bool, Trouble> {
    let sql = "select to_regclass('assent.migration') is not null";
    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
}

/// All or nothing: DDL is transactional, and the lock ends with the transaction.
pub(super) async fn migrate(target: &PgConnectOptions) -> Result<MigrationReport, OpenError> {
    let place = url::describe(target);
    let of_opening = |trouble: Trouble| trouble.of_opening(&place);
    let mut connection = connect(target).await.map_err(of_opening)?;
    let sql = |error: sqlx::Error| Trouble::from(error).of_opening(&place);
    let mut transaction = connection.begin().await.map_err(sql)?;
    let lock = sqlx::query("select pg_advisory_xact_lock($1)").bind(MIGRATION_LOCK);
    lock.execute(&mut *transaction).await.map_err(sql)?;
    if !has_bookkeeping(&mut transaction).await.map_err(of_opening)? {
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
async fn connect(target: &PgConnectOptions) -> Result<PgConnection, Trouble> {
    let mut connection = link::connect(target, "assent migrate", &Options::default()).await?;
    connection.execute("set lock_timeout = 0; set idle_in_transaction_session_timeout = 0").await?;
    Ok(connection)
}
