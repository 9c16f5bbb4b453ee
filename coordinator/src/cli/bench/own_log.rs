//! Where a benchmark keeps its log, and its participants their rows: in a database or a file of its
//! own. What it writes there would otherwise stay in a log that somebody uses.

use std::path::{Path, PathBuf};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::postgres::failed;
use crate::cli::{Exit, Failure};

/// The database of a benchmark, beside the one that `--log` names.
const DATABASE: &str = "assent_bench";

/// A log that no other process uses.
pub(super) struct OwnLog {
    url: String,
    kept_in: KeptIn,
}

enum KeptIn {
    /// A directory that its owner removes.
    Directory,
    File(PathBuf),
    /// A database on the server of this URL.
    Server(String),
}

impl OwnLog {
    /// Makes one: on the server or at the path that is named, or in the directory. The log of a
    /// coordinator that is measured `in_place` may be one that a replica drives: it is that one.
    pub(super) async fn make(named: Option<&str>, in_place: bool, directory: &Path) -> Result<Self, Failure> {
        match named {
            None => {
                let url = format!("sqlite:{}", directory.join("log.db").display());
                Ok(Self { url, kept_in: KeptIn::Directory })
            }
            Some(url) if url.starts_with("postgres") => {
                if !in_place {
                    refuse_driven(url).await?;
                }
                clear(url).await?;
                let mut server = PgConnection::connect(url).await.map_err(failed)?;
                let create = format!("create database {DATABASE} template template0");
                server.execute(AssertSqlSafe(create)).await.map_err(|error| {
                    let next = "let this role create databases (alter role ... createdb), or name another server";
                    Failure::new(Exit::Failed, format!("cannot create the benchmark's own database: {error}"), next)
                })?;
                Ok(Self { url: in_database(url, DATABASE), kept_in: KeptIn::Server(url.to_owned()) })
            }
            Some(url) => {
                let path = url.strip_prefix("sqlite:").unwrap_or(url);
                let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
                if path.exists() {
                    let what = format!("{} is there already, and a benchmark fills a log of its own", path.display());
                    return Err(Failure::new(Exit::Conflict, what, "name a file that does not exist yet"));
                }
                Ok(Self { url: url.to_owned(), kept_in: KeptIn::File(path) })
            }
        }
    }

    /// Its URL.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Removes it. To be called when its coordinator has ended.
    pub(super) async fn remove(self) -> Result<(), Failure> {
        match self.kept_in {
            KeptIn::Directory => Ok(()),
            KeptIn::Server(url) => clear(&url).await,
            KeptIn::File(path) => {
                for suffix in ["", "-wal", "-shm"] {
                    let mut file = path.clone().into_os_string();
                    file.push(suffix);
                    // A database that was closed has no more than the first.
                    std::fs::remove_file(file).ok();
                }
                Ok(())
            }
        }
    }
}

/// Refuses a database whose log a replica drives at this moment: a benchmark would take that one's
/// server from it.
async fn refuse_driven(url: &str) -> Result<(), Failure> {
    let mut connection = PgConnection::connect(url).await.map_err(failed)?;
    let is_log: bool = sqlx::query_scalar("select to_regclass('assent.assent_v1_replica') is not null")
        .fetch_one(&mut connection)
        .await
        .map_err(failed)?;
    if !is_log {
        return Ok(());
    }
    // The view of an older version has no such column.
    let driver: Option<String> = sqlx::query_scalar(
        "select name from assent.assent_v1_replica replica
         where (to_jsonb(replica) ->> 'leased_until')::timestamptz > clock_timestamp()
         limit 1",
    )
    .fetch_optional(&mut connection)
    .await
    .map_err(failed)?;
    match driver {
        None => Ok(()),
        Some(replica) => {
            let what = format!("replica {replica} serves the log in this database, and a benchmark would slow it down");
            Err(Failure::new(Exit::Conflict, what, "name another server with --log, or stop that replica"))
        }
    }
}

/// Drops the benchmark's database, with what an earlier run that was killed has left prepared in
/// it.
async fn clear(url: &str) -> Result<(), Failure> {
    let mut server = PgConnection::connect(url).await.map_err(failed)?;
    let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(DATABASE)
        .fetch_one(&mut server)
        .await
        .map_err(failed)?;
    if !exists {
        return Ok(());
    }
    let prepared: Vec<String> = sqlx::query_scalar("select gid from pg_prepared_xacts where database = $1")
        .bind(DATABASE)
        .fetch_all(&mut server)
        .await
        .map_err(failed)?;
    if !prepared.is_empty() {
        let mut own = PgConnection::connect(&in_database(url, DATABASE)).await.map_err(failed)?;
        for gid in prepared {
            let roll_back = format!("rollback prepared '{}'", gid.replace('\'', "''"));
            own.execute(AssertSqlSafe(roll_back)).await.map_err(failed)?;
        }
    }
    let drop = format!("drop database {DATABASE}");
    server.execute(AssertSqlSafe(drop)).await.map_err(|error| {
        let next = "wait for the other benchmark on this server to end";
        Failure::new(Exit::Conflict, format!("cannot drop database {DATABASE}: {error}"), next)
    })?;
    Ok(())
}

/// The same server, and another database.
fn in_database(url: &str, database: &str) -> String {
    let (place, parameters) = url.split_once('?').unwrap_or((url, ""));
    let server = place.rsplit_once('/').map_or(place, |(server, _)| server);
    let kept: Vec<&str> =
        parameters.split('&').filter(|parameter| !parameter.is_empty() && !parameter.starts_with("dbname=")).collect();
    let parameters = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    format!("{server}/{database}{parameters}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_of_a_url_is_replaced() {
        for (url, other) in [
            ("postgres://me:se%2Fcret@db:5432/assent", "postgres://me:se%2Fcret@db:5432/b"),
            ("postgres://%2Frun%2Fpg/assent?sslmode=disable&dbname=x", "postgres://%2Frun%2Fpg/b?sslmode=disable"),
            ("postgres://db/assent?dbname=x", "postgres://db/b"),
        ] {
            assert_eq!(in_database(url, "b"), other);
        }
    }
}
