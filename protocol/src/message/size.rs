//! How large a message is, as far as users determine it: what frames are closed by, and what fits
//! into none.

use bytes::Bytes;

use super::{FRAME_BYTES_MAX, FromReplica, Reply};
use crate::ids::Gtid;
use crate::three_phase::{Request, Roster};

/// All payloads of one message: they share a frame with their envelope.
pub const MESSAGE_BYTES_MAX: usize = FRAME_BYTES_MAX - 64 * 1024;

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
    roster.participants().iter().map(|seat| seat.participant.as_str().len() + seat.address.as_str().len()).sum()
}
