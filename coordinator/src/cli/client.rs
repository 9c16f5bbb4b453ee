//! The way to a coordinator.

use std::time::Duration;

use assent_proto::session::FRAME_BYTES_MAX;
use assent_proto::v1::admin_service_client::AdminServiceClient;
use assent_transport::Dialer;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::{Failure, Global};

/// The coordinator that is asked where none is named.
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:7420";

/// How long a connection attempt may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long one call may take.
const CALL_MAX: Duration = Duration::from_secs(60);
/// A page of a list may be larger than a frame of a session.
const ANSWER_BYTES_MAX: usize = 16 * FRAME_BYTES_MAX;

/// The coordinator that a command talks to, and what it shows there.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its URL.
    pub endpoint: String,
    /// What is shown, and who is trusted.
    pub dialer: Dialer,
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
    /// A coordinator that asks for nothing.
    pub fn open(endpoint: impl Into<String>) -> Self {
        Self { endpoint: endpoint.into(), dialer: Dialer::new() }
    }

    /// As flags and environment say, in this order.
    pub fn of(global: &Global) -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let given = |flag: &Option<String>, name: &str| flag.clone().or_else(|| variable(name));
        let endpoint = given(&global.endpoint, "ASSENT_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let mut dialer = Dialer::new();
        if let Some(path) = given(&global.ca, "ASSENT_CA") {
            dialer = dialer.ca(path);
        }
        if let Some(path) = given(&global.cert, "ASSENT_CERT") {
            dialer = dialer.cert(path);
        }
        if let Some(path) = given(&global.key, "ASSENT_KEY") {
            dialer = dialer.key(path);
        }
        if let Some(name) = given(&global.server_name, "ASSENT_SERVER_NAME") {
            dialer = dialer.server_name(name);
        }
        // A flag stands above a variable, whichever of the two they give.
        let by_flag = (global.token.clone(), global.token_file.clone());
        let by_variable = || (variable("ASSENT_TOKEN"), variable("ASSENT_TOKEN_FILE"));
        let shown = if by_flag == (None, None) { by_variable() } else { by_flag };
        dialer = match shown {
            (_, Some(path)) => dialer.token_file(path),
            (Some(token), None) => dialer.token(token),
            (None, None) => dialer,
        };
        let insecure = global.insecure || variable("ASSENT_INSECURE").is_some_and(|value| value == "true");
        Self { endpoint, dialer: dialer.insecure(insecure) }
    }

    /// A connection.
    ///
    /// # Errors
    /// [`Failure`] if the URL is none, nothing answers there, or what is shown cannot be used.
    pub(super) async fn connect(&self) -> Result<Channel, Failure> {
        Ok(self.checked()?.connect().await?)
    }

    fn checked(&self) -> Result<assent_transport::Target, Failure> {
        let target = self.dialer.target(&self.endpoint)?;
        Ok(target.map(|endpoint| endpoint.connect_timeout(CONNECT_MAX).timeout(CALL_MAX)))
    }

    /// A client for operators' calls.
    ///
    /// # Errors
    /// [`Failure`] if the URL is none, nothing answers there, or what is shown cannot be used.
    pub(super) async fn admin(&self) -> Result<AdminClient, Failure> {
        let target = self.checked()?;
        let show_token = ShowToken(target.bearer());
        let channel = target.connect().await?;
        Ok(AdminServiceClient::with_interceptor(channel, show_token).max_decoding_message_size(ANSWER_BYTES_MAX))
    }
}
