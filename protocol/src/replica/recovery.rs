//! Open rows of the log become machines.
//!
//! A row that cannot be resumed is parked with its reason and stops no other: requests about it are
//! refused with that reason, and it stays in the log as it is.

use super::Replica;
use super::entry::Machine;
use crate::durable::Output;
use crate::found::{OpenSaga, OpenTransaction, Owned};
use crate::ids::Epoch;
use crate::record::Protocol;
use crate::saga::{Effect, Kept, Saga, Unrecoverable};
use crate::three_phase::Coordinator;
use crate::two_phase::TwoPhase;

/// Takes a saga over from its rows.
fn resume(saga: OpenSaga, epoch: Epoch) -> Result<(Saga, Output<Effect>), Unrecoverable> {
    let OpenSaga { started, turned, paused, steps, .. } = saga;
    let steps = steps.into_iter().map(|step| step.record).collect();
    Saga::recover(epoch, Kept { started, turned, steps, paused })
}

/// What is wrong with a saga that can be read and not resumed. Its rows are looked at anew each
/// time: nothing is kept of what is parked, however much that is.
pub fn contradiction(saga: &OpenSaga, epoch: Epoch) -> Option<Unrecoverable> {
    resume(saga.clone(), epoch).err()
}

impl Replica {
    /// Resumes one open transaction.
    pub(super) fn recovered(&mut self, transaction: Owned) {
        let gtid = transaction.gtid();
        match transaction.into_inner() {
            OpenTransaction::Attempted { record, state, .. } => {
                let (node, log) = (self.next_node(), self.log_store);
                let (machine, output) = Coordinator::recover(&record, state, self.epoch, node, log);
                self.insert(gtid, Machine::ThreePhase(Box::new(machine)), 0, 0);
                self.put_out::<Coordinator>(gtid, output);
            }
            OpenTransaction::Decided { record, roster, .. } if record.protocol == Protocol::ThreePhase => {
                let (node, log) = (self.next_node(), self.log_store);
                let (machine, output) = Coordinator::recover_decided(&record, roster, self.epoch, node, log);
                self.insert(gtid, Machine::ThreePhase(Box::new(machine)), 0, 0);
                self.put_out::<Coordinator>(gtid, output);
            }
            OpenTransaction::Decided { record, .. } => {
                let (machine, output) = TwoPhase::recover(&record, self.epoch);
                self.insert(gtid, Machine::TwoPhase(machine), 0, 0);
                self.put_out::<TwoPhase>(gtid, output);
            }
            OpenTransaction::Delegated { record, .. } => {
                let (machine, output) = TwoPhase::recover_delegated(&record, self.epoch);
                self.insert(gtid, Machine::TwoPhase(machine), 0, 0);
                self.put_out::<TwoPhase>(gtid, output);
            }
            OpenTransaction::Saga(saga) => {
                let bytes = saga.started.definition.steps().iter().map(|step| step.input.len()).sum();
                // One whose rows contradict each other stays in the log as it is; requests about it
                // are refused with the reason.
                if let Ok((machine, output)) = resume(saga, self.epoch) {
                    self.insert(gtid, Machine::Saga(Box::new(machine)), 0, bytes);
                    self.put_out::<Saga>(gtid, output);
                }
            }
        }
    }
}
