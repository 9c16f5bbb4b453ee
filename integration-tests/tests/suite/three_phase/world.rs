//! A coordinator with a log of its own, and three banks that vote: four voters, of which three are a quorum.
//!
//! Nothing of the product makes a moment last. A bank is slow to vote because a row that it wants is locked, the log is slow because its
//! table is, and a message is on its way for long because a relay holds it.

use std::time::{Duration, Instant};

use assent_protocol::three_phase::participant::ELECTION_MS;
use assent_sdk::{Assent, Gtid, Outcome, Protocol};
use futures::future::join_all;
use integration_tests::ledger::{Booking, open_bank};
use integration_tests::postgres::{Database, Postgres};
use integration_tests::{Port, Process, Program, Relay, eventually};
use serde_json::Value;
use sqlx::{Executor as _, PgPool, Postgres as PgDriver, Transaction};
use tokio::task::JoinHandle;

pub(super) const BANKS: [&str; 3] = ["bank-a", "bank-b", "bank-c"];
/// How long anything may take that is not an election.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);
/// Five election timeouts, each as long as chance may make it.
pub(super) const FIVE_ELECTIONS: Duration = Duration::from_millis(5 * (ELECTION_MS + ELECTION_MS / 2));
/// Rows or a table that somebody has locked; dropped they are free again.
pub(super) type Lock = Transaction<'static, PgDriver>;

pub(super) const ACCOUNTS: i32 = 1_000;
const BALANCE: i64 = 1_000;

/// A time in units of the election timeout.
pub(super) fn in_elections(time: Duration) -> String {
    format!("{:.1} election timeouts", time.as_secs_f64() * 1_000.0 / ELECTION_MS as f64)
}

/// A bank: a process, its database with the voter's table in it, and a relay on its way to the coordinator.
pub(super) struct Bank {
    pub(super) name: &'static str,
    pub(super) pool: PgPool,
    pub(super) relay: Relay,
    pub(super) process: Process,
    _database: Database,
    _port: Port,
}

/// What a bank's database says of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// Where its voter stands, if it has a record.
    pub(super) standing: Option<String>,
    /// It is in the ledger.
    pub(super) is_booked: bool,
    /// So many branches are prepared, of this transaction and of others.
    pub(super) prepared: i64,
}

impl Kept {
    /// How it has ended, if it has.
    pub(super) fn end(&self) -> Option<&str> {
        let standing = self.standing.as_deref().filter(|_| self.prepared == 0)?;
        ["committed", "aborted"].contains(&standing).then_some(standing)
    }
}

impl Bank {
    async fn start(name: &'static str, coordinator: &Port) -> Self {
        let database = Database::create().await;
        open_bank(&mut database.connect().await, ACCOUNTS, BALANCE).await.expect("the bank's tables");
        let (relay, port) = (Relay::to(coordinator.address()).await, Port::reserve());
        let process = Program::built("test-participant")
            .named(name)
            .args(["bank", name, &format!("http://{}", relay.address()), &database.url()])
            .args([port.address().to_string(), format!("http://{}", port.address())])
            .start();
        let pool = database.pool(3).await;
        Self { name, pool, relay, process, _database: database, _port: port }
    }

    pub(super) async fn kept(&self, gtid: Gtid) -> Kept {
        let (standing, is_booked, prepared) = sqlx::query_as(
            "select (select standing from assent_voter where gtid = $1) as standing,
                    exists (select from ledger where gtid = $1) as is_booked,
                    (select count(*) from pg_prepared_xacts where database = current_database()) as prepared",
        )
        .bind(gtid.as_uuid())
        .fetch_one(&self.pool)
        .await
        .expect("the bank's database answers");
        Kept { standing, is_booked, prepared }
    }

    pub(super) async fn stands(&self, gtid: Gtid, expected: &str) {
        eventually(&format!("{} has {expected}", self.name), DEADLINE, async || match self.kept(gtid).await {
            kept if kept.standing.as_deref() == Some(expected) => Ok(()),
            kept => Err(format!("{kept:?}")),
        })
        .await;
    }

    /// Its first account is locked, so that it cannot vote before this ends.
    pub(super) async fn is_slow(&self) -> Lock {
        let mut lock = self.pool.begin().await.expect("a transaction");
        lock.execute("select from account where id = 1 for update").await.expect("locked");
        lock
    }
}

/// Waits until somebody waits for a lock in a database.
pub(super) async fn somebody_waits(what: &str, database: &PgPool) {
    eventually(what, DEADLINE, async || {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_one(database)
        .await
        .map_err(|error| error.to_string())?;
        if waiting > 0 { Ok(()) } else { Err("nobody waits") }.map_err(str::to_owned)
    })
    .await;
}

/// A transfer from the first account of the first bank to those of the others.
pub(super) struct Transfer {
    pub(super) gtid: Gtid,
    /// What the initiator is told, however often it has to ask.
    pub(super) told: JoinHandle<Outcome>,
}

/// All of them, and somebody who begins transactions.
pub(super) struct World {
    pub(super) name: &'static str,
    pub(super) endpoint: String,
    pub(super) log: Database,
    pub(super) coordinator: Process,
    pub(super) banks: Vec<Bank>,
    pub(super) assent: Assent,
    _port: Port,
}

impl World {
    /// Starts a coordinator with a log in this server, and the banks.
    pub(super) async fn start(name: &'static str, log: &Postgres) -> Self {
        let log = log.create_database().await;
        let migrated = Program::assent().args(["migrate", "--log", &log.url()]).run(DEADLINE).await;
        assert!(migrated.status.success(), "the log is migrated: {}", migrated.stderr);
        let port = Port::reserve();
        let listen = port.address().to_string();
        let mut coordinator = Program::assent()
            .named(format!("{name}: coordinator"))
            .args(["serve", "--listen", &listen, "--log", &log.url(), "--replica", "test", "--log-filter", "warn"])
            .start();
        coordinator.line_with("listening", DEADLINE).await;
        let mut banks = join_all(BANKS.map(|bank| Bank::start(bank, &port))).await;
        for bank in &mut banks {
            bank.process.line_with("joined", DEADLINE).await;
        }
        let endpoint = format!("http://{listen}");
        let assent = Assent::dial(&endpoint).patience(DEADLINE * 5).connect().await.expect("the coordinator answers");
        Self { name, endpoint, log, coordinator, banks, assent, _port: port }
    }

    pub(super) fn transfer(&self, protocol: Protocol) -> Transfer {
        let mut transaction = self.assent.transaction().protocol(protocol).timeout(DEADLINE * 5);
        for (bank, amount) in BANKS.into_iter().zip([-2, 1, 1]) {
            transaction = transaction.branch_json(bank, &Booking { account: 1, amount });
        }
        let gtid = transaction.gtid();
        let told = tokio::spawn(async move { transaction.commit().await.expect("no refusal") });
        Transfer { gtid, told }
    }

    /// Asks for a transfer, and returns when the last votes are about to be given and what the coordinator says afterwards is held on its
    /// way to some.
    pub(super) async fn transfer_held(&self, protocol: Protocol, held: &[&str]) -> Transfer {
        let locks = join_all(self.banks.iter().map(Bank::is_slow)).await;
        let transfer = self.transfer(protocol);
        for bank in &self.banks {
            somebody_waits(&format!("{} is at work", bank.name), &bank.pool).await;
            bank.relay.hold_server(held.contains(&bank.name));
        }
        for lock in locks {
            lock.rollback().await.expect("unlocked");
        }
        transfer
    }

    /// Waits until the log has a row, as it has once all have voted.
    pub(super) async fn is_in_the_log(&self, gtid: Gtid) {
        let log = self.log.pool(1).await;
        eventually("it is in the log", DEADLINE, async || {
            let rows: i64 = sqlx::query_scalar("select count(*) from assent.open_transaction where gtid = $1")
                .bind(gtid.as_uuid())
                .fetch_one(&log)
                .await
                .map_err(|error| error.to_string())?;
            if rows == 1 { Ok(()) } else { Err("no row".to_owned()) }
        })
        .await;
    }

    /// What every bank keeps.
    pub(super) async fn kept(&self, gtid: Gtid) -> Vec<Kept> {
        join_all(self.banks.iter().map(|bank| bank.kept(gtid))).await
    }

    /// Waits until all banks have ended it, and answers how, and how long that took from `since` on.
    pub(super) async fn ends(&self, gtid: Gtid, since: Instant, deadline: Duration) -> (String, Duration) {
        let left = deadline.saturating_sub(since.elapsed());
        let kept = eventually(&format!("{}: all have ended it", self.name), left, async || {
            let kept = self.kept(gtid).await;
            if kept.iter().all(|kept| kept.end().is_some()) { Ok(kept) } else { Err(format!("{kept:?}")) }
        })
        .await;
        let took = since.elapsed();
        assert!(kept.iter().all(|other| other == &kept[0]), "{}: all alike: {kept:?}", self.name);
        let end = kept[0].end().expect("an end").to_owned();
        assert_eq!(kept[0].is_booked, end == "committed", "{}: the ledgers agree with it", self.name);
        (end, took)
    }

    /// Starts the coordinator again, and waits until its log is closed and everybody says the same.
    pub(super) async fn comes_back(&mut self, transfer: Transfer, end: &str, protocol: &str) {
        self.coordinator.restart();
        self.coordinator.line_with("listening", DEADLINE).await;
        let Transfer { gtid, told } = transfer;
        let outcome = tokio::time::timeout(DEADLINE, told).await;
        let outcome = outcome.unwrap_or_else(|_| panic!("{}: the initiator is told", self.name)).expect("no panic");
        assert_eq!(outcome.is_committed(), end == "committed", "{}: {outcome:?}", self.name);
        let shown = self.shows(gtid, |shown| shown["state"] == end).await;
        assert_eq!(shown["protocol"], protocol, "{shown}");
        crate::chaos::nothing_is_open(&self.log.pool(1).await).await;
        let kept = self.kept(gtid).await;
        assert!(
            kept.iter().all(|kept| kept.is_booked == (end == "committed") && kept.prepared == 0),
            "{}: {kept:?}",
            self.name
        );
    }

    /// Waits until the voters have deleted their records of it, since everybody has ended it.
    pub(super) async fn is_forgotten(&self, gtid: Gtid) {
        eventually(&format!("{}: the voters have forgotten it", self.name), DEADLINE, async || {
            let kept = self.kept(gtid).await;
            if kept.iter().all(|kept| kept.standing.is_none()) { Ok(()) } else { Err(format!("{kept:?}")) }
        })
        .await;
    }

    /// Waits until `assent tx show` shows it so.
    pub(super) async fn shows(&self, gtid: Gtid, is_so: impl Fn(&Value) -> bool) -> Value {
        let gtid = gtid.to_string();
        eventually(&format!("{}: `assent tx show` says so", self.name), DEADLINE, async || {
            let arguments = ["tx", "show", &gtid, "--endpoint", &self.endpoint, "--output", "json"];
            let shown = Program::assent().args(arguments).run(DEADLINE).await;
            match serde_json::from_str::<Value>(&shown.stdout) {
                Ok(value) if is_so(&value) => Ok(value),
                Ok(_) | Err(_) => {
                    // Each look is a process.
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    Err(format!("{}{}", shown.stdout, shown.stderr))
                }
            }
        })
        .await
    }
}
