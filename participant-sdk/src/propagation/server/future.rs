//! The future of an answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;
use tonic::Status;

use super::ResponseBody;
use crate::propagation::current::{self, InContext};
use crate::propagation::{CallRefused, Context};

pin_project! {
    /// The answer of a [`ContextService`](super::ContextService).
    pub struct ResponseFuture<F> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<F> {
        Refused { refused: CallRefused, is_grpc: bool },
        Admitted { context: Option<Arc<Context>>, #[pin] future: InContext<F> },
    }
}

impl<F: Future> ResponseFuture<F> {
    pub(super) fn refused(refused: CallRefused, is_grpc: bool) -> Self {
        Self { kind: Kind::Refused { refused, is_grpc } }
    }

    pub(super) fn admitted(context: Option<Arc<Context>>, future: F) -> Self {
        Self { kind: Kind::Admitted { context: context.clone(), future: current::enter(context, future) } }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().kind.project() {
            KindProjection::Refused { refused, is_grpc: true } => {
                // A status in headers, without a body: the form that gRPC calls trailers-only.
                Ok(Status::from(refused.clone()).into_http::<()>().map(|()| ResponseBody::empty()))
            }
            KindProjection::Refused { refused, is_grpc: false } => Ok(refused.to_http().map(ResponseBody::text)),
            KindProjection::Admitted { context, future } => {
                let response = ready!(future.poll(task));
                response.map(|response| response.map(|body| ResponseBody::of_handler(context.take(), body)))
            }
        })
    }
}
