//! What became of a transaction that a coordinator has forgotten, or never heard all of: nothing
//! runs anew under its gtid, what may have committed is not told aborted, and what never took part
//! does not commit.

use std::time::Duration;

use assent_crash::{APPEND_CONFIRMED, Action, PREPARE_DONE, Point, VOTE_COUNTED};
use assent_sdk::postgres::{Barrier, EarlyOnly, EarlyPrepareError, PostgresResource};
use assent_sdk::{AbortCode, Assent, Context, Outcome, Transaction};
use integration_tests::ledger::{Booking, open_bank};
use integration_tests::{Database, Port, Postgres, Process, Program, Relay, eventually};
use sqlx::Executor as _;

use crate::chaos::nothing_is_prepared;
use crate::sdk_postgres::balance;

const DEADLINE: Duration = Duration::from_secs(60);
const VARIABLE: &str = "ASSENT_CRASH_POINT";
/// Longer than any test waits.
const NEVER: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_millis(50);
/// What the account has before anything is booked.
const BALANCE: i64 = 100;

/// A coordinator that can die and come back at its address.
struct Scene {
    server: Postgres,
    coordinator: Process,
    endpoint: String,
    _log: Database,
    _port: Port,
}

impl Scene {
    /// Starts the coordinator; at the point, if one is given, it aborts.
    async fn set(aborts_at: Option<&Point>) -> Self {
        let server = Postgres::shared().await;
        let log = server.create_database().await;
        let migrated = Program::assent().args(["migrate", "--log", &log.url()]).run(DEADLINE).await;
        assert!(migrated.status.success(), "the log is migrated: {}", migrated.stderr);
        let port = Port::reserve();
        let listen = port.address().to_string();
        let program = Program::assent().named("coordinator").args([
            "serve",
            "--listen",
            &listen,
            "--log",
            &log.url(),
            "--replica",
            "test",
        ]);
        let mut coordinator = armed(program, aborts_at.map(|point| (point, Action::Abort))).start();
        coordinator.line_with("listening", DEADLINE).await;
        Self { server, coordinator, endpoint: format!("http://{listen}"), _log: log, _port: port }
    }

    /// A database with one account.
    async fn bank(&self) -> Database {
        let bank = self.server.create_database().await;
        open_bank(&mut bank.connect().await, 1, BALANCE).await.expect("the bank's tables");
        Barrier::default().install(&bank.pool(1).await).await.expect("the barrier's table");
        bank
    }

    /// Starts an instance of a participant. It joins as soon as the coordinator is there.
    fn start(&self, kind: &str, name: &str, bank: &Database, pauses_at: Option<&Point>) -> Process {
        let program = Program::built("test-participant").named(name).args([kind, name, &self.endpoint, &bank.url()]);
        armed(program, pauses_at.map(|point| (point, Action::Pause))).start()
    }

    async fn initiator(&self) -> Assent {
        initiator(&self.endpoint).await
    }

    /// A relay in front of the coordinator, for a process that is to be held up or to be gone.
    async fn relay(&self) -> Relay {
        Relay::to(self.endpoint.trim_start_matches("http://").parse().expect("an address")).await
    }

    /// Ends the coordinator, if it has not ended, and starts it again.
    async fn restart(&mut self) {
        self.coordinator.kill();
        self.coordinator.restart_with(VARIABLE, None);
        self.coordinator.line_with("listening", DEADLINE).await;
    }
}

async fn initiator(endpoint: &str) -> Assent {
    Assent::dial(endpoint).patience(DEADLINE).connect().await.expect("the coordinator answers")
}

/// Where processes dial this relay.
fn endpoint_of(relay: &Relay) -> String {
    format!("http://{}", relay.address())
}

fn armed(program: Program, what: Option<(&Point, Action)>) -> Program {
    match what {
        Some((point, action)) => program.env(VARIABLE, format!("{}:{}", point.name, action.as_str())),
        None => program,
    }
}

async fn reaches(process: &mut Process, point: &Point) {
    process.line_with(&format!("crash point {} reached", point.name), DEADLINE).await;
}

fn has_reached(process: &Process, point: &Point) -> bool {
    process.output().contains(&format!("crash point {} reached", point.name))
}

async fn joins(process: &mut Process) {
    process.line_with("joined", DEADLINE).await;
}

/// The amounts that are booked.
async fn booked(bank: &Database) -> Vec<i64> {
    let booked: Vec<i64> =
        sqlx::query_scalar("select amount from ledger").fetch_all(&mut bank.connect().await).await.expect("the ledger");
    assert_eq!(balance(bank).await, BALANCE + booked.iter().sum::<i64>(), "the balance agrees with the ledger");
    booked
}

fn transfer(initiator: &Assent) -> Transaction {
    let booking = |amount| Booking { account: 1, amount };
    initiator.transaction().timeout(NEVER).branch_json("payer", &booking(-7)).branch_json("payee", &booking(7))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_comes_again_after_a_restart_never_runs_anew() {
    let mut scene = Scene::set(None).await;
    let (payer, payee) = (scene.bank().await, scene.bank().await);
    let banks = [("payer", &payer), ("payee", &payee)];
    // Whichever instance of a bank is asked stops before it has voted; the other one runs on.
    let mut instances = [0; 2].map(|_| banks.map(|(name, bank)| scene.start("bank", name, bank, Some(&PREPARE_DONE))));
    for instance in instances.as_flattened_mut() {
        joins(instance).await;
    }
    let relay = scene.relay().await;
    let initiator = initiator(&endpoint_of(&relay)).await;
    let commit = tokio::spawn(transfer(&initiator).commit());
    eventually("both branches are prepared", DEADLINE, async || {
        match instances.as_flattened().iter().filter(|instance| has_reached(instance, &PREPARE_DONE)).count() {
            2 => Ok(()),
            stopped => Err(format!("{stopped} instances have stopped")),
        }
    })
    .await;
    relay.hold_client(true);
    scene.restart().await;
    for (name, _) in banks {
        scene.coordinator.line_with(&format!("participant={name}"), DEADLINE).await;
    }
    // The commit comes again when everything is there that it needs to run.
    relay.hold_client(false);

    let outcome = commit.await.expect("no panic").expect("no refusal");
    let Outcome::Aborted(reason) = outcome else { panic!("it ran before under its gtid, and is {outcome:?}") };
    assert_eq!(reason.code, AbortCode::Forgotten, "{reason}");
    for instance in instances.as_flattened() {
        instance.resume();
    }
    for (name, bank) in banks {
        nothing_is_prepared(name, bank, DEADLINE).await;
        assert_eq!(booked(bank).await, [0; 0], "{name}");
    }

    for instance in instances.as_flattened_mut() {
        if !has_reached(instance, &PREPARE_DONE) {
            instance.kill();
            instance.restart_with(VARIABLE, None);
            joins(instance).await;
        }
    }
    let outcome = transfer(&initiator).commit_and_wait().await.expect("no refusal");
    assert_eq!(outcome, Outcome::Committed);
    assert_eq!((booked(&payer).await, booked(&payee).await), (vec![-7], vec![7]));
}

/// The initiator of a lone branch, whose coordinator dies at this point and comes back, asks what
/// became of it. The instance that may have committed the branch is gone by then: another one
/// knows. Answers what the initiator is told, and what is booked.
async fn lone_branch(point: &Point) -> (Outcome, Vec<i64>) {
    let mut scene = Scene::set(Some(point)).await;
    let till = scene.bank().await;
    let mut first = scene.start("till", "till", &till, None);
    joins(&mut first).await;
    let initiator = scene.initiator().await;
    let booking = Booking { account: 1, amount: 7 };
    let deposit = initiator.transaction().timeout(NEVER).branch_json("till", &booking);
    let gtid = deposit.gtid();
    let commit = tokio::spawn(deposit.commit());
    reaches(&mut scene.coordinator, point).await;
    scene.coordinator.exit(DEADLINE).await;
    // The initiator does not wait any longer, so its request does not come again.
    commit.abort();
    assert!(commit.await.expect_err("nobody answers").is_cancelled());
    first.kill();
    let mut second = scene.start("till", "till", &till, None);
    scene.restart().await;
    joins(&mut second).await;

    let outcome = initiator.outcome(gtid, DEADLINE).await.expect("it is known");
    nothing_is_prepared("the till", &till, DEADLINE).await;
    (outcome, booked(&till).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outcome_of_a_lone_branch_is_known_after_a_restart() {
    let (outcome, booked) = lone_branch(&VOTE_COUNTED).await;
    assert_eq!((outcome, booked), (Outcome::Committed, vec![7]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_branch_whose_order_was_never_sent_is_aborted_after_a_restart() {
    let (outcome, booked) = lone_branch(&APPEND_CONFIRMED).await;
    assert!(matches!(outcome, Outcome::Aborted(_)), "{outcome:?}");
    assert_eq!(booked, [0; 0]);
}

/// A bank whose service prepares by itself, reached at this address.
async fn early(endpoint: String, name: &str, bank: &Database) -> (Assent, PostgresResource<EarlyOnly>) {
    let resource = PostgresResource::early(name.parse().expect("a name"), bank.url().parse().expect("a URL"));
    let dial = Assent::dial(endpoint).participant(name, resource.clone());
    let assent = dial.in_doubt_grace(SOON).patience(SOON * 20).connect().await.expect("joins");
    (assent, resource)
}

/// The service is called: it works, prepares and enlists.
async fn call(
    (assent, resource): &(Assent, PostgresResource<EarlyOnly>),
    context: &Context,
) -> Result<(), EarlyPrepareError> {
    let mut guard = resource.begin(context).await.expect("begins");
    let connection = guard.connection().expect("in time");
    connection.execute("update account set balance = balance + 7 where id = 1").await.expect("works");
    guard.prepare(assent).await
}

/// A branch is prepared and its enlistment never arrives; the initiator calls another bank instead,
/// and commits.
async fn left_out(coordinator_restarts: bool) {
    let mut scene = Scene::set(None).await;
    let (out, used) = (scene.bank().await, scene.bank().await);
    let relay = scene.relay().await;
    let dying = early(endpoint_of(&relay), "out", &out).await;
    let taking_part = [0; 2].map(|_| early(scene.endpoint.clone(), "used", &used));
    let taking_part = futures::future::join_all(taking_part).await;
    let transaction = scene.initiator().await.begin(Some(NEVER)).await.expect("begins");
    let context = transaction.context().expect("it was begun");

    relay.hold_client(true);
    let error = call(&dying, &context).await.expect_err("nobody hears of it");
    assert!(matches!(error, EarlyPrepareError::InDoubt(_)), "{error}");
    assert_eq!(out.prepared_transactions().await.len(), 1, "it is prepared");
    // What is held is lost, and the instance gone for good.
    drop(relay);
    drop(dying);

    call(&taking_part[0], &context).await.expect("enlists");
    assert_eq!(transaction.commit_and_wait().await.expect("no refusal"), Outcome::Committed);
    assert_eq!(balance(&used).await, BALANCE + 7);
    assert_eq!(out.prepared_transactions().await.len(), 1, "it is left");
    if coordinator_restarts {
        scene.restart().await;
    }
    let _living = early(scene.endpoint.clone(), "out", &out).await;
    nothing_is_prepared("the one left out", &out, DEADLINE).await;
    assert_eq!(balance(&out).await, BALANCE, "it took no part in what was committed");
    assert_eq!(balance(&used).await, BALANCE + 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_whose_enlistment_never_arrived_is_told_to_abort_after_the_end() {
    left_out(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_whose_enlistment_never_arrived_is_told_to_abort_after_a_restart() {
    left_out(true).await;
}
