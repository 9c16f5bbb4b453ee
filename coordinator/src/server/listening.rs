//! The port, and how many connections it may have.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

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

/// The address under which this machine reaches others: mostly they reach it there. `None` if it reaches none.
pub(super) fn outward(listening: SocketAddr) -> Option<IpAddr> {
    // Reserved for documentation, so nobody is there; nothing is sent.
    let (own, other): (IpAddr, IpAddr) = match listening {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    };
    let socket = UdpSocket::bind((own, 0)).ok()?;
    socket.connect((other, 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
}

/// What this machine calls itself.
#[cfg(unix)]
pub(super) fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What this machine calls itself.
#[cfg(not(unix))]
pub(super) fn machine_name() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "localhost".to_owned())
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
