//! Every request is answered exactly once, or its session ends.
//!
//! While a request is open, either it waits for a look-up, or a machine keeps its caller. An answer
//! that is sealed behind a record does not count: should the log overrule the record, that answer
//! is never released. The ledger is kept where debug assertions are, and looks only at the
//! transactions that the input has touched.

use std::collections::{BTreeMap, BTreeSet};

use super::{Replica, SessionId};
use crate::ids::{Caller, Gtid, GtidMap};
use crate::invariant::Violation;

const IS_KEPT: bool = cfg!(debug_assertions);
const INVARIANT: &str = "every request is answered exactly once, or its session ends";

/// The requests that are open.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    open: BTreeMap<Caller, Gtid>,
    callers: GtidMap<Vec<Caller>>,
    /// A client that gives an open request's number to another one cannot tell their answers apart,
    /// and neither can this ledger.
    ambiguous: BTreeSet<Caller>,
    touched: Vec<Gtid>,
    violation: Option<Violation>,
}

impl Requests {
    /// A request came over a session that is open.
    pub(super) fn taken(&mut self, caller: Caller, gtid: Gtid) {
        if !IS_KEPT {
            return;
        }
        self.touched.push(gtid);
        if self.open.insert(caller, gtid).is_some() {
            self.ambiguous.insert(caller);
        } else {
            self.callers.entry(gtid).or_default().push(caller);
        }
    }

    /// It is answered over a session that is open.
    pub(super) fn answered(&mut self, caller: Caller) {
        if !IS_KEPT || self.ambiguous.contains(&caller) {
            return;
        }
        match self.open.remove(&caller) {
            Some(gtid) => self.close(caller, gtid),
            None => self.violated(format!("{caller:?} is not open, and is answered")),
        }
    }

    pub(super) fn session_closed(&mut self, session: SessionId) {
        if !IS_KEPT {
            return;
        }
        let callers = |request| Caller { session: session.0, request };
        let of_session = callers(0)..=callers(u64::MAX);
        let closed: Vec<(Caller, Gtid)> = self.open.range(of_session).map(|(caller, gtid)| (*caller, *gtid)).collect();
        for (caller, gtid) in closed {
            self.open.remove(&caller);
            self.ambiguous.remove(&caller);
            self.close(caller, gtid);
        }
    }

    /// Something happens to a transaction.
    pub(super) fn touch(&mut self, gtid: Gtid) {
        if IS_KEPT {
            self.touched.push(gtid);
        }
    }

    fn close(&mut self, caller: Caller, gtid: Gtid) {
        if let Some(callers) = self.callers.get_mut(&gtid) {
            callers.retain(|open| *open != caller);
            if callers.is_empty() {
                self.callers.remove(&gtid);
            }
        }
    }

    fn violated(&mut self, problem: String) {
        self.violation.get_or_insert(Violation { invariant: INVARIANT, problem });
    }
}

impl Replica {
    /// Checks the requests about the transactions that the last input has touched.
    ///
    /// # Panics
    /// If one of them was answered twice, or has nothing left that will answer it.
    pub(super) fn check_requests(&mut self) {
        if !IS_KEPT {
            return;
        }
        while let Some(gtid) = self.requests.touched.pop() {
            let Some(callers) = self.requests.callers.get(&gtid) else { continue };
            let machine = self.entries.get(&gtid).map(|entry| &entry.machine);
            let is_kept = |caller: &Caller| {
                self.requests.ambiguous.contains(caller)
                    || self.lookups.holds(gtid, *caller)
                    || machine.is_some_and(|machine| machine.callers().contains(caller))
            };
            if let Some(lost) = callers.iter().find(|caller| !is_kept(caller)) {
                let problem = format!("nothing is left that will answer {lost:?} about {gtid}");
                self.requests.violated(problem);
            }
        }
        if let Some(violation) = &self.requests.violation {
            panic!("{violation}");
        }
    }
}
