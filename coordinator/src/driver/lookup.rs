//! Looks into the log for what a replica has to know.

use std::sync::Arc;
use std::time::Duration;

use assent_protocol::Gtid;
use assent_protocol::message::{Reason, Refused};
use assent_protocol::replica::Input;
use futures::future::{BoxFuture, FutureExt};

use crate::log::{Log, LogError};

/// How long the log may take for an answer before the requests are refused; they may be repeated.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Looks up these transactions.
pub(super) fn ask(log: &Arc<dyn Log>, gtids: Vec<Gtid>) -> BoxFuture<'static, Input> {
    let log = Arc::clone(log);
    async move {
        let found = match tokio::time::timeout(ANSWER_MAX, log.lookup(&gtids)).await {
            Ok(found) => found,
            Err(elapsed) => Err(LogError::Busy { log: log.describe(), source: elapsed.into() }),
        };
        Input::LookedUp { gtids, found: found.map_err(|error| refusal(&error)) }
    }
    .boxed()
}

fn refusal(error: &LogError) -> Refused {
    let reason = match error {
        LogError::Full { .. } => Reason::LogFull,
        LogError::Unusable { .. } | LogError::Pooled { .. } | LogError::PageToken { .. } | LogError::Leased { .. } => {
            Reason::Internal
        }
        LogError::Unreachable { .. } | LogError::Busy { .. } => Reason::LogUnreachable,
    };
    reason.refused(format!("{error}; this request was not carried out, ask again"))
}
