//! Calls that fail at their work, in the words of gRPC and of HTTP.

use std::fmt;

use assent_proto::error::{IntoStatus, Reason, refusal_of};
use assent_proto::session::{Code, Refused};
use assent_protocol::AbortCode;
#[cfg(feature = "axum")]
use axum::{body::Body, response::IntoResponse};
use bytes::Bytes;
use http::Response;
use tonic::Status;

use super::CallRefused;
use super::problem::{problem, status_of};
use crate::error::Error;
use crate::participant::BoxError;
#[cfg(feature = "postgres")]
use crate::postgres::{EarlyPrepareError, PostgresError};

/// Why a service answers a call in a transaction with an error: for the handler to return.
///
/// `?` makes it of every error of this crate that a handler meets, and of those of sqlx. It turns
/// into an answer that the caller's protocol knows; the initiator that gets one aborts.
///
/// | what went wrong | gRPC | HTTP |
/// |---|---|---|
/// | the service, or a constraint of its database, [refuses](Self::refused) | FAILED_PRECONDITION, `REFUSED` | 409 |
/// | the transaction has a branch of this participant already | ALREADY_EXISTS, `DUPLICATE_BRANCH` | 409 |
/// | the work met another transaction: it waited too long for a lock, or Postgres could not serialize it | ABORTED, `PREPARE_FAILED` | 409 |
/// | the transaction is past its deadline | DEADLINE_EXCEEDED, `DEADLINE_EXCEEDED` | 504 |
/// | every connection to the database is in use | RESOURCE_EXHAUSTED, `OVERLOADED` | 429 |
/// | the database does not answer | UNAVAILABLE, `PREPARE_FAILED` | 503 |
/// | the coordinator, or a service that was called in turn, refused | as it said | as it said |
/// | it is not known whether the branch takes part | UNKNOWN, `PREPARE_FAILED` | 500 |
/// | anything else | INTERNAL, `PREPARE_FAILED` | 500 |
/// | the call itself was [refused](CallRefused) | as there | as there |
///
/// The second word is the reason in `google.rpc.ErrorInfo`, in domain `assent`. Over HTTP the body
/// is a problem document (RFC 9457) with that `reason` and `domain`. What is wrong inside of the
/// service is not told to its caller: it is logged where the answer is made.
///
/// ```
/// use assent_sdk::Assent;
/// use assent_sdk::postgres::PostgresResource;
/// use assent_sdk::postgres::EarlyOnly;
/// use assent_sdk::propagation::CallFailed;
/// use assent_sdk::propagation::server::InTransaction;
///
/// async fn reserve(bank: PostgresResource<EarlyOnly>, assent: Assent, call: InTransaction) -> Result<(), CallFailed> {
///     let mut branch = bank.begin(&call.0).await?;
///     let taken = sqlx::query("update stock set free = free - 1 where item = 7 and free > 0")
///         .execute(branch.connection()?)
///         .await?;
///     if taken.rows_affected() == 0 {
///         return Err(CallFailed::refused("item 7 is sold out"));
///     }
///     Ok(branch.prepare(&assent).await?)
/// }
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum CallFailed {
    /// The service refuses, for this reason.
    #[error("{0}")]
    Refused(String),
    /// The call's transaction context is not fit.
    #[error(transparent)]
    Context(#[from] CallRefused),
    /// The coordinator refused, or did not answer.
    #[error(transparent)]
    Coordinator(#[from] Error),
    /// Another service refused a call, or did not answer it.
    #[error("the call to another service failed")]
    Call(#[from] Status),
    /// The branch could not be begun or used.
    #[cfg(feature = "postgres")]
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The branch does not take part.
    #[cfg(feature = "postgres")]
    #[error(transparent)]
    EarlyPrepare(#[from] EarlyPrepareError),
    /// A statement of the work failed.
    #[cfg(feature = "postgres")]
    #[error("a statement of the work failed")]
    Statement(#[from] sqlx::Error),
    /// Something else failed.
    #[error("the work failed")]
    Other(#[source] BoxError),
}

crate::error_chain::debug_as_chain!(CallFailed);

impl CallFailed {
    /// The service refuses, for a reason that its caller may know.
    pub fn refused(reason: impl fmt::Display) -> Self {
        Self::Refused(reason.to_string())
    }

    /// Something failed that this crate does not know. The caller is told no more than that.
    pub fn other(error: impl Into<BoxError>) -> Self {
        Self::Other(error.into())
    }

    /// The answer to a call over plain HTTP.
    pub fn to_http(&self) -> Response<Bytes> {
        if let Self::Context(refused) = self {
            return refused.to_http();
        }
        let refused = self.answer();
        problem(&refused, status_of(refused.code))
    }

    fn answer(&self) -> Refused {
        let refused = match self {
            Self::Refused(reason) => refused_work(reason),
            Self::Context(refused) => refused.refused(),
            Self::Coordinator(Error::Refused(refused)) => refused.clone(),
            Self::Coordinator(Error::NoAnswer { .. }) => {
                not_prepared(Code::Unavailable, "the coordinator does not answer; try again")
            }
            Self::Coordinator(_) => not_prepared(Code::Internal, INTERNAL),
            Self::Call(status) => refusal_of(status).unwrap_or_else(|| match status.code() {
                tonic::Code::Unavailable => {
                    not_prepared(Code::Unavailable, "a service that has a part in this does not answer; try again")
                }
                _ => not_prepared(Code::Internal, INTERNAL),
            }),
            #[cfg(feature = "postgres")]
            Self::Postgres(error) => of_postgres(error),
            #[cfg(feature = "postgres")]
            Self::EarlyPrepare(error) => of_early_prepare(error),
            #[cfg(feature = "postgres")]
            Self::Statement(error) => of_statement(error),
            Self::Other(_) => not_prepared(Code::Internal, INTERNAL),
        };
        match refused.code {
            Code::Unknown | Code::Internal | Code::Unavailable => {
                tracing::error!(error = ?self, reason = refused.reason, "a call in a transaction failed");
            }
            _ => tracing::debug!(error = ?self, reason = refused.reason, "a call in a transaction failed"),
        }
        refused
    }
}

const INTERNAL: &str = "the service could not do its part of the transaction; its log says why";
#[cfg(feature = "postgres")]
const UNAVAILABLE: &str = "the service's database does not answer; abort, and try again in a new transaction";

/// A no.
fn refused_work(reason: &str) -> Refused {
    let (code, reason_word) = (Code::FailedPrecondition, AbortCode::Refused.as_str().to_owned());
    Refused { code, reason: reason_word, message: reason.to_owned(), retry_after_ms: None }
}

/// The work failed without a no.
fn not_prepared(code: Code, message: impl Into<String>) -> Refused {
    let reason = AbortCode::PrepareFailed.as_str().to_owned();
    Refused { code, reason, message: message.into(), retry_after_ms: None }
}

#[cfg(feature = "postgres")]
fn past_deadline(message: String) -> Refused {
    let reason = AbortCode::DeadlineExceeded.as_str().to_owned();
    Refused { code: Code::DeadlineExceeded, reason, message, retry_after_ms: None }
}

#[cfg(feature = "postgres")]
fn of_postgres(error: &PostgresError) -> Refused {
    match error {
        PostgresError::NoConnection { .. } => Reason::Overloaded.refused(error.to_string()),
        PostgresError::TooLate { .. } | PostgresError::PastDeadline { .. } => past_deadline(error.to_string()),
        PostgresError::LockWait { .. } | PostgresError::Busy { .. } => not_prepared(Code::Aborted, error.to_string()),
        PostgresError::AlreadyPrepared => Reason::DuplicateBranch.refused(error.to_string()),
        PostgresError::Connect(_) | PostgresError::NoAnswer { .. } | PostgresError::Standby => {
            not_prepared(Code::Unavailable, UNAVAILABLE)
        }
        PostgresError::Statement { source, .. } => of_statement(source),
        PostgresError::FailedBefore
        | PostgresError::EndedByWork
        | PostgresError::PreparedTransactionsDisabled
        | PostgresError::TooManyPrepared(_)
        | PostgresError::NotOwner { .. }
        | PostgresError::TransactionPooler
        | PostgresError::PoolerRefuses(_)
        | PostgresError::ActivitiesUntracked
        | PostgresError::ActivitiesCut { .. }
        | PostgresError::Version { .. }
        | PostgresError::PreparedTransactionsHidden { .. }
        | PostgresError::CoordinatorId { .. }
        | PostgresError::OtherCoordinator { .. }
        | PostgresError::OtherParticipant { .. }
        | PostgresError::NotJoined
        | PostgresError::Barrier(_) => not_prepared(Code::Internal, INTERNAL),
    }
}

#[cfg(feature = "postgres")]
fn of_early_prepare(error: &EarlyPrepareError) -> Refused {
    use crate::error::EnlistError;

    match error {
        EarlyPrepareError::NotPrepared(error) => of_postgres(error),
        EarlyPrepareError::WorkRefused(reason) => refused_work(reason),
        EarlyPrepareError::NotEnlisted(EnlistError::Refused(refused)) => refused.clone(),
        EarlyPrepareError::NotEnlisted(EnlistError::Duplicate(_)) => Reason::DuplicateBranch.refused(error.to_string()),
        EarlyPrepareError::NotEnlisted(EnlistError::Unknown | EnlistError::NotAParticipant | EnlistError::Closed) => {
            not_prepared(Code::Internal, INTERNAL)
        }
        EarlyPrepareError::InDoubt(_) => {
            let message = "it is not known whether the service's branch is part of the transaction: abort it";
            not_prepared(Code::Unknown, message)
        }
    }
}

#[cfg(feature = "postgres")]
fn of_statement(error: &sqlx::Error) -> Refused {
    // Classes and codes as in the appendix A of the manual of Postgres.
    let Some(answered) = error.as_database_error() else {
        return match error {
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
                not_prepared(Code::Unavailable, UNAVAILABLE)
            }
            _ => not_prepared(Code::Internal, INTERNAL),
        };
    };
    let sqlstate = answered.code();
    match sqlstate.as_deref().unwrap_or_default() {
        "40001" | "40P01" | "55P03" => {
            not_prepared(Code::Aborted, "the work met another transaction; abort, and try again in a new transaction")
        }
        code if code.starts_with("23") => refused_work(answered.message()),
        code if code.starts_with("57P") || code.starts_with("08") => not_prepared(Code::Unavailable, UNAVAILABLE),
        _ => not_prepared(Code::Internal, INTERNAL),
    }
}

impl From<CallFailed> for Status {
    fn from(failed: CallFailed) -> Self {
        failed.answer().into_status()
    }
}

#[cfg(feature = "axum")]
impl IntoResponse for CallFailed {
    fn into_response(self) -> Response<Body> {
        self.to_http().map(Body::from)
    }
}

/// The answer of one error alone is that of the [`CallFailed`] that it turns into.
#[cfg(feature = "postgres")]
macro_rules! answers {
    ($($error:ty),+) => {$(
        impl From<$error> for Status {
            fn from(error: $error) -> Self {
                CallFailed::from(error).into()
            }
        }

        #[cfg(feature = "axum")]
        impl IntoResponse for $error {
            fn into_response(self) -> Response<Body> {
                CallFailed::from(self).into_response()
            }
        }
    )+};
}

#[cfg(feature = "postgres")]
answers!(PostgresError, EarlyPrepareError);

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::error::EnlistError;
    use crate::propagation::tests::context;

    fn answers(failed: impl Fn() -> CallFailed) -> (Code, u16, String) {
        let grpc = Status::from(failed());
        let http = failed().to_http();
        let refused = refusal_of(&grpc).expect("a refusal in domain assent");
        let problem: serde_json::Value = serde_json::from_slice(http.body()).expect("JSON");
        assert_eq!(problem["detail"], grpc.message(), "both say the same");
        assert_eq!(problem["reason"], refused.reason.as_str());
        assert_eq!(problem["status"], http.status().as_u16());
        (grpc.code(), http.status().as_u16(), refused.reason)
    }

    #[test]
    fn each_failure_has_an_answer() {
        let refused_enlistment = || Reason::RosterFrozen.refused("commit was asked for already");
        type Case = (fn() -> CallFailed, Code, u16, &'static str);
        let cases: [Case; 9] = [
            (|| CallFailed::refused("sold out"), Code::FailedPrecondition, 409, "REFUSED"),
            (|| EarlyPrepareError::WorkRefused("check".into()).into(), Code::FailedPrecondition, 409, "REFUSED"),
            (|| PostgresError::AlreadyPrepared.into(), Code::AlreadyExists, 409, "DUPLICATE_BRANCH"),
            (|| PostgresError::Busy { gid: "g".into() }.into(), Code::Aborted, 409, "PREPARE_FAILED"),
            (
                || PostgresError::PastDeadline { gtid: context().gtid, open_ms: 7 }.into(),
                Code::DeadlineExceeded,
                504,
                "DEADLINE_EXCEEDED",
            ),
            (
                || PostgresError::NoConnection { purpose: "work", connections_max: 2, waited_ms: 9 }.into(),
                Code::ResourceExhausted,
                429,
                "OVERLOADED",
            ),
            (|| PostgresError::Connect(sqlx::Error::PoolClosed).into(), Code::Unavailable, 503, "PREPARE_FAILED"),
            (|| EarlyPrepareError::InDoubt(EnlistError::Unknown.into()).into(), Code::Unknown, 500, "PREPARE_FAILED"),
            (|| CallFailed::Context(CallRefused::Absent), Code::InvalidArgument, 400, "MALFORMED"),
        ];
        for (failed, code, status, reason) in cases {
            assert_eq!(answers(failed), (code, status, reason.to_owned()), "{:?}", failed());
        }
        let frozen = || EarlyPrepareError::NotEnlisted(EnlistError::Refused(refused_enlistment())).into();
        assert_eq!(answers(frozen), (Code::FailedPrecondition, 409, "ROSTER_FROZEN".to_owned()));
    }

    #[test]
    fn what_is_wrong_inside_is_not_told() {
        let failed = || CallFailed::other("password of the vault is hush");
        assert_eq!(answers(failed), (Code::Internal, 500, "PREPARE_FAILED".to_owned()));
        assert!(!Status::from(failed()).message().contains("hush"));
        assert!(format!("{:?}", failed()).contains("hush"), "the log has it");
        let disabled = Status::from(PostgresError::PreparedTransactionsDisabled);
        assert_eq!(disabled.message(), INTERNAL);
    }

    #[test]
    fn a_refusal_is_passed_on() {
        let passed = || CallFailed::Call(CallFailed::refused("sold out").into());
        assert_eq!(answers(passed), (Code::FailedPrecondition, 409, "REFUSED".to_owned()));
        assert_eq!(Status::from(passed()).message(), "sold out");
        let gone = || CallFailed::Call(Status::unavailable("connection refused"));
        assert_eq!(answers(gone), (Code::Unavailable, 503, "PREPARE_FAILED".to_owned()));
        let missing = || CallFailed::Coordinator(Reason::BranchMissing.refused("no branch of letters").into());
        assert_eq!(answers(missing), (Code::FailedPrecondition, 409, "BRANCH_MISSING".to_owned()));
    }

    #[test]
    fn a_retry_is_told_in_seconds() {
        let http = CallFailed::from(PostgresError::NoConnection { purpose: "work", connections_max: 2, waited_ms: 9 })
            .to_http();
        assert_eq!(http.headers()[http::header::RETRY_AFTER], "1");
    }
}
