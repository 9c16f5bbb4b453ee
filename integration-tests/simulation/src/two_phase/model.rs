//! Every way that two-phase commit can go, within bounds.

use std::hash::{DefaultHasher, Hash, Hasher};

use assent_protocol::ids::BranchId;
use assent_protocol::{Epoch, Outcome};
use stateright::{Model, Property};

use super::cells::{self, CELLS};
use super::judge::{I3, I4, INVARIANTS};
use super::log::Kind;
use super::world::{Action, Faults, MACHINE, Packet, Says, Setup, World};
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
        fn holds<const AT: usize>(_: &Setup, world: &World) -> bool {
            world.broken.as_ref().is_none_or(|(broken, _)| *broken != INVARIANTS[AT])
        }
        vec![
            Property::always(INVARIANTS[0], holds::<0>),
            Property::always(INVARIANTS[1], holds::<1>),
            Property::always(INVARIANTS[2], holds::<2>),
            Property::always(INVARIANTS[3], holds::<3>),
            Property::always(INVARIANTS[4], holds::<4>),
            Property::always(INVARIANTS[5], holds::<5>),
            Property::always(INVARIANTS[6], holds::<6>),
            Property::always(INVARIANTS[7], holds::<7>),
            Property::always(INVARIANTS[8], holds::<8>),
            Property::always(MACHINE, |_, world: &World| {
                world.broken.as_ref().is_none_or(|(broken, _)| *broken != MACHINE)
            }),
            Property::always("I12 when faults stop, everything ends", |setup: &Setup, world: &World| {
                if !is_sampled(world) || setup.log != Kind::Sound || setup.repeats_prepare || world.broken.is_some() {
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
            Property::sometimes("it commits", |_, world: &World| world.told == Some(Outcome::Committed)),
            Property::sometimes("it aborts", |_, world: &World| world.told == Some(Outcome::Aborted)),
        ]
    }
}

/// One state in 64 is followed to its end.
fn is_sampled(world: &World) -> bool {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish().is_multiple_of(64)
}

const NO_FAULTS: Faults = Faults {
    replica_crashes: 0,
    participant_crashes: 0,
    lost_answers: 0,
    take_overs: 0,
    requests: 0,
    hooks: 0,
    deadlines: 0,
    inquiries: 0,
    retentions: 0,
};

const TWO: Setup = Setup {
    participants: 2,
    replicas: 1,
    says: &[Says::Yes, Says::No],
    one_phase: false,
    early: false,
    slow_hooks: false,
    log: Kind::Sound,
    repeats_prepare: false,
    faults: NO_FAULTS,
};

/// What is explored, each with its name, its bounds in words, and how far by default.
fn sound() -> Vec<(&'static str, &'static str, Setup, Extent)> {
    const ALL: &[Says] = &[Says::Yes, Says::ReadOnly, Says::No, Says::UnknownPrepared, Says::UnknownNot];
    const ALONE: &[Says] = &[Says::Committed, Says::ReadOnly, Says::No, Says::UnknownPrepared, Says::UnknownNot];
    vec![
        ("2pc-three", "3 participants, yes or no, no crash", Setup { participants: 3, ..TWO }, Extent::Exhaustive),
        (
            "2pc-three-deadline",
            "3 participants, yes or no, 1 deadline, 1 crash of the coordinator",
            Setup { participants: 3, faults: Faults { deadlines: 1, replica_crashes: 1, ..NO_FAULTS }, ..TWO },
            Extent::Exhaustive,
        ),
        (
            "2pc-one",
            "1 participant, yes or no, a crash of each side, 1 deadline, 1 request more",
            Setup {
                participants: 1,
                faults: Faults { replica_crashes: 1, participant_crashes: 1, deadlines: 1, requests: 1, ..NO_FAULTS },
                ..TWO
            },
            Extent::Exhaustive,
        ),
        (
            "2pc-crashes",
            "2 participants, yes or no, a crash of each side, 1 deadline, 1 request more",
            Setup {
                faults: Faults { replica_crashes: 1, participant_crashes: 1, deadlines: 1, requests: 1, ..NO_FAULTS },
                ..TWO
            },
            Extent::States(100_000),
        ),
        (
            "2pc-unknown-commits",
            "2 participants that say yes, 2 answers of the log lost, 1 crash of the coordinator, 1 request more",
            Setup {
                says: &[Says::Yes],
                faults: Faults { lost_answers: 2, replica_crashes: 1, requests: 1, ..NO_FAULTS },
                ..TWO
            },
            Extent::Exhaustive,
        ),
        (
            "2pc-zombie",
            "2 participants that say yes, 2 replicas, 1 take-over beside the living, 1 request more",
            Setup {
                replicas: 2,
                says: &[Says::Yes],
                faults: Faults { take_overs: 1, requests: 1, ..NO_FAULTS },
                ..TWO
            },
            Extent::States(100_000),
        ),
        (
            "2pc-zombie-unknown",
            "2 participants, yes or no, 2 replicas, 1 take-over beside the living, 1 answer lost, 1 request more, 1 deadline",
            Setup {
                replicas: 2,
                faults: Faults { take_overs: 1, lost_answers: 1, requests: 1, deadlines: 1, ..NO_FAULTS },
                ..TWO
            },
            Extent::States(100_000),
        ),
        (
            "2pc-bystander",
            "2 participants that say yes, 2 replicas, 1 inquiry at both, 1 answer lost, 1 crash of a replica",
            Setup {
                replicas: 2,
                says: &[Says::Yes],
                faults: Faults { inquiries: 1, lost_answers: 1, replica_crashes: 1, ..NO_FAULTS },
                ..TWO
            },
            Extent::States(100_000),
        ),
        (
            "2pc-alone",
            "1 participant that commits by itself, every answer, 2 replicas, 1 take-over, 1 crash of the participant, 1 deadline, 1 request more",
            Setup {
                participants: 1,
                replicas: 2,
                says: ALONE,
                one_phase: true,
                faults: Faults { take_overs: 1, participant_crashes: 1, deadlines: 1, requests: 1, ..NO_FAULTS },
                ..TWO
            },
            Extent::States(100_000),
        ),
        (
            "2pc-alone-crash",
            "1 participant that commits by itself, every answer, 1 crash of the coordinator, 1 of the participant, 1 deadline, 1 request more",
            Setup {
                participants: 1,
                says: ALONE,
                one_phase: true,
                faults: Faults {
                    replica_crashes: 1,
                    participant_crashes: 1,
                    deadlines: 1,
                    requests: 1,
                    lost_answers: 1,
                    ..NO_FAULTS
                },
                ..TWO
            },
            Extent::Exhaustive,
        ),
        (
            "2pc-early",
            "2 services that prepare while they are called, 1 crash of the coordinator, 1 deadline, 1 request more",
            Setup {
                says: &[Says::Yes],
                early: true,
                faults: Faults { replica_crashes: 1, deadlines: 1, requests: 1, ..NO_FAULTS },
                ..TWO
            },
            Extent::States(100_000),
        ),
        (
            "2pc-early-crash",
            "2 services that prepare while they are called, 1 crash of a service, 1 deadline",
            Setup {
                says: &[Says::Yes],
                early: true,
                faults: Faults { participant_crashes: 1, deadlines: 1, ..NO_FAULTS },
                ..TWO
            },
            Extent::States(100_000),
        ),
        (
            "2pc-hooks",
            "2 participants, every answer, slow hooks, 1 that fails, 1 crash of a participant, 1 deadline",
            Setup {
                says: ALL,
                slow_hooks: true,
                faults: Faults { hooks: 1, participant_crashes: 1, deadlines: 1, ..NO_FAULTS },
                ..TWO
            },
            Extent::States(100_000),
        ),
    ]
}

fn prove_named(wanted: &str) {
    let (name, bounds, setup, extent) =
        sound().into_iter().find(|(name, ..)| *name == wanted).expect("a name of the list");
    prove(name, bounds, setup, extent);
}

#[test]
fn three_participants() {
    prove_named("2pc-three");
}

#[test]
fn three_participants_and_a_crash() {
    prove_named("2pc-three-deadline");
}

#[test]
fn one_participant_and_every_crash() {
    prove_named("2pc-one");
}

#[test]
fn two_participants_and_every_crash() {
    prove_named("2pc-crashes");
}

#[test]
fn commits_of_unknown_outcome() {
    prove_named("2pc-unknown-commits");
}

#[test]
fn a_zombie_replica_and_its_successor() {
    prove_named("2pc-zombie");
}

#[test]
fn a_zombie_replica_whose_commit_is_unknown() {
    prove_named("2pc-zombie-unknown");
}

#[test]
fn a_bystander_that_presumes_abort() {
    prove_named("2pc-bystander");
}

#[test]
fn services_that_prepare_early_and_crash() {
    prove_named("2pc-early-crash");
}

#[test]
fn a_lone_branch_that_commits_by_itself() {
    prove_named("2pc-alone");
}

#[test]
fn a_lone_branch_that_commits_by_itself_while_its_coordinator_crashes() {
    prove_named("2pc-alone-crash");
}

/// The shortest way to an outcome that was told and not true, while an order to commit alone left no trace: the coordinator crashes behind the
/// order, and the initiator, which was told *in doubt*, asks how it ended.
#[test]
fn the_outcome_of_a_lone_branch_outlives_its_coordinator() {
    let faults = Faults { replica_crashes: 1, requests: 1, ..NO_FAULTS };
    let setup = Setup { participants: 1, says: &[Says::UnknownPrepared], one_phase: true, faults, ..TWO };
    let branch = BranchId { epoch: Epoch(1), number: 0 };
    let ordered = Packet::Prepare { to: 0, instance: 1, branch, epoch: 1, replica: 0, one_phase: true };
    let recalled = Packet::Decide { to: 0, instance: 1, branch, epoch: 2, replica: 0, commit: false };
    let mut world = World::new(&setup);
    for action in [
        Action::AskCommit { replica: 0 },
        Action::Apply { replica: 0 },
        Action::Answer { replica: 0 },
        Action::Prepare { packet: ordered, says: Says::UnknownPrepared },
        Action::CrashReplica { replica: 0 },
        Action::StartReplica { replica: 0 },
        // It is nothing to go by: the branch may have committed.
        Action::Deliver(Packet::Vote { from: 0, instance: 1, branch, replica: 0, says: Says::UnknownNot }),
        Action::Resume { replica: 0 },
        Action::AskOutcome { replica: 0 },
        Action::Deliver(recalled),
        Action::Deliver(Packet::Acknowledge { from: 0, branch, replica: 0, epoch: 2, commit: false, heuristic: true }),
    ] {
        world = world.step(&setup, action).unwrap_or_else(|| {
            assert!(matches!(action, Action::Deliver(Packet::Vote { .. })), "{action:?} does nothing in {world:#?}");
            world.clone()
        });
        assert_eq!(world.broken, None, "{action:?}");
    }
    assert_eq!(world.told, Some(Outcome::Committed));
}

#[test]
fn branches_that_prepare_early() {
    prove_named("2pc-early");
}

#[test]
fn every_vote_and_hooks_that_fail() {
    prove_named("2pc-hooks");
}

/// With asynchronous replication of the log a failover may lose the last commits. Then a decision that was told is not there any more, and the
/// next one contradicts it: such a log is not safe, whatever the coordinator does.
#[test]
fn a_failover_that_loses_the_last_commits_breaks_the_promises() {
    let setup = Setup {
        log: Kind::LosesItsTail,
        says: &[Says::Yes],
        faults: Faults { replica_crashes: 1, ..NO_FAULTS },
        ..TWO
    };
    let bounds = "2 participants that say yes, 1 crash of the coordinator, failovers";
    let broken = refute("2pc", "asynchronous failover", bounds, setup, Extent::Near(100_000));
    let names: Vec<_> = broken.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, [I3, I4], "what breaks");
}

#[test]
fn a_log_in_which_the_last_writer_wins_is_caught() {
    let faults = Faults { replica_crashes: 1, requests: 1, lost_answers: 1, inquiries: 1, ..NO_FAULTS };
    let setup = Setup { log: Kind::Upserts, says: &[Says::Yes], replicas: 2, faults, ..TWO };
    let bounds = "2 participants that say yes, 2 replicas, 1 crash, 1 answer lost, 1 inquiry, 1 request more";
    let broken = refute("2pc", "last writer wins", bounds, setup, Extent::Near(60_000));
    assert!(broken.iter().any(|(name, _)| *name == I3), "{broken:?}");
}

/// Why an order to prepare is handed to one session once, and never repeated.
#[test]
fn a_network_that_repeats_prepare_is_caught() {
    let setup = Setup { repeats_prepare: true, says: &[Says::Yes], ..TWO };
    let broken = refute("2pc", "prepare repeated", "2 participants that say yes", setup, Extent::Near(60_000));
    assert!(!broken.is_empty());
}

/// Enough of each model for the cells: all of them together, in one process.
const CELLS_STATES: usize = 25_000;

#[test]
fn every_cell_of_the_tables_is_met() {
    for (name, bounds, setup, _) in sound() {
        drop(explore(&name.replacen('-', " ", 1), bounds, setup, Extent::Near(CELLS_STATES)));
    }
    CELLS.assert_covers("2pc", cells::TABLE);
}
