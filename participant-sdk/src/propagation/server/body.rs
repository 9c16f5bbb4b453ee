//! The body of an answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::propagation::{Context, current};

pin_project! {
    /// The handler's body, or why the call was refused.
    ///
    /// A body that streams is polled when the handler's future is done. The calls that it makes are part of the
    /// transaction all the same, so it is polled in its context.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = KindProjection]
    enum Kind<B> {
        Refused { text: Option<Bytes> },
        Handler { context: Option<Arc<Context>>, #[pin] body: B },
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn empty() -> Self {
        Self { kind: Kind::Refused { text: None } }
    }

    pub(super) fn text(text: Bytes) -> Self {
        Self { kind: Kind::Refused { text: Some(text) } }
    }

    pub(super) fn of_handler(context: Option<Arc<Context>>, body: B) -> Self {
        Self { kind: Kind::Handler { context, body } }
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProjection::Refused { text } => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            KindProjection::Handler { context, body } => current::enter_sync(context.clone(), || body.poll_frame(task)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Refused { text } => text.is_none(),
            Kind::Handler { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Refused { text } => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Kind::Handler { body, .. } => body.size_hint(),
        }
    }
}
