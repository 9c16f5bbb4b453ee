//! Start, stop, and what stands beside the transactions: tokens, health, reflection.

use std::sync::Arc;
use std::time::Duration;

use assent::config::Config;
use assent::log::Log;
use assent::log::memory::MemoryLog;
use assent::server::{Coordinator, Failure, StartError};
use assent_proto::error::Reason;
use assent_proto::v1::{BeginRequest, Outcome};
use tokio_stream::StreamExt;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::harness::{Home, Manner, PATIENCE, begun, branch, channel, gtid, participant, refusal, transactions, whole};

async fn health(client: &mut HealthClient<tonic::transport::Channel>, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.to_owned() };
    client.check(request).await.expect("an answer").into_inner().status()
}

#[tokio::test]
async fn health_is_told_for_the_whole_and_for_each_service() {
    let home = Home::new();
    let coordinator = home.start().await;
    let mut client = HealthClient::new(channel(&coordinator).await);
    for service in ["", "assent.v1.SessionService", "assent.v1.TransactionService", "assent.v1.AdminService"] {
        assert_eq!(health(&mut client, service).await, ServingStatus::Serving, "{service}");
    }
}

#[tokio::test]
async fn reflection_lists_every_service() {
    let home = Home::new();
    let coordinator = home.start().await;
    let mut client = ServerReflectionClient::new(channel(&coordinator).await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers =
        client.server_reflection_info(tokio_stream::iter([request])).await.expect("a stream").into_inner();
    let answer = answers.next().await.expect("an answer").expect("an answer").message_response;
    let Some(MessageResponse::ListServicesResponse(listed)) = answer else { panic!("{answer:?}") };
    let names: Vec<&str> = listed.service.iter().map(|service| service.name.as_str()).collect();
    for name in
        ["assent.v1.SessionService", "assent.v1.TransactionService", "assent.v1.AdminService", "grpc.health.v1.Health"]
    {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
}

#[tokio::test]
async fn clients_of_the_older_reflection_are_answered_too() {
    use tonic_reflection::pb::v1alpha;

    let home = Home::new();
    let coordinator = home.start().await;
    let channel = channel(&coordinator).await;
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let message_request = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(message_request) };
    let mut answers =
        client.server_reflection_info(tokio_stream::iter([request])).await.expect("a stream").into_inner();
    let answer = answers.message().await.expect("no error").expect("an answer").message_response;
    let Some(v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(services)) = answer else {
        panic!("no list: {answer:?}");
    };
    let names: Vec<&str> = services.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"assent.v1.TransactionService"), "{names:?}");
}

#[tokio::test]
async fn a_coordinator_on_every_address_says_where_others_reach_it() {
    let home = Home::new();
    let coordinator = home.start_with(Config { listen: "0.0.0.0:0".into(), insecure: true, ..home.config() }).await;
    let port = coordinator.address().port();
    assert_eq!(coordinator.endpoint(), format!("http://127.0.0.1:{port}"));
    let elsewhere = coordinator.endpoint_elsewhere().expect("a URL for other machines");
    assert!(!elsewhere.contains("0.0.0.0") && !elsewhere.contains("127.0.0.1"), "{elsewhere}");
    assert!(elsewhere.ends_with(&format!(":{port}")), "{elsewhere}");
    drop(coordinator);
    let coordinator = home.start().await;
    assert_eq!(coordinator.endpoint_elsewhere(), None, "it is reached from this machine alone");
}

#[tokio::test]
async fn a_port_in_use_is_said_and_fences_nobody() {
    let home = Home::new();
    let coordinator = home.start().await;
    let listen = coordinator.address().to_string();
    let other = Home::new();
    let error = Coordinator::start(Config { listen: listen.clone(), ..other.config() }).await.expect_err("in use");
    assert!(matches!(error, StartError::Listen { .. }), "{error:?}");
    assert!(error.to_string().contains(&listen) && error.to_string().contains("--listen"), "{error}");
    let mut client = transactions(&coordinator).await;
    client.begin(BeginRequest::default()).await.expect("it serves on");
}

#[tokio::test]
async fn a_second_process_on_the_same_file_is_refused_at_once() {
    let home = Home::new();
    let _coordinator = home.start().await;
    let config = Config { wait_for_log: PATIENCE, ..home.config() };
    let error = tokio::time::timeout(PATIENCE / 2, Coordinator::start(config)).await.expect("at once");
    let error = error.expect_err("the file is in use");
    assert!(error.to_string().contains("in use by another"), "{error}");
}

#[tokio::test]
async fn a_log_that_does_not_answer_is_waited_for_and_then_given_up() {
    let home = Home::new();
    let config = Config {
        // Port 1 is reserved, and nothing listens there.
        log: "postgres://me:hush@127.0.0.1:1/assent".into(),
        wait_for_log: Duration::from_millis(300),
        ..home.config()
    };
    let error = Coordinator::start(config).await.expect_err("nobody answers");
    assert!(matches!(error, StartError::LogSilent { .. }), "{error:?}");
    assert!(error.to_string().contains("300ms") && !format!("{error:?}").contains("hush"), "{error:?}");
}

#[tokio::test]
async fn a_shutdown_lets_what_is_undecided_be_decided() {
    let home = Home::new();
    let coordinator = home.start_with(Config { drain_max: PATIENCE, ..home.config() }).await;
    let mut client = transactions(&coordinator).await;
    let opened = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    let mut probe = HealthClient::new(channel(&coordinator).await);
    let request = HealthCheckRequest::default();
    let mut watched = probe.watch(request).await.expect("watched").into_inner();
    assert_eq!(watched.next().await.expect("a word").expect("a word").status(), ServingStatus::Serving);
    let both = async {
        assert_eq!(watched.next().await.expect("a word").expect("a word").status(), ServingStatus::NotServing);
        // Nothing new is taken on, once every shard has heard of it.
        loop {
            match client.begin(BeginRequest { timeout_ms: 1, ..BeginRequest::default() }).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                refused => {
                    assert_eq!(refusal(refused).0, Reason::Draining);
                    break;
                }
            }
        }
        let outcome = client.commit(begun(&opened)).await.expect("an outcome").into_inner();
        assert_eq!(outcome.outcome(), Outcome::Committed);
    };
    let (stopped, ()) = tokio::join!(coordinator.shutdown(), both);
    assert_eq!(stopped, Ok(()));
    assert_eq!(coordinator.shutdown().await, Ok(()), "once more is no mistake");
    let address = coordinator.address();
    crate::harness::until("the port is closed", async || tokio::net::TcpStream::connect(address).await.is_err()).await;
}

#[tokio::test]
async fn a_shutdown_ends_in_time_although_sessions_stay() {
    let home = Home::new();
    let coordinator = home.start_with(Config { drain_max: Duration::from_millis(200), ..home.config() }).await;
    let _silent = participant(&coordinator, "bank-a", Manner::Silent).await;
    let mut client = transactions(&coordinator).await;
    let waiting = tokio::spawn(async move { client.commit(whole(&gtid(), vec![branch("bank-a", "x")])).await });
    crate::harness::until("it is open", async || coordinator.statistics().snapshot().open == 1).await;
    let stopped = tokio::time::timeout(PATIENCE, coordinator.shutdown()).await.expect("in time");
    assert_eq!(stopped, Ok(()));
    waiting.await.expect("no panic").expect_err("it has no outcome");
    // The file is free again.
    home.start().await;
}

#[tokio::test]
async fn a_coordinator_that_is_dropped_leaves_its_port_and_its_log() {
    let home = Home::new();
    let coordinator = home.start().await;
    let address = coordinator.address();
    drop(coordinator);
    crate::harness::until("the port is closed", async || tokio::net::TcpStream::connect(address).await.is_err()).await;
    crate::harness::until("the log is free", async || Coordinator::start(home.config()).await.is_ok()).await;
}

#[tokio::test]
async fn whoever_takes_over_the_name_stops_the_other() {
    let home = Home::new();
    let log = Arc::new(MemoryLog::default());
    let other = log.another();
    let first = Coordinator::start_with(home.config(), log).await.expect("a coordinator");
    other.acquire(first.replica()).await.expect("taken over");
    let mut client = transactions(&first).await;
    let commit = tokio::spawn(async move { client.commit(whole(&gtid(), vec![branch("nobody", "")])).await });
    let stopped = tokio::time::timeout(PATIENCE, first.stopped()).await.expect("it notices");
    assert!(matches!(stopped, Err(Failure::Driver(_))), "{stopped:?}");
    commit.await.expect("no panic").expect_err("nobody is told what is not durable");
}
