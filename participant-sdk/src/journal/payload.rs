//! What stands for a gtid.

use bytes::Bytes;
use smallvec::SmallVec;

/// What may change of a payload, and what else it has alone. That of a voter's record among three
/// needs no allocation of its own.
pub(crate) type Beginning = SmallVec<[u8; 104]>;

/// A payload: a beginning that may change, and a rest that stays and may be shared with others. It is what both are together, however it is divided.
#[derive(Clone, Debug, Default)]
pub(crate) struct Payload {
    beginning: Beginning,
    rest: Bytes,
}

impl Payload {
    pub(crate) fn new(beginning: Beginning, rest: Bytes) -> Self {
        Self { beginning, rest }
    }

    pub(crate) fn beginning(&self) -> &[u8] {
        &self.beginning
    }

    pub(crate) fn len(&self) -> usize {
        self.beginning.len() + self.rest.len()
    }

    /// Both parts, in order.
    pub(crate) fn parts(&self) -> [&[u8]; 2] {
        [&self.beginning, &self.rest]
    }

    pub(crate) fn bytes(&self) -> Bytes {
        if self.beginning.is_empty() { self.rest.clone() } else { self.parts().concat().into() }
    }

    pub(crate) fn begins_with(&self, expected: &[u8]) -> bool {
        match self.beginning.get(..expected.len()) {
            Some(beginning) => beginning == expected,
            None => self.bytes().starts_with(expected),
        }
    }

    /// Whether the other one goes on in the same way behind a beginning of the same length.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.beginning.len() == other.beginning.len() && self.rest == other.rest
    }

    /// With other bytes at its beginning; `None` if it is shorter than these.
    pub(crate) fn with_beginning(&self, mut beginning: Beginning) -> Option<Self> {
        if let Some(kept) = self.beginning.get(beginning.len()..) {
            beginning.extend_from_slice(kept);
            return Some(Self { beginning, rest: self.rest.clone() });
        }
        let bytes = self.bytes();
        (beginning.len() <= bytes.len()).then(|| Self { rest: bytes.slice(beginning.len()..), beginning })
    }
}

impl From<Bytes> for Payload {
    fn from(rest: Bytes) -> Self {
        Self { beginning: Beginning::new(), rest }
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Payload {}
