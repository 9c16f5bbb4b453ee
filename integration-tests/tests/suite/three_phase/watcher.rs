//! Looks at the banks all the time: what one of them has ended, another has not ended otherwise.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::world::World;

/// How long a bank may show an end that is never seen: its voter keeps it for longer.
const INTERVAL: Duration = Duration::from_millis(50);

/// Somebody who looks until it is told to stop.
pub(super) struct Watcher {
    stop: watch::Sender<bool>,
    looking: JoinHandle<u64>,
}

impl Watcher {
    /// Looks at the banks of a world.
    pub(super) fn of(world: &World) -> Self {
        let banks: Vec<_> = world.banks.iter().map(|bank| (bank.name, bank.pool.clone())).collect();
        let (stop, stopped) = watch::channel(false);
        let name = world.name;
        let looking = tokio::spawn(async move {
            let mut ends = BTreeMap::new();
            let mut looks = 0;
            while !*stopped.borrow() {
                for (bank, pool) in &banks {
                    for (gtid, is_committed) in ended(pool).await {
                        let (first, was_committed) = *ends.entry(gtid).or_insert((bank, is_committed));
                        assert_eq!(
                            was_committed, is_committed,
                            "{name}: {gtid}: is it committed? {first} and {bank} differ (world, first bank, this bank)"
                        );
                    }
                }
                looks += 1;
                tokio::time::sleep(INTERVAL).await;
            }
            looks
        });
        Self { stop, looking }
    }

    /// Stops, and fails if two banks ever differed.
    pub(super) async fn saw_no_difference(self) {
        self.stop.send_replace(true);
        let looks = self.looking.await.expect("no two banks differ");
        assert!(looks > 1, "it looked");
    }
}

/// What a bank has ended, and whether it has committed it: what its voter says, and what its ledger
/// does.
async fn ended(bank: &PgPool) -> Vec<(Uuid, bool)> {
    sqlx::query_as(
        "select gtid, standing = 'committed' from assent_voter where standing in ('committed', 'aborted')
         union select gtid, true from ledger",
    )
    .fetch_all(bank)
    .await
    .expect("the bank's database answers")
}
