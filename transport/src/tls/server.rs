//! The listening side, whose files may change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;

use super::{HTTP2, TlsError, VERSIONS, authority, certificates, private_key, provider, read};

/// How often the files are looked at. Authorities that renew a certificate leave hours between its successor and its end.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The files that a listening process proves itself and its peers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    /// Its certificate, followed by those between it and the authority.
    pub cert: PathBuf,
    /// The private key of that certificate.
    pub key: PathBuf,
    /// The authorities whose certificates name peers; without one, no certificate names anybody.
    pub client_ca: Option<PathBuf>,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// What the files held when they were last fit. Connections that are open keep what they began with.
#[derive(Debug)]
pub struct ServerTls {
    files: ServerFiles,
    current: RwLock<Arc<ServerConfig>>,
    /// What they held at the start, until they are followed.
    first: Mutex<Option<Contents>>,
}

/// The contents of the files, to be compared.
#[derive(PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl ServerFiles {
    fn read(&self) -> Result<Contents, TlsError> {
        let client_ca = self.client_ca.as_deref().map(read).transpose()?;
        Ok(Contents { cert: read(&self.cert)?, key: read(&self.key)?, client_ca })
    }

    fn config(&self, contents: &Contents) -> Result<Arc<ServerConfig>, TlsError> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(|source| TlsError::Verifier { problem: source.to_string() })?;
        let builder = match (&self.client_ca, &contents.client_ca) {
            (Some(path), Some(pem)) => builder.with_client_cert_verifier(verifier(path, pem)?),
            _ => builder.with_no_client_auth(),
        };
        let pair = |source| TlsError::Pair { certificate: self.cert.clone(), key: self.key.clone(), source };
        let mut config = builder
            .with_single_cert(certificates(&self.cert, &contents.cert)?, private_key(&self.key, &contents.key)?)
            .map_err(pair)?;
        config.alpn_protocols = vec![HTTP2.to_vec()];
        // A session that was resumed would be verified against the authorities of an earlier day.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// A peer may come without a certificate: a token may name it, and probes of health have neither. One that it shows has to be right.
fn verifier(path: &Path, pem: &[u8]) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(authority(path, pem)?), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|problem| TlsError::Verifier { problem: problem.to_string() })
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`], which names the file.
    pub fn load(files: ServerFiles) -> Result<Arc<Self>, TlsError> {
        let contents = files.read()?;
        let config = files.config(&contents)?;
        Ok(Arc::new(Self { files, current: RwLock::new(config), first: Mutex::new(Some(contents)) }))
    }

    /// What the next connection begins with.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a certificate may name a peer.
    pub fn names_peers(&self) -> bool {
        self.files.client_ca.is_some()
    }

    /// Looks at the files for as long as anything listens with them. What is not fit is told once, and what was fit goes on.
    pub(crate) async fn follow(this: std::sync::Weak<Self>) {
        let first = |tls: Arc<Self>| tls.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut seen: Option<Contents> = this.upgrade().and_then(first);
        let mut has_failed = false;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let Some(tls) = this.upgrade() else { return };
            let looked = tokio::task::spawn_blocking(move || {
                let read = tls.files.read();
                (tls, read)
            });
            let Ok((tls, read)) = looked.await else { return };
            let contents = match read {
                Ok(contents) if seen.as_ref() == Some(&contents) => continue,
                Ok(contents) => contents,
                Err(error) => {
                    // A file that is being replaced may be away for a moment.
                    if !std::mem::replace(&mut has_failed, true) {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "the certificates cannot be read; the last ones stay in use"
                        );
                    }
                    continue;
                }
            };
            match tls.files.config(&contents) {
                Ok(config) => {
                    *tls.current.write().unwrap_or_else(PoisonError::into_inner) = config;
                    tracing::info!(cert = %tls.files.cert.display(), "the certificates have changed: new connections use them");
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the certificates have changed and are not fit; the last ones stay in use"
                    );
                }
            }
            has_failed = false;
            seen = Some(contents);
        }
    }
}
