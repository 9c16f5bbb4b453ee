//! What is written of refusals and of privileged calls: events of target `assent::audit`.
//!
//! | field | what it says |
//! |---|---|
//! | `outcome` | `allowed`, `denied` or `unauthenticated` |
//! | `caller` | the identities that the transport has proved |
//! | `right` | the right that was used, or is missing |
//! | `rpc` | the path of the call; `Exchange/Commit` and the like for a message of a session |
//! | `gtid` | the transaction, where it is known |
//! | `address`, `why` | where a caller is that is not known; what it was told |
//! | `left_out` | how many events of the same kind were left out before this one |
//!
//! Strangers can ask as often as they like, so one event a second stands for all of them. Callers that are known have more room, and
//! what was allowed to one of them is never left out.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use assent_protocol::Gtid;

use super::{Caller, Unknown};

/// How many events a second tell of strangers.
const STRANGERS_PER_S: u32 = 1;
/// How many tell of callers that are known and lack a right.
const DENIED_PER_S: u32 = 100;

/// What a caller does, or would like to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Act<'a> {
    /// The path of the call, or the message of a session.
    pub(crate) rpc: &'a str,
    /// The right that it needs.
    pub(crate) right: &'a str,
    /// The transaction.
    pub(crate) gtid: Option<Gtid>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Audit {
    strangers: Limit,
    denied: Limit,
}

impl Default for Audit {
    fn default() -> Self {
        Self { strangers: Limit::new(STRANGERS_PER_S), denied: Limit::new(DENIED_PER_S) }
    }
}

impl Audit {
    /// A caller did not prove who it is.
    pub(super) fn unauthenticated(&self, address: Option<IpAddr>, why: &Unknown) {
        if let Some(left_out) = self.strangers.enter() {
            let address = address.map(tracing::field::display);
            tracing::warn!(target: "assent::audit", outcome = "unauthenticated", address, %why, left_out, "a caller is not known");
        }
    }

    /// A caller lacks a right.
    pub(super) fn denied(&self, caller: &Caller, act: Act<'_>, why: &str) {
        if let Some(left_out) = self.denied.enter() {
            let Act { rpc, right, gtid } = act;
            let gtid = gtid.map(tracing::field::display);
            tracing::warn!(target: "assent::audit", outcome = "denied", %caller, right, rpc, gtid, why, left_out, "a right is missing");
        }
    }

    /// A caller uses a right over what is another's.
    pub(super) fn allowed(&self, caller: &Caller, act: Act<'_>) {
        let Act { rpc, right, gtid } = act;
        let gtid = gtid.map(tracing::field::display);
        tracing::info!(target: "assent::audit", outcome = "allowed", %caller, right, rpc, gtid, "a right was used");
    }

    /// A caller looks: for those who want to know that too.
    pub(super) fn looked(&self, caller: &Caller, act: Act<'_>) {
        let Act { rpc, right, gtid: _ } = act;
        tracing::debug!(target: "assent::audit", outcome = "allowed", %caller, right, rpc, "a right was used");
    }
}

/// So many events in each second.
#[derive(Debug)]
struct Limit {
    per_s: u32,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    entered: u32,
    left_out: u64,
}

impl Limit {
    fn new(per_s: u32) -> Self {
        Self { per_s, window: Mutex::new(Window { since: Instant::now(), entered: 0, left_out: 0 }) }
    }

    /// How many events were left out before this one; `None` if this one is left out too.
    fn enter(&self) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.since.elapsed() >= Duration::from_secs(1) {
            (window.since, window.entered) = (Instant::now(), 0);
        }
        if window.entered >= self.per_s {
            window.left_out += 1;
            return None;
        }
        window.entered += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_few_events_and_a_number() {
        let limit = Limit::new(3);
        let entered: Vec<Option<u64>> = (0..1_000).map(|_| limit.enter()).collect();
        assert_eq!(entered[..4], [Some(0), Some(0), Some(0), None]);
        let left_out = entered.iter().filter(|entered| entered.is_none()).count();
        assert!(left_out > 900, "{left_out}");
        limit.window.lock().expect("no panic").since -= Duration::from_secs(1);
        let told: u64 = entered.iter().flatten().sum::<u64>() + limit.enter().expect("a second later");
        assert_eq!(told, left_out as u64, "each one that was left out is told");
    }
}
