//! How a seed draws its faults.

use assent_protocol::saga::{Definition, StepDefinition, StepIndex};
use assent_protocol::{Name, RetryPolicy, Wait};

use super::initiator::Shape;
use super::session::Client;
use super::steps::Verdict;
use super::world::{Action, Faults, Setup, World, name_of_bank};
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
        "crash of a replica",
        "crash of an instance",
        "instance scaled away",
        "session broken",
        "hook failed",
        "patience lost",
        "call given up",
        "call came twice",
        "time passed",
        "history removed",
        "stale read",
        "step refused",
        "pivot finally refused",
        "step failed",
        "request repeated",
        "turn asked for",
    ];
    /// Sessions are streams: they lose nothing before they break, and repeat nothing.
    #[cfg(test)]
    const NETWORK: &'static [&'static str] = &crate::swarm::OF_STREAMS;

    fn draw(random: &mut Random) -> Setup {
        // Some seeds go one way at length: one transaction or a saga or two, two instances
        // of their banks, and few kinds of faults, so that a long chain of them meets the same one.
        match random.below(16) {
            0..=3 => long_transaction(random),
            4..=6 => long_saga(random),
            7 => unary_calls(random),
            _ => many_kinds(random),
        }
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

    fn calm(&self, _: &Setup, tell: &mut dyn FnMut(&Self, Action)) -> Result<(), String> {
        World::calm(self, tell)
    }

    fn broken(&self) -> Option<String> {
        self.broken.clone()
    }

    fn fault(action: Action) -> Option<&'static str> {
        use super::bank::Turn;

        match action {
            Action::LoseAnswer { .. } => Some("append's answer lost"),
            Action::ApplyLate => Some("append applied late"),
            Action::CrashNode { .. } => Some("crash of a replica"),
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
            | Action::StartInstance { .. }
            | Action::Ask { .. }
            | Action::Call { .. }
            | Action::CleanUp { .. }
            | Action::Resume { .. } => None,
        }
    }

    fn needs(&self, action: Action) -> Needs {
        let at = |node| Needs { replica: Some(node), ..Needs::default() };
        let way = |id, to_replica: bool| {
            let session = self.sessions.iter().find(|session| session.id == id);
            let (node, client) = session.map_or((0, Client::Initiator), |session| (session.node, session.client));
            let client = place(client);
            if to_replica { (node, (client, node)) } else { (node, (node, client)) }
        };
        match action {
            Action::ToReplica { session } => {
                let (node, way) = way(session, true);
                Needs { way: Some(way), ..at(node) }
            }
            Action::ToClient { session } => Needs { way: Some(way(session, false).1), ..Needs::default() },
            Action::Dial { node, .. }
            | Action::NodeTimer { node }
            | Action::FindOut { node }
            | Action::Resume { node, .. } => at(node),
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
            | Action::LoseAnswer { .. }
            | Action::CrashNode { .. }
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

    /// A stream loses nothing by itself.
    fn drop_message(&mut self, _: Action) {}

    fn take_over(&self, setup: &Setup) -> Option<Action> {
        let is_free = self.nodes[0].is_some() && self.nodes[1].is_none();
        let is_free = is_free && !setup.two_names && setup.faults.take_overs > 0;
        is_free.then_some(Action::StartNode { node: 1 })
    }

    fn link(setup: &Setup, random: &mut Random) -> (usize, usize) {
        (random.below(2), 2 + random.below(1 + 3 * setup.banks))
    }

    fn takes_ms(_: Action) -> usize {
        1
    }

    fn words(&self, action: Action) -> (String, String) {
        let client = |client: Client| match client {
            Client::Initiator => "initiator".to_owned(),
            Client::Instance { bank, instance } => format!("bank-{bank}/{instance}"),
        };
        let session = |id| self.sessions.iter().find(|session| session.id == id);
        let who = match action {
            Action::Dial { client: of, .. } => client(of),
            Action::ToReplica { session: id } | Action::ReplicaNotices { session: id } => {
                session(id).map_or_else(String::new, |session| format!("replica {}", session.node))
            }
            Action::ToClient { session: id } | Action::ClientNotices { session: id } => {
                session(id).map_or_else(String::new, |session| client(session.client))
            }
            Action::HookReturns { bank, instance, .. }
            | Action::StepReturns { bank, instance, .. }
            | Action::InstanceTimer { bank, instance }
            | Action::CleanUp { bank, instance } => {
                format!("bank-{bank}/{instance}")
            }
            Action::NodeTimer { node }
            | Action::Apply { node }
            | Action::Answer { node }
            | Action::Read { node, .. }
            | Action::FoundInLog { node }
            | Action::StartNode { node }
            | Action::FindOut { node } => format!("replica {node}"),
            Action::Resume { .. } => "operator".to_owned(),
            Action::Ask { .. }
            | Action::Call { .. }
            | Action::CallTwice { .. }
            | Action::Repeat { .. }
            | Action::Turn { .. } => "initiator".to_owned(),
            Action::Break { .. }
            | Action::LoseAnswer { .. }
            | Action::ApplyLate
            | Action::CrashNode { .. }
            | Action::CrashInstance { .. }
            | Action::ScaleAway { .. }
            | Action::StartInstance { .. }
            | Action::GiveUpCall { .. }
            | Action::LosePatience { .. }
            | Action::Jump
            | Action::Retention => "fault".to_owned(),
        };
        let what = match action {
            Action::ToReplica { session: id } => session(id)
                .and_then(|session| Some(format!("from {}: {:?}", client(session.client), session.to_replica.front()?)))
                .unwrap_or_default(),
            Action::ToClient { session: id } => session(id)
                .and_then(|session| Some(format!("from replica {}: {:?}", session.node, session.to_client.front()?)))
                .unwrap_or_default(),
            Action::HookReturns { bank, instance, at, turn } => {
                let hooks =
                    self.banks[bank].instances.get(instance).and_then(Option::as_ref).map(|process| &process.hooks);
                format!("{:?} ends: {turn:?}", hooks.and_then(|hooks| hooks.get(at)))
            }
            Action::StepReturns { bank, instance, at, verdict } => {
                let steps =
                    self.banks[bank].instances.get(instance).and_then(Option::as_ref).map(|process| &process.steps);
                format!("{:?} ends: {verdict:?}", steps.and_then(|steps| steps.get(at)))
            }
            other => format!("{other:?}"),
        };
        (who, what)
    }

    fn parts(&self) -> Vec<(String, String)> {
        let mut parts =
            vec![("log".to_owned(), format!("open {:?}, ended {:?}", self.log.open, self.log.ended.keys()))];
        for (at, node) in self.nodes.iter().enumerate() {
            let views = node.as_ref().map(|node| {
                self.wishes
                    .iter()
                    .map(|wish| {
                        (wish.gtid, node.replica.known(wish.gtid), node.replica.view(wish.gtid).map(|view| view.state))
                    })
                    .collect::<Vec<_>>()
            });
            parts.push((format!("replica {at}"), format!("{views:?}")));
        }
        for bank in &self.banks {
            parts.push((
                bank.name.to_string(),
                format!(
                    "prepared {:?}, applied {:?}, steps {:?}",
                    bank.database.prepared, bank.database.applied, bank.database.steps
                ),
            ));
            for (at, process) in bank.instances.iter().enumerate() {
                let branches = process.as_ref().map(|process| {
                    process.branches.iter().map(|(key, branch)| (*key, branch.state())).collect::<Vec<_>>()
                });
                parts.push((format!("{}/{at}", bank.name), format!("{branches:?}")));
            }
        }
        for wish in &self.wishes {
            parts.push((format!("wish {}", wish.gtid), format!("{:?}", wish.stage)));
        }
        parts
    }
}

fn place(client: Client) -> usize {
    match client {
        Client::Initiator => 2,
        Client::Instance { bank, instance } => 3 + bank * 2 + instance,
    }
}

fn long_transaction(random: &mut Random) -> Setup {
    let banks = 1 + random.below(2);
    Setup {
        banks,
        instances: 2,
        shapes: vec![transaction(random, banks)],
        refuses: false,
        one_phase: random.below(2) == 0,
        two_names: false,
        faults: Faults {
            node_crashes: 1 + random.rate(1),
            breaks: 1 + random.rate(2),
            failing_hooks: 1 + random.rate(2),
            jumps: random.rate(2),
            lost_calls: random.rate(1),
            doubled_calls: random.rate(2),
            repeats: random.rate(1),
            turns: random.rate(1),
            ..Faults::default()
        },
    }
}

fn long_saga(random: &mut Random) -> Setup {
    let banks = 1 + random.below(2);
    Setup {
        banks,
        instances: 2,
        shapes: (0..1 + random.below(2)).map(|_| saga(random, banks)).collect(),
        refuses: false,
        one_phase: false,
        two_names: random.below(2) == 0,
        faults: Faults {
            node_crashes: random.rate(2),
            lost_answers: random.rate(1),
            breaks: random.rate(3),
            jumps: random.rate(3),
            stale_reads: random.rate(4),
            refusals: random.rate(2),
            failing_steps: random.rate(2),
            repeats: random.rate(2),
            turns: random.rate(1),
            ..Faults::default()
        },
    }
}

/// Unary calls to one process, which are asked again while look-ups lag: what ran before may run anew,
/// and must not take effect twice.
fn unary_calls(random: &mut Random) -> Setup {
    let banks = 1 + random.below(2);
    let call = |random: &mut Random| Shape::Carried { banks: (0..1 + random.below(banks)).collect(), is_unary: true };
    Setup {
        banks,
        instances: 1 + random.below(2),
        shapes: (0..1 + random.below(2)).map(|_| call(random)).collect(),
        refuses: random.below(2) == 0,
        one_phase: random.below(2) == 0,
        two_names: false,
        faults: Faults {
            instance_crashes: random.rate(1),
            breaks: random.rate(3),
            failing_hooks: random.rate(2),
            jumps: random.rate(2),
            repeats: 1 + random.rate(2),
            stale_reads: 1 + random.rate(3),
            ..Faults::default()
        },
    }
}

fn many_kinds(random: &mut Random) -> Setup {
    let banks = 1 + random.below(3);
    let count = 1 + random.below(2);
    let shapes: Vec<Shape> = match random.below(4) {
        0 => (0..count).map(|_| saga(random, banks)).collect(),
        1 => vec![saga(random, banks), transaction(random, banks)],
        _ => (0..count).map(|_| transaction(random, banks)).collect(),
    };
    let is_of_sagas = shapes.iter().all(|shape| matches!(shape, Shape::Saga { .. }));
    let two_names = is_of_sagas && random.below(3) == 0;
    Setup {
        banks,
        instances: 1 + random.below(2),
        shapes,
        refuses: random.below(2) == 0,
        one_phase: random.below(2) == 0,
        two_names,
        faults: Faults {
            node_crashes: random.rate(3),
            take_overs: random.rate(2),
            instance_crashes: random.rate(2),
            scaled_away: random.rate(1),
            breaks: random.rate(4),
            lost_answers: random.rate(2),
            failing_hooks: random.rate(4),
            impatience: random.rate(1),
            jumps: random.rate(4),
            retentions: random.rate(1),
            lost_calls: random.rate(2),
            doubled_calls: random.rate(2),
            stale_reads: random.rate(4),
            refusals: random.rate(2),
            stuck: random.rate(2),
            failing_steps: random.rate(4),
            repeats: random.rate(2),
            turns: random.rate(2),
        },
    }
}

fn transaction(random: &mut Random, banks: usize) -> Shape {
    if random.below(3) == 0 {
        let first = random.below(banks);
        let calls = (0..1 + random.below(banks)).map(|at| (first + at) % banks).collect();
        return Shape::Begun { calls };
    }
    let count = 1 + random.below(banks);
    Shape::Carried { banks: (0..count).collect(), is_unary: random.below(4) == 0 }
}

/// Up to four steps at any banks, each behind any of those before it.
fn saga(random: &mut Random, banks: usize) -> Shape {
    let steps = ["a", "b", "c", "d"].iter().take(1 + random.below(4)).enumerate().map(|(at, step)| StepDefinition {
        name: Name::new(step).expect("a name"),
        participant: name_of_bank(random.below(banks)),
        input: Default::default(),
        after: (0..at as u16).filter(|_| random.below(2) == 0).map(StepIndex).collect(),
        retry: RetryPolicy { attempts_max: random.below(4) as u32, ..RetryPolicy::default() },
        compensation_retry: RetryPolicy { attempts_max: random.below(3) as u32, ..RetryPolicy::default() },
        pivot: random.below(8) == 0,
        durable: random.below(4) == 0,
    });
    let definition = Definition::new(steps.collect()).expect("a DAG");
    let wait = if random.below(2) == 0 { Wait::Decided } else { Wait::Ended };
    Shape::Saga { definition, wait, is_unary: random.below(2) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::cells::{CELLS, TABLE};

    #[test]
    fn the_swarm_finds_nothing() {
        swarm::<World>(140_000);
        CELLS.assert_covers("cluster", TABLE);
    }

    #[test]
    fn one_seed_is_one_trace_here() {
        one_seed_is_one_trace::<World>();
    }
}
