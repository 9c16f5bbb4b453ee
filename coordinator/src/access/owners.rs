//! Who began what: a transaction is ended by its initiator, or by an operator.
//!
//! It is in memory alone, for as many transactions as were begun last. One that is not there, because the replica has restarted or so many
//! were begun since, is an operator's to end; without either it goes on, or ends at its deadline.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use assent_proto::error::Reason;
use assent_proto::session::{Ask, Refused};
use assent_protocol::Gtid;
use assent_transport::{Identity, Role};

use super::{Caller, Proof, Right};

#[derive(Debug)]
pub(super) struct Owners {
    max: usize,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    owners: HashMap<Gtid, Arc<[Identity]>>,
    order: VecDeque<Gtid>,
}

/// Why a caller may ask what it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// Everyone who may make such a request may, or the transaction is the caller's own.
    Everyone,
    /// The transaction is another's, and the caller an operator.
    Operator,
}

impl Owners {
    pub(super) fn new(max: usize) -> Self {
        Self { max, entries: Mutex::default() }
    }

    /// Whether a caller may ask this of a transaction. What begins one makes it the caller's.
    pub(super) fn may_ask(&self, gtid: Gtid, ask: &Ask, caller: &Caller) -> Result<Leave, Refused> {
        if caller.proof() == Proof::None {
            return Ok(Leave::Everyone);
        }
        match ask {
            Ask::Begin { .. } | Ask::StartSaga { .. } => self.began(gtid, caller),
            Ask::Commit(commit) if !commit.begun => self.began(gtid, caller),
            Ask::Commit(_) => return self.may_end(gtid, "commit", caller),
            Ask::Abort { .. } => return self.may_end(gtid, "abort", caller),
            Ask::Await { .. } | Ask::Enlist { .. } => {}
        }
        Ok(Leave::Everyone)
    }

    /// Whether a caller is the initiator of a transaction.
    pub(super) fn is_own(&self, gtid: Gtid, caller: &Caller) -> bool {
        self.of(gtid)
            .is_some_and(|owner| owner.iter().filter(is_initiator).any(|identity| caller.identities.contains(identity)))
    }

    fn of(&self, gtid: Gtid) -> Option<Arc<[Identity]>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).owners.get(&gtid).cloned()
    }

    fn began(&self, gtid: Gtid, caller: &Caller) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.owners.contains_key(&gtid) {
            return;
        }
        if entries.order.len() >= self.max
            && let Some(oldest) = entries.order.pop_front()
        {
            entries.owners.remove(&oldest);
        }
        entries.order.push_back(gtid);
        entries.owners.insert(gtid, Arc::clone(&caller.identities));
    }

    fn may_end(&self, gtid: Gtid, what: &str, caller: &Caller) -> Result<Leave, Refused> {
        if self.is_own(gtid, caller) {
            return Ok(Leave::Everyone);
        }
        if caller.may(&Right::Operate) {
            return Ok(Leave::Operator);
        }
        let owner = self.of(gtid);
        let whose = match owner.as_deref().and_then(|owner| owner.iter().find(is_initiator)) {
            Some(owner) => format!("was begun by {owner}"),
            None => "was not begun by a caller that this replica remembers".to_owned(),
        };
        let message = format!(
            "{caller} lacks the right to operate, and transaction {gtid} {whose}: its initiator may {what} it, or an identity that has the \
             right to operate"
        );
        Err(Reason::PermissionDenied.refused(message))
    }
}

fn is_initiator(identity: &&Identity) -> bool {
    identity.role == Role::Initiator
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(identity: &str) -> Caller {
        Caller::of(&[identity.parse().expect("an identity")])
    }

    fn gtid() -> Gtid {
        Gtid::new(uuid::Uuid::now_v7()).expect("version 7")
    }

    #[test]
    fn a_transaction_is_its_initiators_or_an_operators_to_end() {
        let (owners, gtid, unknown) = (Owners::new(2), gtid(), gtid());
        let begin = Ask::Begin { timeout_ms: 0, protocol: assent_protocol::Protocol::TwoPhase, first_epoch: None };
        let abort = Ask::Abort { reason: String::new() };
        let (one, other) = (caller("initiator/one"), caller("initiator/other"));
        owners.may_ask(gtid, &begin, &one).expect("anyone begins");
        // To begin it again does not make it another's.
        owners.may_ask(gtid, &begin, &other).expect("anyone begins");
        assert_eq!(owners.may_ask(gtid, &abort, &one), Ok(Leave::Everyone), "its own");
        assert_eq!(owners.may_ask(gtid, &abort, &caller("operator/root")), Ok(Leave::Operator));
        assert!(owners.is_own(gtid, &one) && !owners.is_own(gtid, &other) && !owners.is_own(unknown, &one));
        let refused = owners.may_ask(gtid, &abort, &other).expect_err("another's");
        assert_eq!(refused.known_reason(), Some(Reason::PermissionDenied));
        assert!(refused.message.contains("begun by initiator/one"), "{refused}");
        assert!(owners.may_ask(unknown, &abort, &one).is_err());
        owners.may_ask(unknown, &abort, &Caller::anyone()).expect("nobody has to be anyone");
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let owners = Owners::new(2);
        let one = caller("initiator/one");
        let gtids = [gtid(), gtid(), gtid()];
        for gtid in gtids {
            owners.began(gtid, &one);
        }
        let kept = gtids.map(|gtid| owners.may_end(gtid, "abort", &one).is_ok());
        assert_eq!(kept, [false, true, true]);
    }
}
