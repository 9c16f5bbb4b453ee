//! The processes and databases that a dump is made of, and what brings them into a state.

use std::collections::BTreeMap;
use std::path::Path;

use assent::log::verify::verify;
use assent_proto::v1::ListParticipantsRequest;
use assent_proto::v1::admin_service_client::AdminServiceClient;
use assent_sdk::saga::SagaBuilder;
use assent_sdk::{Assent, Gtid, Protocol, Transaction};
use integration_tests::ledger::{Booking, Errand};
use integration_tests::postgres::{Database, Postgres};
use integration_tests::process::{Process, Program};
use integration_tests::{Port, eventually};
use serde_json::Value;
use sqlx::{PgPool, Postgres as PgDriver};
use tokio::task::JoinHandle;

use super::dump::{self, DEADLINE, End, Expected, Kind, LogKind, LogPlace, Manifest};

pub(super) const VARIABLE: &str = "ASSENT_CRASH_POINT";

/// Who takes part. `desk` is in this process, and has its tables only.
const MEMBERS: [(&str, Kind); 24] = [
    ("bank-a", Kind::Bank),
    ("bank-b", Kind::Bank),
    ("bank-c", Kind::Bank),
    ("bank-d", Kind::Bank),
    ("bank-e", Kind::Bank),
    ("bank-f", Kind::Bank),
    (DESK, Kind::Bank),
    ("till-a", Kind::Till),
    ("till-b", Kind::Till),
    ("till-c", Kind::Till),
    ("safe-a", Kind::Voter),
    ("safe-b", Kind::Voter),
    ("safe-c", Kind::Voter),
    ("safe-d", Kind::Voter),
    ("vault-a", Kind::Voter),
    ("vault-b", Kind::Voter),
    ("vault-c", Kind::Voter),
    ("chest-a", Kind::Voter),
    ("chest-b", Kind::Voter),
    ("chest-c", Kind::Voter),
    ("clerk-a", Kind::Clerk),
    ("clerk-b", Kind::Clerk),
    ("clerk-c", Kind::Clerk),
    ("clerk-d", Kind::Clerk),
];
pub(super) const DESK: &str = "desk";

/// A participant: its process, if it has one, and its database.
pub(super) struct Member {
    pub(super) kind: Kind,
    pub(super) database: Database,
    pub(super) pool: PgPool,
    pub(super) process: Option<Process>,
    pub(super) port: Option<Port>,
}

/// All that will be dumped, and what is known of it.
pub(super) struct World {
    pub(super) log: LogPlace,
    pub(super) endpoint: String,
    pub(super) coordinator: Process,
    pub(super) members: BTreeMap<&'static str, Member>,
    pub(super) assent: Assent,
    /// The account that the next transaction moves money of: each has one of its own, so none waits
    /// for another.
    pub(super) account: i32,
    /// What each branch books.
    pub(super) bookings: BTreeMap<(Gtid, &'static str), Booking>,
    pub(super) transactions: Vec<Expected>,
    /// Those who still wait for an answer.
    pub(super) waiting: Vec<JoinHandle<()>>,
    _port: Port,
}

impl World {
    pub(super) async fn begin(kind: LogKind, server: &Postgres) -> Self {
        let log = LogPlace::empty(kind, server).await;
        let migrated = Program::assent().args(["migrate", "--log", &log.url()]).run(DEADLINE).await;
        assert!(migrated.status.success(), "the log is migrated: {}", migrated.stderr);
        let port = Port::reserve();
        let (listen, endpoint) = (port.address().to_string(), format!("http://{}", port.address()));
        let mut coordinator = Program::assent()
            .named("coordinator")
            .args(["serve", "--listen", &listen, "--log", &log.url(), "--replica", "test", "--log-filter", "error"])
            .args(["--set", "session.heartbeat_interval=200ms", "--set", "session.silence_max=1s"])
            .start();
        coordinator.line_with("listening", DEADLINE).await;
        let mut members = BTreeMap::new();
        for (name, kind) in MEMBERS {
            let database = server.create_database().await;
            let pool = database.pool(2).await;
            dump::open(kind, &database).await;
            dump::install(kind, &pool).await;
            let port = (kind == Kind::Voter).then(Port::reserve);
            let process = (name != DESK).then(|| super::participant(kind, name, &endpoint, &database, port.as_ref()));
            members.insert(name, Member { kind, database, pool, process, port });
        }
        for process in members.values_mut().filter_map(|member| member.process.as_mut()) {
            process.line_with("joined", DEADLINE).await;
        }
        let assent = Assent::dial(&endpoint).patience(DEADLINE).connect().await.expect("the coordinator answers");
        Self {
            log,
            endpoint,
            coordinator,
            members,
            assent,
            account: 0,
            bookings: BTreeMap::new(),
            transactions: Vec::new(),
            waiting: Vec::new(),
            _port: port,
        }
    }

    // ---- what it is made of ----------------------------------------------------------------------------------------------

    /// A transaction between these participants, on an account of its own.
    pub(super) fn transfer(&mut self, protocol: Protocol, amounts: &[(&'static str, i64)]) -> Transaction {
        self.account += 1;
        let account = self.account;
        let transaction = self.assent.transaction().protocol(protocol).timeout(DEADLINE);
        let gtid = transaction.gtid();
        amounts.iter().fold(transaction, |transaction, &(participant, amount)| {
            let booking = Booking { account, amount };
            self.bookings.insert((gtid, participant), booking);
            transaction.branch_json(participant, &booking)
        })
    }

    /// What has to become of a transaction: these effects are left of it.
    pub(super) fn expect(&mut self, what: &str, gtid: Gtid, state: Option<&str>, ends: End, effects: &[(&str, i64)]) {
        self.transactions.push(Expected {
            what: what.to_owned(),
            gtid: gtid.as_uuid(),
            state: state.map(str::to_owned),
            ends,
            pinned: false,
            effects: effects.iter().map(|(participant, effect)| ((*participant).to_owned(), *effect)).collect(),
        });
    }

    /// Asks for a commit that nobody here waits for.
    pub(super) fn ask(&mut self, transaction: Transaction) {
        self.waiting.push(tokio::spawn(async move {
            let outcome = transaction.commit().await;
            eprintln!("told {outcome:?}");
        }));
    }

    pub(super) fn process(&mut self, name: &str) -> &mut Process {
        let member = self.members.get_mut(name).expect("it takes part");
        member.process.as_mut().expect("a process")
    }

    /// Starts a participant again, to die there.
    pub(super) async fn arm(&mut self, name: &str, point: &str) {
        let process = self.process(name);
        process.kill();
        process.restart_with(VARIABLE, Some(point));
        process.line_with("joined", DEADLINE).await;
    }

    pub(super) async fn dies(&mut self, name: &str) {
        let process = self.process(name);
        process.line_with("crash point", DEADLINE).await;
        process.exit(DEADLINE).await;
    }

    pub(super) async fn is(&self, gtid: Gtid, state: &str) {
        eventually(&format!("{gtid} is {state}"), DEADLINE, async || {
            match self.log.states().await.get(&gtid.as_uuid()) {
                Some((found, _)) if found == state => Ok(()),
                found => Err(format!("{found:?}")),
            }
        })
        .await;
    }

    /// Waits until `assent tx show` says that so many branches or steps have this state.
    pub(super) async fn have(&self, gtid: Gtid, state: &str, count: usize) {
        let gtid = gtid.to_string();
        eventually(&format!("{count} of {gtid} are {state}"), DEADLINE, async || {
            let arguments = ["tx", "show", &gtid, "--endpoint", &self.endpoint, "--output", "json"];
            let shown = Program::assent().args(arguments).run(DEADLINE).await.stdout;
            let value: Value = serde_json::from_str(&shown).unwrap_or_default();
            let branches = value["branches"].as_array().into_iter().flatten();
            if branches.filter(|branch| branch["state"] == state).count() == count { Ok(()) } else { Err(shown) }
        })
        .await;
    }

    pub(super) async fn stands(&self, name: &str, gtid: Gtid, standing: &str) {
        eventually(&format!("the voter of {name} has {standing}"), DEADLINE, async || {
            let sql = "select standing from assent_voter where gtid = $1";
            let found: Option<String> = sqlx::query_scalar(sql)
                .bind(gtid.as_uuid())
                .fetch_optional(&self.members[name].pool)
                .await
                .map_err(|error| error.to_string())?;
            if found.as_deref() == Some(standing) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }

    /// The accounts are locked there, so that a branch is at work until this ends.
    pub(super) async fn is_slow(&self, name: &str) -> sqlx::Transaction<'static, PgDriver> {
        let mut lock = self.members[name].pool.begin().await.expect("a transaction");
        sqlx::query("lock table account in access exclusive mode").execute(&mut *lock).await.expect("locked");
        lock
    }

    /// Waits until these have a session.
    pub(super) async fn are_there(&self, names: &[&str]) {
        eventually("they have joined", DEADLINE, async || -> Result<(), String> {
            let error = |error: &dyn std::fmt::Display| error.to_string();
            let mut admin = AdminServiceClient::connect(self.endpoint.clone()).await.map_err(|e| error(&e))?;
            let listed = admin.list_participants(ListParticipantsRequest {}).await.map_err(|e| error(&e))?;
            let listed = listed.into_inner().participants;
            let is_there = |name: &str| listed.iter().any(|listed| listed.name == name && listed.sessions > 0);
            match names.iter().find(|name| !is_there(name)) {
                None => Ok(()),
                Some(name) => Err(format!("{name} is not there")),
            }
        })
        .await;
    }
    /// Starts a saga of steps one after the other.
    pub(super) async fn saga(&self, steps: &[(&str, &str)], pivot: Option<&str>, refused: Option<&str>) -> Gtid {
        let mut saga = SagaBuilder::new();
        let mut before = None;
        for (step, clerk) in steps {
            let errand = Errand { is_refused: refused == Some(*step) };
            let mut described = saga.step(step, clerk).input_json(&errand).after_all(&before);
            if pivot == Some(*step) {
                described = described.pivot();
            }
            before = Some(described.add());
        }
        self.assent.start_saga(saga).await.expect("it starts")
    }

    /// Waits until a bank has nothing prepared of a transaction any more.
    pub(super) async fn has_ended(&self, name: &str, gtid: Gtid) {
        let database = &self.members[name].database;
        eventually(&format!("{name} has ended {gtid}"), DEADLINE, async || {
            let prepared = database.prepared_transactions().await;
            match prepared.iter().find(|gid| gid.ends_with(&gtid.to_string())) {
                None => Ok(()),
                Some(gid) => Err(gid.clone()),
            }
        })
        .await;
    }

    pub(super) async fn pin(&mut self, gtid: Gtid) {
        match &self.log {
            LogPlace::Postgres(database) => {
                let sql = "insert into assent.pin (gtid) values ($1)";
                sqlx::query(sql).bind(gtid.as_uuid()).execute(&mut database.connect().await).await.expect("pinned");
            }
            LogPlace::Sqlite(_) => {
                let sql = "insert into pin (gtid) values (?1)";
                let mut connection = self.log.sqlite().await;
                sqlx::query(sql).bind(gtid.to_string()).execute(&mut connection).await.expect("pinned");
            }
        }
        let pinned = self.transactions.last_mut().expect("it is expected");
        pinned.pinned = true;
    }

    // ---- the dump ----------------------------------------------------------------------------------------------------------

    pub(super) async fn dump(self, directory: &Path) {
        let verified = verify(&self.log.url(), |_| {}).await.expect("the log can be read");
        assert!(verified.violations.is_empty(), "{:#?}", verified.violations);
        let states = self.log.states().await;
        for Expected { what, gtid, state, .. } in &self.transactions {
            assert_eq!(states.get(gtid).map(|(state, _)| state), state.as_ref(), "{what}");
        }
        std::fs::create_dir_all(directory).expect("a directory");
        let keep = |name: &str, text: &str| {
            let text = self.members.iter().fold(text.to_owned(), |text, (voter, member)| match &member.port {
                Some(port) => text.replace(&port.address().to_string(), &format!("{{address of {voter}}}")),
                None => text,
            });
            std::fs::write(directory.join(name), text).expect("written");
        };
        keep("log.sql", &self.log.dump().await);
        for (name, member) in &self.members {
            keep(&format!("{name}.sql"), &dump::dump(&member.database).await);
            let prepared = self.prepared(name, member).await;
            if !prepared.is_empty() {
                keep(&format!("{name}.prepared.sql"), &prepared);
            }
        }
        let participants = self.members.iter().map(|(name, member)| ((*name).to_owned(), member.kind)).collect();
        let manifest = Manifest { participants, transactions: self.transactions };
        let manifest = serde_json::to_string_pretty(&manifest).expect("JSON") + "\n";
        std::fs::write(directory.join("expected.json"), manifest).expect("written");
    }

    /// What makes the prepared transactions of a participant anew.
    async fn prepared(&self, name: &str, member: &Member) -> String {
        let oid = format!(":{}:", dump::oid(&member.database).await);
        let mut text = String::new();
        for gid in member.database.prepared_transactions().await {
            let (_, gtid) = gid.rsplit_once(':').expect("a gid");
            let gtid: Gtid = gtid.parse().expect("a gtid");
            let booking = self.bookings.iter().find(|((of, by), _)| *of == gtid && *by == name);
            let (_, booking) = booking.expect("its work is known");
            text.push_str("begin;\n");
            if member.kind == Kind::Till {
                text.push_str(&format!(
                    "insert into assent_barrier (gtid, participant, step, executed_at) values ('{gtid}', '{name}', -1, now());\n"
                ));
            }
            text.push_str(&work(gtid, *booking));
            text.push_str(&format!("prepare transaction '{}';\n", gid.replace(&oid, ":{database}:")));
        }
        text
    }
}

/// What a bank does in a branch.
pub(super) fn work(gtid: Gtid, Booking { account, amount }: Booking) -> String {
    format!(
        "update account set balance = balance + {amount} where id = {account};\n\
         insert into ledger (gtid, account, amount) values ('{gtid}', {account}, {amount});\n"
    )
}
