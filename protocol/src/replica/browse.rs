//! Looking through the transactions in memory, a page at a time.
//!
//! A shard does nothing else meanwhile, and may hold a hundred thousand transactions: so it looks
//! at each only as closely as the question asks, and makes views of no more than fit on the page.

use std::cmp::Reverse;

use super::entry::{Entry, Machine};
use super::{Replica, TransactionView};
use crate::ids::{Gtid, ParticipantName};
use crate::record::Protocol;

/// Which transactions in memory are wanted, from the newest gtid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Browse {
    /// Those that have ended and whose end is on its way to the log, or those that have not.
    pub is_ended: bool,
    /// Only those with a lower gtid.
    pub before: Option<Gtid>,
    /// In this state, by its word.
    pub state: Option<String>,
    /// With a branch or step at this participant.
    pub participant: Option<ParticipantName>,
    /// Under this protocol.
    pub protocol: Option<Protocol>,
    /// Begun before this time, in Unix milliseconds.
    pub begun_before_ms: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

impl Browse {
    fn takes(&self, gtid: Gtid, entry: &Entry) -> bool {
        let has_protocol = |protocol| self.protocol.is_none_or(|wanted| wanted == protocol);
        let began = |begun_at_ms| self.begun_before_ms.is_none_or(|before_ms| begun_at_ms < before_ms);
        let is_in = |word: &str| self.state.as_deref().is_none_or(|state| state == word);
        let is_of =
            |participant: &ParticipantName| self.participant.as_ref().is_none_or(|wanted| wanted == participant);
        if entry.machine.is_ended() != self.is_ended || self.before.is_some_and(|before| gtid >= before) {
            return false;
        }
        match &entry.machine {
            Machine::TwoPhase(_) | Machine::ThreePhase(_) => entry.machine.transaction().is_some_and(|machine| {
                has_protocol(entry.machine.protocol())
                    && began(machine.begun_at_ms())
                    && is_in(machine.state_word())
                    && (self.participant.is_none()
                        || machine.branches().iter().any(|branch| is_of(&branch.participant)))
            }),
            Machine::Saga(machine) => {
                let steps = machine.definition().steps();
                has_protocol(Protocol::Saga)
                    && began(machine.begun_at_ms())
                    && (self.participant.is_none() || steps.iter().any(|step| is_of(&step.participant)))
                    // Last, because it makes a picture of every step.
                    && (self.state.is_none() || is_in(machine.view().state))
            }
        }
    }
}

impl Replica {
    /// This shard's part of the page.
    pub fn browse(&self, browse: &Browse) -> Vec<TransactionView> {
        let taken = self.entries.iter().filter(|(gtid, entry)| browse.takes(**gtid, entry));
        let mut gtids: Vec<Gtid> = taken.map(|(gtid, _)| *gtid).collect();
        if gtids.len() > browse.limit {
            gtids.select_nth_unstable_by_key(browse.limit, |gtid| Reverse(*gtid));
            gtids.truncate(browse.limit);
        }
        let views =
            gtids.into_iter().filter_map(|gtid| Some(TransactionView::of(gtid, self.entries.get(&gtid)?, &self.peers)));
        views.collect()
    }
}
