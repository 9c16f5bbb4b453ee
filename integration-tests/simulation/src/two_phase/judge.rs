//! What must hold of all processes together, whenever; and the refinement of Gray and Lamport's TCommit.

use assent_protocol::{Decision, Outcome};

use super::world::{Action, Packet, Participant, Setup, World};

pub(crate) const I1: &str = "I1 no two branches end differently";
pub(crate) const I2: &str = "I2 commit only if every branch agreed";
pub(crate) const I3: &str = "I3 a decision never changes";
pub(crate) const I4: &str = "I4 nobody is told a decision that is not durable";
pub(crate) const I5: &str = "I5 what the initiator was told comes true";
pub(crate) const I6: &str = "I6 a branch that voted yes never ends by itself";
pub(crate) const I9: &str = "I9 forgotten only when every branch has ended";
pub(crate) const ONCE: &str = "work takes effect once";
pub(crate) const TCOMMIT: &str = "every step is one of TCommit, or none";
pub(crate) const INVARIANTS: [&str; 9] = [I1, I2, I3, I4, I5, I6, I9, ONCE, TCOMMIT];

/// The states of a resource manager in TCommit: J. Gray and L. Lamport, *Consensus on Transaction Commit*, 2004, figure 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rm {
    Working,
    Prepared,
    Committed,
    Aborted,
}

impl Participant {
    /// Its state in TCommit, read from its database alone.
    fn rm(&self) -> Rm {
        if self.applied > 0 {
            Rm::Committed
        } else if self.undone {
            Rm::Aborted
        } else if self.is_prepared || self.agreed {
            Rm::Prepared
        } else {
            Rm::Working
        }
    }
}

/// Whether TCommit allows the step, or nothing happened in its eyes. A branch that commits alone passes through prepared within one step.
fn refines(before: &World, after: &World) -> Result<(), String> {
    let (old, new): (Vec<Rm>, Vec<Rm>) = (
        before.participants.iter().map(Participant::rm).collect(),
        after.participants.iter().map(Participant::rm).collect(),
    );
    let moved: Vec<usize> = (0..old.len()).filter(|at| old[*at] != new[*at]).collect();
    let [at] = moved.as_slice() else {
        return if moved.is_empty() { Ok(()) } else { Err(format!("{old:?} became {new:?} in one step")) };
    };
    let others = || old.iter().enumerate().filter(|(other, _)| other != at).map(|(_, rm)| *rm);
    let can_commit = others().all(|rm| matches!(rm, Rm::Prepared | Rm::Committed));
    let not_committed = others().all(|rm| rm != Rm::Committed);
    let allowed = match (old[*at], new[*at]) {
        // Prepare(r)
        (Rm::Working, Rm::Prepared) => true,
        // Decide(r)
        (Rm::Prepared, Rm::Committed) => can_commit,
        (Rm::Working | Rm::Prepared, Rm::Aborted) => not_committed,
        // Prepare(r), Decide(r)
        (Rm::Working, Rm::Committed) => can_commit && old.len() == 1,
        _ => false,
    };
    if allowed { Ok(()) } else { Err(format!("{old:?} became {new:?}")) }
}

impl World {
    /// Does one step and judges what came of it. `None` if nothing did.
    pub(crate) fn step(&self, setup: &Setup, action: Action) -> Option<Self> {
        if self.broken.is_some() {
            return None;
        }
        let mut after = self.clone();
        let outcome = after.act(setup, action).and_then(|()| after.judge(self, setup));
        if let Err(broken) = outcome {
            after.broken = Some(broken);
        }
        (after != *self).then_some(after)
    }

    fn judge(&mut self, before: &Self, setup: &Setup) -> Result<(), (&'static str, String)> {
        let durable = self.log.decision().or(self.log.removed);
        let alone = setup.one_phase;
        if let (Some(first), Some(now)) = (self.decided, durable)
            && first != now
        {
            return Err((I3, format!("{first}, and then {now}")));
        }
        self.decided = self.decided.or(durable);
        let everybody = || self.participants.iter().enumerate();
        for (at, participant) in everybody() {
            if participant.applied > 1 {
                return Err((ONCE, format!("p{at} has committed {} times", participant.applied)));
            }
            // Who commits alone does so behind its delegation.
            let may_decide = alone && self.log.delegated.is_some();
            if participant.applied > 0 && durable != Some(Decision::Commit) && !may_decide {
                return Err((I4, format!("p{at} has committed, and the log has {durable:?}")));
            }
            if participant.undone && participant.told_yes && !participant.heard_abort {
                return Err((I6, format!("p{at} undid its work")));
            }
            let is_undone = participant.undone || !participant.agreed;
            if durable == Some(Decision::Commit) && is_undone {
                return Err((I2, format!("commit is durable, and p{at} {participant:?}")));
            }
            if self.told == Some(Outcome::Committed) && is_undone {
                return Err((I5, format!("committed was told, and p{at} {participant:?}")));
            }
            if self.told == Some(Outcome::Aborted) && participant.applied > 0 {
                return Err((I5, format!("aborted was told, and p{at} has committed")));
            }
            let is_forgotten = self.log.open.is_none() && durable == Some(Decision::Commit);
            if is_forgotten && participant.is_prepared {
                return Err((I9, format!("p{at} is still prepared")));
            }
        }
        if everybody().any(|(_, it)| it.applied > 0) && everybody().any(|(_, it)| it.undone) {
            return Err((I1, format!("{:?}", self.participants)));
        }
        if let (Some(told), Some(durable)) = (self.told, durable)
            && (told == Outcome::Committed) != (durable == Decision::Commit)
        {
            return Err((I5, format!("{told} was told, and {durable} is durable")));
        }
        let is_commit_out = self.net.iter().any(|packet| matches!(packet, Packet::Decide { commit: true, .. }));
        let somebody_has_work = everybody().any(|(_, it)| it.is_prepared || it.applied > 0);
        let is_commit_told = self.told == Some(Outcome::Committed) && somebody_has_work;
        // Who commits alone has decided by itself, and may be reminded of it.
        if !alone && (is_commit_out || is_commit_told) && durable != Some(Decision::Commit) {
            return Err((I4, format!("commit was told, and the log has {durable:?}")));
        }
        refines(before, self).map_err(|problem| (TCOMMIT, problem))
    }

    // ---- the end ---------------------------------------------------------------------------------------------------

    /// Faults stop: what is on its way is lost, and what is sent from now on arrives once.
    pub(crate) fn calm(&self, setup: &Setup, tell: &mut dyn FnMut(&Self, Action)) -> Result<(), String> {
        let mut world = self.clone();
        world.left = Default::default();
        world.net.clear();
        for _ in 0..400 {
            if world.has_ended() {
                return Ok(());
            }
            let mut actions = Vec::new();
            world.progress(setup, &mut actions);
            // What time repeats comes when nothing else does.
            actions.retain(|action| {
                !matches!(action, Action::Inquire { .. } | Action::Resend { .. } | Action::Join { .. })
            });
            let next = actions.into_iter().find_map(|action| {
                let mut after = world.step(setup, action);
                if let Action::Deliver(packet) | Action::Prepare { packet, .. } = action {
                    after.get_or_insert_with(|| world.clone()).net.remove(&packet);
                }
                let after = after?;
                tell(&after, action);
                Some(after)
            });
            world = next.unwrap_or_else(|| world.let_time_pass(setup, tell));
            if let Some((invariant, problem)) = &world.broken {
                return Err(format!("{invariant}: {problem}"));
            }
        }
        if world.has_ended() { Ok(()) } else { Err(format!("it does not end: {world:#?}")) }
    }

    /// Nothing happens by itself any more: time passes, and the initiator asks again.
    fn let_time_pass(&self, setup: &Setup, tell: &mut dyn FnMut(&Self, Action)) -> Self {
        let mut actions: Vec<_> = (0..self.participants.len()).map(|at| Action::Inquire { at }).collect();
        for replica in 0..self.replicas.len() {
            actions.push(Action::Deadline { replica });
            actions.push(Action::Resend { replica });
            actions.extend((0..self.participants.len()).map(|at| Action::Join { replica, at }));
        }
        if self.told.is_none() {
            let replica = usize::from(self.log.lives[0] == 0 && self.replicas.len() == 2);
            actions.push(Action::AskCommit { replica });
        }
        actions.into_iter().fold(self.clone(), |world, action| match world.step(setup, action) {
            Some(after) => {
                tell(&after, action);
                after
            }
            None => world,
        })
    }

    fn has_ended(&self) -> bool {
        self.told.is_some()
            && !self.log.is_open()
            && self.replicas.iter().flatten().all(|process| process.machine.is_none())
            && self.participants.iter().all(|it| it.is_up && it.branch.is_none() && !it.is_prepared)
    }
}
