//! How large a message is, as far as users determine it: what frames are closed by, and what fits
//! into none.

use bytes::Bytes;

use super::{FRAME_BYTES_MAX, FromReplica, Reply};
use crate::ids::Gtid;
use crate::three_phase::{Request, Roster};

/// All payloads of one message: they share a frame with their envelope.
pub const MESSAGE_BYTES_MAX: usize = FRAME_BYTES_MAX - 64 * 1024;

/// What a participant's place in a roster takes on the wire beside its name and address: the
/// identities of its branch and its store, and the envelopes. There are as many as branches, so they
/// are counted like payload.
const SEAT_BYTES: usize = 48;

/// The bytes of a message that users determine.
pub fn payload_bytes(message: &FromReplica) -> usize {
    match message {
        FromReplica::Prepare { payload, roster, .. } => payload.len() + roster.as_ref().map_or(0, roster_bytes),
        FromReplica::AskVoter { request: Request::Join { roster, .. }, .. } => roster_bytes(roster),
        FromReplica::ExecuteStep { order, outputs, .. } => {
            order.input.len() + outputs.iter().map(|(name, output)| name.as_str().len() + output.len()).sum::<usize>()
        }
        FromReplica::CompensateStep { order, output } => order.input.len() + output.as_ref().map_or(0, Bytes::len),
        FromReplica::Reply { reply, .. } => match reply {
            Reply::Outcome { outputs, reason, .. } => {
                reason.as_ref().map_or(0, |reason| reason.message.len())
                    + outputs.iter().map(|(name, output)| name.as_str().len() + output.len()).sum::<usize>()
            }
            Reply::Refused(refused) => refused.message.len(),
            Reply::SagaTurned { reason } => reason.len(),
            Reply::Begun { .. } | Reply::Enlisted | Reply::SagaStarted => 0,
        },
        FromReplica::ForgetVoters { gtids } => gtids.len() * size_of::<Gtid>(),
        FromReplica::Welcome(_)
        | FromReplica::Heartbeat
        | FromReplica::CommitBranch { .. }
        | FromReplica::AbortBranch { .. }
        | FromReplica::AskVoter { .. }
        | FromReplica::LogAnswered { .. }
        | FromReplica::AwaitDecision { .. }
        | FromReplica::GoAway { .. } => 0,
    }
}

fn roster_bytes(roster: &Roster) -> usize {
    let seats = roster.participants().iter();
    seats.map(|seat| seat.participant.as_str().len() + seat.address.as_str().len() + SEAT_BYTES).sum()
}
