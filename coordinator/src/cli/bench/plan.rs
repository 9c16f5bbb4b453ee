//! What the processes of a benchmark tell one another.
//!
//! The parent gives each child its [`Plan`] as the first line of its stdin. The child answers `ready`, and from then on each
//! line `mark` with a [`Mark`]: what happened since the last one. It ends when its stdin is closed, so it never outlives the parent.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cli::{Format, Global, Target};

/// What a child does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) role: Role,
    pub(super) endpoint: String,
    pub(super) credentials: Credentials,
    pub(super) protocol: Protocol,
    pub(super) participants: usize,
    pub(super) steps: usize,
    pub(super) concurrency: usize,
    pub(super) payload_bytes: usize,
    /// Where participants keep their data; nowhere for the null resource.
    pub(super) database: Option<String>,
    /// The directory where participants' voters keep their state, for three-phase commit.
    pub(super) voters: Option<PathBuf>,
}

/// What a child shows, and whom it trusts: as the flags of the parent say. The environment it has itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Credentials {
    token: Option<String>,
    token_file: Option<String>,
    ca: Option<String>,
    cert: Option<String>,
    key: Option<String>,
    server_name: Option<String>,
    insecure: bool,
}

impl Credentials {
    pub(super) fn of(global: &Global) -> Self {
        let Global { token, token_file, ca, cert, key, server_name, insecure, output: _, endpoint: _ } = global.clone();
        Self { token, token_file, ca, cert, key, server_name, insecure }
    }

    /// How to reach a coordinator with it.
    pub(super) fn target(&self, endpoint: &str) -> Target {
        let Self { token, token_file, ca, cert, key, server_name, insecure } = self.clone();
        let endpoint = Some(endpoint.to_owned());
        Target::of(&Global { output: Format::Table, endpoint, token, token_file, ca, cert, key, server_name, insecure })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    Participants,
    Load,
}

/// The protocol that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub(super) enum Protocol {
    /// Two-phase commit.
    #[value(name = "2pc")]
    #[serde(rename = "2pc")]
    TwoPhase,
    /// Three-phase commit; each participant's voter keeps its state in a temporary file.
    #[value(name = "3pc")]
    #[serde(rename = "3pc")]
    ThreePhase,
    /// A saga of `--steps` steps, one after the other.
    #[value(name = "saga")]
    #[serde(rename = "saga")]
    Saga,
}

/// What a child has done since its last mark; the processor time is since its start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) cpu_us: Option<u64>,
    pub(super) elapsed_us: u64,
    pub(super) committed: u64,
    pub(super) aborted: u64,
    pub(super) in_doubt: u64,
    pub(super) errors: u64,
    /// The last error, for people.
    pub(super) last_error: Option<String>,
    pub(super) latency_us: Latency,
}

/// Of the transactions that ended within a mark, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Latency {
    pub(super) p50: u64,
    pub(super) p95: u64,
    pub(super) p99: u64,
    pub(super) max: u64,
}

/// The participants' names.
pub(super) fn participant(number: usize) -> String {
    format!("bench-{number}")
}
