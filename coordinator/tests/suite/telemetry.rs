//! What a coordinator sends to a collector.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use assent_transport::listener::Rules;
use assent_transport::{Listener, ServerFiles, ServerTls};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::certificates::Authority;
use crate::harness::{Home, begun, until};
use crate::process::Served;

/// A collector that remembers names: of spans, and of counters with their latest value.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<String>>>,
    counters: Arc<Mutex<Vec<(String, i64)>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let spans = resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans);
        self.spans.lock().expect("no panic").extend(spans.map(|span| span.name));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let resources = request.into_inner().resource_metrics.into_iter();
        // Those of one export are there together.
        let mut counters = self.counters.lock().expect("no panic");
        for metric in resources.flat_map(|resource| resource.scope_metrics).flat_map(|scope| scope.metrics) {
            let points = match metric.data {
                Some(Data::Sum(sum)) => sum.data_points,
                Some(Data::Gauge(gauge)) => gauge.data_points,
                _ => Vec::new(),
            };
            if let Some(Value::AsInt(value)) = points.first().and_then(|point| point.value) {
                counters.push((metric.name, value));
            }
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

impl Collector {
    async fn start(&self) -> SocketAddr {
        self.start_with(None).await
    }

    /// In clear, or with these certificates.
    async fn start_with(&self, tls: Option<Arc<ServerTls>>) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let rules = Rules { tls, connections_max: 16, severed: CancellationToken::new() };
        let serving = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .add_service(MetricsServiceServer::new(self.clone()))
            .serve_with_incoming(Listener::new(listener, rules));
        tokio::spawn(serving);
        address
    }

    fn has(&self, counter: &str, value: i64) -> bool {
        self.counters.lock().expect("no panic").iter().any(|(name, last)| name == counter && *last >= value)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_traces_and_metrics_to_the_last() {
    let collector = Collector::default();
    let endpoint = format!("http://{}", collector.start().await);
    let home = Arc::new(Home::new());
    let log = Arc::clone(&home);
    let mut served = tokio::task::spawn_blocking(move || {
        let arguments = ["--otlp-endpoint", &endpoint, "--set", "telemetry.metrics_interval=50ms"];
        Served::start(&log, &arguments, Stdio::null())
    })
    .await
    .expect("no panic");
    let mut client = assent_proto::v1::transaction_service_client::TransactionServiceClient::connect(served.endpoint())
        .await
        .expect("it listens");
    let opened = client.begin(assent_proto::v1::BeginRequest::default()).await.expect("begun").into_inner();
    until("the counter arrives", async || collector.has("assent.transactions.begun", 1)).await;
    assert!(collector.has("assent.transactions.open", 1));
    client.commit(begun(&opened.gtid)).await.expect("an outcome");
    drop(client);
    // Spans are sent seldom, but at the end for certain.
    let code = tokio::task::spawn_blocking(move || served.terminate()).await.expect("no panic");
    assert_eq!(code, 0);
    let spans = collector.spans.lock().expect("no panic").clone();
    assert!(spans.iter().any(|name| name == "call"), "{spans:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_verified_and_spoken_to_by_tls() {
    let home = Home::new();
    let authority = Authority::new(home.path().join("certs"));
    authority.issue("collector", &["observer/collector", "--ip", "127.0.0.1"]);
    let (cert, key) = authority.pair("collector");
    let files = ServerFiles { cert: cert.into(), key: key.into(), client_ca: None };
    let collector = Collector::default();
    let address = collector.start_with(Some(ServerTls::load(files).expect("fit"))).await;
    let endpoint = format!("https://{address}");
    let arguments = ["--otlp-endpoint", &endpoint, "--set", "telemetry.metrics_interval=50ms"];
    // It trusts what its machine trusts, which OpenSSL's variable says too.
    let serve = |ca: &str| Served::start_in(&home, &arguments, Stdio::null(), &[("SSL_CERT_FILE", ca)]);
    let served = serve(&authority.file("ca.pem"));
    until("the counter arrives", async || collector.has("assent.transactions.open", 0)).await;
    drop(served);
    collector.counters.lock().expect("no panic").clear();
    let other = Authority::new(home.path().join("other"));
    let mut served = serve(&other.file("ca.pem"));
    assert_eq!(served.terminate(), 0);
    assert!(collector.counters.lock().expect("no panic").is_empty(), "another authority's collector is told nothing");
}
