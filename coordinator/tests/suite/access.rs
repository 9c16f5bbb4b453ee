//! Who a caller is, and what it may do: by certificates and by tokens, against the program itself.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use assent_proto::error::{Reason, refusal_of};
use assent_proto::v1::admin_service_client::AdminServiceClient;
use assent_proto::v1::branch_report::Kind as Report;
use assent_proto::v1::client_message::Kind as Said;
use assent_proto::v1::session_service_client::SessionServiceClient;
use assent_proto::v1::transaction_service_client::TransactionServiceClient;
use assent_proto::v1::{AbortRequest, BeginRequest, EnlistRequest, GetStatisticsRequest, Hello};
use assent_sdk::{Assent, Builder, ConnectError, Outcome};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::certificates::Authority;
use crate::harness::{Home, PATIENCE, frame, gtid_bytes, hello, refusal, refused, report, until};
use crate::process::{Served, ended, ended_beside};
use crate::tls::Willing;

/// A coordinator that knows its callers by tokens, in clear on this machine.
struct Place {
    home: Home,
    served: Served,
}

impl Place {
    fn start() -> Self {
        let home = Home::new();
        let tokens = home.path().join("tokens.toml");
        std::fs::write(&tokens, "").expect("written");
        let served = Served::start(&home, &["--tokens-file", tokens.to_str().expect("text")], Stdio::null());
        Self { home, served }
    }

    fn file(&self, name: &str) -> String {
        self.home.path().join(name).to_str().expect("text").to_owned()
    }

    /// A new token of these identities, once the coordinator knows it.
    async fn token(&self, name: &str, identities: &[&str]) -> String {
        let (out, tokens) = (self.file(name), self.file("tokens.toml"));
        let (code, _, stderr) =
            ended(&[&["token", "new", "--out", &out, "--tokens-file", &tokens][..], identities].concat());
        assert_eq!(code, 0, "{stderr}");
        let token = std::fs::read_to_string(&out).expect("written").trim().to_owned();
        until("the token is known", async || {
            self.admin(&token).await.who_am_i(assent_proto::v1::WhoAmIRequest {}).await.is_ok()
        })
        .await;
        token
    }

    async fn channel(&self) -> Channel {
        channel(&self.served.endpoint()).await
    }

    async fn admin(&self, token: &str) -> AdminServiceClient<InterceptedService<Channel, Bearer>> {
        AdminServiceClient::with_interceptor(self.channel().await, bearer(token))
    }

    async fn transactions(&self, token: &str) -> TransactionServiceClient<InterceptedService<Channel, Bearer>> {
        TransactionServiceClient::with_interceptor(self.channel().await, bearer(token))
    }

    fn dial(&self, token: &str) -> Builder {
        Assent::dial(self.served.endpoint()).token(token)
    }

    /// How a session ends that begins so.
    async fn hello(&self, hello: Hello) -> Result<(), Status> {
        let mut client = SessionServiceClient::new(self.channel().await);
        let (say, said) = tokio::sync::mpsc::channel(1);
        say.send(frame(Said::Hello(hello))).await.expect("open");
        let mut heard = client.exchange(ReceiverStream::new(said)).await?.into_inner();
        heard.message().await.map(|_| ())
    }
}

async fn channel(endpoint: &str) -> Channel {
    assent_transport::Dialer::new().target(endpoint).expect("fit").connect().await.expect("it answers")
}

type Bearer = Box<dyn FnMut(Request<()>) -> Result<Request<()>, Status> + Send>;

fn bearer(token: &str) -> Bearer {
    let header: tonic::metadata::AsciiMetadataValue = format!("Bearer {token}").parse().expect("a header");
    Box::new(move |mut request: Request<()>| {
        request.metadata_mut().insert("authorization", header.clone());
        Ok(request)
    })
}

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

#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_the_name_that_its_token_has() {
    let place = Place::start();
    let bank_a = place.token("bank-a", &["participant/bank-a"]).await;
    let saying = |participant: &str, token: &str| place.hello(Hello { token: token.to_owned(), ..hello(participant) });
    saying("bank-a", &bank_a).await.expect("its own name");
    saying("", &bank_a).await.expect("a first look");
    refused(
        saying("bank-b", &bank_a).await,
        Reason::PermissionDenied,
        &["participant/bank-a", "participate as bank-b"],
    );
    refused(saying("bank-a", "").await, Reason::Unauthenticated, &["--token-file", "--cert"]);
    let guess = "assent_0000000000000000000000000000000000000000";
    refused(saying("bank-a", guess).await, Reason::Unauthenticated, &["not known here", "assent token new"]);
    let operator = place.token("operator", &["operator/root"]).await;
    refused(saying("bank-a", &operator).await, Reason::PermissionDenied, &["operator/root", "participate as bank-a"]);
    refused(saying("", &operator).await, Reason::PermissionDenied, &["operator/root"]);
    // A participant that may not initiate is refused its request, and stays.
    let assent = place.dial(&bank_a).participant("bank-a", Willing).connect().await.expect("joins");
    let error = assent.begin(None).await.expect_err("it is no initiator");
    assert!(error.to_string().contains("lacks the right to initiate"), "{error}");
    let error = place.dial(guess).connect().await.expect_err("a guess");
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_ended_by_its_initiator_or_by_an_operator() {
    let place = Place::start();
    let one = place.token("one", &["initiator/one"]).await;
    let other = place.token("other", &["initiator/other", "participant/bank-b"]).await;
    let operator = place.token("operator", &["operator/root"]).await;
    let (mut mine, mut others) = (place.transactions(&one).await, place.transactions(&other).await);
    let mut begin = async || mine.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    let (first, second, third) = (begin().await, begin().await, begin().await);
    let abort = |gtid: &str| AbortRequest { gtid: gtid.to_owned(), ..AbortRequest::default() };
    refused(
        others.abort(abort(&first)).await,
        Reason::PermissionDenied,
        &["initiator/other", "begun by initiator/one", "operate"],
    );
    refused(others.commit(crate::harness::begun(&first)).await, Reason::PermissionDenied, &["begun by initiator/one"]);
    // By a session, too.
    let session = place.dial(&other).connect().await.expect("joins");
    drop(session);
    place.transactions(&operator).await.abort(abort(&second)).await.expect("an operator");
    mine.abort(abort(&first)).await.expect("its own");
    // A branch is enlisted by its participant alone.
    let enlist = |gtid: &str, participant: &str| EnlistRequest {
        gtid: gtid.to_owned(),
        participant: participant.to_owned(),
        ..EnlistRequest::default()
    };
    refused(others.enlist(enlist(&third, "bank-a")).await, Reason::PermissionDenied, &["participate as bank-a"]);
    others.enlist(enlist(&third, "bank-b")).await.expect("its own name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_taken_away_ends_its_sessions_and_a_new_one_goes_on() {
    let place = Place::start();
    let identities = ["participant/bank", "initiator/bank"];
    let old = place.token("old", &identities).await;
    let old_entry = std::fs::read_to_string(place.file("tokens.toml")).expect("read");
    std::fs::write(place.file("current"), &old).expect("written");
    let assent = Assent::dial(place.served.endpoint()).token_file(place.file("current")).participant("bank", Willing);
    let assent = assent.connect().await.expect("joins");
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let load = tokio::spawn(async move {
        let mut committed = 0;
        while stopped.try_recv().is_err() {
            let outcome = assent.transaction().branch("bank", "x").commit().await.expect("an answer");
            assert!(!matches!(outcome, Outcome::InDoubt { .. }), "{outcome:?}");
            committed += u32::from(matches!(outcome, Outcome::Committed));
        }
        committed
    });
    // Add the new one, give it to its holder, take the old one out.
    let new = place.token("new", &identities).await;
    std::fs::write(place.file("current"), &new).expect("written");
    let both = std::fs::read_to_string(place.file("tokens.toml")).expect("read");
    std::fs::write(place.file("tokens.toml"), both.replace(&old_entry, "")).expect("written");
    until("the old one is not known", async || {
        let answer = place.admin(&old).await.who_am_i(assent_proto::v1::WhoAmIRequest {}).await;
        answer.is_err_and(|status| status.code() == Code::Unauthenticated)
    })
    .await;
    let mut with_new = place.admin(&new).await;
    with_new.who_am_i(assent_proto::v1::WhoAmIRequest {}).await.expect("the new one is");
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.send(()).expect("it runs");
    assert!(load.await.expect("no transaction failed") > 0);
    // A file that is not fit changes nothing.
    std::fs::write(place.file("tokens.toml"), "nonsense").expect("written");
    tokio::time::sleep(Duration::from_secs(2)).await;
    with_new.who_am_i(assent_proto::v1::WhoAmIRequest {}).await.expect("it is known still");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guess_is_counted_and_slowed_down() {
    let place = Place::start();
    let observer = place.token("observer", &["observer/me"]).await;
    // Its hash is there, and it is too short to be believed.
    let hash = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
    let file = std::fs::read_to_string(place.file("tokens.toml")).expect("read");
    let weak = format!("{file}\n[[token]]\nidentities = [\"administrator/x\"]\nsha256 = \"{hash}\"\n");
    std::fs::write(place.file("tokens.toml"), weak).expect("written");
    let counted = async || {
        let statistics = place.admin(&observer).await.get_statistics(GetStatisticsRequest {}).await;
        statistics.expect("an answer").into_inner().statistics.expect("there").authentication_failures
    };
    let before = counted().await;
    let started = Instant::now();
    for _ in 0..3 {
        let (reason, message) = refusal(place.admin("x").await.get_statistics(GetStatisticsRequest {}).await);
        assert_eq!(reason, Reason::Unauthenticated);
        assert!(message.contains("too short"), "{message}");
    }
    let (first_three, started) = (started.elapsed(), Instant::now());
    for _ in 0..3 {
        refusal(place.admin("x").await.get_statistics(GetStatisticsRequest {}).await);
    }
    assert!(started.elapsed() > first_three, "each failure takes longer");
    assert_eq!(counted().await - before, 6);
}

#[test]
fn a_server_is_not_open_to_a_network_by_mistake() {
    let home = Home::new();
    let authority = Authority::new(home.path().join("certs"));
    authority.server();
    let (log, cert, key, ca) =
        (home.log(), authority.file("server.pem"), authority.file("server-key.pem"), authority.file("ca.pem"));
    let fixed = ["serve", "--listen", "0.0.0.0:0", "--log", &log];
    for (arguments, parts) in [
        (&[][..], ["tls_cert and tls_key", "insecure = true"]),
        (&["--tls-cert", &cert, "--tls-key", &key], ["client_ca or tokens_file", "commit and abort"]),
    ] {
        let (code, stdout, stderr) = ended(&[&fixed[..], arguments].concat());
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert!(parts.iter().all(|part| stderr.contains(part)) && stderr.contains(" next: "), "{stderr}");
    }
    let secure = ["--listen", "0.0.0.0:0", "--tls-cert", &cert, "--tls-key", &key, "--client-ca", &ca];
    drop(Served::start(&home, &secure[2..], Stdio::null()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insecure_server_says_so() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    let home = Home::new();
    let open = Served::start(&home, &["--set", "insecure=true"], Stdio::null());
    let closed_home = Home::new();
    let closed = Served::start(&closed_home, &[], Stdio::null());
    let asked = async |endpoint: String| {
        let request = HealthCheckRequest { service: "assent.insecure".to_owned() };
        HealthClient::new(channel(&endpoint).await).check(request).await.map(|_| ()).map_err(|status| status.code())
    };
    assert_eq!(asked(open.endpoint()).await, Ok(()));
    assert_eq!(asked(closed.endpoint()).await, Err(Code::NotFound));
    let (code, stdout, stderr) = ended_beside(&["whoami", "--endpoint", &open.endpoint()]).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("anyone") && stdout.contains("insecure   yes"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_told_who_it_is() {
    let home = Home::new();
    let authority = Authority::new(home.path().join("certs"));
    let server = authority.server();
    let tokens = home.path().join("tokens.toml");
    std::fs::write(&tokens, "").expect("written");
    let mut arguments: Vec<&str> = server.iter().map(String::as_str).collect();
    arguments.extend(["--tokens-file", tokens.to_str().expect("text")]);
    let served = Served::start(&home, &arguments, Stdio::null());
    let (endpoint, ca) = (served.endpoint(), authority.file("ca.pem"));
    let asked = async |arguments: &[&str]| {
        let all = [&["whoami", "-o", "json", "--endpoint", &endpoint, "--ca", &ca][..], arguments].concat();
        ended_beside(&all).await
    };
    let (code, _, stderr) = asked(&[]).await;
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("--cert and --key") && stderr.contains("--token-file"), "{stderr}");
    authority.issue("bank", &["participant/bank-a", "initiator/transfers"]);
    let (cert, key) = (authority.file("bank.pem"), authority.file("bank-key.pem"));
    let (code, stdout, stderr) = asked(&["--cert", &cert, "--key", &key]).await;
    assert_eq!(code, 0, "{stderr}");
    let answer: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(answer["identities"], serde_json::json!(["participant/bank-a", "initiator/transfers"]));
    assert_eq!(answer["rights"], serde_json::json!(["initiate", "participate as bank-a"]));
    assert_eq!((&answer["proof"], &answer["encrypted"]), (&"certificate".into(), &true.into()));
    // A certificate that names nobody here.
    authority.issue("other", &["replica/x"]);
    let (cert, key) = (authority.file("other.pem"), authority.file("other-key.pem"));
    let (code, _, stderr) =
        ended_beside(&["tx", "list", "--endpoint", &endpoint, "--ca", &ca, "--cert", &cert, "--key", &key]).await;
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("replica/x lacks the right to inspect"), "{stderr}");
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let home = Home::new();
    let authority = Authority::new(home.path().join("certs"));
    let server = authority.server();
    let server: Vec<&str> = server.iter().map(String::as_str).collect();
    let (with_tls, plain_home) = (Served::start(&home, &server, Stdio::null()), Home::new());
    let plain = Served::start(&plain_home, &[], Stdio::null());
    for endpoint in [with_tls.endpoint(), plain.endpoint()] {
        let address = endpoint.rsplit('/').next().expect("an address").to_owned();
        for beginning in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            let mut stream = TcpStream::connect(&address).expect("connects");
            stream.set_read_timeout(Some(PATIENCE)).expect("set");
            stream.write_all(beginning).expect("sent");
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).unwrap_or_else(|error| {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{endpoint} keeps it");
                0
            });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_taken_by_a_hello_and_by_nothing_less() {
    let home = Home::new();
    let served = Served::start(&home, &["--set", "session.sessions_max=2"], Stdio::null());
    // Half a Hello each: streams that are open and say nothing.
    let mut silent = Vec::new();
    for _ in 0..10 {
        let mut client = SessionServiceClient::new(channel(&served.endpoint()).await);
        let (say, said) = tokio::sync::mpsc::channel(1);
        let heard = client.exchange(ReceiverStream::new(said)).await.expect("a stream");
        silent.push((say, heard));
    }
    let assent = Assent::dial(served.endpoint()).participant("bank", Willing).connect().await.expect("there is room");
    assert!(matches!(assent.transaction().branch("bank", "x").commit().await, Ok(Outcome::Committed)));
    // A long message before a Hello is not even waited for.
    let mut client = SessionServiceClient::new(channel(&served.endpoint()).await).max_encoding_message_size(usize::MAX);
    let long = Hello { sdk: "x".repeat(1 << 20), ..hello("bank") };
    let (say, said) = tokio::sync::mpsc::channel(1);
    say.send(frame(Said::Hello(long))).await.expect("open");
    let answer = client.exchange(ReceiverStream::new(said)).await;
    let status = match answer {
        Ok(answer) => answer.into_inner().message().await.expect_err("too long"),
        Err(status) => status,
    };
    assert_eq!(
        refusal_of(&status).and_then(|refused| refused.known_reason()),
        Some(Reason::FrameTooLarge),
        "{status:?}"
    );
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn only_this_user_reads_what_is_written() {
    use std::os::unix::fs::PermissionsExt;

    use assent_sdk::journal::Journal;
    use assent_sdk::voter::FileVoters;

    let home = Home::new();
    let coordinator = home.start().await;
    let _journal = Journal::open(home.path().join("journal")).await.expect("opens");
    let _voters = FileVoters::open(home.path().join("voters")).await.expect("opens");
    let _assent = Assent::dial(coordinator.endpoint()).participant("bank", Willing).connect().await.expect("joins");
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(home.path()).expect("a folder") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.path());
        seen.push(entry.file_name().into_string().expect("text"));
    }
    for name in ["log.db", "log.db-wal", "log.db.lock", "journal", "voters"] {
        assert!(seen.iter().any(|seen| seen == name), "{name}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_needs_no_identity() {
    let home = Home::new();
    let authority = Authority::new(home.path().join("certs"));
    let server = authority.server();
    let server: Vec<&str> = server.iter().map(String::as_str).collect();
    let served = Served::start(&home, &server, Stdio::null());
    let (endpoint, ca) = (served.endpoint(), authority.file("ca.pem"));
    let (code, stdout, stderr) = ended_beside(&["health", "--endpoint", &endpoint, "--ca", &ca]).await;
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "serving\n", ""));
    let (code, _, stderr) = ended_beside(&["health", "--service", "nope", "--endpoint", &endpoint, "--ca", &ca]).await;
    assert_eq!(code, 3, "{stderr}");
    drop(served);
    let (code, _, stderr) = ended_beside(&["health", "--endpoint", &endpoint, "--ca", &ca]).await;
    assert_eq!(code, 7, "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_about_unknown_gtids_take_no_place_of_a_begin() {
    let home = Home::new();
    let mut config = home.config();
    config.limits.open_max = 5;
    let coordinator = home.start_with(config.clone()).await;
    let mut bank = crate::harness::Session::open(&coordinator, "bank").await;
    let branch = assent_proto::v1::BranchId { epoch: coordinator.epoch().0, number: 7 };
    let inquire = Report::Inquire(assent_proto::v1::Inquire {});
    for _ in 0..10 {
        let inquiries = (0..500)
            .map(|_| assent_proto::v1::ClientMessage { kind: Some(report(&gtid_bytes(), branch, inquire.clone())) });
        bank.frame(inquiries.collect());
    }
    // What it is told it never acknowledges.
    let told = bank.hear().await.expect("an answer");
    assert!(matches!(told, assent_proto::v1::server_message::Kind::Branch(_)), "{told:?}");
    let begins = async |coordinator: &assent::server::Coordinator| {
        crate::harness::transactions(coordinator).await.begin(BeginRequest::default()).await.expect("there is room");
    };
    begins(&coordinator).await;
    until("the rest is left out", async || coordinator.statistics().snapshot().open > 2).await;
    let open = coordinator.statistics().snapshot().open;
    assert!(open <= 2 * 1_024 + 5, "{open} are open");
    begins(&coordinator).await;
    // Nor after a restart.
    coordinator.kill().await.expect("stopped");
    drop((coordinator, bank));
    let coordinator = home.start_with(config).await;
    begins(&coordinator).await;
}
