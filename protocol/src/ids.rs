//! Names and numbers: transaction ids, participant names, instances, epochs.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The id of a transaction: a UUIDv7 (RFC 9562), minted by the initiator's SDK.
///
/// Only version 7 is taken: its leading 48 bits are the mint time in Unix milliseconds, which lets a coordinator tell
/// a transaction that it cannot have met before from one that it must look up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Uuid", into = "Uuid")]
pub struct Gtid(Uuid);

/// Transactions by gtid. Its hasher is quick, and seeded for each process.
pub type GtidMap<V> = HashMap<Gtid, V, foldhash::fast::RandomState>;
/// Some gtids, with the hasher of [`GtidMap`].
pub type GtidSet = HashSet<Gtid, foldhash::fast::RandomState>;

impl Hash for Gtid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.0.as_u128());
    }
}

impl Gtid {
    /// Wraps a UUID.
    ///
    /// # Errors
    /// [`InvalidGtid`] unless it is a UUID of version 7.
    pub fn new(uuid: Uuid) -> Result<Self, InvalidGtid> {
        if uuid.get_version_num() == 7 && uuid.get_variant() == uuid::Variant::RFC4122 {
            Ok(Self(uuid))
        } else {
            Err(InvalidGtid)
        }
    }

    /// The 16 bytes of its wire form, in network order.
    ///
    /// # Errors
    /// [`InvalidGtid`] unless there are 16 of them and they are a UUID of version 7.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidGtid> {
        Self::new(Uuid::from_slice(bytes).map_err(|_| InvalidGtid)?)
    }

    /// The 16 bytes of its wire form, in network order.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The UUID itself.
    pub fn as_uuid(&self) -> Uuid {
        self.0
    }

    /// When it was minted, in Unix milliseconds by the minting process's clock.
    pub fn minted_at_ms(&self) -> u64 {
        let bytes = self.0.as_bytes();
        bytes[..6].iter().fold(0, |ms, byte| (ms << 8) | u64::from(*byte))
    }
}

impl TryFrom<Uuid> for Gtid {
    type Error = InvalidGtid;
    fn try_from(uuid: Uuid) -> Result<Self, InvalidGtid> {
        Self::new(uuid)
    }
}

impl From<Gtid> for Uuid {
    fn from(gtid: Gtid) -> Self {
        gtid.0
    }
}

impl FromStr for Gtid {
    type Err = InvalidGtid;
    fn from_str(text: &str) -> Result<Self, InvalidGtid> {
        Self::new(Uuid::try_parse(text).map_err(|_| InvalidGtid)?)
    }
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What was offered as a gtid is not one.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a gtid is a UUID of version 7, such as 01890a5d-ac96-774b-bcce-b302099a8057; let the SDK mint it")]
pub struct InvalidGtid;

/// As `Display`: `main() -> Result<(), BoxError>` prints an error like this.
impl fmt::Debug for InvalidGtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name of a participant or of a saga step: 1 to 63 of `a-z 0-9 - _ .`, starting with a letter or digit.
///
/// One name is one service; the processes that serve it are told apart by [`InstanceId`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

/// The name of a participant, as it stands in a roster.
pub type ParticipantName = Name;

impl Name {
    /// The longest name, in bytes.
    pub const BYTES_MAX: usize = 63;

    /// Checks and wraps a name.
    ///
    /// # Errors
    /// [`InvalidName`] if it is empty, too long, or has a character outside of `a-z 0-9 - _ .`.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let first_is_fit = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let all_are_fit =
            text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'));
        if first_is_fit && all_are_fit && text.len() <= Self::BYTES_MAX {
            Ok(Self(Arc::from(text)))
        } else {
            Err(InvalidName { name: text.chars().take(80).collect() })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::new(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.to_string()
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that breaks the rule of [`Name`].
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a name: use 1 to 63 of a-z 0-9 - _ . and start with a letter or digit")]
pub struct InvalidName {
    /// What was offered, cut at 80 characters.
    pub name: String,
}

/// As `Display`: `main() -> Result<(), BoxError>` prints an error like this.
impl fmt::Debug for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One running process of a participant; drawn anew at each start, so it is also the incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceId(pub u64);

/// The number that fences whoever may no longer drive a transaction. Higher is newer; zero is nobody's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// The identity of one branch of a transaction.
///
/// A participant may prepare two branches of one transaction, where a call came twice, and only one
/// of them becomes part of it. Their names are the same, so the name does not say which of them the
/// decision is about: this does. No two branches of one transaction have the same.
///
/// The coordinator numbers the branches that a commit carries; the SDK draws the numbers of those
/// that it enlists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BranchId {
    /// The epoch of the coordinator under which the branch began.
    pub epoch: Epoch,
    /// Tells it from the other branches of the transaction that began under that epoch.
    pub number: u64,
}

impl BranchId {
    /// The identity of all branches that were prepared, or logged, before branches had one.
    pub const NONE: Self = Self { epoch: Epoch(0), number: 0 };

    /// Whether it is [`NONE`](Self::NONE).
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// The identity that is `offset` numbers further on.
    #[must_use]
    pub fn plus(self, offset: usize) -> Self {
        Self { epoch: self.epoch, number: self.number.wrapping_add(offset as u64) }
    }
}

/// Which branch, among all branches of a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BranchKey {
    /// Its transaction.
    pub gtid: Gtid,
    /// Which of the participant's branches in that transaction.
    pub id: BranchId,
}

impl BranchKey {
    /// What is known by its transaction alone: a voter's state, and a branch that was prepared
    /// before branches had an identity.
    pub const fn whole(gtid: Gtid) -> Self {
        Self { gtid, id: BranchId::NONE }
    }
}

/// Branches by their keys, with the hasher of [`GtidMap`].
pub type BranchMap<V> = HashMap<BranchKey, V, foldhash::fast::RandomState>;

/// `gtid:epoch.number`.
impl fmt::Display for BranchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.gtid, self.id)
    }
}

/// `epoch.number`, the epoch in decimal and the number in hexadecimal digits.
///
/// The log keeps each id as text, so the digits are put together here: `write!` takes several times
/// as long.
impl fmt::Display for BranchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'.'; "18446744073709551615.ffffffffffffffff".len()];
        let dot = put_digits::<16>(&mut text, self.number) - 1;
        let start = put_digits::<10>(&mut text[..dot], self.epoch.0);
        f.write_str(std::str::from_utf8(&text[start..]).map_err(|_| fmt::Error)?)
    }
}

/// Puts the digits of a number at the end of a text that has room for them. Returns where they
/// begin.
fn put_digits<const RADIX: u64>(text: &mut [u8], mut number: u64) -> usize {
    let mut start = text.len();
    loop {
        start -= 1;
        text[start] = b"0123456789abcdef"[(number % RADIX) as usize];
        number /= RADIX;
        if number == 0 {
            return start;
        }
    }
}

impl FromStr for BranchId {
    type Err = InvalidBranchId;
    fn from_str(text: &str) -> Result<Self, InvalidBranchId> {
        let read = || {
            let (epoch, number) = text.split_once('.')?;
            Some(Self { epoch: Epoch(epoch.parse().ok()?), number: u64::from_str_radix(number, 16).ok()? })
        };
        // One identity has one text: no signs and no leading zeros.
        read().filter(|id| id.to_string() == text).ok_or(InvalidBranchId)
    }
}

/// What was offered as a branch's identity is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a branch id is an epoch and a hexadecimal number, such as 7.1f")]
pub struct InvalidBranchId;

/// Whoever waits for an answer: a session and its request, opaque to the machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Caller {
    /// The session's number within the coordinator process.
    pub session: u64,
    /// The request's number within the session.
    pub request: u64,
}

/// A digest of a request's body: the same key with another digest is a misuse and is refused (I11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BodyDigest(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_version_7_is_a_gtid() {
        assert!("01890a5d-ac96-774b-bcce-b302099a8057".parse::<Gtid>().is_ok());
        assert!("f47ac10b-58cc-4372-a567-0e02b2c3d479".parse::<Gtid>().is_err());
        assert!("00000000-0000-0000-0000-000000000000".parse::<Gtid>().is_err());
        assert!(Gtid::from_bytes(&[7; 15]).is_err());
    }

    #[test]
    fn a_gtid_tells_when_it_was_minted() {
        let gtid: Gtid = "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("valid");
        assert_eq!(gtid.minted_at_ms(), 0x0189_0a5d_ac96);
    }

    #[test]
    fn a_branch_id_has_one_text() {
        let id = BranchId { epoch: Epoch(7), number: u64::MAX };
        assert_eq!(id.to_string(), "7.ffffffffffffffff");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("0.0".parse(), Ok(BranchId::NONE));
        assert_eq!(BranchId::NONE.to_string(), "0.0");
        let last = BranchId { epoch: Epoch(u64::MAX), number: u64::MAX };
        assert_eq!(last.to_string(), "18446744073709551615.ffffffffffffffff");
        assert_eq!(BranchId { epoch: Epoch(10), number: 16 }.to_string(), "10.10");
        for bad in ["", "7", "7.", ".1", "+7.1", "07.1", "7.01", "7.1F", "7.1.2", "-1.0", "7.10000000000000000"] {
            assert_eq!(bad.parse::<BranchId>(), Err(InvalidBranchId), "{bad}");
        }
    }

    #[test]
    fn names_are_narrow() {
        for good in ["inventory", "bank-a", "7eleven", "a.b_c"] {
            assert!(Name::new(good).is_ok(), "{good}");
        }
        for bad in ["", "Inventory", "-a", "a,b", "a b", "é", &"x".repeat(64)] {
            assert!(Name::new(bad).is_err(), "{bad}");
        }
    }
}
