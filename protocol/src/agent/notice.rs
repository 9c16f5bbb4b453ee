//! What an agent has done, or has not, that a human should know. Nothing is decided by it.

use crate::ids::{BranchKey, Gtid};
use crate::record::Decision;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A replica or a voter contradicts the outcome that a branch knows. Nothing was done.
    Contradiction {
        /// Which branch.
        key: BranchKey,
        /// What it is doing.
        doing: Decision,
    },
    /// An order for a branch, and this process serves none.
    NoParticipant(BranchKey),
    /// A branch that another instance has left prepared. The agent asks about it.
    LeftPrepared {
        /// Which.
        key: BranchKey,
        /// Whether its voter has voted.
        has_voted: bool,
    },
    /// An election has failed again, for too few voters answer. The longer that lasts, the more
    /// seldom it is noticed.
    ElectionFailed {
        /// Of which transaction.
        gtid: Gtid,
        /// How many have failed.
        elections: u32,
        /// What the branch waits for.
        waiting_for: String,
        /// The peers that do not answer, and where they were asked.
        asked_at: String,
    },
}
