//! The context of an axum request.

use axum::body::Body;
use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::IntoResponse;
use http::Response;
use http::request::Parts;

use crate::propagation::refused::{CLOCK_SKEW_MAX, admit};
use crate::propagation::{CallRefused, Context};

/// The transaction that a call belongs to, as an axum extractor.
///
/// Where the call belongs to none, it is refused; take `Option<InTransaction>` where that is allowed. Works behind
/// [`ContextLayer`](super::ContextLayer) and without it. Without it, the calls that the handler makes have to be given
/// the context, by [`with_context`](crate::propagation::with_context).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InTransaction(pub Context);

fn context_of(parts: &Parts) -> Result<Option<Context>, CallRefused> {
    match parts.extensions.get::<Context>() {
        Some(context) => Ok(Some(context.clone())),
        None => admit(&parts.headers, CLOCK_SKEW_MAX),
    }
}

impl<S: Send + Sync> FromRequestParts<S> for InTransaction {
    type Rejection = CallRefused;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, CallRefused> {
        context_of(parts)?.map(Self).ok_or(CallRefused::Absent)
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for InTransaction {
    type Rejection = CallRefused;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, CallRefused> {
        Ok(context_of(parts)?.map(Self))
    }
}

impl IntoResponse for CallRefused {
    fn into_response(self) -> Response<Body> {
        self.to_http().map(Body::from)
    }
}
