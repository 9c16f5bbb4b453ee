//! Calls that are refused because of their context, in the words of gRPC and of HTTP.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use assent_proto::error::{IntoStatus, Reason};
use assent_proto::session::{Code, Refused};
use assent_protocol::{AbortCode, Gtid};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use tonic::Status;

use super::problem::problem;
use super::{Context, InvalidContext};

/// How far a deadline may be past by this machine's clock before a call is refused for it, unless set otherwise.
///
/// The deadline was set by the coordinator's clock. Refusing is a courtesy that saves work for a transaction that will
/// not commit; the coordinator judges when the branch enlists. So it must not hit the living where clocks differ, and
/// machines whose clocks are looked after differ by less than this.
pub(super) const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5);

/// A call that a service refuses because of its transaction context. Nothing was done.
///
/// It turns into an answer that the caller's protocol knows:
///
/// | | gRPC | HTTP |
/// |---|---|---|
/// | [`Invalid`](Self::Invalid), [`Absent`](Self::Absent) | INVALID_ARGUMENT, `MALFORMED` | 400 |
/// | [`PastDeadline`](Self::PastDeadline) | DEADLINE_EXCEEDED, `DEADLINE_EXCEEDED` | 504 |
///
/// The second word is the reason in `google.rpc.ErrorInfo`, in domain `assent`. Over HTTP the body is a problem
/// document (RFC 9457) with that `reason` and `domain`.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallRefused {
    /// Its headers cannot be followed.
    #[error(transparent)]
    Invalid(#[from] InvalidContext),
    /// The transaction has ended by itself.
    #[error(
        "transaction {gtid} passed its deadline {past_ms} ms ago by this machine's clock, and aborts by itself: begin a new \
         one with a longer timeout, and if this one was begun just now, compare the machines' clocks"
    )]
    PastDeadline {
        /// Which.
        gtid: Gtid,
        /// How long ago, in milliseconds.
        past_ms: u64,
    },
    /// It has no context, and what it asks for is only done in a transaction.
    #[error(
        "this is only done in a transaction, and the call carries none: send the headers assent-gtid and assent-coordinator, \
         which the SDK's propagation::client::ContextLayer writes"
    )]
    Absent,
}

crate::error_chain::debug_as_chain!(CallRefused);

impl CallRefused {
    /// The status of an answer over HTTP.
    pub const fn http_status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) | Self::Absent => StatusCode::BAD_REQUEST,
            // What google.rpc.Code and the gateways that follow it make of DEADLINE_EXCEEDED.
            Self::PastDeadline { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    pub(super) fn refused(&self) -> Refused {
        match self {
            Self::Invalid(_) | Self::Absent => Reason::Malformed.refused(self.to_string()),
            Self::PastDeadline { .. } => Refused {
                code: Code::DeadlineExceeded,
                reason: AbortCode::DeadlineExceeded.as_str().into(),
                message: self.to_string(),
                retry_after_ms: None,
            },
        }
    }

    /// The answer to a call over plain HTTP.
    pub(super) fn to_http(&self) -> Response<Bytes> {
        problem(&self.refused(), self.http_status())
    }
}

impl From<CallRefused> for Status {
    fn from(refused: CallRefused) -> Self {
        refused.refused().into_status()
    }
}

/// The context of a call that has just come in.
pub(super) fn admit(headers: &HeaderMap, clock_skew_max: Duration) -> Result<Option<Context>, CallRefused> {
    let context = Context::read(headers)?;
    if let Some(Context { gtid, deadline_unix_ms: Some(deadline_unix_ms), .. }) = &context {
        check_deadline(*gtid, *deadline_unix_ms, clock_skew_max, now_unix_ms())?;
    }
    Ok(context)
}

fn check_deadline(
    gtid: Gtid,
    deadline_unix_ms: u64,
    clock_skew_max: Duration,
    now_unix_ms: u64,
) -> Result<(), CallRefused> {
    let past_ms = now_unix_ms.saturating_sub(deadline_unix_ms);
    if u128::from(past_ms) > clock_skew_max.as_millis() {
        return Err(CallRefused::PastDeadline { gtid, past_ms });
    }
    Ok(())
}

fn now_unix_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// Whether a call is gRPC's, in any of its encodings: its caller then looks for the status in headers, and not in a
/// body.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let Some(content_type) = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes) else { return false };
    content_type.split_at_checked(GRPC.len()).is_some_and(|(beginning, rest)| {
        beginning.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';' | b'-' | b' '))
    })
}

#[cfg(test)]
mod tests {
    use assent_proto::error::refusal_of;
    use tonic::Code;

    use super::*;
    use crate::propagation::tests::{context, headers_of};

    #[test]
    fn a_deadline_is_past_only_beyond_what_clocks_differ() {
        let gtid = context().gtid;
        let skew = Duration::from_millis(100);
        assert_eq!(check_deadline(gtid, 1_000, skew, 0), Ok(()));
        assert_eq!(check_deadline(gtid, 1_000, skew, 1_100), Ok(()));
        assert_eq!(check_deadline(gtid, 1_000, skew, 1_101), Err(CallRefused::PastDeadline { gtid, past_ms: 101 }));
        assert_eq!(check_deadline(gtid, 0, Duration::MAX, u64::MAX), Ok(()));
    }

    #[test]
    fn a_call_is_admitted_with_its_context_or_with_none() {
        assert_eq!(admit(&HeaderMap::new(), CLOCK_SKEW_MAX), Ok(None));
        assert_eq!(admit(&headers_of(&context()), CLOCK_SKEW_MAX), Ok(Some(context())));
        let soon = Context { deadline_unix_ms: Some(now_unix_ms()), ..context() };
        assert_eq!(admit(&headers_of(&soon), CLOCK_SKEW_MAX), Ok(Some(soon)));
        let endless = Context { deadline_unix_ms: None, ..context() };
        assert_eq!(admit(&headers_of(&endless), CLOCK_SKEW_MAX), Ok(Some(endless)));
        let past = Context { deadline_unix_ms: Some(1), ..context() };
        assert!(matches!(
            admit(&headers_of(&past), CLOCK_SKEW_MAX),
            Err(CallRefused::PastDeadline { past_ms, .. }) if past_ms > 1_000_000_000_000
        ));
    }

    #[test]
    fn a_refusal_says_the_same_on_grpc_and_http() {
        let mut repeated = headers_of(&context());
        repeated.append(super::super::GTID_HEADER, HeaderValue::from_static("another"));
        let invalid = Context::read(&repeated).expect_err("repeated");
        for (refused, code, status, reason) in [
            (CallRefused::Invalid(invalid), Code::InvalidArgument, 400, "MALFORMED"),
            (CallRefused::Absent, Code::InvalidArgument, 400, "MALFORMED"),
            (
                CallRefused::PastDeadline { gtid: context().gtid, past_ms: 7 },
                Code::DeadlineExceeded,
                504,
                "DEADLINE_EXCEEDED",
            ),
        ] {
            let grpc = Status::from(refused.clone());
            assert_eq!(grpc.code(), code);
            assert_eq!(grpc.message(), refused.to_string());
            assert_eq!(refusal_of(&grpc).map(|refused| refused.reason).as_deref(), Some(reason));

            let http = refused.to_http();
            assert_eq!(http.status().as_u16(), status);
            assert_eq!(http.headers()[CONTENT_TYPE], "application/problem+json");
            let problem: serde_json::Value = serde_json::from_slice(http.body()).expect("JSON");
            assert_eq!(problem["status"], status);
            assert_eq!(problem["detail"], refused.to_string());
            assert_eq!(problem["reason"], reason);
        }
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let is_grpc = |content_type: &str| {
            let content_type = HeaderValue::from_str(content_type).expect("a header value");
            is_grpc(&HeaderMap::from_iter([(CONTENT_TYPE, content_type)]))
        };
        for grpc in [
            "application/grpc",
            "application/grpc+proto",
            "Application/GRPC; charset=utf-8",
            "application/grpc-web-text",
        ] {
            assert!(is_grpc(grpc), "{grpc}");
        }
        for other in ["", "application/json", "application/grpcx", "application/gr", "text/plain; application/grpc"] {
            assert!(!is_grpc(other), "{other}");
        }
        assert!(!super::is_grpc(&HeaderMap::new()));
    }
}
