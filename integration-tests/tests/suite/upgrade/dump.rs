//! A dump: a log and the databases of its participants as text, and what has to become of each
//! transaction in it.
//!
//! | file | what |
//! |---|---|
//! | `log.sql` | the log, as `pg_dump --inserts` or `sqlite3 .dump` writes it |
//! | `NAME.sql` | a participant's database, as `pg_dump --inserts` writes it |
//! | `NAME.prepared.sql` | its prepared transactions, which no dump of a database has: what they did, and PREPARE TRANSACTION |
//! | `expected.json` | a [`Manifest`] |
//!
//! `{database}` stands for the OID of the database, which is in every gid, and `{address of NAME}`
//! for where a voter listens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use assent_sdk::postgres::Barrier;
use integration_tests::ledger::{open_bank, open_office};
use integration_tests::postgres::{Database, Postgres};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tokio::process::Command;
use uuid::Uuid;

pub(super) const DEADLINE: Duration = Duration::from_secs(60);
/// The accounts of a bank, and the balance of each at its opening.
pub(super) const ACCOUNTS: i32 = 40;
pub(super) const BALANCE: i64 = 1_000;

/// All dumps of one version.
pub(super) fn directory(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dumps").join(version)
}

// ---- what is in a dump -----------------------------------------------------------------------------------------------------

/// Who took part, and what has to become of the transactions.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) participants: BTreeMap<String, Kind>,
    pub(super) transactions: Vec<Expected>,
}

/// What a participant is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Prepares.
    Bank,
    /// A bank with a voter in its database.
    Voter,
    /// A bank that records its branches, and so commits in one phase.
    Till,
    /// Runs the steps of sagas.
    Clerk,
}

/// One transaction of a dump.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Expected {
    pub(super) what: String,
    pub(super) gtid: Uuid,
    /// The state that the log shows in the dump; none, if it has no row.
    pub(super) state: Option<String>,
    pub(super) ends: End,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) pinned: bool,
    /// What is left of it in the end: the amount that a bank booked, the steps that took effect at
    /// a clerk and were not undone.
    pub(super) effects: BTreeMap<String, i64>,
}

/// What has to become of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    Committed,
    Aborted,
    Completed,
    Compensated,
    /// It waits for an operator.
    Paused,
    /// It is presumed to have aborted. The log may say so, or nothing.
    Presumed,
    /// The log never hears of it.
    Untold,
}

impl End {
    /// Whether the log may show this state, or no row, when all is over.
    pub(super) fn is(self, state: Option<&str>) -> bool {
        match self {
            Self::Committed => state == Some("committed"),
            Self::Aborted => state == Some("aborted"),
            Self::Completed => state == Some("completed"),
            Self::Compensated => state == Some("compensated"),
            Self::Paused => state == Some("paused"),
            Self::Presumed => state.is_none() || state == Some("aborted"),
            Self::Untold => state.is_none(),
        }
    }
}

// ---- a log -----------------------------------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogKind {
    Postgres,
    Sqlite,
}

impl LogKind {
    pub(super) const ALL: [Self; 2] = [Self::Postgres, Self::Sqlite];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Sqlite => "sqlite",
        }
    }
}

/// A log of this test.
pub(super) enum LogPlace {
    Postgres(Database),
    Sqlite(tempfile::TempDir),
}

impl LogPlace {
    pub(super) async fn empty(kind: LogKind, server: &Postgres) -> Self {
        match kind {
            LogKind::Postgres => Self::Postgres(server.create_database().await),
            LogKind::Sqlite => Self::Sqlite(tempfile::tempdir().expect("a directory")),
        }
    }

    pub(super) fn url(&self) -> String {
        match self {
            Self::Postgres(database) => database.url(),
            Self::Sqlite(_) => format!("sqlite:{}", self.file().display()),
        }
    }

    fn file(&self) -> PathBuf {
        match self {
            Self::Postgres(_) => panic!("a log in Postgres is no file"),
            Self::Sqlite(directory) => directory.path().join("log.db"),
        }
    }

    /// All of it, as text.
    pub(super) async fn dump(&self) -> String {
        match self {
            Self::Postgres(database) => dump(database).await,
            Self::Sqlite(_) => {
                let file = self.file().display().to_string();
                // Connections that looked at it may still be closing.
                let text = written_by("sqlite3", &["-bail", "-cmd", ".timeout 10000", &file, ".dump"]).await;
                assert!(text.ends_with("COMMIT;\n"), "{text}");
                text
            }
        }
    }

    /// Fills it, while it is empty.
    pub(super) async fn restore(&self, text: &str) {
        match self {
            Self::Postgres(database) => restore(database, text).await,
            Self::Sqlite(_) => {
                let mut connection = self.sqlite().await;
                let text = AssertSqlSafe(text.to_owned());
                sqlx::raw_sql(text).execute(&mut connection).await.expect("the log is restored");
                connection.close().await.expect("closed");
            }
        }
    }

    /// The state of each transaction, and whether it is pinned: by the view that is a contract.
    pub(super) async fn states(&self) -> BTreeMap<Uuid, (String, bool)> {
        match self {
            Self::Postgres(database) => {
                let sql = "select gtid, state, pinned from assent.assent_v1_transaction";
                let rows: Vec<(Uuid, String, bool)> =
                    sqlx::query_as(sql).fetch_all(&mut database.connect().await).await.expect("the log's view");
                rows.into_iter().map(|(gtid, state, pinned)| (gtid, (state, pinned))).collect()
            }
            Self::Sqlite(_) => {
                let sql = "select gtid, state, pinned from assent_v1_transaction";
                let rows: Vec<(String, String, bool)> =
                    sqlx::query_as(sql).fetch_all(&mut self.sqlite().await).await.expect("the log's view");
                let id = |text: &str| Uuid::parse_str(text).expect("a gtid");
                rows.into_iter().map(|(gtid, state, pinned)| (id(&gtid), (state, pinned))).collect()
            }
        }
    }

    pub(super) async fn sqlite(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.file()).create_if_missing(true);
        options.connect().await.expect("the log's file")
    }
}

// ---- a participant's database ----------------------------------------------------------------------------------------------

/// Makes the tables of a participant. Those of a voter are its own affair.
pub(super) async fn open(kind: Kind, database: &Database) {
    let mut connection = database.connect().await;
    match kind {
        Kind::Bank | Kind::Voter | Kind::Till => open_bank(&mut connection, ACCOUNTS, BALANCE).await,
        Kind::Clerk => open_office(&mut connection).await,
    }
    .expect("the participant's tables");
}

/// Makes the table of the barrier, or brings one of an earlier version up to date.
pub(super) async fn install(kind: Kind, pool: &PgPool) {
    match kind {
        Kind::Till | Kind::Clerk => Barrier::default().install(pool).await.expect("the barrier's table"),
        Kind::Bank | Kind::Voter => {}
    }
}

/// What took effect at a participant, by transaction.
pub(super) async fn effects(kind: Kind, pool: &PgPool) -> BTreeMap<Uuid, i64> {
    let sql = match kind {
        Kind::Bank | Kind::Voter | Kind::Till => "select gtid, amount from ledger",
        Kind::Clerk => "select gtid, sum(effect)::bigint from errand group by gtid having sum(effect) <> 0",
    };
    let rows: Vec<(Uuid, i64)> = sqlx::query_as(sql).fetch_all(pool).await.expect("what took effect");
    rows.into_iter().collect()
}

/// The OID of a database, as gids have it.
pub(super) async fn oid(database: &Database) -> String {
    let sql = "select oid::text from pg_database where datname = current_database()";
    sqlx::query_scalar(sql).fetch_one(&mut database.connect().await).await.expect("the database")
}

/// All of a database but what is prepared in it, as statements that any server takes.
pub(super) async fn dump(database: &Database) -> String {
    let text =
        written_by("pg_dump", &["--inserts", "--no-owner", "--no-privileges", "--dbname", &database.url()]).await;
    let mut is_quoted = false;
    let mut kept = String::new();
    for line in text.lines() {
        // Settings of other versions, commands of psql, and remarks.
        if !is_quoted && (["SET ", "\\", "--"].iter().any(|start| line.starts_with(start)) || line.is_empty()) {
            continue;
        }
        // A quote within quotes is written twice.
        is_quoted ^= line.matches('\'').count() % 2 == 1;
        kept.extend([line, "\n"]);
    }
    kept
}

/// Fills a database, while it is empty.
pub(super) async fn restore(database: &Database, text: &str) {
    // A connection of its own: the dump changes its search path.
    let mut connection = database.connect().await;
    sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(&mut connection).await.expect("the database is restored");
    connection.close().await.expect("closed");
}

/// What a program writes, which has to be on the path.
async fn written_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().await;
    let output = output.unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
