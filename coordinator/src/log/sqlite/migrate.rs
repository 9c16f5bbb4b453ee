//! The schema in an SQLite file.

use std::path::Path;

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection as _};

use super::file::{self, FileLock, describe};
use super::trouble::Trouble;
use crate::log::OpenError;
use crate::log::migration::{Migration, MigrationReport, pending};

/// All of them, in order.
pub(super) static MIGRATIONS: [Migration; 4] = [
    Migration { version: 1, name: "log", sql: include_str!("../../../../migrations/sqlite/0001_log.sql") },
    Migration { version: 2, name: "views", sql: include_str!("../../../../migrations/sqlite/0002_views.sql") },
    Migration {
        version: 3,
        name: "three_phase",
        sql: include_str!("../../../../migrations/sqlite/0003_three_phase.sql"),
    },
    Migration {
        version: 4,
        name: "delegation",
        sql: include_str!("../../../../migrations/sqlite/0004_delegation.sql"),
    },
];

pub(super) const BOOKKEEPING: &str = "
create table if not exists migration (
    -- The migrations that made this schema; the highest is its version.
    version    integer not null primary key check (version > 0),
    -- What it brought.
    name       text    not null,
    -- Its statements, to compare with those that a binary has.
    sql        text    not null,
    -- When, in Unix milliseconds.
    applied_at integer not null
) strict";

/// Migrates a file that no log has open.
pub(super) async fn migrate(path: &Path) -> Result<MigrationReport, OpenError> {
    let _lock = FileLock::take(path)?;
    let of_opening = |trouble: Trouble| trouble.of_opening(path);
    let mut connection = file::writer(path).await.map_err(of_opening)?;
    file::check_library(&mut connection, path).await?;
    let report = apply(&mut connection, path).await?;
    connection.close().await.map_err(|error| of_opening(error.into()))?;
    Ok(report)
}

/// Applies what is missing, all or nothing.
pub(super) async fn apply(connection: &mut SqliteConnection, path: &Path) -> Result<MigrationReport, OpenError> {
    let sql = |error: sqlx::Error| Trouble::from(error).of_opening(path);
    refuse_foreign(connection, path).await?;
    let mut transaction = connection.begin_with("begin immediate").await.map_err(sql)?;
    sqlx::raw_sql(BOOKKEEPING).execute(&mut *transaction).await.map_err(sql)?;
    let report = pending(&describe(path), &applied(&mut transaction).await.map_err(sql)?, &MIGRATIONS)?;
    for migration in &report.migrations {
        sqlx::raw_sql(AssertSqlSafe(migration.sql)).execute(&mut *transaction).await.map_err(sql)?;
        sqlx::query(
            "insert into migration (version, name, sql, applied_at)
             values (?1, ?2, ?3, cast(unixepoch('subsec') * 1000 as integer))",
        )
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

/// Tells what [`migrate`] would do.
pub(super) async fn check(path: &Path) -> Result<MigrationReport, OpenError> {
    if !path.exists() {
        return Ok(pending(&describe(path), &[], &MIGRATIONS)?);
    }
    let mut connection = file::reader(path).await.map_err(|trouble| trouble.of_opening(path))?;
    refuse_foreign(&mut connection, path).await?;
    let sql = |error: sqlx::Error| Trouble::from(error).of_opening(path);
    let has_bookkeeping = table_exists(&mut connection, "migration").await.map_err(sql)?;
    let applied = if has_bookkeeping { applied(&mut connection).await.map_err(sql)? } else { Vec::new() };
    Ok(pending(&describe(path), &applied, &MIGRATIONS)?)
}

/// A database that belongs to something else is left alone.
async fn refuse_foreign(connection: &mut SqliteConnection, path: &Path) -> Result<(), OpenError> {
    let sql = |error: sqlx::Error| Trouble::from(error).of_opening(path);
    let tables: i64 =
        sqlx::query_scalar("select count(*) from sqlite_schema").fetch_one(&mut *connection).await.map_err(sql)?;
    if tables > 0 && !table_exists(connection, "migration").await.map_err(sql)? {
        return Err(OpenError::File {
            log: describe(path),
            problem: "it holds the tables of something else; choose another path".to_owned(),
            source: "it has tables, and none of them is Assent's".into(),
        });
    }
    Ok(())
}

async fn table_exists(connection: &mut SqliteConnection, name: &str) -> Result<bool, sqlx::Error> {
    let sql = "select exists (select 1 from sqlite_schema where type = 'table' and name = ?1)";
    sqlx::query_scalar(sql).bind(name).fetch_one(connection).await
}

async fn applied(connection: &mut SqliteConnection) -> Result<Vec<(i64, String)>, sqlx::Error> {
    sqlx::query_as("select version, sql from migration order by version").fetch_all(connection).await
}
