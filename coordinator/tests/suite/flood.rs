//! A flood of callers that are not known, against the program: it stays small, answers, and serves those that are.

use std::io::Write;
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use assent_proto::v1::client_message::Kind as Said;
use assent_proto::v1::session_service_client::SessionServiceClient;
use assent_sdk::{Assent, Outcome};
use tokio_stream::wrappers::ReceiverStream;

use crate::certificates::Authority;
use crate::harness::{Home, frame, hello};
use crate::process::{Served, ended_beside};
use crate::tls::Willing;

const RESIDENT_BYTES_MAX: u64 = 256 * 1024 * 1024;
const CONNECTIONS: usize = 10_000;

/// Memory of a process, in bytes.
fn resident_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_strangers_leaves_it_small_and_serving() {
    let home = Home::new();
    let authority = Authority::new(home.path().join("certs"));
    let server = authority.server();
    let server: Vec<&str> = server.iter().map(String::as_str).collect();
    let served = Served::start(&home, &server, Stdio::null());
    let (endpoint, ca) = (served.endpoint(), authority.file("ca.pem"));
    let address = endpoint.rsplit('/').next().expect("an address").to_owned();
    let dialer = authority.dialer("bank", &["participant/bank", "initiator/bank"]);
    let assent = Assent::dial(&endpoint).dialer(dialer).participant("bank", Willing).connect().await.expect("joins");
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
    let asked = Instant::now();
    let (code, stdout, stderr) = ended_beside(&["health", "--endpoint", &endpoint, "--ca", &ca]).await;
    let answered = asked.elapsed();
    assert_eq!((code, stdout.as_str()), (0, "serving\n"), "{stderr}");
    let transfer = tokio::time::timeout(Duration::from_secs(20), assent.transaction().branch("bank", "x").commit());
    let outcome = transfer.await.expect("an answer").expect("an answer");
    assert!(matches!(outcome, Outcome::Committed), "{outcome:?}");
    let resident = resident_bytes(served.id());
    eprintln!(
        "after {CONNECTIONS} silent connections and {} half Hellos: at most {} MiB resident, health within {answered:?}",
        halves.len(),
        resident >> 20
    );
    assert!(resident < RESIDENT_BYTES_MAX, "{} MiB", resident >> 20);
    drop(open);
}
