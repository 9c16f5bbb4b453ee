//! Messages that never become requests: too large, or no protobuf of ours.
//!
//! The gRPC library refuses them before any handler sees them, with a code and without `google.rpc.ErrorInfo`. A caller must not
//! take them for troubles on the way, after which nobody knows what took effect: so they are given a reason of ours.

use assent_proto::error::{Reason, ReasonStatus};
use http::HeaderMap;
use tonic::{Code, Status};

/// The same status with a reason, if it says that a message could not be read.
pub(crate) fn explained(status: Status) -> Status {
    if !status.details().is_empty() {
        return status;
    }
    let what = status.message();
    match status.code() {
        // What the decoder says of a message over the limit.
        Code::OutOfRange => {
            let next = "make payloads smaller, send references to large data, or split the transaction";
            Reason::FrameTooLarge.status(format!("the message is too large ({what}); {next}"))
        }
        // What it says of everything else that is wrong with one.
        Code::Internal => {
            let next = "send what assent/v1/*.proto describes; reflection shows it";
            Reason::Malformed.status(format!("the message cannot be read ({what}); {next}"))
        }
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unimplemented
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => status,
    }
}

/// For unary calls, whose handlers are not asked: their answer is nothing but the headers of a status.
pub(crate) fn explained_answer<B: Default>(answer: http::Response<B>) -> http::Response<B> {
    match refused_by_the_library(answer.headers()) {
        Some(status) => status.into_http(),
        None => answer,
    }
}

fn refused_by_the_library(headers: &HeaderMap) -> Option<Status> {
    // Those that succeed have no status before their body.
    let status = Status::from_header_map(headers).filter(|status| status.details().is_empty())?;
    let explained = explained(status);
    (!explained.details().is_empty()).then_some(explained)
}
