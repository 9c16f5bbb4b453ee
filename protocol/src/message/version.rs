//! Which version of the session protocol a session uses.

use std::ops::RangeInclusive;

use super::{Reason, Refused};

/// The newest version of the session protocol that this crate speaks.
///
/// | version | what is new |
/// |---|---|
/// | 1 | the first; refused, since its branches have no identity and its acknowledgements do not say of what |
/// | 2 | branch ids; acknowledgements with decision, epoch and failure; a range of versions in Hello |
pub const PROTOCOL_VERSION: u32 = 2;

/// The oldest version of the session protocol that this crate speaks.
pub const PROTOCOL_VERSION_MIN: u32 = 2;

/// The versions of the session protocol that this crate speaks.
pub const PROTOCOL_VERSIONS: RangeInclusive<u32> = PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION;

/// The last version whose branches have no identity.
const WITHOUT_BRANCH_IDS: u32 = 1;

/// The version that a client and a replica use together: the newest that is in both ranges.
///
/// # Errors
/// [`Reason::ProtocolVersion`] if there is none. The message says which side is older, and what to
/// update to what.
pub fn agreed_version(client: &RangeInclusive<u32>, replica: &RangeInclusive<u32>) -> Result<u32, Refused> {
    let (oldest, newest) = (client.start().max(replica.start()), client.end().min(replica.end()));
    if oldest <= newest {
        return Ok(*newest);
    }
    let both = format!("this replica speaks session protocol {}, the client {}", shown(replica), shown(client));
    let message = if *client.end() == 0 {
        format!("{both}; set protocol_version in Hello to the version that the client speaks")
    } else if client.start() > replica.end() {
        format!("{both}; update the coordinator to a version that speaks {}, before its clients", client.start())
    } else if *client.end() <= WITHOUT_BRANCH_IDS {
        format!(
            "{both}; its branches have no identity, so a late rollback could undo a later commit: update the SDK to \
             a version that speaks {}",
            replica.start()
        )
    } else {
        format!("{both}; update the SDK to a version that speaks {}", replica.start())
    };
    Err(Reason::ProtocolVersion.refused(message))
}

fn shown(versions: &RangeInclusive<u32>) -> String {
    if versions.start() == versions.end() {
        versions.end().to_string()
    } else {
        format!("{} to {}", versions.start(), versions.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_refused(client: RangeInclusive<u32>, replica: RangeInclusive<u32>, message: &str) {
        let refused = agreed_version(&client, &replica).expect_err("no version in common");
        assert_eq!(refused, Reason::ProtocolVersion.refused(message));
    }

    #[test]
    fn a_session_uses_the_newest_version_that_both_sides_speak() {
        for (client, replica, agreed) in
            [(2..=2, 2..=2, 2), (2..=3, 2..=2, 2), (2..=2, 2..=3, 2), (1..=4, 2..=3, 3), (3..=5, 2..=4, 4)]
        {
            assert_eq!(agreed_version(&client, &replica), Ok(agreed), "{client:?} {replica:?}");
        }
        assert_eq!(agreed_version(&PROTOCOL_VERSIONS, &PROTOCOL_VERSIONS), Ok(PROTOCOL_VERSION));
    }

    #[test]
    fn a_client_whose_branches_have_no_identity_is_refused_with_the_reason() {
        assert_refused(
            1..=1,
            PROTOCOL_VERSIONS,
            "this replica speaks session protocol 2, the client 1; its branches have no identity, so a late rollback \
             could undo a later commit: update the SDK to a version that speaks 2",
        );
    }

    #[test]
    fn the_older_side_is_the_one_to_update() {
        assert_refused(
            2..=3,
            5..=6,
            "this replica speaks session protocol 5 to 6, the client 2 to 3; update the SDK to a version that speaks 5",
        );
        assert_refused(
            4..=5,
            2..=3,
            "this replica speaks session protocol 2 to 3, the client 4 to 5; update the coordinator to a version that \
             speaks 4, before its clients",
        );
    }

    #[test]
    fn a_client_that_names_no_version_is_told_to() {
        assert_refused(
            0..=0,
            2..=2,
            "this replica speaks session protocol 2, the client 0; set protocol_version in Hello to the version that \
             the client speaks",
        );
    }
}
