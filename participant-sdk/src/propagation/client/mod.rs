//! The calling side: writes the context into each call.
//!
//! Which context a call carries, the first that there is of:
//! 1. a [`Context`] in the request's extensions;
//! 2. the headers of a context that the request has already, which stay as they are;
//! 3. the [`current`](crate::propagation::current) one.
//!
//! A call without any is sent without.
//!
//! With tonic:
//!
//! ```no_run
//! use assent_sdk::propagation::{Context, client, with_context};
//! use tonic::transport::Channel;
//! use tower::ServiceBuilder;
//!
//! # struct BankClient<T>(T);
//! # impl<T> BankClient<T> {
//! #     fn new(inner: T) -> Self { Self(inner) }
//! #     async fn reserve(&mut self) {}
//! # }
//! # async fn example(context: Context) -> Result<(), tonic::transport::Error> {
//! let channel = Channel::from_static("http://bank:8080").connect().await?;
//! let channel = ServiceBuilder::new().layer(client::ContextLayer::new()).service(channel);
//! let mut bank = BankClient::new(channel);
//!
//! // Within a handler behind `server::ContextLayer` the context is there. An initiator gives it:
//! with_context(context, bank.reserve()).await;
//! # Ok(())
//! # }
//! ```
//!
//! or, without layers, `BankClient::with_interceptor(channel, client::intercept)`. With an HTTP client that is no tower
//! service, such as reqwest, write the headers of each request: [`apply_current`], or [`Context::write`] for a context
//! at hand.

mod future;
mod layer;
mod service;
#[cfg(test)]
mod tests;
mod write;

pub use future::ResponseFuture;
pub use layer::ContextLayer;
pub use service::ContextService;
pub use write::{apply_current, intercept};

#[cfg(doc)]
use crate::propagation::Context;
