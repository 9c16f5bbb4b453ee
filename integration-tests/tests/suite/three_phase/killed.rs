//! The coordinator and its log are killed at every point between the votes and the end: the banks
//! end it by themselves, all alike.

use std::time::Instant;

use futures::future::join_all;
use integration_tests::postgres::Postgres;

use super::point::Point;
use super::world::{FIVE_ELECTIONS, World, in_elections};

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
        bank.link.cut();
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
