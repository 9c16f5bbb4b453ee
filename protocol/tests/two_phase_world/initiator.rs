//! The initiator: it asks until it is told.

use assent_protocol::two_phase::Reply;
use assent_protocol::{Outcome, Refusal};

/// What the initiator knows. It lives longer than every fault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Initiator {
    pub(crate) is_begun: bool,
    /// How often commit was asked for.
    pub(crate) attempts: u32,
    /// The request in flight, if its session is up.
    pub(crate) waits_for: Option<u64>,
    next_request: u64,
    /// It has asked to abort.
    pub(crate) wants_abort: bool,
    /// What it was told, in order.
    pub(crate) told: Vec<Outcome>,
}

impl Initiator {
    pub(crate) fn next_request(&mut self) -> u64 {
        self.next_request += 1;
        self.waits_for = Some(self.next_request);
        self.next_request
    }

    /// Takes an answer.
    ///
    /// # Errors
    /// If it is none that can be given.
    pub(crate) fn hear(&mut self, request: u64, reply: Option<Reply>) -> Result<(), String> {
        if self.waits_for == Some(request) {
            self.waits_for = None;
        }
        match reply {
            // It has to ask for commit again to learn more.
            None => {}
            Some(Reply::Begun) => self.is_begun = true,
            Some(Reply::Outcome { outcome, .. }) => self.told.push(outcome),
            // Its begin was repeated although it was answered, beside the commit.
            Some(Reply::Refused(Refusal::RosterFrozen { .. })) => {}
            Some(Reply::Enlisted | Reply::Refused(_)) => {
                return Err(format!("request {request} was answered {reply:?}"));
            }
        }
        Ok(())
    }
}
