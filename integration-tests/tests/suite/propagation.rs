//! The transaction context over real sockets: HTTP/1.1 into axum, gRPC between tonic's client and
//! server, and both in a row.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use assent_proto::error::refusal_of;
use assent_sdk::propagation::server::{ContextLayer, InTransaction, context_of, required_context_of};
use assent_sdk::propagation::{Context, client, current, with_context};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use futures::{Stream, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Channel, Server, server::TcpIncoming};
use tonic::{Code, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower::{Layer as _, ServiceBuilder};

fn context() -> Context {
    Context {
        gtid: "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("a gtid"),
        coordinator: "http://coordinator-1:7420".into(),
        deadline_unix_ms: Some(200_000_000_000_000),
        epoch: None,
    }
}

/// The context's headers as a client writes them.
fn header_lines(context: &Context) -> String {
    let mut headers = HeaderMap::new();
    context.write(&mut headers).expect("a fit context");
    let line = |(name, value): (_, &http::HeaderValue)| format!("{name}: {}\r\n", value.to_str().expect("a text"));
    headers.iter().map(line).collect()
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// Serves until the test's runtime ends.
async fn serve_http(app: Router) -> SocketAddr {
    let (listener, address) = listener().await;
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

/// Sends a request of these header lines, byte by byte as they are, and reads what comes back.
async fn http_bytes(server: SocketAddr, path: &str, header_lines: &[u8]) -> Vec<u8> {
    let mut connection = TcpStream::connect(server).await.expect("a connection");
    let mut request = format!("POST {path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n").into_bytes();
    request.extend_from_slice(header_lines);
    request.extend_from_slice(b"content-length: 0\r\n\r\n");
    let mut answer = Vec::new();
    // A server that finds the headers too large hangs up before it has read them, and then either
    // may fail.
    let _ = connection.write_all(&request).await;
    let _ = connection.read_to_end(&mut answer).await;
    answer
}

/// Status, head and body of an answer.
async fn http(server: SocketAddr, path: &str, header_lines: impl AsRef<[u8]>) -> (u16, String, String) {
    let answer = http_bytes(server, path, header_lines.as_ref()).await;
    let answer = String::from_utf8(answer).expect("a text");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer, but {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), head.to_owned(), body.to_owned())
}

/// A gRPC service that notes which context each of its calls came in, by every way that a service
/// can ask.
#[derive(Clone, Default)]
struct Noting {
    seen: Arc<Mutex<Vec<Option<Context>>>>,
    /// The headers of the last call, as they came over the wire.
    headers: Arc<Mutex<HeaderMap>>,
}

impl Noting {
    fn note(&self, context: Option<Context>) {
        self.seen.lock().expect("no panic").push(context);
    }

    fn take(&self) -> Vec<Option<Context>> {
        std::mem::take(&mut self.seen.lock().expect("no panic"))
    }

    fn headers(&self) -> HeaderMap {
        self.headers.lock().expect("no panic").clone()
    }
}

#[tonic::async_trait]
impl Health for Noting {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        *self.headers.lock().expect("no panic") = request.metadata().as_ref().clone();
        self.note(context_of(&request)?);
        self.note(current());
        Ok(tonic::Response::new(HealthCheckResponse::default()))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        self.note(Some(required_context_of(&request)?));
        let noting = self.clone();
        // Runs when the method has returned.
        let stream = futures::stream::iter([(), ()]).map(move |()| {
            noting.note(current());
            Ok(HealthCheckResponse::default())
        });
        Ok(tonic::Response::new(Box::pin(stream)))
    }
}

/// A server of the noting service, with the layer for all services.
async fn serve_grpc() -> (Noting, SocketAddr) {
    let noting = Noting::default();
    let (listener, address) = listener().await;
    let server = Server::builder().layer(ContextLayer::new()).add_service(HealthServer::new(noting.clone()));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    (noting, address)
}

async fn channel(server: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{server}")).expect("an address").connect().await.expect("a connection")
}

type Carrying = HealthClient<client::ContextService<Channel>>;

/// A client that carries the context.
async fn carrying(server: SocketAddr) -> Carrying {
    let layers = ServiceBuilder::new().layer(client::ContextLayer::new());
    HealthClient::new(layers.service(channel(server).await))
}

fn check() -> HealthCheckRequest {
    HealthCheckRequest::default()
}

#[tokio::test]
async fn a_call_over_http_is_in_the_transaction_of_its_caller() {
    let layered = async |InTransaction(context): InTransaction| {
        assert_eq!(current(), Some(context.clone()));
        context.gtid.to_string()
    };
    let optional = async |transaction: Option<InTransaction>| transaction.is_some().to_string();
    let app = Router::new().route("/in", post(layered)).route("/optional", post(optional)).layer(ContextLayer::new());
    let server = serve_http(app).await;

    let (status, _, body) = http(server, "/in", header_lines(&context())).await;
    assert_eq!((status, body), (200, context().gtid.to_string()));
    let (status, _, body) = http(server, "/optional", header_lines(&context())).await;
    assert_eq!((status, body.as_str()), (200, "true"));
    let (status, _, body) = http(server, "/optional", "").await;
    assert_eq!((status, body.as_str()), (200, "false"));
    // Header names have no case.
    let (status, _, body) = http(server, "/optional", header_lines(&context()).replace("assent", "ASSENT")).await;
    assert_eq!((status, body.as_str()), (200, "true"));
}

#[tokio::test]
async fn a_call_over_http_with_an_unusable_context_is_told_what_is_wrong() {
    let called = Arc::new(Mutex::new(0));
    let counted = async |State(called): State<Arc<Mutex<u32>>>, _: InTransaction| {
        *called.lock().expect("no panic") += 1;
    };
    let app = Router::new().route("/", post(counted)).layer(ContextLayer::new()).with_state(called.clone());
    let server = serve_http(app).await;

    let good = header_lines(&context());
    let past = Context { deadline_unix_ms: Some(1_000), ..context() };
    let unusable: &[(Vec<u8>, u16, &str)] = &[
        (Vec::new(), 400, "only done in a transaction"),
        (b"assent-gtid: 42\r\n".to_vec(), 400, "header assent-gtid cannot be"),
        (format!("{good}assent-gtid: another\r\n").into(), 400, "is given 2 times"),
        (good.replace("http://", "ftp://").into(), 400, "header assent-coordinator cannot be"),
        (format!("assent-gtid: {}\r\n", context().gtid).into(), 400, "assent-coordinator is missing"),
        (good.replace("200000000000000", "soon").into(), 400, "header assent-deadline cannot be"),
        (header_lines(&past).into(), 504, "passed its deadline"),
        ([b"assent-gtid: \xff\x80<script>\r\n".as_slice(), good.as_bytes()].concat(), 400, "is given 2 times"),
        (b"assent-gtid: \xff\x80<script>\r\n".to_vec(), 400, "header assent-gtid cannot be"),
        (format!("assent-gtid: {}\r\n", "x".repeat(100_000)).into(), 400, "header assent-gtid cannot be"),
    ];
    for (header_lines, status, told) in unusable {
        let (answered, head, body) = http(server, "/", header_lines).await;
        assert_eq!(answered, *status, "{body}");
        assert!(head.contains("content-type: application/problem+json"), "{head}");
        let problem: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(problem["domain"], "assent");
        let detail = problem["detail"].as_str().expect("a text");
        assert!(detail.contains(told) && detail.len() < 600, "{detail}");
    }
    // More than the server itself takes: it goes on.
    let flood = format!("assent-gtid: {}\r\n", "x".repeat(4_000_000));
    http_bytes(server, "/", flood.as_bytes()).await;

    assert_eq!(*called.lock().expect("no panic"), 0);
    assert_eq!(http(server, "/", good).await.0, 200);
    assert_eq!(*called.lock().expect("no panic"), 1);
}

#[tokio::test]
async fn a_call_over_grpc_is_in_the_transaction_of_its_caller() {
    let (noting, server) = serve_grpc().await;
    let mut carrying = carrying(server).await;

    with_context(context(), carrying.check(check())).await.expect("an answer");
    assert_eq!(noting.take(), [Some(context()), Some(context())]);
    carrying.check(check()).await.expect("an answer");
    assert_eq!(noting.take(), [None, None]);

    // Given for one call.
    let mut request = tonic::Request::new(check());
    request.extensions_mut().insert(context());
    carrying.check(request).await.expect("an answer");
    assert_eq!(noting.take(), [Some(context()), Some(context())]);

    // While the answer streams, too.
    let stream = with_context(context(), carrying.watch(check())).await.expect("an answer");
    assert_eq!(stream.into_inner().count().await, 2);
    assert_eq!(noting.take(), [Some(context()), Some(context()), Some(context())]);
    let absent = carrying.watch(check()).await.expect_err("a refusal");
    assert_eq!(absent.code(), Code::InvalidArgument);

    let mut intercepted = HealthClient::with_interceptor(channel(server).await, client::intercept);
    with_context(context(), intercepted.check(check())).await.expect("an answer");
    assert_eq!(noting.take(), [Some(context()), Some(context())]);
}

#[tokio::test]
async fn a_call_over_grpc_with_an_unusable_context_is_told_what_is_wrong() {
    let (noting, server) = serve_grpc().await;
    let mut plain = HealthClient::new(channel(server).await);
    let mut answer_to = async |header: &'static str, value: &str| {
        let mut request = tonic::Request::new(check());
        context().write(request.metadata_mut().as_mut()).expect("a fit context");
        request.metadata_mut().insert(header, value.parse().expect("a header value"));
        plain.check(request).await
    };

    for (header, value, code, reason) in [
        ("assent-gtid", "42", Code::InvalidArgument, "MALFORMED"),
        ("assent-coordinator", "two words", Code::InvalidArgument, "MALFORMED"),
        ("assent-deadline", "-1", Code::InvalidArgument, "MALFORMED"),
        ("assent-deadline", "1", Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
    ] {
        let status = answer_to(header, value).await.expect_err("a refusal");
        assert_eq!(status.code(), code, "{status}");
        assert_eq!(refusal_of(&status).expect("a reason").reason, reason);
    }
    // More than the server itself takes: whatever it says, it says so to this call, and goes on.
    answer_to("assent-gtid", &"x".repeat(100_000)).await.expect_err("a refusal");
    assert_eq!(noting.take(), []);
    answer_to("assent-deadline", "200000000000000").await.expect("an answer");
    assert_eq!(noting.take().len(), 2);
}

#[tokio::test]
async fn one_service_of_a_server_can_have_the_layer() {
    let noting = Noting::default();
    let (listener, server) = listener().await;
    let service = ContextLayer::new().layer(HealthServer::new(noting.clone()));
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener)));
    with_context(context(), carrying(server).await.check(check())).await.expect("an answer");
    assert_eq!(noting.take(), [Some(context()), Some(context())]);
}

/// Calls a service of its own and one of somebody else's.
#[derive(Clone)]
struct Shop {
    bank: Carrying,
    third_party: HealthClient<Channel>,
}

#[tokio::test]
async fn a_transaction_goes_through_services_and_never_to_third_parties() {
    let (bank, bank_address) = serve_grpc().await;
    let (third_party, third_party_address) = serve_grpc().await;
    let order = async |State(mut shop): State<Shop>| {
        shop.bank.check(check()).await.expect("an answer");
        shop.third_party.check(check()).await.expect("an answer");
        // What is spawned takes the context along, where it is told to.
        let mut bank = shop.bank.clone();
        let spawned = tokio::spawn(with_context(current(), async move { bank.check(check()).await }));
        spawned.await.expect("no panic").expect("an answer");
    };
    let shop =
        Shop { bank: carrying(bank_address).await, third_party: HealthClient::new(channel(third_party_address).await) };
    let app = Router::new().route("/order", post(order)).layer(ContextLayer::new()).with_state(shop);
    let server = serve_http(app).await;

    let (status, _, _) = http(server, "/order", header_lines(&context())).await;
    assert_eq!(status, 200);
    assert_eq!(bank.take(), [const { Some(()) }; 4].map(|_| Some(context())));
    assert_eq!(third_party.take(), [None, None]);

    let gtid = context().gtid.to_string();
    let reached_with = |headers: HeaderMap| -> Vec<String> {
        let with_gtid =
            headers.iter().filter(|(_, value)| value.as_bytes().windows(gtid.len()).any(|w| w == gtid.as_bytes()));
        with_gtid.map(|(name, _)| name.to_string()).collect()
    };
    assert_eq!(reached_with(bank.headers()), ["assent-gtid"]);
    assert!(!bank.headers().contains_key("baggage"));
    assert_eq!(reached_with(third_party.headers()), [] as [&str; 0]);
}

#[tokio::test]
async fn a_hundred_calls_at_once_keep_their_contexts_apart() {
    let (_, bank_address) = serve_grpc().await;
    let order = async |State(mut bank): State<Carrying>, InTransaction(context): InTransaction| {
        for _ in 0..5 {
            bank.check(check()).await.expect("an answer");
            assert_eq!(current(), Some(context.clone()));
        }
        context.gtid.to_string()
    };
    let state = carrying(bank_address).await;
    let app = Router::new().route("/order", post(order)).layer(ContextLayer::new()).with_state(state);
    let server = serve_http(app).await;
    let calls = (0..100).map(async |_| {
        let context = Context { gtid: uuid::Uuid::now_v7().try_into().expect("a gtid"), ..context() };
        let (status, _, body) = http(server, "/order", header_lines(&context)).await;
        assert_eq!((status, body), (200, context.gtid.to_string()));
    });
    futures::future::join_all(calls).await;
}

#[tokio::test]
async fn a_proxy_passes_the_context_on_as_it_is() {
    let (bank, bank_address) = serve_grpc().await;
    let (listener, proxy_address) = listener().await;
    let upstream = carrying(bank_address).await;
    // Its handler knows nothing of transactions.
    let forwarding = ContextLayer::new().layer(HealthServer::new(Forwarding { upstream }));
    tokio::spawn(Server::builder().add_service(forwarding).serve_with_incoming(TcpIncoming::from(listener)));
    with_context(context(), carrying(proxy_address).await.check(check())).await.expect("an answer");
    assert_eq!(bank.take(), [Some(context()), Some(context())]);
}

/// A service in the middle.
struct Forwarding {
    upstream: Carrying,
}

#[tonic::async_trait]
impl Health for Forwarding {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        self.upstream.clone().check(request.into_inner()).await
    }

    type WatchStream = tonic::Streaming<HealthCheckResponse>;

    async fn watch(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        self.upstream.clone().watch(request.into_inner()).await
    }
}

#[tokio::test]
async fn what_the_layer_lets_through_is_answered_as_without_it() {
    let app = Router::new().route("/", get(async || StatusCode::OK));
    let app = app.fallback(async |_: Request| (StatusCode::NOT_FOUND, "no such page"));
    let server = serve_http(app.layer(ContextLayer::new())).await;
    let (status, _, body) = http(server, "/nowhere", header_lines(&context())).await;
    assert_eq!((status, body.as_str()), (404, "no such page"));
}
