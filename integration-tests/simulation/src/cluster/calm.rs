//! Faults stop, and everything has to end.

use assent_protocol::Gtid;

use super::action::Action;
use super::initiator::Stage;
use super::session::Client;
use super::setup::{End, Faults};
use super::world::World;
use crate::swarm::Swarm;

/// How long those that a lost store has left without a quorum are watched, in milliseconds. Nothing
/// has to end among them, and nothing may end in two ways.
const WATCHED_MS: u64 = 120_000;

impl World {
    /// Faults stop. Everything that can end has to.
    pub(super) fn calms_down(&self, end: End, tell: &mut dyn FnMut(&Self, Action)) -> Result<(), String> {
        let mut world = self.clone();
        world.left = Faults::default();
        world.is_log_away = end != End::All;
        if end == End::WithoutCoordinator {
            (0..world.nodes.len()).for_each(|node| world.node_dies(node));
        }
        let until_ms = world.now_ms + WATCHED_MS;
        for _ in 0..20_000 {
            if end != End::All && world.have_voters_ended() {
                return world.judge_survivors();
            }
            if world.has_lost_a_store() && world.now_ms > until_ms {
                return Ok(());
            }
            let action = match world.next_in_calm() {
                Some(action) => action,
                None if world.next_due_ms().is_some() => Action::Jump,
                None if end == End::All => return world.judge_the_end(),
                None => break,
            };
            world.step(action);
            world.drop_message(action);
            tell(&world, action);
            if let Some(problem) = &world.broken {
                return Err(problem.clone());
            }
        }
        if world.has_lost_a_store() { Ok(()) } else { Err("I12 it comes to rest".to_owned()) }
    }

    fn next_in_calm(&self) -> Option<Action> {
        // Calls that are never answered are given up.
        let stuck = (0..self.wishes.len()).find(|at| {
            matches!(self.wishes[*at].stage, Stage::Open { is_calling: true, .. })
                && !self.is_enlisting(self.wishes[*at].gtid)
        });
        let restarts = self.restarts().into_iter();
        restarts.chain(self.progress(true)).chain(stuck.map(|wish| Action::GiveUpCall { wish })).next()
    }

    fn is_enlisting(&self, gtid: Gtid) -> bool {
        let instances = self.banks.iter().flat_map(|bank| bank.instances.iter().flatten());
        instances.into_iter().any(|instance| instance.enlisting.values().any(|(of, _)| *of == gtid))
            && self.sessions.iter().any(|session| {
                matches!(session.client, Client::Instance { .. })
                    && (!session.to_client.is_empty() || !session.to_replica.is_empty())
            })
    }
}
