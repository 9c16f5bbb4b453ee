//! What must be true whenever, and at the end.

use assent_protocol::two_phase::Timer;
use assent_protocol::{Decision, Outcome};

use super::{Action, Faults, Participant, World};
use crate::participant::{Behaviour, Instance};

impl World {
    /// I1, I2, I3, I5 and I6, as the participants' databases and the initiator see them.
    pub(super) fn check(&self) -> Result<(), String> {
        let decision = self.log.decision();
        let alone = self.setup.one_phase && !self.setup.is_begun && self.participants.len() == 1;
        for Participant { name, behaviour, resource, .. } in &self.participants {
            let broken = |problem: &str| Err(format!("{name}: {problem}: {resource:?}, {decision:?}"));
            if resource.applied > 1 {
                return broken("its work took effect twice");
            }
            let must_commit = behaviour.has_work();
            // Another branch that it holds prepared is not what was decided.
            let members = self.log.members();
            let is_prepared =
                members.iter().any(|it| it.participant == *name && resource.prepared.contains(&it.branch));
            match decision {
                Some(Decision::Commit) if must_commit && !is_prepared && resource.applied == 0 => {
                    return broken("commit is durable, and its work is gone (I2, I6)");
                }
                Some(Decision::Commit) if !must_commit && *behaviour != Behaviour::ReadOnly => {
                    return broken("commit is durable, and it did not agree (I2)");
                }
                Some(Decision::Abort) if resource.applied > 0 => {
                    return broken("abort is durable, and it committed (I1)");
                }
                None if resource.applied > 0 && !alone => return broken("it committed, and nothing is durable (I4)"),
                Some(Decision::Commit | Decision::Abort) | None => {}
            }
            match self.initiator.told.first() {
                Some(Outcome::Committed) if must_commit && resource.applied == 0 && !is_prepared => {
                    return broken("the initiator was told committed (I5)");
                }
                Some(Outcome::Aborted) if resource.applied > 0 => {
                    return broken("the initiator was told aborted (I5)");
                }
                Some(_) | None => {}
            }
        }
        match (self.initiator.told.as_slice(), decision) {
            ([first, rest @ ..], _) if rest.iter().any(|other| other != first) => {
                Err(format!("the initiator was told {:?} (I3, I11)", self.initiator.told))
            }
            ([Outcome::Committed, ..], Some(Decision::Abort)) | ([Outcome::Aborted, ..], Some(Decision::Commit)) => {
                Err(format!("the initiator was told {:?}, and {decision:?} is durable (I5)", self.initiator.told))
            }
            _ => Ok(()),
        }
    }

    // ---- the end ---------------------------------------------------------------------------------------------------

    pub(super) fn rise(&mut self) -> Result<(), String> {
        while let Some(&action) = self.recovery().first() {
            self.step(action)?;
        }
        Ok(())
    }

    /// Faults stop, time passes, and everything ends (I12).
    ///
    /// # Errors
    /// What was broken, or has not ended.
    pub(crate) fn calm(&mut self) -> Result<(), String> {
        self.left = Faults::NONE;
        for round in 0..12 {
            self.rise()?;
            for _ in 0..1_000 {
                let Some(&action) = self.progress().first() else { break };
                self.step(action)?;
            }
            if let Err(problem) = self.has_ended()
                && round == 11
            {
                return Err(format!("it does not end (I12): {problem}"));
            }
            self.let_time_pass(round)?;
        }
        self.has_ended()
    }

    /// Every timer fires; the deadline only when nothing else has helped.
    fn let_time_pass(&mut self, round: usize) -> Result<(), String> {
        for place in self.places() {
            let timers: Vec<_> = self.instance(place).map(|it| it.timers().collect()).unwrap_or_default();
            for (branch, timer) in timers {
                self.step(Action::BranchTimerFires { place, branch, timer })?;
            }
        }
        for replica in 0..self.replicas.len() {
            let timers = self.replicas[replica].as_ref().map(|it| it.timers.clone()).unwrap_or_default();
            for timer in timers.into_iter().filter(|timer| *timer != Timer::Deadline || round > 3) {
                self.step(Action::TimerFires { replica, timer })?;
            }
        }
        Ok(())
    }

    fn has_ended(&self) -> Result<(), String> {
        for (at, replica) in self.replicas.iter().enumerate() {
            if let Some(machine) = replica.as_ref().and_then(|replica| replica.machine.as_ref()) {
                return Err(format!("replica {at} still waits for {}", machine.waiting_for()));
            }
        }
        for place in self.places() {
            if self.instance(place).is_some_and(Instance::has_branch) {
                return Err(format!("{} has not ended", self.participants[place.0].name));
            }
        }
        if self.log.open.is_some() || self.log.delegated.is_some() {
            return Err("the log has it open".to_owned());
        }
        if self.initiator.told.is_empty() {
            return Err("the initiator was told nothing".to_owned());
        }
        let is_committed = self.initiator.told == [Outcome::Committed];
        for Participant { name, behaviour, resource, .. } in &self.participants {
            if !resource.prepared.is_empty() {
                return Err(format!("{name} is still prepared"));
            }
            if is_committed && behaviour.has_work() && resource.applied != 1 {
                return Err(format!("{name} has not committed"));
            }
        }
        Ok(())
    }
}
