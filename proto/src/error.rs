//! Errors on the wire: a stable reason, the gRPC code that goes with it, and when to try again.
//!
//! A request on a session is refused by [`Refused`] in its reply; a unary call, or a session as a whole, by a
//! [`tonic::Status`] that says the same in `google.rpc.ErrorInfo` and `google.rpc.RetryInfo`. `docs/errors.md` lists every
//! [`Reason`] with what to do about it.

use std::time::Duration;

use assent_protocol::Refusal;
use tonic::{Code, Status};
use tonic_types::{ErrorDetail, ErrorInfo, RetryInfo, StatusExt};

use crate::context::InvalidContext;
use crate::session::{Malformed, Refused};
use crate::text::cut;

/// The domain of every reason, in `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "assent";

/// The most bytes of a message in a status. It travels in a header twice, percent-encoded and in base64, and clients refuse
/// headers of more than 16 KiB in all, by default.
const STATUS_MESSAGE_BYTES_MAX: usize = 1_024;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, $code:ident, $retry_after_ms:expr;)+) => {
        /// Why something was refused. The words are stable, and each stands in `docs/errors.md`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])* $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of `docs/errors.md`.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The stable word for it, upper snake case.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The gRPC code that goes with it.
            pub const fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code),+ }
            }

            /// When a retry makes sense if nobody knows better, in milliseconds; `None` where the same request would be
            /// refused again.
            pub const fn retry_after_ms(self) -> Option<u64> {
                match self { $(Self::$variant => $retry_after_ms),+ }
            }
        }
    };
}

reasons! {
    /// The message, header or field says something impossible.
    Malformed = "MALFORMED", InvalidArgument, None;
    /// The timeout is longer than the coordinator allows.
    InvalidTimeout = "INVALID_TIMEOUT", InvalidArgument, None;
    /// The payload of a branch or step is larger than the coordinator allows.
    PayloadTooLarge = "PAYLOAD_TOO_LARGE", InvalidArgument, None;
    /// The frame, or the answer to the request, is larger than a frame may be.
    FrameTooLarge = "FRAME_TOO_LARGE", ResourceExhausted, None;
    /// The first message of a session was not Hello, or Hello came again.
    HelloExpected = "HELLO_EXPECTED", InvalidArgument, None;
    /// The client speaks a version of the session protocol that this replica does not.
    ProtocolVersion = "PROTOCOL_VERSION", FailedPrecondition, None;
    /// The shared secret is missing or wrong.
    Unauthenticated = "UNAUTHENTICATED", Unauthenticated, None;
    /// A session that named no participant said what only participants say.
    NotAParticipant = "NOT_A_PARTICIPANT", FailedPrecondition, None;
    /// There is no transaction of this gtid, open or in the history.
    NotFound = "NOT_FOUND", NotFound, None;
    /// The gtid was used before with another body.
    KeyReused = "KEY_REUSED", AlreadyExists, None;
    /// The gtid is a saga's, and the request is for a transaction; or the other way round.
    WrongProtocol = "WRONG_PROTOCOL", FailedPrecondition, None;
    /// A saga's step is for a participant that has never joined.
    UnknownParticipant = "UNKNOWN_PARTICIPANT", FailedPrecondition, None;
    /// Commit or abort was asked for: nobody can enlist any more.
    RosterFrozen = "ROSTER_FROZEN", FailedPrecondition, None;
    /// The participant already has a branch in this transaction.
    DuplicateBranch = "DUPLICATE_BRANCH", AlreadyExists, None;
    /// The transaction would have more branches than the coordinator allows.
    TooManyBranches = "TOO_MANY_BRANCHES", FailedPrecondition, None;
    /// The saga is past its pivot, and only goes forward.
    PastPivot = "PAST_PIVOT", FailedPrecondition, None;
    /// The replica holds as much as it may: open transactions, or requests of this session.
    Overloaded = "OVERLOADED", ResourceExhausted, Some(200);
    /// The replica has as many sessions as it may.
    TooManySessions = "TOO_MANY_SESSIONS", Unavailable, Some(1_000);
    /// The peer said nothing for longer than a session may be silent.
    PeerSilent = "PEER_SILENT", Unavailable, Some(100);
    /// The replica is leaving.
    Draining = "DRAINING", Unavailable, Some(100);
    /// Another replica has taken over from this one.
    Fenced = "FENCED", Unavailable, Some(100);
    /// The log does not answer.
    LogUnreachable = "LOG_UNREACHABLE", Unavailable, Some(1_000);
    /// The log has no space left.
    LogFull = "LOG_FULL", ResourceExhausted, Some(10_000);
    /// The coordinator met a state that should be impossible.
    Internal = "INTERNAL", Internal, None;
}

impl Reason {
    /// The reason of a word, if it is one.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == word)
    }

    /// A refusal for this reason. The message says what is wrong and what to do next.
    pub fn refused(self, message: impl Into<String>) -> Refused {
        Refused {
            code: self.code(),
            reason: self.as_str().into(),
            message: message.into(),
            retry_after_ms: self.retry_after_ms(),
        }
    }

    /// The status of a call, or of a session as a whole, that is refused for this reason.
    pub fn status(self, message: impl Into<String>) -> Status {
        self.refused(message).into()
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Refused {
    /// The reason, if this version knows its word.
    pub fn known_reason(&self) -> Option<Reason> {
        Reason::from_word(&self.reason)
    }

    /// The same, with another time for the retry.
    pub fn after_ms(self, retry_after_ms: u64) -> Self {
        Self { retry_after_ms: Some(retry_after_ms), ..self }
    }

    /// What a status says, if it is a refusal of a coordinator.
    ///
    /// `None` for every other: a connection that broke, a proxy that gave up, a handler that panicked. There is a difference
    /// to be kept: a refused request changed nothing, and nobody knows what became of one that failed otherwise.
    pub fn from_status(status: &Status) -> Option<Self> {
        let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
        let retry_delay = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
        (status.code() != Code::Ok).then(|| Self {
            code: status.code(),
            reason: info.reason,
            message: status.message().into(),
            retry_after_ms: retry_delay.map(whole_ms),
        })
    }
}

/// At least one: on a session, zero stands for never.
fn whole_ms(delay: Duration) -> u64 {
    u64::try_from(delay.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let mut details = vec![ErrorDetail::ErrorInfo(ErrorInfo::new(refused.reason, DOMAIN, []))];
        if let Some(retry_after_ms) = refused.retry_after_ms {
            details.push(RetryInfo::new(Some(Duration::from_millis(retry_after_ms))).into());
        }
        Self::with_error_details_vec(refused.code, cut(refused.message, STATUS_MESSAGE_BYTES_MAX), details)
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let reason = match refusal {
            Refusal::KeyReused => Reason::KeyReused,
            Refusal::RosterFrozen { .. } => Reason::RosterFrozen,
            Refusal::DuplicateBranch(_) => Reason::DuplicateBranch,
            Refusal::TooManyBranches { .. } => Reason::TooManyBranches,
            Refusal::PastPivot => Reason::PastPivot,
        };
        reason.refused(refusal.to_string())
    }
}

impl From<Malformed> for Refused {
    fn from(malformed: Malformed) -> Self {
        Reason::Malformed.refused(malformed.to_string())
    }
}

impl From<InvalidContext> for Refused {
    fn from(invalid: InvalidContext) -> Self {
        Reason::Malformed.refused(invalid.to_string())
    }
}

#[cfg(test)]
mod tests {
    use assent_protocol::{AbortCode, ParticipantName};

    use super::*;

    const ERRORS_PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md"));

    fn through_a_status(refused: &Refused) -> Option<Refused> {
        Refused::from_status(&Status::from(refused.clone()))
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
        assert_eq!(Refused::from_status(&Status::unavailable("connection reset")), None);
        let of_another = [ErrorDetail::ErrorInfo(ErrorInfo::new("NOT_FOUND", "googleapis.com", []))];
        assert_eq!(Refused::from_status(&Status::with_error_details_vec(Code::NotFound, "no", of_another)), None);
        let fine = [ErrorDetail::ErrorInfo(ErrorInfo::new("NOT_FOUND", DOMAIN, []))];
        assert_eq!(Refused::from_status(&Status::with_error_details_vec(Code::Ok, "", fine)), None);
        assert_eq!(Refused::from_status(&Status::with_details(Code::Internal, "", [0xff; 64].to_vec().into())), None);
    }

    #[test]
    fn a_long_message_fits_into_the_headers() {
        let status = Status::from(Reason::Malformed.refused("é".repeat(100_000)));
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
            assert_ne!(reason.code(), Code::Ok);
        }
    }

    #[test]
    fn every_reason_and_abort_code_is_documented() {
        for reason in Reason::ALL {
            let code = code_word(reason.code());
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
