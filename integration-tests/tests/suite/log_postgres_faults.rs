//! The log on a Postgres that fails: lost connections, lost answers, a server that dies, hangs or
//! lets nobody in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use assent::log::conformance::Ground as _;
use assent::log::{self, AppendError, Batch, Found, Log, LogError, OpenError, OpenTransaction, Options};
use assent_protocol::{Appended, Decision, Gtid, Name, Record};
use integration_tests::postgres::Postgres;
use integration_tests::{Port, eventually};
use sqlx::Connection as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::log_postgres::PostgresGround;
use crate::log_postgres_schema::{decided, ended, gtid};
use crate::pooler::TransactionPooler;

const NOW_MS: u64 = 1_795_000_000_000;

/// For a server that is silent, and is given up sooner than otherwise.
fn impatient() -> Options {
    Options { append_timeout: Duration::from_secs(5), ..Options::default() }
}

fn forced(records: impl IntoIterator<Item = Record>) -> Batch {
    Batch { at_ms: NOW_MS, forced: records.into_iter().collect(), lazy: Vec::new() }
}

/// As the committer does it: the same batch until it is confirmed. Gives the errors on the way too.
async fn append(log: &Arc<dyn Log>, batch: &Batch) -> (Vec<Appended>, Vec<AppendError>) {
    let mut errors = Vec::new();
    let answers =
        eventually("the batch is confirmed", Duration::from_secs(60), async || match log.append(batch).await {
            Ok(answers) => Ok(answers),
            Err(error) => {
                assert!(!error.is_fenced(), "{error}");
                let text = format!("{error:?}");
                errors.push(error);
                Err(text)
            }
        })
        .await;
    (answers, errors)
}

fn is_durable(answers: &[Appended]) -> bool {
    answers.iter().all(|answer| matches!(answer, Appended::Durable(_)))
}

/// What passes between the log and its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Traffic {
    /// Everything.
    Flows,
    /// What the server answers is lost, and the connection breaks when it answers.
    LosesAnswers,
    /// What the log sends waits; the log may hang up meanwhile, and the server learns of neither.
    Delays,
}

/// A network between the log and its server.
struct Network {
    address: SocketAddr,
    traffic: watch::Sender<Traffic>,
}

impl Network {
    async fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (traffic, seen) = watch::channel(Traffic::Flows);
        let server = server.to_owned();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server.clone(), seen.clone()));
            }
        });
        Self { address, traffic }
    }
}

async fn carry(client: TcpStream, server: String, seen: watch::Receiver<Traffic>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut delays = seen.clone();
    let upward = tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
            if delays.wait_for(|traffic| *traffic != Traffic::Delays).await.is_err() {
                return;
            }
            if to_server.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 65_536];
    while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
        if *seen.borrow() == Traffic::LosesAnswers || to_client.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    // The client is hung up on; what it had sent goes on its way.
    drop(to_client);
    let _ = upward.await;
}

/// A log that reaches its server over a network that can fail.
async fn behind_network(ground: &PostgresGround, server: &Postgres) -> (Arc<dyn Log>, Network) {
    let network = Network::to(&server.address()).await;
    let url = ground.database.url().replace(&server.address(), &network.address.to_string());
    let log = log::open(&url, impatient()).await.expect("the log opens");
    log.acquire(&Name::new("r1").expect("a name")).await.expect("free");
    (log, network)
}

async fn decision_of(log: &Arc<dyn Log>, gtid: Gtid) -> Option<Decision> {
    match log.lookup(&[gtid]).await.expect("there").pop() {
        Some((_, Found::Open(OpenTransaction::Decided { record, .. }))) => Some(record.decision),
        Some((_, Found::Ended(_))) => Some(Decision::Commit),
        _ => None,
    }
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found_again() {
    let server = Postgres::shared().await;
    let ground = PostgresGround::fresh().await;
    let (log, network) = behind_network(&ground, &server).await;
    // It holds no name: only one may be alive.
    let reader = ground.open().await;
    // A statement that is new to the connection asks for a plan first, and would lose that answer
    // already.
    let warm = gtid();
    append(&log, &forced([decided(warm, Decision::Commit)])).await;
    append(&log, &Batch { lazy: vec![ended(warm)], ..forced([decided(gtid(), Decision::Commit)]) }).await;
    for round in 0..5 {
        let (one, two) = (gtid(), gtid());
        assert!(is_durable(&append(&log, &forced([decided(one, Decision::Commit)])).await.0));
        let batch = Batch { lazy: vec![ended(one)], ..forced([decided(two, Decision::Commit)]) };
        network.traffic.send_replace(Traffic::LosesAnswers);
        let error = log.append(&batch).await.expect_err("the answer was lost");
        assert!(matches!(error, AppendError::UnknownOutcome { .. }), "round {round}: {error:?}");
        eventually("it happens", Duration::from_secs(60), async || match decision_of(&reader, two).await {
            Some(Decision::Commit) => Ok(()),
            found => Err(format!("{found:?}")),
        })
        .await;
        let error = log.append(&batch).await.expect_err("still no answers");
        assert!(!error.is_fenced(), "{error:?}");
        network.traffic.send_replace(Traffic::Flows);
        assert!(is_durable(&append(&log, &batch).await.0));
        append(&log, &Batch { lazy: vec![ended(two)], ..forced([decided(gtid(), Decision::Commit)]) }).await;
        let ended = log.lookup(&[one]).await.expect("there");
        assert!(matches!(ended[..], [(_, Found::Ended(_))]), "{ended:?}");
    }
}

/// The statement of a connection that the log has given up arrives after all: it must not change
/// anything any more.
#[tokio::test]
async fn a_statement_that_arrives_too_late_changes_nothing() {
    let server = Postgres::shared().await;
    let ground = PostgresGround::fresh().await;
    let (log, network) = behind_network(&ground, &server).await;
    let gtid = gtid();
    let first = forced([decided(gtid, Decision::Commit)]);
    network.traffic.send_replace(Traffic::Delays);
    // The log gives up, and tries on a connection of its own, which hangs too.
    let error = log.append(&first).await.expect_err("nothing arrives");
    assert!(matches!(error, AppendError::UnknownOutcome { .. }), "{error:?}");
    // Now over another way: the same process, a new connection, another decision (as after a
    // restart it might be).
    let other = ground.start("r1").await;
    assert!(is_durable(&append(&other, &forced([decided(gtid, Decision::Abort)])).await.0));
    network.traffic.send_replace(Traffic::Flows);
    let error = log.append(&first).await.expect_err("r1 is somebody else now");
    assert!(error.is_fenced(), "{error:?}");
    assert_eq!(decision_of(&other, gtid).await, Some(Decision::Abort));
}

/// The same within one epoch: the new connection outlaws the old one's statements.
#[tokio::test]
async fn a_new_connection_outlaws_the_statements_of_the_old_one() {
    let server = Postgres::shared().await;
    let ground = PostgresGround::fresh().await;
    let (log, network) = behind_network(&ground, &server).await;
    let (one, two) = (gtid(), gtid());
    network.traffic.send_replace(Traffic::Delays);
    log.append(&forced([decided(one, Decision::Commit)])).await.expect_err("nothing arrives");
    // What a new connection of the log does first, over another way.
    ground.execute("update assent.replica set connection = connection + 1").await;
    network.traffic.send_replace(Traffic::Flows);
    // The delayed statement gets through to the server now, and so does everything after it.
    assert!(is_durable(&append(&log, &forced([decided(two, Decision::Commit)])).await.0));
    assert_eq!(decision_of(&log, two).await, Some(Decision::Commit));
    assert_eq!(decision_of(&log, one).await, None, "the late statement found its connection outlawed");
}

#[tokio::test]
async fn a_terminated_connection_is_made_anew() {
    let ground = PostgresGround::fresh().await;
    let log = ground.start("r1").await;
    let mut admin = ground.database.connect().await;
    for _ in 0..10 {
        let killed: i64 = sqlx::query_scalar(
            // The client hears of it before the backend is gone.
            "select count(*) from pg_stat_activity, pg_terminate_backend(pid, 60000)
             where datname = current_database() and application_name = 'assent/r1'",
        )
        .fetch_one(&mut admin)
        .await
        .expect("terminated");
        assert_eq!(killed, 1, "one connection appends, under the replica's name");
        let gtid = gtid();
        let (answers, errors) = append(&log, &forced([decided(gtid, Decision::Commit)])).await;
        assert!(is_durable(&answers));
        assert!(errors.len() <= 1, "{errors:?}");
        assert_eq!(decision_of(&log, gtid).await, Some(Decision::Commit));
    }
}

#[tokio::test]
async fn connections_that_are_cut_at_random_lose_and_invent_nothing() {
    let ground = PostgresGround::fresh().await;
    let log = ground.start("r1").await;
    let url = ground.database.url();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let killer = tokio::spawn(async move {
        let mut admin = sqlx::PgConnection::connect(&url).await.expect("a connection");
        let mut stopped = stopped;
        while stopped.try_recv().is_err() {
            let kill = "select pg_terminate_backend(pid) from pg_stat_activity
                        where datname = current_database() and application_name = 'assent/r1'";
            sqlx::query(kill).execute(&mut admin).await.expect("terminated");
            tokio::task::yield_now().await;
            // Mostly for some milliseconds, and now and then for so long that an append gets
            // through on any machine.
            let sleep = "select pg_sleep(least(3, 0.01 / (random() + 0.001)))";
            sqlx::query(sleep).execute(&mut admin).await.expect("slept");
        }
    });
    let mut open: Vec<Gtid> = Vec::new();
    for round in 0..60 {
        let fresh: Vec<Gtid> = (0..5).map(|_| gtid()).collect();
        let lazy = open.iter().map(|gtid| ended(*gtid)).collect();
        let batch = Batch { lazy, ..forced(fresh.iter().map(|gtid| decided(*gtid, Decision::Commit))) };
        let (answers, _) = append(&log, &batch).await;
        assert!(is_durable(&answers), "round {round}: {answers:?}");
        open = fresh;
    }
    stop.send(()).expect("the killer runs");
    killer.await.expect("the killer ends");
    let (count, distinct): (i64, i64) = sqlx::query_as("select count(*), count(distinct gtid) from assent.history")
        .fetch_one(&mut ground.database.connect().await)
        .await
        .expect("counted");
    assert_eq!((count, distinct), (59 * 5, 59 * 5));
    assert_eq!(log.open_transactions(None, 100).await.expect("there").len(), 5);
}

#[tokio::test]
async fn a_server_that_is_killed_comes_back_with_all_that_was_confirmed() {
    let server = Postgres::start().await;
    let database = server.create_database().await;
    log::migrate(&database.url()).await.expect("migrated");
    let log = log::open(&database.url(), Options::default()).await.expect("the log opens");
    log.acquire(&Name::new("r1").expect("a name")).await.expect("free");
    let before = gtid();
    assert!(is_durable(&append(&log, &forced([decided(before, Decision::Commit)])).await.0));
    server.kill().await;
    let during = forced([decided(gtid(), Decision::Commit)]);
    for _ in 0..3 {
        let error = log.append(&during).await.expect_err("nobody is there");
        assert!(matches!(error, AppendError::Unreachable { .. } | AppendError::UnknownOutcome { .. }), "{error:?}");
        assert!(matches!(log.ping().await, Err(LogError::Unreachable { .. })));
    }
    server.restart().await;
    assert!(is_durable(&append(&log, &during).await.0));
    assert_eq!(decision_of(&log, before).await, Some(Decision::Commit));
    log.ping().await.expect("it is back");
}

#[tokio::test]
async fn a_server_that_hangs_is_noticed() {
    let server = Postgres::start().await;
    let database = server.create_database().await;
    log::migrate(&database.url()).await.expect("migrated");
    let log = log::open(&database.url(), impatient()).await.expect("the log opens");
    log.acquire(&Name::new("r1").expect("a name")).await.expect("free");
    server.pause().await;
    let batch = forced([decided(gtid(), Decision::Commit)]);
    let error = log.append(&batch).await.expect_err("it does not answer");
    assert!(matches!(error, AppendError::UnknownOutcome { .. }), "{error:?}");
    server.resume().await;
    assert!(is_durable(&append(&log, &batch).await.0));
}

#[tokio::test]
async fn a_lock_that_others_hold_is_not_waited_for_without_end() {
    let ground = PostgresGround::fresh().await;
    let log = log::open(&ground.database.url(), impatient()).await.expect("the log opens");
    log.acquire(&Name::new("r1").expect("a name")).await.expect("free");
    let mut admin = ground.database.connect().await;
    let mut transaction = admin.begin().await.expect("begun");
    sqlx::query("lock table assent.open_transaction").execute(&mut *transaction).await.expect("locked");
    let batch = forced([decided(gtid(), Decision::Commit)]);
    let error = log.append(&batch).await.expect_err("locked");
    assert!(matches!(error, AppendError::Busy { .. }), "{error:?}");
    transaction.rollback().await.expect("unlocked");
    assert!(is_durable(&append(&log, &batch).await.0));
}

/// Each open row is written once at the start. The time that an append may take bounds a page of
/// them, not all.
#[tokio::test]
async fn a_start_takes_over_however_much_is_open() {
    let ground = PostgresGround::fresh().await;
    let dead = ground.start("r1").await;
    ground
        .execute(
            "insert into assent.open_transaction
                 (gtid, owner_epoch, digest, begun_at, decided_at, protocol, decision, participants)
             select ('01890a5d-ac96-774b-bccf-' || lpad(to_hex(n), 12, '0'))::uuid, (select epoch from assent.replica), 7,
                    to_timestamp(1795000000), to_timestamp(1795000000), '2pc', 'commit', 'inventory,billing'
             from generate_series(1, 300000) n",
        )
        .await;
    drop(dead);
    let options = Options { append_timeout: Duration::from_secs(1), ..Options::default() };
    let log = log::open(&ground.database.url(), options).await.expect("the log opens");
    let epoch = log.acquire(&Name::new("r1").expect("a name")).await.expect("it has the time that it needs");
    let (rows, owners, owner): (i64, i64, i64) =
        sqlx::query_as("select count(*), count(distinct owner_epoch), max(owner_epoch) from assent.open_transaction")
            .fetch_one(&mut ground.database.connect().await)
            .await
            .expect("counted");
    assert_eq!((rows, owners, owner), (300_000, 1, i64::try_from(epoch.0).expect("small")));
    assert_eq!(log.open_transactions(None, 1_000).await.expect("there").len(), 1_000);
    assert!(is_durable(&append(&log, &forced([decided(gtid(), Decision::Commit)])).await.0));
}

#[tokio::test]
async fn whoever_cannot_open_the_log_is_told_what_to_do() {
    let server = Postgres::shared().await;
    let database = server.create_database().await;
    let good = database.url();
    let (credentials, place) = good.split_once("://").expect("a URL").1.rsplit_once('@').expect("credentials");
    let user = credentials.split(':').next().expect("a user");
    let nobody = Port::reserve();
    let missing_host = format!("postgres://{credentials}@127.0.0.1:{}/x", nobody.number());
    let cases = [
        (missing_host.as_str(), "check that the server runs"),
        (&format!("postgres://{credentials}@{}/no_such_database", server.address()), "createdb"),
        (&format!("postgres://{user}:wrong-s3cret@{place}"), "check user and password"),
        (&format!("postgres://nobody:wrong-s3cret@{place}"), "check user and password"),
    ];
    for (url, advice) in cases {
        let error = match log::open(url, Options::default()).await {
            Ok(log) => panic!("{} was opened", log.describe()),
            Err(error) => error,
        };
        let text = format!("{error} {error:?}");
        assert!(error.to_string().contains(advice), "{text}");
        assert!(!text.contains("s3cret") && !text.contains(credentials), "{text}");
        if advice.starts_with("check user") {
            assert!(matches!(error, OpenError::Refused { .. }), "{text}");
        }
    }
}

/// The lease, the fence and what a connection has prepared belong to a session.
#[tokio::test]
async fn a_pooler_of_transactions_is_called_by_its_name() {
    let ground = PostgresGround::fresh().await;
    for sessions in [1, 2, 3] {
        let pooler = TransactionPooler::start(ground.database.address().await, sessions).await;
        let url = ground.database.url_at(pooler.address());
        let opened = log::open(&url, Options::default()).await.map(drop);
        let error = opened.expect_err("its sessions are not its own").to_string();
        assert!(error.contains("pool_mode = session"), "{sessions} sessions: {error}");
    }
}
