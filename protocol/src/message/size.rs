//! How large a message is, as far as users determine it: what frames are closed by, and what fits
//! into none.

use bytes::Bytes;

use super::{Ask, FRAME_BYTES_MAX, FromClient, FromReplica, Reply, VoterMessage};
use crate::branch::{HookEnd, Message};
use crate::ids::Gtid;
use crate::saga::StepResult;
use crate::three_phase::{Request, Roster};
use crate::two_phase::Vote;

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

/// The same of a client's message, with something for what is around them.
pub fn client_payload_bytes(message: &FromClient) -> usize {
    match message {
        FromClient::Hello(_) | FromClient::Heartbeat => 0,
        FromClient::Request(request) => request_bytes(&request.ask),
        FromClient::Branch(report) => match &report.message {
            Message::Vote(Vote::No(reason) | Vote::Unknown(reason)) => reason.len(),
            Message::Acknowledge(acknowledgement) => match &acknowledgement.end {
                HookEnd::Failed(error) => error.len(),
                HookEnd::Ended(_) => 0,
            },
            Message::Vote(Vote::Yes | Vote::ReadOnly | Vote::Committed) | Message::Inquire => 0,
        },
        FromClient::Step(answer) => match &answer.result {
            StepResult::Done(output) => output.len(),
            StepResult::Refused(reason) | StepResult::Unknown(reason) => reason.len(),
        },
        FromClient::Voter(report) => match &report.message {
            VoterMessage::AskLog { request: Request::Join { roster, .. }, .. } => roster_bytes(roster),
            VoterMessage::AskLog {
                request:
                    Request::VoteYes { .. }
                    | Request::VoteNo
                    | Request::Propose { .. }
                    | Request::Decided(_)
                    | Request::Elected(_),
                ..
            }
            | VoterMessage::Answered(_) => 0,
        },
    }
}

/// The same of a request.
pub fn request_bytes(ask: &Ask) -> usize {
    match ask {
        Ask::Commit(commit) => commit.branches.iter().map(|branch| branch.payload.len() + 64).sum(),
        Ask::StartSaga { definition, .. } => definition.steps().iter().map(|step| step.input.len() + 128).sum(),
        Ask::Abort { reason } => reason.len(),
        Ask::Begin { .. } | Ask::Await { .. } | Ask::Enlist { .. } => 0,
    }
}

fn roster_bytes(roster: &Roster) -> usize {
    let seats = roster.participants().iter();
    seats.map(|seat| seat.participant.as_str().len() + seat.address.as_str().len() + SEAT_BYTES).sum()
}
