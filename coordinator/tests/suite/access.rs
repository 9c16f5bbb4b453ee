//! Who a caller is, and what it may do: by certificates and by tokens, against the program itself.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use assent_proto::error::{Reason, refusal_of};
use assent_proto::v1::admin_service_client::AdminServiceClient;
use assent_proto::v1::branch_report::Kind as Report;
use assent_proto::v1::client_message::Kind as Said;
use assent_proto::v1::session_service_client::SessionServiceClient;
use assent_proto::v1::transaction_service_client::TransactionServiceClient;
use assent_proto::v1::{
    AbortRequest, BeginRequest, EnlistRequest, GetStatisticsRequest, Hello, ListParticipantsRequest,
};
use assent_sdk::{Assent, Builder, ConnectError, Outcome};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::certificates::{Authority, Secured};
use crate::harness::{Home, PATIENCE, frame, gtid_bytes, hello, refusal, refused, report, until};
use crate::process::{Served, ended, ended_beside};
use crate::tls::Willing;

/// A tokens file, and a file beside it for each token.
pub(crate) struct Tokens {
    folder: PathBuf,
}

impl Tokens {
    pub(crate) fn new(home: &Home) -> Self {
        let tokens = Self { folder: home.path().to_owned() };
        std::fs::write(tokens.path("tokens.toml"), "").expect("written");
        tokens
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The tokens file.
    pub(crate) fn file(&self) -> String {
        self.path("tokens.toml").to_str().expect("text").to_owned()
    }

    /// A new token of these identities.
    pub(crate) fn add(&self, name: &str, identities: &[&str]) -> String {
        let out = self.path(name);
        let fixed = ["token", "new", "--out", out.to_str().expect("text"), "--tokens-file", &self.file()];
        let (code, _, stderr) = ended(&[&fixed[..], identities].concat());
        assert_eq!(code, 0, "{stderr}");
        std::fs::read_to_string(&out).expect("written").trim().to_owned()
    }

    /// Takes a token out of the file.
    pub(crate) fn remove(&self, name: &str) {
        let token = std::fs::read_to_string(self.path(name)).expect("there");
        let digest = ring::digest::digest(&ring::digest::SHA256, token.trim().as_bytes());
        let hash: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let text = std::fs::read_to_string(self.file()).expect("there");
        let kept: Vec<&str> = text.split_inclusive("\n\n").filter(|entry| !entry.contains(&hash)).collect();
        // As a whole, and at once: the coordinator may look at any moment.
        std::fs::write(self.path("tokens.new"), kept.concat()).expect("written");
        std::fs::rename(self.path("tokens.new"), self.file()).expect("renamed");
    }
}

/// A coordinator that knows its callers by tokens, in clear on this machine.
pub(crate) struct Place {
    tokens: Tokens,
    pub(crate) served: Served,
    _home: Home,
}

impl Place {
    pub(crate) fn start() -> Self {
        let home = Home::new();
        let tokens = Tokens::new(&home);
        let said = std::fs::File::create(tokens.path("said.jsonl")).expect("created");
        let arguments = ["--tokens-file", &tokens.file(), "--set", "telemetry.log_format=json"];
        let served = Served::start(&home, &arguments, Stdio::from(said));
        Self { tokens, served, _home: home }
    }

    fn file(&self, name: &str) -> String {
        self.tokens.path(name).to_str().expect("text").to_owned()
    }

    /// What it has written for the audit.
    pub(crate) fn audited(&self) -> Vec<serde_json::Value> {
        let said = std::fs::read_to_string(self.file("said.jsonl")).expect("there");
        let events = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        events.filter(|event| event["target"] == "assent::audit").collect()
    }

    /// A new token of these identities, once the coordinator knows it.
    pub(crate) async fn token(&self, name: &str, identities: &[&str]) -> String {
        let token = self.tokens.add(name, identities);
        until("the token is known", async || {
            self.admin(&token).await.who_am_i(assent_proto::v1::WhoAmIRequest {}).await.is_ok()
        })
        .await;
        token
    }

    pub(crate) async fn channel(&self) -> Channel {
        channel(&self.served.endpoint()).await
    }

    pub(crate) async fn admin(&self, token: &str) -> AdminServiceClient<InterceptedService<Channel, Bearer>> {
        admin(&self.served.endpoint(), token).await
    }

    pub(crate) async fn transactions(
        &self,
        token: &str,
    ) -> TransactionServiceClient<InterceptedService<Channel, Bearer>> {
        transactions(&self.served.endpoint(), token).await
    }

    fn dial(&self, token: &str) -> Builder {
        Assent::dial(self.served.endpoint()).token(token)
    }

    /// How a session ends that begins so.
    pub(crate) async fn hello(&self, hello: Hello) -> Result<(), Status> {
        let mut client = SessionServiceClient::new(self.channel().await);
        let (say, said) = tokio::sync::mpsc::channel(1);
        say.send(frame(Said::Hello(hello))).await.expect("open");
        let mut heard = client.exchange(ReceiverStream::new(said)).await?.into_inner();
        heard.message().await.map(|_| ())
    }
}

pub(crate) async fn channel(endpoint: &str) -> Channel {
    assent_transport::Dialer::new().target(endpoint).expect("fit").connect().await.expect("it answers")
}

/// What operators ask, with a token.
pub(crate) async fn admin(endpoint: &str, token: &str) -> AdminServiceClient<InterceptedService<Channel, Bearer>> {
    AdminServiceClient::with_interceptor(channel(endpoint).await, bearer(token))
}

/// What initiators ask, with a token.
pub(crate) async fn transactions(
    endpoint: &str,
    token: &str,
) -> TransactionServiceClient<InterceptedService<Channel, Bearer>> {
    TransactionServiceClient::with_interceptor(channel(endpoint).await, bearer(token))
}

pub(crate) type Bearer = Box<dyn FnMut(Request<()>) -> Result<Request<()>, Status> + Send>;

pub(crate) fn bearer(token: &str) -> Bearer {
    let header: tonic::metadata::AsciiMetadataValue = format!("Bearer {token}").parse().expect("a header");
    Box::new(move |mut request: Request<()>| {
        request.metadata_mut().insert("authorization", header.clone());
        Ok(request)
    })
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
    // A name that was refused is noted nowhere.
    let listed = place.admin(&operator).await.list_participants(ListParticipantsRequest {}).await.expect("a list");
    let names: Vec<String> = listed.into_inner().participants.into_iter().map(|listed| listed.name).collect();
    assert_eq!(names, ["bank-a"]);
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
async fn a_tokens_file_that_is_not_fit_changes_nothing() {
    let place = Place::start();
    let known = place.token("known", &["observer/me"]).await;
    let fit = std::fs::read_to_string(place.file("tokens.toml")).expect("read");
    std::fs::write(place.file("tokens.toml"), "nonsense").expect("written");
    until("it is told", async || {
        std::fs::read_to_string(place.file("said.jsonl")).expect("there").contains("the tokens file cannot be used")
    })
    .await;
    let mut with_known = place.admin(&known).await;
    with_known.who_am_i(assent_proto::v1::WhoAmIRequest {}).await.expect("it is known still");
    std::fs::write(place.file("tokens.toml"), fit).expect("written");
    place.token("another", &["observer/me"]).await;
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
    let tokens = home.path().join("tokens.toml");
    std::fs::write(&tokens, "").expect("written");
    let secured = Secured::in_home(home, &["--tokens-file", tokens.to_str().expect("text")]);
    let (code, _, stderr) = secured.run(&["whoami"]).await;
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("--cert and --key") && stderr.contains("--token-file"), "{stderr}");
    secured.authority.issue("bank", &["participant/bank-a", "initiator/transfers"]);
    let (code, stdout, stderr) = secured.run_as("bank", &["whoami", "-o", "json"]).await;
    assert_eq!(code, 0, "{stderr}");
    let answer: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(answer["identities"], serde_json::json!(["participant/bank-a", "initiator/transfers"]));
    assert_eq!(answer["rights"], serde_json::json!(["initiate", "participate as bank-a"]));
    assert_eq!((&answer["proof"], &answer["encrypted"]), (&"certificate".into(), &true.into()));
    // A certificate that names nobody here.
    secured.authority.issue("other", &["replica/x"]);
    let (code, _, stderr) = secured.run_as("other", &["tx", "list"]).await;
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("replica/x lacks the right to inspect"), "{stderr}");
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let (with_tls, plain_home) = (Secured::start(), Home::new());
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
    let mut secured = Secured::start();
    let (code, stdout, stderr) = secured.run(&["health"]).await;
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "serving\n", ""));
    let (code, _, stderr) = secured.run(&["health", "--service", "nope"]).await;
    assert_eq!(code, 3, "{stderr}");
    secured.served.terminate();
    let (code, _, stderr) = secured.run(&["health"]).await;
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
