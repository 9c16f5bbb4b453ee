//! The future of a call.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::participant::BoxError;

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
        // `None` once it was given.
        Unsent { error: Option<BoxError> },
        Sent { #[pin] future: F },
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn unsent(error: BoxError) -> Self {
        Self { kind: Kind::Unsent { error: Some(error) } }
    }

    pub(super) fn sent(future: F) -> Self {
        Self { kind: Kind::Sent { future } }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<BoxError>,
{
    type Output = Result<R, BoxError>;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProjection::Unsent { error } => {
                Poll::Ready(Err(error.take().expect("a future is not polled again once it is done")))
            }
            KindProjection::Sent { future } => future.poll(task).map_err(Into::into),
        }
    }
}
