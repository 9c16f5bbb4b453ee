//! What tests need that run against real things: Postgres servers, the `assent` binary and other processes, and waiting.
//!
//! - [`postgres`]: a fresh database in a server that all tests share, or a server of the test's own that it may kill, pause
//!   and restart. In containers where a Docker engine answers, else as child processes of an installed Postgres.
//! - [`process`]: programs of this workspace as child processes that can be killed with SIGKILL and started again.
//! - [`ledger`]: what the test participants are asked to do, and the tables that they keep.
//! - [`port`]: a port that stays one's own while nobody listens on it.
//! - [`network`]: hosts in network namespaces, and cuts between them.
//! - [`relay`]: a TCP relay that holds back or loses what is said.
//! - [`eventually`](eventually()): wait for a condition with a deadline, never for a time.
//!
//! Nothing here outlives the test that asked for it, even when that test is killed: Postgres servers and databases belong
//! to a keeper process and live as long as the asking test's connection to it; child processes are killed on drop.
//!
//! Failing to provide something is not an error that a test could handle: everything here panics with what went wrong and
//! what to do about it.

pub mod eventually;
pub mod ledger;
pub mod network;
pub mod port;
pub mod postgres;
pub mod process;
pub mod relay;

pub use eventually::eventually;
pub use network::Network;
pub use port::Port;
pub use postgres::{Database, Postgres};
pub use process::{Process, Program};
pub use relay::Relay;

use std::path::PathBuf;

/// A directory for what the processes of one user's test runs share: sockets, locks, logs. Created when absent.
pub(crate) fn shared_directory() -> PathBuf {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};

    let user = rustix::process::getuid().as_raw();
    let directory = std::env::temp_dir().join(format!("assent-tests-{user}"));
    match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => panic!("cannot create {}: {error}", directory.display()),
    }
    // A socket in somebody else's directory would let them answer in the keeper's place.
    let owner = std::fs::symlink_metadata(&directory).map(|metadata| (metadata.is_dir(), metadata.uid()));
    assert!(
        matches!(owner, Ok((true, uid)) if uid == user),
        "{} must be a directory that belongs to user {user}: remove it",
        directory.display()
    );
    directory
}
