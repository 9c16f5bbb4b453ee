//! A flood of callers that are not known, or that are and misbehave, against the program: it stays small, answers, and serves the others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use assent_proto::v1::branch_report::Kind as Report;
use assent_proto::v1::client_message::Kind as Said;
use assent_proto::v1::session_service_client::SessionServiceClient;
use assent_proto::v1::{self, ClientMessage, ExchangeRequest};
use assent_sdk::{Assent, Outcome};
use prost::Message as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::access::channel;
use crate::certificates::Secured;
use crate::harness::{Home, frame, gtid_bytes, hello, report, until};
use crate::process::Served;
use crate::tls::Willing;

const RESIDENT_BYTES_MAX: u64 = 256 * 1024 * 1024;
const CONNECTIONS: usize = 10_000;
const GTIDS: usize = 10_000;
/// How long an answer about health may take meanwhile.
const HEALTH_MAX: Duration = Duration::from_secs(1);

/// Memory of a process, in bytes.
fn resident_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_strangers_leaves_it_small_and_serving() {
    let secured = Secured::start();
    let (authority, endpoint, address) = (&secured.authority, secured.endpoint(), secured.address());
    let dialer = authority.dialer("bank", &["participant/bank", "initiator/bank"]);
    let assent = Assent::dial(&endpoint).dialer(dialer).participant("bank", Willing).connect().await.expect("joins");
    let probe = Probe::start(&secured).await;
    // Connections that say nothing, or the beginning of a handshake.
    let flood = tokio::task::spawn_blocking(move || {
        let mut open = std::collections::VecDeque::new();
        for number in 0..CONNECTIONS {
            let Ok(mut stream) = TcpStream::connect(&address) else { continue };
            if number % 2 == 0 {
                stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0]).ok();
            }
            open.push_back(stream);
            // This process has a limit on files of its own.
            if open.len() > 700 {
                open.pop_front();
            }
        }
        open
    });
    // Streams that never come to their Hello, of clients without a certificate.
    let mut halves = Vec::new();
    for _ in 0..100 {
        let target = authority.trusting().target(&endpoint).expect("fit");
        let Ok(channel) = target.connect().await else { continue };
        for _ in 0..100 {
            let mut client = SessionServiceClient::new(channel.clone()).max_encoding_message_size(usize::MAX);
            let (say, said) = tokio::sync::mpsc::channel(1);
            let long = assent_proto::v1::Hello { sdk: "x".repeat(3 << 20), ..hello("bank") };
            say.send(frame(Said::Hello(long))).await.expect("open");
            halves.push(tokio::spawn(async move {
                let answer = client.exchange(ReceiverStream::new(said)).await;
                drop((say, answer));
            }));
        }
    }
    let open = flood.await.expect("no panic");
    let (usual, slowest) = probe.took();
    let (code, stdout, stderr) = secured.run(&["health"]).await;
    assert_eq!((code, stdout.as_str()), (0, "serving\n"), "{stderr}");
    let transfer = tokio::time::timeout(Duration::from_secs(20), assent.transaction().branch("bank", "x").commit());
    let outcome = transfer.await.expect("an answer").expect("an answer");
    assert!(matches!(outcome, Outcome::Committed), "{outcome:?}");
    let resident = resident_bytes(secured.served.id());
    eprintln!(
        "after {CONNECTIONS} silent connections and {} half Hellos: at most {} MiB resident, health within {usual:?}, at most {slowest:?}",
        halves.len(),
        resident >> 20
    );
    assert!(resident < RESIDENT_BYTES_MAX, "{} MiB", resident >> 20);
    assert!(usual < HEALTH_MAX, "health took {usual:?}");
    drop(open);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_server_has_as_many_connections_as_it_may_and_no_more() {
    let home = Home::new();
    let served = Served::start_with_files(&home, 40, 400);
    // Beyond the limit that it was started with, which it raises.
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(HealthClient::new(channel(&served.endpoint()).await));
    }
    for client in &mut clients {
        client.check(HealthCheckRequest::default()).await.expect("an answer");
    }
    // Beyond what it may have at most: those are closed at once, and the others are served.
    let address = served.endpoint().trim_start_matches("http://").to_owned();
    let mut open: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(&address).expect("connects")).collect();
    open.iter().for_each(|stream| stream.set_nonblocking(true).expect("set"));
    let is_closed = |stream: &mut TcpStream| match stream.read(&mut [0; 16]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    until("some are closed", || {
        let some_are = open.iter_mut().any(is_closed);
        async move { some_are }
    })
    .await;
    for client in &mut clients {
        client.check(HealthCheckRequest::default()).await.expect("an answer");
    }
    drop((open, clients));
    let target = assent_transport::Dialer::new().target(&served.endpoint()).expect("fit");
    until("there is room again", async || target.connect().await.is_ok()).await;
}

/// A client that asks for health every so often, over one connection, and notes how long the slowest answer took.
struct Probe {
    asking: tokio::task::JoinHandle<()>,
    took: Arc<Mutex<Vec<Duration>>>,
}

impl Probe {
    async fn start(secured: &Secured) -> Self {
        // Under a flood a connection stays if it is known.
        let target = secured.authority.dialer("probe", &["observer/probe"]).target(&secured.endpoint()).expect("fit");
        let mut client = HealthClient::new(target.connect().await.expect("it answers"));
        let took = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&took);
        let asking = tokio::spawn(async move {
            loop {
                let asked = Instant::now();
                client.check(HealthCheckRequest::default()).await.expect("an answer");
                let took = asked.elapsed();
                noted.lock().expect("no panic").push(took);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { asking, took }
    }

    /// How long the middle one of the answers took, and the slowest.
    fn took(self) -> (Duration, Duration) {
        assert!(!self.asking.is_finished(), "each question was answered");
        self.asking.abort();
        let mut took = self.took.lock().expect("no panic").clone();
        took.sort_unstable();
        (took[took.len() / 2], took[took.len() - 1])
    }
}

/// A participant that is known, and says what it should not.
struct Rogue {
    say: tokio::sync::mpsc::Sender<ExchangeRequest>,
    heard: tonic::Streaming<v1::ExchangeResponse>,
}

impl Rogue {
    async fn join(secured: &Secured) -> Self {
        let dialer = secured.authority.dialer("rogue", &["participant/rogue"]);
        let channel = dialer.target(&secured.endpoint()).expect("fit").connect().await.expect("it answers");
        let mut client = SessionServiceClient::new(channel).max_encoding_message_size(usize::MAX);
        let (say, said) = tokio::sync::mpsc::channel(64);
        say.send(frame(Said::Hello(hello("rogue")))).await.expect("open");
        let mut heard = client.exchange(ReceiverStream::new(said)).await.expect("a session").into_inner();
        heard.message().await.expect("a welcome").expect("a welcome");
        Self { say, heard }
    }

    /// Sends a frame, and waits for an answer, or for the end of the session.
    async fn ask(&mut self, messages: Vec<ClientMessage>) -> bool {
        self.say.send(ExchangeRequest { messages }).await.is_ok() && matches!(self.heard.message().await, Ok(Some(_)))
    }
}

/// A question to the log's voter with so many seats, which come to 4 MiB where there are many.
fn with_roster(seats: usize) -> ClientMessage {
    let branch = |number| v1::BranchId { epoch: 1, number };
    let seat = |number: usize| v1::Seat {
        participant: format!("bank-{number}"),
        address: format!("https://bank-{number}.example:7421"),
        store_id: (number as u128 + 1).to_be_bytes().to_vec().into(),
        branch: Some(branch(number as u64 + 1)),
    };
    let participants = (0..seats).map(seat).chain([v1::Seat { participant: "rogue".to_owned(), ..seat(seats) }]);
    let roster = v1::Roster { participants: participants.collect(), log_store_id: vec![7; 16].into() };
    let ballot = v1::Ballot { round: 2, node: vec![1; 16].into() };
    let join = v1::JoinBallot { ballot: Some(ballot), roster: Some(roster), has_voted: false };
    let request = v1::VoterRequest { kind: Some(v1::voter_request::Kind::Join(join)) };
    let ask = v1::AskLog { branch: Some(branch(seats as u64 + 1)), request: Some(request) };
    let kind = Some(v1::voter_report::Kind::AskLog(ask));
    ClientMessage { kind: Some(Said::Voter(v1::VoterReport { gtid: gtid_bytes(), kind })) }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_unknown_gtids_and_long_rosters_leaves_it_small_and_serving() {
    let secured = Secured::start();
    let dialer = secured.authority.dialer("bank", &["participant/bank", "initiator/bank"]);
    let assent = Assent::dial(secured.endpoint()).dialer(dialer).participant("bank", Willing).connect().await;
    let assent = assent.expect("joins");
    let probe = Probe::start(&secured).await;
    let mut rogue = Rogue::join(&secured).await;
    let branch = v1::BranchId { epoch: 1, number: 7 };
    for _ in 0..GTIDS / 500 {
        let inquire = || report(&gtid_bytes(), branch, Report::Inquire(v1::Inquire {}));
        let inquiries = (0..500).map(|_| ClientMessage { kind: Some(inquire()) });
        rogue.ask(inquiries.collect()).await;
    }
    // As many seats as a roster may have, again and again; and more than it may have, in frames of 4 MiB.
    let mut roster_bytes = 0;
    for seats in std::iter::repeat_n(900, 20).chain(std::iter::repeat_n(50_000, 5)) {
        let question = with_roster(seats);
        roster_bytes = roster_bytes.max(question.encoded_len());
        if !rogue.ask(vec![question]).await {
            rogue = Rogue::join(&secured).await;
        }
    }
    assert!((3 << 20..4 << 20).contains(&roster_bytes), "{roster_bytes} bytes");
    let transfer = tokio::time::timeout(Duration::from_secs(20), assent.transaction().branch("bank", "x").commit());
    let outcome = transfer.await.expect("an answer").expect("an answer");
    assert!(matches!(outcome, Outcome::Committed), "{outcome:?}");
    let ((usual, slowest), resident) = (probe.took(), resident_bytes(secured.served.id()));
    eprintln!(
        "after {GTIDS} unknown gtids and rosters of up to {} KiB: at most {} MiB resident, health within {usual:?}, at most {slowest:?}",
        roster_bytes >> 10,
        resident >> 20
    );
    assert!(resident < RESIDENT_BYTES_MAX, "{} MiB", resident >> 20);
    assert!(usual < HEALTH_MAX, "health took {usual:?}");
}
