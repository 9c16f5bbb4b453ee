//! Branches that wait for each other's locks in two databases, where no database sees the deadlock.

use std::time::Duration;

use assent_sdk::{Context, Participant, Vote};
use integration_tests::eventually;
use sqlx::Executor as _;

use crate::sdk_postgres::{DEADLINE, bank, branch, coordinator, ending, gtid, instance, key};

/// Far longer than any lock is to be waited for by default, and well within the time that the
/// branches have.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_wait_for_a_prepared_branch_is_bounded_and_names_it() {
    let bank = bank().await;
    let resource = instance(&bank);
    resource.start(&coordinator()).await.expect("starts");
    let blocker = key();
    assert_eq!(resource.prepare(&branch(blocker, "yes")).await.expect("prepares"), Vote::Yes);

    // The second waits for the row's lock behind the first, and not for the prepared transaction.
    let (first, second) = (branch(key(), "yes"), branch(key(), "yes"));
    let waits = async { tokio::join!(resource.prepare(&first), resource.prepare(&second)) };
    let (first, second) = tokio::time::timeout(SOON, waits).await.expect("it is bounded");
    for waited in [first, second] {
        let error = waited.expect_err("it waited in vain").to_string();
        assert!(error.contains(&blocker.to_string()) && error.contains("with_lock_wait"), "{error}");
    }

    // While a service works, too.
    let context = Context { gtid: gtid(), coordinator: coordinator().address, deadline_unix_ms: None, epoch: None };
    let mut guard = resource.begin(&context).await.expect("begins");
    let update = "update account set balance = balance + 1 where id = 1";
    let waited = tokio::time::timeout(SOON, guard.connection().expect("open").execute(update)).await;
    let error = waited.expect("it is bounded").expect_err("it waited in vain");
    assert!(error.to_string().contains("lock timeout"), "{error}");
    guard.roll_back().await;

    resource.abort(&ending(blocker)).await.expect("aborts");
    assert_eq!(resource.prepare(&branch(key(), "yes")).await.expect("prepares"), Vote::Yes);
}

#[tokio::test]
async fn a_wait_for_an_open_transaction_names_its_session() {
    let bank = bank().await;
    let resource = instance(&bank);
    let mut other = bank.connect().await;
    other
        .execute("set application_name = 'nightly report'; begin; select from account for update")
        .await
        .expect("locked");
    let waiting = branch(key(), "yes");
    let waits = resource.prepare(&waiting);
    let error = tokio::time::timeout(SOON, waits).await.expect("it is bounded").expect_err("in vain").to_string();
    assert!(error.contains("nightly report"), "{error}");
    other.execute("rollback").await.expect("unlocked");
    eventually("it is prepared", DEADLINE, async || match resource.prepare(&branch(key(), "yes")).await {
        Ok(Vote::Yes) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}
