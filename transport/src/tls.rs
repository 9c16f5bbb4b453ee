//! Certificates from files, and rustls: TLS 1.3 on ring, and nothing else.
//!
//! Files are PEM. A private key that other users of the machine can read is refused, as ssh does it.

mod client;
mod server;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, SupportedProtocolVersion};

pub use client::ClientFiles;
pub use server::{ServerFiles, ServerTls};

/// The only version that is spoken.
const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// What HTTP/2 is called in a handshake.
pub(crate) const HTTP2: &[u8] = b"h2";

/// Certificates or keys that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}; check the path, and that this user may read it", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{} holds no {wanted} in PEM form; give a file that begins with -----BEGIN", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
    /// Other users of the machine may read a private key.
    #[error("other users may read the private key {}; run: chmod 600 {}", path.display(), path.display())]
    KeyIsReadable {
        /// Which file.
        path: PathBuf,
    },
    /// One of certificate and key is missing.
    #[error("a certificate and its key come together; give both {certificate} and {key}, or neither")]
    Half {
        /// What names the certificate.
        certificate: &'static str,
        /// What names the key.
        key: &'static str,
    },
    /// The certificates of a file are not fit to be an authority.
    #[error("{} cannot be used as an authority", path.display())]
    Authority {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// A certificate and a key are not fit, or not a pair.
    #[error("the certificate {} and the key {} cannot be used together", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// This machine trusts nobody.
    #[error(
        "this machine has no certificates of public authorities; name the authority to trust with --ca or ASSENT_CA"
    )]
    NoRoots,
    /// The authority cannot verify anything.
    #[error("the authority cannot verify certificates: {problem}")]
    Verifier {
        /// What is wrong.
        problem: String,
    },
}

/// What computes: ring.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = || TlsError::Pem { path: path.to_owned(), wanted: "certificate" };
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| wrong())?;
    if found.is_empty() { Err(wrong()) } else { Ok(found) }
}

fn authority(path: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        roots.add(certificate).map_err(|source| TlsError::Authority { path: path.to_owned(), source })?;
    }
    Ok(roots)
}

fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    refuse_readable(path)?;
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| TlsError::Pem { path: path.to_owned(), wanted: "private key" })
}

/// A key that a group may read is let pass: Kubernetes mounts secrets so, for the group of the pod.
#[cfg(unix)]
fn refuse_readable(path: &Path) -> Result<(), TlsError> {
    use std::os::unix::fs::PermissionsExt;

    let metadata = std::fs::metadata(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    if metadata.permissions().mode() & 0o007 != 0 {
        return Err(TlsError::KeyIsReadable { path: path.to_owned() });
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_readable(_: &Path) -> Result<(), TlsError> {
    Ok(())
}
