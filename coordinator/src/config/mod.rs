//! The configuration of a replica: one struct, filled from a file, the environment and flags, in this order.
//!
//! | file | subject |
//! |---|---|
//! | `mod.rs` | the struct, and how the sources come together |
//! | `setting.rs` | the table of settings: key, default, unit, reason |
//! | `source.rs` | where a value comes from |
//! | `value.rs` | durations, sizes, counts, names |
//! | `mistake.rs` | what is wrong, all of it at once |
//!
//! A setting `limits.open_max` is `open_max` under `[limits]` in the file, `ASSENT_LIMITS_OPEN_MAX` in the environment, and
//! `--set limits.open_max=...` among the flags; the frequent ones have a flag of their own.

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod mistake;
mod setting;
mod source;
#[cfg(test)]
mod tests;
mod value;

use std::path::PathBuf;
use std::time::Duration;

use assent_protocol::Name;
use assent_transport::ServerFiles;

use crate::driver::Limits;

pub use assent_transport::Secret;
pub use mistake::{ConfigError, Mistake};
pub use setting::{SETTINGS, Setting, sample};
pub use source::{Flag, Sources};
pub(crate) use value::duration;

/// The configuration of one replica. [`Config::default`] is fit for one process with its log in a file beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The address that sessions and calls come in at, as `HOST:PORT`; port 0 takes any free one.
    pub listen: String,
    /// The URL of the log.
    pub log: Secret,
    /// How long to wait at the start for a log that does not answer, before giving up.
    pub wait_for_log: Duration,
    /// The replica's name: whoever acquires it last drives its transactions.
    pub replica: Name,
    /// How long the lease of the replica lasts when it is not renewed; no replica of another name starts meanwhile.
    pub lease: Duration,
    /// Tasks that own transactions; 0 for one per processor.
    pub shards: usize,
    /// How long ended transactions are kept.
    pub retention: Duration,
    /// How long undecided transactions may take to be decided at a shutdown.
    pub drain_max: Duration,
    /// The certificate that the server shows (PEM); connections are in clear without one.
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    pub tls_key: Option<PathBuf>,
    /// The authorities whose certificates name clients (PEM).
    pub client_ca: Option<PathBuf>,
    /// The tokens that name clients, by their hashes, and the certificates that other URIs name (TOML).
    pub tokens_file: Option<PathBuf>,
    /// Whether it may listen beyond this machine without TLS or authentication.
    pub insecure: bool,
    /// What the replica takes on.
    pub limits: Limits,
    /// How sessions are held.
    pub session: SessionConfig,
    /// What the process tells about itself.
    pub telemetry: Telemetry,
}

/// How sessions are held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Each side says something at least this often.
    pub heartbeat_interval: Duration,
    /// A peer that is silent for longer is gone.
    pub silence_max: Duration,
    /// Sessions at once.
    pub sessions_max: usize,
}

/// What the process tells about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// The form of its own log lines.
    pub log_format: LogFormat,
    /// Which of them are written, in the syntax of `tracing_subscriber::EnvFilter`.
    pub log_filter: String,
    /// Where traces and metrics go by OTLP over gRPC; nowhere if absent.
    pub otlp_endpoint: Option<String>,
    /// How often metrics are sent there.
    pub metrics_interval: Duration,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7420".to_owned(),
            log: Secret::from("sqlite:assent.db"),
            wait_for_log: Duration::from_secs(30),
            replica: default_replica(),
            lease: Duration::from_secs(10),
            shards: 0,
            retention: Duration::from_secs(7 * 24 * 3_600),
            drain_max: Duration::from_secs(20),
            tls_cert: None,
            tls_key: None,
            client_ca: None,
            tokens_file: None,
            insecure: false,
            limits: Limits::default(),
            session: SessionConfig {
                heartbeat_interval: Duration::from_secs(5),
                silence_max: Duration::from_secs(20),
                sessions_max: 10_000,
            },
            telemetry: Telemetry {
                log_format: LogFormat::Text,
                log_filter: "info".to_owned(),
                otlp_endpoint: None,
                metrics_interval: Duration::from_secs(10),
            },
        }
    }
}

/// The name of a replica that was given none.
#[expect(clippy::expect_used, reason = "the text is fixed and tested")]
fn default_replica() -> Name {
    Name::new("assent").expect("a name by its rule")
}

impl Config {
    /// Brings the sources together: what stands in the file yields to the environment, and that to flags.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake in every source, not only the first.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let mut mistakes = Vec::new();
        let given = source::collect(sources, &mut mistakes);
        let mut origins = source::Origins::default();
        for given in &given {
            match (given.setting.set)(&mut config, &given.text) {
                Ok(()) => origins.note(given),
                Err(problem) => mistakes.push(Mistake {
                    origin: given.origin.to_string(),
                    problem: format!("{}: {problem}", given.setting.key),
                }),
            }
        }
        // Settings that are wrong by themselves would only be reported twice.
        if mistakes.is_empty() {
            config.check_together(&origins, &mut mistakes);
        }
        if mistakes.is_empty() { Ok(config) } else { Err(ConfigError { mistakes }) }
    }

    /// What each setting alone cannot tell.
    fn check_together(&self, origins: &source::Origins, mistakes: &mut Vec<Mistake>) {
        let mut wrong = |keys: [&str; 2], problem: String| {
            mistakes.push(Mistake { origin: origins.of(keys), problem });
        };
        let SessionConfig { heartbeat_interval, silence_max, .. } = self.session;
        if silence_max < heartbeat_interval * 2 {
            wrong(
                ["session.silence_max", "session.heartbeat_interval"],
                format!(
                    "session.silence_max ({}) is under twice session.heartbeat_interval ({}): one late heartbeat would cut a session; raise the one, or lower the other",
                    humantime::format_duration(silence_max),
                    humantime::format_duration(heartbeat_interval),
                ),
            );
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            let problem = "a certificate and its key come together; give both tls_cert and tls_key, or neither";
            wrong(["tls_cert", "tls_key"], problem.to_owned());
        }
        if self.client_ca.is_some() && self.tls_cert.is_none() {
            let problem = "client_ca verifies certificates, which come over TLS alone; give tls_cert and tls_key too";
            wrong(["client_ca", "tls_cert"], problem.to_owned());
        }
        let Limits { timeout_default_ms, timeout_max_ms, payload_bytes_max, open_bytes_max, .. } = self.limits;
        if timeout_default_ms > timeout_max_ms {
            wrong(
                ["limits.timeout_default", "limits.timeout_max"],
                format!(
                    "limits.timeout_default ({timeout_default_ms} ms) is over limits.timeout_max ({timeout_max_ms} ms); lower the one, or raise the other"
                ),
            );
        }
        if payload_bytes_max > open_bytes_max {
            wrong(
                ["limits.payload_bytes_max", "limits.open_bytes_max"],
                format!(
                    "limits.payload_bytes_max ({payload_bytes_max} bytes) is over limits.open_bytes_max ({open_bytes_max} bytes): such a payload could never be taken on"
                ),
            );
        }
    }

    /// The files of the server's TLS, if it has any.
    pub fn tls(&self) -> Option<ServerFiles> {
        let (cert, key) = (self.tls_cert.clone()?, self.tls_key.clone()?);
        Some(ServerFiles { cert, key, client_ca: self.client_ca.clone() })
    }

    /// How many shards to run.
    pub fn shard_count(&self) -> usize {
        if self.shards > 0 {
            return self.shards;
        }
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }
}
