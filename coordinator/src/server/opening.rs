//! The log: opened, and waited for where it does not answer yet.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::StartError;
use crate::config::Config;
use crate::driver::Driver;
use crate::log::{self, Log, LogError, OpenError};

/// The wait before the second attempt; it doubles.
const RETRY_INITIAL: Duration = Duration::from_millis(100);
/// The longest wait between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Why a log counts as one that does not answer (yet).
#[derive(Debug, thiserror::Error)]
pub enum Silence {
    /// It could not be opened.
    #[error(transparent)]
    Open(OpenError),
    /// It was open, and then failed.
    #[error(transparent)]
    Use(LogError),
}

/// Opens the log. One that does not answer is tried again until the deadline; whatever else is wrong with it is said at once.
pub(super) async fn open(config: &Config, deadline: Instant) -> Result<Arc<dyn Log>, StartError> {
    let mut patience = Patience::until(deadline, config.wait_for_log);
    loop {
        let options = log::Options { lease: config.lease, ..log::Options::default() };
        match log::open(config.log.expose(), options).await {
            Ok(log) => return Ok(log),
            Err(error @ OpenError::Unreachable { .. }) => patience.wait(Silence::Open(error)).await?,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Acquires the log and recovers what is open in it.
pub(super) async fn drive(config: &Config, log: &Arc<dyn Log>, deadline: Instant) -> Result<Driver, StartError> {
    let mut patience = Patience::until(deadline, config.wait_for_log);
    loop {
        let started =
            Driver::start(Arc::clone(log), &config.replica, config.limits.clone(), config.shard_count()).await;
        match started {
            Ok(driver) => return Ok(driver),
            Err(error @ (LogError::Unreachable { .. } | LogError::Busy { .. })) => {
                patience.wait(Silence::Use(error)).await?;
            }
            Err(error @ LogError::Leased { .. }) => return Err(StartError::Leased(error)),
            Err(error) => return Err(StartError::Recovery(error)),
        }
    }
}

/// How long an answer is waited for.
pub(crate) struct Patience {
    deadline: Instant,
    waited: Duration,
    next: Duration,
    attempts: u32,
}

impl Patience {
    /// Until then, which is so long from now.
    pub(crate) fn until(deadline: Instant, waited: Duration) -> Self {
        Self { deadline, waited, next: RETRY_INITIAL, attempts: 0 }
    }

    /// Waits before the next attempt, or gives up.
    ///
    /// # Errors
    /// [`StartError::LogSilent`] once the next attempt would come too late.
    pub(crate) async fn wait(&mut self, silence: Silence) -> Result<(), StartError> {
        if Instant::now() + self.next > self.deadline {
            return Err(StartError::LogSilent { waited: self.waited, source: silence });
        }
        self.attempts += 1;
        if self.attempts.is_power_of_two() {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
            tracing::warn!(error = %silence, "waiting for the log, for {left} more");
        }
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(RETRY_MAX);
        Ok(())
    }
}
