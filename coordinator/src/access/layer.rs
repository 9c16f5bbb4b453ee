//! The tower layer that every request passes before its body is read.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use assent_proto::error::{IntoStatus, Reason, ReasonStatus};
use assent_transport::PeerInfo;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::{Access, Act, Caller, Gate, Need, rules};

/// Makes callers known, and refuses those that may not.
#[derive(Clone, Debug)]
pub(crate) struct AccessLayer {
    access: Arc<Access>,
}

impl AccessLayer {
    pub(crate) fn new(access: Arc<Access>) -> Self {
        Self { access }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = AccessService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AccessService { inner, access: Arc::clone(&self.access) }
    }
}

/// See [`AccessLayer`].
#[derive(Clone, Debug)]
pub(crate) struct AccessService<S> {
    inner: S,
    access: Arc<Access>,
}

impl<S> Service<Request<Body>> for AccessService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that is ready is the one that is called.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let access = Arc::clone(&self.access);
        Box::pin(async move {
            match admit(&access, request).await {
                Ok(request) => inner.call(request).await,
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

async fn admit(access: &Access, mut request: Request<Body>) -> Result<Request<Body>, Status> {
    let peer = request.extensions().get::<PeerInfo>().cloned();
    if let Some(peer) = &peer {
        peer.spoke();
    }
    let Some(need) = rules::of_path(request.uri().path()) else {
        return Err(Status::unimplemented(
            "this coordinator has no such method; use client and coordinator of the same version",
        ));
    };
    let token = request.headers().get(http::header::AUTHORIZATION).and_then(|header| token_of(header.as_bytes()));
    let token = token.map(<[u8]>::to_vec);
    let known = access.identify(peer.as_ref(), token.as_deref()).await;
    match (known, need) {
        (Ok(caller), _) => {
            let path = request.uri().path();
            if let Err(refused) = caller.meets(need) {
                let act = Act { rpc: path, right: need.as_str(), gtid: None };
                return Err(access.denied(&caller, act, refused).into_status());
            }
            access.served(&caller, path, need);
            // A session without authentication is known by its Hello.
            if let Some(peer) = peer.as_ref().filter(|_| need != Need::Hello || access.is_asked_for()) {
                peer.admit();
            }
            let is_session = need == Need::Hello;
            request.extensions_mut().insert(caller);
            Ok(if is_session { guarded(request, peer.as_ref())? } else { request })
        }
        // A session may show its token in its Hello. One that showed a wrong one here has had its chance.
        (Err(_), Need::Hello) if token.is_none() => guarded(request, peer.as_ref()),
        (Err(_), Need::Nothing) => guarded(request, peer.as_ref()),
        (Err(unknown), _) => {
            // What it has sent must not wait in memory with it.
            drop(request);
            Err(access.refuse(peer.as_ref(), &unknown).await.into_status())
        }
    }
}

/// With a body that announces no long message before its caller is known.
fn guarded(mut request: Request<Body>, peer: Option<&PeerInfo>) -> Result<Request<Body>, Status> {
    if let Some(peer) = peer {
        let Some(greeting) = peer.greet() else {
            return Err(Reason::Overloaded
                .status("this connection has too many requests whose caller is not known; say Hello on those first"));
        };
        request.extensions_mut().insert(Arc::new(greeting));
    }
    let gate = Gate::default();
    let (mut parts, body) = request.into_parts();
    let body = gate.guard(body);
    parts.extensions.insert(gate);
    Ok(Request::from_parts(parts, body))
}

/// The token of an `authorization` header, whose scheme has no case.
pub(super) fn token_of(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// The caller of a request that has passed.
pub(crate) fn caller_of<T>(request: &tonic::Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| {
        Reason::Unauthenticated.status("this call came past the authentication; this is a defect, please report it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_from_its_header() {
        assert_eq!(token_of(b"Bearer hush"), Some(&b"hush"[..]));
        assert_eq!(token_of(b"bearer  hush "), Some(&b"hush"[..]));
        for other in [&b""[..], b"hush", b"Bearer", b"Basic aHVzaA=="] {
            assert_eq!(token_of(other), None);
        }
    }
}
