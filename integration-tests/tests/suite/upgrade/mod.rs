//! Logs and databases that earlier versions have left are upgraded in place, and what was open in
//! them ends as it must.
//!
//! The dumps are in `integration-tests/dumps`, a folder for each version; `states.rs` and
//! `world.rs` made them, with the binary of that version.

mod dump;
mod states;
mod world;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use assent::log::verify::verify;
use integration_tests::postgres::{Database, Postgres};
use integration_tests::process::{Process, Program};
use integration_tests::{Port, eventually};
use uuid::Uuid;

use crate::chaos::nothing_is_prepared;
use dump::{DEADLINE, End, Kind, LogKind, LogPlace, Manifest};

/// As long as it may be: what had ended in a dump is not forgotten while it is looked at.
const RETENTION: &str = "retention=3650d";
/// How long all may take to end: an order that found nobody there is repeated ever more seldom.
const ENDED_WITHIN: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_log_of_version_1_is_upgraded_in_place_and_all_in_it_ends() {
    ends_as_it_must("v1", LogKind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sqlite_log_of_version_1_is_upgraded_in_place_and_all_in_it_ends() {
    ends_as_it_must("v1", LogKind::Sqlite).await;
}

async fn ends_as_it_must(version: &str, kind: LogKind) {
    let directory = dump::directory(version).join(kind.as_str());
    let manifest: Manifest = serde_json::from_str(&read(&directory, "expected.json")).expect("a manifest");
    let server = Postgres::shared().await;
    let log = LogPlace::empty(kind, &server).await;
    let members = restore(&directory, &manifest, &server, &log).await;
    is_what_was_dumped(&manifest, &log.states().await);

    for arguments in [["migrate", "--log"], ["verify-log", "--log"]] {
        let finished = Program::assent().args(arguments).arg(log.url()).run(DEADLINE).await;
        assert!(finished.status.success(), "{arguments:?}: {}{}", finished.stdout, finished.stderr);
    }
    let port = Port::reserve();
    let mut coordinator = Program::assent()
        .named("coordinator")
        .args(["serve", "--listen", &port.address().to_string(), "--log", &log.url(), "--replica", "test"])
        .args(["--log-filter", "warn", "--set", RETENTION])
        .start();
    coordinator.line_with("listening", DEADLINE).await;
    let endpoint = format!("http://{}", port.address());
    let mut processes = Vec::new();
    for (name, member) in &members {
        dump::install(member.kind, &member.database.pool(1).await).await;
        processes.push(participant(member.kind, name, &endpoint, &member.database, member.port.as_ref()));
    }
    for process in &mut processes {
        process.line_with("joined", DEADLINE).await;
    }

    for (name, member) in &members {
        nothing_is_prepared(name, &member.database, ENDED_WITHIN).await;
    }
    let paused = manifest.transactions.iter().filter(|transaction| transaction.ends == End::Paused).count();
    let paused = u64::try_from(paused).expect("a count");
    eventually("all has ended, and nothing is open but what is paused", ENDED_WITHIN, async || {
        let states = log.states().await;
        let unfinished = manifest.transactions.iter().filter_map(|expected| {
            let state = states.get(&expected.gtid).map(|(state, _)| state.as_str());
            (!expected.ends.is(state)).then_some((&expected.what, state))
        });
        let unfinished: Vec<_> = unfinished.collect();
        if !unfinished.is_empty() {
            return Err(format!("{unfinished:#?}"));
        }
        let verified = verify(&log.url(), |_| {}).await.map_err(|error| error.to_string())?;
        assert!(verified.violations.is_empty(), "{:#?}", verified.violations);
        if verified.counts.open == paused { Ok(()) } else { Err(format!("{} are open", verified.counts.open)) }
    })
    .await;
    for (name, member) in &members {
        has_its_effects(&manifest, name, member).await;
    }
    let states = log.states().await;
    for expected in manifest.transactions.iter().filter(|expected| expected.pinned) {
        assert!(states[&expected.gtid].1, "{} stays pinned", expected.what);
    }
}

/// A participant whose database was restored.
struct Member {
    kind: Kind,
    database: Database,
    port: Option<Port>,
}

fn read(directory: &Path, file: &str) -> String {
    let path = directory.join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Restores all of it, with the addresses and the OIDs that there are now.
async fn restore(directory: &Path, manifest: &Manifest, server: &Postgres, log: &LogPlace) -> BTreeMap<String, Member> {
    let mut members = BTreeMap::new();
    for (name, &kind) in &manifest.participants {
        let port = (kind == Kind::Voter).then(Port::reserve);
        members.insert(name.clone(), Member { kind, database: server.create_database().await, port });
    }
    let with_addresses = |text: String| {
        members.iter().fold(text, |text, (voter, member)| match &member.port {
            Some(port) => text.replace(&format!("{{address of {voter}}}"), &port.address().to_string()),
            None => text,
        })
    };
    log.restore(&with_addresses(read(directory, "log.sql"))).await;
    for (name, Member { database, .. }) in &members {
        dump::restore(database, &with_addresses(read(directory, &format!("{name}.sql")))).await;
        let prepared = format!("{name}.prepared.sql");
        if directory.join(&prepared).exists() {
            let prepared = read(directory, &prepared).replace("{database}", &dump::oid(database).await);
            dump::restore(database, &prepared).await;
        }
    }
    members
}

/// A dump that has lost its open transactions would end well in any case.
fn is_what_was_dumped(manifest: &Manifest, states: &BTreeMap<Uuid, (String, bool)>) {
    for expected in &manifest.transactions {
        let state = states.get(&expected.gtid).map(|(state, _)| state);
        assert_eq!(state, expected.state.as_ref(), "{}", expected.what);
    }
}

/// What took effect at a participant is what had to, and its balances agree with it.
async fn has_its_effects(manifest: &Manifest, name: &str, member: &Member) {
    let pool = member.database.pool(1).await;
    let expected = manifest.transactions.iter();
    let expected: BTreeMap<Uuid, i64> = expected.filter_map(|it| Some((it.gtid, *it.effects.get(name)?))).collect();
    assert_eq!(dump::effects(member.kind, &pool).await, expected, "what took effect at {name}");
    if member.kind != Kind::Clerk {
        let sum: i64 = sqlx::query_scalar("select sum(balance)::bigint from account")
            .fetch_one(&pool)
            .await
            .expect("the balances");
        let booked: i64 = expected.values().sum();
        assert_eq!(sum, i64::from(dump::ACCOUNTS) * dump::BALANCE + booked, "the balances of {name}");
    }
}

/// Starts a participant on its database; a voter, at this port.
fn participant(kind: Kind, name: &str, endpoint: &str, database: &Database, port: Option<&Port>) -> Process {
    let word = match kind {
        Kind::Bank | Kind::Voter => "bank",
        Kind::Till => "till",
        Kind::Clerk => "clerk",
    };
    let program = Program::built("test-participant").named(name).args([word, name, endpoint, &database.url()]);
    match port {
        Some(port) => program.args([port.address().to_string(), format!("http://{}", port.address())]).start(),
        None => program.start(),
    }
}
