//! Failed authentication: counted, logged at a limited rate, slowed down.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::{Caller, Unknown};

/// At most one line in so long; the next one says how many there were meanwhile.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// How long the first failure of an address takes, and the longest.
const DELAY_FIRST: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(3);
/// After so long without a failure an address begins anew.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Addresses that are remembered; beyond them all are forgotten.
const ADDRESSES_MAX: usize = 4_096;
/// Answers that wait at a time. More are given at once: a flood must not fill the memory with waits.
const WAITS_MAX: usize = 1_024;

#[derive(Debug)]
pub(super) struct Failures {
    lines: Mutex<Lines>,
    addresses: Mutex<HashMap<IpAddr, Failed>>,
    waits: Semaphore,
}

#[derive(Debug, Default)]
struct Lines {
    last: Option<Instant>,
    left_out: u64,
}

#[derive(Debug)]
struct Failed {
    times: u32,
    last: Instant,
}

impl Default for Failures {
    fn default() -> Self {
        Self { lines: Mutex::default(), addresses: Mutex::default(), waits: Semaphore::new(WAITS_MAX) }
    }
}

impl Failures {
    /// A caller did not prove who it is.
    pub(super) async fn failed(&self, address: Option<IpAddr>, why: &Unknown) {
        if let Some(left_out) = self.line() {
            tracing::warn!(target: "assent::audit", ?address, ?why, left_out, "authentication failed");
        }
        let is_guess = match why {
            Unknown::Token | Unknown::ShortToken => true,
            // Nothing was tried, so nothing can be learnt by trying more.
            Unknown::Nothing | Unknown::Certificate(_) => false,
        };
        if !is_guess {
            return;
        }
        let delay = self.delay(address);
        if let Ok(_wait) = self.waits.try_acquire() {
            tokio::time::sleep(delay).await;
        }
    }

    /// A caller lacks a right.
    pub(super) fn denied(&self, caller: &Caller, what: &str, why: &str) {
        if let Some(left_out) = self.line() {
            tracing::warn!(target: "assent::audit", %caller, what, why, left_out, "denied");
        }
    }

    /// How many lines were left out before this one; `None` if this one is left out too.
    fn line(&self) -> Option<u64> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.last.is_some_and(|last| last.elapsed() < LINE_INTERVAL) {
            lines.left_out += 1;
            return None;
        }
        lines.last = Some(Instant::now());
        Some(std::mem::take(&mut lines.left_out))
    }

    fn delay(&self, address: Option<IpAddr>) -> Duration {
        let Some(address) = address else { return DELAY_FIRST };
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() >= ADDRESSES_MAX && !addresses.contains_key(&address) {
            addresses.clear();
        }
        let failed = addresses.entry(address).or_insert(Failed { times: 0, last: Instant::now() });
        if failed.last.elapsed() > FORGET_AFTER {
            failed.times = 0;
        }
        failed.last = Instant::now();
        let delay = DELAY_FIRST.saturating_mul(1 << failed.times.min(10));
        failed.times += 1;
        delay.min(DELAY_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_of_an_address_takes_longer() {
        let failures = Failures::default();
        let (one, other) = ("10.0.0.1".parse().ok(), "10.0.0.2".parse().ok());
        let delays: Vec<Duration> = (0..8).map(|_| failures.delay(one)).collect();
        assert!(delays.is_sorted() && delays[0] == DELAY_FIRST && delays[7] == DELAY_MAX, "{delays:?}");
        assert_eq!(failures.delay(other), DELAY_FIRST, "others are not slowed down");
        for number in 0..10_000_u32 {
            failures.delay(Some(IpAddr::from(number.to_be_bytes())));
        }
        assert!(failures.addresses.lock().expect("no panic").len() <= ADDRESSES_MAX);
    }

    #[test]
    fn a_flood_is_one_line() {
        let failures = Failures::default();
        let lines = (0..1_000).filter(|_| failures.line().is_some()).count();
        assert!(lines < 100, "{lines}");
    }
}
