//! Looking through the transactions in memory, a page at a time.
//!
//! A shard does nothing else meanwhile, and may hold a hundred thousand transactions: so it looks at each only as closely as the
//! question asks, and makes views of no more than fit on the page.

use std::cmp::Reverse;

use assent_protocol::{Gtid, ParticipantName, Protocol};

use super::Driver;
use super::Input;
use super::entry::{Entry, Machine};
use super::shard::Shard;
use super::view::TransactionView;
use tokio::sync::oneshot;

/// Which transactions in memory are wanted, from the newest gtid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Browse {
    /// Those that have ended and whose end is on its way to the log, or those that have not.
    pub(crate) is_ended: bool,
    /// Only those with a lower gtid.
    pub(crate) before: Option<Gtid>,
    /// In this state, by its word.
    pub(crate) state: Option<String>,
    /// With a branch or step at this participant.
    pub(crate) participant: Option<ParticipantName>,
    /// Under this protocol.
    pub(crate) protocol: Option<Protocol>,
    /// Begun before this time, in Unix milliseconds.
    pub(crate) begun_before_ms: Option<u64>,
    /// At most so many.
    pub(crate) limit: usize,
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

impl Shard {
    /// This shard's part of the page.
    pub(super) fn browse(&self, browse: &Browse) -> Vec<TransactionView> {
        let taken = self.entries.iter().filter(|(gtid, entry)| browse.takes(**gtid, entry));
        let mut gtids: Vec<Gtid> = taken.map(|(gtid, _)| *gtid).collect();
        if gtids.len() > browse.limit {
            gtids.select_nth_unstable_by_key(browse.limit, |gtid| Reverse(*gtid));
            gtids.truncate(browse.limit);
        }
        let views = gtids.into_iter().filter_map(|gtid| Some(TransactionView::of(gtid, self.entries.get(&gtid)?)));
        views.collect()
    }
}

impl Driver {
    /// A page of the transactions in memory, newest gtid first.
    pub(crate) async fn browse(&self, browse: &Browse) -> Vec<TransactionView> {
        let mut found = Vec::new();
        for shard in 0..self.shard_count() {
            let (answer, views) = oneshot::channel();
            self.give(shard, Input::Browse { browse: browse.clone(), answer }).await;
            found.extend(views.await.unwrap_or_default());
        }
        found.sort_by_key(|view| Reverse(view.gtid));
        found.truncate(browse.limit);
        found
    }
}
