//! The service that the layer makes.

use std::task::{Context as TaskContext, Poll};

use http::Request;
use tonic::Status;
use tower::Service;

use super::ResponseFuture;
use super::write::write;
use crate::participant::BoxError;
use crate::propagation::refused::is_grpc;
use crate::propagation::{CallRefused, Context};

/// A client behind [`ContextLayer`](super::ContextLayer).
///
/// Beside the client's own errors there is one more: a [`Context`] whose coordinator is no address, which only one
/// built by hand can have. The call is then not sent, as its work would be done outside of the transaction. The error
/// is [`InvalidContext`](crate::propagation::InvalidContext), or for a gRPC call a [`Status`] of INVALID_ARGUMENT.
#[derive(Clone, Debug)]
pub struct ContextService<S> {
    pub(super) inner: S,
}

impl<S, B> Service<Request<B>> for ContextService<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(task).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let given = request.extensions().get::<Context>().cloned();
        match write(given, request.headers_mut()) {
            Ok(()) => ResponseFuture::sent(self.inner.call(request)),
            Err(invalid) if is_grpc(request.headers()) => {
                ResponseFuture::unsent(Status::from(CallRefused::from(invalid)).into())
            }
            Err(invalid) => ResponseFuture::unsent(invalid.into()),
        }
    }
}
