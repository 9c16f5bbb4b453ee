//! Before the first prepare: who votes is found out, and frozen.

use super::super::roster::{Roster, Seat};
use super::{Coordinator, Draft, Introduction};
use crate::ids::ParticipantName;
use crate::reason::{AbortCode, AbortReason};
use crate::record::{Decision, Member};
use crate::two_phase::{self, BranchState, Route};

impl Coordinator {
    pub(super) fn introduced(&mut self, participant: &ParticipantName, introduction: Introduction, draft: &mut Draft) {
        // Once the roster is frozen, nobody's introduction counts any more. That a participant has no voter now says nothing about what
        // its voter has said: to abort for it would be to end alone what the voters decide.
        if self.roster.is_some() {
            return;
        }
        let to = match introduction {
            Introduction::Voter { address, store } => {
                self.voters.insert(participant.clone(), (address, store));
                return self.freeze(draft);
            }
            Introduction::Unknown => Route::Unknown,
            Introduction::Absent => Route::Absent,
            Introduction::NoVoter => {
                let message = "it has no voter, and three-phase commit needs one; give its SDK a store for it, or commit with two phases";
                let reason = AbortReason::by(AbortCode::VoterMissing, participant, message);
                let output = self.transaction.agreed(Decision::Abort, Some(reason));
                return self.relay(output, draft);
            }
        };
        let routed = two_phase::Event::Routed { participant: participant.clone(), to };
        let output = self.transaction.handle(routed);
        self.relay(output, draft);
    }

    /// Fixes the roster and sends the first prepare, once everybody who is to be asked is known.
    pub(super) fn freeze(&mut self, draft: &mut Draft) {
        if self.roster.is_some() || self.transaction.state() != two_phase::State::Preparing {
            return;
        }
        let asked = |state| matches!(state, BranchState::Asked | BranchState::Waiting);
        let mut seats = Vec::new();
        for branch in self.transaction.branches().iter().filter(|branch| asked(branch.state)) {
            match self.voters.get(&branch.participant) {
                Some((address, store)) if branch.state == BranchState::Asked => {
                    let Member { participant, branch } = branch.member();
                    seats.push(Seat { participant, branch, address: address.clone(), store: *store });
                }
                Some(_) | None => return,
            }
        }
        let Ok(roster) = Roster::new(seats, self.log_store) else { return };
        self.voters.clear();
        for branch in self.transaction.branches().iter().filter(|branch| asked(branch.state)) {
            let (member, payload) = (branch.member(), branch.payload.clone());
            draft.effects.push(self.prepare(member, branch.instance, payload, roster.clone()));
        }
        self.roster = Some(roster);
    }
}
