//! The port, and how many connections it may have.

use std::io;

use tokio::net::TcpListener;

use super::StartError;

/// Opens the port.
pub(super) async fn bind(address: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| error(address, source))
}

/// Why there is no port, and what to do.
pub(super) fn error(address: &str, source: io::Error) -> StartError {
    let next = match source.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there; stop it, or choose another port with --listen (port 0 takes any free one)"
        }
        io::ErrorKind::AddrNotAvailable => "no such address on this machine; choose another with --listen",
        io::ErrorKind::PermissionDenied => "this user may not; choose a port from 1024 on with --listen",
        _ => "check the address, or choose another with --listen",
    };
    StartError::Listen { address: address.to_owned(), next, source }
}

/// Descriptors that are left for everything else: the log, its files, and outgoing connections.
const DESCRIPTORS_KEPT: u64 = 256;

/// How many connections the process may have: as many as the operating system lets it open, once the limit is raised as far as this user
/// may raise it.
#[cfg(unix)]
pub(super) fn connections_max() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "could not raise the limit on open files");
            limit.current
        }
    };
    let connections =
        current.map_or(u64::MAX, |descriptors| (descriptors / 2).max(descriptors.saturating_sub(DESCRIPTORS_KEPT)));
    usize::try_from(connections).unwrap_or(usize::MAX)
}

/// How many connections the process may have.
#[cfg(not(unix))]
pub(super) fn connections_max() -> usize {
    usize::MAX
}
