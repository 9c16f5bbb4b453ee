//! `assent certs`: a private authority for a first cluster.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use assent_transport::Identity;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Exit, Failure, Format, Output};
use crate::certs::{self, CertsError, Issued, Wanted};
use crate::config::duration;

/// What this authority is not for.
const WARNING: &str = "this authority is for a first cluster and for tests: its key lies in a file, it revokes nothing and renews nothing; \
                       let cert-manager, SPIRE or your own authority issue the certificates of production (docs/operations/security.md)";

/// The longest lifetime: thirty years.
const LIFETIME_MAX: Duration = Duration::from_secs(30 * 365 * 24 * 3_600);

/// Make certificates for a first cluster.
#[derive(Debug, Subcommand)]
pub enum Certs {
    /// Make a private authority.
    Init(Init),
    /// Issue a certificate of that authority, or renew one.
    Issue(Issue),
}

/// Make a private authority.
#[derive(Debug, Args)]
pub struct Init {
    /// Where its files go.
    #[arg(long, value_name = "DIRECTORY", default_value = "certs")]
    dir: PathBuf,
    /// How long it holds.
    #[arg(long, value_name = "DURATION", default_value = "365d", value_parser = lifetime)]
    lifetime: Duration,
}

/// Issue a certificate of that authority, or renew one.
#[derive(Debug, Args)]
pub struct Issue {
    /// Who its holder is: participant/NAME, initiator/NAME, replica/NAME, observer/NAME, operator/NAME, administrator/NAME. A service that
    /// is several has several in one certificate.
    #[arg(value_name = "ROLE/NAME", required = true)]
    identities: Vec<Identity>,
    /// A host that its holder serves at. May be repeated.
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,
    /// An address that its holder serves at. May be repeated.
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<IpAddr>,
    /// Where the authority is, and where the certificate goes.
    #[arg(long, value_name = "DIRECTORY", default_value = "certs")]
    dir: PathBuf,
    /// What its files are called [default: the first NAME].
    #[arg(long, value_name = "NAME")]
    file: Option<String>,
    /// How long it holds.
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = lifetime)]
    lifetime: Duration,
}

fn lifetime(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        fit if !fit.is_zero() && fit <= LIFETIME_MAX => Ok(fit),
        _ => Err(format!("{text:?} is out of bounds: at most 30 years")),
    }
}

/// The answer, as JSON shows it.
#[derive(Debug, Serialize)]
struct Answer {
    cert: PathBuf,
    key: PathBuf,
}

impl Certs {
    /// Makes them, and says where they are.
    pub(super) fn run(self, output: &mut Output) -> Result<(), Failure> {
        let Issued { cert, key } = match self {
            Self::Init(Init { dir, lifetime }) => {
                let made = certs::init(&dir, lifetime)?;
                eprintln!("note: {WARNING}");
                made
            }
            Self::Issue(Issue { identities, dns, ip, dir, file, lifetime }) => {
                let name = file.or_else(|| identities.first().map(|identity| identity.name().to_owned()));
                let name = name.unwrap_or_default();
                if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
                    return Err(Failure::new(
                        Exit::Usage,
                        format!("{name:?} is not a file's name"),
                        "write such as bank-a",
                    ));
                }
                let wanted = Wanted { identities, dns_names: dns, addresses: ip, lifetime };
                certs::issue(&dir, &name, &wanted)?
            }
        };
        match output.format() {
            Format::Table => {
                output.line(&format!("certificate  {}", cert.display()))?;
                output.line(&format!("private key  {}", key.display()))?;
            }
            Format::Json | Format::Jsonl => output.value(&Answer { cert, key })?,
        }
        Ok(())
    }
}

impl From<CertsError> for Failure {
    fn from(error: CertsError) -> Self {
        let exit = match error {
            CertsError::Exists { .. } => Exit::Conflict,
            CertsError::NoAuthority { .. } => Exit::NotFound,
            CertsError::HostName { .. } => Exit::Usage,
            CertsError::Write { .. } | CertsError::Make(_) => Exit::Failed,
        };
        Self::of_error(exit, &error)
    }
}
