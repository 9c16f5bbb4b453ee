//! What is written is read as the same, and what cannot be meant is refused.

mod malformed;
pub(crate) mod messages;
mod sagas;

use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message as _;

use assent_protocol::branch::Message;
use assent_protocol::message::payload_bytes;
use assent_protocol::saga::{Definition, StepIndex, StepResult};
use assent_protocol::three_phase::{Answer, PeerAddress, Roster, StoreId};
use assent_protocol::two_phase::{BranchResult, CarriedBranch, EarlyVote, Vote};
use assent_protocol::{AbortReason, BranchId, Epoch, Gtid, InstanceId, Name, Outcome, Protocol, Wait};
use bytes::Bytes;

use super::*;
use crate::{fuzz, v1};

pub(super) const GTID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

pub(super) fn gtid() -> Gtid {
    GTID.parse().expect("a gtid")
}

pub(super) fn gtid_bytes() -> Bytes {
    Bytes::copy_from_slice(gtid().as_bytes())
}

pub(super) const BRANCH: BranchId = BranchId { epoch: Epoch(7), number: 0x1f };

/// What a replica makes of a client's message that crossed the wire.
pub(super) fn over_the_wire(message: FromClient) -> Result<FromClient, Malformed> {
    let bytes = v1::ClientMessage::from(message).encode_to_vec();
    v1::ClientMessage::decode(bytes.as_slice()).expect("encoded above").try_into()
}

/// What a client makes of a replica's message that crossed the wire.
pub(super) fn back_over_the_wire(message: FromReplica) -> Result<FromReplica, Malformed> {
    let bytes = v1::ServerMessage::from(message).encode_to_vec();
    v1::ServerMessage::decode(bytes.as_slice()).expect("encoded above").try_into()
}

/// So many cases, or more if the environment asks for more.
fn cases() -> ProptestConfig {
    ProptestConfig {
        cases: ProptestConfig::default().cases.max(1_000),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn what_a_client_writes_a_replica_reads(message in messages::from_client()) {
        prop_assert_eq!(over_the_wire(message.clone()), Ok(message));
    }

    #[test]
    fn what_a_replica_writes_a_client_reads(message in messages::from_replica()) {
        prop_assert_eq!(back_over_the_wire(message.clone()), Ok(message));
    }

    /// A frame is closed by the bytes that are counted: what is not counted must be small.
    #[test]
    fn what_is_not_counted_as_payload_is_small(message in messages::from_replica()) {
        const ENVELOPE_BYTES_MAX: usize = 256;
        if !matches!(message, FromReplica::Welcome(_) | FromReplica::GoAway { .. }) {
            let counted = payload_bytes(&message);
            let written = v1::ServerMessage::from(message).encoded_len();
            prop_assert!(written <= counted + ENVELOPE_BYTES_MAX, "{written} bytes, {counted} counted");
        }
    }

    #[test]
    fn random_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        fuzz::session(&bytes);
    }

    /// Random bytes are seldom a message. Those of one, with a few changed, reach every check.
    #[test]
    fn damaged_frames_are_read_or_refused(
        to_replica in proptest::collection::vec(messages::from_client(), 1..4),
        to_client in proptest::collection::vec(messages::from_replica(), 1..4),
        damages in damage(),
    ) {
        let request = v1::ExchangeRequest { messages: to_replica.into_iter().map(Into::into).collect() };
        let response = v1::ExchangeResponse { messages: to_client.into_iter().map(Into::into).collect() };
        for bytes in [request.encode_to_vec(), response.encode_to_vec()] {
            fuzz::session(&damages.of(bytes));
        }
    }
}

/// A few bytes that are written over an encoding's, and where it is cut.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    bytes: Vec<(Index, u8)>,
    cut: Option<Index>,
}

impl Damage {
    pub(crate) fn of(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        for (at, byte) in &self.bytes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
        }
        if let Some(cut) = self.cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        bytes
    }
}

pub(crate) fn damage() -> impl Strategy<Value = Damage> {
    let bytes = proptest::collection::vec((any::<Index>(), any::<u8>()), 1..6);
    (bytes, proptest::option::of(any::<Index>())).prop_map(|(bytes, cut)| Damage { bytes, cut })
}

#[test]
fn payloads_are_moved_not_copied() {
    let payload = Bytes::from(vec![7; 1_000]);
    let address = payload.as_ptr();
    let ask = Ask::Commit(Commit {
        branches: vec![CarriedBranch { participant: Name::new("bank-a").expect("a name"), payload }],
        attempt: 1,
        begun: false,
        timeout_ms: 0,
        wait: Wait::Decided,
        protocol: Protocol::TwoPhase,
        first_epoch: None,
        expected: Expected::Anything,
    });
    let message = v1::ClientMessage::from(FromClient::request(1, gtid(), ask));
    let Ok(FromClient::Request(Request { ask: Ask::Commit(commit), .. })) = FromClient::try_from(message) else {
        panic!("a fit commit");
    };
    assert_eq!(commit.branches[0].payload.as_ptr(), address);

    let prepare = FromReplica::Prepare {
        gtid: gtid(),
        branch: BRANCH,
        epoch: Epoch(1),
        payload: commit.branches[0].payload.clone(),
        timeout_ms: 1,
        one_phase: false,
        roster: None,
        is_prepared: false,
    };
    let Ok(FromReplica::Prepare { payload, .. }) = FromReplica::try_from(v1::ServerMessage::from(prepare)) else {
        panic!("a fit order");
    };
    assert_eq!(payload.as_ptr(), address);
}
