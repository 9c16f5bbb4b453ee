//! A participant that was written from the protos alone, in Python, keeps the rules of `docs/wire.md`:
//! through SIGKILL of either side, and when it stands still while its branch is aborted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use assent_sdk::{Assent, Outcome};
use futures::StreamExt as _;
use integration_tests::{Database, Port, Process, Program, eventually};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(120);
/// Accounts of both banks beside those that they make, each with so many cents. Transfers at the same time are of different
/// accounts: two that lock the same two rows in opposite order would wait for each other until they time out.
const ACCOUNTS: i64 = 40;
const CENTS_EACH: i64 = 1_000;
/// What both banks have together.
const CENTS: i64 = 40_000 + 2 * ACCOUNTS * CENTS_EACH;

fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python-participant").join(file)
}

/// A Python with what the participant needs; made once, and kept beside the binaries of this workspace.
async fn python() -> PathBuf {
    let binaries = integration_tests::process::executable("assent");
    let directory = binaries.parent().expect("a directory").join("python-participant");
    let lock = std::fs::File::create(directory.with_extension("lock")).expect("a lock file");
    let locking = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock));
    // Tests run at the same time, in processes of their own.
    let _lock = locking.await.expect("no panic").expect("a lock");
    let made = Program::at(example("set-up")).arg(&directory).run(Duration::from_secs(600)).await;
    assert!(made.status.success(), "{made:?}");
    directory.join("bin/python")
}

/// A coordinator, a bank in Python and one in Rust.
struct World {
    _folder: tempfile::TempDir,
    endpoint: String,
    coordinator: Process,
    snake: Process,
    snake_database: Database,
    _bank: Process,
    bank_database: Database,
    _port: Port,
}

impl World {
    async fn open() -> Self {
        let (folder, port) = (tempfile::tempdir().expect("a folder"), Port::reserve());
        let endpoint = format!("http://{}", port.address());
        let log = format!("sqlite:{}", folder.path().join("assent.db").display());
        let serve = Program::assent().args(["serve", "--log", &log, "--listen"]).arg(port.address().to_string());
        let mut coordinator = serve.start();
        coordinator.line_with("listening", DEADLINE).await;
        let (snake_database, bank_database) = (Database::create().await, Database::create().await);
        let snake = Program::at(python().await).named("bank.py").arg(example("bank.py"));
        let mut snake = snake.args(["snake", &snake_database.url()]).arg(port.address().to_string()).start();
        let bank = Program::built("bank").args(["bank", &bank_database.url()]).env("ASSENT_ENDPOINT", &endpoint);
        let mut bank = bank.start();
        snake.line_with("has joined", DEADLINE).await;
        bank.line_with("has joined", DEADLINE).await;
        for database in [&snake_database, &bank_database] {
            sqlx::query("insert into account select number::text, $2 from generate_series(0, $1 - 1) number")
                .bind(ACCOUNTS)
                .bind(CENTS_EACH)
                .execute(&mut database.connect().await)
                .await
                .expect("accounts");
        }
        Self { _folder: folder, endpoint, coordinator, snake, snake_database, _bank: bank, bank_database, _port: port }
    }

    async fn sum(&self) -> i64 {
        let of = async |database: &Database| -> i64 {
            sqlx::query_scalar("select sum(cents)::bigint from account")
                .fetch_one(&mut database.connect().await)
                .await
                .expect("a sum")
        };
        of(&self.snake_database).await + of(&self.bank_database).await
    }

    /// How many branches the bank in Python has ended.
    async fn ended(&self) -> i64 {
        sqlx::query_scalar("select count(*) from branch_record")
            .fetch_one(&mut self.snake_database.connect().await)
            .await
            .expect("a count")
    }

    async fn has_settled(&self) {
        eventually("every branch has ended", DEADLINE, async || {
            let mut prepared = self.snake_database.prepared_transactions().await;
            prepared.extend(self.bank_database.prepared_transactions().await);
            match (prepared.is_empty(), self.sum().await) {
                (true, CENTS) => Ok(()),
                (_, sum) => Err(format!("{sum} cents; {prepared:?} are prepared")),
            }
        })
        .await;
    }
}

async fn transfer(initiator: &Assent, number: i64) -> Option<bool> {
    let cents = if number % 2 == 0 { number % 7 } else { -(number % 5) };
    let account = (number % ACCOUNTS).to_string();
    let transfer = initiator
        .transaction()
        .timeout(Duration::from_secs(3))
        .branch_json("snake", &json!({ "account": account, "cents": cents }))
        .branch_json("bank", &json!({ "account": account, "cents": -cents }));
    match transfer.commit().await {
        Ok(Outcome::Committed) => Some(true),
        Ok(Outcome::Aborted(_)) => Some(false),
        Ok(Outcome::InDoubt { .. }) | Err(_) => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_participant_in_python_survives_sigkill_of_either_side() {
    let mut world = World::open().await;
    let initiator = Assent::dial(&world.endpoint).connect().await.expect("the coordinator answers");
    for round in 0..2 {
        let before = world.ended().await;
        let transfers = futures::stream::iter(0..40).map(|number| transfer(&initiator, round * 40 + number));
        let transfers = async { transfers.buffer_unordered(8).collect::<Vec<_>>().await };
        let disaster = async {
            // In the middle of it.
            eventually("the bank in Python is at work", DEADLINE, async || match world.ended().await - before {
                0..5 => Err("it has ended few branches"),
                _ => Ok(()),
            })
            .await;
            let (victim, line) = match round {
                0 => (&mut world.snake, "has joined"),
                _ => (&mut world.coordinator, "listening"),
            };
            victim.kill();
            victim.restart();
            victim.line_with(line, DEADLINE).await;
        };
        let (outcomes, ()) = tokio::join!(transfers, disaster);
        assert!(outcomes.contains(&Some(true)), "round {round}: none has committed: {outcomes:?}");
    }
    world.has_settled().await;
    eventually("it goes on as before", DEADLINE, async || match transfer(&initiator, 2).await {
        Some(true) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    world.has_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_participant_in_python_refuses_and_names_what_it_cannot_read() {
    let world = World::open().await;
    let initiator = Assent::dial(&world.endpoint).connect().await.expect("the coordinator answers");
    for (payload, why) in [
        (json!({ "account": "alice", "cents": -99_999 }), "insufficient funds"),
        (json!({ "account": "alice" }), "payload: KeyError('cents')"),
    ] {
        let outcome =
            initiator.transaction().branch_json("snake", &payload).branch_json("bank", &payload).commit().await;
        let Ok(Outcome::Aborted(reason)) = outcome else { panic!("{outcome:?}") };
        assert!(reason.to_string().contains(why) || reason.to_string().contains("bank"), "{reason}");
    }
    let alone = initiator.transaction().branch_json("snake", &json!({ "account": "alice" })).commit().await;
    let Ok(Outcome::Aborted(reason)) = alone else { panic!("{alone:?}") };
    assert!(reason.to_string().contains("payload: KeyError('cents')"), "{reason}");
    world.has_settled().await;
}

/// It stands still while the order to prepare is on its way to it, and for longer than the transaction
/// lasts. When it goes on, it finds both orders, and takes them at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn an_abort_fences_a_prepare_that_still_runs_in_python() {
    let world = World::open().await;
    let initiator = Assent::dial(&world.endpoint).connect().await.expect("the coordinator answers");
    world.snake.pause();
    let mut transfers = futures::stream::FuturesUnordered::new();
    for number in 0..20 {
        let payload = json!({ "account": if number % 2 == 0 { "alice" } else { "bob" }, "cents": 1 });
        let transfer = initiator.transaction().timeout(Duration::from_millis(500));
        transfers.push(transfer.branch_json("snake", &payload).branch_json("bank", &payload).commit());
    }
    while let Some(outcome) = transfers.next().await {
        assert!(matches!(outcome, Ok(Outcome::Aborted(_))), "{outcome:?}");
    }
    world.snake.resume();
    eventually("each abort stands, and nothing is prepared", DEADLINE, async || {
        let (aborted, all): (i64, i64) =
            sqlx::query_as("select count(*) filter (where is_aborted), count(*) from branch_record")
                .fetch_one(&mut world.snake_database.connect().await)
                .await
                .expect("the records");
        match (aborted, all, world.snake_database.prepared_transactions().await.as_slice()) {
            (20, 20, []) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    world.has_settled().await;
}
