//! Errors on the wire: a stable reason, the gRPC code that goes with it, and when to try again.
//!
//! A request on a session is refused by [`Refused`] in its reply; a unary call, or a session as a whole, by a
//! [`tonic::Status`] that says the same in `google.rpc.ErrorInfo` and `google.rpc.RetryInfo`. `docs/errors.md` lists every
//! [`Reason`] with what to do about it.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetail, ErrorInfo, RetryInfo, StatusExt};

use crate::context::InvalidContext;
use crate::session::{self, Malformed, Refused};

use crate::text::cut;
pub use assent_protocol::message::Reason;

/// The domain of every reason, in `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "assent";

/// The most bytes of a message in a status. It travels in a header twice, percent-encoded and in base64, and clients refuse
/// headers of more than 16 KiB in all, by default.
const STATUS_MESSAGE_BYTES_MAX: usize = 1_024;

/// A refusal as the status of a call, or of a session as a whole.
pub trait IntoStatus {
    /// The status that says the same.
    fn into_status(self) -> Status;
}

impl IntoStatus for Refused {
    fn into_status(self) -> Status {
        let mut details = vec![ErrorDetail::ErrorInfo(ErrorInfo::new(self.reason, DOMAIN, []))];
        if let Some(retry_after_ms) = self.retry_after_ms {
            details.push(RetryInfo::new(Some(Duration::from_millis(retry_after_ms))).into());
        }
        Status::with_error_details_vec(grpc_code(self.code), cut(self.message, STATUS_MESSAGE_BYTES_MAX), details)
    }
}

/// A reason that is the status of a call.
pub trait ReasonStatus {
    /// The status of a call, or of a session as a whole, that is refused for this reason. The message says what is wrong and
    /// what to do next.
    fn status(self, message: impl Into<String>) -> Status;
}

impl ReasonStatus for Reason {
    fn status(self, message: impl Into<String>) -> Status {
        self.refused(message).into_status()
    }
}

/// What a status says, if it is a refusal of a coordinator.
///
/// `None` for every other: a connection that broke, a proxy that gave up, a handler that panicked. There is a difference
/// to be kept: a refused request changed nothing, and nobody knows what became of one that failed otherwise.
pub fn refusal_of(status: &Status) -> Option<Refused> {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    let retry_delay = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
    Some(Refused {
        code: core_code(status.code())?,
        reason: info.reason,
        message: status.message().into(),
        retry_after_ms: retry_delay.map(whole_ms),
    })
}

/// The core's code as tonic's.
pub fn grpc_code(code: session::Code) -> Code {
    i32::try_from(code.number()).map_or(Code::Unknown, Code::from_i32)
}

/// Tonic's code as the core's; `None` for OK, which refuses nothing.
fn core_code(code: Code) -> Option<session::Code> {
    session::Code::from_number(i32::from(code).unsigned_abs())
}

/// At least one: on a session, zero stands for never.
fn whole_ms(delay: Duration) -> u64 {
    u64::try_from(delay.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl From<Malformed> for Refused {
    fn from(malformed: Malformed) -> Self {
        Reason::Malformed.refused(malformed.to_string())
    }
}

impl From<Malformed> for Status {
    fn from(malformed: Malformed) -> Self {
        Refused::from(malformed).into_status()
    }
}

impl From<InvalidContext> for Refused {
    fn from(invalid: InvalidContext) -> Self {
        Reason::Malformed.refused(invalid.to_string())
    }
}

#[cfg(test)]
mod tests {
    use assent_protocol::{AbortCode, ParticipantName, Refusal};

    use super::*;

    const ERRORS_PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md"));

    fn through_a_status(refused: &Refused) -> Option<Refused> {
        refusal_of(&refused.clone().into_status())
    }

    #[test]
    fn a_refusal_survives_a_status() {
        for reason in Reason::ALL {
            let refused = reason.refused("what is wrong; what to do");
            assert_eq!(refused.known_reason(), Some(*reason));
            assert_eq!(through_a_status(&refused).as_ref(), Some(&refused));
        }
        let of_a_newer_peer = Refused { reason: "NEW_REASON".into(), ..Reason::NotFound.refused("gone") };
        assert_eq!(through_a_status(&of_a_newer_peer).as_ref(), Some(&of_a_newer_peer));
        assert_eq!(of_a_newer_peer.known_reason(), None);
    }

    #[test]
    fn the_time_of_a_retry_survives_a_status() {
        for retry_after_ms in [1, 999, 1_000, 86_400_000, 253_402_300_799_999] {
            let refused = Reason::Overloaded.refused("busy").after_ms(retry_after_ms);
            assert_eq!(through_a_status(&refused).and_then(|r| r.retry_after_ms), Some(retry_after_ms));
        }
        // Longer than a protobuf Duration can say.
        let longest = through_a_status(&Reason::Overloaded.refused("busy").after_ms(u64::MAX)).expect("a refusal");
        assert_eq!(longest.retry_after_ms, Some(315_576_000_000_999));
        // "At once" must not turn into "never" on the way to a session.
        assert_eq!(
            through_a_status(&Reason::Overloaded.refused("busy").after_ms(0)).and_then(|r| r.retry_after_ms),
            Some(1)
        );
    }

    #[test]
    fn only_a_coordinator_refuses() {
        assert_eq!(refusal_of(&Status::unavailable("connection reset")), None);
        let of_another = [ErrorDetail::ErrorInfo(ErrorInfo::new("NOT_FOUND", "googleapis.com", []))];
        assert_eq!(refusal_of(&Status::with_error_details_vec(Code::NotFound, "no", of_another)), None);
        let fine = [ErrorDetail::ErrorInfo(ErrorInfo::new("NOT_FOUND", DOMAIN, []))];
        assert_eq!(refusal_of(&Status::with_error_details_vec(Code::Ok, "", fine)), None);
        assert_eq!(refusal_of(&Status::with_details(Code::Internal, "", [0xff; 64].to_vec().into())), None);
    }

    #[test]
    fn a_long_message_fits_into_the_headers() {
        let status = Reason::Malformed.status("é".repeat(100_000));
        let response = status.into_http::<()>();
        let bytes: usize = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(bytes < 16 * 1_024, "{bytes} bytes");
    }

    #[test]
    fn the_words_of_the_core_are_the_words_of_the_wire() {
        let name = ParticipantName::new("inventory").expect("a name");
        for refusal in [
            Refusal::KeyReused,
            Refusal::RosterFrozen { state: "preparing".into() },
            Refusal::DuplicateBranch(name),
            Refusal::TooManyBranches { branches_max: 100 },
            Refusal::PastPivot,
        ] {
            let refused = Refused::from(refusal.clone());
            assert_eq!(refused.reason, refusal.code());
            assert_eq!(refused.message, refusal.to_string());
            assert_eq!(refused.retry_after_ms, None);
        }
    }

    #[test]
    fn words_are_unlike_and_of_the_form_that_error_info_asks_for() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_word(reason.as_str()), Some(*reason));
            assert!(reason.as_str().len() <= 63);
            assert!(reason.as_str().bytes().all(|b| b.is_ascii_uppercase() || b == b'_'), "{reason}");
            assert_eq!(core_code(grpc_code(reason.code())), Some(reason.code()));
        }
    }

    #[test]
    fn every_reason_and_abort_code_is_documented() {
        for reason in Reason::ALL {
            let code = code_word(grpc_code(reason.code()));
            let beginning = format!("| `{reason}` | {code} | ");
            let end =
                reason.retry_after_ms().map_or("| never |".into(), |ms| format!("| after {} s |", ms as f64 / 1e3));
            let is_there = ERRORS_PAGE.lines().any(|row| row.starts_with(&beginning) && row.ends_with(&end));
            assert!(is_there, "docs/errors.md has no row {beginning}... {end}");
        }
        for code in AbortCode::ALL {
            let row = format!("| `{}` | ", code.as_str());
            assert!(ERRORS_PAGE.contains(&row), "docs/errors.md has no row that starts with {row}");
        }
    }

    /// The name of a code as gRPC's documentation writes it.
    fn code_word(code: Code) -> String {
        let camel = format!("{code:?}");
        let words = camel.char_indices().map(|(at, c)| {
            let gap = if at > 0 && c.is_ascii_uppercase() { "_" } else { "" };
            format!("{gap}{}", c.to_ascii_uppercase())
        });
        words.collect()
    }
}
