//! Every outgoing connection: what a URL's scheme means, and what may not travel in clear.
//!
//! A [`Dialer`] holds what this process shows and whom it trusts; [`Dialer::target`] checks a URL against that; [`Target::connect`] gives
//! a channel on which the other side has spoken already. So an error of TLS, of a certificate that is refused, or of a port that speaks
//! something else is the error of the dial, and says what to do; it is not the error of the first call.

mod fetch;
mod stream;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::secret::Secret;
use crate::stream::Stream;
use crate::tls::{ClientFiles, HTTP2, TlsError};
use stream::{DialledStream, Watch};

pub use fetch::FetchError;

/// How long one attempt to connect may take, unless the target says otherwise.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// What a process shows, and whom it trusts, when it dials. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Dialer {
    settings: Arc<Settings>,
}

#[derive(Clone, Debug, Default)]
struct Settings {
    files: ClientFiles,
    server_name: Option<String>,
    token: Option<Token>,
    insecure: bool,
}

/// Where the token is.
#[derive(Clone, Debug)]
enum Token {
    Text(Secret),
    File(PathBuf),
}

/// A connection that was not made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// What was given is not a URL.
    #[error(
        "{url:?} is not a URL of a coordinator; write such as https://assent.example:7420, or http://127.0.0.1:7420"
    )]
    Url {
        /// What was given.
        url: String,
    },
    /// A token or certificate would go over a network in clear.
    #[error(
        "{url} is not encrypted and leads beyond this machine, so the credentials are not sent there; use https:// (--ca names the \
         authority), or say insecure if the network encrypts by itself"
    )]
    InClear {
        /// Where.
        url: String,
    },
    /// A certificate, key or token of this process cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The token cannot be used.
    #[error("{problem}")]
    Token {
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The other side is not there, or hangs up.
    #[error("no coordinator answers at {url}; start one with `assent serve`, or check the address")]
    Unreachable {
        /// Where.
        url: String,
        /// What failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The other side is there, and is not spoken to.
    #[error("{url}: {problem}")]
    Refused {
        /// Where.
        url: String,
        /// What is wrong, and what to do.
        problem: String,
    },
}

impl Dialer {
    /// Shows nothing, and trusts the authorities that the machine trusts.
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, set: impl FnOnce(&mut Settings)) -> Self {
        set(Arc::make_mut(&mut self.settings));
        self
    }

    /// Trusts the authorities in this file (PEM), and no others.
    #[must_use]
    pub fn ca(self, path: impl Into<PathBuf>) -> Self {
        self.with(|settings| settings.files.ca = Some(path.into()))
    }

    /// Shows the certificate in this file (PEM).
    #[must_use]
    pub fn cert(self, path: impl Into<PathBuf>) -> Self {
        self.with(|settings| settings.files.cert = Some(path.into()))
    }

    /// The private key of that certificate (PEM).
    #[must_use]
    pub fn key(self, path: impl Into<PathBuf>) -> Self {
        self.with(|settings| settings.files.key = Some(path.into()))
    }

    /// The name that the server's certificate has to bear, where that is not the host of the URL.
    #[must_use]
    pub fn server_name(self, name: impl Into<String>) -> Self {
        self.with(|settings| settings.server_name = Some(name.into()))
    }

    /// Shows this token.
    #[must_use]
    pub fn token(self, token: impl Into<String>) -> Self {
        let token = token.into();
        self.with(|settings| settings.token = (!token.is_empty()).then(|| Token::Text(Secret::from(token))))
    }

    /// Shows the token in this file, which is read for each connection: a token that was replaced is used without a restart.
    #[must_use]
    pub fn token_file(self, path: impl Into<PathBuf>) -> Self {
        self.with(|settings| settings.token = Some(Token::File(path.into())))
    }

    /// Sends credentials over `http://` beyond this machine too: for networks that encrypt by themselves, such as a service mesh.
    #[must_use]
    pub fn insecure(self, insecure: bool) -> Self {
        self.with(|settings| settings.insecure = insecure)
    }

    /// Whether it may send credentials in clear.
    pub fn is_insecure(&self) -> bool {
        self.settings.insecure
    }

    /// The same for peers, which are not the coordinator: with no token, and each under the name in its own address.
    #[must_use]
    pub fn for_peers(self) -> Self {
        self.with(|settings| (settings.token, settings.server_name) = (None, None))
    }

    /// The files that it reads.
    pub fn files(&self) -> &ClientFiles {
        &self.settings.files
    }

    /// The token to show now.
    ///
    /// # Errors
    /// [`DialError::Token`] if its file cannot be read, or holds something that is not a token.
    pub fn shown_token(&self) -> Result<Option<Secret>, DialError> {
        let (text, origin) = match &self.settings.token {
            None => return Ok(None),
            Some(Token::Text(token)) => (token.expose().to_owned(), "the token".to_owned()),
            Some(Token::File(path)) => {
                let origin = format!("the token file {}", path.display());
                let text = std::fs::read_to_string(path).map_err(|error| DialError::Token {
                    problem: format!(
                        "{origin} cannot be read ({error}); check the path, and that this user may read it"
                    ),
                })?;
                (text.trim().to_owned(), origin)
            }
        };
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let problem =
                format!("{origin} holds no token; put into it what `assent token new` printed, and nothing else");
            return Err(DialError::Token { problem });
        }
        Ok(Some(Secret::from(text)))
    }

    /// Checks a URL against what would be sent there. Nothing is dialled.
    ///
    /// # Errors
    /// [`DialError::Url`], [`DialError::InClear`], [`DialError::Tls`] if a file of this process is not fit, [`DialError::Token`].
    pub fn target(&self, url: &str) -> Result<Target, DialError> {
        let wrong = || DialError::Url { url: url.to_owned() };
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| wrong())?;
        let host = endpoint.uri().host().ok_or_else(wrong)?;
        let token = self.shown_token()?;
        match endpoint.uri().scheme_str() {
            Some("https") => {
                self.settings.files.load(HTTP2)?;
                self.name_of(host).ok_or_else(wrong)?;
            }
            Some("http") => {
                let shows = token.is_some() || self.settings.files.cert.is_some();
                if shows && !self.settings.insecure && !is_loopback(host) {
                    return Err(DialError::InClear { url: url.to_owned() });
                }
            }
            Some(_) | None => return Err(wrong()),
        }
        let endpoint = endpoint.connect_timeout(CONNECT_MAX).tcp_keepalive(Some(Duration::from_secs(30)));
        Ok(Target { url: url.to_owned(), endpoint, dialer: self.clone(), token })
    }

    fn name_of(&self, host: &str) -> Option<ServerName<'static>> {
        let host = self.settings.server_name.as_deref().unwrap_or(host);
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        ServerName::try_from(bare.to_owned()).ok()
    }
}

/// Whether a host is this machine. `localhost` is checked again once it has been resolved.
pub fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<std::net::IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => bare.eq_ignore_ascii_case("localhost"),
    }
}

/// A URL that may be dialled.
#[derive(Clone, Debug)]
pub struct Target {
    url: String,
    endpoint: Endpoint,
    dialer: Dialer,
    token: Option<Secret>,
}

impl Target {
    /// Changes how HTTP/2 is spoken on the connection.
    #[must_use]
    pub fn map(self, map: impl FnOnce(Endpoint) -> Endpoint) -> Self {
        Self { endpoint: map(self.endpoint), ..self }
    }

    /// The URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The token to show on this connection, as it was when the target was made.
    pub fn token(&self) -> Option<&Secret> {
        self.token.as_ref()
    }

    /// The header that shows it.
    pub fn bearer(&self) -> Option<tonic::metadata::AsciiMetadataValue> {
        let mut header: tonic::metadata::AsciiMetadataValue =
            self.token.as_ref().and_then(|token| format!("Bearer {}", token.expose()).parse().ok())?;
        header.set_sensitive(true);
        Some(header)
    }

    /// Connects, and waits until the other side has said something.
    ///
    /// # Errors
    /// [`DialError`], which says what to do.
    pub async fn connect(&self) -> Result<Channel, DialError> {
        let watch = Watch::default();
        let connector = Connector { target: self.clone(), watch: watch.clone() };
        let dialled = async {
            let connected = self.endpoint.connect_with_connector(connector).await;
            match connected {
                Ok(channel) => watch.spoken().await.map(|()| channel).map_err(|error| self.failed(error)),
                Err(error) => match watch.trouble() {
                    Some(trouble) => Err(self.failed(trouble)),
                    None => Err(self.unreachable(error.into())),
                },
            }
        };
        // Twice: the first is for the connection itself.
        let silence_max = self.endpoint.get_connect_timeout().unwrap_or(CONNECT_MAX) * 2;
        match tokio::time::timeout(silence_max, dialled).await {
            Ok(dialled) => dialled,
            Err(_) => Err(self.unreachable("it takes connections and says nothing".into())),
        }
    }

    /// A channel that connects when it is used, and again when it broke. What fails is the error of the call.
    pub fn connect_lazy(&self) -> Channel {
        self.endpoint.connect_with_connector_lazy(Connector { target: self.clone(), watch: Watch::default() })
    }

    fn unreachable(&self, source: Box<dyn std::error::Error + Send + Sync>) -> DialError {
        DialError::Unreachable { url: self.url.clone(), source }
    }

    fn failed(&self, trouble: stream::Trouble) -> DialError {
        let refused = |problem: String| DialError::Refused { url: self.url.clone(), problem };
        match trouble {
            stream::Trouble::Io(source) => self.unreachable(source.into()),
            stream::Trouble::SpeaksTls => refused(
                "the other side speaks TLS; write https:// instead of http://, and name its authority with --ca (ASSENT_CA)".to_owned(),
            ),
            stream::Trouble::SpeaksNoTls => refused(
                "the other side does not speak TLS; give it a certificate (assent serve --tls-cert --tls-key), or write http:// for this machine alone"
                    .to_owned(),
            ),
            stream::Trouble::Tls(error) => refused(advice(&error)),
            stream::Trouble::Leads(address) => {
                refused(format!("localhost is {address}, which is not this machine; write 127.0.0.1"))
            }
        }
    }

    /// A stream that speaks `protocol`, as a TLS handshake names it.
    async fn open(self, protocol: &[u8], watch: Watch) -> Result<DialledStream, io::Error> {
        let uri = self.endpoint.uri();
        let host = uri.host().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let tcp = TcpStream::connect((bare, port)).await?;
        // Small messages must not wait for larger company; a socket that refuses is no worse off.
        tcp.set_nodelay(true).ok();
        if !is_tls {
            let shows = self.token.is_some() || self.dialer.settings.files.cert.is_some();
            let address = tcp.peer_addr()?;
            if shows && !self.dialer.settings.insecure && !address.ip().to_canonical().is_loopback() {
                watch.note(stream::Trouble::Leads(address));
                return Err(io::Error::other("localhost is not this machine"));
            }
            return Ok(DialledStream::new(Stream::Plain(tcp), watch));
        }
        let config = self.dialer.settings.files.load(protocol).map_err(io::Error::other)?;
        let name = self.dialer.name_of(host).ok_or_else(|| io::Error::other("no name to verify"))?;
        match TlsConnector::from(config).connect(name, tcp).await {
            Ok(tls) => Ok(DialledStream::new(Stream::tls(tls), watch)),
            Err(error) => {
                watch.failed(&error);
                Err(error)
            }
        }
    }
}

/// What a newcomer does about an error of TLS.
fn advice(error: &rustls::Error) -> String {
    use rustls::{AlertDescription as Alert, CertificateError as Bad, Error};

    let what = match error {
        Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            "its certificate was not issued by an authority that this process trusts; name the right one with --ca (ASSENT_CA)"
        }
        Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "its certificate bears another name; dial it by that name, or say which with --server-name (ASSENT_SERVER_NAME)"
        }
        Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => "its certificate has expired; renew it",
        Error::AlertReceived(Alert::UnknownCA | Alert::DecryptError) => {
            "it does not know the authority of this process's certificate; give one that its client_ca has signed with --cert and --key"
        }
        Error::AlertReceived(Alert::CertificateExpired) => {
            "this process's certificate has expired; renew it, and give it with --cert and --key"
        }
        Error::AlertReceived(Alert::CertificateRequired) => {
            "it asks for a certificate; give one with --cert and --key (ASSENT_CERT, ASSENT_KEY)"
        }
        Error::AlertReceived(Alert::ProtocolVersion) => "it does not speak TLS 1.3; put a proxy that does before it",
        _ => {
            return format!(
                "TLS failed ({error}); check --ca, --cert and --key, and the certificate of the other side"
            );
        }
    };
    what.to_owned()
}

/// Opens the streams of one channel.
#[derive(Clone)]
struct Connector {
    target: Target,
    watch: Watch,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<DialledStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let opening = self.target.clone().open(HTTP2, self.watch.clone());
        Box::pin(async move { opening.await.map(TokioIo::new) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_do_not_leave_this_machine_in_clear() {
        let with_token = Dialer::new().token("a-token");
        for url in ["http://10.0.0.1:7420", "http://assent:7420", "http://[2001:db8::1]:7420", "http://128.0.0.1:1"] {
            assert!(Dialer::new().target(url).is_ok(), "nothing is shown");
            let refused = with_token.target(url).expect_err("in clear");
            assert!(matches!(refused, DialError::InClear { .. }), "{refused:?}");
            assert!(refused.to_string().contains("--ca"), "{refused}");
            assert!(with_token.clone().insecure(true).target(url).is_ok());
        }
        for url in ["http://127.0.0.1:7420", "http://localhost:7420", "http://[::1]:7420", "http://127.9.9.9:1"] {
            assert!(with_token.target(url).is_ok(), "{url}");
        }
        for url in ["", "ftp://a:1", "127.0.0.1:7420", "http://", "https://"] {
            assert!(matches!(Dialer::new().target(url), Err(DialError::Url { .. })), "{url}");
        }
    }

    #[test]
    fn peers_are_not_shown_what_is_the_coordinators() {
        let dialer = Dialer::new().token("a-token").server_name("assent.example");
        let shown = |dialer: &Dialer| dialer.target("http://127.0.0.1:1").expect("fit").bearer().is_some();
        let for_peers = dialer.clone().for_peers();
        assert!(shown(&dialer) && !shown(&for_peers));
        assert_eq!(for_peers.name_of("bank-b.example"), ServerName::try_from("bank-b.example".to_owned()).ok());
    }

    #[test]
    fn a_token_file_is_read_for_each_target() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let dialer = Dialer::new().token_file(&path);
        let shown = || dialer.shown_token().map(|token| token.map(|token| token.expose().to_owned()));
        assert!(matches!(shown(), Err(DialError::Token { .. })));
        std::fs::write(&path, "one\n").expect("written");
        assert_eq!(shown().expect("a token").as_deref(), Some("one"));
        std::fs::write(&path, "two").expect("written");
        assert_eq!(shown().expect("a token").as_deref(), Some("two"));
        std::fs::write(&path, "two words").expect("written");
        assert!(shown().is_err());
    }
}
