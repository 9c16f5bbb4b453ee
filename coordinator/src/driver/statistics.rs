//! What the driver counts. Counters only grow; a reader takes differences.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// The live counters of one replica.
        #[derive(Debug, Default)]
        pub struct Statistics { $($(#[$doc])* pub(crate) $name: AtomicU64),+ }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot { $($(#[$doc])* pub $name: u64),+ }

        impl Statistics {
            /// The counters now. They are read one after the other, so sums may be off by what
            /// happened meanwhile.
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.load(Relaxed)),+ }
            }
        }
    };
}

counters! {
    /// Transactions and sagas that were taken on.
    begun,
    /// Two-phase transactions that committed.
    committed,
    /// Two-phase transactions that aborted.
    aborted,
    /// Sagas that completed.
    completed,
    /// Sagas that were compensated.
    compensated,
    /// Transactions and sagas in memory; this one also falls.
    open,
    /// Messages that sessions brought.
    messages_in,
    /// Messages that were handed to sessions.
    messages_out,
    /// Appends that the log confirmed; each is one flush of the log.
    appends,
    /// Records in those appends that somebody waited for.
    forced_records,
    /// Records in those appends that rode along.
    lazy_records,
    /// Appends that failed and were repeated.
    append_failures,
    /// Time spent in confirmed appends, in microseconds.
    append_us,
    /// Callers that did not prove who they are.
    authentication_failures,
    /// Requests and messages of callers that lacked a right.
    calls_denied,
}

pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Relaxed);
}

pub(crate) fn subtract(counter: &AtomicU64, amount: u64) {
    counter.fetch_sub(amount, Relaxed);
}
