//! A coordinator with a log of its own, and three banks that vote: four voters, of which three are
//! a quorum.
//!
//! Nothing of the product makes a moment last. A bank is slow to vote because a row that it wants
//! is locked, the log is slow because its table is, and a message is on its way for long because a
//! relay holds it, or a network that loses it until it is healed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use assent_protocol::three_phase::participant::ELECTION_MS;
use assent_sdk::{AbortCode, Assent, Gtid, Outcome, Transaction};
use futures::future::join_all;
use integration_tests::ledger::{Booking, open_bank};
use integration_tests::postgres::{Database, Postgres};
use integration_tests::{Network, Port, Process, Program, Relay, eventually};
use serde_json::Value;
use sqlx::{PgPool, Postgres as PgDriver};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

pub(super) const BANKS: [&str; 3] = ["bank-a", "bank-b", "bank-c"];
/// How long anything may take that is not an election.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);
/// Five election timeouts, each as long as chance may make it.
pub(super) const FIVE_ELECTIONS: Duration = Duration::from_millis(5 * (ELECTION_MS + ELECTION_MS / 2));
/// Rows or a table that somebody has locked; dropped they are free again.
pub(super) type Lock = sqlx::Transaction<'static, PgDriver>;

pub(super) const ACCOUNTS: i32 = 1_000;
const BALANCE: i64 = 1_000;

/// A time in units of the election timeout.
pub(super) fn in_elections(time: Duration) -> String {
    format!("{:.1} election timeouts", time.as_secs_f64() * 1_000.0 / ELECTION_MS as f64)
}

/// Hosts of a world on a network. Each runs a process.
pub(super) const HOSTS: [&str; 4] = [COORDINATOR, BANKS[0], BANKS[1], BANKS[2]];
pub(super) const COORDINATOR: &str = "coordinator";
/// Places in that network that are the test's own process: the log, the databases of the banks, and
/// who begins transactions.
pub(super) const OWN: [&str; 3] = [LOG, DATABASES, INITIATOR];
pub(super) const LOG: &str = "log";
const DATABASES: &str = "databases";
const INITIATOR: &str = "initiator";
/// Where all listen on hosts of their own.
const PORT: u16 = 7_420;

/// Where the processes of a world run.
#[derive(Clone)]
pub(super) enum Site {
    /// All on loopback, with a relay between each bank and the coordinator.
    Loopback,
    /// Each on its host.
    Network(Network),
}

/// What is between a bank and the coordinator. Seen from here the bank is the client: it dials.
pub(super) enum Link {
    Relay(Relay),
    Network { network: Network, bank: &'static str },
}

impl Link {
    /// Holds back what the bank says from now on, or lets it go.
    pub(super) fn hold_client(&self, is_held: bool) {
        match self {
            Self::Relay(relay) => relay.hold_client(is_held),
            Self::Network { network, bank } if is_held => network.cut(bank, COORDINATOR),
            Self::Network { network, bank } => network.heal(bank, COORDINATOR),
        }
    }

    /// Holds back what the coordinator says from now on, or lets it go.
    pub(super) fn hold_server(&self, is_held: bool) {
        match self {
            Self::Relay(relay) => relay.hold_server(is_held),
            Self::Network { network, bank } if is_held => network.cut(COORDINATOR, bank),
            Self::Network { network, bank } => network.heal(COORDINATOR, bank),
        }
    }

    /// Nothing comes through any more of what was said, and of what is said on connections that are
    /// open now.
    pub(super) fn cut(&self) {
        match self {
            Self::Relay(relay) => relay.cut(),
            Self::Network { .. } => {
                self.hold_client(true);
                self.hold_server(true);
            }
        }
    }
}

/// A bank: a process, its database with the voter's table in it, and its way to the coordinator.
pub(super) struct Bank {
    pub(super) name: &'static str,
    pub(super) pool: PgPool,
    pub(super) link: Link,
    pub(super) process: Process,
    /// Where it listens for its peers.
    pub(super) address: SocketAddr,
    database: Database,
    _database_relay: Option<Relay>,
    _port: Option<Port>,
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
    async fn start(name: &'static str, site: &Site, coordinator: SocketAddr) -> Self {
        let database = Database::create().await;
        open_bank(&mut database.connect().await, ACCOUNTS, BALANCE).await.expect("the bank's tables");
        let pool = database.pool(3).await;
        let program = Program::built("test-participant").named(name);
        let (link, dialled, address, port, database_relay) = match site {
            Site::Loopback => {
                let (relay, port) = (Relay::to(coordinator).await, Port::reserve());
                let dialled = relay.address();
                (Link::Relay(relay), dialled, port.address(), Some(port), None)
            }
            Site::Network(network) => {
                let relay = network.way_out(DATABASES, database.address().await).await;
                let address = SocketAddr::from((network.address(name), PORT));
                (Link::Network { network: network.clone(), bank: name }, coordinator, address, None, Some(relay))
            }
        };
        let url = database_relay.as_ref().map_or_else(|| database.url(), |relay| database.url_at(relay.address()));
        let process = site
            .on(name, program.args(["bank", name, &format!("http://{dialled}"), &url]))
            .args([address.to_string(), format!("http://{address}")])
            .start();
        Self { name, pool, link, process, address, database, _database_relay: database_relay, _port: port }
    }

    /// Starts its process again, which tells its peers to find it at another address than where it
    /// listens.
    pub(super) async fn starts_with_address(&mut self, address: &str) {
        let Link::Relay(relay) = &self.link else { panic!("a bank on loopback") };
        self.process.kill();
        self.process = Program::built("test-participant")
            .named(self.name)
            .args(["bank", self.name, &format!("http://{}", relay.address()), &self.database.url()])
            .args([&self.address.to_string(), address])
            .start();
        self.process.line_with("joined", DEADLINE).await;
    }

    pub(super) async fn kept(&self, gtid: Gtid) -> Kept {
        // What is prepared belongs to no snapshot. Read first, a commit that takes it away is in
        // the snapshot that follows.
        let prepared = "select count(*) from pg_prepared_xacts where database = current_database()";
        let prepared = sqlx::query_scalar(prepared).fetch_one(&self.pool).await.expect("the bank's database answers");
        let (standing, is_booked) = sqlx::query_as(
            "select (select standing from assent_voter where gtid = $1) as standing,
                    exists (select from ledger where gtid = $1) as is_booked",
        )
        .bind(gtid.as_uuid())
        .fetch_one(&self.pool)
        .await
        .expect("the bank's database answers");
        Kept { standing, is_booked, prepared }
    }

    /// Waits until its voter stands there; an error, if it has ended it instead.
    pub(super) async fn stands(&self, gtid: Gtid, expected: &str) -> Result<(), String> {
        eventually(&format!("{} has {expected}", self.name), DEADLINE, async || {
            let kept = self.kept(gtid).await;
            let seen = format!("{} has {kept:?}", self.name);
            if kept.standing.as_deref() == Some(expected) {
                Ok(Ok(()))
            } else if kept.end().is_some() {
                Ok(Err(seen))
            } else {
                Err(seen)
            }
        })
        .await
    }

    /// An account is locked, so that the bank cannot vote on it before this ends.
    pub(super) async fn is_slow(&self, account: i32) -> Lock {
        let mut lock = self.pool.begin().await.expect("a transaction");
        let sql = "select from account where id = $1 for update";
        sqlx::query(sql).bind(account).execute(&mut *lock).await.expect("locked");
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

/// A transfer from an account of the first bank to those of the others.
pub(super) struct Transfer {
    pub(super) gtid: Gtid,
    /// What the initiator is told, however often it has to ask.
    pub(super) told: JoinHandle<Outcome>,
}

impl Transfer {
    pub(super) fn begin(transaction: Transaction) -> Self {
        let gtid = transaction.gtid();
        let told = tokio::spawn(async move { transaction.commit().await.expect("no refusal") });
        Self { gtid, told }
    }
}

/// All of them, and somebody who begins transactions.
pub(super) struct World {
    pub(super) name: &'static str,
    pub(super) endpoint: String,
    pub(super) log: Database,
    pub(super) coordinator: Process,
    pub(super) banks: Vec<Bank>,
    pub(super) assent: Assent,
    _relays: Vec<Relay>,
    _port: Option<Port>,
}

impl Site {
    fn on(&self, host: &str, program: Program) -> Program {
        match self {
            Self::Loopback => program,
            Self::Network(network) => network.on(host, program),
        }
    }
}

impl World {
    /// Starts a coordinator with a log in this server, and the banks.
    pub(super) async fn start(name: &'static str, log: &Postgres) -> Self {
        Self::start_at(name, log, &Site::Loopback, &[]).await
    }

    /// As [`start`](Self::start), somewhere else, and with settings of the coordinator.
    pub(super) async fn start_at(name: &'static str, log: &Postgres, site: &Site, settings: &[&str]) -> Self {
        let log = log.create_database().await;
        let migrated = Program::assent().args(["migrate", "--log", &log.url()]).run(DEADLINE).await;
        assert!(migrated.status.success(), "the log is migrated: {}", migrated.stderr);
        let mut relays = Vec::new();
        let (address, log_url, endpoint, port) = match site {
            Site::Loopback => {
                let port = Port::reserve();
                (port.address(), log.url(), port.address(), Some(port))
            }
            Site::Network(network) => {
                let address = SocketAddr::from((network.address(COORDINATOR), PORT));
                relays.push(network.way_out(LOG, log.address().await).await);
                relays.push(network.way_in(INITIATOR, address).await);
                (address, log.url_at(relays[0].address()), relays[1].address(), None)
            }
        };
        let serve = Program::assent()
            .named(format!("{name}: coordinator"))
            .args(["serve", "--listen", &address.to_string(), "--log", &log_url, "--replica", "test", "--insecure"])
            .args(["--log-filter", "warn"])
            .args(settings.iter().flat_map(|setting| ["--set", *setting]));
        let mut coordinator = site.on(COORDINATOR, serve).start();
        coordinator.line_with("listening", DEADLINE).await;
        let mut banks = join_all(BANKS.map(|bank| Bank::start(bank, site, address))).await;
        for bank in &mut banks {
            bank.process.line_with("joined", DEADLINE).await;
        }
        let endpoint = format!("http://{endpoint}");
        let assent = Assent::dial(&endpoint).patience(DEADLINE * 5).connect().await.expect("the coordinator answers");
        Self { name, endpoint, log, coordinator, banks, assent, _relays: relays, _port: port }
    }

    /// The bank of this name.
    pub(super) fn bank(&self, name: &str) -> &Bank {
        self.banks.iter().find(|bank| bank.name == name).expect("a bank")
    }

    /// A transfer between the accounts of this number.
    pub(super) fn transaction(&self, account: i32) -> Transaction {
        let bookings = BANKS.into_iter().zip([-2, 1, 1]);
        bookings.fold(self.assent.transaction(), |transaction, (bank, amount)| {
            transaction.branch_json(bank, &Booking { account, amount })
        })
    }

    /// Asks for a transfer, and returns when the last votes are about to be given and what the
    /// coordinator says afterwards is held on its way to some.
    pub(super) async fn transfer_held(&self, transaction: Transaction, account: i32, held: &[&str]) -> Transfer {
        let locks = join_all(self.banks.iter().map(|bank| bank.is_slow(account))).await;
        let transfer = Transfer::begin(transaction);
        for bank in &self.banks {
            somebody_waits(&format!("{} is at work", bank.name), &bank.pool).await;
            bank.link.hold_server(held.contains(&bank.name));
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

    /// Waits until all banks have ended it, and answers how, and how long that took from `since`
    /// on.
    pub(super) async fn ends(&self, gtid: Gtid, since: Instant, deadline: Duration) -> (String, Duration) {
        self.ends_at(&BANKS, gtid, since, deadline).await
    }

    /// Waits until these banks have ended it, and answers as [`ends`](Self::ends).
    pub(super) async fn ends_at(
        &self,
        banks: &[&str],
        gtid: Gtid,
        since: Instant,
        deadline: Duration,
    ) -> (String, Duration) {
        let left = deadline.saturating_sub(since.elapsed());
        let kept = eventually(&format!("{}: {banks:?} have ended it", self.name), left, async || {
            let kept = join_all(banks.iter().map(|bank| self.bank(bank).kept(gtid))).await;
            if kept.iter().all(|kept| kept.end().is_some()) { Ok(kept) } else { Err(format!("{kept:?}")) }
        })
        .await;
        let took = since.elapsed();
        assert!(kept.iter().all(|other| other == &kept[0]), "{}: all alike: {kept:?}", self.name);
        let end = kept[0].end().expect("an end").to_owned();
        assert_eq!(kept[0].is_booked, end == "committed", "{}: the ledgers agree with it", self.name);
        (end, took)
    }

    /// Nothing ends at these banks until then.
    pub(super) async fn nothing_ends(&self, gtid: Gtid, banks: &[&str], until: Instant) {
        loop {
            for bank in banks.iter().map(|name| self.bank(name)) {
                let kept = bank.kept(gtid).await;
                let is_open = kept.prepared == 1 && !kept.is_booked && kept.end().is_none();
                assert!(is_open, "{} of {}: {kept:?}", bank.name, self.name);
            }
            if Instant::now() >= until {
                return;
            }
            sleep_until((Instant::now() + Duration::from_millis(500)).into()).await;
        }
    }

    /// Starts the coordinator again, and waits until all is over.
    pub(super) async fn comes_back(&mut self, transfer: Transfer, end: &str, protocol: &str) {
        self.coordinator.restart();
        self.coordinator.line_with("listening", DEADLINE).await;
        self.is_over(transfer, end, protocol).await;
    }

    /// Waits until its log is closed and everybody says the same.
    pub(super) async fn is_over(&self, transfer: Transfer, end: &str, protocol: &str) {
        let Transfer { gtid, told } = transfer;
        let outcome = tokio::time::timeout(DEADLINE, told).await;
        let outcome = outcome.unwrap_or_else(|_| panic!("{}: the initiator is told", self.name)).expect("no panic");
        assert_eq!(outcome.is_committed(), end == "committed", "{}: {outcome:?}", self.name);
        // What no coordinator had logged, a new one aborts without a row.
        let is_forgotten = matches!(&outcome, Outcome::Aborted(reason) if reason.code == AbortCode::Forgotten);
        if !is_forgotten {
            let shown = self.shows(gtid, |shown| shown["state"] == end).await;
            assert_eq!(shown["protocol"], protocol, "{shown}");
        }
        crate::chaos::nothing_is_open(&self.log.pool(1).await).await;
        let kept = self.kept(gtid).await;
        assert!(
            kept.iter().all(|kept| kept.is_booked == (end == "committed") && kept.prepared == 0),
            "{}: {kept:?}",
            self.name
        );
    }

    /// Waits until nothing is open in the log, and nothing prepared at a bank.
    pub(super) async fn nothing_is_left(&self) {
        crate::chaos::nothing_is_open(&self.log.pool(1).await).await;
        for bank in &self.banks {
            crate::chaos::nothing_is_prepared(bank.name, &bank.database, DEADLINE).await;
        }
    }

    /// Waits until the voters have deleted their records of it, since everybody has ended it.
    pub(super) async fn is_forgotten(&self, gtid: Gtid) {
        // A minute passes until they are told once more, if the first time was in vain.
        eventually(&format!("{}: the voters have forgotten it", self.name), DEADLINE * 3, async || {
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
