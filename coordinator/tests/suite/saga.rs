//! Sagas by unary calls.

use assent_proto::error::Reason;
use assent_proto::v1::{self, AbortRequest, Outcome, SagaDefinition, SagaStep, StartSagaRequest};

use crate::harness::{Home, Manner, gtid, participant, refusal, transactions};

fn step(name: &str, participant: &str, after: &[&str]) -> SagaStep {
    SagaStep {
        name: name.to_owned(),
        participant: participant.to_owned(),
        after: after.iter().map(|name| (*name).to_owned()).collect(),
        ..SagaStep::default()
    }
}

fn saga(gtid: &str, steps: Vec<SagaStep>) -> StartSagaRequest {
    StartSagaRequest { gtid: gtid.to_owned(), definition: Some(SagaDefinition { steps }), wait_for_end: true }
}

#[tokio::test]
async fn a_saga_completes_and_its_repetition_gives_the_same_answer() {
    let home = Home::new();
    let coordinator = home.start().await;
    let _airline = participant(&coordinator, "airline", Manner::Willing).await;
    let mut client = transactions(&coordinator).await;
    let request = saga(&gtid(), vec![step("flight", "airline", &[]), step("seat", "airline", &["flight"])]);
    let first = client.start_saga(request.clone()).await.expect("an outcome").into_inner();
    assert_eq!(first.outcome(), Outcome::Completed);
    let outputs: Vec<_> = first.outputs.iter().map(|output| (output.step.as_str(), &output.output[..])).collect();
    assert_eq!(outputs, [("flight", &b"flight done"[..]), ("seat", &b"seat done"[..])]);
    assert_eq!(client.start_saga(request.clone()).await.expect("an outcome").into_inner(), first);
    let other = saga(&request.gtid, vec![step("flight", "airline", &[])]);
    assert_eq!(refusal(client.start_saga(other).await).0, Reason::KeyReused);
    // Nor is it a transaction.
    let commit = v1::CommitRequest { gtid: request.gtid.clone(), ..v1::CommitRequest::default() };
    refusal(client.commit(commit).await);
}

#[tokio::test]
async fn a_saga_that_fails_is_compensated() {
    let home = Home::new();
    let coordinator = home.start().await;
    let _airline = participant(&coordinator, "airline", Manner::Willing).await;
    let _hotel = participant(&coordinator, "hotel", Manner::Unwilling).await;
    let mut client = transactions(&coordinator).await;
    // A refusal is tried again as often as the policy says.
    let once = v1::RetryPolicy { attempts_max: 1, ..v1::RetryPolicy::default() };
    let room = SagaStep { retry: Some(once), ..step("room", "hotel", &["flight"]) };
    let request = saga(&gtid(), vec![step("flight", "airline", &[]), room]);
    let answer = client.start_saga(request).await.expect("an outcome").into_inner();
    assert_eq!(answer.outcome(), Outcome::Compensated);
    let reason = answer.reason.expect("a reason");
    assert!(reason.message.contains("sold out"), "{reason:?}");
}

#[tokio::test]
async fn an_aborted_saga_compensates() {
    let home = Home::new();
    let coordinator = home.start().await;
    let _airline = participant(&coordinator, "airline", Manner::Willing).await;
    let _hotel = participant(&coordinator, "hotel", Manner::Silent).await;
    let mut client = transactions(&coordinator).await;
    let patient = v1::RetryPolicy { attempt_timeout_ms: 100, attempts_max: 1, ..v1::RetryPolicy::default() };
    let room = SagaStep { compensation_retry: Some(patient), ..step("room", "hotel", &[]) };
    let request = StartSagaRequest { wait_for_end: false, ..saga("", vec![step("flight", "airline", &[]), room]) };
    let started = client.start_saga(request).await.expect("started").into_inner();
    assert_eq!(started.outcome(), Outcome::Unspecified);
    let abort = AbortRequest { gtid: started.gtid, reason: "changed my mind".to_owned() };
    let answer = client.abort(abort).await.expect("turned").into_inner();
    assert_eq!(answer.outcome(), Outcome::Unspecified);
}

#[tokio::test]
async fn what_is_no_saga_is_refused() {
    let home = Home::new();
    let coordinator = home.start().await;
    let _airline = participant(&coordinator, "airline", Manner::Willing).await;
    let mut client = transactions(&coordinator).await;
    for (steps, part) in [
        (vec![], "at least one step"),
        (vec![step("flight", "airline", &["hotel"])], "no step has this name"),
        (vec![step("a", "airline", &["b"]), step("b", "airline", &["a"])], "behind it"),
        (vec![step("a", "airline", &[]), step("a", "airline", &[])], "two steps are named"),
        (vec![step("a", "Not A Name", &[])], "participant"),
    ] {
        let (reason, message) = refusal(client.start_saga(saga("", steps)).await);
        assert_eq!(reason, Reason::Malformed, "{message}");
        assert!(message.contains(part), "{part}: {message}");
    }
    let missing = StartSagaRequest::default();
    assert_eq!(refusal(client.start_saga(missing).await).0, Reason::Malformed);
    let (reason, message) = refusal(client.start_saga(saga("", vec![step("a", "nobody", &[])])).await);
    assert_eq!(reason, Reason::UnknownParticipant);
    assert!(message.contains("nobody"), "{message}");
    let large = SagaStep { input: vec![0; 1_024 * 1_024 + 1].into(), ..step("a", "airline", &[]) };
    assert_eq!(refusal(client.start_saga(saga("", vec![large])).await).0, Reason::PayloadTooLarge);
}
