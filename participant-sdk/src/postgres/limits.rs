//! The limits that the server knows of a branch's transaction: for its waits for locks, its
//! statements, and the time that it may idle.
//!
//! A SET LOCAL for each of them in each transaction costs the server a seventh of a small branch.
//! So a session is made with the limits that transactions want at that time, as parameters of the
//! connection, and BEGIN comes alone as long as they suit. They suit although they are a quarter
//! longer: it is this process that ends work on time, the server only where this process cannot.

use std::time::Duration;

use rand::RngExt as _;

use super::locks;

/// What a transaction wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// It is of no use after this; zero for no limit.
    pub(super) time_left: Duration,
    /// How long it waits for a lock, give or take a quarter; zero for as long as it has time.
    pub(super) lock_wait_max: Duration,
}

impl Wanted {
    /// A transaction with the coordinator's default timeout, at a resource made with defaults.
    pub(super) const USUAL: Self = Self { time_left: Duration::from_secs(30), lock_wait_max: locks::WAIT_MAX };

    /// How long the server lets it work, and idle.
    fn server_max(self) -> Duration {
        if self.time_left.is_zero() { self.time_left } else { self.time_left.saturating_add(SERVER_GRACE) }
    }
}

/// How much later than this process the server ends a transaction whose time is up: this process
/// says why, the server does not.
const SERVER_GRACE: Duration = Duration::from_secs(1);

/// Limits of a session, in milliseconds; zero for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// `lock_timeout`
    pub(super) lock_ms: u64,
    /// `statement_timeout`
    pub(super) statement_ms: u64,
    /// `idle_in_transaction_session_timeout`
    pub(super) idle_ms: u64,
}

impl Limits {
    /// What transactions like this one find suitable for a while: their deadlines differ a bit.
    /// Those that are configured hold where they are shorter.
    pub(super) fn for_many(wanted: Wanted, configured: Self) -> Self {
        let server_max = wanted.server_max().saturating_add(wanted.server_max() / 8);
        Self {
            lock_ms: limit_ms(jittered(wanted.lock_wait_max), configured.lock_ms),
            statement_ms: limit_ms(server_max, configured.statement_ms),
            idle_ms: limit_ms(server_max, configured.idle_ms),
        }
    }

    /// What a session with these limits has to be told for a transaction, behind its BEGIN. It
    /// holds for that transaction alone.
    pub(super) fn set_local(self, wanted: Wanted, configured: Self) -> String {
        let mut sql = String::new();
        let mut set = |name: &str, limit_ms: u64| sql.push_str(&format!("; set local {name} = {limit_ms}"));
        if !self.lock_suits(wanted, configured) {
            let lock_wait = shorter(wanted.time_left, jittered(wanted.lock_wait_max));
            set("lock_timeout", limit_ms(lock_wait, configured.lock_ms));
        }
        let statement_ms = limit_ms(wanted.server_max(), configured.statement_ms);
        if !is_about(self.statement_ms, statement_ms) {
            set("statement_timeout", statement_ms);
        }
        let idle_ms = limit_ms(wanted.server_max(), configured.idle_ms);
        if !is_about(self.idle_ms, idle_ms) {
            set("idle_in_transaction_session_timeout", idle_ms);
        }
        sql
    }

    /// Waits that outlast the transaction's time end with its statement.
    fn lock_suits(self, wanted: Wanted, configured: Self) -> bool {
        if wanted.lock_wait_max.is_zero() {
            return self.lock_ms == limit_ms(wanted.time_left, configured.lock_ms);
        }
        let limit = |factor| limit_ms(wanted.lock_wait_max.mul_f64(factor), configured.lock_ms);
        (limit(JITTER_MIN)..=limit(JITTER_MAX)).contains(&self.lock_ms)
    }
}

const JITTER_MIN: f64 = 0.75;
const JITTER_MAX: f64 = 1.25;

/// Two that wait for each other must not both give up at once.
fn jittered(wait_max: Duration) -> Duration {
    if wait_max.is_zero() { wait_max } else { wait_max.mul_f64(rand::rng().random_range(JITTER_MIN..=JITTER_MAX)) }
}

/// Whether a limit is the wanted one or at most a quarter longer.
fn is_about(limit_ms: u64, wanted_ms: u64) -> bool {
    (wanted_ms..=wanted_ms.saturating_add(wanted_ms / 4)).contains(&limit_ms)
}

/// The shorter of two limits; zero is none.
fn shorter(one: Duration, other: Duration) -> Duration {
    match (one.is_zero(), other.is_zero()) {
        (true, _) => other,
        (false, true) => one,
        (false, false) => one.min(other),
    }
}

/// A limit for Postgres in milliseconds: zero is none, and the shorter of two holds.
fn limit_ms(wanted: Duration, configured_ms: u64) -> u64 {
    /// Postgres keeps it in milliseconds in 31 bits.
    const LONGEST_MS: u64 = i32::MAX.unsigned_abs() as u64;
    if wanted.is_zero() {
        return configured_ms;
    }
    let wanted_ms = u64::try_from(wanted.as_millis()).unwrap_or(LONGEST_MS).clamp(1, LONGEST_MS);
    if configured_ms == 0 { wanted_ms } else { wanted_ms.min(configured_ms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Limits = Limits { lock_ms: 0, statement_ms: 0, idle_ms: 0 };

    fn wanted(time_left_s: u64, lock_wait_max_s: u64) -> Wanted {
        let s = Duration::from_secs;
        Wanted { time_left: s(time_left_s), lock_wait_max: s(lock_wait_max_s) }
    }

    #[test]
    fn a_session_suits_transactions_like_the_one_it_was_made_for() {
        for _ in 0..100 {
            let limits = Limits::for_many(wanted(30, 4), NONE);
            assert!((3_000..=5_000).contains(&limits.lock_ms), "{limits:?}");
            assert_eq!((limits.statement_ms, limits.idle_ms), (34_875, 34_875));
            for time_left_s in 27..=33 {
                assert_eq!(limits.set_local(wanted(time_left_s, 4), NONE), "", "{time_left_s}");
            }
        }
    }

    #[test]
    fn another_transaction_has_limits_of_its_own() {
        let limits = Limits { lock_ms: 4_000, ..Limits::for_many(wanted(30, 4), NONE) };
        let of_server = |ms: u64| {
            format!("; set local statement_timeout = {ms}; set local idle_in_transaction_session_timeout = {ms}")
        };
        assert_eq!(limits.set_local(wanted(10, 4), NONE), of_server(11_000));
        assert_eq!(limits.set_local(wanted(60, 4), NONE), of_server(61_000));
        assert_eq!(limits.set_local(wanted(0, 4), NONE), of_server(0));
        assert_eq!(limits.set_local(wanted(30, 0), NONE), "; set local lock_timeout = 30000");
        assert!(limits.set_local(wanted(30, 20), NONE).starts_with("; set local lock_timeout = "));
    }

    #[test]
    fn a_configured_limit_holds_where_it_is_shorter() {
        let configured = Limits { lock_ms: 700, statement_ms: 5_000, idle_ms: 0 };
        let limits = Limits::for_many(wanted(30, 4), configured);
        assert_eq!(limits, Limits { lock_ms: 700, statement_ms: 5_000, idle_ms: 34_875 });
        assert_eq!(limits.set_local(wanted(30, 4), configured), "");
        assert_eq!(Limits::for_many(wanted(0, 0), configured), configured);
        assert_eq!(configured.set_local(wanted(0, 0), configured), "");
    }

    #[test]
    fn no_limit_is_longer_than_any() {
        let ms = Duration::from_millis;
        for (one, other, expected) in [(0, 0, 0), (0, 7, 7), (7, 0, 7), (5, 7, 5), (7, 5, 5)] {
            assert_eq!(shorter(ms(one), ms(other)), ms(expected), "{one} {other}");
        }
    }

    #[test]
    fn the_shorter_of_two_limits_holds() {
        for (wanted_ms, configured_ms, expected_ms) in [
            (0, 0, 0),
            (0, 700, 700),
            (1, 0, 1),
            (29_400, 0, 29_400),
            (29_400, 5_000, 5_000),
            (29_400, 60_000, 29_400),
            (u64::MAX, 0, 2_147_483_647),
        ] {
            assert_eq!(limit_ms(Duration::from_millis(wanted_ms), configured_ms), expected_ms, "{wanted_ms}");
        }
        assert_eq!(limit_ms(Duration::from_micros(1), 0), 1, "zero would be no limit");
        assert_eq!(limit_ms(Duration::MAX, 0), 2_147_483_647);
    }
}
