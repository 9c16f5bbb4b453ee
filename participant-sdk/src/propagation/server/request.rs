//! The context of a tonic request.

use tonic::{Request, Status};

use crate::propagation::refused::{CLOCK_SKEW_MAX, admit};
use crate::propagation::{CallRefused, Context};

/// The transaction that a call belongs to; `None` where it belongs to none.
///
/// Works behind [`ContextLayer`](super::ContextLayer) and without it. Without it, the calls that the method makes have
/// to be given the context, by [`with_context`](crate::propagation::with_context).
///
/// # Errors
/// Behind the layer there is none. Without it: INVALID_ARGUMENT where the context is malformed, DEADLINE_EXCEEDED where
/// the transaction is past its deadline, as in [`CallRefused`].
pub fn context_of<T>(request: &Request<T>) -> Result<Option<Context>, Status> {
    match request.extensions().get::<Context>() {
        Some(context) => Ok(Some(context.clone())),
        None => Ok(admit(request.metadata().as_ref(), CLOCK_SKEW_MAX)?),
    }
}

/// The transaction that a call belongs to, where it must belong to one.
///
/// # Errors
/// INVALID_ARGUMENT where it belongs to none; else as [`context_of`].
pub fn required_context_of<T>(request: &Request<T>) -> Result<Context, Status> {
    context_of(request)?.ok_or_else(|| CallRefused::Absent.into())
}
