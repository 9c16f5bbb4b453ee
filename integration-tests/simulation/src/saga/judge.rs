//! What must hold of all processes together, whenever; and the end, once faults stop.

use assent_protocol::Outcome;

use super::world::{Action, NO_FAULTS, Setup, World};

pub(crate) const I3: &str = "I3 a decision never changes";
pub(crate) const I4: &str = "I4 nobody is told what is not durable";
pub(crate) const I5: &str = "I5 what was told comes true";
pub(crate) const I10: &str = "I10 the net effect of every step agrees with the outcome";

impl World {
    /// Does one step and judges what came of it. `None` if nothing did.
    pub(crate) fn step(&self, setup: &Setup, action: Action) -> Option<Self> {
        if self.broken.is_some() {
            return None;
        }
        let mut after = self.clone();
        let outcome = after.act(setup, action).and_then(|()| after.judge(setup));
        if let Err(broken) = outcome {
            after.broken = Some(broken);
        }
        (after != *self).then_some(after)
    }

    fn judge(&mut self, setup: &Setup) -> Result<(), (&'static str, String)> {
        let rows = &self.log.rows;
        if self.ended.is_some_and(|first| rows.ended != Some(first)) {
            return Err((I3, format!("{:?}, and then {:?}", self.ended, rows.ended)));
        }
        if self.has_turned && (rows.turned.is_none() || rows.ended == Some(Outcome::Completed)) {
            return Err((I3, "it had turned back".to_owned()));
        }
        self.ended = rows.ended;
        self.has_turned = rows.turned.is_some();
        if let Some(outcome) = self.ended {
            let expected = outcome == Outcome::Completed;
            if self.places.iter().any(|place| place.effect != expected) {
                return Err((I10, format!("{outcome}, and {:?}", self.places)));
            }
        }
        let pivots = || setup.definition.steps().iter().zip(&self.places).filter(|(step, _)| step.pivot);
        if pivots().any(|(_, place)| place.closed) {
            return Err((I10, "a pivot was compensated".to_owned()));
        }
        if self.has_turned && pivots().any(|(_, place)| place.effect) {
            return Err((I10, "a pivot took effect, and the saga had turned back".to_owned()));
        }
        if self.told.is_some() && self.told != self.ended {
            return Err((I5, format!("{:?} was told, and it is {:?}", self.told, self.ended)));
        }
        Ok(())
    }

    /// Faults stop: what is on its way is lost, and what is sent from now on arrives once.
    pub(crate) fn calm(&self, setup: &Setup, tell: &mut dyn FnMut(&Self, Action)) -> Result<(), String> {
        let mut world = self.clone();
        world.left = NO_FAULTS;
        world.net.clear();
        for _ in 0..400 {
            if world.ended.is_some() && world.told.is_some() {
                return Ok(());
            }
            let mut actions = Vec::new();
            world.progress(setup, &mut actions);
            let next = actions.into_iter().find_map(|action| {
                let mut after = world.step(setup, action);
                if let Action::Take { packet, .. } | Action::Hear { packet } = action {
                    after.get_or_insert_with(|| world.clone()).net.remove(&packet);
                }
                let after = after?;
                tell(&after, action);
                Some(after)
            });
            world = next
                .or_else(|| world.let_time_pass(setup, tell))
                .ok_or_else(|| format!("nothing happens: {world:#?}"))?;
            if let Some((invariant, problem)) = &world.broken {
                return Err(format!("{invariant}: {problem}"));
            }
        }
        Err(format!("it does not end: {world:#?}"))
    }

    /// Nothing happens by itself any more: every attempt times out, and the initiator asks again.
    fn let_time_pass(&self, setup: &Setup, tell: &mut dyn FnMut(&Self, Action)) -> Option<Self> {
        let mut actions: Vec<_> = (0..self.replicas.len())
            .flat_map(|replica| self.timers(replica).into_iter().map(move |timer| Action::Fire { replica, timer }))
            .collect();
        if self.told.is_none() {
            actions.push(Action::Start { replica: self.asked_replica() });
        }
        let after = actions.into_iter().fold(self.clone(), |world, action| match world.step(setup, action) {
            Some(after) => {
                tell(&after, action);
                after
            }
            None => world,
        });
        (after != *self).then_some(after)
    }
}
