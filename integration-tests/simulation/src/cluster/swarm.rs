//! How a seed draws its faults.

use assent_protocol::InstanceId;
use assent_protocol::replica::SessionId;

use super::action::{Action, DEADLINE};
use super::draw;
use super::session::Client;
use super::setup::Setup;
use super::steps::Verdict;
use super::world::World;
use crate::swarm::{Needs, Random, Swarm};
#[cfg(test)]
use crate::swarm::{one_seed_is_one_trace, swarm};

impl Swarm for World {
    type Setup = Setup;
    type Action = Action;
    const NAME: &'static str = "cluster";
    #[cfg(test)]
    const FAULTS: &'static [&'static str] = &[
        "append's answer lost",
        "append applied late",
        "take-over beside the living",
        "crash of a replica",
        "coordinator and log gone",
        "crash of an instance",
        "instance scaled away",
        "voter's store lost",
        "session broken",
        "hook failed",
        "patience lost",
        "call given up",
        "call came twice",
        "time passed",
        "timer fired early",
        "deadline passed",
        "history removed",
        "stale read",
        "step refused",
        "pivot finally refused",
        "step failed",
        "request repeated",
        "turn asked for",
    ];
    fn draw(random: &mut Random) -> Setup {
        draw::setup(random)
    }

    fn begin(setup: &Setup) -> Self {
        Self::new(setup)
    }

    fn progress(&self, setup: &Setup) -> Vec<Action> {
        World::progress(self, !setup.refuses)
    }

    fn faults(&self, _: &Setup) -> Vec<Action> {
        World::faults(self)
    }

    fn idle(&self, _: &Setup) -> Vec<Action> {
        if self.next_due_ms().is_some() { vec![Action::Jump] } else { Vec::new() }
    }

    fn step(&mut self, _: &Setup, action: Action) {
        World::step(self, action);
    }

    fn calm(&self, setup: &Setup, tell: &mut dyn FnMut(&Self, Action)) -> Result<(), String> {
        self.calms_down(setup.end, tell)
    }

    fn broken(&self) -> Option<String> {
        self.broken.clone()
    }

    fn fault(action: Action) -> Option<&'static str> {
        use super::bank::Turn;

        match action {
            Action::LoseAnswer { .. } => Some("append's answer lost"),
            Action::ApplyLate => Some("append applied late"),
            Action::TakeOver { .. } => Some("take-over beside the living"),
            Action::CrashNode { .. } => Some("crash of a replica"),
            Action::Blackout => Some("coordinator and log gone"),
            Action::LoseStore { .. } => Some("voter's store lost"),
            Action::EarlyNodeTimer { timer: DEADLINE, .. } => Some("deadline passed"),
            Action::EarlyNodeTimer { .. } | Action::EarlyInstanceTimer { .. } => Some("timer fired early"),
            Action::CrashInstance { .. } => Some("crash of an instance"),
            Action::ScaleAway { .. } => Some("instance scaled away"),
            Action::Break { .. } => Some("session broken"),
            Action::HookReturns { turn: Turn::FailsBefore | Turn::FailsAfter, .. } => Some("hook failed"),
            Action::LosePatience { .. } => Some("patience lost"),
            Action::GiveUpCall { .. } => Some("call given up"),
            Action::CallTwice { .. } => Some("call came twice"),
            Action::Jump => Some("time passed"),
            Action::Retention => Some("history removed"),
            Action::StepReturns { verdict: Verdict::Refused, .. } => Some("step refused"),
            Action::StepReturns { verdict: Verdict::FinallyRefused, .. } => Some("pivot finally refused"),
            Action::StepReturns { verdict: Verdict::FailsBefore | Verdict::FailsAfter, .. } => Some("step failed"),
            Action::Repeat { .. } => Some("request repeated"),
            Action::Turn { .. } => Some("turn asked for"),
            Action::Read { lag: 1.., .. } => Some("stale read"),
            Action::Dial { .. }
            | Action::ToReplica { .. }
            | Action::ToClient { .. }
            | Action::ReplicaNotices { .. }
            | Action::ClientNotices { .. }
            | Action::HookReturns { turn: Turn::Well | Turn::No | Turn::ReadOnly, .. }
            | Action::StepReturns { verdict: Verdict::Done, .. }
            | Action::NodeTimer { .. }
            | Action::InstanceTimer { .. }
            | Action::Apply { .. }
            | Action::Answer { .. }
            | Action::Read { lag: 0, .. }
            | Action::FoundInLog { .. }
            | Action::StartNode { .. }
            | Action::FindOut { .. }
            | Action::LogReturns
            | Action::StartInstance { .. }
            | Action::AskVoter { .. }
            | Action::ForgetVoter { .. }
            | Action::PeerIsAsked { .. }
            | Action::PeerIsAnswered { .. }
            | Action::Ask { .. }
            | Action::Call { .. }
            | Action::CleanUp { .. }
            | Action::Resume { .. } => None,
        }
    }

    fn needs(&self, action: Action) -> Needs {
        let at = |node| Needs { replica: Some(node), ..Needs::default() };
        let of_session = |id: SessionId| {
            let session = self.sessions.iter().find(|session| session.id == id);
            session.map_or((0, place(Client::Initiator)), |session| (session.node, place(session.client)))
        };
        match action {
            Action::ToReplica { session } => {
                let (node, client) = of_session(session);
                Needs { way: Some((client, node)), ..at(node) }
            }
            Action::ToClient { session } => Needs { way: Some(of_session(session)), ..Needs::default() },
            Action::PeerIsAsked { call, instance } => self.calls.get(&call).map_or_else(Needs::default, |call| {
                let to = place(Client::Instance { bank: call.to, instance });
                Needs { way: Some((self.place_of(call.from, call.process), to)), is_delivery: true, ..Needs::default() }
            }),
            // The answer takes the way back from any of the instances behind the address.
            Action::PeerIsAnswered { call } => self.calls.get(&call).map_or_else(Needs::default, |call| {
                let from = place(Client::Instance { bank: call.to, instance: 0 });
                Needs {
                    way: Some((from, self.place_of(call.from, call.process))),
                    is_delivery: true,
                    ..Needs::default()
                }
            }),
            Action::Dial { node, .. }
            | Action::NodeTimer { node }
            | Action::EarlyNodeTimer { node, .. }
            | Action::Resume { node, .. } => at(node),
            Action::FindOut { node } | Action::TakeOver { node } => Needs { log: true, ..at(node) },
            Action::Apply { node }
            | Action::Answer { node }
            | Action::Read { node, .. }
            | Action::FoundInLog { node } => Needs { log: true, ..at(node) },
            Action::StartNode { .. } | Action::ApplyLate | Action::Retention => Needs { log: true, ..Needs::default() },
            Action::Break { .. }
            | Action::ReplicaNotices { .. }
            | Action::ClientNotices { .. }
            | Action::HookReturns { .. }
            | Action::StepReturns { .. }
            | Action::InstanceTimer { .. }
            | Action::EarlyInstanceTimer { .. }
            | Action::AskVoter { .. }
            | Action::ForgetVoter { .. }
            | Action::LoseAnswer { .. }
            | Action::CrashNode { .. }
            | Action::Blackout
            | Action::LogReturns
            | Action::LoseStore { .. }
            | Action::CrashInstance { .. }
            | Action::ScaleAway { .. }
            | Action::StartInstance { .. }
            | Action::Ask { .. }
            | Action::Call { .. }
            | Action::CallTwice { .. }
            | Action::CleanUp { .. }
            | Action::GiveUpCall { .. }
            | Action::LosePatience { .. }
            | Action::Repeat { .. }
            | Action::Turn { .. }
            | Action::Jump => Needs::default(),
        }
    }

    /// A stream loses nothing by itself; calls between participants may be lost, and come twice.
    fn drop_message(&mut self, action: Action) {
        if let Action::PeerIsAsked { call, .. } | Action::PeerIsAnswered { call } = action {
            self.calls.remove(&call);
        }
    }

    fn take_over(&self, _: &Setup) -> Option<Action> {
        let is_paused = self.nodes[0].is_some();
        self.may_take_over().filter(|_| is_paused)
    }

    fn link(setup: &Setup, random: &mut Random) -> (usize, usize) {
        let mut client = || 2 + random.below(1 + 2 * setup.banks.len());
        let (here, there) = (client(), client());
        if random.below(4) == 0 { (here, there) } else { (random.below(2), there) }
    }

    fn takes_ms(_: Action) -> usize {
        1
    }

    fn words(&self, action: Action) -> (String, String) {
        self.tells(action)
    }

    fn parts(&self) -> Vec<(String, String)> {
        self.stands()
    }
}

impl World {
    /// The place of a process of a participant, or of the first of its instances where it has died.
    fn place_of(&self, bank: usize, process: InstanceId) -> usize {
        place(Client::Instance { bank, instance: self.instance_of(bank, process).unwrap_or_default() })
    }
}

fn place(client: Client) -> usize {
    match client {
        Client::Initiator => 2,
        Client::Instance { bank, instance } => 3 + bank * 2 + instance,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::cells::{CELLS, TABLE, THREE_PHASE, THREE_PHASE_TABLE};

    #[test]
    fn the_swarm_finds_nothing() {
        swarm::<World>(140_000);
        CELLS.assert_covers("cluster", TABLE);
        THREE_PHASE.assert_covers("3pc", THREE_PHASE_TABLE);
    }

    #[test]
    fn one_seed_is_one_trace_here() {
        one_seed_is_one_trace::<World>();
    }
}
