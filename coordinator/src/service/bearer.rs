//! The token that calls must carry, where one is configured.

use assent_proto::error::{Reason, ReasonStatus};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::config::Secret;

/// Lets only those through who show the token.
#[derive(Clone, Debug)]
pub(crate) struct Bearer {
    token: Option<Secret>,
}

impl Bearer {
    /// Asks for this token, or for none.
    pub(crate) fn new(token: Option<Secret>) -> Self {
        Self { token }
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(token) = &self.token else { return Ok(request) };
        let given = request.metadata().get("authorization").map(|value| value.as_bytes());
        match given.and_then(token_of) {
            Some(given) if token.is(given) => Ok(request),
            Some(_) => Err(Reason::Unauthenticated.status("the token is wrong; give the coordinator's")),
            None => Err(Reason::Unauthenticated
                .status("this coordinator asks for a token: send the header `authorization: Bearer TOKEN`")),
        }
    }
}

/// The token in a header; the scheme's name counts in any case (RFC 9110).
fn token_of(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(token: Option<&str>, header: Option<&str>) -> Result<(), Status> {
        let mut request = Request::new(());
        if let Some(header) = header {
            request.metadata_mut().insert("authorization", header.parse().expect("a header"));
        }
        Bearer::new(token.map(Secret::from)).call(request).map(|_| ())
    }

    #[test]
    fn only_the_token_opens() {
        assert!(call(None, None).is_ok());
        assert!(call(Some("hush"), Some("Bearer hush")).is_ok());
        assert!(call(Some("hush"), Some("bearer hush ")).is_ok());
        for header in
            [None, Some("hush"), Some("Bearer"), Some("Bearer husk"), Some("Bearer hushh"), Some("Basic hush")]
        {
            let status = call(Some("hush"), header).expect_err("refused");
            assert_eq!(status.code(), tonic::Code::Unauthenticated);
            assert!(!status.message().contains("hush"), "{status}");
        }
    }
}
