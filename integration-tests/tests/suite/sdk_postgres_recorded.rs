//! Branches with a record: one-phase commit, and the truth about branches that somebody has ended
//! by hand.

use std::sync::Arc;
use std::time::Duration;

use assent_sdk::postgres::{Barrier, PostgresResource, PostgresWork};
use assent_sdk::{BoxError, Branch, BranchKey, Gtid, Heuristic, Participant, Vote};
use integration_tests::{Database, Relay, eventually};
use sqlx::{Executor as _, PgConnection};
use tokio::task::JoinHandle;

use crate::sdk_postgres::{DEADLINE, Work, balance, bank, branch, coordinator, ending, instance, key, name, unlocked};

type Recorded = PostgresResource<Work, true>;

async fn recorded(bank: &Database) -> Recorded {
    Barrier::default().install(&bank.pool(1).await).await.expect("installs");
    let resource = instance(bank).recorded(Barrier::default());
    resource.start(&coordinator()).await.expect("starts");
    resource
}

async fn prepared(resource: &Recorded) -> BranchKey {
    let key = key();
    assert_eq!(resource.prepare(&branch(key, "yes")).await.expect("prepares"), Vote::Yes);
    key
}

async fn by_hand(bank: &Database, verb: &str) {
    let gid = bank.prepared_transactions().await.remove(0);
    let statement = format!("{verb} prepared '{gid}'");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut bank.connect().await).await.expect("by hand");
}

fn heuristic(result: Result<(), BoxError>) -> Heuristic {
    *result.expect_err("ended otherwise").downcast::<Heuristic>().expect("a heuristic")
}

#[tokio::test]
async fn one_phase_is_offered_with_a_record_only() {
    const { assert!(<Recorded as Participant>::ONE_PHASE) };
    const { assert!(!<PostgresResource<Work> as Participant>::ONE_PHASE) };
    let bank = bank().await;
    instance(&bank).commit_one_phase(&branch(key(), "yes")).await.expect_err("keeps no record");
    let error = instance(&bank).recorded(Barrier::default()).start(&coordinator()).await.expect_err("no table");
    assert!(error.to_string().contains("Barrier::install"), "{error}");
}

#[tokio::test]
async fn a_commit_in_one_phase_is_done_once() {
    let bank = bank().await;
    let resource = recorded(&bank).await;
    let key = key();
    for _ in 0..3 {
        assert_eq!(resource.commit_one_phase(&branch(key, "yes")).await.expect("commits"), Vote::Yes);
    }
    assert_eq!(balance(&bank).await, 1);
    assert_eq!(bank.prepared_transactions().await, [""; 0]);
}

#[tokio::test]
async fn instances_that_commit_in_one_phase_at_the_same_time_do_it_once() {
    let bank = bank().await;
    let resource = recorded(&bank).await;
    for round in 1..=10 {
        let key = key();
        let commits = (0..4).map(|_| {
            let resource = resource.clone();
            async move { resource.commit_one_phase(&branch(key, "yes")).await }
        });
        for vote in futures::future::join_all(commits).await {
            assert_eq!(vote.expect("commits"), Vote::Yes);
        }
        assert_eq!(balance(&bank).await, round);
    }
}

#[tokio::test]
async fn what_does_not_commit_in_one_phase_leaves_no_record() {
    let bank = bank().await;
    let resource = recorded(&bank).await;
    let key = key();
    assert_eq!(resource.commit_one_phase(&branch(key, "no")).await.expect("votes"), Vote::no("the test says no"));
    let error = resource.commit_one_phase(&branch(key, "drops an error")).await.expect_err("is no yes");
    assert!(error.to_string().contains("had failed before"), "{error}");
    resource.commit_one_phase(&branch(key, "commits by itself")).await.expect_err("is no yes");
    assert_eq!(balance(&bank).await, 1, "the work has committed itself, record and all");
    // The answer was unknown, so it is asked again, and finds the record.
    assert_eq!(resource.commit_one_phase(&branch(key, "yes")).await.expect("votes"), Vote::Yes);
    assert_eq!(balance(&bank).await, 1);
    let vote = resource.commit_one_phase(&branch(self::key(), "breaks a deferred constraint")).await.expect("votes");
    assert!(matches!(vote, Vote::No(_)), "{vote:?}");
    assert_eq!(balance(&bank).await, 1);
}

#[tokio::test]
async fn a_branch_that_has_committed_in_one_phase_is_not_done_again_in_two() {
    let bank = bank().await;
    let resource = recorded(&bank).await;
    let key = key();
    resource.commit_one_phase(&branch(key, "yes")).await.expect("commits");
    assert_eq!(resource.prepare(&branch(key, "yes")).await.expect("votes"), Vote::Yes);
    resource.commit(&ending(key)).await.expect("is committed");
    assert_eq!(heuristic(resource.abort(&ending(key)).await), Heuristic::Committed);
    assert_eq!(balance(&bank).await, 1);
}

#[tokio::test]
async fn a_branch_that_was_prepared_commits_in_one_phase_when_asked_to() {
    let bank = bank().await;
    let resource = recorded(&bank).await;
    let key = prepared(&resource).await;
    assert_eq!(resource.commit_one_phase(&branch(key, "yes")).await.expect("commits"), Vote::Yes);
    assert_eq!(balance(&bank).await, 1);
    assert_eq!(bank.prepared_transactions().await, [""; 0]);
}

#[tokio::test]
async fn a_branch_that_was_ended_by_hand_is_a_heuristic() {
    let bank = bank().await;
    let resource = recorded(&bank).await;
    let key = prepared(&resource).await;
    by_hand(&bank, "rollback").await;
    assert_eq!(heuristic(resource.commit(&ending(key)).await), Heuristic::Aborted);
    resource.abort(&ending(key)).await.expect("as decided");

    let key = prepared(&resource).await;
    by_hand(&bank, "commit").await;
    assert_eq!(heuristic(resource.abort(&ending(key)).await), Heuristic::Committed);
    resource.commit(&ending(key)).await.expect("as decided");
    assert_eq!(balance(&bank).await, 1);
}

/// A process that does a branch's work and is held up before its PREPARE TRANSACTION reaches the
/// server.
async fn held_up(bank: &Database, key: BranchKey) -> (Arc<Relay>, JoinHandle<Result<Vote, BoxError>>) {
    struct HoldsUp(Arc<Relay>);
    impl PostgresWork for HoldsUp {
        async fn perform(&self, _: &Branch, connection: &mut PgConnection) -> Result<Vote, BoxError> {
            connection.execute("update account set balance = balance + 1 where id = 1").await?;
            self.0.hold_client(true);
            Ok(Vote::Yes)
        }
    }
    let relay = Arc::new(Relay::to(bank.address().await).await);
    let url = bank.url_at(relay.address());
    let doomed = PostgresResource::new(name(), url.parse().expect("a URL"), HoldsUp(Arc::clone(&relay)))
        .recorded(Barrier::default());
    doomed.start(&coordinator()).await.expect("starts");
    let prepare = tokio::spawn(async move { doomed.prepare(&branch(key, "")).await });
    let mut connection = bank.connect().await;
    eventually("the work is done", DEADLINE, async || {
        let is_done: bool = sqlx::query_scalar(
            "select exists (select from pg_stat_activity where datname = current_database()
                 and state = 'idle in transaction' and query ~ 'update account')",
        )
        .fetch_one(&mut connection)
        .await
        .expect("the activity");
        if is_done { Ok(()) } else { Err("it is not") }
    })
    .await;
    (relay, prepare)
}

#[tokio::test]
async fn an_abort_fences_a_prepare_that_is_still_on_its_way() {
    let bank = bank().await;
    let resource = recorded(&bank).await;
    let key = key();
    let (relay, prepare) = held_up(&bank, key).await;
    // It neither waits for the work nor leaves it a way to prepare.
    tokio::time::timeout(DEADLINE / 3, resource.abort(&ending(key))).await.expect("at once").expect("aborts");
    unlocked(&bank).await;
    relay.hold_client(false);
    let vote = prepare.await.expect("no panic");
    assert!(!matches!(vote, Ok(Vote::Yes)), "{vote:?}");
    assert_eq!(bank.prepared_transactions().await, [""; 0], "there is no orphan");
    assert_eq!(balance(&bank).await, 0);
}

#[tokio::test]
async fn an_abort_fences_work_that_has_yet_to_begin() {
    let bank = bank().await;
    let resource = recorded(&bank).await;
    let never_prepared = key();
    resource.abort(&ending(never_prepared)).await.expect("there is nothing to abort");
    let once_prepared = prepared(&resource).await;
    for _ in 0..2 {
        resource.abort(&ending(once_prepared)).await.expect("aborts");
    }
    for key in [never_prepared, once_prepared] {
        let late = resource.prepare(&branch(key, "yes")).await.expect("votes");
        assert!(matches!(&late, Vote::No(reason) if reason.contains("aborted before")), "{late:?}");
        let late = resource.commit_one_phase(&branch(key, "yes")).await.expect("votes");
        assert!(matches!(late, Vote::No(_)), "{late:?}");
        // A commit would be a lie.
        assert_eq!(heuristic(resource.commit(&ending(key)).await), Heuristic::Aborted);
    }
    assert_eq!(balance(&bank).await, 0);
    assert_eq!(bank.prepared_transactions().await, [""; 0]);
}

#[tokio::test]
async fn an_abort_does_not_end_who_only_holds_the_table() {
    let bank = bank().await;
    let resource = recorded(&bank).await;
    let key = prepared(&resource).await;
    // The prepared branch holds the table, too, so it goes first.
    by_hand(&bank, "rollback").await;
    let mut migration = bank.connect().await;
    migration.execute("begin; lock table assent_barrier_branch in access exclusive mode").await.expect("locked");
    let error = resource.abort(&ending(key)).await.expect_err("the table is held");
    assert!(error.to_string().contains("now"), "{error}");
    migration.execute("commit").await.expect("it lives");
    resource.abort(&ending(key)).await.expect("aborts");
}

#[tokio::test]
async fn aborts_at_the_same_time_agree() {
    let bank = bank().await;
    let resource = recorded(&bank).await;
    for _ in 0..10 {
        let key = prepared(&resource).await;
        let aborts = (0..4).map(|_| {
            let resource = instance(&bank).recorded(Barrier::default());
            async move { resource.abort(&ending(key)).await }
        });
        for abort in futures::future::join_all(aborts).await {
            abort.expect("aborts");
        }
    }
    assert_eq!(balance(&bank).await, 0);
}

#[tokio::test]
async fn tombstones_are_cleaned_up_after_their_time() {
    let bank = bank().await;
    let resource = recorded(&bank).await;
    let pool = bank.pool(1).await;
    let aborted = prepared(&resource).await;
    resource.abort(&ending(aborted)).await.expect("aborts");
    let all_have = async |gtids: Vec<Gtid>| Ok::<_, BoxError>(gtids);
    let clean_up = async |unchanged_for| {
        Barrier::default().clean_up(&pool, &name(), unchanged_for, all_have).await.expect("cleans up")
    };
    assert_eq!(clean_up(Duration::from_secs(3_600)).await, 0, "it may still be needed");
    assert_eq!(clean_up(Duration::ZERO).await, 1);
}
