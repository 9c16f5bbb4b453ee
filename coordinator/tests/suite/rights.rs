//! The right that each rpc, and each message of a session, asks for: the table drives the test.

use assent_proto::error::Reason;
use assent_proto::v1::request::Ask;
use assent_proto::v1::{self, Hello};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::access::Place;
use crate::harness::{PATIENCE, Session, begin, commit, gtid_bytes, hello, report};

/// The code of an rpc that is called with an empty message.
async fn code_of(channel: Channel, token: Option<&str>, path: &'static str) -> Code {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.expect("ready");
    let mut request = Request::new(tokio_stream::iter([()]));
    request.set_timeout(PATIENCE);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    }
    let path = http::uri::PathAndQuery::from_static(path);
    match client.streaming(request, path, tonic_prost::ProstCodec::<(), ()>::default()).await {
        Ok(answer) => match answer.into_inner().message().await {
            Ok(_) => Code::Ok,
            Err(status) => status.code(),
        },
        Err(status) => status.code(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_asks_for_its_right_and_for_no_other() {
    let place = Place::start();
    let mut tokens = Vec::new();
    for role in ["participant", "initiator", "replica", "observer", "operator", "administrator"] {
        tokens.push((role, place.token(role, &[&format!("{role}/x")]).await));
    }
    let channel = place.channel().await;
    let mut seen = 0;
    for (path, need) in assent::access::rules() {
        let unknown = code_of(channel.clone(), None, path).await;
        if need == "nothing" {
            assert_ne!(unknown, Code::Unauthenticated, "{path}");
            continue;
        }
        // A session says who it is in its Hello, and an empty one is none.
        let expected = if path.ends_with("/Exchange") { Code::InvalidArgument } else { Code::Unauthenticated };
        assert_eq!(unknown, expected, "{path} without a token");
        for (role, token) in &tokens {
            let is_allowed = match need {
                "any identity" | "see its messages" => true,
                "initiate" => *role == "initiator",
                "participate as NAME" => *role == "participant",
                "inspect" => ["observer", "operator", "administrator"].contains(role),
                "initiate or inspect; to participate shows the state alone" => *role != "replica",
                "initiate or inspect" => ["initiator", "observer", "operator", "administrator"].contains(role),
                "initiate or operate" => ["initiator", "operator", "administrator"].contains(role),
                other => panic!("{path}: {other}"),
            };
            let code = code_of(channel.clone(), Some(token), path).await;
            assert_eq!(code != Code::PermissionDenied, is_allowed, "{path} as {role}: {code:?}");
            assert_ne!(code, Code::Unauthenticated, "{path} as {role}");
            seen += 1;
        }
    }
    assert!(seen > 80, "{seen} cases");
    let unknown = code_of(channel, Some(&tokens[5].1), "/assent.v1.AdminService/Nope").await;
    assert_eq!(unknown, Code::Unimplemented);
}

/// Whether a session of this role may make a request.
async fn may_ask(session: &mut Session, ask: Ask) -> bool {
    let denied = Reason::PermissionDenied.as_str();
    !matches!(session.ask(&gtid_bytes(), ask).await, v1::reply::Kind::Refused(refused) if refused.reason == denied)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_of_a_session_asks_for_its_right() {
    let place = Place::start();
    let session_of = async |name: &str, identities: &[&str]| {
        let token = place.token(&identities.join("-").replace('/', "-"), identities).await;
        Session::over(place.channel().await).await.greeted(Hello { token, ..hello(name) }).await
    };
    let mut participant = session_of("bank", &["participant/bank"]).await;
    let mut initiator = session_of("", &["initiator/one"]).await;
    let mut watching = session_of("bank", &["participant/bank", "observer/me"]).await;
    let mut operating = session_of("bank", &["participant/bank", "operator/me"]).await;
    let step = v1::SagaStep { name: "pay".to_owned(), participant: "bank".to_owned(), ..Default::default() };
    let saga = v1::StartSaga { definition: Some(v1::SagaDefinition { steps: vec![step] }), ..Default::default() };
    let saga = v1::StartSaga { wait: v1::Wait::Decided.into(), attempt: 1, ..saga };
    let branch = v1::BranchId { epoch: 1, number: 1 };
    let enlist = v1::Enlist { branch: Some(branch), vote: v1::VoteKind::Yes.into() };
    for (ask, allowed) in [
        (begin(0), [false, true, false, false]),
        (Ask::Commit(v1::Commit { timeout_ms: 100, ..commit(&[("bank", "x")]) }), [false, true, false, false]),
        (Ask::StartSaga(saga), [false, true, false, false]),
        (Ask::Await(v1::Await { wait: v1::Wait::Decided.into() }), [false, true, true, true]),
        (Ask::Abort(v1::Abort::default()), [false, false, false, true]),
        (Ask::Enlist(enlist), [true, false, true, true]),
    ] {
        let sessions = [&mut participant, &mut initiator, &mut watching, &mut operating];
        for (number, (session, allowed)) in sessions.into_iter().zip(allowed).enumerate() {
            // An initiator may abort what it has begun, and each of these is new.
            assert_eq!(may_ask(session, ask.clone()).await, allowed, "{ask:?} by session {number}");
        }
    }
    // What no request carries ends the session of one that takes no part.
    let vote = v1::Vote { vote: v1::VoteKind::Yes.into(), reason: String::new() };
    initiator.say(report(&gtid_bytes(), branch, v1::branch_report::Kind::Vote(vote)));
    initiator.expect_end(Reason::PermissionDenied, &["initiator/one", "participate as NAME"]).await;
}
