//! What an operator is shown about a transaction that cannot end: who is missing, why, and what to
//! do.

use std::time::Instant;

use assent_sdk::Protocol;
use integration_tests::ledger::Booking;
use integration_tests::postgres::Postgres;
use integration_tests::{Port, Program, eventually};
use sqlx::Executor as _;

use super::point::Point;
use super::world::{BANKS, DEADLINE, FIVE_ELECTIONS, World, in_elections};

/// As an operator sees it, who types the command. The table, once its JSON says that this is what
/// is to be seen.
async fn shown(world: &World, gtid: assent_sdk::Gtid, waits_for: &[&str]) -> String {
    world
        .shows(gtid, |shown| {
            let waiting_for = shown["waiting_for"].as_str().unwrap_or_default();
            waits_for.iter().all(|part| waiting_for.contains(part))
        })
        .await;
    // Each round of the election begins with nobody's answer.
    let gtid = gtid.to_string();
    let arguments = ["tx", "show", &gtid, "--endpoint", &world.endpoint];
    eventually("the table says so, too", DEADLINE, async || {
        let table = Program::assent().args(arguments).run(DEADLINE).await;
        assert!(table.status.success(), "{}", table.stderr);
        if waits_for.iter().all(|part| table.stdout.contains(part)) { Ok(table.stdout) } else { Err(table.stdout) }
    })
    .await
}

/// Two of four voters, whose databases were set up anew in the middle of it.
#[tokio::test(flavor = "multi_thread")]
async fn voters_that_have_lost_their_state_are_named_with_what_to_do() {
    let log = Postgres::shared().await;
    let mut world = World::start("lost", &log).await;
    let (transfer, _) = Point::Marked.reached(&world).await;
    for bank in &mut world.banks[..2] {
        bank.process.kill();
        bank.pool.execute("drop table assent_voter").await.expect("lost");
    }
    world.banks.iter().for_each(|bank| bank.link.hold_server(false));
    world.banks[..2].iter_mut().for_each(|bank| bank.process.restart());
    for bank in &mut world.banks[..2] {
        bank.process.line_with("joined", DEADLINE).await;
    }
    let lost = ["2 of 4 voters, 3 needed", "bank-a cannot vote: its durable state is lost", "bank-b cannot vote"];
    let table = shown(&world, transfer.gtid, &lost).await;
    assert!(table.contains("STATE_LOST") && table.contains("resolve by hand"), "{table}");
    assert!(!transfer.told.is_finished(), "nobody knows an outcome");
}

/// A participant and the log: each of them is needed.
#[tokio::test(flavor = "multi_thread")]
async fn with_two_voters_it_is_said_that_both_are_needed() {
    let log = Postgres::shared().await;
    let mut world = World::start("two voters", &log).await;
    let lock = world.banks[0].is_slow(1).await;
    let transaction = world.assent.transaction().protocol(Protocol::ThreePhase).timeout(DEADLINE * 5);
    let transaction = transaction.branch_json(BANKS[0], &Booking { account: 1, amount: 1 });
    let gtid = transaction.gtid();
    let told = tokio::spawn(transaction.commit());
    super::world::somebody_waits("it is at work", &world.banks[0].pool).await;
    world.banks[0].link.hold_server(true);
    lock.rollback().await.expect("unlocked");
    world.is_in_the_log(gtid).await;
    world.banks[0].process.kill();
    world.banks[0].link.cut();
    shown(&world, gtid, &["1 of 2 voters, 2 needed", "no answer from bank-a", "two voters tolerate no loss"]).await;
    assert!(!told.is_finished(), "nobody knows an outcome");
    world.banks[0].process.restart();
    let outcome =
        tokio::time::timeout(DEADLINE, told).await.expect("it is told").expect("no panic").expect("no refusal");
    assert!(outcome.is_committed(), "{outcome:?}");
}

/// Its process was started with the address of another bank. That one must not be counted twice:
/// two are left, and three are needed.
#[tokio::test(flavor = "multi_thread")]
async fn a_voter_at_whose_address_another_one_answers_does_not_count() {
    let names_the_stranger = "bank-c cannot vote: somebody else answers at the address that the roster names";
    a_bank_is_not_at_its_address("stranger", |world| world.banks[1].address.port(), names_the_stranger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_does_not_answer_is_named_with_its_address() {
    let nobody = Port::reserve();
    let address = format!("bank-c at http://{}", nobody.address());
    a_bank_is_not_at_its_address("nobody", |_| nobody.number(), &address).await;
}

/// Peers look for the third bank elsewhere. It and the coordinator are killed, the other two wait,
/// and say why.
async fn a_bank_is_not_at_its_address(name: &'static str, port: impl Fn(&World) -> u16, expected: &str) {
    let log = Postgres::shared().await;
    let mut world = World::start(name, &log).await;
    let elsewhere = format!("http://127.0.0.1:{}", port(&world));
    world.banks[2].starts_with_address(&elsewhere).await;
    let (transfer, _) = Point::Accepted.reached(&world).await;
    world.banks[2].process.kill();
    world.coordinator.kill();
    world.banks.iter().for_each(|bank| bank.link.cut());
    let since = Instant::now();
    world.nothing_ends(transfer.gtid, &BANKS[..2], since + FIVE_ELECTIONS).await;
    for bank in &mut world.banks[..2] {
        let line = bank.process.line_with(expected, DEADLINE).await;
        eprintln!("after {}: {line}", in_elections(since.elapsed()));
        bank.process.line_with("2 of 4 voters, 3 needed", DEADLINE).await;
    }
    world.banks[2].process.restart();
    world.comes_back(transfer, "committed", "3pc").await;
}
