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
    let asked_at = Location::caller();
    async move {
        let started_at = Instant::now();
        let mut last: Option<String> = None;
        loop {
            let left = deadline.saturating_sub(started_at.elapsed());
            match tokio::time::timeout(left, condition()).await {
                Ok(Ok(value)) => return value,
                Ok(Err(error)) => last = Some(error.to_string()),
                Err(_) => {}
            }
            // Not left to the timeout alone, which never cuts off a look that answers at once.
            if started_at.elapsed() >= deadline {
                let seen = last.as_deref().unwrap_or("nothing: the first look did not return");
                panic!("{asked_at}: not within {deadline:?}: {what}. Last seen: {seen}");
            }
            tokio::time::sleep(POLL_INTERVAL.min(left)).await;
        }
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
