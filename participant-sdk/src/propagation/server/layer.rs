//! The layer.

use std::time::Duration;

use tower::Layer;

use super::ContextService;
use crate::propagation::refused::CLOCK_SKEW_MAX;

/// Gives each call the transaction context that its headers carry.
///
/// A call with a context finds it in the request's extensions, and as the [`current`](crate::propagation::current) one
/// for as long as the handler runs and its answer streams. A call without one is passed on without.
///
/// A call whose context is malformed, or whose transaction is past its deadline, does not reach the handler: see
/// [`CallRefused`](crate::propagation::CallRefused) for what its caller is answered.
#[derive(Clone, Debug)]
pub struct ContextLayer {
    clock_skew_max: Duration,
}

impl ContextLayer {
    /// The layer, with a tolerance of 5 seconds between this machine's clock and the coordinator's.
    pub fn new() -> Self {
        Self { clock_skew_max: CLOCK_SKEW_MAX }
    }

    /// Refuses a call only when its deadline is past by more than this, by this machine's clock. [`Duration::MAX`]
    /// leaves it to the coordinator to say that a transaction is over.
    #[must_use]
    pub fn clock_skew_max(mut self, clock_skew_max: Duration) -> Self {
        self.clock_skew_max = clock_skew_max;
        self
    }
}

impl Default for ContextLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ContextLayer {
    type Service = ContextService<S>;

    fn layer(&self, inner: S) -> ContextService<S> {
        ContextService { inner, clock_skew_max: self.clock_skew_max }
    }
}
