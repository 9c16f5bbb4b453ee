//! What a process tells about itself: log lines, and by OTLP traces and metrics where that is configured.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use assent_transport::{DialError, Dialer};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{LogFormat, Telemetry};
use crate::driver::{Snapshot, Statistics};

/// The name under which everything is reported.
const SCOPE: &str = "assent";

/// How long the last traces and metrics may take to be sent.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// Telemetry that could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is wrong.
    #[error("telemetry.log_filter is no filter; write such as info,assent::driver=debug")]
    Filter(#[from] ParseError),
    /// The exporter could not be made.
    #[error("cannot send telemetry to {endpoint}; correct telemetry.otlp_endpoint, or leave it out")]
    Exporter {
        /// Where to.
        endpoint: String,
        /// What failed.
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// The endpoint cannot be dialled so.
    #[error("telemetry.otlp_endpoint cannot be used")]
    Dial(#[from] DialError),
    /// This process has a subscriber already.
    #[error("this process already writes log lines in another way; set up telemetry once")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Keeps telemetry going; [`flush`](Self::flush) it at the end.
#[derive(Debug, Default)]
pub struct Guard {
    tracers: Option<SdkTracerProvider>,
    meters: Option<SdkMeterProvider>,
}

/// Sets up log lines on stderr and, where an endpoint is configured, the export of traces and metrics. To be called
/// once, within the runtime, by the program that owns the process; a library has no business with it.
///
/// # Errors
/// [`TelemetryError`], which says what to do next.
pub fn init(settings: &Telemetry, replica: &str) -> Result<Guard, TelemetryError> {
    let guard = match &settings.otlp_endpoint {
        Some(endpoint) => exporting(endpoint, settings.metrics_interval, replica)?,
        None => Guard::default(),
    };
    let filter = line_filter(&settings.log_filter)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = match settings.log_format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&io::stderr())).with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let spans = guard.tracers.as_ref().map(|tracers| {
        // What the exporter itself does would be exported in turn.
        let filter = EnvFilter::new("info,h2=off,hyper=off,tonic=off,tower=off,opentelemetry=off");
        tracing_opentelemetry::layer().with_tracer(tracers.tracer(SCOPE)).with_filter(filter)
    });
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans).try_init()?;
    Ok(guard)
}

/// The filter of log lines. Beneath `info` the crates that carry the calls say more than all others together, about each frame: they
/// are heard only where the filter names them.
fn line_filter(filter: &str) -> Result<EnvFilter, ParseError> {
    let wanted = EnvFilter::try_new(filter)?;
    if wanted.max_level_hint().is_some_and(|level| level <= LevelFilter::INFO) {
        return Ok(wanted);
    }
    // Of two directives for one module the last one counts.
    EnvFilter::try_new(format!("{QUIET},{filter}"))
}

const QUIET: &str = "h2=info,hyper=info,hyper_util=info,tonic=info,tower=info,rustls=info,sqlx=info,opentelemetry=info,opentelemetry_sdk=info";

fn exporting(endpoint: &str, metrics_interval: Duration, replica: &str) -> Result<Guard, TelemetryError> {
    let failed = |source| TelemetryError::Exporter { endpoint: endpoint.to_owned(), source };
    let resource = Resource::builder()
        .with_service_name("assent")
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", replica.to_owned()),
        ])
        .build();
    // By the one dialer: https:// is TLS there too.
    let channel = Dialer::new().target(endpoint)?.connect_lazy();
    let spans = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_channel(channel.clone());
    let spans = spans.build().map_err(failed)?;
    let metrics = MetricExporter::builder().with_tonic().with_endpoint(endpoint).with_channel(channel);
    let metrics = metrics.build().map_err(failed)?;
    let reader = PeriodicReader::builder(metrics).with_interval(metrics_interval).build();
    Ok(Guard {
        tracers: Some(SdkTracerProvider::builder().with_batch_exporter(spans).with_resource(resource.clone()).build()),
        meters: Some(SdkMeterProvider::builder().with_reader(reader).with_resource(resource).build()),
    })
}

impl Guard {
    /// Exports the counters of a driver from now on, if anything is exported.
    pub fn observe(&self, statistics: &Arc<Statistics>) {
        if let Some(meters) = &self.meters {
            let meter = meters.meter(SCOPE);
            for (name, about, read) in COUNTERS {
                observe_counter(&meter, name, about, statistics, *read);
            }
            let statistics = Arc::clone(statistics);
            meter
                .u64_observable_gauge("assent.transactions.open")
                .with_description("Transactions and sagas in memory")
                .with_callback(move |gauge| gauge.observe(statistics.snapshot().open, &[]))
                .build();
        }
    }

    /// Sends what has gathered. Blocks for as long as that takes, at most some seconds; so not to be called on a runtime's worker.
    pub fn flush(self) {
        if let Some(tracers) = self.tracers
            && let Err(error) = tracers.shutdown_with_timeout(FLUSH_MAX)
        {
            tracing::warn!(%error, "the last traces were not sent");
        }
        if let Some(meters) = self.meters
            && let Err(error) = meters.shutdown_with_timeout(FLUSH_MAX)
        {
            tracing::warn!(%error, "the last metrics were not sent");
        }
    }
}

type Counter = (&'static str, &'static str, fn(&Snapshot) -> u64);

/// Every counter of [`Snapshot`], under its name.
const COUNTERS: &[Counter] = &[
    ("assent.transactions.begun", "Transactions and sagas that were taken on", |s| s.begun),
    ("assent.transactions.committed", "Two-phase transactions that committed", |s| s.committed),
    ("assent.transactions.aborted", "Two-phase transactions that aborted", |s| s.aborted),
    ("assent.sagas.completed", "Sagas that completed", |s| s.completed),
    ("assent.sagas.compensated", "Sagas that were compensated", |s| s.compensated),
    ("assent.messages.in", "Messages that sessions brought", |s| s.messages_in),
    ("assent.messages.out", "Messages that were handed to sessions", |s| s.messages_out),
    ("assent.log.appends", "Appends that the log confirmed; each is one flush", |s| s.appends),
    ("assent.log.forced_records", "Records that somebody waited for", |s| s.forced_records),
    ("assent.log.lazy_records", "Records that rode along", |s| s.lazy_records),
    ("assent.log.append_failures", "Appends that failed and were repeated", |s| s.append_failures),
    ("assent.authentication.failures", "Callers that did not prove who they are", |s| s.authentication_failures),
    ("assent.calls.denied", "Requests and messages of callers that lacked a right", |s| s.calls_denied),
    ("assent.log.append_us", "Time spent in confirmed appends, in microseconds", |s| s.append_us),
];

fn observe_counter(
    meter: &Meter,
    name: &'static str,
    about: &'static str,
    statistics: &Arc<Statistics>,
    read: fn(&Snapshot) -> u64,
) {
    let statistics = Arc::clone(statistics);
    meter
        .u64_observable_counter(name)
        .with_description(about)
        .with_callback(move |counter| counter.observe(read(&statistics.snapshot()), &[]))
        .build();
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::Context;

    use super::*;

    #[derive(Clone, Default)]
    struct Targets(Arc<Mutex<Vec<String>>>);

    impl<S: tracing::Subscriber> Layer<S> for Targets {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            self.0.lock().expect("no panic").push(event.metadata().target().to_owned());
        }
    }

    fn heard(filter: &str) -> Vec<String> {
        let targets = Targets::default();
        let filtered = targets.clone().with_filter(line_filter(filter).expect("a filter"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(filtered), || {
            tracing::debug!(target: "h2::codec::framed_write", "a frame");
            tracing::debug!(target: "assent::driver", "what the coordinator does");
            tracing::info!(target: "h2::proto", "rare");
        });
        targets.0.lock().expect("no panic").clone()
    }

    #[test]
    fn frames_do_not_drown_the_coordinator() {
        assert_eq!(heard("debug"), ["assent::driver", "h2::proto"]);
        assert_eq!(heard("debug,h2=debug"), ["h2::codec::framed_write", "assent::driver", "h2::proto"]);
        assert_eq!(heard("info"), ["h2::proto"]);
        assert!(heard("off").is_empty());
    }
}
