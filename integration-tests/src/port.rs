//! Ports for servers that tests stop and start again.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::shared_directory;

/// Below the ephemeral range of Linux (from 32768) and macOS (from 49152), and below the node ports of Kubernetes.
///
/// A port out of the ephemeral range would not do for a server that is killed: while nobody listens, the kernel may hand it
/// to any outgoing connection, even to a client that tries to reach that very port, which then talks to itself.
const RANGE: Range<u16> = 12_000..20_000;

/// A TCP port that belongs to the holder until this is dropped, whether or not somebody listens on it.
///
/// For a server that is started once, let it listen on port 0 and read the address that it prints instead.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// An advisory lock: the reservation counts among all processes of this harness, and ends with the process.
    _lock: File,
}

impl Port {
    /// Reserves a port that nobody listens on.
    ///
    /// # Panics
    /// When there is none, or no place for the locks.
    #[must_use]
    pub fn reserve() -> Self {
        // Processes start their search at different places, so that they seldom ask for the same port.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let start = (std::process::id() as u16).wrapping_mul(97);

        let directory = shared_directory().join("ports");
        std::fs::create_dir_all(&directory).expect("a directory for the locks of ports");
        let count = RANGE.end - RANGE.start;
        for _ in 0..count {
            let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % count;
            let number = RANGE.start + offset;
            let lock = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(directory.join(number.to_string()))
                .expect("a lock file for a port");
            // Both addresses: a container's port is published on all interfaces.
            let free = || {
                TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok()
                    && TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).is_ok()
            };
            if lock.try_lock().is_ok() && free() {
                return Self { number, _lock: lock };
            }
        }
        panic!("all ports from {} to {} are taken", RANGE.start, RANGE.end);
    }

    /// The port's number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The port on 127.0.0.1, to listen on and to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_reserved_port_is_not_given_again() {
        let ports: Vec<_> = (0..50).map(|_| Port::reserve()).collect();
        let numbers: BTreeSet<_> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), ports.len());
    }
}
