//! Exit codes, and errors as people read them: one line what, one line what to do next.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use assent_proto::error::{grpc_code, refusal_of};
use assent_transport::DialError;
use tonic::{Code, Status};

use super::output::visible;
use crate::config::ConfigError;
use crate::log::OpenError;
use crate::server::{self, StartError};
use crate::telemetry::TelemetryError;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// It did what was asked.
    Ok,
    /// It could not.
    Failed,
    /// The command line or the configuration says something impossible.
    Usage,
    /// There is no such thing.
    NotFound,
    /// The state of things does not allow it, or somebody else has it.
    Conflict,
    /// Nobody answers.
    Unreachable,
}

impl Exit {
    /// The number for the shell.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Unreachable => 7,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<Code> for Exit {
    /// By what a script can do about it.
    fn from(code: Code) -> Self {
        match code {
            Code::Ok => Self::Ok,
            Code::InvalidArgument | Code::OutOfRange => Self::Usage,
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => Self::Conflict,
            Code::Unavailable | Code::DeadlineExceeded => Self::Unreachable,
            Code::Cancelled
            | Code::Unknown
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => Self::Failed,
        }
    }
}

/// Why a command could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How the program ends.
    pub exit: Exit,
    /// What is wrong, in one line; empty if there is nothing to say.
    pub what: String,
    /// What to do about it, in one line; may be empty where that is part of the other.
    pub next: String,
}

impl Failure {
    /// A failure, and what to do about it.
    pub fn new(exit: Exit, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { exit, what: what.into(), next: next.into() }
    }

    /// From a message that says what is wrong and then, behind a semicolon or a colon, what to do.
    fn of_message(exit: Exit, message: &str, cause: Option<&dyn Error>) -> Self {
        let cut = message.find("; ").or_else(|| message.rfind(": "));
        let (what, next) = match cut {
            Some(at) => (&message[..at], &message[at + 2..]),
            None => (message, ""),
        };
        Self::new(exit, format!("{what}{}", causes(cause)), next)
    }

    /// From an error, with all that lies beneath it.
    pub(super) fn of_error(exit: Exit, error: &dyn Error) -> Self {
        Self::of_message(exit, &error.to_string(), error.source())
    }

    /// Prints it to stderr. Answers how to end.
    pub fn report(&self) -> Exit {
        if !self.what.is_empty() {
            // A stderr that is closed hears nothing, and nothing else is to be done.
            write!(io::stderr().lock(), "{self}").ok();
        }
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", visible(&self.what))?;
        if self.next.is_empty() { Ok(()) } else { writeln!(f, " next: {}", visible(&self.next)) }
    }
}

/// What lies beneath an error, outermost first, in brackets.
fn causes(mut cause: Option<&dyn Error>) -> String {
    let mut causes: Vec<String> = Vec::new();
    while let Some(error) = cause {
        let text = error.to_string().replace('\n', ", ");
        // Some errors repeat what they wrap.
        if causes.last().is_none_or(|last| !last.contains(&text)) {
            causes.push(text);
        }
        cause = error.source();
    }
    if causes.is_empty() { String::new() } else { format!(" ({})", causes.join(": ")) }
}

impl From<io::Error> for Failure {
    /// Of writing to stdout: a reader that has read enough is no failure.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Ok, "", "");
        }
        Self::new(Exit::Failed, format!("cannot write the output: {error}"), "check where it goes")
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        match refusal_of(&status) {
            Some(refused) => Self::of_message(grpc_code(refused.code).into(), &refused.message, None),
            None => {
                let exit = Exit::from(status.code());
                let next = match status.code() {
                    Code::Unimplemented => "this coordinator is older than the program; use those of the same version",
                    Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                        "check that the coordinator runs and answers, then try again"
                    }
                    _ => "check that the endpoint is a coordinator's; its own output may say more",
                };
                let message = if status.message().is_empty() { status.code().description() } else { status.message() };
                Self::new(exit, format!("the call failed: {}", message.replace('\n', ", ")), next)
            }
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Usage, error.to_string(), "correct that; `assent serve --help` lists every setting")
    }
}

impl From<TelemetryError> for Failure {
    fn from(error: TelemetryError) -> Self {
        Self::of_message(Exit::Failed, &error.to_string(), error.source())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let exit = match error {
            OpenError::Url { .. } => Exit::Usage,
            OpenError::Unreachable { .. } => Exit::Unreachable,
            OpenError::InUse { .. } => Exit::Conflict,
            _ => Exit::Failed,
        };
        Self::of_message(exit, &error.to_string(), error.source())
    }
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Self {
        let exit = match &error {
            DialError::Url { .. } | DialError::InClear { .. } | DialError::Tls(_) | DialError::Token { .. } => {
                Exit::Usage
            }
            DialError::Unreachable { url, .. } => {
                let next = "start one with `assent serve`, or say where it is with --endpoint or ASSENT_ENDPOINT";
                return Self::new(
                    Exit::Unreachable,
                    format!("no coordinator answers at {url}{}", causes(error.source())),
                    next,
                );
            }
            DialError::Refused { .. } => Exit::Unreachable,
        };
        Self::of_message(exit, &error.to_string(), error.source())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let exit = match error {
            StartError::Log(error) => return error.into(),
            StartError::LogSilent { .. } => Exit::Unreachable,
            StartError::Leased(_) => Exit::Conflict,
            StartError::Listen { ref source, .. } if source.kind() == io::ErrorKind::AddrInUse => Exit::Conflict,
            StartError::Tls(_) | StartError::Tokens(_) | StartError::Open { .. } => Exit::Usage,
            StartError::Listen { .. } | StartError::Recovery(_) | StartError::Reflection(_) => Exit::Failed,
        };
        if let StartError::Listen { address, next, source } = &error {
            return Self::new(exit, format!("cannot listen at {address} ({source})"), *next);
        }
        Self::of_message(exit, &error.to_string(), error.source())
    }
}

impl From<server::Failure> for Failure {
    fn from(failure: server::Failure) -> Self {
        Self::of_message(Exit::Failed, &failure.to_string(), failure.source())
    }
}
