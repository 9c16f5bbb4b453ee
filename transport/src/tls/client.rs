//! The dialling side.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use super::{TlsError, VERSIONS, authority, certificates, private_key, provider, read};

/// The files that a dialling process proves itself and its peers with. They are read anew for each connection, so that a certificate that
/// was renewed is used without a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// The certificates of the authorities that servers are verified against; without one, those that the machine trusts.
    pub ca: Option<PathBuf>,
    /// This process's certificate, followed by those between it and the authority.
    pub cert: Option<PathBuf>,
    /// The private key of that certificate.
    pub key: Option<PathBuf>,
}

impl ClientFiles {
    /// Reads the files, for connections that speak `protocol`.
    ///
    /// # Errors
    /// [`TlsError`], which names the file.
    pub(crate) fn load(&self, protocol: &[u8]) -> Result<Arc<ClientConfig>, TlsError> {
        let roots = match &self.ca {
            Some(path) => authority(path, &read(path)?)?,
            None => machine_roots()?,
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(|source| TlsError::Verifier { problem: source.to_string() })?
            .with_root_certificates(roots);
        let mut config = match (&self.cert, &self.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => builder
                .with_client_auth_cert(certificates(cert, &read(cert)?)?, private_key(key, &read(key)?)?)
                .map_err(|source| TlsError::Pair { certificate: cert.clone(), key: key.clone(), source })?,
            (Some(_), None) | (None, Some(_)) => {
                return Err(TlsError::Half { certificate: "--cert", key: "--key" });
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Arc::new(config))
    }
}

/// Those that the machine trusts.
fn machine_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    // Some stores hold certificates that no verifier takes; the others are of use all the same.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots) }
}
