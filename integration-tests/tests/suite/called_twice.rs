//! A call that comes twice: its participant prepares two branches of one transaction, and each of
//! them ends on its own.

use assent_sdk::postgres::{EarlyOnly, EarlyPrepareError, PostgresGuard, PostgresResource};
use assent_sdk::{Assent, Context, Outcome};
use integration_tests::Database;
use sqlx::Executor as _;

use crate::chaos::nothing_is_prepared;
use crate::left_prepared::{Dying, NEVER, SOON, Scene};
use crate::sdk_postgres::DEADLINE;

/// A bank whose work is a row for each call, so that two calls do not wait for each other's locks.
async fn booked(scene: &Scene) {
    scene.bank.connect().await.execute("create table booking (call text not null)").await.expect("created");
}

async fn works(resource: &PostgresResource<EarlyOnly>, context: &Context, call: &str) -> PostgresGuard {
    let mut guard = resource.begin(context).await.expect("begins");
    let connection = guard.connection().expect("in time");
    sqlx::query("insert into booking values ($1)").bind(call).execute(connection).await.expect("works");
    guard
}

async fn bookings(bank: &Database) -> Vec<String> {
    sqlx::query_scalar("select call from booking").fetch_all(&mut bank.connect().await).await.expect("the bookings")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_branch_of_a_call_that_never_enlisted_aborts_although_its_participant_committed() {
    for coordinator_restarts in [false, true] {
        let mut scene = Scene::set().await;
        booked(&scene).await;
        let initiator = Assent::dial(&scene.endpoint).connect().await.expect("joins");
        let (one, its_resource) = scene.join(NEVER).await;
        let (other, others_resource) = scene.join(NEVER).await;

        let transaction = initiator.begin(None).await.expect("begun");
        let context = transaction.context().expect("it was begun");
        let first = works(&its_resource, &context, "first").await;
        let second = works(&others_resource, &context, "second").await;
        let error = first.prepare(&Dying).await.expect_err("it dies before it has enlisted");
        assert!(matches!(error, EarlyPrepareError::InDoubt(_)), "{error}");
        one.shutdown().await;
        second.prepare(&other).await.expect("enlisted");
        assert_eq!(transaction.commit_and_wait().await.expect("no refusal"), Outcome::Committed);

        if coordinator_restarts {
            // What was decided is known from the log alone.
            scene.coordinator.kill();
            scene.coordinator.restart();
            scene.coordinator.line_with("listening", DEADLINE).await;
        }
        // Another instance finds the first call's branch, and asks.
        let (_living, _) = scene.join(SOON).await;
        nothing_is_prepared("the bank", &scene.bank, DEADLINE).await;
        assert_eq!(bookings(&scene.bank).await, ["second"], "restarted: {coordinator_restarts}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_one_too_many_does_not_undo_the_one_that_was_enlisted() {
    let scene = Scene::set().await;
    booked(&scene).await;
    let initiator = Assent::dial(&scene.endpoint).connect().await.expect("joins");
    let (one, its_resource) = scene.join(NEVER).await;
    let (other, others_resource) = scene.join(NEVER).await;
    // The second call comes to another instance, or to the same one.
    for (assent, resource) in [(&other, &others_resource), (&one, &its_resource)] {
        let transaction = initiator.begin(None).await.expect("begun");
        let context = transaction.context().expect("it was begun");
        let first = works(&its_resource, &context, "first").await;
        let second = works(resource, &context, "second").await;
        first.prepare(&one).await.expect("enlisted");
        let error = second.prepare(assent).await.expect_err("a participant has one branch");
        let EarlyPrepareError::NotEnlisted(refused) = &error else { panic!("{error}") };
        let refused = std::error::Error::source(refused).expect("a refusal").to_string();
        assert!(refused.contains("one branch"), "{refused}");
        assert_eq!(transaction.commit_and_wait().await.expect("no refusal"), Outcome::Committed);
        nothing_is_prepared("the bank", &scene.bank, DEADLINE).await;
    }
    assert_eq!(bookings(&scene.bank).await, ["first", "first"]);
}
