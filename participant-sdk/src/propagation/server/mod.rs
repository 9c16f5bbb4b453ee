//! The called side: reads the context of each call.
//!
//! With axum:
//!
//! ```no_run
//! use assent_sdk::propagation::server::{ContextLayer, InTransaction};
//! use axum::{Router, routing::post};
//!
//! async fn reserve(InTransaction(context): InTransaction) -> String {
//!     format!("reserved in transaction {}", context.gtid)
//! }
//!
//! async fn price(transaction: Option<InTransaction>) -> &'static str {
//!     if transaction.is_some() { "as reserved" } else { "10.00" }
//! }
//!
//! let app: Router = Router::new()
//!     .route("/reserve", post(reserve))
//!     .route("/price", post(price))
//!     .layer(ContextLayer::new());
//! ```
//!
//! With tonic, for all services of a server:
//!
//! ```no_run
//! use assent_sdk::propagation::server::ContextLayer;
//!
//! let server = tonic::transport::Server::builder().layer(ContextLayer::new());
//! ```
//!
//! or for one of them, as `server.add_service(ContextLayer::new().layer(BankServer::new(bank)))`. The methods then ask
//! [`context_of`] or [`required_context_of`], or just make their calls: those carry the context too, where their client
//! has [`client::ContextLayer`](crate::propagation::client::ContextLayer).

mod body;
#[cfg(feature = "axum")]
mod extract;
mod future;
mod layer;
mod request;
mod service;
// Its bodies are axum's.
#[cfg(all(test, feature = "axum"))]
mod tests;

pub use body::ResponseBody;
#[cfg(feature = "axum")]
pub use extract::InTransaction;
pub use future::ResponseFuture;
pub use layer::ContextLayer;
pub use request::{context_of, required_context_of};
pub use service::ContextService;
