//! The steps of sagas: a participant's side of them, and what must hold of them.

use std::collections::BTreeMap;

use assent_protocol::message::{FromClient, FromReplica, Reply, StepAnswer, StepOrder};
use assent_protocol::replica::SessionId;
use assent_protocol::saga::{Definition, StepIndex, StepResult};
use assent_protocol::{Epoch, Gtid, Name, Outcome};
use bytes::Bytes;

use super::initiator::{Conclusion, Shape, Stage, Wish};
use super::world::World;

/// What a participant's database has of a step, with the SDK's barrier around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) effect: bool,
    /// Compensated: the action does nothing any more.
    closed: bool,
    /// Finally refused: attempts up to this one, by epoch and number, do nothing any more.
    refused_up_to: (Epoch, u32),
}

/// The places of a participant's steps.
pub(crate) type Places = BTreeMap<(Gtid, StepIndex), Place>;

/// A hook that runs: the action of a step, or its compensation.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) gtid: Gtid,
    pub(crate) step: StepIndex,
    pub(crate) compensation: bool,
    pub(crate) pivot: bool,
    /// The order that it was called with.
    called: (Epoch, u32),
    /// The latest order, which the answer is for, and the session that brought it.
    latest: (Epoch, u32),
    session: SessionId,
}

/// How a step's hook turns out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Done,
    /// The work is refused, and nothing is kept of that.
    Refused,
    /// The same of a pivot, for all attempts up to this one.
    FinallyRefused,
    /// An error before anything took effect.
    FailsBefore,
    /// An error after everything took effect.
    FailsAfter,
}

impl Place {
    fn executes(&mut self, running: &Running, verdict: Verdict, output: Bytes) -> (StepResult, bool) {
        let refused = |is_final| (StepResult::Refused("no".into()), is_final);
        let error = (StepResult::Unknown("error".into()), false);
        if verdict == Verdict::FailsBefore {
            error
        } else if self.closed || running.pivot && !self.effect && running.called <= self.refused_up_to {
            refused(running.pivot)
        } else if self.effect {
            // A barrier answers so whatever the work would say.
            if verdict == Verdict::FailsAfter { error } else { (StepResult::Done(output), false) }
        } else {
            match verdict {
                Verdict::Refused => refused(false),
                Verdict::FinallyRefused => {
                    self.refused_up_to = running.called;
                    refused(true)
                }
                Verdict::Done | Verdict::FailsAfter | Verdict::FailsBefore => {
                    self.effect = true;
                    if verdict == Verdict::FailsAfter { error } else { (StepResult::Done(output), false) }
                }
            }
        }
    }

    fn compensates(&mut self, verdict: Verdict) -> StepResult {
        match verdict {
            Verdict::FailsBefore => StepResult::Unknown("error".into()),
            Verdict::Refused | Verdict::FinallyRefused if !self.closed => StepResult::Refused("no".into()),
            Verdict::Done | Verdict::FailsAfter | Verdict::Refused | Verdict::FinallyRefused => {
                (self.effect, self.closed) = (false, true);
                let is_lost = verdict == Verdict::FailsAfter;
                if is_lost { StepResult::Unknown("error".into()) } else { StepResult::Done(Bytes::new()) }
            }
        }
    }
}

/// What a step gives back.
fn output_of(name: &Name) -> Bytes {
    Bytes::copy_from_slice(name.as_str().as_bytes())
}

impl World {
    /// The saga of a gtid.
    pub(super) fn saga(&self, gtid: Gtid) -> Option<&Definition> {
        self.wishes.iter().find(|wish| wish.gtid == gtid).and_then(|wish| match &wish.shape {
            Shape::Saga { definition, .. } => Some(definition),
            Shape::Carried { .. } | Shape::Begun { .. } => None,
        })
    }

    /// What the database of its participant has of a step.
    fn place(&self, gtid: Gtid, definition: &Definition, step: StepIndex) -> Place {
        let participant = &definition.step(step).participant;
        let bank = self.banks.iter().find(|bank| bank.name == *participant);
        bank.and_then(|bank| bank.database.steps.get(&(gtid, step))).copied().unwrap_or_default()
    }

    // ---- what a participant does -----------------------------------------------------------------------------------

    /// An order reaches an instance. One that repeats a hook that still runs is answered when that
    /// one ends.
    pub(super) fn step_is_ordered(&mut self, bank: usize, instance: usize, session: SessionId, message: FromReplica) {
        let (order, compensation, pivot) = match message {
            FromReplica::ExecuteStep { order, outputs, pivot } => {
                if let Some((name, output)) = outputs.iter().find(|(name, output)| *output != output_of(name)) {
                    self.broken = Some(format!("the output of {name} is handed on as {output:?}"));
                }
                (order, false, pivot)
            }
            FromReplica::CompensateStep { order, output } => {
                if output.is_some_and(|output| output != output_of(&order.name)) {
                    self.broken = Some(format!("the output of {} is not what it is asked to undo", order.name));
                }
                (order, true, false)
            }
            other => {
                self.broken = Some(format!("{other:?} orders no step"));
                return;
            }
        };
        let StepOrder { gtid, epoch, step, attempt, .. } = order;
        let Some(process) = &mut self.banks[bank].instances[instance] else { return };
        let order = (epoch, attempt);
        let is_the_same =
            |other: &&mut Running| (other.gtid, other.step, other.compensation) == (gtid, step, compensation);
        match process.steps.iter_mut().find(is_the_same) {
            Some(running) if running.latest < order => (running.latest, running.session) = (order, session),
            Some(_) => {}
            None => {
                process.steps.push(Running { gtid, step, compensation, pivot, called: order, latest: order, session })
            }
        }
    }

    /// A step's hook comes to its end. The answer goes back over the session of the latest order.
    pub(super) fn step_returns(&mut self, bank: usize, instance: usize, at: usize, verdict: Verdict) {
        let Some(process) = &mut self.banks[bank].instances[instance] else { return };
        if at >= process.steps.len() {
            return;
        }
        let running = process.steps.remove(at);
        let Running { gtid, step, compensation, called, latest, session, .. } = running;
        let Some(definition) = self.saga(gtid) else { return };
        let order_is_kept = self.keeps_the_order(gtid, definition, step, compensation);
        let output = output_of(&definition.step(step).name);
        let before = self.place(gtid, definition, step);
        let place = self.banks[bank].database.steps.entry((gtid, step)).or_default();
        let (result, is_final) =
            if compensation { (place.compensates(verdict), false) } else { place.executes(&running, verdict, output) };
        if *place != before
            && place.effect != before.effect
            && let Err(problem) = order_is_kept
        {
            self.broken = Some(problem);
        }
        let (epoch, attempt) = latest;
        // A hook refuses for the attempts up to its own.
        let is_final = is_final && called == latest;
        let answer = StepAnswer { gtid, step, compensation, attempt, epoch, result, is_final };
        let open = self.sessions.iter_mut().find(|open| open.id == session && open.is_open_at_client);
        if let Some(open) = open.filter(|open| !open.is_broken) {
            open.to_replica.push_back(FromClient::Step(answer));
        }
    }

    // ---- what must hold --------------------------------------------------------------------------------------------

    /// A step takes effect after everything it depends on, and is undone after everything that
    /// depends on it.
    fn keeps_the_order(
        &self,
        gtid: Gtid,
        definition: &Definition,
        step: StepIndex,
        compensation: bool,
    ) -> Result<(), String> {
        let has_effect = |step: StepIndex| self.place(gtid, definition, step).effect;
        let after = &definition.step(step).after;
        if !compensation && let Some(open) = after.iter().find(|before| !has_effect(**before)) {
            return Err(format!("I10 step {step:?} takes effect, and {open:?} before it has none"));
        }
        let indices = || (0..definition.steps().len() as u16).map(StepIndex);
        let behind = indices().filter(|index| definition.step(*index).after.contains(&step));
        if compensation && let Some(late) = behind.into_iter().find(|late| has_effect(*late)) {
            return Err(format!("I10 step {step:?} is undone, and {late:?} behind it still has its effect"));
        }
        Ok(())
    }

    /// What the initiator was told of a saga is true of every database.
    pub(super) fn judge_told(&self, wish: &Wish) -> Result<(), String> {
        let (Shape::Saga { definition, .. }, Stage::Concluded(conclusion)) = (&wish.shape, wish.stage) else {
            return Ok(());
        };
        let wanted = conclusion == Conclusion::Committed;
        for (at, step) in definition.steps().iter().enumerate() {
            let place = self.place(wish.gtid, definition, StepIndex(at as u16));
            if place.effect != wanted {
                return Err(format!(
                    "I5 what the initiator was told comes true: it was told {conclusion:?} of {}, and {} has {place:?}",
                    wish.gtid, step.name
                ));
            }
        }
        Ok(())
    }

    /// What is told of a saga is durable when it is told.
    pub(super) fn judge_reply(&self, gtid: Gtid, reply: &Reply) -> Result<(), String> {
        let outcome = self.log.outcomes.get(&gtid).copied();
        let is_durable = match reply {
            Reply::Outcome { outcome: told @ (Outcome::Completed | Outcome::Compensated), outputs, .. } => {
                if let Some((name, output)) = outputs.iter().find(|(name, output)| *output != output_of(name)) {
                    return Err(format!("the output of {name} is told to be {output:?}"));
                }
                outcome == Some(*told)
            }
            Reply::SagaStarted => outcome.is_some() || self.log.open.contains_key(&gtid),
            Reply::SagaTurned { .. } => self.log.turned.contains(&gtid),
            Reply::Outcome { .. } | Reply::Begun { .. } | Reply::Enlisted | Reply::Refused(_) => true,
        };
        if is_durable { Ok(()) } else { Err(format!("I4 nobody is told what is not durable: {reply:?}")) }
    }

    /// After every step of the world.
    pub(super) fn judge_sagas(&self) -> Result<(), String> {
        for wish in &self.wishes {
            let (gtid, Shape::Saga { definition, .. }) = (wish.gtid, &wish.shape) else { continue };
            let outcome = self.log.outcomes.get(&gtid).copied();
            let has_turned = self.log.turned.contains(&gtid);
            if has_turned && outcome == Some(Outcome::Completed) {
                return Err(format!("I10 once compensating, never forward again: {gtid} turned, and completed"));
            }
            for (at, step) in definition.steps().iter().enumerate() {
                let place = self.place(gtid, definition, StepIndex(at as u16));
                if outcome.is_some_and(|outcome| place.effect != (outcome == Outcome::Completed)) {
                    return Err(format!("I10 the net effect agrees with the outcome: {outcome:?}, and {place:?}"));
                }
                if step.pivot && (place.closed || has_turned && place.effect) {
                    return Err(format!("I10 no way back behind a pivot: turned {has_turned}, and {place:?}"));
                }
            }
        }
        Ok(())
    }
}
