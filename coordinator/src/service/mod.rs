//! Calls without a session: for grpcurl, other languages, tools and operators.
//!
//! | file | subject |
//! |---|---|
//! | `local.rs` | the way into the driver: a session inside the process |
//! | `transaction.rs` | `TransactionService` |
//! | `admin.rs` | `AdminService` |
//! | `listing.rs` | what a replica holds in memory and what the log has, as one list |
//! | `check.rs` | requests into strict types; what is refused, and why |
//! | `shown.rs` | transactions as operators see them |
//! | `unreadable.rs` | messages that never become requests |
//! | `process.rs` | what the operating system tells about this process |

mod admin;
mod check;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod listing;
mod local;
pub(crate) mod process;
mod shown;
mod transaction;
mod unreadable;

use std::sync::Arc;

use assent_proto::error::{Reason, ReasonStatus};
use assent_proto::session::{FRAME_BYTES_MAX, Refused};
use tonic::{Response, Status};

use crate::access::Access;
use crate::driver::Driver;
use crate::log::{Log, LogError};

pub(crate) use admin::Admin;
pub(crate) use local::LocalSession;
pub(crate) use transaction::Transactions;
pub(crate) use unreadable::{explained, explained_answer};

/// What all services of a replica share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) driver: Driver,
    pub(crate) local: LocalSession,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) limits: crate::driver::Limits,
    /// Who may end what.
    pub(crate) access: Arc<Access>,
    /// It is open to a network without TLS or authentication, as its configuration says.
    pub(crate) insecure: bool,
    /// The replica's name.
    pub(crate) replica: String,
    /// When it started to serve, in Unix milliseconds.
    pub(crate) started_at_ms: u64,
}

/// An answer, unless it is larger than clients take by default: outputs of steps may be.
fn answer<M: prost::Message>(answer: M) -> Result<Response<M>, Status> {
    let bytes = answer.encoded_len();
    if bytes <= FRAME_BYTES_MAX {
        return Ok(Response::new(answer));
    }
    let message = format!(
        "the answer has {bytes} bytes, and {FRAME_BYTES_MAX} fit into a message; let steps give references to their data, \
         and see the rest with AdminService/GetTransaction"
    );
    Err(Reason::FrameTooLarge.status(message))
}

/// A read that the log did not answer.
fn log_refusal(error: &LogError) -> Refused {
    match error {
        LogError::PageToken { .. } => Reason::Malformed.refused(error.to_string()),
        LogError::Full { .. } => Reason::LogFull.refused(error.to_string()),
        LogError::Unusable { .. } | LogError::Pooled { .. } | LogError::Leased { .. } => {
            Reason::Internal.refused(error.to_string())
        }
        LogError::Unreachable { .. } | LogError::Busy { .. } => {
            Reason::LogUnreachable.refused(format!("{error}; nothing was changed, try again"))
        }
    }
}
