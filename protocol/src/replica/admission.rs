//! What a replica takes on.

use super::Replica;
use super::entry::{Entry, Machine};
use super::owned::expect;
use super::saga::saga_wait;
use crate::digest;
use crate::ids::{Caller, Gtid, ParticipantName};
use crate::message::{Commit, Reason, Refused};
use crate::reason::{Refusal, Wait};
use crate::record::Protocol;
use crate::saga::{Definition, Saga};
use crate::three_phase::Coordinator;
use crate::two_phase::{CarriedBranch, Patience, TwoPhase};

impl Replica {
    /// Runs a commit request whose branches are all in it.
    pub(super) fn commit_anew(&mut self, gtid: Gtid, caller: Caller, commit: Commit) {
        if commit.branches.len() > self.limits.branches_max {
            return self.refuse(caller, self.too_many_branches());
        }
        let bytes = commit.branches.iter().map(|branch| branch.payload.len()).sum();
        match self.admit(bytes, commit.timeout_ms) {
            Err(refused) => self.refuse(caller, refused),
            Ok(timeout_ms) => {
                if let Some(twice) = first_duplicate(&commit.branches) {
                    return self.refuse(caller, Refusal::DuplicateBranch(twice));
                }
                if let Err(missing) = expect(&commit, std::iter::empty()) {
                    return self.refuse(caller, missing);
                }
                self.open_transaction(gtid, commit.protocol, timeout_ms, bytes);
                let event = self.commit_event(caller, commit);
                self.drive_transaction(gtid, event);
            }
        }
    }

    pub(super) fn start_saga(&mut self, gtid: Gtid, definition: Definition, wait: Wait, caller: Caller) {
        let bytes = definition.steps().iter().map(|step| step.input.len()).sum();
        if let Err(refused) = self.admit(bytes, 0) {
            return self.refuse(caller, refused);
        }
        if let Some(step) = definition.steps().iter().find(|step| !self.peers.is_known(&step.participant)) {
            let message = format!(
                "step {} is for participant {}, and none of that name has ever joined; check the name, or start it",
                step.name, step.participant
            );
            return self.refuse(caller, Reason::UnknownParticipant.refused(message));
        }
        let definition = definition.detached();
        let digest = digest::of_definition(&definition);
        let (machine, output) = Saga::start(gtid, self.epoch, definition, digest, self.now_ms, caller, saga_wait(wait));
        self.insert(gtid, Machine::Saga(Box::new(machine)), 0, bytes);
        self.put_out::<Saga>(gtid, output);
    }

    /// Whether there is room for another transaction; answers its timeout, in milliseconds.
    pub(super) fn admit(&self, bytes: usize, timeout_ms: u64) -> Result<u64, Refused> {
        if self.is_draining {
            return Err(Reason::Draining.refused("this replica is leaving; ask another, or this one when it is back"));
        }
        if self.entries.len() - self.presumed >= self.limits.open_max || self.bytes + bytes > self.limits.open_bytes_max
        {
            return Err(self.overloaded());
        }
        let timeout_max_ms = self.limits.timeout_max_ms;
        match timeout_ms {
            0 => Ok(self.limits.timeout_default_ms),
            _ if timeout_ms > timeout_max_ms => {
                let message = format!(
                    "a timeout of {timeout_ms} ms is over the {timeout_max_ms} ms of limits.timeout_max; ask for less, or raise it"
                );
                Err(Reason::InvalidTimeout.refused(message))
            }
            _ => Ok(timeout_ms),
        }
    }

    pub(super) fn overloaded(&self) -> Refused {
        let message = format!(
            "{} transactions with {} bytes of payload are open on this shard, as many as it may hold; try again",
            self.entries.len() - self.presumed,
            self.bytes
        );
        Reason::Overloaded.refused(message)
    }

    pub(super) fn open_transaction(&mut self, gtid: Gtid, protocol: Protocol, timeout_ms: u64, bytes: usize) {
        let begun_at_ms = self.now_ms;
        let patience = Patience { timeout_ms, absence_ms: self.limits.absence_ms.min(timeout_ms) };
        let deadline_unix_ms = begun_at_ms + timeout_ms;
        if protocol == Protocol::ThreePhase {
            let (node, log) = (self.next_node(), self.log_store);
            let (machine, output) = Coordinator::begin(gtid, self.epoch, begun_at_ms, patience, node, log);
            self.insert(gtid, Machine::ThreePhase(Box::new(machine)), deadline_unix_ms, bytes);
            self.put_out::<Coordinator>(gtid, output);
        } else {
            let (machine, output) = TwoPhase::begin(gtid, self.epoch, begun_at_ms, patience);
            self.insert(gtid, Machine::TwoPhase(machine), deadline_unix_ms, bytes);
            self.put_out::<TwoPhase>(gtid, output);
        }
    }

    pub(super) fn insert(&mut self, gtid: Gtid, machine: Machine, deadline_unix_ms: u64, bytes: usize) {
        self.bytes += bytes;
        self.counts.begun += 1;
        self.counts.open += 1;
        let is_presumed = machine.is_presumed();
        self.presumed += usize::from(is_presumed);
        let (initiator, failures) = (None, Vec::new());
        self.entries.insert(gtid, Entry { machine, deadline_unix_ms, initiator, bytes, failures, is_presumed });
    }
}

fn first_duplicate(branches: &[CarriedBranch]) -> Option<ParticipantName> {
    branches
        .iter()
        .enumerate()
        .find(|(at, branch)| branches[..*at].iter().any(|earlier| earlier.participant == branch.participant))
        .map(|(_, branch)| branch.participant.clone())
}
