use std::convert::Infallible;

use http::{HeaderMap, HeaderValue, Request, Response};
use tonic::{Code, Status};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::participant::BoxError;
use crate::propagation::tests::{context, headers_of};
use crate::propagation::{Context, GTID_HEADER, InvalidContext, with_context};

/// The headers that a call is sent with.
async fn sent(request: Request<()>) -> Result<HeaderMap, BoxError> {
    let peer = service_fn(async |request: Request<()>| {
        let mut response = Response::new(());
        *response.headers_mut() = request.headers().clone();
        Ok::<_, Infallible>(response)
    });
    let response = ContextLayer::new().layer(peer).oneshot(request).await?;
    Ok(response.headers().clone())
}

fn other() -> Context {
    Context { coordinator: "other:7420".into(), ..context() }
}

/// Whose coordinator is no address.
fn unfit() -> Context {
    Context { coordinator: "no address".into(), ..context() }
}

#[tokio::test]
async fn a_call_carries_the_current_context_and_nothing_else() {
    assert_eq!(sent(Request::new(())).await.expect("sent"), HeaderMap::new());
    let headers = with_context(context(), sent(Request::new(()))).await.expect("sent");
    assert_eq!(headers, headers_of(&context()));
    // In the three headers and nowhere else: baggage would take it to third parties.
    assert_eq!(headers.len(), 3);
    let headers = with_context(context(), with_context(None, sent(Request::new(())))).await.expect("sent");
    assert_eq!(headers, HeaderMap::new());
}

#[tokio::test]
async fn what_is_given_for_the_call_comes_before_what_is_current() {
    let mut request = Request::new(());
    *request.headers_mut() = headers_of(&other());
    let headers = with_context(context(), sent(request.clone())).await.expect("sent");
    assert_eq!(headers, headers_of(&other()));

    request.extensions_mut().insert(context());
    let headers = with_context(unfit(), sent(request)).await.expect("sent");
    assert_eq!(headers, headers_of(&context()));
}

#[tokio::test]
async fn a_call_whose_context_cannot_be_written_is_not_sent() {
    let mut request = Request::new(());
    let error = with_context(unfit(), sent(request.clone())).await.expect_err("unfit");
    assert!(error.is::<InvalidContext>(), "{error}");

    let grpc = HeaderValue::from_static("application/grpc");
    request.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    let error = with_context(unfit(), sent(request)).await.expect_err("unfit");
    let status = Status::from_error(error);
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("header assent-coordinator cannot be \"no address\""), "{status}");
}

#[tokio::test]
async fn the_clients_own_error_can_be_told() {
    #[derive(Debug, PartialEq, thiserror::Error)]
    #[error("broken pipe")]
    struct Broken;

    let broken = service_fn(async |_: Request<()>| Err::<Response<()>, _>(Broken));
    let error = ContextLayer::new().layer(broken).oneshot(Request::new(())).await.expect_err("broken");
    assert_eq!(error.downcast_ref(), Some(&Broken));
}

#[tokio::test]
async fn an_interceptor_and_bare_headers_carry_the_same() {
    let mut headers = HeaderMap::new();
    apply_current(&mut headers).expect("nothing to write");
    assert_eq!(headers, HeaderMap::new());
    with_context(context(), async {
        apply_current(&mut headers).expect("a fit context");
        let request = intercept(tonic::Request::new(())).expect("a fit context");
        assert_eq!(request.metadata().as_ref(), &headers);

        let mut request = tonic::Request::new(());
        request.extensions_mut().insert(other());
        let request = intercept(request).expect("a fit context");
        assert_eq!(request.metadata().as_ref(), &headers_of(&other()));
    })
    .await;
    assert_eq!(headers, headers_of(&context()));

    with_context(unfit(), async {
        let mut headers = HeaderMap::new();
        assert_eq!(intercept(tonic::Request::new(())).expect_err("unfit").code(), Code::InvalidArgument);
        apply_current(&mut headers).expect_err("unfit");
        assert!(!headers.contains_key(GTID_HEADER));
    })
    .await;
}
