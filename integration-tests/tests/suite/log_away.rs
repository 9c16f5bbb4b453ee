//! A coordinator whose log is not there: at the start, in the middle, and for good.

use std::time::Duration;

use assent::config::Config;
use assent::log;
use assent::server::Coordinator;
use assent_proto::error::{Reason, refusal_of};
use assent_proto::session::Refused;
use assent_proto::v1::admin_service_client::AdminServiceClient;
use assent_proto::v1::transaction_service_client::TransactionServiceClient;
use assent_proto::v1::{self, BeginRequest, CommitRequest, GetRequest, ListParticipantsRequest};
use assent_sdk::postgres::PostgresResource;
use assent_sdk::{Assent, Outcome};
use integration_tests::ledger::{Booking, open_bank};
use integration_tests::postgres::{Database, Postgres};
use integration_tests::{Port, Program, eventually};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use uuid::Uuid;

use crate::chaos::{Cast, nothing_is_open};
use crate::sdk_postgres::{DEADLINE, Work, balance, furnished, name};

/// What was minted about when a replica started is looked up in the log first: a transaction that
/// is to get as far as its decision without a log has to be younger by more than the clocks' skew,
/// a second.
const FRESH_AFTER: Duration = Duration::from_millis(1_500);
/// A replica counts as unfit after half a minute of silence.
const TOLD_MAX: Duration = Duration::from_secs(120);

async fn health_is(expected: ServingStatus, channel: &Channel) {
    let mut client = HealthClient::new(channel.clone());
    eventually(&format!("it is {expected:?}"), TOLD_MAX, async || {
        let told = client.check(HealthCheckRequest::default()).await.map_err(|status| status.to_string())?;
        let status = told.into_inner().status();
        if status == expected { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
}

async fn prepared_are(expected: usize, bank: &Database) {
    eventually(&format!("{expected} branches are prepared"), DEADLINE, async || {
        match bank.prepared_transactions().await {
            prepared if prepared.len() == expected => Ok(()),
            prepared => Err(format!("{prepared:?}")),
        }
    })
    .await;
}

fn refused<T: std::fmt::Debug>(answer: Result<T, tonic::Status>) -> Refused {
    let status = answer.expect_err("a refusal");
    refusal_of(&status).unwrap_or_else(|| panic!("not one of ours: {status:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_stops_in_the_middle_is_waited_for_and_nothing_is_told_meanwhile() {
    let (log_server, banks) = (Postgres::start().await, Postgres::shared().await);
    let log = log_server.create_database().await;
    let (bank_a, bank_b) = (banks.create_database().await, banks.create_database().await);
    for bank in [&bank_a, &bank_b] {
        open_bank(&mut bank.connect().await, 1, 100).await.expect("the bank's tables");
    }
    let mut cast = Cast::with_coordinator(&log.url()).await;
    cast.join("bank", "bank-a", &bank_a.url()).await;
    cast.join("bank", "bank-b", &bank_b.url()).await;
    let dialled = Assent::dial(&cast.endpoint).patience(TOLD_MAX * 2).connect().await;
    let assent = dialled.expect("the coordinator answers");
    let transfer = |assent: &Assent| {
        assent
            .transaction()
            .timeout(Duration::from_secs(60))
            .branch_json("bank-a", &Booking { account: 1, amount: -1 })
            .branch_json("bank-b", &Booking { account: 1, amount: 1 })
    };
    assert_eq!(transfer(&assent).commit().await.expect("no refusal"), Outcome::Committed);
    let channel = Channel::from_shared(cast.endpoint.clone()).expect("a URL").connect().await.expect("it listens");
    health_is(ServingStatus::Serving, &channel).await;

    tokio::time::sleep(FRESH_AFTER).await;
    log_server.stop().await;
    // Both votes are in, and the decision is on its way to a log that is not there: it is told only
    // when it is durable, be that before the deadline or after it.
    let waiting = transfer(&assent);
    let committing = tokio::spawn(async move { waiting.commit().await });
    for bank in [&bank_a, &bank_b] {
        prepared_are(1, bank).await;
    }
    // What is undecided aborts at its deadline, as no log is needed for that.
    let mut client = TransactionServiceClient::new(channel.clone());
    let begin = BeginRequest { timeout_ms: 1, ..Default::default() };
    let undecided = client.begin(begin).await.expect("begun").into_inner().gtid;
    eventually("it is aborted", DEADLINE, async || {
        match client.clone().get(GetRequest { gtid: undecided.clone() }).await {
            Ok(shown) => match shown.into_inner().transaction.expect("one").state() {
                v1::TransactionState::Aborted => Ok(()),
                state => Err(format!("{state:?}")),
            },
            Err(status) => Err(status.to_string()),
        }
    })
    .await;
    let late = client.commit(CommitRequest { gtid: undecided, ..Default::default() }).await.expect("an outcome");
    let late = late.into_inner();
    assert_eq!(late.outcome(), v1::Outcome::Aborted);
    assert_eq!(late.reason.expect("a reason").code, "DEADLINE_EXCEEDED");
    // What only the log can tell is refused, and says what to do.
    let unknown = GetRequest { gtid: Uuid::now_v7().to_string() };
    let refusal = refused(client.get(unknown).await);
    assert_eq!(refusal.known_reason(), Some(Reason::LogUnreachable));
    assert!(refusal.message.contains("try again") && refusal.retry_after_ms.is_some(), "{refusal:?}");
    let listed = Program::assent().args(["tx", "list", "--endpoint", &cast.endpoint]).run(DEADLINE).await;
    assert_eq!(listed.status.code(), Some(7), "{listed:?}");
    assert!(listed.stderr.contains("cannot reach the log") && listed.stderr.contains(" next: "), "{listed:?}");

    health_is(ServingStatus::NotServing, &channel).await;
    assert!(!committing.is_finished(), "nobody is told what is not durable");
    log_server.restart().await;
    health_is(ServingStatus::Serving, &channel).await;
    let outcome = tokio::time::timeout(TOLD_MAX, committing).await.expect("it goes on").expect("no panic");
    assert_eq!(outcome.expect("no refusal"), Outcome::Committed);
    assert_eq!(transfer(&assent).commit().await.expect("no refusal"), Outcome::Committed);
    for bank in [&bank_a, &bank_b] {
        prepared_are(0, bank).await;
    }
    nothing_is_open(&log.pool(1).await).await;
    for (bank, expected) in [(&bank_a, 97_i64), (&bank_b, 103)] {
        let found: i64 = sqlx::query_scalar("select balance::bigint from account where id = 1")
            .fetch_one(&mut bank.connect().await)
            .await
            .expect("the balance");
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_log_that_comes_later_is_waited_for() {
    let server = Postgres::start().await;
    let log = server.create_database().await;
    log::migrate(&log.url()).await.expect("migrated");
    server.stop().await;
    let port = Port::reserve();
    let arguments = ["serve", "--listen", &port.address().to_string(), "--log", &log.url(), "--wait-for-log", "10m"]
        .map(str::to_owned);
    let mut waiting = Program::assent().args(&arguments).start();
    waiting.line_with("waiting for the log", DEADLINE).await;
    server.restart().await;
    waiting.line_with("assent listening", TOLD_MAX).await;
}

#[tokio::test]
async fn a_log_that_will_never_do_is_told_at_once() {
    let server = Postgres::shared().await;
    let database = server.create_database().await;
    let good = database.url();
    let (credentials, place) = good.split_once("://").expect("a URL").1.rsplit_once('@').expect("credentials");
    let user = credentials.split(':').next().expect("a user");
    let missing = format!("postgres://{credentials}@{}/no_such_database", server.address());
    for (log, parts) in [
        (format!("postgres://{user}:wrong-s3cret@{place}"), ["refused to log us in", "next: check user and password"]),
        (missing, ["does not exist", "createdb"]),
        (good.clone(), ["has no schema of Assent yet", "next: run `assent migrate --log URL` once"]),
    ] {
        let port = Port::reserve();
        let listen = port.address().to_string();
        let served = Program::assent().args(["serve", "--listen", &listen, "--log", &log]).run(DEADLINE).await;
        assert_eq!((served.status.code(), served.stdout.as_str()), (Some(1), ""), "{served:?}");
        assert!(parts.iter().all(|part| served.stderr.contains(part)), "{}", served.stderr);
        assert!(!served.stderr.contains("s3cret") && !served.stderr.contains(credentials), "{}", served.stderr);
    }
}

/// A participant whose database cannot prepare does not join: nobody counts on it, and nothing is
/// left in it.
#[tokio::test]
async fn a_participant_that_cannot_prepare_does_not_join() {
    let server = Postgres::start_with(&[("max_prepared_transactions", "0")]).await;
    let bank = furnished(server.create_database().await).await;
    let folder = tempfile::tempdir().expect("a folder");
    let log = format!("sqlite:{}", folder.path().join("log.db").display());
    let config = Config { listen: "127.0.0.1:0".to_owned(), log: log.into(), ..Config::default() };
    let coordinator = Coordinator::start(config).await.expect("a coordinator");
    let resource = PostgresResource::new(name(), bank.url().parse().expect("a URL"), Work);
    let error = Assent::dial(coordinator.endpoint()).participant(name().as_str(), resource).connect().await;
    let error = anyhow::Error::from(error.map(|_| ()).expect_err("it cannot take part"));
    let text = format!("{error:#}");
    assert!(
        text.contains("max_prepared_transactions") && text.contains("set it to at least max_connections"),
        "{text}"
    );

    let channel = Channel::from_shared(coordinator.endpoint()).expect("a URL").connect().await.expect("it listens");
    let listed = AdminServiceClient::new(channel.clone()).list_participants(ListParticipantsRequest {}).await;
    let listed = listed.expect("a list").into_inner().participants;
    assert!(listed.iter().all(|participant| participant.sessions == 0), "{listed:?}");
    let request = CommitRequest {
        gtid: Uuid::now_v7().to_string(),
        branches: vec![v1::CommitBranchRequest { participant: name().to_string(), payload: "yes".into() }],
        timeout_ms: 1_000,
        begun: Some(false),
        wait_for_end: true,
        ..CommitRequest::default()
    };
    let outcome = TransactionServiceClient::new(channel).commit(request).await.expect("an outcome").into_inner();
    assert_eq!(outcome.outcome(), v1::Outcome::Aborted, "{outcome:?}");
    eventually("nothing is open", DEADLINE, async || match coordinator.statistics().snapshot().open {
        0 => Ok(()),
        open => Err(format!("{open} are open")),
    })
    .await;
    assert_eq!(balance(&bank).await, 0);
    assert!(bank.prepared_transactions().await.is_empty());
}
