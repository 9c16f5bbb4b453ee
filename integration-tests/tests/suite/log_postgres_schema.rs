//! The schema of the log on Postgres: migrations, versions, contracts, partitions and plans.

use std::sync::Arc;
use std::time::Duration;

use assent::log::conformance::{Ground as _, sample_saga};
use assent::log::{self, Batch, EndedTransaction, Found, Log, LogError, Maintenance, OpenError, Options, SchemaError};
use assent_protocol::record::{Decided, Ended, EndedBranch, Member, SagaStarted, SagaStep, SagaTurned};
use assent_protocol::saga::{StepIndex, StepResult};
use assent_protocol::{BodyDigest, BranchEnd, BranchId, Decision, Epoch, Gtid, Name, Outcome, Protocol, Record};
use integration_tests::eventually;
use integration_tests::postgres::Postgres;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::log_postgres::PostgresGround;

/// 2025-01-15: what has ended within the last day of the server's clock is never forgotten.
const NOW_MS: u64 = 1_736_929_200_000;
const DAY_MS: u64 = 86_400_000;

pub(crate) fn gtid() -> Gtid {
    Gtid::new(Uuid::now_v7()).expect("version 7")
}

/// The branches of the transactions of these tests.
fn members() -> Vec<Member> {
    let member = |(name, number)| {
        let participant = Name::new(name).expect("a name");
        Member { participant, branch: BranchId { epoch: Epoch(7), number } }
    };
    [("inventory", 0x1f), ("billing", u64::MAX)].map(member).to_vec()
}

pub(crate) fn decided(gtid: Gtid, decision: Decision) -> Record {
    Record::Decided(Decided {
        gtid,
        protocol: Protocol::TwoPhase,
        decision,
        members: members(),
        digest: BodyDigest(7),
        begun_at_ms: NOW_MS,
        reason: None,
    })
}

pub(crate) fn ended(gtid: Gtid) -> Record {
    let branch =
        |Member { participant, branch }| EndedBranch { participant, branch, step: None, end: BranchEnd::Committed };
    Record::Ended(Ended {
        gtid,
        protocol: Protocol::TwoPhase,
        outcome: Outcome::Committed,
        has_open_row: true,
        begun_at_ms: NOW_MS,
        digest: BodyDigest(7),
        reason: None,
        branches: members().into_iter().map(branch).collect(),
        outputs: Vec::new(),
    })
}

async fn refusal(url: &str) -> OpenError {
    match log::open(url, Options::default()).await {
        Ok(log) => panic!("{} was opened", log.describe()),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_database_without_a_schema_says_what_to_run() {
    let server = Postgres::shared().await;
    let database = server.create_database().await;
    let error = refusal(&database.url()).await;
    assert!(matches!(error, OpenError::Schema(SchemaError::Missing { .. })), "{error}");
    assert!(error.to_string().contains("assent migrate"), "{error}");
    let report = log::check(&database.url()).await.expect("looking is allowed");
    assert_eq!((report.found, report.migrations.len() as i64), (0, report.needed));
    let schemas: i64 = sqlx::query_scalar("select count(*) from pg_namespace where nspname = 'assent'")
        .fetch_one(&mut database.connect().await)
        .await
        .expect("counted");
    assert_eq!(schemas, 0, "looking creates nothing");
}

#[tokio::test]
async fn an_older_and_a_newer_schema_are_told_apart() {
    let ground = PostgresGround::fresh().await;
    let url = ground.database.url();
    ground.execute("insert into assent.migration (version, name, sql) values (99, 'from the future', '')").await;
    for error in
        [refusal(&url).await, log::migrate(&url).await.expect_err("newer"), log::check(&url).await.expect_err("newer")]
    {
        assert!(matches!(error, OpenError::Schema(SchemaError::Newer { found: 99, .. })), "{error}");
        assert!(error.to_string().contains("upgrade the binary"), "{error}");
    }
    ground.execute("delete from assent.migration where version > 1; drop function assent.create_history_partition, assent.has_history_partition, assent.drop_history_partition, assent.expired_history_partition, assent.forget_unpinned_history, assent.bounded_keep_from; drop view assent.assent_v1_transaction, assent.assent_v1_branch, assent.assent_v1_saga_step, assent.assent_v1_participant, assent.assent_v1_replica; alter table assent.replica drop column leased_until; alter table assent.open_transaction drop column voter, drop column roster, drop column branch_ids, add constraint a_row_fits_its_protocol check (true); alter table assent.history drop column branch_ids, add constraint an_outcome_fits_its_protocol check (true)").await;
    let error = refusal(&url).await;
    assert!(matches!(error, OpenError::Schema(SchemaError::Older { found: 1, .. })), "{error}");
    assert!(error.to_string().contains("assent migrate"), "{error}");
    let report = log::migrate(&url).await.expect("migrated");
    assert_eq!((report.found, report.migrations[0].version), (1, 2));
    log::open(&url, Options::default()).await.expect("up to date");
}

#[tokio::test]
async fn a_migration_that_was_changed_is_noticed() {
    let ground = PostgresGround::fresh().await;
    ground.execute("update assent.migration set sql = sql || ' -- patched' where version = 1").await;
    let error = log::migrate(&ground.database.url()).await.expect_err("changed");
    assert!(matches!(error, OpenError::Schema(SchemaError::Changed { version: 1, .. })), "{error}");
}

#[tokio::test]
async fn migrators_that_meet_migrate_once() {
    let server = Postgres::shared().await;
    let database = server.create_database().await;
    let url = database.url();
    let reports = futures::future::join_all((0..6).map(|_| log::migrate(&url))).await;
    let applied: Vec<usize> = reports.into_iter().map(|report| report.expect("migrated").migrations.len()).collect();
    assert_eq!(applied.iter().filter(|applied| **applied > 0).count(), 1, "{applied:?}");
    let again = log::migrate(&url).await.expect("migrated");
    assert_eq!((again.migrations, again.found), (Vec::new(), again.needed));
}

#[tokio::test]
async fn every_table_view_column_and_function_is_explained() {
    let ground = PostgresGround::fresh().await;
    let without: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_class c
         where c.relnamespace = 'assent'::regnamespace and c.relkind in ('r', 'p', 'v', 'S') and obj_description(c.oid, 'pg_class') is null
         union all
         select c.relname || '.' || a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid
         where c.relnamespace = 'assent'::regnamespace and c.relkind in ('r', 'p', 'v') and not c.relispartition
           and a.attnum > 0 and not a.attisdropped and col_description(c.oid, a.attnum) is null
         union all
         select p.proname::text from pg_proc p
         where p.pronamespace = 'assent'::regnamespace and obj_description(p.oid, 'pg_proc') is null",
    )
    .fetch_all(&mut ground.database.connect().await)
    .await
    .expect("the catalog");
    assert_eq!(without, [""; 0]);
}

#[tokio::test]
async fn an_illegal_row_is_refused_by_the_schema() {
    let ground = PostgresGround::fresh().await;
    let mut connection = ground.database.connect().await;
    let columns = "gtid, owner_epoch, digest, begun_at, decided_at, participants, protocol, decision, remedy, definition, voter, roster";
    for (what, values) in [
        ("an unknown protocol", "'4pc', 'commit', null, null, null, null"),
        ("no decision", "'2pc', null, null, null, null, null"),
        ("a saga that committed", "'saga', 'commit', null, '[]', null, null"),
        ("a saga without a definition", "'saga', null, null, null, null, null"),
        ("a paused 2PC", "'2pc', 'commit', 'x', null, null, null"),
        ("a 3PC without decision and voter", "'3pc', null, null, null, null, null"),
        ("a voter without a roster", "'3pc', null, null, null, 'v', null"),
        ("a 2PC with a voter", "'2pc', 'commit', null, null, 'v', '{}'"),
        ("a saga with a voter", "'saga', null, null, '[]', 'v', '{}'"),
    ] {
        let sql = format!(
            "insert into assent.open_transaction ({columns}) values ('{}', 1, 1, now(), now(), '', {values})",
            Uuid::now_v7()
        );
        let refused = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect_err(what).to_string();
        assert!(refused.contains("a_row_fits_its_protocol") || what == "an unknown protocol", "{what}: {refused}");
    }
    for (participants, is_legal) in [("a", true), ("a,b", false)] {
        let sql = format!(
            "insert into assent.open_transaction ({columns}) values ('{}', 1, 1, now(), now(), '{participants}', '2pc', null, null, null, null, null)",
            Uuid::now_v7()
        );
        let taken = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await;
        assert_eq!(taken.is_ok(), is_legal, "delegated to {participants}: {taken:?}");
    }
    for (participants, branch_ids, is_legal) in [
        ("a,b", "7.1,7.2", true),
        ("a", "7.1", true),
        ("a,b", "7.1", false),
        ("a", "7.1,7.2", false),
        ("a", "", false),
        ("", "7.1", false),
        ("", "", false),
    ] {
        let open = format!(
            "insert into assent.open_transaction (gtid, owner_epoch, digest, begun_at, decided_at, protocol, decision, participants, branch_ids)
             values ('{}', 1, 1, now(), now(), '2pc', 'commit', '{participants}', '{branch_ids}')",
            Uuid::now_v7()
        );
        let ended = format!(
            "insert into assent.history (gtid, ended_at, begun_at, digest, protocol, outcome, branches, branch_ids)
             values ('{}', now(), now(), 1, '2pc', 'committed', '{participants}', '{branch_ids}')",
            Uuid::now_v7()
        );
        for sql in [open, ended] {
            let taken = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await;
            assert_eq!(taken.is_ok(), is_legal, "{participants:?} with {branch_ids:?}: {taken:?}");
        }
    }
    for sql in [
        "insert into assent.open_transaction (gtid, owner_epoch, digest, begun_at, decided_at, protocol, participants, definition, branch_ids)
         values ('01890a5d-ac96-774b-bcce-b302099a8057', 1, 1, now(), now(), 'saga', 'a', '[]', '7.1')",
        "insert into assent.history (gtid, ended_at, begun_at, digest, protocol, outcome, branches, branch_ids)
         values ('01890a5d-ac96-774b-bcce-b302099a8057', now(), now(), 1, 'saga', 'completed', 'a/b', '7.1')",
    ] {
        let refused = sqlx::raw_sql(sql).execute(&mut connection).await;
        assert!(refused.is_err(), "a saga's steps have no ids");
    }
    for (what, values) in
        [("a 2PC that was compensated", "'2pc', 'compensated'"), ("a saga that committed", "'saga', 'committed'")]
    {
        let sql = format!(
            "insert into assent.history (gtid, ended_at, begun_at, digest, branches, protocol, outcome) values ('{}', now(), now(), 1, '', {values})",
            Uuid::now_v7()
        );
        let refused = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await;
        assert!(refused.is_err(), "{what} was taken");
    }
}

#[tokio::test]
async fn the_views_are_what_they_are_documented_to_be() {
    let ground = PostgresGround::fresh().await;
    let log = ground.start("r1").await;
    let (one, two) = (gtid(), gtid());
    let saga = sample_saga();
    let forced =
        vec![decided(one, Decision::Commit), decided(two, Decision::Commit), Record::SagaStarted(saga.clone())];
    log.append(&Batch { at_ms: NOW_MS, forced, lazy: Vec::new() }).await.expect("there");
    log.append(&Batch { at_ms: NOW_MS, forced: Vec::new(), lazy: vec![ended(one)] }).await.expect("there");
    log.note_participant(&Name::new("inventory").expect("a name")).await.expect("there");
    let mut connection = ground.database.connect().await;
    type Row = (Uuid, String, Vec<String>, Option<String>, bool);
    let rows: Vec<Row> = sqlx::query_as(
        "select gtid, state, participants, owner, is_final from assent.assent_v1_transaction order by is_final, protocol",
    )
    .fetch_all(&mut connection)
    .await
    .expect("the view");
    let both = || vec!["inventory".to_owned(), "billing".to_owned()];
    assert_eq!(rows[0], (two.as_uuid(), "committing".to_owned(), both(), Some("r1".to_owned()), false));
    assert_eq!((rows[1].1.as_str(), rows[1].2.len()), ("running", 4));
    assert_eq!(rows[2], (one.as_uuid(), "committed".to_owned(), both(), None, true));
    for (gtid, ended) in [(one, Some("committed".to_owned())), (two, None)] {
        let branches: Vec<(String, Option<String>, Option<String>, String)> = sqlx::query_as(
            "select participant, step, ended, branch_id from assent.assent_v1_branch where gtid = $1 order by position",
        )
        .bind(gtid.as_uuid())
        .fetch_all(&mut connection)
        .await
        .expect("the view");
        let branch = |name: &str, id: &str| (name.to_owned(), None, ended.clone(), id.to_owned());
        assert_eq!(branches, [branch("inventory", "7.1f"), branch("billing", "7.ffffffffffffffff")]);
    }
    let ids: i64 = sqlx::query_scalar("select count(branch_id) from assent.assent_v1_branch where step is not null")
        .fetch_one(&mut connection)
        .await
        .expect("the view");
    assert_eq!(ids, 0, "a saga's steps have none");
    let steps: Vec<String> =
        sqlx::query_scalar("select name from assent.assent_v1_saga_step where gtid = $1 order by step")
            .bind(saga.gtid.as_uuid())
            .fetch_all(&mut connection)
            .await
            .expect("the view");
    assert_eq!(steps, ["reserve", "flight", "hotel", "pay"]);
    let (participants, replicas): (i64, i64) = sqlx::query_as(
        "select (select count(*) from assent.assent_v1_participant), (select count(*) from assent.assent_v1_replica)",
    )
    .fetch_one(&mut connection)
    .await
    .expect("the views");
    assert_eq!((participants, replicas), (1, 1));
}

#[tokio::test]
async fn days_are_partitions_that_come_and_go() {
    let ground = PostgresGround::fresh().await;
    let log = ground.start("r1").await;
    let retention = Duration::from_millis(3 * DAY_MS);
    // Before any maintenance, an end finds its place all the same.
    let (early, pinned, late) = (gtid(), gtid(), gtid());
    let end = async |gtid, days: u64| {
        let at_ms = NOW_MS + days * DAY_MS;
        log.append(&Batch { at_ms, forced: vec![decided(gtid, Decision::Commit)], lazy: Vec::new() })
            .await
            .expect("there");
        log.append(&Batch { at_ms, forced: Vec::new(), lazy: vec![ended(gtid)] }).await.expect("there");
    };
    end(early, 0).await;
    end(pinned, 0).await;
    let partition_of = async |gtid: Gtid| -> Option<String> {
        sqlx::query_scalar(
            "select c.relname::text from assent.history h join pg_class c on c.oid = h.tableoid where h.gtid = $1",
        )
        .bind(gtid.as_uuid())
        .fetch_optional(&mut ground.database.connect().await)
        .await
        .expect("history")
    };
    assert_eq!(partition_of(early).await.as_deref(), Some("history_other"));
    let done = log.maintain(NOW_MS, retention).await.expect("there");
    assert_eq!(done, Maintenance { partitions_created: 8, ..Maintenance::default() });
    assert_eq!(partition_of(early).await.as_deref(), Some("history_20250115"), "it has moved in");
    assert_eq!(log.maintain(NOW_MS, retention).await.expect("there"), Maintenance::default(), "nothing is left to do");
    end(late, 2).await;
    assert_eq!(partition_of(late).await.as_deref(), Some("history_20250117"));
    log.pin(pinned, true).await.expect("there");
    // Several replicas maintain at once. Who finds the other one at it for too long tries again.
    let later = NOW_MS + 4 * DAY_MS;
    let other = ground.open().await;
    let maintained = async |log: &Arc<dyn Log>| {
        while let Err(error) = log.maintain(later, retention).await {
            assert!(matches!(error, LogError::Busy { .. }), "{error}");
        }
    };
    let partitions = async || -> Vec<String> {
        let sql =
            "select inhrelid::regclass::text from pg_inherits where inhparent = 'assent.history'::regclass order by 1";
        sqlx::query_scalar(sql).fetch_all(&mut ground.database.connect().await).await.expect("partitions")
    };
    let before = partitions().await;
    tokio::join!(maintained(&log), maintained(&other));
    let after = partitions().await;
    assert_eq!(before.iter().filter(|name| !after.contains(name)).count(), 1, "{before:?} {after:?}");
    assert_eq!(after.iter().filter(|name| !before.contains(name)).count(), 4, "{before:?} {after:?}");
    assert_eq!(partition_of(early).await, None);
    assert_eq!(partition_of(pinned).await.as_deref(), Some("history_other"));
    let kept = log.lookup(&[pinned]).await.expect("there");
    let Some((_, Found::Ended(EndedTransaction { record, .. }))) = kept.first() else { panic!("{kept:?}") };
    assert_eq!(record.branches.iter().map(EndedBranch::member).collect::<Vec<_>>(), members(), "kept whole");
    assert!(partition_of(late).await.is_some());
}

/// A table that was analyzed while it was empty, and a plan that was made then, must not lead to
/// scans of all that has come since.
#[tokio::test]
async fn rows_are_found_by_their_key_whatever_the_statistics_say() {
    let ground = PostgresGround::fresh().await;
    let log = ground.start("r1").await;
    log.maintain(NOW_MS, Duration::from_millis(DAY_MS)).await.expect("there");
    log.close().await;
    let mut connection = ground.database.connect().await;
    // A backend hands in its numbers when it ends, at the latest; those of the partitions' making
    // do not count here.
    eventually("the first log's connections end", Duration::from_secs(20), async || {
        let sql = "select count(*) from pg_stat_activity where datname = current_database() and application_name like 'assent%'";
        match sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut ground.database.connect().await).await.expect("counted") {
            0 => Ok(()),
            left => Err(format!("{left} are left")),
        }
    })
    .await;
    sqlx::raw_sql("select pg_stat_reset(); analyze").execute(&mut connection).await.expect("reset");
    // Under a name of its own: taking over what r1 left open is a scan, once at a start.
    let log = ground.start("r2").await;
    let gtids: Vec<Gtid> = (0..2_000).map(|_| gtid()).collect();
    let all = gtids.iter().map(|gtid| decided(*gtid, Decision::Commit)).collect();
    log.append(&Batch { at_ms: NOW_MS, forced: all, lazy: Vec::new() }).await.expect("there");
    for pair in gtids.chunks(20).take(30) {
        let lazy = pair.iter().map(|gtid| ended(*gtid)).collect();
        let forced = vec![decided(gtid(), Decision::Commit), decided(gtid(), Decision::Abort)];
        log.append(&Batch { at_ms: NOW_MS, forced, lazy }).await.expect("there");
        let saga = SagaStarted { gtid: gtid(), ..sample_saga() };
        let (step, compensation, attempt, result) = (StepIndex(0), false, 1, StepResult::Refused("no".to_owned()));
        let step = Record::SagaStep(SagaStep { gtid: saga.gtid, step, compensation, attempt, result });
        let turned = Record::SagaTurned(SagaTurned { gtid: saga.gtid, reason: "no".to_owned() });
        let (has_open_row, branches, outputs) = (true, Vec::new(), Vec::new());
        let end = Ended {
            gtid: saga.gtid,
            protocol: Protocol::Saga,
            outcome: Outcome::Compensated,
            has_open_row,
            begun_at_ms: NOW_MS,
            digest: saga.digest,
            reason: None,
            branches,
            outputs,
        };
        for (forced, lazy) in [
            (vec![Record::SagaStarted(saga)], vec![]),
            (vec![turned], vec![step.clone()]),
            (vec![], vec![step]),
            (vec![Record::Ended(end)], vec![]),
        ] {
            log.append(&Batch { at_ms: NOW_MS, forced, lazy }).await.expect("there");
        }
    }
    log.close().await;
    let scanned = eventually("the second log's numbers arrive", Duration::from_secs(20), async || {
        let tables: Vec<(String, i64, i64)> = sqlx::query_as(
            "select relname::text, seq_scan, coalesce(idx_tup_fetch, 0) from pg_stat_user_tables
             where schemaname = 'assent' and (relname in ('open_transaction', 'saga_step') or relname like 'history%')",
        )
        .fetch_all(&mut ground.database.connect().await)
        .await
        .expect("statistics");
        let fetched: i64 = tables.iter().map(|(_, _, fetched)| fetched).sum();
        if fetched < 600 {
            return Err(format!("{fetched} rows were fetched by index"));
        }
        Ok(tables.into_iter().filter(|(_, scans, _)| *scans > 0).map(|(table, _, _)| table).collect::<Vec<_>>())
    })
    .await;
    assert_eq!(scanned, [""; 0], "these were read from end to end");
}
