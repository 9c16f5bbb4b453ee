//! JSON over HTTP: a client that carries the transaction.

use assent_sdk::BoxError;
use assent_sdk::propagation::client::{ContextLayer, ContextService};
use axum::body::{Body, to_bytes};
use http::header::CONTENT_TYPE;
use http::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use tower::{Layer as _, Service as _, ServiceExt as _};

/// Why a service that follows RFC 9457 has refused: the detail of its answer.
pub fn detail(answer: &str) -> String {
    let problem: Option<serde_json::Value> = serde_json::from_str(answer).ok();
    let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
    detail.unwrap_or(answer).to_owned()
}

/// The most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A client for one service. Its calls carry the current transaction, if there is one.
#[derive(Clone, Debug)]
pub struct HttpClient {
    base: String,
    client: ContextService<Client<HttpConnector, Body>>,
}

impl HttpClient {
    /// A client for the service at this URL.
    pub fn new(base: String) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { base, client: ContextLayer::new().layer(client) }
    }

    /// Posts JSON, and reads the answer whatever its status.
    ///
    /// # Errors
    /// The service does not answer.
    pub async fn post(&self, path: &str, body: &impl Serialize) -> Result<(StatusCode, String), BoxError> {
        let request = Request::post(format!("{}{path}", self.base))
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(serde_json::to_vec(body)?))?;
        let answer = self.client.clone().ready().await?.call(request).await?;
        let (status, answer) = (answer.status(), Body::new(answer.into_body()));
        let bytes = to_bytes(answer, ANSWER_BYTES_MAX).await?;
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    }
}
