//! Retry policies in words and durations.

use std::time::Duration;

use assent_protocol::RetryPolicy;

/// How an action or a compensation is tried again; give it to [`StepBuilder::retry`](super::StepBuilder::retry).
///
/// ```
/// use std::time::Duration;
/// use assent_sdk::saga::Retry;
///
/// let retry = Retry::exponential(Duration::from_millis(200))
///     .max_interval(Duration::from_secs(20))
///     .attempts(5)
///     .timeout(Duration::from_secs(2))
///     .never_on("ledger is closed");
/// ```
///
/// What is tried again is an attempt whose outcome is unknown: it ended in an error, timed out, or lost its connection.
/// A refusal is an answer, and final. When an action has used up its attempts, the saga turns back, and that step is
/// compensated too; a compensation that has used up its own pauses the saga for a human. Behind a pivot that took
/// effect an action is tried without end.
///
/// The actual wait before each retry is drawn between zero and the interval, so that sagas that failed together do not
/// come back together. Durations count in whole milliseconds, and at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Retry {
    policy: RetryPolicy,
}

impl Retry {
    /// The first interval, which doubles for each retry up to 30 seconds, or the first one if that is longer; without
    /// end; and 10 seconds for an attempt.
    pub fn exponential(first_interval: Duration) -> Self {
        let initial_interval_ms = whole_ms(first_interval);
        let default = RetryPolicy::default();
        let maximum_interval_ms = default.maximum_interval_ms.max(initial_interval_ms);
        Self { policy: RetryPolicy { initial_interval_ms, maximum_interval_ms, ..default } }
    }

    /// The same interval for each retry; without end; and 10 seconds for an attempt.
    pub fn every(interval: Duration) -> Self {
        Self::exponential(interval).max_interval(interval)
    }

    /// No retry: one attempt, of 10 seconds.
    pub fn never() -> Self {
        Self { policy: RetryPolicy::default() }.attempts(1)
    }

    /// No interval is longer than this.
    pub fn max_interval(mut self, interval: Duration) -> Self {
        self.policy.maximum_interval_ms = whole_ms(interval);
        self
    }

    /// The growth from one interval to the next in percent: 200, the default, doubles it. At least 100.
    pub fn multiplier_percent(mut self, percent: u32) -> Self {
        self.policy.multiplier_percent = percent;
        self
    }

    /// At most so many attempts, with the first one; zero is without end. One that could not be sent, because no
    /// instance of the participant is connected, does not count.
    pub fn attempts(mut self, attempts_max: u32) -> Self {
        self.policy.attempts_max = attempts_max;
        self
    }

    /// How long one attempt may take before it counts as failed, and nobody knows whether it took effect.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.policy.attempt_timeout_ms = whole_ms(timeout);
        self
    }

    /// Never tries again after an error with exactly this text. May be called more than once.
    pub fn never_on(mut self, reason: impl Into<String>) -> Self {
        self.policy.non_retryable.push(reason.into());
        self
    }
}

impl From<Retry> for RetryPolicy {
    fn from(retry: Retry) -> Self {
        retry.policy
    }
}

/// At least one, since a policy of no milliseconds is refused: a duration that is given as zero or in microseconds
/// means "at once".
fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_reaches_the_policy() {
        let retry = Retry::exponential(Duration::from_millis(200))
            .max_interval(Duration::from_secs(20))
            .multiplier_percent(150)
            .attempts(5)
            .timeout(Duration::from_secs(2))
            .never_on("ledger is closed")
            .never_on("no such account");
        assert_eq!(
            RetryPolicy::from(retry),
            RetryPolicy {
                initial_interval_ms: 200,
                maximum_interval_ms: 20_000,
                multiplier_percent: 150,
                attempts_max: 5,
                attempt_timeout_ms: 2_000,
                non_retryable: vec!["ledger is closed".into(), "no such account".into()],
            }
        );
    }

    #[test]
    fn what_is_not_set_is_as_by_default() {
        assert_eq!(RetryPolicy::from(Retry::exponential(Duration::from_millis(100))), RetryPolicy::default());
        assert_eq!(RetryPolicy::from(Retry::never()), RetryPolicy { attempts_max: 1, ..RetryPolicy::default() });
    }

    #[test]
    fn intervals_are_usable_whatever_the_first_one_is() {
        let hourly = RetryPolicy::from(Retry::exponential(Duration::from_secs(3_600)));
        assert_eq!((hourly.initial_interval_ms, hourly.maximum_interval_ms), (3_600_000, 3_600_000));
        let steady = RetryPolicy::from(Retry::every(Duration::from_secs(60)));
        assert_eq!((steady.interval_ms(1), steady.interval_ms(9)), (60_000, 60_000));
        let at_once = RetryPolicy::from(Retry::every(Duration::ZERO));
        assert_eq!((at_once.initial_interval_ms, at_once.maximum_interval_ms), (1, 1));
        let endless = RetryPolicy::from(Retry::exponential(Duration::MAX));
        assert_eq!(endless.initial_interval_ms, u64::MAX);
    }
}
