//! What one branch does to its session is nothing to the next, and a session is the participant's
//! own.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use assent_sdk::postgres::{Barrier, PostgresResource, PostgresVoters, PostgresWork};
use assent_sdk::voter::conformance;
use assent_sdk::{BoxError, Branch, BranchKey, Context, Participant, Vote};
use integration_tests::Postgres;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use crate::pooler::{self, TransactionPooler};
use crate::sdk_postgres::{balance, bank, branch, coordinator, ending, furnished, instance, key, name};

/// Notes what it finds in its session, runs the payload's SQL, and votes what the payload's first
/// word says.
#[derive(Default)]
struct Unruly {
    found: Mutex<Vec<String>>,
    process_ids: Mutex<BTreeSet<i32>>,
}

impl Unruly {
    fn found(&self) -> Vec<String> {
        std::mem::take(&mut self.found.lock().expect("not poisoned"))
    }
}

impl PostgresWork for &'static Unruly {
    async fn perform(&self, branch: &Branch, connection: &mut PgConnection) -> Result<Vote, BoxError> {
        let session: String = sqlx::query_scalar(SESSION).persistent(false).fetch_one(&mut *connection).await?;
        let process_id: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *connection).await?;
        self.found.lock().expect("not poisoned").push(session);
        self.process_ids.lock().expect("not poisoned").insert(process_id);
        let (vote, sql) = std::str::from_utf8(branch.payload())?.split_once(": ").ok_or("a vote and a statement")?;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await?;
        match vote {
            "yes" => Ok(Vote::Yes),
            "read-only" => Ok(Vote::ReadOnly),
            "error" => Err("the test fails".into()),
            other => Err(format!("the test knows no {other}").into()),
        }
    }
}

/// Everything in a session that could be found by the next who uses it.
const SESSION: &str = "select concat_ws(', ', session_user, current_user, current_schemas(false)::text,
    nullif(current_setting('app.tenant', true), ''),
    (select string_agg(name || '=' || setting, ' ' order by name) from pg_settings where source = 'session'
         and setting <> '' and name not in ('lock_timeout', 'idle_in_transaction_session_timeout')
         and (name <> 'statement_timeout' or setting = '77000')),
    (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()),
    to_regclass('pg_temp.scratch'),
    (select count(*) from pg_cursors where is_holdable),
    (select string_agg(channel, ' ') from pg_listening_channels() as channel))";

#[tokio::test]
async fn a_session_is_handed_on_as_it_was_made() {
    let postgres = Postgres::start().await;
    let bank = furnished(postgres.create_database().await).await;
    bank.connect()
        .await
        .execute("create role clerk; grant update on account to clerk; create sequence receipt")
        .await
        .expect("a role and a sequence");
    Barrier::default().install(&bank.pool(1).await).await.expect("installs");
    let unruly: &'static Unruly = Box::leak(Box::default());
    // One connection for work at a time, and one more for ends: they are used again and again.
    let resource = PostgresResource::new(name(), bank.url().parse().expect("a URL"), unruly)
        .with_connections(2)
        .recorded(Barrier::default());
    resource.start(&coordinator()).await.expect("starts");

    let in_any_transaction = [
        "set role clerk",
        "set session authorization clerk",
        "set search_path = nowhere",
        "set statement_timeout = '77s'",
        "set default_transaction_isolation = 'serializable'",
        "set app.tenant = 'a'",
        "select pg_advisory_lock(42), pg_advisory_lock_shared(43)",
    ];
    let in_one_phase =
        ["create temporary table scratch (id int)", "listen news", "declare c cursor with hold for select 1"];
    let two_phase = |vote: &str, sql: &str| format!("{vote}: {sql}").leak();
    let look = async || {
        let vote = resource.prepare(&branch(key(), "read-only: select 1")).await.expect("votes");
        assert_eq!(vote, Vote::ReadOnly);
        unruly.found().pop().expect("it has looked")
    };

    let fresh = look().await;
    for sql in in_any_transaction {
        let key = key();
        assert_eq!(resource.prepare(&branch(key, two_phase("yes", sql))).await.expect("prepares"), Vote::Yes);
        assert_eq!(look().await, fresh, "prepared after {sql}");
        resource.commit(&ending(key)).await.expect("commits");

        resource.prepare(&branch(self::key(), two_phase("error", sql))).await.expect_err("the work fails");
        assert_eq!(look().await, fresh, "rolled back after {sql}");
    }
    for sql in in_any_transaction.into_iter().chain(in_one_phase) {
        let vote = resource.commit_one_phase(&branch(key(), two_phase("yes", sql))).await.expect("commits");
        assert_eq!(vote, Vote::Yes);
        assert_eq!(look().await, fresh, "committed after {sql}");
    }

    // What it has committed by itself is found out, and does not stay either.
    let error = resource
        .prepare(&branch(key(), "yes: create temporary table scratch (id int); set role clerk; listen news; commit"))
        .await
        .expect_err("is no yes");
    assert!(error.to_string().contains("has ended its own transaction"), "{error}");
    assert_eq!(look().await, fresh);

    // The last value of a sequence is the session's, too.
    resource.prepare(&branch(key(), "read-only: select nextval('receipt')")).await.expect("votes");
    let error = resource.prepare(&branch(key(), "read-only: select lastval()")).await.expect_err("there is none");
    assert!(error.to_string().contains("lastval is not yet defined"), "{error}");
    let sessions = unruly.process_ids.lock().expect("not poisoned").len();
    assert!(sessions <= 2, "{sessions} sessions: they were made anew instead of cleared");
}

#[tokio::test]
async fn work_under_another_role_is_the_participants_own_to_end() {
    let postgres = Postgres::start().await;
    let bank = furnished(postgres.create_database().await).await;
    bank.connect()
        .await
        .execute(
            "create role clerk; create role teller login password 'x' in role clerk;
             grant select, insert, update on account, transfer to clerk",
        )
        .await
        .expect("the roles");
    let unruly: &'static Unruly = Box::leak(Box::default());
    let options: PgConnectOptions = bank.url().parse().expect("a URL");
    let resource = PostgresResource::new(name(), options.username("teller").password("x"), unruly);
    resource.start(&coordinator()).await.expect("starts");
    for set in ["set role clerk", "set local role clerk"] {
        let work = format!("{set}; insert into transfer values (1); update account set balance = balance + 1");
        let key = key();
        let vote = resource.prepare(&branch(key, format!("yes: {work}").leak())).await.expect("prepares");
        assert_eq!(vote, Vote::Yes);
        resource.commit(&ending(key)).await.expect("commits");
    }
    assert_eq!(balance(&bank).await, 2);
}

/// Votes no, with the limits that the server knows, and where each is from.
struct Looks;

impl PostgresWork for Looks {
    async fn perform(&self, _: &Branch, connection: &mut PgConnection) -> Result<Vote, BoxError> {
        let sql = "select string_agg(source || ' ' || setting, ', ' order by name) from pg_settings
                   where name in ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout')";
        Ok(Vote::No(sqlx::query_scalar(sql).fetch_one(connection).await?))
    }
}

/// What the work finds once the participant has started.
async fn limits_at(url: &str) -> String {
    let resource = PostgresResource::new(name(), url.parse().expect("a URL"), Looks).with_lock_wait(Duration::ZERO);
    resource.start(&coordinator()).await.expect("starts");
    let deadline = Duration::from_secs(30);
    let branch = Branch::new(key(), name(), coordinator(), "", deadline);
    match resource.prepare(&branch).await.expect("votes") {
        Vote::No(limits) => limits,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_session_has_the_limits_of_its_transactions_from_its_start() {
    let bank = bank().await;
    let own = limits_at(&bank.url()).await;
    assert_eq!(own, "client 34875, session 30000, client 34875", "a wait for a lock has no limit but the deadline");
    let (pooler, _listening) = pooler::without_options(bank.address().await).await;
    let at_a_pooler = limits_at(&bank.url_at(pooler)).await;
    assert_eq!(
        at_a_pooler, "session 31000, session 30000, session 31000",
        "it takes none, so each transaction has them"
    );

    let alter = format!(
        "alter database {0} set statement_timeout = '5s'; alter database {0} set lock_timeout = 700",
        bank.name()
    );
    bank.connect().await.execute(AssertSqlSafe(alter)).await.expect("configured");
    assert_eq!(limits_at(&bank.url()).await, "client 34875, client 700, client 5000", "the shorter ones hold");
}

#[tokio::test]
async fn a_pooler_of_transactions_is_refused() {
    let bank = bank().await;
    for sessions in [1, 2, 3] {
        let pooler = TransactionPooler::start(bank.address().await, sessions).await;
        let resource = PostgresResource::early(name(), bank.url_at(pooler.address()).parse().expect("a URL"));
        let error = resource.start(&coordinator()).await.expect_err("its sessions are not its own");
        assert!(error.to_string().contains("set pool_mode = session"), "{sessions} sessions: {error}");
    }
}

#[tokio::test]
async fn sessions_that_cannot_be_seen_are_refused() {
    let bank = bank().await;
    let with = |setting: [(&str, &str); 1]| {
        let options: PgConnectOptions = bank.url().parse().expect("a URL");
        PostgresResource::early(name(), options.options(setting))
    };
    let error =
        with([("track_activities", "off")]).start(&coordinator()).await.expect_err("an abort would see nothing");
    assert!(error.to_string().contains("set track_activities = on"), "{error}");
    with([("track_activities", "on")]).start(&coordinator()).await.expect("starts");
}

#[tokio::test]
async fn sessions_that_are_seen_in_part_are_refused() {
    let postgres = Postgres::start_with(&[("track_activity_query_size", "100")]).await;
    let bank = furnished(postgres.create_database().await).await;
    let resource = PostgresResource::early(name(), bank.url().parse().expect("a URL"));
    let error = resource.start(&coordinator()).await.expect_err("an abort would not see which");
    assert!(error.to_string().contains("track_activity_query_size is 100"), "{error}");
}

/// As the sessions are that were made while the address led to a standby.
#[tokio::test]
async fn sessions_that_only_read_are_replaced_once_they_need_not() {
    let bank = bank().await;
    let alter = async |what: &str| {
        let sql = format!("begin read write; alter database {} {what}; commit", bank.name());
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut bank.connect().await).await.expect("altered");
    };
    let (resource, voters) = (instance(&bank), PostgresVoters::new(bank.url().parse().expect("a URL")));
    resource.start(&coordinator()).await.expect("starts");
    voters.install().await.expect("installs");
    conformance::is_there(&voters).await;
    bank.connect()
        .await
        .execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
        .await
        .expect("they are terminated");

    alter("set default_transaction_read_only = on").await;
    let context = |key: BranchKey| Context {
        gtid: key.gtid,
        coordinator: coordinator().address,
        deadline_unix_ms: None,
        epoch: None,
    };
    let update = "update account set balance = balance + 1 where id = 1";
    resource.prepare(&branch(key(), "yes")).await.expect_err("it cannot write");
    let mut guard = resource.begin(&context(key())).await.expect("begins");
    guard.connection().expect("open").execute(update).await.expect_err("it cannot write");
    guard.roll_back().await;
    conformance::votes(&voters, key().gtid).await.expect_err("it cannot write");
    alter("reset default_transaction_read_only").await;

    let mut guard = resource.begin(&context(key())).await.expect("begins");
    guard.connection().expect("open").execute(update).await.expect("it writes");
    guard.roll_back().await;
    assert_eq!(resource.prepare(&branch(key(), "yes")).await.expect("it writes"), Vote::Yes);
    conformance::votes(&voters, key().gtid).await.expect("it writes");
}

#[tokio::test]
async fn voters_behind_a_pooler_of_transactions_are_refused() {
    let bank = bank().await;
    PostgresVoters::new(bank.url().parse().expect("a URL")).install().await.expect("installs");
    for sessions in [1, 2, 3] {
        let pooler = TransactionPooler::start(bank.address().await, sessions).await;
        let voters = PostgresVoters::new(bank.url_at(pooler.address()).parse().expect("a URL"));
        let error = conformance::opens(&voters).await.expect_err("its sessions are not its own");
        assert!(error.to_string().contains("set pool_mode = session"), "{sessions} sessions: {error}");
    }
}
