//! The frozen roster: who votes, and where they are found.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{BranchId, ParticipantName};
use crate::record::Member;

/// The identity of the store that keeps a voter's state: drawn when the store is made, and kept in it.
///
/// A voter whose store is another one than its roster names has lost its promises, and may not vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StoreId(pub u128);

/// Where a participant's voter is reached by its peers. Opaque here; whoever dials it knows its form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerAddress(Arc<str>);

impl PeerAddress {
    /// The longest address, in bytes.
    pub const BYTES_MAX: usize = 255;

    /// Checks and wraps an address.
    ///
    /// # Errors
    /// [`InvalidAddress`] if it is empty, too long, or has anything but visible ASCII characters.
    pub fn new(text: &str) -> Result<Self, InvalidAddress> {
        let is_fit = !text.is_empty() && text.len() <= Self::BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic());
        if is_fit { Ok(Self(Arc::from(text))) } else { Err(InvalidAddress) }
    }

    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PeerAddress {
    type Error = InvalidAddress;
    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        Self::new(&text)
    }
}

impl From<PeerAddress> for String {
    fn from(address: PeerAddress) -> Self {
        address.0.to_string()
    }
}

impl FromStr for PeerAddress {
    type Err = InvalidAddress;
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        Self::new(text)
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What was offered as an address is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a peer's address is 1 to 255 visible ASCII characters, such as http://10.0.0.7:7421")]
pub struct InvalidAddress;

/// One participant's place in a roster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seat {
    /// Who votes.
    pub participant: ParticipantName,
    /// For which of the participant's branches.
    #[serde(default)]
    pub branch: BranchId,
    /// Where its peers reach it.
    pub address: PeerAddress,
    /// The store that keeps its state.
    pub store: StoreId,
}

impl Seat {
    /// The branch that it votes for.
    pub fn member(&self) -> Member {
        Member { participant: self.participant.clone(), branch: self.branch }
    }
}

/// A voter, as its peers name it. A replica that leads an election speaks as the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum VoterName {
    /// A participant.
    Participant(ParticipantName),
    /// The coordinator's log.
    Log,
}

impl fmt::Display for VoterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Participant(participant) => participant.fmt(f),
            Self::Log => f.write_str("the log"),
        }
    }
}

/// The voters of one transaction, frozen when prepare starts (I8): its participants, and the log as one more.
///
/// A voter's index never changes: participants in order from 0, then the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct Roster {
    /// Not a slice: of one and the same vector it is known at once that it is equal.
    participants: Arc<Vec<Seat>>,
    log: StoreId,
}

#[derive(Serialize, Deserialize)]
struct Unchecked {
    participants: Vec<Seat>,
    log: StoreId,
}

impl TryFrom<Unchecked> for Roster {
    type Error = InvalidRoster;
    fn try_from(unchecked: Unchecked) -> Result<Self, InvalidRoster> {
        Self::new(unchecked.participants, unchecked.log)
    }
}

impl From<Roster> for Unchecked {
    fn from(roster: Roster) -> Self {
        Self { participants: roster.participants.to_vec(), log: roster.log }
    }
}

impl Roster {
    /// The most participants of a transaction, whatever a coordinator's own limit is.
    pub const PARTICIPANTS_MAX: usize = 1_000;

    /// Freezes a roster.
    ///
    /// # Errors
    /// [`InvalidRoster`] if it is empty or too long, or names a participant twice.
    pub fn new(participants: Vec<Seat>, log: StoreId) -> Result<Self, InvalidRoster> {
        if participants.is_empty() {
            return Err(InvalidRoster::Empty);
        }
        if participants.len() > Self::PARTICIPANTS_MAX {
            return Err(InvalidRoster::TooMany { participants_max: Self::PARTICIPANTS_MAX });
        }
        // Rosters come over the wire: what they cost grows with their length, and not with its square.
        let mut names: Vec<&ParticipantName> = participants.iter().map(|seat| &seat.participant).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]) {
            return Err(InvalidRoster::Twice(twice.clone()));
        }
        Ok(Self { participants: Arc::new(participants), log })
    }

    /// The participants' places, in order.
    pub fn participants(&self) -> &[Seat] {
        &self.participants
    }

    /// Whether the same voters are found at the same places, be it for other branches. Those who
    /// commit together once do so again, and only their branches are others then.
    pub fn is_like(&self, other: &Self) -> bool {
        let is_alike = |(one, other): (&Seat, &Seat)| {
            one.participant == other.participant && one.address == other.address && one.store == other.store
        };
        self.log == other.log
            && self.participants.len() == other.participants.len()
            && self.participants.iter().zip(other.participants.iter()).all(is_alike)
    }

    /// The branches that the participants vote for, in order.
    pub fn branches(&self) -> impl ExactSizeIterator<Item = BranchId> + Clone {
        self.participants.iter().map(|seat| seat.branch)
    }

    /// The same voters, for these branches: one for each participant, in order.
    #[must_use]
    pub fn with_branches(&self, branches: impl ExactSizeIterator<Item = BranchId>) -> Option<Self> {
        let is_complete = branches.len() == self.participants.len();
        let seats = || self.participants.iter().zip(branches).map(|(seat, branch)| Seat { branch, ..seat.clone() });
        is_complete.then(|| Self { participants: Arc::new(seats().collect()), log: self.log })
    }

    /// The log's identity.
    pub fn log(&self) -> StoreId {
        self.log
    }

    /// How many vote.
    pub fn voters(&self) -> usize {
        self.participants.len() + 1
    }

    /// How many make a quorum: any two quorums have a voter in common.
    pub fn quorum(&self) -> usize {
        self.voters() / 2 + 1
    }

    /// A voter's index.
    pub fn position(&self, voter: &VoterName) -> Option<usize> {
        match voter {
            VoterName::Participant(name) => self.participants.iter().position(|seat| seat.participant == *name),
            VoterName::Log => Some(self.participants.len()),
        }
    }

    /// A participant's place.
    pub fn seat(&self, participant: &ParticipantName) -> Option<&Seat> {
        self.participants.iter().find(|seat| seat.participant == *participant)
    }

    /// The store that keeps a voter's state.
    pub fn store(&self, voter: &VoterName) -> Option<StoreId> {
        match voter {
            VoterName::Participant(name) => self.seat(name).map(|seat| seat.store),
            VoterName::Log => Some(self.log),
        }
    }

    /// The voters' names, by index.
    pub fn names(&self) -> impl Iterator<Item = VoterName> {
        let participants = self.participants.iter().map(|seat| VoterName::Participant(seat.participant.clone()));
        participants.chain([VoterName::Log])
    }
}

/// What was offered as a roster is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRoster {
    /// Nobody would vote.
    #[error("a roster names at least one participant")]
    Empty,
    /// It is longer than any transaction's.
    #[error("the roster names more than {participants_max} participants; split the transaction")]
    TooMany {
        /// How many it may name.
        participants_max: usize,
    },
    /// One participant, one vote.
    #[error("the roster names {0} twice; a participant has one branch and one vote")]
    Twice(ParticipantName),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;

    fn seat(name: &str, store: u128) -> Seat {
        Seat {
            participant: name.parse().expect("valid"),
            branch: BranchId::NONE,
            address: "http://127.0.0.1:1".parse().expect("valid"),
            store: StoreId(store),
        }
    }

    #[test]
    fn any_two_quorums_meet() {
        let names = ["a", "b", "c", "d", "e", "f"];
        for count in 1..=names.len() {
            let seats = names[..count].iter().zip(1..).map(|(name, store)| seat(name, store)).collect();
            let roster = Roster::new(seats, StoreId(0)).expect("valid");
            assert!(2 * roster.quorum() > roster.voters(), "{count}");
            assert!(roster.names().enumerate().all(|(index, name)| roster.position(&name) == Some(index)));
        }
    }

    #[test]
    fn one_participant_has_one_vote() {
        let roster = |seats| Roster::new(seats, StoreId(0));
        assert_eq!(roster(vec![]), Err(InvalidRoster::Empty));
        let twice = Err(InvalidRoster::Twice("a".parse().expect("valid")));
        assert_eq!(roster(vec![seat("a", 1), seat("b", 1), seat("a", 2)]), twice);
        let many = |count: usize| roster((0..count).map(|at| seat(&format!("p-{at}"), 1)).collect());
        assert!(many(Roster::PARTICIPANTS_MAX).is_ok());
        assert!(matches!(many(Roster::PARTICIPANTS_MAX + 1), Err(InvalidRoster::TooMany { .. })));
    }

    #[test]
    fn a_roster_is_like_one_of_other_branches() {
        let roster = |store, log| Roster::new(vec![seat("a", 1), seat("b", store)], StoreId(log)).expect("valid");
        let branches = [1, 2].map(|number| BranchId { epoch: Epoch(7), number });
        let other = roster(2, 0).with_branches(branches.into_iter()).expect("one for each");
        assert_eq!(other.branches().collect::<Vec<_>>(), branches);
        assert!(other.is_like(&roster(2, 0)) && other != roster(2, 0));
        assert!(!other.is_like(&roster(3, 0)) && !other.is_like(&roster(2, 1)));
        assert!(!other.is_like(&Roster::new(vec![seat("a", 1)], StoreId(0)).expect("valid")));
        assert_eq!(other.with_branches([BranchId::NONE; 2].into_iter()), Some(roster(2, 0)));
        assert_eq!(other.with_branches([BranchId::NONE; 3].into_iter()), None);
    }

    #[test]
    fn an_address_is_one_visible_word() {
        for bad in ["", "http://a b", "http://\u{e9}", "a\nb", &"x".repeat(256)] {
            assert_eq!(PeerAddress::new(bad), Err(InvalidAddress), "{bad}");
        }
        assert!(PeerAddress::new("http://[::1]:7421").is_ok());
    }
}
