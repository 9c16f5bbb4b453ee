//! What an initiator meets in its first hour.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use assent_proto::error::Reason;
use assent_protocol::AbortCode;
use assent_sdk::saga::{SagaBuilder, SagaOutcome};
use assent_sdk::{
    Assent, BoxError, Branch, Compensated, Error, Executed, Gtid, Outcome, Participant, SagaParticipant, Step, Vote,
};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::harness::Home;

/// A service that takes numbers, in a branch and in a step.
struct Numbers;

impl Participant for Numbers {
    async fn prepare(&self, branch: &Branch) -> Result<Vote, BoxError> {
        let _: Order = branch.json()?;
        Ok(Vote::Yes)
    }

    async fn commit(&self, _: &Branch) -> Result<(), BoxError> {
        Ok(())
    }

    async fn abort(&self, _: &Branch) -> Result<(), BoxError> {
        Ok(())
    }
}

impl SagaParticipant for Numbers {
    async fn execute(&self, step: &Step) -> Result<Executed, BoxError> {
        let _: Order = step.input_json()?;
        Ok(Executed::done())
    }

    async fn compensate(&self, _: &Step) -> Result<Compensated, BoxError> {
        Ok(Compensated::Done)
    }
}

#[derive(serde::Deserialize)]
struct Order {
    #[expect(dead_code, reason = "it is only read")]
    amount: u32,
}

async fn dial(endpoint: String) -> Assent {
    let dialled = Assent::dial(endpoint).participant("numbers", Numbers).saga_participant("numbers", Numbers);
    dialled.connect().await.expect("joins")
}

fn refused_for<T: std::fmt::Debug>(result: Result<T, Error>, reason: Reason) -> String {
    match result {
        Err(Error::Refused(refused)) if refused.known_reason() == Some(reason) => refused.message,
        other => panic!("{reason} was expected: {other:?}"),
    }
}

/// The messages of warnings on this thread.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

struct Message<'a>(&'a mut String);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            *self.0 = format!("{value:?}");
        }
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Warnings {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == tracing::Level::WARN {
            let mut message = String::new();
            event.record(&mut Message(&mut message));
            self.0.lock().expect("no panic").push(message);
        }
    }
}

#[tokio::test]
async fn a_commit_without_a_branch_is_a_warning() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(warnings.clone()));
    let home = Home::new();
    let coordinator = home.start().await;
    let assent = dial(coordinator.endpoint()).await;
    let forgotten = assent.begin(None).await.expect("begun");
    assert_eq!(forgotten.commit().await.expect("an outcome"), Outcome::Committed);
    let whole = assent.transaction().branch_json("numbers", &serde_json::json!({ "amount": 1 }));
    assert_eq!(whole.commit().await.expect("an outcome"), Outcome::Committed);
    let warnings = warnings.0.lock().expect("no panic");
    let empty: Vec<_> = warnings.iter().filter(|warning| warning.contains("without any branch")).collect();
    assert_eq!(empty.len(), 1, "{warnings:?}");
    assert!(empty[0].contains("Transaction::expect"), "{empty:?}");
}

#[tokio::test]
async fn a_commit_fails_where_a_branch_that_it_expects_is_missing() {
    let home = Home::new();
    let coordinator = home.start().await;
    let assent = dial(coordinator.endpoint()).await;
    let begun = assent.begin(None).await.expect("begun");
    let gtid = begun.gtid();
    let begun = begun.branch_json("numbers", &serde_json::json!({ "amount": 1 }));
    let said = refused_for(begun.expect(["numbers", "letters"]).commit().await, Reason::BranchMissing);
    assert!(said.contains("no branch of letters"), "{said}");
    // What has enlisted does not wait for the timeout.
    let outcome = assent.outcome(gtid, Duration::from_secs(20)).await;
    assert!(matches!(outcome, Ok(Outcome::Aborted(_))) || refused_for(outcome, Reason::NotFound).contains("gtid"));

    let begun = assent.begin(None).await.expect("begun").branch_json("numbers", &serde_json::json!({ "amount": 1 }));
    assert_eq!(begun.expect(["numbers"]).commit().await.expect("an outcome"), Outcome::Committed);
}

/// A gtid right after the start may be from before it, for all that the coordinator knows.
async fn begun_as(assent: &Assent) -> (Gtid, assent_sdk::Transaction) {
    loop {
        let gtid = Assent::new_gtid();
        match assent.begin(None).gtid(gtid).await {
            Ok(begun) => return (gtid, begun),
            Err(error) => assert!(refused_for::<()>(Err(error), Reason::KeyReused).contains("mint"), "{gtid}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_begin_that_is_asked_again_is_the_same_transaction() {
    let home = Home::new();
    let coordinator = home.start().await;
    let assent = dial(coordinator.endpoint()).await;
    let (gtid, first) = begun_as(&assent).await;
    let again = assent.begin(None).gtid(gtid).await.expect("the same");
    assert_eq!(again.context(), first.context());
    let again = again.branch_json("numbers", &serde_json::json!({ "amount": 1 }));
    assert_eq!(again.commit().await.expect("an outcome"), Outcome::Committed);
    // A transaction that has ended does not begin again.
    refused_for(assent.begin(None).gtid(gtid).await, Reason::KeyReused);
    drop(first);
    assert_eq!(assent.outcome(gtid, Duration::from_secs(20)).await.expect("an outcome"), Outcome::Committed);

    // Nor does one that the coordinator has lost.
    let (lost, transaction) = begun_as(&assent).await;
    std::mem::forget(transaction);
    coordinator.shutdown().await.expect("stops");
    assent.shutdown().await;
    let coordinator = home.start().await;
    let assent = dial(coordinator.endpoint()).await;
    refused_for(assent.begin(None).gtid(lost).await, Reason::KeyReused);
}

#[tokio::test]
async fn an_unreadable_payload_is_a_refusal_that_names_the_field() {
    let home = Home::new();
    let coordinator = home.start().await;
    let assent = dial(coordinator.endpoint()).await;
    let wrong = serde_json::json!({ "amount": "ten" });
    let outcome = assent.transaction().branch_json("numbers", &wrong).commit().await.expect("an outcome");
    let Outcome::Aborted(reason) = outcome else { panic!("it committed") };
    assert_eq!(reason.code, AbortCode::Refused);
    assert!(reason.to_string().contains("payload: `amount` cannot be read: invalid type: string \"ten\""), "{reason}");

    let mut saga = SagaBuilder::new();
    saga.step("count", "numbers").input_json(&wrong).add();
    let outcome = assent.run_saga(saga, Duration::from_secs(20)).await.expect("an outcome");
    let SagaOutcome::Compensated(reason) = outcome else { panic!("it has not ended: {outcome:?}") };
    assert!(reason.to_string().contains("input: `amount` cannot be read"), "{reason}");
}
