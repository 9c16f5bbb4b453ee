//! The way to a coordinator.

use std::time::Duration;

use assent_proto::session::FRAME_BYTES_MAX;
use assent_proto::v1::admin_service_client::AdminServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::{Exit, Failure, Global};
use crate::config::Secret;

/// The coordinator that is asked where none is named.
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:7420";

/// How long a connection attempt may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long one call may take.
const CALL_MAX: Duration = Duration::from_secs(60);
/// A page of a list may be larger than a frame of a session.
const ANSWER_BYTES_MAX: usize = 16 * FRAME_BYTES_MAX;

/// The coordinator that a command talks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its URL.
    pub endpoint: String,
    /// What it asks for, if anything.
    pub token: Option<Secret>,
}

/// Shows the token with every call.
#[derive(Clone)]
pub(super) struct ShowToken(Option<MetadataValue<Ascii>>);

impl Interceptor for ShowToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Where operators' calls go.
pub(super) type AdminClient = AdminServiceClient<InterceptedService<Channel, ShowToken>>;

impl Target {
    /// As flags and environment say, in this order.
    pub fn of(global: &Global) -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = global.endpoint.clone().or_else(|| variable("ASSENT_ENDPOINT"));
        let token = global.token.clone().or_else(|| variable("ASSENT_TOKEN"));
        Self { endpoint: endpoint.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()), token: token.map(Secret::from) }
    }

    /// A connection.
    ///
    /// # Errors
    /// [`Failure`] if the URL is none, or nobody answers there.
    pub async fn connect(&self) -> Result<Channel, Failure> {
        let shown = &self.endpoint;
        if shown.starts_with("https://") {
            let next = "use http://, through a proxy or tunnel where the way must be encrypted";
            return Err(Failure::new(Exit::Usage, format!("{shown}: this program speaks no TLS"), next));
        }
        let endpoint = Endpoint::from_shared(self.endpoint.clone())
            .ok()
            .filter(|endpoint| endpoint.uri().scheme_str() == Some("http"))
            .ok_or_else(|| {
                let next = format!("write such as {DEFAULT_ENDPOINT}");
                Failure::new(Exit::Usage, format!("{shown:?} is no URL of a coordinator"), next)
            })?;
        endpoint.connect_timeout(CONNECT_MAX).timeout(CALL_MAX).tcp_nodelay(true).connect().await.map_err(|_| {
            let next = "start one with `assent serve`, or say where it is with --endpoint or ASSENT_ENDPOINT";
            Failure::new(Exit::Unreachable, format!("no coordinator answers at {shown}"), next)
        })
    }

    /// A client for operators' calls.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), and if the token fits into no header.
    pub(super) async fn admin(&self) -> Result<AdminClient, Failure> {
        let show_token = match &self.token {
            None => ShowToken(None),
            Some(token) => {
                let header = format!("Bearer {}", token.expose()).parse().map_err(|_| {
                    Failure::new(
                        Exit::Usage,
                        "the token has characters that no token has",
                        "give it as it was configured",
                    )
                })?;
                ShowToken(Some(header))
            }
        };
        let channel = self.connect().await?;
        Ok(AdminServiceClient::with_interceptor(channel, show_token).max_decoding_message_size(ANSWER_BYTES_MAX))
    }
}
