//! Every way that a saga with four steps can go, two of them beside each other, within bounds.

use std::hash::{DefaultHasher, Hash, Hasher};

use assent_protocol::Outcome;
use assent_protocol::saga::{StepIndex, Timer};
use stateright::{Model, Property};

use super::cells::{self, CELLS};
use super::judge::{I3, I4, I5, I10};
use super::log::Kind;
use super::world::{Action, EARLY, Faults, MACHINE, NO_FAULTS, Packet, REVERSE, Setup, Verdict, World, diamond};
use crate::shared::{Extent, explore, prove, refute};

impl Model for Setup {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Action>) {
        if state.broken.is_none() {
            World::actions(state, self, actions);
        }
    }

    fn next_state(&self, state: &World, action: Action) -> Option<World> {
        state.step(self, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        const INVARIANTS: [&str; 7] = [I3, I4, I5, I10, REVERSE, EARLY, MACHINE];
        fn holds<const AT: usize>(_: &Setup, world: &World) -> bool {
            world.broken.as_ref().is_none_or(|(broken, _)| *broken != INVARIANTS[AT])
        }
        let mut properties = vec![
            Property::always(I3, holds::<0>),
            Property::always(I4, holds::<1>),
            Property::always(I5, holds::<2>),
            Property::always(I10, holds::<3>),
            Property::always(REVERSE, holds::<4>),
            Property::always(EARLY, holds::<5>),
            Property::always(MACHINE, holds::<6>),
            Property::always("I12 when faults stop, everything ends", |setup: &Setup, world: &World| {
                let is_sound = setup.log == Kind::Sound && !setup.repeats_actions;
                if !is_sound || !is_sampled(world) || world.broken.is_some() {
                    return true;
                }
                match world.calm(setup, &mut |_, _| {}) {
                    Ok(()) => true,
                    Err(problem) => {
                        println!("{problem}");
                        false
                    }
                }
            }),
            Property::sometimes("it completes", |_, world: &World| world.ended == Some(Outcome::Completed)),
        ];
        if self.faults.refusals > 0 {
            properties.push(Property::sometimes("it is compensated", |_, world: &World| {
                world.ended == Some(Outcome::Compensated)
            }));
        }
        properties
    }
}

/// One state in 128 is followed to its end.
fn is_sampled(world: &World) -> bool {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish().is_multiple_of(128)
}

fn setup(faults: Faults) -> Setup {
    Setup { definition: diamond(None, None), replicas: 1, log: Kind::Sound, repeats_actions: false, faults }
}

/// What is explored, each with its name, its bounds in words, and how far by default.
fn sound() -> Vec<(&'static str, &'static str, Setup, Extent)> {
    vec![
        (
            "saga-refusal",
            "4 steps, 2 in parallel; 1 refusal, 1 unknown outcome",
            setup(Faults { refusals: 1, unknowns: 1, ..NO_FAULTS }),
            Extent::Exhaustive,
        ),
        (
            "saga-crash",
            "4 steps, 2 in parallel; 1 refusal, 1 crash of the coordinator",
            setup(Faults { refusals: 1, crashes: 1, ..NO_FAULTS }),
            Extent::Exhaustive,
        ),
        (
            "saga-timeouts",
            "4 steps, 2 in parallel; 1 refusal, 1 timeout, 1 compensation that is refused",
            setup(Faults { refusals: 1, timeouts: 1, stuck: 1, ..NO_FAULTS }),
            Extent::States(50_000),
        ),
        (
            "saga-breaks",
            "4 steps, 2 in parallel; 1 refusal, 1 session that breaks, 1 wish to turn back or repeated start",
            setup(Faults { refusals: 1, breaks: 1, requests: 1, ..NO_FAULTS }),
            Extent::Exhaustive,
        ),
        (
            "saga-pivot",
            "4 steps, 2 in parallel of which one is a pivot; 1 refusal, 1 timeout, 1 crash",
            Setup {
                definition: diamond(Some(2), None),
                ..setup(Faults { refusals: 1, timeouts: 1, crashes: 1, ..NO_FAULTS })
            },
            Extent::States(50_000),
        ),
        (
            "saga-pivot-late",
            "4 steps, 2 in parallel of which one is a pivot; 1 refusal, 1 timeout, attempts that arrive late",
            Setup { definition: diamond(Some(2), None), ..setup(Faults { refusals: 1, timeouts: 1, ..NO_FAULTS }) },
            Extent::Exhaustive,
        ),
        (
            "saga-durable",
            "4 steps, 2 in parallel of which one is durable; 1 refusal, 1 crash, 1 answer of the log lost",
            Setup {
                definition: diamond(None, Some(1)),
                ..setup(Faults { refusals: 1, crashes: 1, lost_answers: 1, ..NO_FAULTS })
            },
            Extent::States(50_000),
        ),
        (
            "saga-zombie",
            "4 steps, 2 in parallel; 2 replicas, 1 take-over beside the living, 1 refusal",
            Setup { replicas: 2, ..setup(Faults { take_overs: 1, refusals: 1, ..NO_FAULTS }) },
            Extent::States(50_000),
        ),
    ]
}

fn prove_named(wanted: &str) {
    let (name, bounds, setup, extent) =
        sound().into_iter().find(|(name, ..)| *name == wanted).expect("a name of the list");
    prove(name, bounds, setup, extent);
}

#[test]
fn refusals_and_unknown_outcomes() {
    prove_named("saga-refusal");
}

#[test]
fn a_crash_at_any_step() {
    prove_named("saga-crash");
}

#[test]
fn sessions_that_break_and_wishes_to_turn_back() {
    prove_named("saga-breaks");
}

#[test]
fn timeouts_and_a_compensation_that_is_stuck() {
    prove_named("saga-timeouts");
}

#[test]
fn a_pivot_beside_another_step() {
    prove_named("saga-pivot");
}

#[test]
fn a_late_attempt_of_a_pivot_behind_a_refusal_of_a_later_one() {
    prove_named("saga-pivot-late");
}

/// The shortest way to a pivot that took effect behind the turn, as the first version took it.
#[test]
fn a_refused_pivot_turns_the_saga_only_if_no_earlier_attempt_may_take_effect() {
    for (verdict, expected) in [(Verdict::Refused, Outcome::Completed), (Verdict::FinallyRefused, Outcome::Compensated)]
    {
        let faults = Faults { refusals: 1, timeouts: 1, ..NO_FAULTS };
        let setup = Setup { definition: diamond(Some(2), None), ..setup(faults) };
        let ask = |step, attempt| Packet::Ask { step, compensation: false, attempt, epoch: 1, replica: 0 };
        let answer = |step, attempt, verdict| Packet::Answer {
            step,
            compensation: false,
            attempt,
            epoch: 1,
            replica: 0,
            verdict,
        };
        let take = |packet| Action::Take { packet, verdict: Verdict::Done, has_effect: true };
        let (step, compensation, attempt) = (StepIndex(2), false, 1);
        let actions = [
            Action::Start { replica: 0 },
            Action::Apply { replica: 0 },
            take(ask(0, 1)),
            Action::Hear { packet: answer(0, 1, Verdict::Done) },
            Action::Apply { replica: 0 },
            // The pivot's first attempt dawdles, and its second is refused.
            Action::Fire { replica: 0, timer: Timer::Attempt { step, compensation, attempt } },
            Action::Fire { replica: 0, timer: Timer::Retry { step, compensation, attempt } },
            Action::Take { packet: ask(2, 2), verdict, has_effect: false },
            Action::Hear { packet: answer(2, 2, verdict) },
            // It arrives while the turn waits for the log, if there is one.
            take(ask(2, 1)),
            Action::Apply { replica: 0 },
        ];
        let mut world = World::new(&setup);
        for action in actions {
            world = world.step(&setup, action).unwrap_or(world);
            assert_eq!(world.broken, None, "{action:?}");
        }
        assert_eq!(world.places[2].effect, expected == Outcome::Completed);
        let mut last = world.clone();
        world.calm(&setup, &mut |world, _| last = world.clone()).expect("it ends");
        assert_eq!(last.ended, Some(expected));
    }
}

#[test]
fn a_durable_step_and_commits_of_unknown_outcome() {
    prove_named("saga-durable");
}

#[test]
fn a_zombie_replica_and_its_successor() {
    prove_named("saga-zombie");
}

/// As for 2PC: a log that loses what it has confirmed makes a saga turn back after it was told to be complete, or the reverse.
#[test]
fn a_failover_that_loses_the_last_commits_breaks_the_promises() {
    let setup = Setup { log: Kind::LosesItsTail, ..setup(Faults { refusals: 1, crashes: 1, ..NO_FAULTS }) };
    let bounds = "4 steps, 2 in parallel; 1 refusal, 1 crash, failovers";
    let broken = refute("saga", "asynchronous failover", bounds, setup, Extent::Near(50_000));
    assert!(broken.iter().any(|(name, _)| *name == I3), "{broken:?}");
}

/// Why the epoch is checked by the append itself.
#[test]
fn a_log_that_does_not_fence_is_caught() {
    let faults = Faults { take_overs: 1, refusals: 1, ..NO_FAULTS };
    let setup = Setup { log: Kind::Unfenced, replicas: 2, ..setup(faults) };
    let bounds = "4 steps, 2 in parallel; 2 replicas, 1 take-over beside the living, 1 refusal";
    let broken = refute("saga", "no fencing", bounds, setup, Extent::Near(50_000));
    assert!(!broken.is_empty());
}

/// Why a request for an action is handed to one session once, and never repeated.
#[test]
fn a_network_that_repeats_actions_is_caught() {
    let setup = Setup { repeats_actions: true, ..setup(Faults { refusals: 1, ..NO_FAULTS }) };
    let broken = refute("saga", "actions repeated", "4 steps, 2 in parallel; 1 refusal", setup, Extent::Near(50_000));
    assert!(broken.iter().any(|(name, _)| *name == I10), "{broken:?}");
}

/// Enough of each model for the cells: all of them together, in one process.
const CELLS_STATES: usize = 20_000;

#[test]
fn every_cell_of_the_table_is_met() {
    for (name, bounds, setup, _) in sound() {
        drop(explore(&name.replacen('-', " ", 1), bounds, setup, Extent::Near(CELLS_STATES)));
    }
    CELLS.assert_covers("saga", cells::TABLE);
}
