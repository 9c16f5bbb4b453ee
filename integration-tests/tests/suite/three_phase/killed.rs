//! The coordinator and its log are killed at every point between the votes and the end: the banks end it by themselves, all alike.

use std::time::Instant;

use assent_sdk::Protocol;
use futures::future::join_all;
use integration_tests::postgres::Postgres;
use sqlx::Executor as _;

use super::world::{FIVE_ELECTIONS, Lock, Transfer, World, in_elections, somebody_waits};

/// Where a transaction was when both were killed.
#[derive(Clone, Copy, Debug)]
enum Point {
    /// All have voted, and the log has not marked that the commit is proposed.
    Voted,
    /// It is marked, and proposed to nobody.
    Marked,
    /// One of three has accepted.
    AcceptedByOne,
    /// All have, and the coordinator has not heard of it.
    Accepted,
    /// One has been told to commit.
    ToldToOne,
}

impl Point {
    const ALL: [Self; 5] = [Self::Voted, Self::Marked, Self::AcceptedByOne, Self::Accepted, Self::ToldToOne];

    const fn name(self) -> &'static str {
        match self {
            Self::Voted => "voted",
            Self::Marked => "marked",
            Self::AcceptedByOne => "accepted by one",
            Self::Accepted => "accepted",
            Self::ToldToOne => "told to one",
        }
    }

    /// Nobody can have decided to commit before the commit was proposed to somebody who is left.
    const fn end(self) -> &'static str {
        match self {
            Self::Voted | Self::Marked => "aborted",
            Self::AcceptedByOne | Self::Accepted | Self::ToldToOne => "committed",
        }
    }

    /// Goes there. What keeps the log away is kept until the log is killed.
    async fn reached(self, world: &World) -> (Transfer, Option<Lock>) {
        let [a, b, c] = world.banks.as_slice() else { panic!("three banks") };
        let held: &[&str] =
            if matches!(self, Self::AcceptedByOne) { &[b.name, c.name] } else { &[a.name, b.name, c.name] };
        let (transfer, lock) = match self {
            Self::Voted => {
                let log = world.log.pool(2).await;
                let mut lock = log.begin().await.expect("a transaction");
                lock.execute("lock table assent.open_transaction in exclusive mode").await.expect("locked");
                let transfer = world.transfer(Protocol::ThreePhase);
                somebody_waits("the mark is on its way", &log).await;
                (transfer, Some(lock))
            }
            Self::Marked | Self::AcceptedByOne | Self::Accepted | Self::ToldToOne => {
                let transfer = world.transfer_held(Protocol::ThreePhase, held).await;
                world.is_in_the_log(transfer.gtid).await;
                (transfer, None)
            }
        };
        let gtid = transfer.gtid;
        match self {
            Self::Voted | Self::Marked => {
                for bank in [a, b, c] {
                    bank.stands(gtid, "waiting").await;
                }
            }
            Self::AcceptedByOne => {
                a.stands(gtid, "pre_committed").await;
                for bank in [b, c] {
                    bank.stands(gtid, "waiting").await;
                }
            }
            Self::Accepted | Self::ToldToOne => {
                for bank in [a, b, c] {
                    bank.relay.hold_client(true);
                    bank.relay.hold_server(false);
                }
                for bank in [a, b, c] {
                    bank.stands(gtid, "pre_committed").await;
                }
            }
        }
        if matches!(self, Self::ToldToOne) {
            for bank in [b, c] {
                bank.relay.hold_server(true);
            }
            for bank in [a, b, c] {
                bank.relay.hold_client(false);
            }
            a.stands(gtid, "committed").await;
            for bank in [b, c] {
                bank.stands(gtid, "pre_committed").await;
            }
        } else {
            assert!(!transfer.told.is_finished(), "nobody knows an outcome");
        }
        (transfer, lock)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_banks_end_it_by_themselves_wherever_coordinator_and_log_were_killed() {
    let log = Postgres::start().await;
    let mut worlds = join_all(Point::ALL.map(|point| World::start(point.name(), &log))).await;
    let reached = Point::ALL.iter().zip(&worlds).map(|(point, world)| point.reached(world));
    let (transfers, locks): (Vec<_>, Vec<_>) = join_all(reached).await.into_iter().unzip();

    for world in &mut worlds {
        world.coordinator.kill();
    }
    log.kill().await;
    drop(locks);
    for bank in worlds.iter().flat_map(|world| &world.banks) {
        bank.relay.cut();
    }
    let since = Instant::now();
    let ending =
        worlds.iter().zip(&transfers).map(|(world, transfer)| world.ends(transfer.gtid, since, FIVE_ELECTIONS));
    for (point, (end, took)) in Point::ALL.into_iter().zip(join_all(ending).await) {
        eprintln!("killed when it was {}: {end} after {}", point.name(), in_elections(took));
        assert_eq!(end, point.end(), "{}", point.name());
    }

    log.restart().await;
    let gtids: Vec<_> = transfers.iter().map(|transfer| transfer.gtid).collect();
    let back = worlds.iter_mut().zip(transfers).zip(Point::ALL);
    join_all(back.map(|((world, transfer), point)| world.comes_back(transfer, point.end(), "3pc"))).await;
    join_all(worlds.iter().zip(gtids).map(|(world, gtid)| world.is_forgotten(gtid))).await;
}
