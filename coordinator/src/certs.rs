//! A private authority, and certificates that it issues: for a first cluster, and for tests.
//!
//! It has one key, in a file. It revokes nothing, renews nothing by itself, and keeps no list of what it issued. An authority for
//! production has these: cert-manager, SPIRE, step-ca and Vault issue certificates with the same URIs.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use assent_transport::Identity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;

/// The authority's certificate.
pub const CA_FILE: &str = "ca.pem";
/// The authority's private key.
const CA_KEY_FILE: &str = "ca-key.pem";
/// The clocks of two machines may differ by so much.
const CLOCKS_DIFFER_MAX: Duration = Duration::from_secs(5 * 60);

/// A certificate that was not issued.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// There is one already.
    #[error("{} is there already, and certificates that it issued would stop being trusted; choose another --dir, or remove it first", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// There is no authority.
    #[error("there is no authority in {}; make one with `assent certs init`", directory.display())]
    NoAuthority {
        /// Where it was looked for.
        directory: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}; check that this user may write there", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// A host's name fits into no certificate.
    #[error("{name:?} is not a name of a host; write such as assent.example or localhost")]
    HostName {
        /// What was given.
        name: String,
    },
    /// The certificate cannot be made.
    #[error("the certificate cannot be made; check that the authority's files are as `assent certs init` wrote them")]
    Make(#[from] rcgen::Error),
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Who its holder is; each becomes a URI.
    pub identities: Vec<Identity>,
    /// The hosts that its holder serves at.
    pub dns_names: Vec<String>,
    /// The same, by address.
    pub addresses: Vec<IpAddr>,
    /// How long it holds.
    pub lifetime: Duration,
}

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Makes an authority in a directory, which is created as needed.
///
/// # Errors
/// [`CertsError`]: there is one already, or the directory cannot be written.
pub fn init(directory: &Path, lifetime: Duration) -> Result<Issued, CertsError> {
    let files = Issued { cert: directory.join(CA_FILE), key: directory.join(CA_KEY_FILE) };
    if let Some(path) = [&files.cert, &files.key].into_iter().find(|path| path.exists()) {
        return Err(CertsError::Exists { path: path.clone() });
    }
    fs::create_dir_all(directory).map_err(|source| CertsError::Write { path: directory.to_owned(), source })?;
    let key = KeyPair::generate()?;
    let certificate = authority(lifetime, &key)?.self_signed(&key)?;
    write(&files.key, &pem("PRIVATE KEY", &key.serialize_der()), Reader::Owner)?;
    write(&files.cert, &pem("CERTIFICATE", certificate.der()), Reader::All)?;
    Ok(files)
}

/// Issues a certificate of the authority in a directory, and writes it beside it, as `NAME.pem` and `NAME-key.pem`. One of that name is
/// replaced: that is how a certificate is renewed.
///
/// # Errors
/// [`CertsError`]: there is no authority, a name is not fit, or a file cannot be written.
pub fn issue(directory: &Path, name: &str, wanted: &Wanted) -> Result<Issued, CertsError> {
    let key_pem = fs::read_to_string(directory.join(CA_KEY_FILE))
        .map_err(|source| CertsError::NoAuthority { directory: directory.to_owned(), source })?;
    let der = PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    let authority_key = KeyPair::try_from(&der)?;
    let issuer = Issuer::new(authority(wanted.lifetime, &authority_key)?, authority_key);
    let key = KeyPair::generate()?;
    let certificate = leaf(wanted)?.signed_by(&key, &issuer)?;
    let files = Issued { cert: directory.join(format!("{name}.pem")), key: directory.join(format!("{name}-key.pem")) };
    write(&files.key, &pem("PRIVATE KEY", &key.serialize_der()), Reader::Owner)?;
    write(&files.cert, &pem("CERTIFICATE", certificate.der()), Reader::All)?;
    Ok(files)
}

/// Its name comes from its key: two authorities have two names, so that one of them is not taken for the other.
fn authority(lifetime: Duration, key: &KeyPair) -> Result<CertificateParams, CertsError> {
    let mut params = holding(lifetime)?;
    let id: String = params.key_identifier(key).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name.push(DnType::CommonName, format!("Assent private authority {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf(wanted: &Wanted) -> Result<CertificateParams, CertsError> {
    let mut params = holding(wanted.lifetime)?;
    let common_name = match (wanted.identities.first(), wanted.dns_names.first()) {
        (Some(identity), _) => identity.to_string(),
        (None, Some(name)) => name.clone(),
        (None, None) => "assent".to_owned(),
    };
    params.distinguished_name.push(DnType::CommonName, common_name);
    for identity in &wanted.identities {
        params.subject_alt_names.push(SanType::URI(Ia5String::try_from(identity.uri())?));
    }
    for name in &wanted.dns_names {
        let fit = Ia5String::try_from(name.clone()).map_err(|_| CertsError::HostName { name: name.clone() })?;
        params.subject_alt_names.push(SanType::DnsName(fit));
    }
    params.subject_alt_names.extend(wanted.addresses.iter().copied().map(SanType::IpAddress));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if !wanted.dns_names.is_empty() || !wanted.addresses.is_empty() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A file's text.
fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let lines: Vec<&str> = encoded.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// From now on, for so long.
fn holding(lifetime: Duration) -> Result<CertificateParams, CertsError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(CLOCKS_DIFFER_MAX);
    params.not_after = epoch + now.saturating_add(lifetime);
    Ok(params)
}

/// Who may read a file.
enum Reader {
    Owner,
    All,
}

/// Writes beside the file and renames, so that a process that looks at it never sees half of it.
fn write(path: &Path, text: &str, reader: Reader) -> Result<(), CertsError> {
    let beside = path.with_extension("new");
    let written = (|| {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(match reader {
                Reader::Owner => 0o600,
                Reader::All => 0o644,
            });
        }
        #[cfg(not(unix))]
        let _ = reader;
        let mut file = options.open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    written.map_err(|source| CertsError::Write { path: path.to_owned(), source })
}
