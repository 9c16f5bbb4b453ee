//! What operators and unary callers see of a transaction in memory.

use bytes::Bytes;

use super::entry::{Entry, Machine};
use super::peers::Peers;
use crate::ids::{BranchId, Gtid, ParticipantName};
use crate::reason::AbortReason;
use crate::record::Protocol;
use crate::saga::{Saga, View, WaitsFor};
use crate::three_phase::VoterName;
use crate::three_phase::leader::Heard;
use crate::two_phase::TwoPhase;

/// A transaction in memory, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionView {
    /// Which.
    pub gtid: Gtid,
    /// Under which protocol.
    pub protocol: Protocol,
    /// Its state, in the API's word.
    pub state: &'static str,
    /// Why it aborts or compensates.
    pub reason: Option<AbortReason>,
    /// When it began, in Unix milliseconds.
    pub begun_at_ms: u64,
    /// When it aborts by itself, in Unix milliseconds; `None` where it does not.
    pub deadline_unix_ms: Option<u64>,
    /// Its branches or steps.
    pub branches: Vec<BranchView>,
    /// What it waits for and who must act; empty when it has ended.
    pub waiting_for: String,
}

/// A branch or saga step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchView {
    /// Whose.
    pub participant: ParticipantName,
    /// Which of the participant's branches; [`BranchId::NONE`] for a step.
    pub branch: BranchId,
    /// The saga step's name.
    pub step: Option<ParticipantName>,
    /// Its state, in the API's word.
    pub state: &'static str,
    /// How often it was asked in its present state.
    pub attempts: u32,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
    /// When the replica heard of that, in Unix milliseconds; `None` where it does not note the time.
    pub last_error_at_ms: Option<u64>,
    /// Since when no instance of the participant is connected, in Unix milliseconds; `None` if one
    /// is.
    pub absent_since_ms: Option<u64>,
    /// A completed step's output.
    pub output: Bytes,
}

impl TransactionView {
    pub(super) fn of(gtid: Gtid, entry: &Entry, peers: &Peers) -> Self {
        let mut view = Self::of_machine(gtid, entry);
        for branch in &mut view.branches {
            branch.absent_since_ms = peers.absent_since_ms(&branch.participant);
        }
        view
    }

    fn of_machine(gtid: Gtid, entry: &Entry) -> Self {
        match &entry.machine {
            Machine::TwoPhase(machine) => Self::of_transaction(gtid, entry, machine),
            Machine::ThreePhase(coordinator) => {
                let mut view = Self::of_transaction(gtid, entry, coordinator.transaction());
                view.protocol = Protocol::ThreePhase;
                view.waiting_for = coordinator.waiting_for();
                if let Some(leader) = coordinator.leader() {
                    view.deadline_unix_ms = None;
                    for (voter, heard) in leader.heard() {
                        let branch = view.branches.iter_mut().find(
                            |branch| matches!(&voter, VoterName::Participant(name) if *name == branch.participant),
                        );
                        if let Some(branch) = branch {
                            branch.attempts = leader.failures() + 1;
                            let (state, error) = heard_from(heard, branch.state);
                            branch.state = state;
                            if error.is_some() {
                                (branch.last_error, branch.last_error_at_ms) = (error, None);
                            }
                        }
                    }
                }
                view
            }
            Machine::Saga(machine) => Self::of_saga(gtid, machine),
        }
    }

    fn of_transaction(gtid: Gtid, entry: &Entry, machine: &TwoPhase) -> Self {
        Self {
            gtid,
            protocol: Protocol::TwoPhase,
            state: machine.state_word(),
            reason: machine.reason().cloned(),
            begun_at_ms: machine.begun_at_ms(),
            deadline_unix_ms: matches!(machine.state_word(), "active" | "preparing")
                .then_some(entry.deadline_unix_ms)
                .filter(|deadline| *deadline > 0),
            branches: machine
                .branches()
                .iter()
                .map(|branch| {
                    let failure = entry.failures.iter().find(|failure| branch.is(&failure.member));
                    BranchView {
                        participant: branch.participant.clone(),
                        branch: branch.id,
                        step: None,
                        state: branch.state.as_str(),
                        attempts: if branch.state.needs_order() { machine.resends() + 1 } else { 0 },
                        last_error: failure.map(|failure| failure.error.clone()),
                        last_error_at_ms: failure.map(|failure| failure.at_ms),
                        absent_since_ms: None,
                        output: Bytes::new(),
                    }
                })
                .collect(),
            waiting_for: machine.waiting_for(),
        }
    }

    fn of_saga(gtid: Gtid, machine: &Saga) -> Self {
        let view = machine.view();
        Self {
            gtid,
            protocol: Protocol::Saga,
            state: view.state,
            reason: view.reason.as_deref().map(AbortReason::from_line),
            begun_at_ms: machine.begun_at_ms(),
            deadline_unix_ms: None,
            waiting_for: saga_waits(&view),
            branches: view
                .steps
                .into_iter()
                .map(|step| BranchView {
                    participant: step.participant,
                    branch: BranchId::NONE,
                    step: Some(step.name),
                    state: step.state.as_str(),
                    attempts: step.attempt,
                    last_error: step.last_error,
                    last_error_at_ms: None,
                    absent_since_ms: None,
                    output: Bytes::new(),
                })
                .collect(),
        }
    }

    /// Whether it has ended.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, "committed" | "aborted" | "completed" | "compensated")
    }
}

/// Where a voter stands as far as the leader has heard, and what keeps it from voting.
fn heard_from(heard: Heard, otherwise: &'static str) -> (&'static str, Option<String>) {
    match heard {
        Heard::Nothing | Heard::Rejected => (otherwise, None),
        Heard::Joined { standing, .. } => (standing.as_str(), None),
        Heard::Accepted => ("accepted", None),
        Heard::Barred(bar) => (otherwise, Some(format!("{}: {bar}", bar.code()))),
    }
}

/// The remedy where a human must act, else what each unfinished step waits for.
fn saga_waits(view: &View) -> String {
    if let Some(remedy) = &view.remedy {
        return remedy.clone();
    }
    match &view.waits_for {
        WaitsFor::Nothing => String::new(),
        WaitsFor::Steps => {
            let steps: Vec<String> = view
                .steps
                .iter()
                .filter(|step| !matches!(step.waits_for, WaitsFor::Nothing | WaitsFor::These(_)))
                .map(|step| format!("step {} at {}: {}", step.name, step.participant, step.waits_for))
                .collect();
            steps.join("; ")
        }
        other @ (WaitsFor::These(_)
        | WaitsFor::Pivots(_)
        | WaitsFor::Answer
        | WaitsFor::Retry
        | WaitsFor::Participant
        | WaitsFor::Log
        | WaitsFor::Human) => other.to_string(),
    }
}
