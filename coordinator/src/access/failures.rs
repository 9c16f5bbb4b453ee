//! Failed authentication is slowed down.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::Unknown;

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
    addresses: Mutex<HashMap<IpAddr, Failed>>,
    waits: Semaphore,
}

#[derive(Debug)]
struct Failed {
    times: u32,
    last: Instant,
}

impl Default for Failures {
    fn default() -> Self {
        Self { addresses: Mutex::default(), waits: Semaphore::new(WAITS_MAX) }
    }
}

impl Failures {
    /// Waits, after a caller did not prove who it is.
    pub(super) async fn failed(&self, address: Option<IpAddr>, why: &Unknown) {
        let is_guess = match why {
            Unknown::Token | Unknown::ShortToken => true,
            // Nothing was tried, so nothing can be learnt by trying more.
            Unknown::Nothing | Unknown::Certificate(_) => false,
            Unknown::Login(problem) => problem.is_guess(),
        };
        if !is_guess {
            return;
        }
        let delay = self.delay(address);
        if let Ok(_wait) = self.waits.try_acquire() {
            tokio::time::sleep(delay).await;
        }
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
}
