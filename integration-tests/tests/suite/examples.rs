//! The examples run as they are: the README's first participant, and the shop, whose processes are
//! killed while customers order.

use std::path::Path;
use std::time::Duration;

use integration_tests::{Database, Port, Process, Program, eventually};
use uuid::Uuid;

const DEADLINE: Duration = Duration::from_secs(120);

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path))
        .expect("a file of the repository")
}

/// A coordinator at an address that it keeps.
async fn coordinator(port: &Port, folder: &Path) -> Process {
    let log = format!("sqlite:{}", folder.join("assent.db").display());
    let serve = Program::assent().args(["serve", "--log", &log, "--listen"]).arg(port.address().to_string());
    let mut coordinator = serve.start();
    coordinator.line_with("listening", DEADLINE).await;
    coordinator
}

#[test]
fn the_readme_shows_the_first_participant_as_it_is() {
    let readme = read("README.md");
    for file in ["bank.rs", "transfer.rs"] {
        let code = read(&format!("examples/first-participant/src/bin/{file}"));
        // Its first line says how it is called, as README does in a way of its own.
        let (_, code) = code.split_once("\n\n").expect("a comment, and then code");
        assert!(
            readme.contains(code.trim()),
            "README.md does not show examples/first-participant/src/bin/{file} as it is"
        );
    }
}

#[tokio::test]
async fn the_first_participant_moves_money_or_leaves_everything_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = Port::reserve();
    let endpoint = format!("http://{}", port.address());
    let (bank_a, bank_b) = (Database::create().await, Database::create().await);
    // Before the coordinator, as it may happen.
    let bank = |name: &str, database: &Database| {
        let bank = Program::built("bank").named(name).args([name, &database.url()]);
        bank.env("ASSENT_ENDPOINT", &endpoint).start()
    };
    let mut banks = [bank("bank-a", &bank_a), bank("bank-b", &bank_b)];
    let _coordinator = coordinator(&port, folder.path()).await;
    for bank in &mut banks {
        bank.line_with("has joined", DEADLINE).await;
    }
    let transfer = async |cents: &str| {
        let finished = Program::built("transfer").arg(cents).env("ASSENT_ENDPOINT", &endpoint).run(DEADLINE).await;
        assert!(finished.status.success(), "{finished:?}");
        finished.stdout
    };
    assert_eq!(transfer("3000").await, "done\n");
    let refused = transfer("99999").await;
    assert!(refused.contains("nothing has changed") && refused.contains("insufficient funds"), "{refused}");
    let balance = async |database: &Database, account: &str| -> i64 {
        sqlx::query_scalar("select cents from account where id = $1")
            .bind(account)
            .fetch_one(&mut database.connect().await)
            .await
            .expect("a balance")
    };
    eventually("the money has moved", DEADLINE, async || {
        match (balance(&bank_a, "alice").await, balance(&bank_b, "bob").await) {
            (7_000, 13_000) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_first_participant_says_what_is_wrong_with_its_database() {
    let database = Database::create().await;
    let missing = database.url().replace(database.name(), "no_such_database");
    let finished = Program::built("bank").args(["bank-a", &missing]).run(DEADLINE).await;
    assert!(!finished.status.success(), "{finished:?}");
    assert!(finished.stderr.contains("no_such_database"), "{finished:?}");
}

/// The three services, each at an address that it keeps, with a database of its own.
struct Shop {
    databases: [Database; 3],
    services: Vec<Process>,
    orders: String,
    _ports: [Port; 3],
}

const SERVICES: [&str; 3] = ["orders", "inventory", "payments"];

impl Shop {
    async fn open(endpoint: &str) -> Self {
        let databases = [Database::create().await, Database::create().await, Database::create().await];
        let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
        let [orders, inventory, payments] = [0, 1, 2].map(|at: usize| format!("http://{}", ports[at].address()));
        let mut services = Vec::new();
        for ((name, database), port) in SERVICES.iter().zip(&databases).zip(&ports) {
            let service = Program::built(name)
                .env("DATABASE_URL", database.url())
                .env("ASSENT_ENDPOINT", endpoint)
                .env("LISTEN", port.address().to_string())
                .env("INVENTORY_URL", &inventory)
                .env("PAYMENTS_URL", &payments);
            services.push(service.start());
        }
        for service in &mut services {
            service.line_with("listening on", DEADLINE).await;
        }
        Self { databases, services, orders, _ports: ports }
    }

    fn customers(&self, orders: &str) -> Program {
        Program::built("load").arg(orders).env("ORDERS_URL", &self.orders)
    }

    /// The orders that each service knows.
    async fn known(&self) -> [Vec<Uuid>; 3] {
        let of = async |database: &Database, sql: &'static str| -> Vec<Uuid> {
            sqlx::query_scalar(sql).fetch_all(&mut database.connect().await).await.expect("a table")
        };
        [
            of(&self.databases[0], "select gtid from placed order by gtid").await,
            of(&self.databases[1], "select gtid from reservation order by gtid").await,
            of(&self.databases[2], "select gtid from charge order by gtid").await,
        ]
    }

    async fn at_least(&self, orders: usize) {
        eventually("customers order", DEADLINE, async || {
            let [placed, ..] = self.known().await;
            if placed.len() >= orders { Ok(()) } else { Err(format!("{} are placed", placed.len())) }
        })
        .await;
    }
}

#[tokio::test]
async fn an_order_is_known_to_every_service_of_the_shop_or_to_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = Port::reserve();
    let endpoint = format!("http://{}", port.address());
    let mut coordinator = coordinator(&port, folder.path()).await;
    let mut shop = Shop::open(&endpoint).await;

    let mut customers = shop.customers("200").start();
    for (orders, service) in [(10, 1), (30, 2), (50, 0)] {
        shop.at_least(orders).await;
        shop.services[service].kill();
        shop.services[service].restart();
        shop.services[service].line_with("listening on", DEADLINE).await;
    }
    shop.at_least(70).await;
    coordinator.kill();
    coordinator.restart();
    coordinator.line_with("listening", DEADLINE).await;
    assert!(customers.exit(DEADLINE).await.success(), "the customers have gone on");
    let answers = customers.line_with("placed ", DEADLINE).await;
    assert!(!answers.contains("refused 0"), "the lamps have run out: {answers}");

    // Everything is up again: no order fails.
    let finished = shop.customers("20").run(DEADLINE).await;
    assert!(finished.stdout.contains("failed before 0"), "{finished:?}");
    assert!(!finished.stdout.contains("placed 0"), "{finished:?}");

    eventually("every order is with all or none", DEADLINE, async || {
        for database in &shop.databases {
            let prepared = database.prepared_transactions().await;
            if !prepared.is_empty() {
                return Err(format!("{prepared:?} are prepared"));
            }
        }
        let [placed, reserved, charged] = shop.known().await;
        if placed == reserved && placed == charged {
            Ok(())
        } else {
            Err(format!("{placed:?} {reserved:?} {charged:?}"))
        }
    })
    .await;
    // What each service has beside its list adds up with it.
    let [_, inventory, payments] = &shop.databases;
    let sum = async |database: &Database, sql: &'static str| -> i64 {
        sqlx::query_scalar(sql).fetch_one(&mut database.connect().await).await.expect("a sum")
    };
    let items = "select (select sum(free) from stock) + (select sum(quantity) from reservation)";
    assert_eq!(sum(inventory, items).await, 1_020);
    let money = "select ((select sum(cents) from account) + (select sum(cents) from charge))::bigint";
    assert_eq!(sum(payments, money).await, 1_010_000);
}
