//! Retry policies: capped exponential intervals. The jitter is drawn by the driver, which owns the randomness.

use serde::{Deserialize, Serialize};

/// How often, and how far apart, something is tried again.
///
/// The n-th retry waits at most `initial_interval_ms * multiplier^(n-1)`, capped at `maximum_interval_ms`. The driver draws
/// the actual wait uniformly from zero to that bound ("full jitter", Brooker, *Exponential Backoff And Jitter*, 2015).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// The bound of the first wait, in milliseconds.
    pub initial_interval_ms: u64,
    /// The bound that no wait exceeds, in milliseconds.
    pub maximum_interval_ms: u64,
    /// The growth of the bound from one wait to the next, in percent: 200 doubles it. At least 100.
    pub multiplier_percent: u32,
    /// How many attempts in all; zero is without end.
    pub attempts_max: u32,
    /// How long one attempt may take before its outcome counts as unknown, in milliseconds.
    pub attempt_timeout_ms: u64,
    /// Failures with one of these reasons are never tried again.
    pub non_retryable: Vec<String>,
}

impl Default for RetryPolicy {
    /// 100 ms doubling to 30 s, without end, 10 s an attempt.
    fn default() -> Self {
        Self {
            initial_interval_ms: 100,
            maximum_interval_ms: 30_000,
            multiplier_percent: 200,
            attempts_max: 0,
            attempt_timeout_ms: 10_000,
            non_retryable: Vec::new(),
        }
    }
}

impl RetryPolicy {
    /// The bound of the wait after `failed` failed attempts (1 for the first), in milliseconds.
    pub fn interval_ms(&self, failed: u32) -> u64 {
        let mut interval = self.initial_interval_ms;
        for _ in 1..failed {
            if interval >= self.maximum_interval_ms || self.multiplier_percent <= 100 {
                break;
            }
            // One that is too short for its factor (1 ms and half as much again) grows all the same.
            let longer = interval.saturating_mul(u64::from(self.multiplier_percent)) / 100;
            interval = longer.max(interval + 1);
        }
        interval.min(self.maximum_interval_ms)
    }

    /// Whether another attempt is due after `failed` failed ones, the last for `reason`.
    pub fn allows(&self, failed: u32, reason: &str) -> bool {
        (self.attempts_max == 0 || failed < self.attempts_max) && !self.non_retryable.iter().any(|r| r == reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_grow_and_stay_capped() {
        let policy = RetryPolicy { initial_interval_ms: 100, maximum_interval_ms: 1_000, ..RetryPolicy::default() };
        let intervals: Vec<_> = (1..=6).map(|failed| policy.interval_ms(failed)).collect();
        assert_eq!(intervals, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(policy.interval_ms(u32::MAX), 1_000);
    }

    /// It stayed at 1 ms for ever, and counted through all failures each time.
    #[test]
    fn an_interval_that_is_short_for_its_factor_grows_all_the_same() {
        let policy = RetryPolicy { initial_interval_ms: 1, multiplier_percent: 150, ..RetryPolicy::default() };
        let intervals: Vec<_> = (1..=5).map(|failed| policy.interval_ms(failed)).collect();
        assert_eq!(intervals, [1, 2, 3, 4, 6]);
        assert_eq!(policy.interval_ms(u32::MAX), 30_000);
        let least = RetryPolicy { multiplier_percent: 101, maximum_interval_ms: 2_000, ..policy };
        assert_eq!(least.interval_ms(u32::MAX), 2_000);
    }

    #[test]
    fn a_non_retryable_reason_ends_the_attempts() {
        let policy = RetryPolicy { attempts_max: 3, non_retryable: vec!["sold-out".into()], ..RetryPolicy::default() };
        assert!(policy.allows(2, "timeout"));
        assert!(!policy.allows(3, "timeout"));
        assert!(!policy.allows(1, "sold-out"));
    }
}
