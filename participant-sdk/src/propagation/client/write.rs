//! Which context a call carries, and for clients that take no layer.

use http::HeaderMap;
use tonic::{Request, Status};

use crate::propagation::{CallRefused, Context, GTID_HEADER, InvalidContext, current};

/// Writes a context into the headers of a call: the one that was given for it, or else the current one.
pub(super) fn write(given: Option<Context>, headers: &mut HeaderMap) -> Result<(), InvalidContext> {
    match given {
        Some(context) => context.write(headers),
        // What somebody wrote for this very call is meant rather than what the task happens to work in.
        None if headers.contains_key(GTID_HEADER) => Ok(()),
        None => current::shared().map_or(Ok(()), |context| context.write(headers)),
    }
}

/// Writes the [`current`](crate::propagation::current) context into the headers of a call, for HTTP clients that take
/// no layer. Headers of a context that are there already stay as they are. For a context at hand, use
/// [`Context::write`].
///
/// ```
/// use assent_sdk::propagation::{InvalidContext, client};
///
/// # struct Client;
/// # struct Request(http::HeaderMap);
/// # impl Request { fn headers_mut(&mut self) -> &mut http::HeaderMap { &mut self.0 } }
/// # fn send(mut request: Request) -> Result<(), InvalidContext> {
/// client::apply_current(request.headers_mut())?; // such as a reqwest::Request
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`InvalidContext`] if the coordinator of the current context is no address, which only one built by hand can have.
pub fn apply_current(headers: &mut HeaderMap) -> Result<(), InvalidContext> {
    write(None, headers)
}

/// A tonic interceptor that does what [`ContextLayer`](super::ContextLayer) does:
/// `BankClient::with_interceptor(channel, client::intercept)`.
///
/// # Errors
/// INVALID_ARGUMENT if the context's coordinator is no address, which only a context built by hand can have.
pub fn intercept(mut request: Request<()>) -> Result<Request<()>, Status> {
    let given = request.extensions().get::<Context>().cloned();
    write(given, request.metadata_mut().as_mut()).map_err(CallRefused::from)?;
    Ok(request)
}
