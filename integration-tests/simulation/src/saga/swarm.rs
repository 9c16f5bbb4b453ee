//! Sagas under the swarm: of random shapes.

use assent_protocol::saga::{Definition, StepDefinition, StepIndex};
use assent_protocol::{Name, RetryPolicy};

use super::log::Kind;
use super::world::{Action, Faults, Packet, Setup, Verdict, World};
use crate::swarm::{Needs, Random, Swarm};
#[cfg(test)]
use crate::swarm::{one_seed_is_one_trace, swarm};

/// Four steps, each behind any of those before it.
fn shape(random: &mut Random) -> Definition {
    let steps = ["a", "b", "c", "d"].iter().enumerate().map(|(at, step)| StepDefinition {
        name: Name::new(step).expect("valid"),
        participant: Name::new(step).expect("valid"),
        input: Default::default(),
        after: (0..at as u16).filter(|_| random.below(2) == 0).map(StepIndex).collect(),
        retry: RetryPolicy { attempts_max: random.below(4) as u32, ..RetryPolicy::default() },
        compensation_retry: RetryPolicy { attempts_max: random.below(3) as u32, ..RetryPolicy::default() },
        pivot: random.below(8) == 0,
        durable: random.below(4) == 0,
    });
    Definition::new(steps.collect()).expect("a DAG")
}

impl Swarm for World {
    type Setup = Setup;
    type Action = Action;
    const NAME: &'static str = "saga";
    #[cfg(test)]
    const FAULTS: &'static [&'static str] = &[
        "append's answer lost",
        "append applied late",
        "take-over beside the living",
        "crash of a replica",
        "step refused",
        "pivot finally refused",
        "outcome unknown",
        "attempt timed out",
        "session broken",
        "request repeated",
        "turn asked for",
    ];

    fn draw(random: &mut Random) -> Setup {
        Setup {
            definition: shape(random),
            replicas: 1 + random.below(2),
            log: Kind::Sound,
            repeats_actions: false,
            faults: Faults {
                crashes: random.rate(3),
                lost_answers: random.rate(3),
                take_overs: random.rate(2),
                refusals: random.rate(2),
                stuck: random.rate(2),
                unknowns: random.rate(4),
                timeouts: random.rate(4),
                breaks: random.rate(3),
                requests: random.rate(3),
            },
        }
    }

    fn begin(setup: &Setup) -> Self {
        Self::new(setup)
    }

    fn progress(&self, setup: &Setup) -> Vec<Action> {
        let mut actions = Vec::new();
        World::progress(self, setup, &mut actions);
        actions
    }

    fn faults(&self, setup: &Setup) -> Vec<Action> {
        let mut actions = Vec::new();
        World::faults(self, setup, &mut actions);
        actions
    }

    fn step(&mut self, setup: &Setup, action: Action) {
        if let Some(after) = World::step(self, setup, action) {
            *self = after;
        }
    }

    fn calm(&self, setup: &Setup, tell: &mut dyn FnMut(&Self, Action)) -> Result<(), String> {
        World::calm(self, setup, tell)
    }

    fn broken(&self) -> Option<String> {
        self.broken.as_ref().map(|(invariant, problem)| format!("{invariant}: {problem}"))
    }

    fn fault(action: Action) -> Option<&'static str> {
        match action {
            Action::Take { verdict: Verdict::Refused, .. } => Some("step refused"),
            Action::Take { verdict: Verdict::FinallyRefused, .. } => Some("pivot finally refused"),
            Action::Take { verdict: Verdict::Unknown, .. } => Some("outcome unknown"),
            Action::LoseAnswer { .. } => Some("append's answer lost"),
            Action::ApplyLate => Some("append applied late"),
            Action::Fire { .. } => Some("attempt timed out"),
            Action::Break { .. } => Some("session broken"),
            Action::Start { .. } => Some("request repeated"),
            Action::Undo { .. } => Some("turn asked for"),
            Action::Crash { .. } => Some("crash of a replica"),
            Action::TakeOver => Some("take-over beside the living"),
            Action::Take { verdict: Verdict::Done, .. }
            | Action::Hear { .. }
            | Action::Apply { .. }
            | Action::Answer { .. }
            | Action::Flush { .. }
            | Action::Unpause { .. }
            | Action::StartReplica { .. }
            | Action::Resume { .. }
            | Action::FailOver => None,
        }
    }

    fn needs(&self, action: Action) -> Needs {
        let place = |step| self.replicas.len() + usize::from(step);
        let at = |replica| Needs { replica: Some(replica), ..Needs::default() };
        let with_log = |replica| Needs { log: true, ..at(replica) };
        match action {
            Action::Take { packet, .. } | Action::Hear { packet } => match packet {
                Packet::Ask { step, replica, .. } => {
                    Needs { way: Some((replica, place(step))), is_delivery: true, ..Needs::default() }
                }
                Packet::Answer { step, replica, .. } => {
                    Needs { way: Some((place(step), replica)), is_delivery: true, ..at(replica) }
                }
            },
            Action::Apply { replica }
            | Action::Answer { replica }
            | Action::Flush { replica }
            | Action::StartReplica { replica }
            | Action::Start { replica }
            | Action::Resume { replica } => with_log(replica),
            Action::TakeOver => with_log(1),
            Action::ApplyLate => Needs { log: true, ..Needs::default() },
            Action::LoseAnswer { replica }
            | Action::Fire { replica, .. }
            | Action::Break { replica, .. }
            | Action::Undo { replica }
            | Action::Unpause { replica } => at(replica),
            Action::Crash { .. } | Action::FailOver => Needs::default(),
        }
    }

    fn drop_message(&mut self, action: Action) {
        if let Action::Take { packet, .. } | Action::Hear { packet } = action {
            self.net.remove(&packet);
        }
    }

    fn take_over(&self, setup: &Setup) -> Option<Action> {
        <Self as Swarm>::faults(self, setup).into_iter().find(|action| *action == Action::TakeOver)
    }

    fn link(setup: &Setup, random: &mut Random) -> (usize, usize) {
        (random.below(setup.replicas), setup.replicas + random.below(4))
    }

    fn takes_ms(action: Action) -> usize {
        match action {
            Action::Fire { .. } => 10_000,
            Action::Break { .. } | Action::LoseAnswer { .. } => 1_000,
            Action::Unpause { .. } => 60_000,
            Action::StartReplica { .. } => 5_000,
            Action::TakeOver | Action::FailOver | Action::ApplyLate => 10_000,
            Action::Take { .. }
            | Action::Hear { .. }
            | Action::Apply { .. }
            | Action::Answer { .. }
            | Action::Flush { .. }
            | Action::Start { .. }
            | Action::Undo { .. }
            | Action::Crash { .. }
            | Action::Resume { .. } => 20,
        }
    }

    fn words(&self, action: Action) -> (String, String) {
        let coordinator = |at: usize| format!("coordinator {at}");
        let step = |at: u16| format!("step {}", char::from(b'a' + at as u8));
        let work = |compensation: bool| if compensation { "compensation" } else { "action" };
        match action {
            Action::Take { packet, verdict, has_effect } => {
                let (who, what) = match packet {
                    Packet::Ask { step: at, compensation, attempt, epoch, replica } => (
                        step(at),
                        format!(
                            "is asked for its {} by coordinator {replica} in epoch {epoch}, attempt {attempt}",
                            work(compensation)
                        ),
                    ),
                    Packet::Answer { .. } => ("nobody".to_owned(), format!("{packet:?}")),
                };
                let effect = if has_effect { "with effect" } else { "without effect" };
                (who, format!("{what}: {verdict:?}, {effect}"))
            }
            Action::Hear { packet } => match packet {
                Packet::Answer { step: at, compensation, attempt, replica, verdict, .. } => (
                    coordinator(replica),
                    format!("hears of the {} of {}, attempt {attempt}: {verdict:?}", work(compensation), step(at)),
                ),
                Packet::Ask { .. } => ("nobody".to_owned(), format!("{packet:?}")),
            },
            Action::Apply { replica } => ("log".to_owned(), format!("takes what coordinator {replica} appends")),
            Action::Answer { replica } => (coordinator(replica), "hears the log's answer".to_owned()),
            Action::LoseAnswer { replica } => {
                (coordinator(replica), "never hears the log's answer, and appends again".to_owned())
            }
            Action::ApplyLate => ("log".to_owned(), "carries out an append whose writer is gone".to_owned()),
            Action::Flush { replica } => ("log".to_owned(), format!("takes lazy records from coordinator {replica}")),
            Action::Fire { replica, timer } => (coordinator(replica), format!("a timer fires: {timer:?}")),
            Action::Break { replica, step: at } => (coordinator(replica), format!("loses the session of {}", step(at))),
            Action::Start { replica } => ("initiator".to_owned(), format!("asks coordinator {replica} to run it")),
            Action::Undo { replica } => ("initiator".to_owned(), format!("asks coordinator {replica} to turn back")),
            Action::Unpause { replica } => ("operator".to_owned(), format!("resumes it at coordinator {replica}")),
            Action::Crash { replica } => (coordinator(replica), "CRASHES".to_owned()),
            Action::StartReplica { replica } => (coordinator(replica), "starts".to_owned()),
            Action::TakeOver => (coordinator(1), "takes over, while coordinator 0 lives".to_owned()),
            Action::Resume { replica } => (coordinator(replica), "resumes what stands in the log".to_owned()),
            Action::FailOver => ("log".to_owned(), "fails over, and loses the last append".to_owned()),
        }
    }

    fn parts(&self) -> Vec<(String, String)> {
        let rows = &self.log.rows;
        let log = match (rows.started.is_some(), rows.ended, &rows.turned) {
            (_, Some(outcome), _) => outcome.to_string(),
            (true, None, Some(_)) => "turned back".to_owned(),
            (true, None, None) => "started".to_owned(),
            (false, None, _) => "nothing".to_owned(),
        };
        let mut parts = vec![("log".to_owned(), format!("{log}, {} step records", rows.steps.len()))];
        for (at, replica) in self.replicas.iter().enumerate() {
            let words = match replica.as_ref().map(|replica| &replica.saga) {
                None => "down".to_owned(),
                Some(None) => "up, and does not know the saga".to_owned(),
                Some(Some(saga)) => {
                    let view = saga.view();
                    let steps: Vec<_> =
                        view.steps.iter().map(|step| format!("{} {}", step.name, step.state.as_str())).collect();
                    format!("{}: {}", view.state, steps.join(", "))
                }
            };
            parts.push((format!("coordinator {at}"), words));
        }
        for (at, place) in self.places.iter().enumerate() {
            let words = match (place.effect, place.closed) {
                (true, false) => "has taken effect",
                (false, false) => "has no effect",
                (false, true) => "is compensated, for good",
                (true, true) => "has taken effect after its compensation",
            };
            parts.push((format!("step {}", char::from(b'a' + at as u8)), words.to_owned()));
        }
        parts.push(("initiator".to_owned(), self.told.map_or("waits".to_owned(), |told| format!("was told {told}"))));
        parts
    }
}

#[test]
fn the_swarm_breaks_nothing() {
    swarm::<World>(1_000);
}

#[test]
fn one_seed_of_the_swarm_is_one_trace() {
    one_seed_is_one_trace::<World>();
}
