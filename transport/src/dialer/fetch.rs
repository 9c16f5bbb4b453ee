//! One small document over HTTP/1.1, from a server that is verified.
//!
//! What is fetched is believed, such as the keys of an issuer of tokens. So a URL is `https://`, or `http://` on this machine; redirects
//! are not followed; and the size and the time are bounded.

use bytes::Bytes;
use http::header::{ACCEPT, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;

use super::stream::{Trouble, Watch};
use super::{CONNECT_MAX, DialError, Dialer, Target, advice, is_loopback};

/// What HTTP/1.1 is called in a handshake.
const HTTP1: &[u8] = b"http/1.1";

/// A document that did not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL is not one, or the document would come over a network in clear.
    #[error(
        "{url:?} cannot be believed; give a URL of https://, or one of http:// on this machine, without a user and a password"
    )]
    Url {
        /// What was given.
        url: String,
    },
    /// The authority of the server cannot be used.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server is not there, or hangs up.
    #[error("{url} does not answer; check the address, and that this machine may reach it")]
    Unreachable {
        /// Where.
        url: String,
        /// What failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server is not the one that it should be.
    #[error("{url}: {problem}")]
    Refused {
        /// Where.
        url: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The server has something else to say.
    #[error("{url} answers with the status {status}; give the address of the document itself")]
    Status {
        /// Where.
        url: String,
        /// What it answered.
        status: StatusCode,
    },
    /// The document is too long.
    #[error("{url} has more than {bytes_max} bytes to say; check that it is the right address")]
    TooLong {
        /// Where.
        url: String,
        /// How many are taken.
        bytes_max: usize,
    },
}

impl Dialer {
    /// Fetches the document at a URL.
    ///
    /// # Errors
    /// [`FetchError`], which says what to do.
    pub async fn fetch(&self, url: &str, bytes_max: usize) -> Result<Bytes, FetchError> {
        let target = self.fetchable(url)?;
        // Twice: the first is for the connection itself.
        match tokio::time::timeout(CONNECT_MAX * 2, target.fetch(bytes_max)).await {
            Ok(fetched) => fetched,
            Err(_) => Err(unreachable(url, "it says nothing".into())),
        }
    }

    /// Whether a document at a URL could be believed. Nothing is dialled.
    ///
    /// # Errors
    /// [`FetchError::Url`], [`FetchError::Dial`] if a file of this dialer is not fit.
    pub fn may_fetch(&self, url: &str) -> Result<(), FetchError> {
        self.fetchable(url).map(drop)
    }

    fn fetchable(&self, url: &str) -> Result<Target, FetchError> {
        let wrong = || FetchError::Url { url: url.to_owned() };
        let target = self.target(url).map_err(|error| match error {
            DialError::Url { .. } => wrong(),
            other => FetchError::Dial(other),
        })?;
        let uri = target.endpoint.uri();
        let has_user = uri.authority().is_none_or(|authority| authority.as_str().contains('@'));
        let is_safe = uri.scheme_str() == Some("https") || uri.host().is_some_and(is_loopback);
        if is_safe && !has_user { Ok(target) } else { Err(wrong()) }
    }
}

impl Target {
    async fn fetch(self, bytes_max: usize) -> Result<Bytes, FetchError> {
        let (url, uri) = (self.url.clone(), self.endpoint.uri().clone());
        let watch = Watch::default();
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| match watch.trouble() {
            Some(Trouble::Tls(tls)) => FetchError::Refused { url: url.clone(), problem: advice(&tls) },
            Some(Trouble::SpeaksNoTls) => FetchError::Refused {
                url: url.clone(),
                problem: "it does not speak TLS; write http:// for this machine alone".to_owned(),
            },
            Some(Trouble::SpeaksTls) => {
                FetchError::Refused { url: url.clone(), problem: "it speaks TLS; write https://".to_owned() }
            }
            Some(Trouble::Io(_) | Trouble::Leads(_)) | None => unreachable(&url, error),
        };
        let stream = self.open(HTTP1, watch.clone()).await.map_err(|error| failed(error.into()))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(error.into()))?;
        // Ends with the answer, or when the sender is dropped.
        tokio::spawn(connection);
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path).header(HOST, host).header(ACCEPT, "application/json");
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| failed(error.into()))?;
        let answer = sender.send_request(request).await.map_err(|error| failed(error.into()))?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status { url, status: answer.status() });
        }
        match Limited::new(answer.into_body(), bytes_max).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLong { url, bytes_max }),
            Err(error) => Err(failed(error)),
        }
    }
}

fn unreachable(url: &str, source: Box<dyn std::error::Error + Send + Sync>) -> FetchError {
    FetchError::Unreachable { url: url.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A server that gives each connection the same answer, whatever it asks.
    async fn answering(answer: String) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/document", listener.local_addr().expect("bound"));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = vec![0; 4_096];
                let read = stream.read(&mut asked).await.expect("a request");
                assert!(asked[..read].starts_with(b"GET /document HTTP/1.1\r\n"), "{:?}", &asked[..read]);
                stream.write_all(answer.as_bytes()).await.ok();
            }
        });
        url
    }

    fn of_length(length: usize) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{}", "x".repeat(length))
    }

    #[tokio::test]
    async fn a_document_comes_whole_or_not_at_all() {
        let dialer = Dialer::new();
        let fetched = dialer.fetch(&answering(of_length(100)).await, 100).await.expect("a document");
        assert_eq!(fetched, "x".repeat(100));
        let error = dialer.fetch(&answering(of_length(101)).await, 100).await.expect_err("too long");
        assert!(matches!(error, FetchError::TooLong { .. }), "{error:?}");
        // One that does not say its length.
        let endless = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n80\r\n".to_owned()
            + &"x".repeat(128)
            + "\r\n0\r\n\r\n";
        let error = dialer.fetch(&answering(endless).await, 100).await.expect_err("too long");
        assert!(matches!(error, FetchError::TooLong { .. }), "{error:?}");
        let elsewhere = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_owned();
        let error = dialer.fetch(&answering(elsewhere).await, 100).await.expect_err("a redirect");
        assert!(matches!(error, FetchError::Status { status: StatusCode::FOUND, .. }), "{error:?}");
        let error = dialer.fetch(&answering("nonsense".to_owned()).await, 100).await.expect_err("no HTTP");
        assert!(matches!(error, FetchError::Unreachable { .. }), "{error:?}");
        let error = dialer.fetch("http://127.0.0.1:1/document", 100).await.expect_err("nobody listens");
        assert!(matches!(error, FetchError::Unreachable { .. }), "{error:?}");
    }

    #[test]
    fn what_comes_in_clear_over_a_network_is_not_believed() {
        for url in [
            "http://login.example/keys",
            "http://10.0.0.1/keys",
            "ftp://127.0.0.1/keys",
            "https://me:hush@login.example/keys",
            "keys",
        ] {
            assert!(matches!(Dialer::new().may_fetch(url), Err(FetchError::Url { .. })), "{url}");
        }
        for url in ["http://127.0.0.1:8080/keys", "http://localhost/keys", "http://[::1]:8080/keys"] {
            assert!(Dialer::new().may_fetch(url).is_ok(), "{url}");
        }
    }
}
