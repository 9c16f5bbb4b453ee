//! The conformance suite on SQLite, and what only a file can do to a log.

use std::path::Path;
use std::sync::Arc;

use assent_protocol::record::{Decided, Member, Record, SagaPaused, SagaStep, SagaTurned};
use assent_protocol::saga::{StepIndex, StepResult};
use assent_protocol::{BodyDigest, BranchId, Decision, Outcome, Protocol};
use sqlx::AssertSqlSafe;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::log::conformance::Ground;
use crate::log::{SchemaError, check, migrate, open};

struct Sqlite(TempDir);

impl Sqlite {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("log.db")
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.path().display())
    }

    /// Changes the file behind the log's back.
    async fn execute(&self, sql: String) {
        let mut connection = file::writer(&self.path()).await.expect("the file");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("the statement");
        connection.close().await.expect("closed");
    }
}

impl Ground for Sqlite {
    fn open(&self) -> BoxFuture<'_, Arc<dyn Log>> {
        async move { open(&self.url(), Options::default()).await.expect("the log opens") }.boxed()
    }

    fn rival_acquires<'a>(&'a self, replica: &'a Name) -> BoxFuture<'a, Epoch> {
        async move {
            let mut connection = file::writer(&self.path()).await.expect("the file");
            let epoch = acquire(&mut connection, replica).await.expect("acquired");
            // Its transactions stay with the old epoch, so that the test sees what the fence alone
            // does.
            sqlx::query("update open_transaction set owner_epoch = ?1 - 1")
                .bind(1 + epoch.0 as i64)
                .execute(&mut connection)
                .await
                .expect("reset");
            connection.close().await.expect("closed");
            epoch
        }
        .boxed()
    }

    fn spoil(&self, saga: Gtid) -> BoxFuture<'_, ()> {
        let sql = format!("update open_transaction set definition = '[{{\"name\": 7}}]' where gtid = '{saga}'");
        self.execute(sql).boxed()
    }
}

crate::log_conformance! { Sqlite::new() }

fn batch() -> Batch {
    let decided = Decided {
        gtid: Gtid::new(Uuid::now_v7()).expect("version 7"),
        protocol: Protocol::TwoPhase,
        decision: Decision::Abort,
        members: Vec::new(),
        digest: BodyDigest(1),
        begun_at_ms: 1,
        reason: Some("x".repeat(2_000)),
    };
    Batch { at_ms: 1, forced: vec![Record::Decided(decided)], lazy: Vec::new() }
}

async fn opened(path: &Path) -> SqliteLog {
    let log = SqliteLog::open(path.to_owned(), Options::default()).await.expect("the log opens");
    log.acquire(&Name::new("r1").expect("a name")).await.expect("free");
    log
}

async fn refusal(url: &str) -> OpenError {
    match open(url, Options::default()).await {
        Ok(log) => panic!("{} was opened", log.describe()),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_second_process_is_told_who_has_the_file() {
    let ground = Sqlite::new();
    let first = opened(&ground.path()).await;
    let error = refusal(&ground.url()).await;
    assert!(matches!(error, OpenError::InUse { holder: Some(pid), .. } if pid == std::process::id()), "{error}");
    assert!(error.to_string().contains("stop that one"), "{error}");
    assert!(matches!(migrate(&ground.url()).await, Err(OpenError::InUse { .. })));
    assert_eq!(check(&ground.url()).await.expect("looking is allowed").migrations, []);
    first.close().await;
    let second = opened(&ground.path()).await;
    drop(second);
    opened(&ground.path()).await;
}

/// Nobody else has the file, and a row may still be another's: a person may have written it, or a
/// later version.
#[tokio::test]
async fn a_foreign_row_is_left_as_it_is() {
    let ground = Sqlite::new();
    let log = opened(&ground.path()).await;
    let (saga, decided) = (crate::log::conformance::sample_saga(), batch());
    let of_saga = |outcome| assent_protocol::record::Ended {
        gtid: saga.gtid,
        protocol: Protocol::Saga,
        outcome,
        has_open_row: true,
        begun_at_ms: 1,
        digest: saga.digest,
        reason: None,
        branches: Vec::new(),
        outputs: Vec::new(),
    };
    let of_decided = assent_protocol::record::Ended {
        gtid: decided.forced[0].gtid(),
        protocol: Protocol::TwoPhase,
        ..of_saga(Outcome::Aborted)
    };
    log.append(&decided).await.expect("there");
    let start = Record::SagaStarted(saga.clone());
    log.append(&Batch { at_ms: 1, forced: vec![start], lazy: Vec::new() }).await.expect("there");
    ground.execute("update open_transaction set owner_epoch = owner_epoch + 7".to_owned()).await;
    let gtids = [saga.gtid, decided.forced[0].gtid()];
    let before = log.lookup(&gtids).await.expect("there");
    let result = StepResult::Refused("no".to_owned());
    let step = SagaStep { gtid: saga.gtid, step: StepIndex(0), compensation: false, attempt: 1, result };
    let turned = SagaTurned { gtid: saga.gtid, reason: "no".to_owned() };
    let paused = SagaPaused { gtid: saga.gtid, remedy: Some("call them".to_owned()) };
    for record in [
        Record::SagaTurned(turned),
        Record::SagaPaused(paused),
        Record::SagaStep(step),
        Record::Ended(of_saga(Outcome::Compensated)),
    ] {
        let lazy =
            Batch { at_ms: 2, forced: Vec::new(), lazy: vec![record.clone(), Record::Ended(of_decided.clone())] };
        log.append(&lazy).await.expect("there");
        let forced = Batch { at_ms: 2, forced: vec![record], lazy: Vec::new() };
        assert_eq!(log.append(&forced).await.expect("there"), [Appended::Undecided], "{forced:?}");
        assert_eq!(log.lookup(&gtids).await.expect("there"), before, "{forced:?}");
    }
    assert_eq!(log.open_transactions(None, 10).await.expect("there"), []);
    log.acquire(&Name::new("r1").expect("a name")).await.expect("free");
    assert_eq!(log.open_transactions(None, 10).await.expect("there").len(), 2, "a start takes over whatever is open");
}

#[tokio::test]
async fn what_was_confirmed_survives_without_a_close() {
    let ground = Sqlite::new();
    let log = opened(&ground.path()).await;
    let batch = batch();
    log.append(&batch).await.expect("there");
    drop(log);
    let log = opened(&ground.path()).await;
    assert_eq!(log.open_transactions(None, 10).await.expect("there").len(), 1);
    assert!(matches!(log.append(&batch).await.expect("there")[..], [Appended::Durable(_)]));
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_heals() {
    let ground = Sqlite::new();
    let log = opened(&ground.path()).await;
    let limit = async |pages: &str| {
        let mut writer = log.writer.lock().await;
        let connection = writer.connection.as_mut().expect("at rest");
        let sql = format!("pragma max_page_count = {pages}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.expect("the pragma");
    };
    log.append(&batch()).await.expect("there is space");
    // Less than there is already: the file may not grow any further.
    limit("1").await;
    let mut confirmed = 1;
    let unconfirmed = loop {
        let batch = batch();
        match log.append(&batch).await {
            Ok(_) => confirmed += 1,
            Err(AppendError::Full { .. }) => break batch,
            Err(error) => panic!("{error:?}"),
        }
    };
    for _ in 0..3 {
        let error = log.append(&unconfirmed).await.expect_err("still full");
        assert!(matches!(error, AppendError::Full { .. }) && error.to_string().contains("make space"), "{error}");
        assert_eq!(log.open_transactions(None, 1_000).await.expect("reads go on").len(), confirmed);
    }
    limit("1000000").await;
    assert!(matches!(log.append(&unconfirmed).await.expect("space again")[..], [Appended::Durable(_)]));
    assert_eq!(log.open_transactions(None, 1_000).await.expect("there").len(), confirmed + 1);
}

#[tokio::test]
async fn an_append_that_is_given_up_leaves_nothing_half_done() {
    let ground = Sqlite::new();
    let log = opened(&ground.path()).await;
    for _ in 0..20 {
        let batch = batch();
        // Polled once, it is on its way to SQLite's thread.
        assert!(log.append(&batch).now_or_never().is_none());
        assert!(matches!(log.append(&batch).await.expect("there")[..], [Appended::Durable(_)]));
    }
    assert_eq!(log.open_transactions(None, 100).await.expect("there").len(), 20);
}

#[tokio::test]
async fn a_place_that_cannot_hold_a_log_is_named() {
    let ground = Sqlite::new();
    let directory = ground.0.path();
    let missing = refusal(&format!("sqlite:{}/no/such/log.db", directory.display())).await.to_string();
    assert!(missing.contains("there is no directory") && missing.contains("create it"), "{missing}");
    let is_directory = refusal(&format!("sqlite:{}", directory.display())).await.to_string();
    assert!(is_directory.contains("name a file"), "{is_directory}");
    std::fs::write(directory.join("text.db"), "this is no database, it is a text".repeat(100)).expect("written");
    let text = refusal(&format!("sqlite:{}/text.db", directory.display())).await.to_string();
    assert!(text.contains("not an SQLite database"), "{text}");
    let Ok(mut other) = file::writer(&directory.join("other.db")).await else { panic!("created") };
    sqlx::raw_sql("create table customers (id integer)").execute(&mut other).await.expect("created");
    other.close().await.expect("closed");
    let other = refusal(&format!("sqlite:{}/other.db", directory.display())).await.to_string();
    assert!(other.contains("something else"), "{other}");
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let ground = Sqlite::new();
    opened(&ground.path()).await.close().await;
    ground.execute("insert into migration values (99, 'from the future', '', 0)".to_owned()).await;
    for error in [
        refusal(&ground.url()).await,
        migrate(&ground.url()).await.expect_err("newer"),
        check(&ground.url()).await.expect_err("newer"),
    ] {
        assert!(matches!(error, OpenError::Schema(SchemaError::Newer { found: 99, .. })), "{error}");
        assert!(error.to_string().contains("upgrade the binary"), "{error}");
    }
}

#[tokio::test]
async fn a_migration_that_was_changed_is_noticed() {
    let ground = Sqlite::new();
    opened(&ground.path()).await.close().await;
    ground.execute("update migration set sql = sql || ' -- patched' where version = 1".to_owned()).await;
    let error = refusal(&ground.url()).await;
    assert!(matches!(error, OpenError::Schema(SchemaError::Changed { version: 1, .. })), "{error}");
}

#[tokio::test]
async fn migrating_twice_is_migrating_once() {
    let ground = Sqlite::new();
    let pending = check(&ground.url()).await.expect("a path");
    assert!(!ground.path().exists(), "looking creates nothing");
    let first = migrate(&ground.url()).await.expect("migrated");
    assert_eq!(first, pending);
    assert_eq!((first.found, first.migrations.len() as i64), (0, first.needed));
    let second = migrate(&ground.url()).await.expect("migrated");
    assert_eq!((second.found, second.migrations.len()), (first.needed, 0));
    opened(&ground.path()).await;
}

#[tokio::test]
async fn an_illegal_row_is_refused_by_the_schema() {
    let ground = Sqlite::new();
    opened(&ground.path()).await.close().await;
    let mut connection = file::writer(&ground.path()).await.expect("the file");
    let gtid = Uuid::now_v7();
    for (column, values) in [
        (
            "a gtid of another version",
            format!("'{}', 1, 1, 1, 1, '2pc', 'commit', '', null, null, null, null, null", Uuid::nil()),
        ),
        ("an unknown protocol", format!("'{gtid}', 1, 1, 1, 1, '4pc', 'commit', '', null, null, null, null, null")),
        ("no decision", format!("'{gtid}', 1, 1, 1, 1, '2pc', null, '', null, null, null, null, null")),
        ("two branches that decide", format!("'{gtid}', 1, 1, 1, 1, '2pc', null, 'a,b', null, null, null, null, null")),
        ("a saga that committed", format!("'{gtid}', 1, 1, 1, 1, 'saga', 'commit', '', null, null, '[]', null, null")),
        (
            "a saga without a definition",
            format!("'{gtid}', 1, 1, 1, 1, 'saga', null, '', null, null, null, null, null"),
        ),
        ("a paused 2PC", format!("'{gtid}', 1, 1, 1, 1, '2pc', 'commit', '', null, 'x', null, null, null")),
        (
            "a 3PC without decision and voter",
            format!("'{gtid}', 1, 1, 1, 1, '3pc', null, '', null, null, null, null, '{{}}'"),
        ),
        ("a voter without a roster", format!("'{gtid}', 1, 1, 1, 1, '3pc', null, '', null, null, null, 'v', null")),
        ("a 2PC with a voter", format!("'{gtid}', 1, 1, 1, 1, '2pc', 'commit', '', null, null, null, 'v', '{{}}'")),
        ("a saga with a voter", format!("'{gtid}', 1, 1, 1, 1, 'saga', null, '', null, null, '[]', 'v', '{{}}'")),
    ] {
        let columns = "gtid, owner_epoch, digest, begun_at, decided_at, protocol, decision, participants, reason, remedy, definition";
        let sql = format!("insert into open_transaction ({columns}, voter, roster) values ({values})");
        let refused = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await;
        let error = refused.expect_err(column).to_string();
        assert!(error.contains("CHECK constraint failed"), "{column}: {error}");
    }
    for (protocol, names, ids, is_legal) in [
        ("2pc", "a,b", "7.1,7.2", true),
        ("2pc", "a", "7.1", true),
        ("2pc", "a,b", "7.1", false),
        ("2pc", "a", "7.1,7.2", false),
        ("2pc", "a", "", false),
        ("2pc", "", "7.1", false),
        ("saga", "a", "7.1", false),
    ] {
        let (decision, outcome, definition) =
            if protocol == "saga" { ("null", "completed", "'[]'") } else { ("'commit'", "committed", "null") };
        let open = format!(
            "insert into open_transaction (gtid, owner_epoch, digest, begun_at, decided_at, protocol, decision, definition, participants, branch_ids)
             values ('{}', 1, 1, 1, 1, '{protocol}', {decision}, {definition}, '{names}', '{ids}')",
            Uuid::now_v7()
        );
        let ended = format!(
            "insert into history (gtid, ended_at, begun_at, digest, protocol, outcome, branches, branch_ids)
             values ('{}', 1, 1, 1, '{protocol}', '{outcome}', '{names}', '{ids}')",
            Uuid::now_v7()
        );
        for sql in [open, ended] {
            let taken = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await;
            assert_eq!(taken.is_ok(), is_legal, "{protocol} of {names:?} with {ids:?}: {taken:?}");
        }
    }
}

#[tokio::test]
async fn what_an_earlier_schema_holds_comes_along() {
    let ground = Sqlite::new();
    let mut connection = file::writer(&ground.path()).await.expect("the file");
    sqlx::raw_sql(migrate::BOOKKEEPING).execute(&mut connection).await.expect("created");
    for migration in &migrate::MIGRATIONS[..2] {
        sqlx::raw_sql(AssertSqlSafe(migration.sql)).execute(&mut connection).await.expect("migrated");
        let sql = "insert into migration (version, name, sql, applied_at) values (?1, ?2, ?3, 0)";
        let query = sqlx::query(sql).bind(migration.version).bind(migration.name).bind(migration.sql);
        query.execute(&mut connection).await.expect("noted");
    }
    let saga = crate::log::conformance::sample_saga();
    let definition = crate::log::stored::definition(&saga.definition);
    let sql = format!(
        "insert into open_transaction (gtid, owner_epoch, digest, begun_at, decided_at, protocol, decision, participants, definition)
         values ('{0}', 1, 1, 1, 1, 'saga', null, 'inventory', '{definition}'),
                ('{1}', 1, 1, 1, 1, '2pc', 'commit', 'inventory', null);
         insert into saga_step (gtid, step, compensation, attempt, result, reason, at) values ('{0}', 0, 0, 1, 'unknown', 'r', 1)",
        saga.gtid,
        Uuid::now_v7(),
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("the rows");
    connection.close().await.expect("closed");
    let log = opened(&ground.path()).await;
    let open = log.open_transactions(None, 10).await.expect("there");
    let steps = open.iter().filter_map(|(_, read)| match &**read.as_ref().expect("readable") {
        crate::log::OpenTransaction::Saga(saga) => Some(saga.steps.len()),
        crate::log::OpenTransaction::Decided { .. }
        | crate::log::OpenTransaction::Delegated { .. }
        | crate::log::OpenTransaction::Attempted { .. } => None,
    });
    assert_eq!((open.len(), steps.collect::<Vec<_>>()), (2, vec![1]));
    let ended = Batch {
        at_ms: 2,
        forced: vec![Record::SagaTurned(assent_protocol::record::SagaTurned {
            gtid: saga.gtid,
            reason: "no".to_owned(),
        })],
        lazy: Vec::new(),
    };
    log.append(&ended).await.expect("there");
    log.close().await;
    let mut connection = file::writer(&ground.path()).await.expect("the file");
    let sql = format!("delete from open_transaction where gtid = '{}'", saga.gtid);
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("deleted");
    let left: i64 =
        sqlx::query_scalar("select count(*) from saga_step").fetch_one(&mut connection).await.expect("counted");
    assert_eq!(left, 0, "steps go with their saga");
}

#[tokio::test]
async fn the_views_can_be_read() {
    let ground = Sqlite::new();
    let log = opened(&ground.path()).await;
    let saga = crate::log::conformance::sample_saga();
    log.append(&Batch { at_ms: 1, forced: vec![Record::SagaStarted(saga)], lazy: Vec::new() }).await.expect("there");
    log.append(&batch()).await.expect("there");
    let mut connection = file::reader(&ground.path()).await.expect("the file");
    let states: Vec<String> = sqlx::query_scalar("select state from assent_v1_transaction order by state")
        .fetch_all(&mut connection)
        .await
        .expect("the view");
    assert_eq!(states, ["aborting", "running"]);
    let steps: Vec<(String, String)> =
        sqlx::query_as("select participant, step from assent_v1_branch order by position")
            .fetch_all(&mut connection)
            .await
            .expect("the view");
    assert_eq!(steps[0], ("inventory".to_owned(), "reserve".to_owned()));
    let Record::Decided(decided) = batch().forced.remove(0) else { panic!("a decision") };
    let member = |name: &str, number| Member {
        participant: Name::new(name).expect("a name"),
        branch: BranchId { epoch: Epoch(7), number },
    };
    let members = vec![member("inventory", 0x1f), member("billing", u64::MAX)];
    let decided = Decided { members, gtid: Gtid::new(Uuid::now_v7()).expect("version 7"), ..decided };
    let gtid = decided.gtid.to_string();
    log.append(&Batch { at_ms: 1, forced: vec![Record::Decided(decided)], lazy: Vec::new() }).await.expect("there");
    let ids: Vec<(String, Option<String>)> =
        sqlx::query_as("select participant, branch_id from assent_v1_branch where gtid = ?1 order by position")
            .bind(gtid)
            .fetch_all(&mut connection)
            .await
            .expect("the view");
    let id = |name: &str, id: &str| (name.to_owned(), Some(id.to_owned()));
    assert_eq!(ids, [id("inventory", "7.1f"), id("billing", "7.ffffffffffffffff")]);
    let steps: i64 = sqlx::query_scalar("select count(*) from assent_v1_saga_step")
        .fetch_one(&mut connection)
        .await
        .expect("the view");
    assert_eq!(steps, 4);
}
