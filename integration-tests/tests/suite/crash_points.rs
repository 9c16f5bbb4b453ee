//! Every crash point, in real processes: one of them dies, fails or stops there in the middle of a
//! handful of transactions, and what the participants' ledgers show is what the clients were told.
//!
//! The oracle reads the participants' own tables and the clients' own histories, and knows nothing
//! of the coordinator. What is open is asked of the log itself, by the code behind `assent
//! verify-log`, which has to find nothing wrong there either.
//!
//! Two-phase commits, one-phase commits and sagas meet every action of every point that they come
//! to, on the SQLite log; three-phase commits meet the aborts; and the points around the Postgres
//! log are met on that. `ASSENT_DEEP=1` does all of it on both logs. The figures go to
//! `$ASSENT_PROOF`, or to `target/proof/`: `crash-points.json`, and `crash-points.tsv` for the
//! table at the end of `./test`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use assent::log::verify::verify;
use assent_crash::{Action, POINTS, Point, Side};
use assent_proto::v1::ListParticipantsRequest;
use assent_proto::v1::admin_service_client::AdminServiceClient;
use assent_sdk::postgres::Barrier;
use assent_sdk::saga::{SagaBuilder, SagaOutcome};
use assent_sdk::{Assent, Error, Gtid, Outcome, Protocol};
use integration_tests::ledger::{Booking, Errand, open_bank, open_office};
use integration_tests::postgres::{Database, Postgres};
use integration_tests::process::{Process, Program};
use integration_tests::{Port, eventually};
use sqlx::PgPool;
use uuid::Uuid;

use crate::chaos::nothing_is_prepared;

const DEADLINE: Duration = Duration::from_secs(60);
const ACCOUNTS: i32 = 1_000;
const BALANCE: i64 = 1_000;
/// Transactions of one case; the last one is refused.
const TRANSACTIONS: i32 = 4;
/// Longer than the silence after which the others take a process for dead.
const PAUSE: Duration = Duration::from_millis(1_300);

// ---- the plan --------------------------------------------------------------------------------------------------------------

/// What the transactions of a case are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    TwoPhase,
    OnePhase,
    ThreePhase,
    Saga,
}

impl Kind {
    const ALL: [Self; 4] = [Self::TwoPhase, Self::OnePhase, Self::ThreePhase, Self::Saga];

    const fn as_str(self) -> &'static str {
        match self {
            Self::TwoPhase => "2pc",
            Self::OnePhase => "one-phase",
            Self::ThreePhase => "3pc",
            Self::Saga => "saga",
        }
    }

    /// Whether its transactions come to this point.
    fn comes_to(self, point: &Point) -> bool {
        let name = point.name;
        let is_of_steps = name.contains("-step-") || name == "participant-answer-sent";
        let is_of_one_phase = name.contains("one-phase");
        let is_of_two_phases = ["-commit-sent", "-abort-sent", "-acknowledgement-", "-prepare-d", "-end-d"];
        let is_of_two_phases = is_of_two_phases.iter().any(|part| name.contains(part));
        let is_of_votes = name.contains("-vote-") || name.contains("coordinator-prepare-sent");
        match self {
            Self::TwoPhase | Self::ThreePhase => !is_of_steps && !is_of_one_phase,
            Self::OnePhase => is_of_one_phase || is_of_votes || name.contains("-hook-") || name.contains("order-heard"),
            Self::Saga => !is_of_one_phase && !is_of_two_phases && !is_of_votes,
        }
    }

    /// The participant that dies, fails or stops.
    const fn victim(self) -> &'static str {
        match self {
            Self::TwoPhase | Self::ThreePhase => "bank-b",
            Self::OnePhase => "till",
            Self::Saga => "clerk-b",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LogKind {
    Sqlite,
    Postgres,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    point: &'static Point,
    action: Action,
    log: LogKind,
    kind: Kind,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { point, action, log, kind } = self;
        write!(f, "{}:{} {log:?} {}", point.name, action.as_str(), kind.as_str())
    }
}

fn is_deep() -> bool {
    std::env::var_os("ASSENT_DEEP").is_some_and(|value| value == "1")
}

/// Everything that can be met, or what fits into the default budget.
fn plan(deep: bool) -> Vec<Case> {
    let mut plan = Vec::new();
    for log in [LogKind::Sqlite, LogKind::Postgres] {
        for kind in Kind::ALL {
            for point in POINTS.iter().filter(|point| kind.comes_to(point)) {
                for action in Action::ALL.into_iter().filter(|action| *action != Action::Error || point.fails) {
                    let is_at_the_log = point.name.starts_with("log-") || point.name.contains("-append-");
                    let is_due = match (log, kind) {
                        (LogKind::Sqlite, Kind::TwoPhase | Kind::OnePhase | Kind::Saga) => true,
                        (LogKind::Sqlite, Kind::ThreePhase) => action == Action::Abort,
                        (LogKind::Postgres, Kind::TwoPhase | Kind::Saga) => is_at_the_log && action != Action::Pause,
                        (LogKind::Postgres, Kind::OnePhase | Kind::ThreePhase) => false,
                    };
                    if deep || is_due {
                        plan.push(Case { point, action, log, kind });
                    }
                }
            }
        }
    }
    plan
}

#[test]
fn every_point_is_planned_with_every_action() {
    let planned: BTreeSet<_> = plan(false).iter().map(|case| (case.point.name, case.action.as_str())).collect();
    for point in POINTS {
        for action in Action::ALL.into_iter().filter(|action| *action != Action::Error || point.fails) {
            assert!(planned.contains(&(point.name, action.as_str())), "{} with {}", point.name, action.as_str());
        }
    }
}

// ---- the processes ---------------------------------------------------------------------------------------------------------

const VARIABLE: &str = "ASSENT_CRASH_POINT";

/// A coordinator with its participants, which go from case to case.
struct Cast {
    log: String,
    endpoint: String,
    coordinator: Process,
    participants: BTreeMap<&'static str, Process>,
    databases: BTreeMap<&'static str, (Database, PgPool)>,
    assent: Assent,
    account: AtomicI32,
    _ports: Vec<Port>,
    _log_database: Option<Database>,
    _directory: tempfile::TempDir,
}

impl Cast {
    async fn assemble(server: &Postgres, log: LogKind, names: &[&'static str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let log_database = match log {
            LogKind::Sqlite => None,
            LogKind::Postgres => Some(server.create_database().await),
        };
        let log = match log {
            LogKind::Sqlite => format!("sqlite:{}", directory.path().join("log.db").display()),
            LogKind::Postgres => log_database.as_ref().expect("made above").url(),
        };
        let migrated = Program::assent().args(["migrate", "--log", &log]).run(DEADLINE).await;
        assert!(migrated.status.success(), "the log is migrated: {}", migrated.stderr);
        let port = Port::reserve();
        let listen = port.address().to_string();
        let mut ports = vec![port];
        let endpoint = format!("http://{listen}");
        let coordinator = Program::assent()
            .named("coordinator")
            .args(["serve", "--listen", &listen, "--log", &log, "--replica", "test", "--log-filter", "error"])
            .args(["--set", "session.heartbeat_interval=200ms", "--set", "session.silence_max=1s"]);
        let mut coordinator = coordinator.start();
        coordinator.line_with("listening", DEADLINE).await;
        let (mut participants, mut databases) = (BTreeMap::new(), BTreeMap::new());
        for name in names {
            let database = server.create_database().await;
            let pool = database.pool(2).await;
            let kind = match *name {
                "till" => "till",
                "clerk-a" | "clerk-b" => "clerk",
                _ => "bank",
            };
            if kind == "clerk" {
                open_office(&mut database.connect().await).await.expect("the clerk's table");
            } else {
                open_bank(&mut database.connect().await, ACCOUNTS, BALANCE).await.expect("the bank's tables");
            }
            let mut program =
                Program::built("test-participant").named(*name).args([kind, name, &endpoint, &database.url()]);
            if kind == "bank" {
                let port = Port::reserve();
                let address = format!("http://{}", port.address());
                program = program.args([port.address().to_string(), address]);
                ports.push(port);
            } else {
                Barrier::default().install(&pool).await.expect("the barrier's table");
            }
            let mut participant = program.start();
            participant.line_with("joined", DEADLINE).await;
            participants.insert(*name, participant);
            databases.insert(*name, (database, pool));
        }
        let assent = Assent::dial(&endpoint).patience(Duration::from_secs(20)).connect().await;
        let assent = assent.expect("the coordinator answers");
        let account = AtomicI32::new(1);
        Self {
            log,
            endpoint,
            coordinator,
            participants,
            databases,
            assent,
            account,
            _ports: ports,
            _log_database: log_database,
            _directory: directory,
        }
    }

    /// One case, from its beginning to its end.
    async fn run(&mut self, case: &Case) {
        let Case { point, action, kind, .. } = *case;
        let armed = format!("{}:{}", point.name, action.as_str());
        let is_at_a_start = point.name == "coordinator-recovery-page";
        let is_at_a_dial = point.name == "participant-redialled";
        if !is_at_a_start {
            self.restart(case, Some(&armed)).await;
        }
        let assent = self.assent.clone();
        let base = self.account.fetch_add(TRANSACTIONS, Relaxed);
        let traffic = tokio::spawn(async move { traffic(&assent, kind, base).await });
        if is_at_a_start {
            // Something is open by then, as a rule.
            tokio::time::sleep(Duration::from_millis(15)).await;
            self.coordinator.kill();
            self.coordinator.restart_with(VARIABLE, Some(&armed));
        }
        if is_at_a_dial {
            self.coordinator.kill();
            self.coordinator.restart_with(VARIABLE, None);
        }
        let process = self.process(case);
        process.line_with(&format!("crash point {} reached", point.name), DEADLINE).await;
        match action {
            Action::Abort => {
                let status = process.exit(DEADLINE).await;
                assert!(!status.success(), "{case}: it aborted");
                self.restart(case, None).await;
            }
            Action::Pause => {
                tokio::time::sleep(PAUSE).await;
                process.resume();
                // It may stop only now, on a busy machine.
                while !traffic.is_finished() {
                    tokio::time::sleep(PAUSE / 10).await;
                    process.resume();
                }
            }
            // It tries again by itself.
            Action::Error if is_at_a_start => {
                process.line_with("listening", DEADLINE).await;
            }
            Action::Error => {}
        }
        let began = Instant::now();
        let told = traffic.await.expect("no panic in a client");
        eprintln!("{case}: clients were told {told:?} after {} ms", began.elapsed().as_millis());
        self.settle(case).await;
        match kind {
            Kind::TwoPhase | Kind::ThreePhase => self.check_transfers(case, &told).await,
            Kind::OnePhase => self.check_deposits(case, &told).await,
            Kind::Saga => self.check_sagas(case, &told).await,
        }
    }

    fn process(&mut self, case: &Case) -> &mut Process {
        match case.point.side {
            Side::Coordinator => &mut self.coordinator,
            Side::Participant => self.participants.get_mut(case.kind.victim()).expect("it takes part"),
        }
    }

    async fn restart(&mut self, case: &Case, armed: Option<&str>) {
        let sign = if case.point.side == Side::Coordinator { "listening" } else { "joined" };
        let process = self.process(case);
        process.kill();
        process.restart_with(VARIABLE, armed);
        if armed.is_none() {
            process.line_with(sign, DEADLINE).await;
            return;
        }
        // What was left to say to it may bring it to the point before it has said that it is there.
        eventually("it is there, or at its point", DEADLINE, async || {
            let output = process.output();
            let is_there = output.contains(sign) || output.contains("crash point");
            if is_there { Ok(()) } else { Err(output) }
        })
        .await;
        if case.point.side == Side::Coordinator {
            self.everybody_is_back().await;
        }
    }

    /// What is refused before somebody has joined again need not come to every point.
    async fn everybody_is_back(&self) {
        let missing = async || -> Result<Vec<&str>, String> {
            let error = |error: &dyn std::fmt::Display| error.to_string();
            let mut admin = AdminServiceClient::connect(self.endpoint.clone()).await.map_err(|e| error(&e))?;
            let listed = admin.list_participants(ListParticipantsRequest {}).await.map_err(|e| error(&e))?;
            let listed = listed.into_inner().participants;
            let is_there = |name: &str| listed.iter().any(|listed| listed.name == name && listed.sessions > 0);
            Ok(self.participants.keys().copied().filter(|name| !is_there(name)).collect())
        };
        eventually("everybody is back, or the coordinator is at its point", DEADLINE, async || {
            if self.coordinator.output().contains("crash point") {
                return Ok(());
            }
            // One that stops meanwhile does not answer.
            match tokio::time::timeout(Duration::from_secs(1), missing()).await {
                Ok(Ok(missing)) if missing.is_empty() => Ok(()),
                Ok(missing) => Err(format!("{missing:?}")),
                Err(elapsed) => Err(elapsed.to_string()),
            }
        })
        .await;
    }

    /// Everything ends: I12.
    async fn settle(&self, case: &Case) {
        eventually(&format!("nothing is open after {case}"), DEADLINE, async || {
            let verified = verify(&self.log, |_| {}).await.map_err(|error| error.to_string())?;
            assert!(verified.violations.is_empty(), "{case}: {:#?}", verified.violations);
            match verified.counts.open {
                0 => Ok(()),
                open => Err(format!("{open} are open")),
            }
        })
        .await;
        for (name, (database, _)) in &self.databases {
            nothing_is_prepared(&format!("{name} after {case}"), database, DEADLINE).await;
        }
    }

    // ---- the oracle --------------------------------------------------------------------------------------------------------

    async fn ledger(&self, name: &str) -> BTreeMap<Uuid, i64> {
        let sql = "select gtid, amount from ledger";
        let rows: Vec<(Uuid, i64)> = sqlx::query_as(sql).fetch_all(&self.databases[name].1).await.expect("the ledger");
        rows.into_iter().collect()
    }

    /// A bank's balances agree with its ledger.
    async fn sum(&self, name: &str, ledger: &BTreeMap<Uuid, i64>) -> i64 {
        let sum: i64 = sqlx::query_scalar("select sum(balance)::bigint from account")
            .fetch_one(&self.databases[name].1)
            .await
            .expect("a sum");
        assert_eq!(sum, i64::from(ACCOUNTS) * BALANCE + ledger.values().sum::<i64>(), "{name}");
        sum
    }

    async fn check_transfers(&self, case: &Case, told: &[(Gtid, Told)]) {
        let (a, b) = (self.ledger("bank-a").await, self.ledger("bank-b").await);
        let total = self.sum("bank-a", &a).await + self.sum("bank-b", &b).await;
        assert_eq!(total, 2 * i64::from(ACCOUNTS) * BALANCE, "{case}: money is neither made nor lost");
        let opposite: BTreeMap<Uuid, i64> = b.iter().map(|(gtid, amount)| (*gtid, -amount)).collect();
        assert_eq!(a, opposite, "{case}: each transfer is in both ledgers or in neither");
        came_true(case, told, |gtid| a.contains_key(&gtid));
    }

    async fn check_deposits(&self, case: &Case, told: &[(Gtid, Told)]) {
        let till = self.ledger("till").await;
        self.sum("till", &till).await;
        came_true(case, told, |gtid| till.contains_key(&gtid));
    }

    async fn check_sagas(&self, case: &Case, told: &[(Gtid, Told)]) {
        let mut net: BTreeMap<(Uuid, String), i64> = BTreeMap::new();
        for name in ["clerk-a", "clerk-b"] {
            let sql = "select gtid, step, sum(effect)::bigint, count(*) from errand group by gtid, step";
            let rows: Vec<(Uuid, String, i64, i64)> =
                sqlx::query_as(sql).fetch_all(&self.databases[name].1).await.expect("the errands");
            for (gtid, step, effect, lines) in rows {
                assert!((0..=1).contains(&effect) && lines <= 2, "{case}: step {step} of {gtid}: {effect}, {lines}");
                net.insert((gtid, step), effect);
            }
        }
        let effects =
            |gtid: Uuid| STEPS.iter().filter(|step| net.get(&(gtid, (**step).to_owned())) == Some(&1)).count();
        for (gtid, _) in told {
            let done = effects(gtid.as_uuid());
            assert!(done == 0 || done == STEPS.len(), "{case}: saga {gtid} has {done} steps with an effect");
        }
        came_true(case, told, |gtid| effects(gtid) > 0);
    }
}

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Done,
    Undone,
    Nothing,
}

/// I5.
fn came_true(case: &Case, told: &[(Gtid, Told)], has_effect: impl Fn(Uuid) -> bool) {
    for (gtid, told) in told {
        match (told, has_effect(gtid.as_uuid())) {
            (Told::Done, true) | (Told::Undone, false) | (Told::Nothing, _) => {}
            (told, _) => panic!("{case}: the client of {gtid} was told {told:?}, and the ledgers say otherwise"),
        }
    }
}

// ---- the clients -----------------------------------------------------------------------------------------------------------

async fn traffic(assent: &Assent, kind: Kind, base: i32) -> Vec<(Gtid, Told)> {
    let clients = (0..TRANSACTIONS).map(|n| {
        let is_refused = n == TRANSACTIONS - 1;
        let account = (base + n) % ACCOUNTS + 1;
        async move {
            match kind {
                Kind::Saga => saga(assent, is_refused).await,
                Kind::OnePhase => {
                    let amount = if is_refused { -BALANCE * 1_000 } else { 1 };
                    let deposit = assent.transaction().timeout(Duration::from_secs(10));
                    let deposit = deposit.branch_json("till", &Booking { account, amount });
                    let gtid = deposit.gtid();
                    (gtid, told(gtid, deposit.commit().await))
                }
                Kind::TwoPhase | Kind::ThreePhase => {
                    let amount = if is_refused { BALANCE * 1_000 } else { 1 };
                    let protocol = if kind == Kind::TwoPhase { Protocol::TwoPhase } else { Protocol::ThreePhase };
                    let transfer = assent.transaction().protocol(protocol).timeout(Duration::from_secs(10));
                    let transfer = transfer
                        .branch_json("bank-a", &Booking { account, amount: -amount })
                        .branch_json("bank-b", &Booking { account, amount });
                    let gtid = transfer.gtid();
                    (gtid, told(gtid, transfer.commit().await))
                }
            }
        }
    });
    futures::future::join_all(clients).await
}

fn told(gtid: Gtid, outcome: Result<Outcome, Error>) -> Told {
    match outcome {
        Ok(Outcome::Committed) => Told::Done,
        Ok(Outcome::Aborted(_)) => Told::Undone,
        Ok(Outcome::InDoubt { .. }) | Err(Error::NoAnswer { .. }) => Told::Nothing,
        Err(Error::Refused(_)) => Told::Undone,
        Err(error) => panic!("{gtid}: {error}"),
    }
}

const STEPS: [&str; 3] = ["first", "second", "last"];

async fn saga(assent: &Assent, is_refused: bool) -> (Gtid, Told) {
    let trip = || {
        let mut saga = SagaBuilder::new();
        let fine = Errand { is_refused: false };
        let first = saga.step("first", "clerk-b").input_json(&fine).add();
        let second = saga.step("second", "clerk-a").input_json(&fine).after(&first).add();
        saga.step("last", "clerk-a").input_json(&Errand { is_refused }).after(&second).add();
        saga
    };
    let gtid = loop {
        match assent.start_saga(trip()).await {
            Ok(gtid) | Err(Error::NoAnswer { gtid }) => break gtid,
            // A coordinator that has just started may not have met its participants again.
            Err(Error::Refused(refused)) if refused.retry_after_ms.is_some() => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("a saga is refused: {error}"),
        }
    };
    let told = match assent.saga_outcome(gtid, Duration::from_secs(30)).await {
        Ok(SagaOutcome::Completed(_)) => Told::Done,
        Ok(SagaOutcome::Compensated(_)) => Told::Undone,
        Ok(SagaOutcome::InDoubt { .. }) | Err(_) => Told::Nothing,
    };
    (gtid, told)
}

// ---- the run ---------------------------------------------------------------------------------------------------------------

/// `ASSENT_CRASH_ONLY=TEXT` runs the cases whose point's name, action, log or protocol contains it.
fn is_wanted(case: &Case) -> bool {
    std::env::var("ASSENT_CRASH_ONLY").is_ok_and(|only| case.to_string().contains(&only))
        || std::env::var_os("ASSENT_CRASH_ONLY").is_none()
}

/// Cases of one log with the participants that they need, one after the other.
async fn run(log: LogKind, names: &[&'static str], cases: Vec<Case>) -> Vec<Case> {
    if cases.is_empty() {
        return cases;
    }
    let server = Postgres::shared().await;
    let mut cast = Cast::assemble(&server, log, names).await;
    for case in &cases {
        let began = Instant::now();
        eprintln!("{case}");
        cast.run(case).await;
        eprintln!("{case} held, after {} ms", began.elapsed().as_millis());
    }
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_fails_or_stops_anywhere_the_ledgers_agree_with_what_was_told() {
    let deep = is_deep();
    let planned = plan(deep);
    let cases = |log, kinds: &[Kind]| -> Vec<Case> {
        let due = |case: &&Case| case.log == log && kinds.contains(&case.kind) && is_wanted(case);
        planned.iter().filter(due).copied().collect()
    };
    let everybody = ["bank-a", "bank-b", "till", "clerk-a", "clerk-b"];
    let (transfers, sagas, postgres) = tokio::join!(
        run(
            LogKind::Sqlite,
            &everybody[..3],
            cases(LogKind::Sqlite, &[Kind::TwoPhase, Kind::OnePhase, Kind::ThreePhase])
        ),
        run(LogKind::Sqlite, &everybody[3..], cases(LogKind::Sqlite, &[Kind::Saga])),
        run(LogKind::Postgres, &everybody, cases(LogKind::Postgres, &Kind::ALL)),
    );
    let hit: Vec<Case> = [transfers, sagas, postgres].concat();
    proof(&planned, &hit, deep).expect("the figures are written");
}

/// Only cases that were met and held come here: one that was not met, or did not hold, has failed
/// the test.
fn proof(planned: &[Case], hit: &[Case], deep: bool) -> std::io::Result<()> {
    let directory = std::env::var_os("ASSENT_PROOF")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/proof"), PathBuf::from);
    std::fs::create_dir_all(&directory)?;
    let by = |name: &dyn Fn(&Case) -> &'static str| {
        hit.iter().fold(BTreeMap::<&str, u64>::new(), |mut counts, case| {
            *counts.entry(name(case)).or_default() += 1;
            counts
        })
    };
    let json = serde_json::json!({
        "hit": hit.len(),
        "of": planned.len(),
        "points": hit.iter().map(|case| case.point.name).collect::<BTreeSet<_>>().len(),
        "points_of": POINTS.len(),
        "actions": by(&|case| case.action.as_str()),
        "protocols": by(&|case| case.kind.as_str()),
        "logs": by(&|case| if case.log == LogKind::Sqlite { "sqlite" } else { "postgres" }),
        "deep": deep,
    });
    std::fs::write(directory.join("crash-points.json"), format!("{json:#}\n"))?;
    let names = |cases: &[Case]| cases.iter().map(|case| (case.to_string(), case.kind)).collect::<BTreeSet<_>>();
    let met = names(hit);
    let mut rows = String::new();
    for row @ (name, kind) in &names(planned) {
        let count = u8::from(met.contains(row));
        rows.push_str(&format!("crash point\t{}\t{name}\t{count}\t1\t\n", kind.as_str()));
    }
    std::fs::write(directory.join("crash-points.tsv"), rows)?;
    eprintln!("{json}");
    Ok(())
}
