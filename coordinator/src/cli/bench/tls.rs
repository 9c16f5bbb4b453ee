//! Certificates for one run: what encryption and names cost is measured like all else.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use assent_transport::{Identity, Role};

use super::plan::participant;
use crate::certs::{self, CA_FILE, Issued, Wanted};
use crate::cli::{Failure, Global};

/// How long the certificates hold: longer than a run may take.
const LIFETIME: Duration = Duration::from_secs(2 * 24 * 3_600);

/// The files of a run's own authority.
pub(super) struct RunTls {
    ca: PathBuf,
    coordinator: Issued,
    processes: Issued,
}

impl RunTls {
    /// Makes an authority in a directory, and certificates for the coordinator and for the processes of the benchmark.
    pub(super) fn make(directory: &Path, participants: usize) -> Result<Self, Failure> {
        let directory = directory.join("certs");
        certs::init(&directory, LIFETIME)?;
        let wanted =
            |identities, addresses| Wanted { identities, dns_names: Vec::new(), addresses, lifetime: LIFETIME };
        let named = |role, name: &str| Identity::new(role, name);
        // One certificate for all of them: a private key more or less changes no figure.
        let names = (0..participants).map(participant);
        let mut identities =
            names.map(|name| named(Role::Participant, &name)).collect::<Result<Vec<_>, _>>().map_err(unfit)?;
        identities.push(named(Role::Initiator, "bench").map_err(unfit)?);
        identities.push(named(Role::Observer, "bench").map_err(unfit)?);
        let replica = vec![named(Role::Replica, "bench").map_err(unfit)?];
        Ok(Self {
            ca: directory.join(CA_FILE),
            coordinator: certs::issue(
                &directory,
                "coordinator",
                &wanted(replica, vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]),
            )?,
            processes: certs::issue(&directory, "processes", &wanted(identities, Vec::new()))?,
        })
    }

    /// The arguments of `assent serve`.
    pub(super) fn of_server(&self) -> Vec<String> {
        let Issued { cert, key } = &self.coordinator;
        let files = [("--tls-cert", cert), ("--tls-key", key), ("--client-ca", &self.ca)];
        files.into_iter().flat_map(|(flag, file)| [flag.to_owned(), text(file)]).collect()
    }

    /// What the processes show, and whom they trust.
    pub(super) fn of_clients(&self, global: &Global) -> Global {
        let Issued { cert, key } = &self.processes;
        Global { ca: Some(text(&self.ca)), cert: Some(text(cert)), key: Some(text(key)), ..global.clone() }
    }
}

fn unfit(error: assent_transport::identity::InvalidIdentity) -> Failure {
    Failure::of_error(crate::cli::Exit::Failed, &error)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
