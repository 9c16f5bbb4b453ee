//! Who drives: the lease of a replica, and the rows that an epoch owns.

use std::time::{Duration, UNIX_EPOCH};

use super::LogError;

/// What became of a lease that was to be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lease {
    /// The epoch stands, and its lease lasts for a whole duration again.
    Renewed,
    /// Another process took over: the epoch is fenced, and its next append fails.
    Lost,
    /// The log has not acquired any name yet.
    NotAcquired,
}

/// A replica of another name that is alive, and why this one does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// Its name.
    pub(super) replica: String,
    /// When its lease lapses, in Unix milliseconds on the clock of the log's database.
    pub(super) until_ms: u64,
    /// How long that is from now, on the same clock.
    pub(super) left: Duration,
}

impl Holder {
    /// The refusal.
    pub(super) fn refusal(self, log: &str) -> LogError {
        let until = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(self.until_ms)).to_string();
        LogError::Leased { log: log.to_owned(), replica: self.replica, until, left: self.left }
    }
}
