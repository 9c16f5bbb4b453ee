//! Initiators that went away.
//!
//! What has enlisted in a transaction holds its locks until the initiator commits or aborts. An
//! initiator that dies does neither, and the transaction's own timeout is long. So a transaction
//! that was begun over a session aborts when its initiator has no session for a while. The process
//! counts, not the session: one that dials again is back. Once the commit is asked for, the
//! initiator is not needed any more. Unary calls have no session that could end.

use super::entry::Timer;
use super::{Replica, SessionId};
use crate::ids::{Caller, Gtid, InstanceId};
use crate::two_phase::Event;

/// Nobody's session: the abort has no caller to answer.
const NOBODY: Caller = Caller { session: u64::MAX, request: 0 };

impl Replica {
    pub(super) fn note_initiator(&mut self, gtid: Gtid, caller: Caller) {
        let initiator = self.instance_of(SessionId(caller.session)).filter(|instance| *instance != InstanceId(0));
        if let Some(entry) = self.entries.get_mut(&gtid) {
            entry.initiator = initiator;
        }
    }

    /// A session of this process has ended.
    pub(super) fn initiator_left(&mut self, instance: InstanceId) {
        if instance == InstanceId(0) || self.peers.has_instance(instance) {
            return;
        }
        let mut left: Vec<Gtid> =
            self.entries.iter().filter(|(_, entry)| entry.initiator == Some(instance)).map(|(gtid, _)| *gtid).collect();
        left.sort_unstable();
        for gtid in left {
            if self.is_active(gtid) {
                self.set_timer(gtid, Timer::Initiator, self.limits.initiator_grace_ms, 0);
            }
        }
    }

    /// The grace is over. The initiator may have come back, and the commit may have been asked for.
    pub(super) fn initiator_stayed_away(&mut self, gtid: Gtid) {
        let Some(initiator) = self.entries.get(&gtid).and_then(|entry| entry.initiator) else { return };
        if self.peers.has_instance(initiator) || !self.is_active(gtid) {
            return;
        }
        let reason = format!(
            "the initiator's session ended, and it was not back within {} ms (limits.initiator_grace)",
            self.limits.initiator_grace_ms
        );
        self.drive_transaction(gtid, Event::AbortRequested { reason, caller: NOBODY });
        self.drive_transaction(gtid, Event::CallerLeft { session: NOBODY.session });
    }
}
