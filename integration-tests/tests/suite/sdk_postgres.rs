//! Branches as prepared transactions of a participant's own database.

use std::time::Duration;

use assent_protocol::{BranchKey, Gtid, ParticipantName};
use assent_sdk::postgres::{PostgresResource, PostgresWork};
use assent_sdk::{BoxError, Branch, Coordinator, Heuristic, Participant, Vote};
use integration_tests::{Database, Postgres, eventually};
use sqlx::{Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// What the tests' work can do to account 1; the payload is one of these words.
pub(crate) struct Work;

impl PostgresWork for Work {
    async fn perform(&self, branch: &Branch, connection: &mut PgConnection) -> Result<Vote, BoxError> {
        connection.execute("update account set balance = balance + 1 where id = 1").await?;
        match std::str::from_utf8(branch.payload())? {
            "yes" => Ok(Vote::Yes),
            "no" => Ok(Vote::no("the test says no")),
            "read-only" => Ok(Vote::ReadOnly),
            "error" => Err("the test fails".into()),
            "drops an error" => {
                connection.execute("insert into account values (1, 0)").await.expect_err("account 1 is there");
                Ok(Vote::Yes)
            }
            "commits by itself" => {
                connection.execute("commit").await?;
                Ok(Vote::Yes)
            }
            "commits a transaction within" => {
                let mut within = connection.begin().await?;
                within.execute("update account set balance = balance + 10 where id = 1").await?;
                within.commit().await?;
                Ok(Vote::no("after all"))
            }
            "drops a transaction within" => {
                let mut within = connection.begin().await?;
                within.execute("update account set balance = balance + 10 where id = 1").await?;
                drop(within);
                Ok(Vote::Yes)
            }
            "cannot be prepared" => {
                connection.execute("create temporary table scratch (id int)").await?;
                Ok(Vote::Yes)
            }
            "breaks a deferred constraint" => {
                connection.execute("insert into transfer values (7)").await?;
                Ok(Vote::Yes)
            }
            "is slow to prepare" => {
                connection.execute("insert into slow values (1)").await?;
                Ok(Vote::Yes)
            }
            "never ends" => std::future::pending().await,
            "runs an endless statement" => {
                connection.execute("select pg_sleep(600)").await?;
                Ok(Vote::Yes)
            }
            other => Err(format!("the test knows no {other}").into()),
        }
    }
}

/// A database with account 1 at balance zero.
pub(crate) async fn bank() -> Database {
    furnished(Database::create().await).await
}

pub(crate) async fn furnished(database: Database) -> Database {
    let mut connection = database.connect().await;
    sqlx::raw_sql(
        "create table account (id int primary key, balance bigint not null);
         insert into account values (1, 0);
         create table transfer (account int not null references account deferrable initially deferred);
         create table slow (id int not null);
         create function dawdle() returns trigger language plpgsql as $$ begin
             perform pg_advisory_lock(1), pg_advisory_unlock(1);
             return null;
         end $$;
         create constraint trigger dawdle after insert on slow deferrable initially deferred
             for each row execute function dawdle();",
    )
    .execute(&mut connection)
    .await
    .expect("the test's tables");
    database
}

pub(crate) async fn balance(database: &Database) -> i64 {
    sqlx::query_scalar("select balance from account where id = 1")
        .fetch_one(&mut database.connect().await)
        .await
        .expect("the balance")
}

/// Waits until the row that the tests' work changes is locked by no open transaction.
pub(crate) async fn unlocked(database: &Database) {
    let mut connection = database.connect().await;
    eventually("account 1 is unlocked", DEADLINE, async || {
        connection.execute("select from account where id = 1 for update nowait").await
    })
    .await;
}

pub(crate) fn coordinator() -> Coordinator {
    Coordinator { id: "orders-1".into(), address: "http://localhost:7420".into() }
}

pub(crate) fn name() -> ParticipantName {
    "bank-a".parse().expect("a name")
}

pub(crate) fn gtid() -> Gtid {
    Gtid::new(Uuid::now_v7()).expect("a UUID of version 7")
}

/// A branch of a transaction of its own.
pub(crate) fn key() -> BranchKey {
    BranchKey { gtid: gtid(), id: "7.1f".parse().expect("a branch id") }
}

pub(crate) fn branch(key: BranchKey, payload: &'static str) -> Branch {
    Branch::new(key, name(), coordinator(), payload, DEADLINE)
}

/// What commit and abort are called with.
pub(crate) fn ending(key: BranchKey) -> Branch {
    Branch::new(key, name(), coordinator(), "", Duration::ZERO)
}

pub(crate) fn instance(database: &Database) -> PostgresResource<Work> {
    PostgresResource::new(name(), database.url().parse().expect("a URL"), Work)
}

async fn prepared(resource: &PostgresResource<Work>, payload: &'static str) -> BranchKey {
    let key = key();
    assert_eq!(resource.prepare(&branch(key, payload)).await.expect("prepares"), Vote::Yes);
    key
}

async fn is_empty(database: &Database) {
    assert_eq!(database.prepared_transactions().await, [""; 0], "nothing is left prepared");
}

#[tokio::test]
async fn a_yes_is_prepared_and_ends_as_decided() {
    let bank = bank().await;
    let resource = instance(&bank);
    let (committed, aborted) = (prepared(&resource, "yes").await, key());
    assert_eq!(balance(&bank).await, 0, "prepared work is not visible");
    assert_eq!(bank.prepared_transactions().await.len(), 1);
    resource.commit(&ending(committed)).await.expect("commits");
    assert_eq!(balance(&bank).await, 1);

    assert_eq!(resource.prepare(&branch(aborted, "yes")).await.expect("prepares"), Vote::Yes);
    resource.abort(&ending(aborted)).await.expect("aborts");
    assert_eq!(balance(&bank).await, 1);
    is_empty(&bank).await;
}

#[tokio::test]
async fn an_end_may_come_again() {
    let bank = bank().await;
    let resource = instance(&bank);
    let committed = prepared(&resource, "yes").await;
    for _ in 0..3 {
        resource.commit(&ending(committed)).await.expect("commits");
    }
    let aborted = prepared(&resource, "yes").await;
    for _ in 0..3 {
        resource.abort(&ending(aborted)).await.expect("aborts");
    }
    resource.abort(&ending(key())).await.expect("there is nothing to abort");
    assert_eq!(balance(&bank).await, 1);
}

#[tokio::test]
async fn what_is_not_a_yes_leaves_nothing_behind() {
    let bank = bank().await;
    let resource = instance(&bank);
    let no = resource.prepare(&branch(key(), "no")).await.expect("votes");
    assert_eq!(no, Vote::no("the test says no"));
    let read_only = resource.prepare(&branch(key(), "read-only")).await.expect("votes");
    assert_eq!(read_only, Vote::ReadOnly);
    let error = resource.prepare(&branch(key(), "error")).await.expect_err("fails");
    assert_eq!(error.to_string(), "the test fails");
    assert_eq!(balance(&bank).await, 0);
    is_empty(&bank).await;
    // And no lock either.
    prepared(&resource, "yes").await;
}

#[tokio::test]
async fn a_silent_rollback_is_no_yes() {
    let bank = bank().await;
    let resource = instance(&bank);
    let dropped = key();
    let error = resource.prepare(&branch(dropped, "drops an error")).await.expect_err("is no yes");
    assert!(error.to_string().contains("had failed before"), "{error}");
    resource.abort(&ending(dropped)).await.expect("there is nothing to abort");
    assert_eq!(balance(&bank).await, 0);
    is_empty(&bank).await;
}

#[tokio::test]
async fn work_that_ends_its_own_transaction_is_no_yes() {
    let bank = bank().await;
    let resource = instance(&bank);
    let error = resource.prepare(&branch(key(), "commits by itself")).await.expect_err("is no yes");
    assert!(error.to_string().contains("has ended its own transaction"), "{error}");
    is_empty(&bank).await;
}

#[tokio::test]
async fn a_transaction_within_the_work_does_not_commit_the_branch() {
    let bank = bank().await;
    let resource = instance(&bank);
    let vote = resource.prepare(&branch(key(), "commits a transaction within")).await.expect("votes");
    assert_eq!(vote, Vote::no("after all"));
    assert_eq!(balance(&bank).await, 0);

    let key = prepared(&resource, "drops a transaction within").await;
    resource.commit(&ending(key)).await.expect("commits");
    assert_eq!(balance(&bank).await, 1, "what was rolled back within is not there, what was done around it is");
}

#[tokio::test]
async fn what_cannot_be_prepared_is_rolled_back() {
    let bank = bank().await;
    let resource = instance(&bank);
    let vote = resource.prepare(&branch(key(), "breaks a deferred constraint")).await.expect("votes");
    assert!(matches!(&vote, Vote::No(reason) if reason.contains("transfer")), "{vote:?}");
    resource.prepare(&branch(key(), "cannot be prepared")).await.expect_err("is no yes");
    assert_eq!(balance(&bank).await, 0);
    is_empty(&bank).await;
    prepared(&resource, "yes").await;
}

#[tokio::test]
async fn a_branch_that_another_instance_has_prepared_is_prepared() {
    let bank = bank().await;
    let key = prepared(&instance(&bank), "yes").await;
    // This work waits for the locks of the first; it must not do so until its time is up.
    let other = instance(&bank);
    let vote = tokio::time::timeout(DEADLINE / 2, other.prepare(&branch(key, "yes"))).await.expect("it is noticed");
    assert_eq!(vote.expect("votes"), Vote::Yes);
    other.commit(&ending(key)).await.expect("commits");
    assert_eq!(balance(&bank).await, 1, "done once");
    is_empty(&bank).await;
}

#[tokio::test]
async fn a_gid_that_is_in_use_is_a_branch_that_is_prepared() {
    struct Blind;
    impl PostgresWork for Blind {
        async fn perform(&self, _: &Branch, connection: &mut PgConnection) -> Result<Vote, BoxError> {
            connection.execute("insert into account select max(id) + 1, 0 from account").await?;
            Ok(Vote::Yes)
        }
    }
    let bank = bank().await;
    bank.connect().await.execute("alter table account drop constraint account_pkey cascade").await.expect("no locks");
    let resource = PostgresResource::new(name(), bank.url().parse().expect("a URL"), Blind);
    let key = key();
    for _ in 0..2 {
        assert_eq!(resource.prepare(&branch(key, "")).await.expect("votes"), Vote::Yes);
    }
    resource.commit(&ending(key)).await.expect("commits");
    let accounts: i64 = sqlx::query_scalar("select count(*) from account")
        .fetch_one(&mut bank.connect().await)
        .await
        .expect("the accounts");
    assert_eq!(accounts, 2, "done once");
    is_empty(&bank).await;
}

#[tokio::test]
async fn any_instance_may_end_a_branch() {
    let bank = bank().await;
    let (one, other) = (instance(&bank), instance(&bank));
    let key = prepared(&one, "yes").await;
    other.commit(&ending(key)).await.expect("commits");
    one.commit(&ending(key)).await.expect("commits");
    assert_eq!(balance(&bank).await, 1);
}

#[tokio::test]
async fn instances_that_end_the_same_branch_at_the_same_time_agree() {
    let bank = bank().await;
    for _ in 0..20 {
        let key = prepared(&instance(&bank), "yes").await;
        let ends = (0..4).map(|_| {
            let resource = instance(&bank);
            async move { resource.commit(&ending(key)).await }
        });
        for end in futures::future::join_all(ends).await {
            end.expect("commits");
        }
    }
    assert_eq!(balance(&bank).await, 20);
}

#[tokio::test]
async fn a_crash_between_prepare_and_vote_leaves_a_branch_in_doubt() {
    let bank = bank().await;
    let crashed = instance(&bank);
    let ended = prepared(&crashed, "yes").await;
    crashed.commit(&ending(ended)).await.expect("commits");
    let left = prepared(&crashed, "yes").await;
    drop(crashed);
    let next = instance(&bank);
    next.start(&coordinator()).await.expect("starts");
    assert_eq!(next.in_doubt(&coordinator()).await.expect("listed"), [left]);
    next.abort(&ending(left)).await.expect("aborts");
    assert_eq!(next.in_doubt(&coordinator()).await.expect("listed"), []);
    assert_eq!(balance(&bank).await, 1);
}

#[tokio::test]
async fn an_abort_waits_for_a_prepare_that_a_dead_process_has_sent() {
    let bank = bank().await;
    let key = key();
    let doomed = instance(&bank);
    let mut connection = bank.connect().await;
    connection.execute("select pg_advisory_lock(1)").await.expect("locked");
    let prepare = tokio::spawn(async move { doomed.prepare(&branch(key, "is slow to prepare")).await });
    eventually("PREPARE TRANSACTION is under way", DEADLINE, async || {
        let is_under_way: bool = sqlx::query_scalar(
            "select exists (select from pg_stat_activity where datname = current_database() and state = 'active'
                 and pid <> pg_backend_pid() and query ~ 'prepare transaction' and wait_event_type = 'Lock')",
        )
        .fetch_one(&mut connection)
        .await
        .expect("the activity");
        if is_under_way { Ok(()) } else { Err("it is not") }
    })
    .await;
    prepare.abort();
    prepare.await.expect_err("the process is gone, its backend is not");

    let next = instance(&bank);
    assert_eq!(next.in_doubt(&coordinator()).await.expect("listed"), [], "it is not prepared yet");
    let abort = tokio::time::timeout(Duration::from_millis(300), next.abort(&ending(key))).await;
    assert!(!matches!(abort, Ok(Ok(()))), "it is still to come");
    connection.execute("select pg_advisory_unlock(1)").await.expect("unlocked");
    eventually("the branch is aborted", DEADLINE, async || next.abort(&ending(key)).await).await;
    eventually("nothing is still to come", DEADLINE, async || {
        let busy: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where datname = current_database() and state = 'active' and pid <> pg_backend_pid()",
        )
        .fetch_one(&mut connection)
        .await
        .expect("the activity");
        if busy == 0 { Ok(()) } else { Err(format!("{busy} are busy")) }
    })
    .await;
    is_empty(&bank).await;
    assert_eq!(balance(&bank).await, 0);
}

#[tokio::test]
async fn ends_that_find_nothing_are_told_apart_or_counted() {
    let bank = bank().await;
    let resource = instance(&bank);
    let (committed, aborted) = (prepared(&resource, "yes").await, key());
    for _ in 0..2 {
        resource.commit(&ending(committed)).await.expect("commits");
    }
    assert_eq!(resource.prepare(&branch(aborted, "yes")).await.expect("prepares"), Vote::Yes);
    for _ in 0..2 {
        resource.abort(&ending(aborted)).await.expect("aborts");
    }
    // What this process has ended itself, it knows.
    let otherwise = resource.abort(&ending(committed)).await.expect_err("it has committed");
    assert_eq!(otherwise.downcast_ref::<Heuristic>(), Some(&Heuristic::Committed), "{otherwise}");
    let otherwise = resource.commit(&ending(aborted)).await.expect_err("it has aborted");
    assert_eq!(otherwise.downcast_ref::<Heuristic>(), Some(&Heuristic::Aborted), "{otherwise}");
    assert_eq!((resource.hazards().commits, resource.hazards().aborts), (0, 0));

    // What somebody has ended by hand, nobody can tell.
    let by_hand = prepared(&resource, "yes").await;
    let rollback = format!("rollback prepared '{}'", bank.prepared_transactions().await.remove(0));
    sqlx::raw_sql(sqlx::AssertSqlSafe(rollback)).execute(&mut bank.connect().await).await.expect("by hand");
    resource.commit(&ending(by_hand)).await.expect("is taken for a repetition");
    resource.abort(&ending(key())).await.expect("is taken for one that was never prepared");
    assert_eq!((resource.hazards().commits, resource.clone().hazards().aborts), (1, 1));
}

#[tokio::test]
async fn branches_that_vote_this_moment_are_not_in_doubt_for_long() {
    let bank = bank().await;
    let resource = instance(&bank);
    let key = prepared(&resource, "yes").await;
    let in_doubt_for = async |prepared_for| resource.in_doubt_for(&coordinator(), prepared_for).await.expect("listed");
    assert_eq!(in_doubt_for(Duration::from_secs(3_600)).await, []);
    assert_eq!(in_doubt_for(Duration::ZERO).await, [key]);
    eventually("it is older than a moment", DEADLINE, async || match in_doubt_for(Duration::from_millis(10)).await {
        keys if keys == [key] => Ok(()),
        keys => Err(format!("{keys:?} are")),
    })
    .await;
}

#[tokio::test]
async fn connections_that_were_lost_while_idle_are_replaced() {
    let bank = bank().await;
    let resource = instance(&bank);
    let key = prepared(&resource, "yes").await;
    resource.abort(&ending(self::key())).await.expect("opens a connection for ends");
    bank.connect()
        .await
        .execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
        .await
        .expect("they are terminated");
    resource.commit(&ending(key)).await.expect("commits on a new connection");
    prepared(&resource, "yes").await;
    assert_eq!(balance(&bank).await, 1);
}

#[tokio::test]
async fn a_killed_server_keeps_what_was_prepared() {
    let postgres = Postgres::start().await;
    let bank = furnished(postgres.create_database().await).await;
    let resource = instance(&bank);
    let key = prepared(&resource, "yes").await;
    postgres.kill().await;
    resource.commit(&ending(key)).await.expect_err("there is no server");
    postgres.restart().await;
    assert_eq!(resource.in_doubt(&coordinator()).await.expect("listed"), [key]);
    resource.commit(&ending(key)).await.expect("commits");
    assert_eq!(balance(&bank).await, 1);
}

#[tokio::test]
async fn foreign_prepared_transactions_are_never_touched() {
    let bank = bank().await;
    let key = key();
    let mut connection = bank.connect().await;
    let database: i64 = sqlx::query_scalar("select oid::int8 from pg_database where datname = current_database()")
        .fetch_one(&mut connection)
        .await
        .expect("an OID");
    let mut foreign = vec![
        format!("assent:orders-2:{database}:bank-a:{key}"),
        format!("assent:orders-1:{database}:bank-b:{key}"),
        format!("assent:orders-1:{}:bank-a:{key}", database + 1),
        format!("assent:orders-1:{database}:bank-a:{}", key.to_string().to_uppercase()),
        format!("assent:orders-1:{database}:bank-a:by hand {key}"),
        format!("{key}"),
    ];
    for gid in &foreign {
        let prepare = format!("begin; prepare transaction '{gid}'");
        sqlx::raw_sql(sqlx::AssertSqlSafe(prepare)).execute(&mut connection).await.expect("prepares");
    }
    let resource = instance(&bank);
    assert_eq!(resource.in_doubt(&coordinator()).await.expect("listed"), []);
    assert_eq!(resource.prepare(&branch(key, "yes")).await.expect("prepares"), Vote::Yes);
    assert_eq!(resource.in_doubt(&coordinator()).await.expect("listed"), [key]);
    resource.commit(&ending(key)).await.expect("commits");
    instance(&bank).abort(&ending(key)).await.expect("another instance finds nothing to abort");
    foreign.sort();
    let mut left = bank.prepared_transactions().await;
    left.sort();
    assert_eq!(left, foreign);
}

#[tokio::test]
async fn work_that_takes_too_long_is_given_up() {
    let bank = bank().await;
    let resource = instance(&bank);
    let short = |payload| Branch::new(key(), name(), coordinator(), payload, Duration::from_millis(300));
    let error = resource.prepare(&short("never ends")).await.expect_err("gives up");
    assert!(error.to_string().contains("too late"), "{error}");
    let error = resource.prepare(&short("runs an endless statement")).await.expect_err("gives up");
    assert!(error.to_string().contains("too late"), "{error}");
    // Its lock is gone with its connection, and so is what ran there.
    let blocking = prepared(&resource, "yes").await;
    resource.prepare(&short("yes")).await.expect_err("waits for the lock in vain");
    resource.commit(&ending(blocking)).await.expect("commits");
    prepared(&resource, "yes").await;
    assert_eq!(balance(&bank).await, 1);
}

#[tokio::test]
async fn ends_do_not_wait_behind_work() {
    let bank = bank().await;
    let resource = instance(&bank).with_connections(3);
    let first = prepared(&resource, "yes").await;
    // They take all connections for work and wait for the lock that the end of the first will
    // release.
    let waiting: Vec<_> = (0..6)
        .map(|_| {
            let (resource, key) = (resource.clone(), key());
            tokio::spawn(async move {
                let vote = resource.prepare(&branch(key, "yes")).await?;
                assert_eq!(vote, Vote::Yes);
                resource.commit(&ending(key)).await
            })
        })
        .collect();
    let mut connection = bank.connect().await;
    eventually("work waits for the lock", DEADLINE, async || {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_one(&mut connection)
        .await
        .expect("the activity");
        if waiting == 2 { Ok(()) } else { Err(format!("{waiting} wait")) }
    })
    .await;
    tokio::time::timeout(DEADLINE / 2, resource.commit(&ending(first))).await.expect("in time").expect("commits");
    for branch in waiting {
        branch.await.expect("no panic").expect("commits");
    }
    assert_eq!(balance(&bank).await, 7);
}

#[tokio::test]
async fn a_resource_works_for_its_own_participant_and_coordinator_only() {
    let bank = bank().await;
    let resource = instance(&bank);
    resource.start(&coordinator()).await.expect("starts");
    let other_name = "bank-b".parse().expect("a name");
    let misnamed = Branch::new(key(), other_name, coordinator(), "yes", DEADLINE);
    resource.prepare(&misnamed).await.expect_err("another participant");
    let other = Coordinator { id: "orders-2".into(), ..coordinator() };
    let misled = Branch::new(key(), name(), other, "yes", DEADLINE);
    resource.prepare(&misled).await.expect_err("another coordinator");
    resource.commit(&misled).await.expect_err("another coordinator");
    is_empty(&bank).await;
    let unfit = Coordinator { id: "it's me".into(), ..coordinator() };
    let error = instance(&bank).start(&unfit).await.expect_err("no id");
    assert!(error.to_string().contains("not the id of a coordinator"), "{error}");
}
