//! The names under which branches are prepared.
//!
//! `assent:{coordinator}:{database}:{participant}:{gtid}:{branch}`. The coordinator, because only it
//! can end the branch: two coordinators may use one server. The database by its OID, because gids
//! are unique in the whole server, not in a database; the OID outlives a renaming, and every kind
//! of move that prepared transactions survive. The participant, because two of them may share a
//! database and still have a branch each. The branch's own identity, because a call may come twice:
//! what ends one of its branches must not end the other. Branches that were prepared before they
//! had an identity have none here, and no colon before it.

use std::fmt;

use assent_protocol::{BranchId, BranchKey, Gtid, ParticipantName};

use super::error::PostgresError;

/// What Postgres takes at most, in bytes, as the identifier of a prepared transaction; its
/// `GIDSIZE` without the final zero.
const GID_BYTES_MAX: usize = 199;

/// The longest id of a coordinator, in bytes.
const COORDINATOR_BYTES_MAX: usize = 36;

/// The longest identity of a branch, in bytes: two 64-bit numbers, decimal and hexadecimal.
const BRANCH_BYTES_MAX: usize = 20 + 1 + 16;

// `assent`, five colons, a 32-bit OID and a UUID beside the two names and the branch.
const _: () =
    assert!(6 + 5 + COORDINATOR_BYTES_MAX + 10 + ParticipantName::BYTES_MAX + 36 + BRANCH_BYTES_MAX <= GID_BYTES_MAX);

/// What all gids of one participant in one database begin with. Whatever begins otherwise is
/// somebody else's and is not touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prefix(String);

impl Prefix {
    /// # Errors
    /// [`PostgresError::CoordinatorId`] unless the id is 1 to 36 of `a-z 0-9 -`: it came over the
    /// wire and ends up in SQL text, since PREPARE TRANSACTION takes a literal and no parameter.
    /// The other parts cannot hold a quote by their types.
    pub(super) fn new(coordinator: &str, database: u32, participant: &ParticipantName) -> Result<Self, PostgresError> {
        let is_fit = (1..=COORDINATOR_BYTES_MAX).contains(&coordinator.len())
            && coordinator.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !is_fit {
            return Err(PostgresError::CoordinatorId { id: coordinator.chars().take(80).collect() });
        }
        Ok(Self(format!("assent:{coordinator}:{database}:{participant}:")))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn gid(&self, key: BranchKey) -> Gid {
        let BranchKey { gtid, id } = key;
        Gid(if id.is_none() { format!("{}{gtid}", self.0) } else { format!("{}{gtid}:{id}", self.0) })
    }

    /// What the gids of all branches of a transaction begin with.
    pub(super) fn of_transaction(&self, gtid: Gtid) -> String {
        format!("{}{gtid}", self.0)
    }

    /// How long a gid with this prefix is at most.
    pub(super) fn gid_bytes_max(&self) -> usize {
        self.0.len() + uuid::fmt::Hyphenated::LENGTH + 1 + BRANCH_BYTES_MAX
    }

    /// The branch of a gid with this prefix; `None` where what follows it is no branch as this SDK
    /// writes it.
    pub(super) fn branch_of(&self, gid: &str) -> Option<BranchKey> {
        let rest = gid.strip_prefix(&self.0)?;
        let (gtid, id) = match rest.split_once(':') {
            Some((gtid, id)) => (gtid, id.parse().ok()?),
            None => (rest, BranchId::NONE),
        };
        let key = BranchKey { gtid: gtid.parse().ok()?, id };
        // Only the one spelling that would be used to end it.
        (self.gid(key).0 == gid).then_some(key)
    }
}

/// The identifier of one prepared transaction. Needs no escape within single quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gid(String);

impl Gid {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use assent_protocol::Epoch;

    use super::*;

    fn key(id: &str) -> BranchKey {
        let gtid = "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("a gtid");
        BranchKey { gtid, id: id.parse().expect("a branch id") }
    }

    fn name(text: &str) -> ParticipantName {
        ParticipantName::new(text).expect("a name")
    }

    #[test]
    fn a_gid_leads_back_to_its_transaction() {
        let prefix = Prefix::new("orders-1", 16_384, &name("bank-a")).expect("fit");
        let gid = prefix.gid(key("7.1f"));
        assert_eq!(gid.as_str(), "assent:orders-1:16384:bank-a:01890a5d-ac96-774b-bcce-b302099a8057:7.1f");
        assert_eq!(prefix.branch_of(gid.as_str()), Some(key("7.1f")));
        let without = prefix.gid(key("0.0"));
        assert_eq!(without.as_str(), "assent:orders-1:16384:bank-a:01890a5d-ac96-774b-bcce-b302099a8057");
        assert_eq!(prefix.branch_of(without.as_str()), Some(key("0.0")));
    }

    #[test]
    fn the_longest_names_fit() {
        let prefix = Prefix::new(&"c".repeat(36), u32::MAX, &name(&"p".repeat(63))).expect("fit");
        let id = BranchId { epoch: Epoch(u64::MAX), number: u64::MAX };
        let gid = prefix.gid(BranchKey { id, ..key("0.0") });
        assert_eq!(gid.as_str().len(), prefix.gid_bytes_max());
        assert!(prefix.gid_bytes_max() <= GID_BYTES_MAX);
    }

    #[test]
    fn foreign_gids_are_nobody_of_ours() {
        let prefix = Prefix::new("orders-1", 16_384, &name("bank-a")).expect("fit");
        for foreign in [
            "assent:orders-2:16384:bank-a:01890a5d-ac96-774b-bcce-b302099a8057",
            "assent:orders-1:16385:bank-a:01890a5d-ac96-774b-bcce-b302099a8057",
            "assent:orders-1:16384:bank-b:01890a5d-ac96-774b-bcce-b302099a8057",
            "assent:orders-1:16384:bank-a:01890A5D-AC96-774B-BCCE-B302099A8057",
            "assent:orders-1:16384:bank-a:01890a5dac96774bbcceb302099a8057",
            "assent:orders-1:16384:bank-a:01890a5d-ac96-774b-bcce-b302099a8057:",
            "assent:orders-1:16384:bank-a:01890a5d-ac96-774b-bcce-b302099a8057:0.0",
            "assent:orders-1:16384:bank-a:01890a5d-ac96-774b-bcce-b302099a8057:7.01f",
            "assent:orders-1:16384:bank-a:",
            "assent:orders-1:16384:bank-a:by hand",
            "by hand",
            "",
        ] {
            assert_eq!(prefix.branch_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_coordinator_cannot_write_sql() {
        for id in ["", "A", "a'b", "a\\b", "a:b", "é", &"a".repeat(37)] {
            assert!(Prefix::new(id, 1, &name("bank-a")).is_err(), "{id}");
        }
    }
}
