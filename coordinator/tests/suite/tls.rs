//! Connections: TLS or an error, certificates that are renewed, and what a newcomer is told.

use std::io::Read;
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use assent_proto::error::Reason;
use assent_proto::v1::peer_service_client::PeerServiceClient;
use assent_proto::v1::{AskRequest, Decision, VoterRequest, voter_request};
use assent_sdk::voter::FileVoters;
use assent_sdk::{Assent, BoxError, Branch, ConnectError, Outcome, Participant, Vote};
use assent_transport::{DialError, Dialer};

use crate::certificates::{Authority, Secured};
use crate::harness::{Home, gtid_bytes, refused as refused_call, until};
use crate::process::{Served, ended_beside};

/// Does whatever it is asked.
pub(crate) struct Willing;

impl Participant for Willing {
    async fn prepare(&self, _: &Branch) -> Result<Vote, BoxError> {
        Ok(Vote::Yes)
    }
    async fn commit(&self, _: &Branch) -> Result<(), BoxError> {
        Ok(())
    }
    async fn abort(&self, _: &Branch) -> Result<(), BoxError> {
        Ok(())
    }
}

/// Takes connections, notes what comes, and says nothing.
fn eavesdropper() -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&heard);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, noted) = (stream.expect("a connection"), Arc::clone(&noted));
            std::thread::spawn(move || {
                let mut bytes = [0; 4_096];
                while let Ok(read @ 1..) = stream.read(&mut bytes) {
                    noted.lock().expect("no panic").extend_from_slice(&bytes[..read]);
                }
            });
        }
    });
    (address, heard)
}

fn refused(dialled: Result<Assent, ConnectError>) -> String {
    match dialled.expect_err("it is refused") {
        ConnectError::Dial(error @ (DialError::Refused { .. } | DialError::InClear { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_never_goes_in_clear_to_an_https_address() {
    let home = Home::new();
    let authority = Authority::new(home.path().join("certs"));
    let (address, heard) = eavesdropper();
    let token = "a-token-that-nobody-should-see-here";
    let dialled = Assent::dial(format!("https://{address}"))
        .ca(authority.file("ca.pem"))
        .token(token)
        .connect_timeout(std::time::Duration::from_millis(500))
        .wait_for_coordinator(std::time::Duration::ZERO)
        .connect()
        .await;
    let error = dialled.expect_err("it does not speak TLS");
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    let heard = heard.lock().expect("no panic").clone();
    assert_eq!(heard.first(), Some(&0x16), "a handshake was tried");
    assert!(!heard.windows(token.len()).any(|bytes| bytes == token.as_bytes()), "the token is not in it");
    assert!(!heard.starts_with(b"PRI"), "nor is HTTP/2");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_stay_on_this_machine_without_tls() {
    let dialled = Assent::dial("http://assent.example:7420").token("a-token").connect().await;
    assert!(refused(dialled).contains("--ca"));
    let arguments = ["tx", "list", "--endpoint", "http://assent.example:7420", "--token", "a-token"];
    let (code, _, stderr) = ended_beside(&arguments).await;
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("credentials are not sent") && stderr.contains(" next: use https://"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_cluster_has_certificates_of_its_own() {
    let secured = Secured::start();
    let endpoint = secured.endpoint();
    let joined = |name: &str| {
        let dialer = secured.authority.dialer(name, &[&format!("participant/{name}"), &format!("initiator/{name}")]);
        Assent::dial(&endpoint).dialer(dialer).participant(name, Willing).connect()
    };
    let (one, _other) = (joined("bank-a").await.expect("joins"), joined("bank-b").await.expect("joins"));
    let transfer = one.transaction().branch("bank-a", "x").branch("bank-b", "x");
    assert!(matches!(transfer.commit().await.expect("an answer"), Outcome::Committed));
    secured.authority.issue("me", &["operator/me"]);
    let (code, stdout, stderr) = secured.run_as("me", &["tx", "list"]).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("committed"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_is_told_what_is_missing() {
    let secured = Secured::start();
    let (authority, endpoint) = (&secured.authority, secured.endpoint());
    let foreign = Authority::new(secured.home.path().join("foreign"));
    let plain_home = Home::new();
    let plain = Served::start(&plain_home, &[], Stdio::null());
    let told = async |endpoint: String, arguments: &[&str]| {
        let arguments = [&["tx", "list", "--endpoint", endpoint.as_str()][..], arguments].concat();
        let (code, _, stderr) = ended_beside(&arguments).await;
        assert_ne!(code, 0, "{arguments:?}");
        assert!(stderr.starts_with("error: ") && stderr.contains(" next: "), "{stderr}");
        stderr
    };
    let (ca, other_ca) = (authority.file("ca.pem"), foreign.file("ca.pem"));
    // In clear to a port with TLS, and the reverse.
    let stderr = told(endpoint.replace("https", "http"), &[]).await;
    assert!(stderr.contains("speaks TLS") && stderr.contains("--ca (ASSENT_CA)"), "{stderr}");
    let stderr = told(plain.endpoint().replace("http", "https"), &["--ca", &ca]).await;
    assert!(stderr.contains("does not speak TLS") && stderr.contains("--tls-cert"), "{stderr}");
    // A server of another authority, or of another name.
    let stderr = told(endpoint.clone(), &["--ca", &other_ca]).await;
    assert!(stderr.contains("not issued by an authority") && stderr.contains("--ca (ASSENT_CA)"), "{stderr}");
    let stderr = told(endpoint.clone(), &["--ca", &ca, "--server-name", "assent.example"]).await;
    assert!(stderr.contains("another name") && stderr.contains("--server-name"), "{stderr}");
    // A client of another authority, and one whose certificate has expired.
    foreign.issue("me", &["operator/me"]);
    let (cert, key) = foreign.pair("me");
    let stderr = told(endpoint.clone(), &["--ca", &ca, "--cert", &cert, "--key", &key]).await;
    assert!(stderr.contains("does not know the authority") && stderr.contains("--cert and --key"), "{stderr}");
    authority.issue("late", &["operator/me", "--lifetime", "1ms"]);
    let (cert, key) = authority.pair("late");
    let expired = ["tx", "list", "--endpoint", &endpoint, "--ca", &ca, "--cert", &cert, "--key", &key];
    // It holds to the end of its second.
    until("it has expired", async || ended_beside(&expired).await.2.contains("has expired")).await;
    // Half of a pair, and files that are not there.
    let stderr = told(endpoint.clone(), &["--ca", &ca, "--cert", &cert]).await;
    assert!(stderr.contains("both --cert and --key"), "{stderr}");
    let stderr = told(endpoint.clone(), &["--ca", "/no/such/file"]).await;
    assert!(stderr.contains("/no/such/file"), "{stderr}");
    let stderr = told(endpoint, &["--ca", &ca, "--token-file", "/no/such/file"]).await;
    assert!(stderr.contains("/no/such/file"), "{stderr}");
}

/// A client refuses a server whose certificate is of the same authority, and for another host or another time.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_makes_no_coordinator() {
    let home = Home::new();
    let authority = Authority::new(home.path().join("certs"));
    let ca = authority.file("ca.pem");
    let served_with = |file: &str| {
        let (cert, key) = authority.pair(file);
        Served::start(&home, &["--tls-cert", &cert, "--tls-key", &key, "--client-ca", &ca], Stdio::null())
    };
    let dialled = async |served: &Served| {
        let dialer = authority.dialer("bank-a", &["participant/bank-a"]);
        refused(Assent::dial(served.endpoint()).dialer(dialer).participant("bank-a", Willing).connect().await)
    };
    // A participant's, which names no host or its own, and a replica's of another host.
    for (identity, hosts, part) in [
        ("participant/bank-b", &[][..], "TLS failed"),
        ("participant/bank-b", &["--dns", "bank-b.example"], "bears another name"),
        ("replica/b", &["--dns", "b.example"], "bears another name"),
    ] {
        authority.issue("other", &[&[identity], hosts].concat());
        let problem = dialled(&served_with("other")).await;
        assert!(problem.contains(part), "{identity}: {problem}");
    }
    authority.issue("late", &["replica/assent", "--ip", "127.0.0.1", "--lifetime", "1ms"]);
    let served = served_with("late");
    // It holds to the end of its second.
    until("it has expired", async || {
        let dialer = authority.trusting();
        let connected = dialer.target(&served.endpoint()).expect("fit").connect().await;
        connected.is_err_and(|error| error.to_string().contains("has expired; renew it"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_while_sessions_go_on() {
    let secured = Secured::start();
    let (authority, endpoint) = (&secured.authority, secured.endpoint());
    let dialer = authority.dialer("bank", &["participant/bank", "initiator/bank"]);
    let assent = Assent::dial(&endpoint).dialer(dialer.clone()).participant("bank", Willing).connect().await;
    let assent = assent.expect("joins");
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let load = tokio::spawn(async move {
        let mut committed = 0;
        while stopped.try_recv().is_err() {
            let outcome = assent.transaction().branch("bank", "x").commit().await.expect("an answer");
            assert!(matches!(outcome, Outcome::Committed), "{outcome:?}");
            committed += 1;
        }
        committed
    });
    let named = async |name: &str| dialer.clone().server_name(name).target(&endpoint).expect("fit").connect().await;
    assert!(named("renewed.example").await.is_err());
    authority.issue("server", &["replica/assent", "--dns", "renewed.example"]);
    until("the new certificate is shown", async || named("renewed.example").await.is_ok()).await;
    assert!(matches!(named("localhost").await, Err(DialError::Refused { .. })));
    // One that is not fit changes nothing.
    std::fs::write(authority.file("server.pem"), "nonsense").expect("written");
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert!(named("renewed.example").await.is_ok());
    stop.send(()).expect("it runs");
    assert!(load.await.expect("no failed transaction") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_refuses_certificates_that_are_not_fit() {
    let home = Home::new();
    let authority = Authority::new(home.path().join("certs"));
    authority.server();
    let (cert, key, log) = (authority.file("server.pem"), authority.file("server-key.pem"), home.log());
    let start = async |arguments: &[&str]| {
        let all = [&["serve", "--listen", "127.0.0.1:0", "--log", &log][..], arguments].concat();
        let (code, stdout, stderr) = ended_beside(&all).await;
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        stderr
    };
    assert!(start(&["--tls-cert", &cert]).await.contains("both tls_cert and tls_key"));
    assert!(start(&["--client-ca", &cert]).await.contains("give tls_cert and tls_key too"));
    assert!(start(&["--tls-cert", &key, "--tls-key", &key]).await.contains("holds no certificate"));
    assert!(start(&["--tls-cert", &cert, "--tls-key", "/no/such/file"]).await.contains("/no/such/file"));
    let other = Authority::new(home.path().join("other"));
    other.server();
    assert!(start(&["--tls-cert", &cert, "--tls-key", &other.file("server-key.pem")]).await.contains("together"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &str| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&key), mode(&authority.file("ca-key.pem"))), (0o600, 0o600));
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).expect("set");
        assert!(start(&["--tls-cert", &cert, "--tls-key", &key]).await.contains("chmod 600"));
    }
    // An authority is not replaced by a slip.
    let (code, _, stderr) =
        ended_beside(&["certs", "init", "--dir", home.path().join("certs").to_str().expect("text")]).await;
    assert_eq!(code, 4, "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_of_tls_are_not_spoken() {
    let secured = Secured::start();
    // A ClientHello of TLS 1.2, which offers nothing else.
    let mut hello = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    let address = secured.address();
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).expect("connects");
        std::io::Write::write_all(&mut stream, &hello).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        answer
    });
    let answer = answer.await.expect("no panic");
    assert!(matches!(answer.as_slice(), [0x15, 3, _, 0, 2, 2, _]), "a fatal alert: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_asks_in_its_own_name() {
    let home = Home::new();
    let authority = Authority::new(home.path().join("certs"));
    let foreign = Authority::new(home.path().join("foreign"));
    let coordinator = home.start().await;
    let voters = FileVoters::open(home.path().join("voters")).await.expect("opens");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("https://{}", listener.local_addr().expect("bound"));
    authority.issue("bank-a", &["participant/bank-a", "--ip", "127.0.0.1"]);
    let dialer = authority
        .trusting()
        .cert(authority.file("bank-a.pem"))
        .key(authority.file("bank-a-key.pem"))
        .token("a-token-of-its-own");
    let bank =
        Assent::dial(coordinator.endpoint()).dialer(dialer).participant("bank-a", Willing).voter(voters, &address);
    let bank = bank.connect().await.expect("joins");
    tokio::spawn(bank.serve_peers(listener).expect("it has a voter"));
    let ask = async |dialer: Dialer, from: &str| {
        let channel = dialer.target(&address).expect("fit").connect().await.expect("it answers");
        let request = VoterRequest { kind: Some(voter_request::Kind::Decided(Decision::Commit.into())) };
        let asked =
            AskRequest { gtid: gtid_bytes(), from: from.to_owned(), to: "bank-a".to_owned(), request: Some(request) };
        PeerServiceClient::new(channel).ask(asked).await
    };
    // By name: another participant, an operator of the same name, somebody without a certificate.
    let bank_b = authority.dialer("bank-b", &["participant/bank-b"]);
    ask(bank_b.clone(), "bank-b").await.expect("it is who it says");
    let parts = ["participant/bank-b", "participant bank-c"];
    refused_call(ask(bank_b, "bank-c").await, Reason::PermissionDenied, &parts);
    let operator = authority.dialer("operator", &["operator/bank-b"]);
    refused_call(ask(operator, "bank-b").await, Reason::PermissionDenied, &["operator/bank-b"]);
    refused_call(ask(authority.trusting(), "bank-b").await, Reason::PermissionDenied, &["no name"]);
    // Of another authority.
    foreign.issue("bank-b", &["participant/bank-b"]);
    let (cert, key) = foreign.pair("bank-b");
    let stranger = authority.trusting().cert(cert).key(key);
    let error = stranger.target(&address).expect("fit").connect().await.expect_err("a stranger");
    assert!(error.to_string().contains("does not know the authority"), "{error}");
    // In clear.
    let clear = address.replace("https", "http");
    let error = Dialer::new().target(&clear).expect("fit").connect().await.expect_err("in clear");
    assert!(error.to_string().contains("speaks TLS"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_is_not_served_in_clear_beyond_its_machine() {
    let home = Home::new();
    let coordinator = home.start().await;
    let voters = FileVoters::open(home.path().join("voters")).await.expect("opens");
    let dial = |address: &str| {
        Assent::dial(coordinator.endpoint()).participant("bank-a", Willing).voter(voters.clone(), address).connect()
    };
    let error = dial("http://10.0.0.7:7421").await.expect_err("in clear");
    assert!(matches!(error, ConnectError::VoterInClear { .. }), "{error:?}");
    assert!(error.to_string().contains("Builder::ca, cert and key"), "{error}");
    let error = dial("https://10.0.0.7:7421").await.expect_err("no certificate");
    assert!(matches!(error, ConnectError::VoterTls(None)), "{error:?}");
}
