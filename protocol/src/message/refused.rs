//! Why something was refused: a stable word, the gRPC code that goes with it, and when to try
//! again.

use crate::reason::Refusal;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal;)+) => {
        /// The code of a failed gRPC call, with its number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $variant = $number,)+
        }

        impl Code {
            /// The code of a number; `None` for 0, which is no failure, and for those above 16.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// Its number.
            pub const fn number(self) -> u32 {
                match self { $(Self::$variant => $number),+ }
            }
        }
    };
}

codes! {
    /// The caller gave up.
    Cancelled = 1;
    /// A failure that says nothing of itself.
    Unknown = 2;
    /// The request makes no sense, whatever the state.
    InvalidArgument = 3;
    /// Time is over.
    DeadlineExceeded = 4;
    /// There is nothing of that name.
    NotFound = 5;
    /// There is something of that name already.
    AlreadyExists = 6;
    /// The caller may not.
    PermissionDenied = 7;
    /// There is no room.
    ResourceExhausted = 8;
    /// The state does not allow it.
    FailedPrecondition = 9;
    /// A conflict; the whole may be tried again.
    Aborted = 10;
    /// Beyond a range.
    OutOfRange = 11;
    /// Not known here.
    Unimplemented = 12;
    /// A broken invariant.
    Internal = 13;
    /// Not reachable now.
    Unavailable = 14;
    /// Data is lost.
    DataLoss = 15;
    /// The caller is not known.
    Unauthenticated = 16;
}

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

            /// When a retry makes sense if nobody knows better, in milliseconds; `None` where the
            /// same request would be refused again.
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
    /// The caller did not prove who it is.
    Unauthenticated = "UNAUTHENTICATED", Unauthenticated, None;
    /// The caller is known, and may not do this.
    PermissionDenied = "PERMISSION_DENIED", PermissionDenied, None;
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
    /// The commit expects a branch that the transaction does not have.
    BranchMissing = "BRANCH_MISSING", FailedPrecondition, None;
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
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A request that was refused. It changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} [{reason}]")]
pub struct Refused {
    /// The gRPC status code that a unary call would have had.
    pub code: Code,
    /// Stable, upper snake case: `google.rpc.ErrorInfo`'s reason in domain `assent`.
    pub reason: String,
    /// What is wrong and what to do next.
    pub message: String,
    /// When a retry makes sense, in milliseconds; `None` where it never does.
    pub retry_after_ms: Option<u64>,
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
