//! Ballots: what orders the attempts to end one transaction.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whoever leads attempts. Drawn anew, at random, for every machine that is made, so that no two machines ever propose under
/// the same ballot: not two processes, not two lives of one, not two instances that share a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u128);

/// The number of one attempt. They are totally ordered: by round, then by node.
///
/// Every ballot carries at most one proposal: its node never proposes twice under it, and no other node uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ballot {
    /// The round, from 1.
    pub round: u64,
    /// Who leads it.
    pub node: NodeId,
}

impl Ballot {
    /// The coordinator's first attempt, which needs no election: it proposes to commit and nothing else, whoever sends it.
    pub const FIRST: Self = Self { round: 1, node: NodeId(0) };

    /// The highest round that a peer or a store is believed. Rounds are counted one by one, so nobody honest comes near; and whoever claims a
    /// higher one would leave no number for those who have to go above it.
    pub const ROUND_MAX: u64 = u64::MAX / 2;

    /// This node's ballot above another one.
    ///
    /// # Panics
    /// After 2^64 rounds; see [`ROUND_MAX`](Self::ROUND_MAX).
    pub fn above(highest: Self, node: NodeId) -> Self {
        let round = highest.round.checked_add(1).expect("rounds are counted one by one");
        Self { round, node }
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:032x}", self.round, self.node.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_ballot_is_above_every_earlier_one() {
        let highest = Ballot { round: 4, node: NodeId(u128::MAX) };
        assert!(Ballot::above(highest, NodeId(0)) > highest);
        assert!(Ballot::above(Ballot::FIRST, NodeId(7)) > Ballot::FIRST);
        assert!(None < Some(Ballot::FIRST), "who has accepted nothing is below everybody who has");
    }
}
