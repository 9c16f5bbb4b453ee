//! Carrying the transaction through HTTP and gRPC calls.
//!
//! A transaction's [`Context`] travels in four headers, which are metadata on gRPC: `assent-gtid`,
//! `assent-coordinator`, `assent-deadline` and `assent-epoch`. The initiator's client writes them, and the called service
//! reads them and takes part.
//!
//! | you have | use |
//! |---|---|
//! | an axum or tonic server | [`server::ContextLayer`] |
//! | an axum handler that works in the transaction | the extractor `server::InTransaction`, or an `Option` of it |
//! | a tonic method that does | [`server::context_of`], [`server::required_context_of`] |
//! | a tonic channel, or an HTTP client that is a tower service | [`client::ContextLayer`] |
//! | a tonic client without layers | [`client::intercept`] |
//! | any other HTTP client | [`client::apply_current`] or [`Context::write`] on its header map |
//! | a handler whose work may fail | [`CallFailed`] as its error, over HTTP and gRPC |
//!
//! Between the two sides stands the *current* context: the server's layer sets it for the time of its handler, and the
//! client's layer reads it. So a call that a handler makes is part of the transaction that the handler was called in,
//! and no code in between has to know. An initiator sets it with [`with_context`].
//!
//! The current context belongs to a task. What a handler spawns has left it, and takes it along like this:
//!
//! ```
//! use assent_sdk::propagation::{current, with_context};
//!
//! # async fn ask_the_bank() {}
//! # async fn handler() {
//! tokio::spawn(with_context(current(), ask_the_bank()));
//! # }
//! ```
//!
//! # Where it goes, and where it must not
//! It goes where a client was given the layer, and nowhere else. It never is in W3C baggage: baggage is copied to every
//! call that a process makes, by design, and so reaches third parties. Whoever knows a gtid can ask the coordinator
//! about that transaction, and have services work in it. So give the layer to the clients of your own services only,
//! and have the gateway at the edge remove `assent-*` headers from what comes from outside.

pub mod client;
mod current;
mod failed;
mod problem;
mod refused;
pub mod server;

pub use assent_proto::context::{
    COORDINATOR_HEADER, Context, DEADLINE_HEADER, EPOCH_HEADER, GTID_HEADER, InvalidContext, Problem,
};
pub use current::{current, with_context};
pub use failed::CallFailed;
pub use refused::CallRefused;

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::Context;

    /// A context whose deadline no test outlives.
    pub(super) fn context() -> Context {
        Context {
            gtid: "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("a gtid"),
            coordinator: "http://coordinator-1:7420".into(),
            deadline_unix_ms: Some(200_000_000_000_000),
            epoch: None,
        }
    }

    pub(super) fn headers_of(context: &Context) -> HeaderMap {
        let mut headers = HeaderMap::new();
        context.write(&mut headers).expect("a fit context");
        headers
    }
}
