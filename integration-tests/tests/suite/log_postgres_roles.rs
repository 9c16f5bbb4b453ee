//! Two roles: one owns the schema of the log, one serves. The conformance suite runs as the second.

use std::time::Duration;

use assent::log::{self, OpenError, Options};
use integration_tests::{Port, Program};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::log_postgres::PostgresGround;
use crate::sdk_postgres::DEADLINE;

/// Insufficient privilege.
const REFUSED: &str = "42501";

async fn refusal(url: &str) -> OpenError {
    match log::open(url, Options::default()).await {
        Ok(log) => panic!("{} was opened", log.describe()),
        Err(error) => error,
    }
}

#[tokio::test]
async fn the_role_that_serves_can_neither_change_the_schema_nor_what_has_ended() {
    let ground = PostgresGround::fresh().await;
    ground.start("r1").await.close().await;
    let mut connection = PgConnection::connect(&ground.url()).await.expect("the role may connect");
    for sql in [
        "create table assent.mine (id int)",
        "create function assent.mine() returns int language sql as 'select 1'",
        "create or replace function assent.bounded_keep_from(keep_from timestamptz) returns timestamptz language sql as 'select keep_from'",
        "drop function assent.forget_unpinned_history(timestamptz)",
        "alter table assent.open_transaction add column mine int",
        "alter table assent.history detach partition assent.history_other",
        "alter table assent.history owner to current_user",
        "drop table assent.history_other",
        "drop view assent.assent_v1_transaction",
        "drop schema assent cascade",
        "truncate assent.history",
        "delete from assent.history",
        "delete from assent.history_other",
        "update assent.history set outcome = 'aborted'",
        "update assent.history_other set outcome = 'aborted'",
        "update assent.identity set coordinator_id = gen_random_uuid()",
        "delete from assent.identity",
        "insert into assent.migration (version, name, sql) values (99, 'mine', '')",
        "delete from assent.migration",
        "delete from assent.participant",
        "delete from assent.replica",
        "select setval('assent.epoch', 1)",
        "select assent.has_history_partition('history_other')",
    ] {
        let error = connection.execute(sql).await.expect_err(sql);
        let code = error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
        assert_eq!(code.as_deref(), Some(REFUSED), "{sql}: {error}");
    }
}

/// What it may have forgotten is what is old by the database's clock, whatever it asks for.
#[tokio::test]
async fn the_role_that_serves_cannot_have_the_last_day_forgotten() {
    let ground = PostgresGround::fresh().await;
    let log = ground.start("r1").await;
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is later").as_millis();
    log.maintain(u64::try_from(now_ms).expect("a time"), Duration::from_secs(86_400)).await.expect("maintained");
    // In the partition of today, in one of long ago, and in none.
    ground
        .execute(
            "select assent.create_history_partition('2025-01-15');
             insert into assent.history (gtid, ended_at, begun_at, digest, protocol, outcome, branches)
             select gen_random_uuid(), at, at, 7, '2pc', 'aborted', ''
             from unnest(array[now(), now() - interval '1 hour', '2025-01-15 12:00+00', '2025-01-17 12:00+00']) at",
        )
        .await;
    let mut connection = PgConnection::connect(&ground.url()).await.expect("the role may connect");
    for sql in [
        "select assent.drop_history_partition('infinity')",
        "select assent.drop_history_partition('infinity')",
        "select assent.forget_unpinned_history('infinity')",
    ] {
        connection.execute(sql).await.expect("it may have old ones forgotten");
    }
    let ages: Vec<bool> = sqlx::query_scalar("select ended_at > now() - interval '1 day' from assent.history")
        .fetch_all(&mut connection)
        .await
        .expect("it may read");
    assert_eq!(ages, [true, true], "those of long ago are gone, and no others");
    for day in ["1999-12-31", "2200-01-01", "infinity"] {
        let sql = format!("select assent.create_history_partition('{day}')");
        connection.execute(AssertSqlSafe(sql)).await.expect_err("no day that history can have");
    }
    log.ping().await.expect("the log is there");
}

#[tokio::test]
async fn a_role_that_lacks_a_privilege_is_told_which_and_how_to_mend_it() {
    let ground = PostgresGround::fresh().await;
    let (url, role) = (ground.url(), &ground.server_role);
    for (privilege, object) in [
        ("usage", "schema assent"),
        ("select", "table assent.migration"),
        ("select", "table assent.identity"),
        ("usage", "sequence assent.epoch"),
        ("update", "table assent.replica"),
        ("delete", "table assent.open_transaction"),
        ("insert", "table assent.saga_step"),
        ("insert", "table assent.history"),
        ("delete", "table assent.pin"),
        ("insert", "table assent.participant"),
        ("execute", "function assent.create_history_partition"),
        ("execute", "function assent.drop_history_partition"),
        ("execute", "function assent.forget_unpinned_history"),
    ] {
        ground.execute(format!("revoke {privilege} on {object} from \"{role}\"")).await;
        let error = refusal(&url).await;
        assert!(matches!(error, OpenError::Lacking { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("lacks {privilege} on {object}, and cannot serve")), "{text}");
        assert!(text.contains(&format!("assent migrate --log URL --server-role {role}")), "{text}");
        // What the message says to grant, word for word.
        ground.execute(format!("grant {privilege} on {object} to \"{role}\"")).await;
        log::open(&url, Options::default()).await.expect("it lacks nothing").close().await;
    }
    ground
        .execute(format!(
            "revoke all on all tables in schema assent from \"{role}\"; grant create on schema assent to \"{role}\""
        ))
        .await;
    let granted = log::grant(&ground.database.url(), role).await.expect("granted anew");
    assert!(!granted.is_new);
    log::open(&url, Options::default()).await.expect("it lacks nothing").close().await;
    let mut connection = PgConnection::connect(&url).await.expect("the role may connect");
    connection.execute("create table assent.mine (id int)").await.expect_err("what was too much is taken");
}

#[tokio::test]
async fn a_role_that_could_do_more_is_not_made_one_that_serves() {
    let ground = PostgresGround::fresh().await;
    let url = ground.database.url();
    let member = format!("{}_member", ground.database.name());
    let owner: String = sqlx::query_scalar("select current_user::text")
        .fetch_one(&mut ground.database.connect().await)
        .await
        .expect("a name");
    ground.execute(format!("create role \"{member}\" login; grant \"{owner}\" to \"{member}\"")).await;
    for role in [&owner, &member] {
        let error = log::grant(&url, role).await.expect_err("it could change the schema");
        assert!(matches!(error, OpenError::Role { .. }) && error.to_string().contains("name another one"), "{error}");
    }
    let error = log::grant("sqlite:nowhere.db", "anyone").await.expect_err("a file has no roles");
    assert!(error.to_string().contains("leave --server-role out"), "{error}");
    ground.execute(format!("drop role \"{member}\"")).await;
}

/// The owner need not be able to create schemas or roles.
#[tokio::test]
async fn what_another_role_migrates_belongs_to_the_owner_of_the_schema() {
    let ground = PostgresGround::fresh().await;
    let owner = format!("{}_owner", ground.database.name());
    ground
        .execute(format!(
            "create role \"{owner}\"; drop schema assent cascade; create schema assent authorization \"{owner}\""
        ))
        .await;
    log::migrate(&ground.database.url()).await.expect("a superuser may be anyone");
    let owners: Vec<String> = sqlx::query_scalar(
        "select distinct pg_get_userbyid(relowner)::text from pg_class where relnamespace = 'assent'::regnamespace
         union select pg_get_userbyid(proowner)::text from pg_proc where pronamespace = 'assent'::regnamespace",
    )
    .fetch_all(&mut ground.database.connect().await)
    .await
    .expect("listed");
    assert_eq!(owners, std::slice::from_ref(&owner));
    log::grant(&ground.database.url(), &ground.server_role).await.expect("granted");
    let log = ground.start("r1").await;
    log.maintain(1_736_929_200_000, Duration::from_secs(86_400)).await.expect("by the owner's functions");
    log.close().await;
    ground.execute(format!("drop schema assent cascade; drop role \"{owner}\"")).await;
}

#[tokio::test]
async fn the_command_line_makes_the_role_and_says_what_it_lacks() {
    let ground = PostgresGround::fresh().await;
    let (owner, role) = (ground.database.url(), ground.server_role.as_str());
    let migrate = async |more: &[&str]| {
        let arguments = ["migrate", "--log", &owner, "--server-role", role];
        Program::assent().args(arguments).args(more).run(DEADLINE).await
    };
    ground.execute(format!("revoke insert on assent.history from \"{role}\"")).await;
    let finished = migrate(&["--check"]).await;
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    assert!(finished.stdout.contains("lacks insert on table assent.history"), "{finished:?}");
    let served =
        Program::assent().args(["serve", "--listen", "127.0.0.1:0", "--log", &ground.url()]).run(DEADLINE).await;
    assert!(!served.status.success() && served.stderr.contains("insert on table assent.history"), "{served:?}");
    let finished = migrate(&[]).await;
    assert!(finished.status.success() && finished.stdout.contains("can serve, and nothing else"), "{finished:?}");
    assert!(migrate(&["--check"]).await.status.success());
}

#[tokio::test]
async fn a_server_that_serves_as_the_owner_says_so() {
    let ground = PostgresGround::fresh().await;
    for (url, is_owner) in [(ground.database.url(), true), (ground.url(), false)] {
        let port = Port::reserve();
        let mut server = Program::assent()
            .args(["serve", "--listen", &port.address().to_string(), "--log", &url, "--replica", "r1"])
            .start();
        server.line_with("listening", DEADLINE).await;
        let output = server.output();
        assert_eq!(output.contains("could change the schema of the log"), is_owner, "{output}");
    }
}
