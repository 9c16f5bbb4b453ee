//! The roster in an order to prepare.
//!
//! It goes to every voter, and those who commit together once do so again, for other branches: so
//! the last roster is remembered in both forms and without its branches, by each thread that writes
//! or reads them.

use std::cell::RefCell;

use assent_protocol::BranchId;
use assent_protocol::three_phase::Roster;
use bytes::Bytes;
use prost::Message as _;

use super::Malformed;
use crate::v1;

thread_local! {
    static LAST: RefCell<Option<(Roster, Bytes)>> = const { RefCell::new(None) };
}

/// A roster, encoded, and its branches.
pub(super) fn encoded(roster: Roster) -> (Bytes, Vec<v1::BranchId>) {
    let branches = roster.branches().map(Into::into).collect();
    let known = LAST.with_borrow(|last| Some(last.as_ref().filter(|(known, _)| known.is_like(&roster))?.1.clone()));
    let bytes = known.unwrap_or_else(|| {
        let mut wire = v1::Roster::from(roster.clone());
        wire.participants.iter_mut().for_each(|seat| seat.branch = None);
        let bytes = Bytes::from(wire.encode_to_vec());
        LAST.set(Some((roster, bytes.clone())));
        bytes
    });
    (bytes, branches)
}

/// The roster that these bytes are, of these branches; none if there are no bytes.
pub(super) fn decoded(bytes: Bytes, branches: Vec<v1::BranchId>) -> Result<Option<Roster>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let malformed = |problem: String| Malformed { message: "Prepare", problem, request_id: None };
    let known = LAST.with_borrow(|last| Some(last.as_ref().filter(|(_, known)| *known == bytes)?.0.clone()));
    let roster = match known {
        Some(roster) => roster,
        None => {
            // Copied, since the frame that it came in would be kept with it.
            let bytes = Bytes::copy_from_slice(&bytes);
            let wire = v1::Roster::decode(bytes.clone()).map_err(|error| malformed(format!("roster: {error}")))?;
            let roster = Roster::try_from(wire)?;
            LAST.set(Some((roster.clone(), bytes)));
            roster
        }
    };
    let count = branches.len();
    let roster = roster.with_branches(branches.into_iter().map(BranchId::from));
    roster.map(Some).ok_or_else(|| malformed(format!("roster_branches: {count}, and not one for each participant")))
}

#[cfg(test)]
mod tests {
    use assent_protocol::three_phase::{Seat, StoreId};
    use assent_protocol::{BranchId, Epoch};

    use super::*;

    fn roster(log: u128, number: u64) -> Roster {
        let seat = Seat {
            participant: "bank-a".parse().expect("a name"),
            branch: BranchId { epoch: Epoch(7), number },
            address: "http://127.0.0.1:1".parse().expect("an address"),
            store: StoreId(1),
        };
        Roster::new(vec![seat], StoreId(log)).expect("a roster")
    }

    #[test]
    fn whatever_came_before_a_roster_is_read_as_it_was_written() {
        for (log, number) in [(1, 1), (1, 2), (2, 2), (1, 1), (3, 0), (3, 0), (2, 2)] {
            let (bytes, branches) = encoded(roster(log, number));
            assert_eq!(decoded(bytes, branches), Ok(Some(roster(log, number))));
        }
        let [(one, _), (other, _)] = [1, 2].map(|number| encoded(roster(1, number)));
        assert_eq!(one, other, "only the branches differ");
        assert_eq!(decoded(Bytes::new(), Vec::new()), Ok(None));
    }

    #[test]
    fn what_is_no_roster_is_refused_whatever_came_before() {
        let (bytes, branches) = encoded(roster(1, 1));
        decoded(bytes.clone(), branches.clone()).expect("reads");
        for bad in [&b"\xff"[..], b"\x0a\x00"] {
            decoded(Bytes::from_static(bad), branches.clone()).expect_err("no roster");
        }
        decoded(bytes.clone(), Vec::new()).expect_err("a participant without a branch");
        decoded(bytes, branches.repeat(2)).expect_err("a branch without a participant");
    }
}
