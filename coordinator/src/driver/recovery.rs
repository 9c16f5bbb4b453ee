//! Reads what is open in the log at the start, and gives it to the shards.

use assent_crash::crash_point;
use assent_protocol::replica;

use super::{Driver, Input};
use crate::log::{Log, LogError, OpenTransaction};

/// Rows read from the log at once.
const PAGE: usize = 1_000;

/// Gives every open transaction of the log to its shard.
pub(super) async fn recover(log: &dyn Log, driver: &Driver) -> Result<(), LogError> {
    let mut after = None;
    let mut resumed = 0_u64;
    let mut parked = 0_u64;
    loop {
        let page = log.open_transactions(after, PAGE).await?;
        let is_last = page.len() < PAGE;
        for (gtid, row) in page {
            after = Some(gtid);
            match row {
                Ok(transaction) => {
                    if let OpenTransaction::Saga(saga) = &*transaction
                        && let Some(error) = replica::contradiction(saga, driver.epoch())
                    {
                        parked += 1;
                        tracing::error!(%gtid, %error, "parked: its rows in the log contradict each other");
                    } else {
                        resumed += 1;
                    }
                    driver.give(driver.shard_of(gtid), Input::Core(replica::Input::Recovered(transaction))).await;
                }
                Err(unreadable) => {
                    parked += 1;
                    tracing::error!(%gtid, error = %unreadable, "parked: its row in the log cannot be read");
                }
            }
        }
        crash_point!(
            RECOVERY_PAGE,
            return Err(LogError::Unreachable { log: log.describe(), source: "a crash point".into() })
        );
        if is_last {
            break;
        }
    }
    if resumed + parked > 0 {
        tracing::info!(resumed, parked, "recovered what was open in the log");
    }
    Ok(())
}
