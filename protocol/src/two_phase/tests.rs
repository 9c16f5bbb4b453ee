//! The promises of the coordinator's machine.

mod cells;

use super::{CarriedBranch, Patience};
use crate::durable::Durable;
use crate::ids::{Epoch, Gtid, InstanceId, ParticipantName};

const EPOCH: Epoch = Epoch(3);
const INSTANCE: InstanceId = InstanceId(1);
const OTHER_INSTANCE: InstanceId = InstanceId(2);
const PATIENCE: Patience = Patience { timeout_ms: 30_000, absence_ms: 5_000 };

fn gtid() -> Gtid {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("valid")
}

fn begun_at_ms() -> u64 {
    gtid().minted_at_ms()
}

fn name(text: &str) -> ParticipantName {
    ParticipantName::new(text).expect("valid")
}

fn carried(participant: &str) -> CarriedBranch {
    CarriedBranch { participant: name(participant), payload: "work".into() }
}

#[expect(clippy::disallowed_methods, reason = "the test is the log")]
fn receipt() -> Durable {
    Durable::attest(gtid())
}
