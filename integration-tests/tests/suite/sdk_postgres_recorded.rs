//! Branches with a record: one-phase commit, and the truth about branches that somebody has ended by hand.

use assent_sdk::postgres::{Barrier, PostgresResource};
use assent_sdk::{BoxError, Gtid, Heuristic, Participant, Vote};
use integration_tests::Database;

use crate::sdk_postgres::{Work, balance, bank, branch, coordinator, ending, gtid, instance};

type Recorded = PostgresResource<Work, true>;

async fn recorded(bank: &Database) -> Recorded {
    Barrier::default().install(&bank.pool(1).await).await.expect("installs");
    let resource = instance(bank).recorded(Barrier::default());
    resource.start(&coordinator()).await.expect("starts");
    resource
}

async fn prepared(resource: &Recorded) -> Gtid {
    let gtid = gtid();
    assert_eq!(resource.prepare(&branch(gtid, "yes")).await.expect("prepares"), Vote::Yes);
    gtid
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
    instance(&bank).commit_one_phase(&branch(gtid(), "yes")).await.expect_err("keeps no record");
    let error = instance(&bank).recorded(Barrier::default()).start(&coordinator()).await.expect_err("no table");
    assert!(error.to_string().contains("Barrier::install"), "{error}");
}

#[tokio::test]
async fn a_commit_in_one_phase_is_done_once() {
    let bank = bank().await;
    let resource = recorded(&bank).await;
    let gtid = gtid();
    for _ in 0..3 {
        assert_eq!(resource.commit_one_phase(&branch(gtid, "yes")).await.expect("commits"), Vote::Yes);
    }
    assert_eq!(balance(&bank).await, 1);
    assert_eq!(bank.prepared_transactions().await, [""; 0]);
}

#[tokio::test]
async fn instances_that_commit_in_one_phase_at_the_same_time_do_it_once() {
    let bank = bank().await;
    let resource = recorded(&bank).await;
    for round in 1..=10 {
        let gtid = gtid();
        let commits = (0..4).map(|_| {
            let resource = resource.clone();
            async move { resource.commit_one_phase(&branch(gtid, "yes")).await }
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
    let gtid = gtid();
    assert_eq!(resource.commit_one_phase(&branch(gtid, "no")).await.expect("votes"), Vote::no("the test says no"));
    let error = resource.commit_one_phase(&branch(gtid, "drops an error")).await.expect_err("is no yes");
    assert!(error.to_string().contains("had failed before"), "{error}");
    resource.commit_one_phase(&branch(gtid, "commits by itself")).await.expect_err("is no yes");
    assert_eq!(balance(&bank).await, 1, "the work has committed itself, record and all");
    // The answer was unknown, so it is asked again, and finds the record.
    assert_eq!(resource.commit_one_phase(&branch(gtid, "yes")).await.expect("votes"), Vote::Yes);
    assert_eq!(balance(&bank).await, 1);
    let vote = resource.commit_one_phase(&branch(self::gtid(), "breaks a deferred constraint")).await.expect("votes");
    assert!(matches!(vote, Vote::No(_)), "{vote:?}");
    assert_eq!(balance(&bank).await, 1);
}

#[tokio::test]
async fn a_branch_that_has_committed_in_one_phase_is_not_done_again_in_two() {
    let bank = bank().await;
    let resource = recorded(&bank).await;
    let gtid = gtid();
    resource.commit_one_phase(&branch(gtid, "yes")).await.expect("commits");
    assert_eq!(resource.prepare(&branch(gtid, "yes")).await.expect("votes"), Vote::Yes);
    resource.commit(&ending(gtid)).await.expect("is committed");
    assert_eq!(heuristic(resource.abort(&ending(gtid)).await), Heuristic::Committed);
    assert_eq!(balance(&bank).await, 1);
}

#[tokio::test]
async fn a_branch_that_was_prepared_commits_in_one_phase_when_asked_to() {
    let bank = bank().await;
    let resource = recorded(&bank).await;
    let gtid = prepared(&resource).await;
    assert_eq!(resource.commit_one_phase(&branch(gtid, "yes")).await.expect("commits"), Vote::Yes);
    assert_eq!(balance(&bank).await, 1);
    assert_eq!(bank.prepared_transactions().await, [""; 0]);
}

#[tokio::test]
async fn a_branch_that_was_ended_by_hand_is_a_heuristic() {
    let bank = bank().await;
    let resource = recorded(&bank).await;
    let gtid = prepared(&resource).await;
    by_hand(&bank, "rollback").await;
    assert_eq!(heuristic(resource.commit(&ending(gtid)).await), Heuristic::Aborted);
    resource.abort(&ending(gtid)).await.expect("as decided");

    let gtid = prepared(&resource).await;
    by_hand(&bank, "commit").await;
    assert_eq!(heuristic(resource.abort(&ending(gtid)).await), Heuristic::Committed);
    resource.commit(&ending(gtid)).await.expect("as decided");
    assert_eq!(balance(&bank).await, 1);
}
