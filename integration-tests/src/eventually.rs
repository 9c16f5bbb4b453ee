//! Waiting for a condition.

use std::fmt::Display;
use std::future::Future;
use std::panic::Location;
use std::time::{Duration, Instant};

/// How long to wait between two looks at a condition: short against anything that a test waits for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `condition` gives `Ok`, and returns what it gave.
///
/// The condition says in its error what it saw instead; the last one is part of the failure's message. A look that itself
/// hangs is cut off at the deadline.
///
/// ```no_run
/// # async fn example(database: &integration_tests::Database) {
/// use std::time::Duration;
/// use integration_tests::eventually;
///
/// eventually("no branch is left prepared", Duration::from_secs(10), async || {
///     match database.prepared_transactions().await.as_slice() {
///         [] => Ok(()),
///         left => Err(format!("{left:?} are prepared")),
///     }
/// })
/// .await;
/// # }
/// ```
///
/// # Panics
/// When the deadline passes first.
#[track_caller]
pub fn eventually<T, E, F>(what: &str, deadline: Duration, mut condition: F) -> impl Future<Output = T>
where
    E: Display,
    F: AsyncFnMut() -> Result<T, E>,
{
    let wait = Wait::begin(what, deadline, Location::caller());
    async move {
        let mut last: Option<String> = None;
        loop {
            match tokio::time::timeout(wait.left(), condition()).await {
                Ok(Ok(value)) => return value,
                Ok(Err(error)) => last = Some(error.to_string()),
                Err(_) => {}
            }
            // Not left to the timeout alone, which never cuts off a look that answers at once.
            wait.give_up_if_over(last.as_deref());
            tokio::time::sleep(POLL_INTERVAL.min(wait.left())).await;
        }
    }
}

/// As [`eventually`](eventually()), for a condition that need not be awaited. A task may be spawned with it, which the borrows of
/// an asynchronous closure do not allow.
#[track_caller]
pub(crate) fn eventually_now<T, E, F>(what: &str, deadline: Duration, mut condition: F) -> impl Future<Output = T>
where
    E: Display,
    F: FnMut() -> Result<T, E>,
{
    let wait = Wait::begin(what, deadline, Location::caller());
    async move {
        loop {
            let seen = match condition() {
                Ok(value) => return value,
                Err(error) => error.to_string(),
            };
            wait.give_up_if_over(Some(&seen));
            tokio::time::sleep(POLL_INTERVAL.min(wait.left())).await;
        }
    }
}

/// One wait, with what its failure will say.
struct Wait<'a> {
    what: &'a str,
    deadline: Duration,
    asked_at: &'static Location<'static>,
    began_at: Instant,
}

impl<'a> Wait<'a> {
    fn begin(what: &'a str, deadline: Duration, asked_at: &'static Location<'static>) -> Self {
        Self { what, deadline, asked_at, began_at: Instant::now() }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_sub(self.began_at.elapsed())
    }

    fn give_up_if_over(&self, last: Option<&str>) {
        let Self { what, deadline, asked_at, .. } = self;
        assert!(
            !self.left().is_zero(),
            "{asked_at}: not within {deadline:?}: {what}. Last seen: {}",
            last.unwrap_or("nothing: the first look did not return")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn returns_what_the_condition_gave() {
        let mut looks = 0;
        let seen = eventually("three looks", Duration::from_secs(5), async || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(looks) }
        })
        .await;
        assert_eq!(seen, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "not within 50ms: pigs fly. Last seen: they walk")]
    async fn says_what_it_saw_last() {
        let () = eventually("pigs fly", Duration::from_millis(50), async || Err("they walk")).await;
    }

    #[tokio::test]
    #[should_panic(expected = "the first look did not return")]
    async fn a_look_that_hangs_is_cut_off() {
        eventually("an answer", Duration::from_millis(50), async || std::future::pending::<Result<(), String>>().await)
            .await;
    }
}
