//! What others may see of a transaction.

use super::{Branch, BranchState, State, TwoPhase};
use crate::ids::{BodyDigest, BranchId, Epoch, Gtid, ParticipantName};
use crate::reason::AbortReason;
use crate::record::{self, BranchEnd, Member, Outcome, Protocol};

impl TwoPhase {
    /// Its id.
    pub fn gtid(&self) -> Gtid {
        self.gtid
    }

    /// Under which epoch it is driven.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// The word for its state in the API and on screen.
    pub fn state_word(&self) -> &'static str {
        match self.state {
            State::Active => "active",
            State::Preparing | State::Delegating | State::OnePhase | State::Recalling | State::Deciding(_) => {
                "preparing"
            }
            State::Committing => "committing",
            State::Aborting => "aborting",
            State::Committed => "committed",
            State::Aborted => "aborted",
        }
    }

    /// Its branches, in roster order.
    pub fn branches(&self) -> &[Branch] {
        &self.branches
    }

    /// This very branch, if it stands in the roster.
    pub(super) fn find(&self, participant: &ParticipantName, id: BranchId) -> Option<&Branch> {
        self.branches.iter().find(|branch| branch.id == id && branch.participant == *participant)
    }

    /// Its roster, in order.
    pub fn members(&self) -> Vec<Member> {
        self.branches.iter().map(Branch::member).collect()
    }

    /// The branches that it told to commit, once it has committed under this protocol.
    pub fn told_to_commit(&self, protocol: Protocol) -> Vec<Member> {
        record::told_to_commit(protocol, Outcome::Committed, &self.ended_branches())
    }

    /// Why it aborts.
    pub fn reason(&self) -> Option<&AbortReason> {
        self.reason.as_ref()
    }

    /// The digest of the commit request, once there was one.
    pub fn digest(&self) -> Option<BodyDigest> {
        self.digest
    }

    /// When it began, in Unix milliseconds.
    pub fn begun_at_ms(&self) -> u64 {
        self.begun_at_ms
    }

    /// Whether nothing is left to do.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Committed | State::Aborted)
    }

    /// Whether another writer's decision stood in the log: its row, and its end, are that writer's.
    pub fn is_overruled(&self) -> bool {
        self.is_overruled
    }

    /// How often the order of the present state was repeated.
    pub fn resends(&self) -> u32 {
        self.resends
    }

    /// What it waits for, in plain words; empty when it has ended.
    pub fn waiting_for(&self) -> String {
        let who = |wanted: fn(BranchState) -> bool| {
            let names: Vec<&str> = self
                .branches
                .iter()
                .filter(|branch| wanted(branch.state))
                .map(|branch| branch.participant.as_str())
                .collect();
            names.join(", ")
        };
        match self.state {
            State::Active => "the initiator, to ask for commit or abort".to_owned(),
            State::Preparing => {
                let absent = who(|state| state == BranchState::Waiting);
                if absent.is_empty() {
                    format!("votes from {}", who(|state| state == BranchState::Asked))
                } else {
                    format!("an instance of {absent} to connect; start it, or wait for the abort")
                }
            }
            State::Delegating => "the log, to make the delegation to the only branch durable".to_owned(),
            State::OnePhase => format!("the outcome from {}", who(|state| state != BranchState::ReadOnly)),
            State::Recalling => format!(
                "{} to tell whether it has committed by itself; it is told to abort until it does",
                who(BranchState::needs_order)
            ),
            State::Deciding(_) => "the log, to make the decision durable".to_owned(),
            State::Committing => {
                format!("{} to commit; it is asked again until it does", who(BranchState::needs_order))
            }
            State::Aborting => format!("{} to abort; it is asked again until it does", who(BranchState::needs_order)),
            State::Committed | State::Aborted => String::new(),
        }
    }
}

impl BranchState {
    /// Whether the branch has to be told the decision.
    pub fn needs_order(self) -> bool {
        match self {
            Self::Asked | Self::Yes | Self::Unknown => true,
            Self::Named
            | Self::Waiting
            | Self::ReadOnly
            | Self::No
            | Self::Committed
            | Self::Aborted
            | Self::HeuristicCommitted
            | Self::HeuristicAborted
            | Self::Outside => false,
        }
    }

    /// How a branch of an ended transaction ended.
    pub fn end(self) -> BranchEnd {
        match self {
            Self::Named | Self::Waiting => BranchEnd::NotStarted,
            Self::ReadOnly => BranchEnd::ReadOnly,
            Self::No | Self::Aborted | Self::Outside => BranchEnd::Aborted,
            Self::Committed => BranchEnd::Committed,
            Self::HeuristicCommitted => BranchEnd::HeuristicCommitted,
            Self::HeuristicAborted => BranchEnd::HeuristicAborted,
            Self::Asked | Self::Yes | Self::Unknown => {
                unreachable!("a transaction ends only after every branch that needs an order has ended")
            }
        }
    }

    /// The word for it in the API and on screen.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Named => "named",
            Self::Waiting => "absent",
            Self::Asked => "preparing",
            Self::Yes => "prepared",
            Self::ReadOnly => "read_only",
            Self::No => "refused",
            Self::Unknown => "unknown",
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::HeuristicCommitted => "heuristic_committed",
            Self::HeuristicAborted => "heuristic_aborted",
            Self::Outside => "outside",
        }
    }
}
