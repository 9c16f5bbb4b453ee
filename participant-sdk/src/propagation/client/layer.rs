//! The layer.

use tower::Layer;

use super::ContextService;

/// Writes the transaction context into each call of an HTTP or gRPC client.
///
/// The client's error becomes a boxed one, since a context may be one that cannot be written; see
/// [`ContextService`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ContextLayer {}

impl ContextLayer {
    /// The layer.
    pub fn new() -> Self {
        Self {}
    }
}

impl<S> Layer<S> for ContextLayer {
    type Service = ContextService<S>;

    fn layer(&self, inner: S) -> ContextService<S> {
        ContextService { inner }
    }
}
