//! What a coordinator takes on, and for how long.

use crate::message::{Reason, Refused};

/// The longest timer, in milliseconds: a year.
const TIMER_MAX_MS: u64 = 365 * 24 * 3_600 * 1_000;

/// What a coordinator process takes on, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open transactions and sagas per replica; a request beyond is refused as overloaded.
    pub open_max: usize,
    /// Bytes of payload that open transactions hold per replica; a request beyond is refused as
    /// overloaded.
    pub open_bytes_max: usize,
    /// Branches of one transaction.
    pub branches_max: usize,
    /// Bytes of one payload or saga input.
    pub payload_bytes_max: usize,
    /// How long a transaction may stay undecided unless it says otherwise, in milliseconds.
    pub timeout_default_ms: u64,
    /// The longest that a transaction may ask for, in milliseconds.
    pub timeout_max_ms: u64,
    /// How long a participant that is not connected is waited for, in milliseconds.
    pub absence_ms: u64,
    /// How long a transaction that was begun over a session stays open for branches without its
    /// initiator, in milliseconds.
    pub initiator_grace_ms: u64,
    /// Messages that may wait for one session before it is cut.
    pub backlog_max: usize,
    /// Answers of ended transactions that are kept at hand per replica.
    pub ended_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            open_max: 100_000,
            open_bytes_max: 512 * 1024 * 1024,
            branches_max: 128,
            payload_bytes_max: 1024 * 1024,
            timeout_default_ms: 30_000,
            timeout_max_ms: 24 * 3_600 * 1_000,
            absence_ms: 5_000,
            initiator_grace_ms: 5_000,
            backlog_max: 65_536,
            ended_max: 65_536,
        }
    }
}

impl Limits {
    /// Refuses a payload that is larger than one may be; `what` names it.
    ///
    /// # Errors
    /// [`Refused`] as `PAYLOAD_TOO_LARGE`.
    pub fn payload_fits(&self, what: impl FnOnce() -> String, bytes: usize) -> Result<(), Refused> {
        let bytes_max = self.payload_bytes_max;
        if bytes <= bytes_max {
            return Ok(());
        }
        let message = format!(
            "{} has {bytes} bytes, and {bytes_max} are allowed; send a reference to the data, or raise \
             limits.payload_bytes_max",
            what()
        );
        Err(Reason::PayloadTooLarge.refused(message))
    }

    /// One shard's share.
    pub(super) fn of_one_shard(mut self, shards: usize) -> Self {
        let shards = shards.max(1);
        self.open_max = (self.open_max / shards).max(1);
        self.open_bytes_max /= shards;
        self.ended_max = (self.ended_max / shards).max(1);
        self.timeout_max_ms = self.timeout_max_ms.min(TIMER_MAX_MS);
        self
    }
}
