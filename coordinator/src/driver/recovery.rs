//! What is open in the log at the start goes on.
//!
//! The log gives the open rows, a shard turns each into a machine. One that cannot be read or resumed is parked with its reason
//! and stops nobody else: requests about it are refused with that reason, and it stays in the log as it is.

use assent_crash::crash_point;
use assent_protocol::saga::{Effect, Kept, Saga, Unrecoverable};
use assent_protocol::three_phase::Coordinator;
use assent_protocol::two_phase::TwoPhase;
use assent_protocol::{Epoch, Output, Protocol};

use super::entry::{Machine, draw_node};
use super::shard::Shard;
use super::{Driver, Input};
use crate::log::{Log, LogError, OpenSaga, OpenTransaction};

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
                    resumed += 1;
                    driver.give(driver.shard_of(gtid), Input::Recovered(transaction)).await;
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

/// Takes a saga over from its rows.
fn resume(saga: OpenSaga, epoch: Epoch) -> Result<(Saga, Output<Effect>), Unrecoverable> {
    let OpenSaga { started, turned, paused, steps, .. } = saga;
    let steps = steps.into_iter().map(|step| step.record).collect();
    Saga::recover(epoch, Kept { started, turned, steps, paused })
}

/// What is wrong with a saga that can be read and not resumed. Its rows are looked at anew each time: nothing is kept of what is parked, however
/// much that is.
pub(crate) fn contradiction(saga: &OpenSaga, epoch: Epoch) -> Option<Unrecoverable> {
    resume(saga.clone(), epoch).err()
}

impl Shard {
    /// Resumes one open transaction.
    pub(super) fn recovered(&mut self, transaction: OpenTransaction) {
        let gtid = transaction.gtid();
        match transaction {
            OpenTransaction::Attempted { record, state, .. } => {
                let (node, log) = (draw_node(), self.log_store);
                let (machine, output) = Coordinator::recover(&record, state, self.epoch, node, log);
                self.insert(gtid, Machine::ThreePhase(Box::new(machine)), 0, 0);
                self.three_phase_output(gtid, output);
            }
            OpenTransaction::Decided { record, roster, .. } if record.protocol == Protocol::ThreePhase => {
                let (node, log) = (draw_node(), self.log_store);
                let (machine, output) = Coordinator::recover_decided(&record, roster, self.epoch, node, log);
                self.insert(gtid, Machine::ThreePhase(Box::new(machine)), 0, 0);
                self.three_phase_output(gtid, output);
            }
            OpenTransaction::Decided { record, .. } => {
                let (machine, output) = TwoPhase::recover(&record, self.epoch);
                self.insert(gtid, Machine::TwoPhase(machine), 0, 0);
                self.two_phase_output(gtid, output);
            }
            OpenTransaction::Saga(saga) => {
                let bytes = saga.started.definition.steps().iter().map(|step| step.input.len()).sum();
                match resume(saga, self.epoch) {
                    Ok((machine, output)) => {
                        self.insert(gtid, Machine::Saga(Box::new(machine)), 0, bytes);
                        self.saga_output(gtid, output);
                    }
                    Err(error) => tracing::error!(%gtid, %error, "parked: its rows in the log contradict each other"),
                }
            }
        }
    }
}
