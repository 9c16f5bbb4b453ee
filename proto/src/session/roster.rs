//! The roster in an order to prepare.
//!
//! It goes to every voter, and those who commit together once do so again: so the last roster is remembered in both forms, by each thread
//! that writes or reads them.

use std::cell::RefCell;

use assent_protocol::three_phase::Roster;
use bytes::Bytes;
use prost::Message as _;

use super::Malformed;
use crate::v1;

thread_local! {
    static LAST: RefCell<Option<(Roster, Bytes)>> = const { RefCell::new(None) };
}

/// A roster, encoded.
pub(super) fn encoded(roster: Roster) -> Bytes {
    let known = LAST.with_borrow(|last| Some(last.as_ref().filter(|(known, _)| *known == roster)?.1.clone()));
    known.unwrap_or_else(|| {
        let bytes = Bytes::from(v1::Roster::from(roster.clone()).encode_to_vec());
        LAST.set(Some((roster, bytes.clone())));
        bytes
    })
}

/// The roster that these bytes are.
pub(super) fn decoded(bytes: Bytes) -> Result<Roster, Malformed> {
    let known = LAST.with_borrow(|last| Some(last.as_ref().filter(|(_, known)| *known == bytes)?.0.clone()));
    if let Some(roster) = known {
        return Ok(roster);
    }
    let unreadable = |error: prost::DecodeError| Malformed {
        message: "Prepare",
        problem: format!("roster: {error}"),
        request_id: None,
    };
    // Copied, since the frame that it came in would be kept with it.
    let bytes = Bytes::copy_from_slice(&bytes);
    let roster = Roster::try_from(v1::Roster::decode(bytes.clone()).map_err(unreadable)?)?;
    LAST.set(Some((roster.clone(), bytes)));
    Ok(roster)
}

#[cfg(test)]
mod tests {
    use assent_protocol::three_phase::{Seat, StoreId};
    use assent_protocol::{BranchId, Epoch};

    use super::*;

    fn roster(log: u128) -> Roster {
        let seat = Seat {
            participant: "bank-a".parse().expect("a name"),
            branch: BranchId { epoch: Epoch(7), number: 0x1f },
            address: "http://127.0.0.1:1".parse().expect("an address"),
            store: StoreId(1),
        };
        Roster::new(vec![seat], StoreId(log)).expect("a roster")
    }

    #[test]
    fn whatever_came_before_a_roster_is_read_as_it_was_written() {
        for log in [1, 1, 2, 1, 3, 3, 2] {
            let bytes = encoded(roster(log));
            assert_eq!(bytes, v1::Roster::from(roster(log)).encode_to_vec());
            assert_eq!(decoded(bytes).expect("reads"), roster(log));
        }
        for log in [2, 2, 3] {
            let bytes = v1::Roster::from(roster(log)).encode_to_vec().into();
            assert_eq!(decoded(bytes).expect("reads"), roster(log));
        }
    }

    #[test]
    fn what_is_no_roster_is_refused_whatever_came_before() {
        decoded(encoded(roster(1))).expect("reads");
        for bad in [&b"\xff"[..], b"\x0a\x00"] {
            decoded(Bytes::from_static(bad)).expect_err("no roster");
        }
    }
}
