//! What is written of refusals and of privileged calls, and what is shown to whom.

use assent_proto::error::Reason;
use assent_proto::v1::{
    self, AbortRequest, BeginRequest, EnlistRequest, GetRequest, GetStatisticsRequest, GetTransactionRequest,
    SagaDefinition, SagaStep, StartSagaRequest,
};
use assent_sdk::saga::{Executed, SagaParticipant, Step};
use assent_sdk::{Assent, BoxError, Compensated};
use serde_json::json;

use crate::access::Place;
use crate::harness::{hello, refusal, refused, until};
use crate::tls::Willing;

#[tokio::test(flavor = "multi_thread")]
async fn denials_and_the_use_of_an_operators_right_are_audited() {
    let place = Place::start();
    let one = place.token("one", &["initiator/one"]).await;
    let bank = place.token("bank", &["participant/bank"]).await;
    let operator = place.token("operator", &["operator/ada"]).await;
    let mut mine = place.transactions(&one).await;
    let gtid = mine.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    // Denied before the request is read, over its content, in a Hello, and by a message of a session.
    refusal(place.transactions(&bank).await.begin(BeginRequest::default()).await);
    let enlist = EnlistRequest { gtid: gtid.clone(), participant: "shop".to_owned(), ..Default::default() };
    refusal(place.transactions(&bank).await.enlist(enlist).await);
    refusal(place.hello(v1::Hello { token: bank.clone(), ..hello("shop") }).await);
    let joined = Assent::dial(place.served.endpoint()).token(&bank).participant("bank", Willing).connect().await;
    joined.expect("joins").begin(None).await.expect_err("it is no initiator");
    // Allowed, over what is another's.
    let abort = AbortRequest { gtid: gtid.clone(), ..Default::default() };
    place.transactions(&operator).await.abort(abort).await.expect("an operator");
    let service = "/assent.v1.TransactionService";
    let expected = [
        json!({ "outcome": "denied", "caller": "participant/bank", "right": "initiate", "rpc": format!("{service}/Begin") }),
        json!({
            "outcome": "denied", "caller": "participant/bank", "right": "participate as shop", "rpc": format!("{service}/Enlist"),
            "gtid": gtid.clone()
        }),
        json!({ "outcome": "denied", "caller": "participant/bank", "right": "participate as shop", "rpc": "Exchange/Hello" }),
        json!({ "outcome": "denied", "caller": "participant/bank", "right": "initiate", "rpc": "Exchange/Begin" }),
        json!({
            "outcome": "allowed", "caller": "operator/ada", "right": "operate", "rpc": format!("{service}/Abort"), "gtid": gtid
        }),
    ];
    // A token that has just been made is not known for a moment.
    let audited =
        || place.audited().into_iter().filter(|event| event["outcome"] != "unauthenticated").collect::<Vec<_>>();
    until("all of it is written", async || audited().len() >= expected.len()).await;
    for (written, expected) in audited().iter().zip(&expected) {
        for (name, value) in expected.as_object().expect("an object") {
            assert_eq!(&written[name], value, "{name}: {written}");
        }
        let is_denied = expected["outcome"] == "denied";
        assert_eq!(written["why"].as_str().is_some_and(|why| why.contains("lacks the right")), is_denied, "{written}");
    }
    assert!(audited()[3]["gtid"].is_string(), "a message says its transaction");
    assert_eq!(audited().len(), expected.len(), "what an initiator does with its own is not written");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_audited_at_a_limited_rate() {
    let place = Place::start();
    let observer = place.token("observer", &["observer/me"]).await;
    let counted = async || {
        let statistics = place.admin(&observer).await.get_statistics(GetStatisticsRequest {}).await;
        statistics.expect("an answer").into_inner().statistics.expect("there").authentication_failures
    };
    let (before, written_before) = (counted().await, place.audited().len());
    let began = std::time::Instant::now();
    let mut stranger = v1::admin_service_client::AdminServiceClient::new(place.channel().await);
    for _ in 0..200 {
        refused(stranger.get_statistics(GetStatisticsRequest {}).await, Reason::Unauthenticated, &[]);
    }
    assert_eq!(counted().await - before, 200);
    let seconds = began.elapsed().as_secs() as usize;
    let written = place.audited().split_off(written_before);
    assert!(written.len() <= seconds + 2, "{} events in {seconds} s", written.len());
    // The next one tells how many were left out.
    until("a second has passed", async || {
        refusal(stranger.clone().get_statistics(GetStatisticsRequest {}).await);
        let last = place.audited().pop();
        last.is_some_and(|event| event["left_out"].as_u64().is_some_and(|left_out| left_out > 0))
    })
    .await;
    let last = place.audited().pop().expect("an event");
    assert_eq!((&last["outcome"], &last["address"]), (&json!("unauthenticated"), &json!("127.0.0.1")), "{last}");
    assert!(last["why"].as_str().is_some_and(|why| why.contains("--token-file")), "{last}");
}

/// Gives something that is its own.
struct Giver;

impl SagaParticipant for Giver {
    async fn execute(&self, _: &Step) -> Result<Executed, BoxError> {
        Ok(Executed::Done("a card number".into()))
    }
    async fn compensate(&self, _: &Step) -> Result<Compensated, BoxError> {
        Ok(Compensated::Done)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_step_gives_is_shown_to_its_initiator_alone() {
    let place = Place::start();
    let bank = place.token("bank", &["participant/bank"]).await;
    let (one, other) = (place.token("one", &["initiator/one"]).await, place.token("other", &["initiator/other"]).await);
    let observer = place.token("observer", &["observer/me"]).await;
    let joined = Assent::dial(place.served.endpoint()).token(&bank).saga_participant("bank", Giver).connect().await;
    let _bank = joined.expect("joins");
    let step = SagaStep { name: "pay".to_owned(), participant: "bank".to_owned(), ..Default::default() };
    let start = StartSagaRequest {
        definition: Some(SagaDefinition { steps: vec![step] }),
        wait_for_end: true,
        ..Default::default()
    };
    let ended = place.transactions(&one).await.start_saga(start).await.expect("completed").into_inner();
    assert_eq!(ended.outputs[0].output, "a card number", "the initiator is told");
    let gtid = ended.gtid;
    let got = async |token: &str| {
        let request = GetRequest { gtid: gtid.clone() };
        let got = place.transactions(token).await.get(request).await.expect("shown").into_inner();
        got.transaction.expect("there").branches[0].output.clone()
    };
    let watched = async |token: &str| {
        let request = v1::WatchRequest { gtid: gtid.clone() };
        let mut watched = place.transactions(token).await.watch(request).await.expect("shown").into_inner();
        let shown = watched.message().await.expect("a picture").expect("a picture");
        shown.transaction.expect("there").branches[0].output.clone()
    };
    assert_eq!((got(&one).await, watched(&one).await), ("a card number".into(), "a card number".into()));
    for token in [&other, &observer] {
        assert_eq!((got(token).await, watched(token).await), (Default::default(), Default::default()));
    }
    let request = GetTransactionRequest { gtid: gtid.clone() };
    let shown = place.admin(&observer).await.get_transaction(request).await.expect("shown").into_inner();
    let branch = shown.transaction.expect("there").branches.remove(0);
    assert_eq!((branch.state.as_str(), branch.output), ("completed", Default::default()));
}
