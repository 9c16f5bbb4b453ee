//! The service that the layer makes.

use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use http::{Request, Response};
use tonic::server::NamedService;
use tower::Service;

use super::{ResponseBody, ResponseFuture};
use crate::propagation::refused::{admit, is_grpc};
use crate::propagation::{Context, current};

/// A service behind [`ContextLayer`](super::ContextLayer).
#[derive(Clone, Debug)]
pub struct ContextService<S> {
    pub(super) inner: S,
    pub(super) clock_skew_max: Duration,
}

impl<S, RequestBody, B> Service<Request<RequestBody>> for ContextService<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
{
    type Response = Response<ResponseBody<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> Self::Future {
        let context = match admit(request.headers(), self.clock_skew_max) {
            Ok(context) => context.map(Arc::new),
            Err(refused) => {
                // Anybody may send anything, so this is no louder.
                tracing::debug!(error = %refused, path = request.uri().path(), "refused a call for its transaction context");
                return ResponseFuture::refused(refused, is_grpc(request.headers()));
            }
        };
        if let Some(context) = &context {
            request.extensions_mut().insert(Context::clone(context));
        }
        // What a service does before it returns its future is part of the call too: a forwarding one calls its client
        // here.
        let future = current::enter_sync(context.clone(), || self.inner.call(request));
        ResponseFuture::admitted(context, future)
    }
}

/// So that one service of a tonic server can have the layer.
impl<S: NamedService> NamedService for ContextService<S> {
    const NAME: &'static str = S::NAME;
}
