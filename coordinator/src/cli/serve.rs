//! `assent serve`: a coordinator, until it is told to stop.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, Failure, Global, Output};
use crate::config::{Config, Flag, SETTINGS, Sources, sample};
use crate::server::Coordinator;
use crate::telemetry;

/// Run a coordinator.
#[derive(Debug, Args)]
#[command(after_long_help = settings_help(), after_help = "`assent serve --help` lists every setting.")]
pub struct Serve {
    /// A configuration file (TOML) [env: ASSENT_CONFIG]. The environment overrides it, flags override both.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where sessions and calls come in; port 0 takes any free one.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// The log: sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE.
    #[arg(long, value_name = "URL")]
    log: Option<String>,
    /// The replica's name; keep it across restarts.
    #[arg(long, value_name = "NAME")]
    replica: Option<String>,
    /// Tasks that own transactions; 0 for one per processor.
    #[arg(long, value_name = "N")]
    shards: Option<String>,
    /// How long ended transactions are kept.
    #[arg(long, value_name = "DURATION")]
    retention: Option<String>,
    /// How long to wait at the start for a log that does not answer.
    #[arg(long, value_name = "DURATION")]
    wait_for_log: Option<String>,
    /// How long a shutdown waits for undecided transactions.
    #[arg(long, value_name = "DURATION")]
    drain_max: Option<String>,
    /// The server's certificate (PEM).
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<String>,
    /// The private key of the server's certificate (PEM).
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// The authorities whose certificates name clients (PEM).
    #[arg(long, value_name = "FILE")]
    client_ca: Option<String>,
    /// The tokens that name clients, by their hashes (TOML).
    #[arg(long, value_name = "FILE")]
    tokens_file: Option<String>,
    /// The form of log lines on stderr: text or json.
    #[arg(long, value_name = "FORM")]
    log_format: Option<String>,
    /// Which log lines are written, such as info,assent::driver=debug.
    #[arg(long, value_name = "FILTER")]
    log_filter: Option<String>,
    /// Where traces and metrics go by OTLP over gRPC.
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// Any setting by its key, such as limits.open_max=5000. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Check the configuration, and do nothing else.
    #[arg(long)]
    check: bool,
    /// Print a configuration file with every setting and its default, and do nothing else.
    #[arg(long)]
    sample: bool,
}

/// The settings, for the long help.
fn settings_help() -> String {
    let mut help = String::from("Settings, by key, variable and default:\n");
    for setting in SETTINGS {
        let default = if setting.default.is_empty() { "none" } else { setting.default };
        help.push_str(&format!("\n{}  {}  {default}\n", setting.key, setting.variable()));
        help.push_str(&format!("    {}\n", setting.about));
    }
    help
}

impl Serve {
    /// Serves until a signal or a failure.
    pub(super) async fn run(self, global: Global) -> Result<(), Failure> {
        let mut output = Output::new(global.output);
        if self.sample {
            return Ok(output.text(&sample())?);
        }
        let config = Config::load(&self.sources(global, Sources::of_this_process()))?;
        if self.check {
            return Ok(output.line("the configuration is fit")?);
        }
        let guard = telemetry::init(&config.telemetry, config.replica.as_str())?;
        let served = serve(config, &guard, &mut output).await;
        // It waits for the network, which a worker of the runtime must not.
        tokio::task::spawn_blocking(|| guard.flush()).await.ok();
        served
    }

    /// The sources of the configuration: `base` has the environment.
    fn sources(&self, global: Global, base: Sources) -> Sources {
        let variable = |name: &str| {
            let (_, value) = base.environment.iter().find(|(known, value)| known == name && !value.is_empty())?;
            Some(PathBuf::from(value))
        };
        let file = self.config.clone().or_else(|| variable("ASSENT_CONFIG"));
        let own = [
            ("--listen", "listen", &self.listen),
            ("--log", "log", &self.log),
            ("--replica", "replica", &self.replica),
            ("--shards", "shards", &self.shards),
            ("--retention", "retention", &self.retention),
            ("--wait-for-log", "wait_for_log", &self.wait_for_log),
            ("--drain-max", "drain_max", &self.drain_max),
            ("--tls-cert", "tls_cert", &self.tls_cert),
            ("--tls-key", "tls_key", &self.tls_key),
            ("--client-ca", "client_ca", &self.client_ca),
            ("--tokens-file", "tokens_file", &self.tokens_file),
            ("--insecure", "insecure", &global.insecure.then(|| "true".to_owned())),
            ("--log-format", "telemetry.log_format", &self.log_format),
            ("--log-filter", "telemetry.log_filter", &self.log_filter),
            ("--otlp-endpoint", "telemetry.otlp_endpoint", &self.otlp_endpoint),
        ];
        let named = own.into_iter().filter_map(|(name, key, text)| {
            Some(Flag { name: name.to_owned(), key: key.to_owned(), text: text.clone()? })
        });
        let by_key = self.set.iter().map(|pair| {
            let (key, text) = pair.split_once('=').unwrap_or((pair, ""));
            Flag { name: format!("--set {key}"), key: key.trim().to_owned(), text: text.trim().to_owned() }
        });
        Sources { file, flags: named.chain(by_key).collect(), ..base }
    }
}

async fn serve(config: Config, guard: &telemetry::Guard, output: &mut Output) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let coordinator = tokio::select! {
        started = Coordinator::start(config) => started?,
        () = signals.next() => return Ok(()),
    };
    guard.observe(coordinator.statistics());
    let (replica, epoch) = (coordinator.replica(), coordinator.epoch().0);
    let elsewhere = coordinator.endpoint_elsewhere().map_or_else(String::new, |url| format!(" elsewhere={url}"));
    let line = format!("assent listening on {}{elsewhere} replica={replica} epoch={epoch}", coordinator.endpoint());
    // For scripts that wait for it; one that has stopped to read does not stop the coordinator.
    output.line(&line).ok();
    tokio::select! {
        stopped = coordinator.stopped() => return Ok(stopped?),
        () = signals.next() => {}
    }
    tokio::select! {
        stopped = coordinator.shutdown() => Ok(stopped?),
        () = signals.next() => {
            let next = "nothing that was promised is lost; what was undecided aborts";
            Err(Failure::new(Exit::Failed, "stopped at the second signal, before everything was decided", next))
        }
    }
}

/// What asks a process to stop.
#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let failed =
            |error: std::io::Error| Failure::new(Exit::Failed, format!("cannot wait for signals: {error}"), "");
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What asks a process to stop.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Result<Self, Failure> {
        Ok(Self)
    }

    async fn next(&mut self) {
        tokio::signal::ctrl_c().await.ok();
    }
}
