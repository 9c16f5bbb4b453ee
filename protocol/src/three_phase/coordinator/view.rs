//! What others may see of a three-phase transaction.

use super::super::{Leader, Roster, VoterState};
use super::{Appending, Coordinator, Stage};
use crate::two_phase::TwoPhase;

impl Coordinator {
    /// The two-phase machine within: branches, callers, the state in the API's words.
    pub fn transaction(&self) -> &TwoPhase {
        &self.transaction
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The frozen roster, once prepare has started.
    pub fn roster(&self) -> Option<&Roster> {
        self.roster.as_ref()
    }

    /// The leader at work, while the voters are to agree.
    pub fn leader(&self) -> Option<&Leader> {
        self.leader.as_ref()
    }

    /// What the log keeps as a voter, once what is on its way there is through.
    pub fn log_state(&self) -> Option<VoterState> {
        self.log
    }

    /// Whether the log has what the voters agreed on.
    pub fn is_decision_logged(&self) -> bool {
        self.is_decision_logged
    }

    /// Whether nothing is left to do, so that it may be forgotten.
    pub fn is_ended(&self) -> bool {
        self.transaction.is_ended() && self.end.is_none() && self.appending.is_none()
    }

    /// What it waits for, in plain words; empty when it has ended.
    pub fn waiting_for(&self) -> String {
        let log = "the log, to make the decision durable; the branches know it already";
        match self.stage {
            Stage::Voting => self.transaction.waiting_for(),
            Stage::Attempting => "the log, to make the first attempt durable".to_owned(),
            Stage::Agreeing => self.leader.as_ref().map(Leader::waiting_for).unwrap_or_default(),
            Stage::Agreed(_) if self.end.is_some() || self.appending == Some(Appending::End) => log.to_owned(),
            Stage::Agreed(_) => self.transaction.waiting_for(),
        }
    }
}
