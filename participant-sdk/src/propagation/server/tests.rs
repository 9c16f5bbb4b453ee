use std::convert::Infallible;

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Body as _;
use tonic::{Code, Status};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::propagation::tests::{context, headers_of};
use crate::propagation::{COORDINATOR_HEADER, Context, DEADLINE_HEADER, GTID_HEADER, current};

/// What a handler saw, in the order of the call: the extension, the current context in `call`, in the future, and in
/// the body.
type Seen = [Option<Context>; 4];

/// A body that says what the current context is while it streams.
struct Streaming;

impl http_body::Body for Streaming {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _task: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let gtid = current().map_or_else(String::new, |context| context.gtid.to_string());
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(gtid.into()))))
    }
}

async fn seen_by_a_handler(request: Request<()>) -> Seen {
    let in_parts = std::sync::Mutex::new((None, None, None));
    let handler = service_fn(|request: Request<()>| {
        let in_call = current();
        let in_parts = &in_parts;
        async move {
            let in_extensions = request.extensions().get::<Context>().cloned();
            *in_parts.lock().expect("no panic") = (in_extensions, in_call, current());
            Ok::<_, Infallible>(Response::new(Streaming))
        }
    });
    let response = ContextLayer::new().layer(handler).oneshot(request).await.expect("an answer");
    let mut body = Box::pin(response.into_body());
    let frame =
        std::future::poll_fn(|task| body.as_mut().poll_frame(task)).await.expect("a frame").expect("infallible");
    let in_body = !frame.into_data().expect("data").is_empty();
    let (in_extensions, in_call, in_future) = in_parts.into_inner().expect("no panic");
    [in_extensions, in_call, in_future, in_body.then(context)]
}

fn request_with(context: &Context) -> Request<()> {
    let mut request = Request::new(());
    *request.headers_mut() = headers_of(context);
    request
}

/// What a call is answered whose handler must not be reached.
async fn refused(request: Request<()>) -> (http::response::Parts, Bytes) {
    let unreachable =
        service_fn(async |_: Request<()>| -> Result<Response<Body>, Infallible> { panic!("the handler was called") });
    let response = ContextLayer::new().layer(unreachable).oneshot(request).await.expect("an answer");
    let (parts, body) = response.into_parts();
    assert_eq!(body.is_end_stream(), body.size_hint().exact() == Some(0));
    (parts, to_bytes(Body::new(body), 10_000).await.expect("a body"))
}

/// What the client of a refused gRPC call sees.
async fn refused_grpc(mut request: Request<()>) -> Status {
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let (parts, body) = refused(request).await;
    assert_eq!((parts.status.as_u16(), body.len()), (200, 0));
    assert_eq!(parts.headers[CONTENT_TYPE], "application/grpc");
    Status::from_header_map(&parts.headers).expect("a status")
}

#[tokio::test]
async fn a_handler_works_in_the_transaction_of_its_call() {
    assert_eq!(seen_by_a_handler(request_with(&context())).await, [const { Some(()) }; 4].map(|_| Some(context())));
    assert_eq!(current(), None);
}

#[tokio::test]
async fn a_call_without_a_context_is_in_no_transaction() {
    assert_eq!(seen_by_a_handler(Request::new(())).await, [const { None }; 4]);
    // Not in that of a task which calls the service in its own process, either.
    let called = crate::propagation::with_context(context(), seen_by_a_handler(Request::new(())));
    assert_eq!(called.await, [const { None }; 4]);
}

#[tokio::test]
async fn a_malformed_context_does_not_reach_the_handler() {
    for (header, value) in [
        (GTID_HEADER, "42"),
        (GTID_HEADER, "f47ac10b-58cc-4372-a567-0e02b2c3d479"),
        (GTID_HEADER, ""),
        (COORDINATOR_HEADER, "http://user:secret@host"),
        (DEADLINE_HEADER, "-1"),
        (DEADLINE_HEADER, "soon"),
    ] {
        let request = || {
            let mut request = request_with(&context());
            request.headers_mut().insert(header.clone(), HeaderValue::from_static(value));
            request
        };
        let (parts, body) = refused(request()).await;
        assert_eq!(parts.status, 400);
        assert_eq!(parts.headers[CONTENT_TYPE], "application/problem+json");
        let problem: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let detail = problem["detail"].as_str().expect("a text");
        assert!(detail.contains(header.as_str()) && detail.contains("; it is "), "{detail}");

        let status = refused_grpc(request()).await;
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, detail));
    }
}

#[tokio::test]
async fn a_transaction_past_its_deadline_does_not_reach_the_handler() {
    let past = Context { deadline_unix_ms: Some(1_000), ..context() };
    let (parts, body) = refused(request_with(&past)).await;
    assert_eq!(parts.status, 504);
    let problem: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(problem["reason"], "DEADLINE_EXCEEDED");
    let status = refused_grpc(request_with(&past)).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("passed its deadline"), "{}", status.message());

    let passed_on = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(Body::empty())));
    let patient = ContextLayer::new().clock_skew_max(std::time::Duration::MAX);
    let response = patient.layer(passed_on).oneshot(request_with(&past)).await.expect("an answer");
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn hostile_headers_get_a_short_and_clean_answer() {
    for header in [GTID_HEADER, COORDINATOR_HEADER, DEADLINE_HEADER] {
        for value in [vec![b'x'; 1_000_000], vec![0xff; 100_000], b"\xc3\x28\t\x80<script>\"\\".to_vec()] {
            let mut request = request_with(&context());
            request.headers_mut().insert(header.clone(), HeaderValue::from_bytes(&value).expect("a header value"));
            let (parts, body) = refused(request.clone()).await;
            assert_eq!(parts.status, 400);
            assert!(body.len() < 2_000, "{} bytes", body.len());
            assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok());
            let status = refused_grpc(request).await;
            assert!(status.message().len() < 1_100 && !status.message().contains(char::is_control), "{status}");
        }
    }
}

#[tokio::test]
async fn what_is_not_the_contexts_is_passed_on_as_it_is() {
    let custom = HeaderName::from_static("baggage");
    let echo = service_fn(async |request: Request<&'static str>| {
        let (parts, body) = request.into_parts();
        let mut response = Response::new(Body::from(body));
        *response.headers_mut() = parts.headers;
        *response.status_mut() = http::StatusCode::IM_A_TEAPOT;
        Ok::<_, Infallible>(response)
    });
    let mut request = Request::new("body");
    *request.headers_mut() = headers_of(&context());
    request.headers_mut().insert(custom.clone(), HeaderValue::from_static("a=b"));
    let response = ContextLayer::new().layer(echo).oneshot(request).await.expect("an answer");
    assert_eq!((response.status().as_u16(), &response.headers()[custom]), (418, &HeaderValue::from_static("a=b")));
    assert_eq!(response.body().size_hint().exact(), Some(4));
    assert_eq!(to_bytes(Body::new(response.into_body()), 10).await.expect("a body"), "body");
}

#[tokio::test]
async fn the_handlers_own_failure_stays_its_own() {
    let failing = service_fn(async |_: Request<()>| Err::<Response<Body>, _>("out of order"));
    let mut service = ContextLayer::new().layer(failing);
    assert_eq!(service.call(request_with(&context())).await.expect_err("an error"), "out of order");
}

#[test]
fn tonic_requests_tell_their_context_with_and_without_the_layer() {
    let mut request = tonic::Request::new(());
    assert_eq!(context_of(&request).expect("no context"), None);
    let absent = required_context_of(&request).expect_err("no context");
    assert_eq!(absent.code(), Code::InvalidArgument);
    assert!(absent.message().contains("only done in a transaction"), "{absent}");

    *request.metadata_mut().as_mut() = headers_of(&context());
    assert_eq!(context_of(&request).expect("a context"), Some(context()));
    assert_eq!(required_context_of(&request).expect("a context"), context());

    request.metadata_mut().insert("assent-deadline", "1".parse().expect("a value"));
    assert_eq!(context_of(&request).expect_err("past").code(), Code::DeadlineExceeded);
    request.metadata_mut().insert("assent-deadline", "soon".parse().expect("a value"));
    assert_eq!(context_of(&request).expect_err("malformed").code(), Code::InvalidArgument);

    // The layer's word counts: it may have been told to be more patient.
    request.extensions_mut().insert(context());
    assert_eq!(context_of(&request).expect("a context"), Some(context()));
}

mod with_axum {
    use axum::Router;
    use axum::routing::get;

    use super::*;

    fn app() -> Router {
        let required = async |InTransaction(context): InTransaction| context.gtid.to_string();
        let optional = async |transaction: Option<InTransaction>| transaction.is_some().to_string();
        Router::new().route("/required", get(required)).route("/optional", get(optional))
    }

    async fn answer(app: Router, path: &str, context: Option<Context>) -> (u16, String) {
        let mut request = Request::builder().uri(path).body(Body::empty()).expect("a request");
        if let Some(context) = context {
            *request.headers_mut() = headers_of(&context);
        }
        let response = app.oneshot(request).await.expect("an answer");
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 10_000).await.expect("a body");
        (status, String::from_utf8(body.into()).expect("a text"))
    }

    #[tokio::test]
    async fn an_extractor_gives_the_context_with_and_without_the_layer() {
        for app in [app(), app().layer(ContextLayer::new())] {
            let gtid = context().gtid.to_string();
            assert_eq!(answer(app.clone(), "/required", Some(context())).await, (200, gtid));
            assert_eq!(answer(app.clone(), "/optional", Some(context())).await, (200, "true".into()));
            assert_eq!(answer(app.clone(), "/optional", None).await, (200, "false".into()));

            let (status, body) = answer(app.clone(), "/required", None).await;
            assert_eq!(status, 400);
            assert!(body.contains("assent-gtid and assent-coordinator"), "{body}");

            let past = Context { deadline_unix_ms: Some(1), ..context() };
            for path in ["/required", "/optional"] {
                assert_eq!(answer(app.clone(), path, Some(past.clone())).await.0, 504);
            }
        }
    }
}
