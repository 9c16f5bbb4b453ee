//! Certificates and tokens are replaced while processes of their own commit: no transaction fails for it.

use assent_proto::error::Reason;
use assent_proto::v1::admin_service_client::AdminServiceClient;
use assent_proto::v1::client_message::Kind as Said;
use assent_proto::v1::session_service_client::SessionServiceClient;
use assent_proto::v1::{GetStatisticsRequest, Hello, WhoAmIRequest};
use tokio_stream::wrappers::ReceiverStream;

use crate::access::{Tokens, bearer};
use crate::certificates::Secured;
use crate::harness::{Home, PATIENCE, frame, hello, refused, until};
use crate::process::ended_beside;

/// How long the load runs, beside its two seconds of warm-up.
const LOAD_S: &str = "10";

/// The identities of the processes of `assent bench`.
const BENCH: [&str; 4] = ["participant/bench-0", "participant/bench-1", "initiator/bench", "observer/bench"];

/// Runs `assent bench` with these credentials, and gives its figures.
async fn load(endpoint: String, ca: String, shown: [(&'static str, String); 2]) -> serde_json::Value {
    let mut arguments = vec!["bench", "--endpoint", &endpoint, "--ca", &ca, "--concurrency", "8", "-o", "json"];
    arguments.extend(["--duration", LOAD_S]);
    for (flag, file) in shown.iter().filter(|(flag, _)| !flag.is_empty()) {
        arguments.extend([*flag, file]);
    }
    let (code, stdout, stderr) = ended_beside(&arguments).await;
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    serde_json::from_str(&stdout).expect("JSON")
}

/// Every transaction of a load has committed.
fn all_committed(figures: &serde_json::Value) {
    let of = |name: &str| figures[name].as_u64().expect("a count");
    assert_eq!((of("aborted"), of("in_doubt"), of("errors")), (0, 0, 0), "{figures}");
    assert!(of("committed") > 100, "{figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_under_load_without_a_failed_transaction() {
    let secured = Secured::start();
    let authority = &secured.authority;
    authority.issue("bench", &BENCH);
    let (cert, key) = authority.pair("bench");
    let load = tokio::spawn(load(secured.endpoint(), authority.file("ca.pem"), [("--cert", cert), ("--key", key)]));
    let dialer = authority.dialer("me", &["observer/me"]);
    let mut renewals = 0;
    while !load.is_finished() {
        renewals += 1;
        let name = format!("renewal-{renewals}.example");
        authority.issue("server", &["replica/assent", "--ip", "127.0.0.1", "--dns", &name]);
        authority.issue("bench", &BENCH);
        until("the new certificate is shown", async || {
            let named = dialer.clone().server_name(&name).target(&secured.endpoint()).expect("fit");
            named.connect().await.is_ok()
        })
        .await;
    }
    assert!(renewals > 3, "{renewals} renewals");
    all_committed(&load.await.expect("figures"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_replaced_under_load_without_a_failed_transaction() {
    let home = Home::new();
    let tokens = Tokens::new(&home);
    let secured = Secured::in_home(home, &["--tokens-file", &tokens.file()]);
    let (endpoint, ca) = (secured.endpoint(), secured.authority.file("ca.pem"));
    let target = secured.authority.trusting().target(&endpoint).expect("fit");
    let channel = target.connect().await.expect("it answers");
    let is_known = async |token: &str| {
        let mut client = AdminServiceClient::with_interceptor(channel.clone(), bearer(token));
        client.who_am_i(WhoAmIRequest {}).await.is_ok()
    };
    let me = tokens.add("me", &["observer/me"]);
    let begun = async || {
        let mut client = AdminServiceClient::with_interceptor(channel.clone(), bearer(&me));
        let statistics = client.get_statistics(GetStatisticsRequest {}).await.expect("an answer").into_inner();
        statistics.statistics.expect("there").committed
    };
    // The file that the processes read for each connection.
    let current = tokens.path("current");
    let mut shown = tokens.add("bench-0", &BENCH);
    std::fs::write(&current, &shown).expect("written");
    until("the tokens are known", async || is_known(&me).await && is_known(&shown).await).await;
    let file = current.to_str().expect("text").to_owned();
    let load = tokio::spawn(load(endpoint, ca, [("--token-file", file), ("", String::new())]));
    let mut rotations = 0;
    while !load.is_finished() {
        let before = begun().await;
        until("transactions commit", async || load.is_finished() || begun().await > before + 50).await;
        rotations += 1;
        let next = tokens.add(&format!("bench-{rotations}"), &BENCH);
        until("the new token is known", async || is_known(&next).await).await;
        std::fs::write(&current, &next).expect("written");
        tokens.remove(&format!("bench-{}", rotations - 1));
        until("the old token is not known", async || !is_known(&shown).await).await;
        shown = next;
    }
    assert!(rotations > 1, "{rotations} rotations");
    all_committed(&load.await.expect("figures"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_taken_out_ends_its_session() {
    let home = Home::new();
    let tokens = Tokens::new(&home);
    let token = tokens.add("bank", &["participant/bank"]);
    let secured = Secured::in_home(home, &["--tokens-file", &tokens.file()]);
    let target = secured.authority.trusting().target(&secured.endpoint()).expect("fit");
    let mut client = SessionServiceClient::new(target.connect().await.expect("it answers"));
    let (say, said) = tokio::sync::mpsc::channel(1);
    let hello = Hello { token, ..hello("bank") };
    say.send(frame(Said::Hello(hello))).await.expect("open");
    let mut heard = client.exchange(ReceiverStream::new(said)).await.expect("a session").into_inner();
    heard.message().await.expect("a welcome").expect("a welcome");
    tokens.remove("bank");
    let ended = tokio::time::timeout(PATIENCE, async {
        loop {
            match heard.message().await {
                Ok(Some(_)) => {}
                ended => return ended,
            }
        }
    });
    let ended = ended.await.expect("it ends");
    refused(ended, Reason::Unauthenticated, &["participant/bank", "holds no longer"]);
}
