//! Nothing is sent before it is durable: the types that make the other order impossible to write.
//!
//! A machine's [`Output`] holds at most one forced record and keeps its effects out of reach. [`Output::split`] gives them freely only where nothing has to
//! be on disk first; else it gives the record, and the effects sealed in [`Held`]. A `Held` opens only against the
//! [`Durable`] receipt of its own transaction, and receipts come from logs alone.
//!
//! ```compile_fail,E0616
//! use assent_protocol::durable::Held;
//! fn send_before_logging(held: Held<&'static str>) -> Vec<&'static str> {
//!     held.effects // private: there is no way in without a receipt
//! }
//! ```
//!
//! ```compile_fail,E0451
//! use assent_protocol::{durable::Durable, Gtid};
//! fn forge(gtid: Gtid) -> Durable {
//!     Durable { gtid } // private: only a log attests
//! }
//! ```

use crate::ids::Gtid;
use crate::record::{Decision, Record};

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
            Some(forced) => Parts::AfterAppend { forced, lazy: self.lazy, held: Held { effects: self.effects } },
        }
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

/// Effects that wait for a receipt.
#[must_use = "held effects are messages that somebody waits for"]
#[derive(Debug)]
pub struct Held<E> {
    effects: Vec<E>,
}

impl<E> Held<E> {
    /// Opens the seal.
    pub fn release(self, _receipt: &Durable) -> Vec<E> {
        self.effects
    }
}

/// A log's word that a forced record of one transaction is on stable storage.
///
/// A log implementation makes it, after the storage confirmed the append (for Postgres: after the implicit transaction
/// of the statement committed with `synchronous_commit` on).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable {
    gtid: Gtid,
}

impl Durable {
    /// For implementations of a log, after the append was confirmed, and for nobody else: the workspace's clippy
    /// configuration disallows this call outside of them.
    pub fn attest(gtid: Gtid) -> Self {
        Self { gtid }
    }

    /// Whose record is durable.
    pub fn gtid(&self) -> Gtid {
        self.gtid
    }
}

/// What the log answered to one forced record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is durable, and no other writer came first.
    Durable(Durable),
    /// Another writer's decision was there first, and it is the one that counts.
    Overruled(Decision),
}
