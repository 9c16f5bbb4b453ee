//! Nothing is sent before it is durable: the types that make the other order impossible to write.
//!
//! A machine's [`Output`] holds at most one forced record and keeps its effects out of reach.
//! [`Output::split`] gives them freely only where nothing has to be on disk first; else it gives
//! the record, and the effects sealed in [`Held`]. A `Held` opens only against the [`Durable`]
//! receipt for that very record, and receipts come from logs alone.
//!
//! ```compile_fail,E0616
//! use assent_protocol::durable::Held;
//! fn send_before_logging(held: Held<&'static str>) -> Vec<&'static str> {
//!     held.effects // private: there is no way in without a receipt
//! }
//! ```
//!
//! ```compile_fail,E0451
//! use assent_protocol::{durable::Durable, record::RecordId};
//! fn forge(record: RecordId) -> Durable {
//!     Durable { record } // private: only a log attests
//! }
//! ```

use crate::ids::Gtid;
use crate::record::{Decision, Member, Record, RecordId};

/// What one event led to.
#[must_use = "an output that is dropped loses records and messages"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output<E> {
    forced: Option<Record>,
    lazy: Vec<Record>,
    effects: Vec<E>,
}

impl<E> Output<E> {
    /// Nothing to do.
    pub const fn none() -> Self {
        Self { forced: None, lazy: Vec::new(), effects: Vec::new() }
    }

    /// Effects that wait for nothing.
    pub fn effects(effects: Vec<E>) -> Self {
        Self { forced: None, lazy: Vec::new(), effects }
    }

    /// Effects that wait until the record is durable.
    pub fn after(forced: Record, effects: Vec<E>) -> Self {
        Self { forced: Some(forced), lazy: Vec::new(), effects }
    }

    /// Adds a record that rides with the next batch; losing it only repeats idempotent messages.
    pub fn with_lazy(mut self, record: Record) -> Self {
        self.lazy.push(record);
        self
    }

    /// Separates what may be done now from what must wait.
    pub fn split(self) -> Parts<E> {
        match self.forced {
            None => Parts::Free { lazy: self.lazy, effects: self.effects },
            Some(forced) => {
                let held = Held { record: forced.id(), effects: self.effects };
                Parts::AfterAppend { forced, lazy: self.lazy, held }
            }
        }
    }

    /// For a machine that wraps another one, and answers for what becomes of its effects.
    pub(crate) fn unseal(self) -> (Option<Record>, Vec<Record>, Vec<E>) {
        (self.forced, self.lazy, self.effects)
    }

    /// The records, for checkers: forced first, then lazy.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.forced.iter().chain(&self.lazy)
    }

    /// The record that must be durable before the effects, for checkers.
    pub fn forced(&self) -> Option<&Record> {
        self.forced.as_ref()
    }

    /// The effects, for checkers that look and do not act.
    pub fn peek_effects(&self) -> &[E] {
        &self.effects
    }
}

/// An output, taken apart.
#[derive(Debug)]
pub enum Parts<E> {
    /// Nothing has to be durable first.
    Free {
        /// Records for the next batch.
        lazy: Vec<Record>,
        /// To be done now.
        effects: Vec<E>,
    },
    /// The effects wait for the receipt.
    AfterAppend {
        /// Must be durable before the effects are released.
        forced: Record,
        /// Records for the next batch.
        lazy: Vec<Record>,
        /// The sealed effects.
        held: Held<E>,
    },
}

/// Effects that wait for a receipt. A clone, as checkers make them of whole states, opens only
/// against the same receipt.
#[must_use = "held effects are messages that somebody waits for"]
#[derive(Clone, Debug)]
pub struct Held<E> {
    record: RecordId,
    effects: Vec<E>,
}

impl<E> Held<E> {
    /// Opens the seal.
    ///
    /// # Panics
    /// If the receipt is for another record, of this transaction or of another one: to go on would
    /// be to send before logging.
    pub fn release(self, receipt: &Durable) -> Vec<E> {
        assert_eq!(receipt.record, self.record, "a receipt opens only what is sealed behind its own record");
        self.effects
    }
}

/// A log's word that one forced record, or one that says the same, is on stable storage.
///
/// A log implementation makes it, after the storage confirmed the append (for Postgres: after the
/// implicit transaction of the statement committed with `synchronous_commit` on).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable {
    record: RecordId,
}

impl Durable {
    /// For implementations of a log, after the append was confirmed, and for nothing else: the
    /// workspace's clippy configuration disallows this call outside of them.
    pub fn attest(record: RecordId) -> Self {
        Self { record }
    }

    /// Whose record is durable.
    pub fn gtid(&self) -> Gtid {
        self.record.gtid
    }
}

/// What the log answered to one forced record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is durable, and no other writer came first.
    Durable(Durable),
    /// Another decision was there first, and it is the one that counts: another end, or the same end
    /// for other branches.
    Overruled {
        /// That decision.
        decision: Decision,
        /// The branches that it tells to commit, if it is a commit of a transaction with branches.
        /// All others abort.
        members: Vec<Member>,
    },
    /// The row is another's, and it has no decision yet: nothing was written, and nobody may be
    /// told anything. Whoever drives the machine lets it go.
    Undecided,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::BodyDigest;
    use crate::record::{Decided, Protocol};

    fn gtid(last: u8) -> Gtid {
        let mut bytes = *b"\x01\x89\x0a\x5d\xac\x96\x77\x4b\xbc\xce\xb3\x02\x09\x9a\x80\x00";
        bytes[15] = last;
        Gtid::from_bytes(&bytes).expect("valid")
    }

    fn decided(last: u8, decision: Decision) -> Record {
        Record::Decided(Decided {
            gtid: gtid(last),
            protocol: Protocol::TwoPhase,
            decision,
            members: Vec::new(),
            digest: BodyDigest(7),
            begun_at_ms: 0,
            reason: None,
        })
    }

    fn held() -> Held<&'static str> {
        match Output::after(decided(1, Decision::Commit), vec!["commit"]).split() {
            Parts::AfterAppend { held, .. } => held,
            Parts::Free { .. } => panic!("a forced record seals the effects"),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the test is the log")]
    fn receipt(record: &Record) -> Durable {
        Durable::attest(record.id())
    }

    #[test]
    fn a_receipt_opens_its_own_effects() {
        assert_eq!(held().release(&receipt(&decided(1, Decision::Commit))), ["commit"]);
    }

    #[test]
    #[should_panic(expected = "its own record")]
    fn a_receipt_of_another_transaction_opens_nothing() {
        held().release(&receipt(&decided(2, Decision::Commit)));
    }

    #[test]
    #[should_panic(expected = "its own record")]
    fn a_receipt_for_another_record_of_the_transaction_opens_nothing() {
        held().release(&receipt(&decided(1, Decision::Abort)));
    }
}
