//! Who waits: everybody with two phases, and with three who cannot form a quorum.

use std::time::Instant;

use assent_sdk::Protocol;
use integration_tests::postgres::Postgres;

use super::point::Point;
use super::world::{DEADLINE, FIVE_ELECTIONS, World, in_elections};

/// The decision is in the log, and told to nobody, when coordinator and log are killed.
#[tokio::test(flavor = "multi_thread")]
async fn with_two_phases_nothing_ends_until_the_coordinator_is_back() {
    let log = Postgres::start().await;
    let mut world = World::start("two phases", &log).await;
    let banks = world.banks.iter().map(|bank| bank.name).collect::<Vec<_>>();
    let transaction = world.transaction(1).protocol(Protocol::TwoPhase).timeout(DEADLINE * 5);
    let transfer = world.transfer_held(transaction, 1, &banks).await;
    world.is_in_the_log(transfer.gtid).await;
    world.coordinator.kill();
    log.kill().await;
    world.banks.iter().for_each(|bank| bank.link.cut());

    let since = Instant::now();
    world.nothing_ends(transfer.gtid, &banks, since + FIVE_ELECTIONS).await;
    eprintln!(
        "two-phase commit blocks: after {} all three branches are prepared, hold their locks and wait, although the commit is \
         decided: only the coordinator and its log can say so",
        in_elections(since.elapsed())
    );
    log.restart().await;
    world.comes_back(transfer, "committed", "2pc").await;
}

/// All three have accepted the commit, and nobody has heard of it, when coordinator, log and one
/// bank are killed: of four voters two are left, and three are needed.
#[tokio::test(flavor = "multi_thread")]
async fn a_minority_waits_and_says_for_whom_and_a_third_voter_that_returns_ends_it() {
    let log = Postgres::start().await;
    let mut world = World::start("minority", &log).await;
    let (transfer, _) = Point::Accepted.reached(&world).await;
    let gtid = transfer.gtid;
    world.banks[2].process.kill();
    world.coordinator.kill();
    log.kill().await;
    world.banks.iter().for_each(|bank| bank.link.cut());

    let since = Instant::now();
    world.nothing_ends(gtid, &["bank-a", "bank-b"], since + FIVE_ELECTIONS).await;
    let mut said = Vec::new();
    for bank in &mut world.banks[..2] {
        said.push(bank.process.line_with("of 4 voters, 3 needed", DEADLINE).await);
    }
    for line in &said {
        eprintln!("after {}: {line}", in_elections(since.elapsed()));
        assert!(line.contains(&gtid.to_string()), "{line}");
    }
    // One that had not met the other one's answer yet may have named that one, too.
    assert!(said.iter().all(|line| line.contains("no answer from") && line.contains("bank-c, the log")), "{said:?}");

    world.banks[2].process.restart();
    let since = Instant::now();
    let (end, took) = world.ends(gtid, since, DEADLINE).await;
    eprintln!("the third voter is back: {end} after {}", in_elections(took));
    assert_eq!(end, "committed");
    log.restart().await;
    world.comes_back(transfer, "committed", "3pc").await;
}
