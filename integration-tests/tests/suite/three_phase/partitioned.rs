//! Coordinator, banks and log on hosts of their own, and the network between them cut: no two banks
//! ever differ, a quorum ends the transaction, who is too few waits, and healed all is over for
//! everybody.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use assent_sdk::{Outcome, Protocol};
use futures::future::join_all;
use integration_tests::network::{Network, Way, between};
use integration_tests::postgres::Postgres;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt, SeedableRng};
use sqlx::PgPool;
use uuid::Uuid;

use super::point::Point;
use super::watcher::Watcher;
use super::world::{
    ACCOUNTS, BANKS, COORDINATOR, DEADLINE, FIVE_ELECTIONS, HOSTS, LOG, OWN, Site, Transfer, World, in_elections,
};
use crate::chaos::seed;

const TWO_ELECTIONS: Duration = FIVE_ELECTIONS.checked_div(5).expect("not zero").saturating_mul(2);

/// A partition at some point of a transaction.
struct Case {
    name: &'static str,
    point: Point,
    /// Which ways are cut.
    cut: Vec<Way<'static>>,
    /// Who ends it all the same. About those that neither end it nor wait nothing is said but that
    /// they end it alike.
    ends: &'static [&'static str],
    /// Who waits.
    waits: &'static [&'static str],
    end: &'static str,
}

impl Case {
    /// Goes through it. What is in the log and at the banks is looked at all the time.
    async fn holds(self, log: &Postgres) {
        let Some(network) = Network::of(&HOSTS, &OWN) else { return };
        let world = World::start_at(self.name, log, &Site::Network(network.clone()), &[]).await;
        let watcher = Watcher::of(&world);
        let (Transfer { gtid, told }, lock) = self.point.reached(&world).await;
        network.only_cut(&self.cut);
        drop(lock);
        let since = Instant::now();
        let ended = async {
            if self.ends.is_empty() {
                return;
            }
            let (end, took) = world.ends_at(self.ends, gtid, since, DEADLINE).await;
            eprintln!("{}: {end} after {} at {:?}", self.name, in_elections(took), self.ends);
            assert_eq!(end, self.end, "{}", self.name);
        };
        // As long as it takes the others, and longer than it would take these if they could.
        let until = since + if self.ends.is_empty() { FIVE_ELECTIONS } else { TWO_ELECTIONS };
        tokio::join!(ended, world.nothing_ends(gtid, self.waits, until));
        world.nothing_ends(gtid, self.waits, Instant::now()).await;
        if self.ends.is_empty() {
            assert!(!told.is_finished(), "{}: nobody knows an outcome", self.name);
        }

        network.only_cut(&[]);
        world.is_over(Transfer { gtid, told }, self.end, "3pc").await;
        watcher.saw_no_difference().await;
    }
}

async fn all_hold(cases: impl IntoIterator<Item = Case>) {
    let log = Postgres::start().await;
    join_all(cases.into_iter().map(|case| case.holds(&log))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_banks_end_it_when_the_coordinator_is_cut_off_with_its_log_or_from_it_too() {
    let alone = || between(&[COORDINATOR], &BANKS);
    let without_its_log = || between(&[COORDINATOR], &[BANKS[0], BANKS[1], BANKS[2], LOG]);
    let case = |name, point: Point, cut| Case { name, point, cut, ends: &BANKS, waits: &[], end: point.end() };
    all_hold([
        case("voted, no log", Point::Voted, without_its_log()),
        case("marked", Point::Marked, alone()),
        case("accepted, no log", Point::Accepted, without_its_log()),
        case("agreed", Point::Agreed, alone()),
    ])
    .await;
}

/// Of four voters three are needed: neither half ends it. One bank has accepted the commit, and no
/// quorum is without it or the log.
#[tokio::test(flavor = "multi_thread")]
async fn halves_wait_and_end_it_alike_once_they_are_one() {
    let [a, b, c] = BANKS;
    let case = |name, cut| Case { name, point: Point::AcceptedByOne, cut, ends: &[], waits: &BANKS, end: "committed" };
    all_hold([
        case("coordinator, a | b, c", between(&[COORDINATOR, a], &[b, c])),
        case("coordinator | a | b, c", [between(&[COORDINATOR], &BANKS), between(&[a], &[b, c])].concat()),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bank_that_is_cut_off_or_deaf_or_unheard_stops_nobody_else() {
    let others = [COORDINATOR, BANKS[1], BANKS[2]];
    let case = |name, cut, waits| Case { name, point: Point::Marked, cut, ends: &BANKS[1..], waits, end: "committed" };
    all_hold([
        case("a is cut off", between(&["bank-a"], &others), &["bank-a"]),
        case("a is deaf", others.map(|other| (other, "bank-a")).to_vec(), &["bank-a"]),
        case("a is unheard", others.map(|other| ("bank-a", other)).to_vec(), &[]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_banks_end_it_when_the_coordinator_is_deaf_or_unheard() {
    let case = |name, cut, end| Case { name, point: Point::Marked, cut, ends: &BANKS, waits: &[], end };
    all_hold([
        // What it proposes reaches them, and nobody else can say that they have accepted it.
        case("it is deaf", BANKS.map(|bank| (bank, COORDINATOR)).to_vec(), "committed"),
        case("it is unheard", BANKS.map(|bank| (COORDINATOR, bank)).to_vec(), "aborted"),
    ])
    .await;
}

// ---- at random -----------------------------------------------------------------------------------------------------------

/// So many times something is cut, healed or killed, and so many transfers begin each time.
const DISTURBANCES: i32 = 24;
const TRANSFERS_EACH: i32 = 2;
/// How long a transfer may stay undecided; what is cut for longer aborts it.
const UNDECIDED_MAX: Duration = Duration::from_secs(8);
/// Sessions that break within the cuts of this test, as others do within longer ones; and a
/// coordinator that waits for its log.
const SETTINGS: [&str; 3] = ["session.heartbeat_interval=1s", "session.silence_max=4s", "wait_for_log=5m"];
/// What can be cut from each other.
const PLACES: [&str; 5] = [HOSTS[0], HOSTS[1], HOSTS[2], HOSTS[3], LOG];

/// Cuts something, or heals everything. Cuts add up until then. Answers what it did.
fn disturb(random: &mut SmallRng, network: &Network) -> String {
    let mut drawn: Vec<&str> = PLACES.to_vec();
    drawn.shuffle(random);
    let mut ways = match random.random_range(0..8) {
        0 | 1 => {
            network.only_cut(&[]);
            return "healed".to_owned();
        }
        2 => vec![(drawn[0], drawn[1])],
        3 => between(&drawn[..1], &drawn[1..2]),
        4 => between(&drawn[..1], &drawn[1..]),
        5 => between(&drawn[..2], &drawn[2..]),
        6 => drawn[1..].iter().map(|other| (drawn[0], *other)).collect(),
        _ => drawn[1..].iter().map(|other| (*other, drawn[0])).collect(),
    };
    // Nobody but the coordinator speaks with the log.
    ways.retain(|(from, to)| ![*from, *to].contains(&LOG) || [*from, *to].contains(&COORDINATOR));
    for (from, to) in &ways {
        network.cut(from, to);
    }
    format!("cut {ways:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_are_in_all_ledgers_or_in_none_however_the_network_is_cut() {
    let Some(network) = Network::of(&HOSTS, &OWN) else { return };
    let seed = seed();
    let mut random = SmallRng::seed_from_u64(seed);
    let log = Postgres::shared().await;
    let mut world = World::start_at("at random", &log, &Site::Network(network.clone()), &SETTINGS).await;
    let watcher = Watcher::of(&world);
    let mut initiators = Vec::new();
    for step in 0..DISTURBANCES {
        for account in 1 + step * TRANSFERS_EACH..=(step + 1) * TRANSFERS_EACH {
            assert!(account <= ACCOUNTS, "each transfer has accounts of its own: it waits for no other one's locks");
            let transaction = world.transaction(account).protocol(Protocol::ThreePhase).timeout(UNDECIDED_MAX);
            initiators.push((transaction.gtid(), tokio::spawn(transaction.commit())));
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1_000))).await;
        if random.random_range(0..6) == 0 {
            eprintln!("killed");
            world.coordinator.kill();
            world.coordinator.restart();
        } else {
            eprintln!("{}", disturb(&mut random, &network));
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(300..4_000))).await;
    }
    network.only_cut(&[]);

    let mut told = Vec::new();
    for (gtid, initiator) in initiators {
        let outcome = tokio::time::timeout(DEADLINE * 2, initiator).await;
        let outcome = outcome.unwrap_or_else(|_| panic!("the initiator of {gtid} is told")).expect("no panic");
        told.push(match outcome {
            Ok(Outcome::Committed) => (gtid, true),
            Ok(Outcome::Aborted(_)) => (gtid, false),
            Ok(Outcome::InDoubt { .. }) => panic!("{gtid} is in doubt although its initiator has more patience"),
            // Nothing was changed, it says.
            Err(refused) => {
                eprintln!("{gtid} was refused: {refused}");
                (gtid, false)
            }
        });
    }
    world.nothing_is_left().await;
    watcher.saw_no_difference().await;
    let ledgers = join_all(world.banks.iter().map(|bank| ledger(&bank.pool))).await;
    let committed: BTreeSet<Uuid> =
        told.iter().filter(|(_, is_committed)| *is_committed).map(|(gtid, _)| gtid.as_uuid()).collect();
    eprintln!("{} of {} committed", committed.len(), told.len());
    for (bank, ledger) in BANKS.iter().zip(&ledgers) {
        assert_eq!(ledger, &committed, "{bank} has what the initiators were told, and nothing else");
    }
    assert!(!committed.is_empty() && committed.len() < told.len(), "some commit, and some do not");
}

async fn ledger(bank: &PgPool) -> BTreeSet<Uuid> {
    let gtids: Vec<Uuid> = sqlx::query_scalar("select gtid from ledger").fetch_all(bank).await.expect("the ledger");
    gtids.into_iter().collect()
}
