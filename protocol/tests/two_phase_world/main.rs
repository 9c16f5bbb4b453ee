//! A small world: one transaction, the real machines of both sides, and everything that can go wrong between them.
//!
//! The coordinator's machine and the branches run as they are. Around them are models: a log in which the first decision wins and whose answers
//! get lost; participants whose database survives their crashes; sessions that keep their order and break, losing what was on the way, or
//! leaving frames that were read and are looked at late; replicas that lose their memory and recover from the log; an initiator
//! that asks until it is told.
//!
//! After every step the participants' databases, the log and the initiator's answers are compared (I1, I2, I3, I5, I6), and the
//! machines' own invariants hold. Whatever happened, when faults stop, everything ends (I12).
//!
//! Two things are taken for granted, and have to be kept by whoever runs the machines: a session's messages to a replica are dropped once
//! that replica has seen the session end, and an order's route is told only after all effects of its output were carried out.

mod initiator;
mod log;
mod net;
mod participant;
mod replica;
mod world;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use Line::{Do, Returns, TakesEffect};
use assent_protocol::Gtid;
use assent_protocol::two_phase::Timer;
use participant::Behaviour;
use proptest::prelude::*;
use replica::Driver;
use world::{Action, Faults, Setup, World};

pub(crate) fn gtid() -> Gtid {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("valid")
}

fn behaviours() -> impl Strategy<Value = Behaviour> {
    prop_oneof![
        6 => Just(Behaviour::Yes),
        1 => Just(Behaviour::ReadOnly),
        1 => Just(Behaviour::No),
        1 => Just(Behaviour::UnknownPrepared),
        1 => Just(Behaviour::UnknownNot),
        1 => Just(Behaviour::NeverStarted),
    ]
}

fn setups() -> impl Strategy<Value = Setup> {
    let faults = (0..4_u32, 0..4_u32, 0..3_u32, 0..8_u32, 0..4_u32)
        .prop_map(|(breaks, crashes, hooks, timers, requests)| Faults { breaks, crashes, hooks, timers, requests });
    (prop::collection::vec(behaviours(), 1..4), 1..3_usize, any::<[bool; 5]>(), faults).prop_map(
        |(behaviours, instances, [is_begun, is_unary, one_phase, waits_for_end, has_bystander], faults)| Setup {
            behaviours,
            instances,
            is_begun,
            is_unary: is_unary && !is_begun,
            one_phase,
            waits_for_end,
            has_bystander,
            driver: Driver::Sound,
            faults,
        },
    )
}

/// Runs the choices, then calms down.
fn run(setup: Setup, choices: &[u16]) -> Result<(), String> {
    let mut world = World::new(setup);
    let mut trace = Vec::new();
    let outcome = wander(&mut world, choices, &mut trace).and_then(|()| world.calm());
    outcome.map_err(|problem| tell(&problem, &trace, &world))
}

fn tell(problem: &str, trace: &[Action], world: &World) -> String {
    let trace: String = trace.iter().map(|action| format!("  {action:?}\n")).collect();
    format!("{problem}\nafter\n{trace}{world:?}")
}

fn wander(world: &mut World, choices: &[u16], trace: &mut Vec<Action>) -> Result<(), String> {
    for choice in choices {
        let (progress, faults) = (world.progress(), world.faults());
        // One choice in four is a fault.
        let among = if choice % 4 == 0 && !faults.is_empty() || progress.is_empty() { faults } else { progress };
        let Some(&action) = among.get(usize::from(choice / 4) % among.len().max(1)) else { break };
        trace.push(action);
        world.step(action)?;
    }
    Ok(())
}

/// So many cases, unless `PROPTEST_CASES` asks for others.
fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { cases };
    ProptestConfig { cases, max_shrink_iters: 20_000, ..default }
}

proptest! {
    #![proptest_config(config(8_000))]

    #[test]
    fn whatever_goes_wrong_all_branches_end_alike(
        setup in setups(),
        choices in prop::collection::vec(any::<u16>(), 0..160),
    ) {
        if let Err(problem) = run(setup, &choices) {
            return Err(TestCaseError::fail(problem));
        }
    }
}

/// How a state was reached. Many states share their beginnings.
struct Trace {
    action: Action,
    before: Option<Rc<Trace>>,
}

impl Trace {
    fn actions(mut trace: &Option<Rc<Self>>) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(last) = trace {
            actions.push(last.action);
            trace = &last.before;
        }
        actions.reverse();
        actions
    }
}

/// Explores every order of events of a setup, and calms down from every `calm_every`th state.
fn explore(setup: Setup, calm_every: usize) {
    let first = World::new(setup);
    let mut seen = HashSet::from([fingerprint(&first)]);
    let mut stack = vec![(first, None)];
    let mut count = 0_usize;
    while let Some((world, trace)) = stack.pop() {
        count += 1;
        if count.is_multiple_of(calm_every) {
            let mut calm = world.clone();
            calm.calm().unwrap_or_else(|problem| panic!("{}", tell(&problem, &Trace::actions(&trace), &world)));
        }
        for action in world.progress().into_iter().chain(world.faults()) {
            let mut next = world.clone();
            let longer = Some(Rc::new(Trace { action, before: trace.clone() }));
            let outcome = next.step(action);
            outcome.unwrap_or_else(|problem| panic!("{}", tell(&problem, &Trace::actions(&longer), &next)));
            if seen.insert(fingerprint(&next)) {
                stack.push((next, longer));
            }
        }
    }
    println!("{count} states");
}

const PLAIN: Setup = Setup {
    behaviours: Vec::new(),
    instances: 1,
    is_begun: false,
    is_unary: false,
    one_phase: false,
    waits_for_end: false,
    has_bystander: false,
    driver: Driver::Sound,
    faults: Faults::NONE,
};

#[test]
fn two_branches_and_every_crash() {
    let faults = Faults { crashes: 1, ..Faults::NONE };
    explore(Setup { behaviours: vec![Behaviour::Yes, Behaviour::Yes], faults, ..PLAIN }, 50);
}

#[test]
fn one_branch_that_commits_by_itself_and_every_crash() {
    let faults = Faults { crashes: 2, timers: 1, ..Faults::NONE };
    explore(Setup { behaviours: vec![Behaviour::UnknownPrepared], one_phase: true, faults, ..PLAIN }, 50);
}

#[test]
fn a_branch_that_prepares_early_and_every_crash() {
    let faults = Faults { crashes: 1, requests: 1, breaks: 1, ..Faults::NONE };
    explore(Setup { behaviours: vec![Behaviour::Yes], is_begun: true, faults, ..PLAIN }, 50);
}

#[test]
fn a_bystander_that_presumes_abort_is_overruled_or_overrules() {
    let faults = Faults { timers: 1, ..Faults::NONE };
    let behaviours = vec![Behaviour::Yes, Behaviour::Yes];
    explore(Setup { behaviours, has_bystander: true, faults, ..PLAIN }, 50);
}

/// A line of a script.
enum Line {
    Do(Action),
    /// The hook of the only branch at this instance takes effect.
    TakesEffect((usize, usize)),
    /// And returns.
    Returns((usize, usize)),
}

fn play(world: &mut World, script: &[Line]) -> Result<(), String> {
    script.iter().try_for_each(|line| {
        let action = match *line {
            Line::Do(action) => Some(action),
            // Where no branch is, nothing was ordered, and nothing happens.
            Line::TakesEffect(place) => {
                world.only_branch(place).map(|branch| Action::HookTakesEffect { place, branch })
            }
            Line::Returns(place) => world.only_branch(place).map(|branch| Action::HookReturns { place, branch }),
        };
        action.map_or(Ok(()), |action| world.step(action))
    })
}

/// A request that comes again runs its transaction anew, while an abort of its earlier life, which nobody logged, is still on its way at an instance
/// that the coordinator has lost.
fn repeat_beside_an_abort_that_is_late(driver: Driver) -> Result<(), String> {
    let mut world = World::new(Setup {
        behaviours: vec![Behaviour::Yes],
        instances: 2,
        driver,
        faults: Faults { breaks: 1, crashes: 1, timers: 2, ..Faults::NONE },
        ..PLAIN
    });
    let (slow, quick, replica) = ((0, 0), (0, 1), 0);
    let [slow_id, quick_id] = [slow, quick].map(|place| world.id_of(place));
    let script = [
        // The slow instance prepares, too late.
        Do(Action::AskCommit),
        Do(Action::RequestArrives),
        Do(Action::ToInstance { replica, place: slow }),
        TakesEffect(slow),
        Returns(slow),
        Do(Action::TimerFires { replica, timer: Timer::Deadline }),
        Do(Action::Break { replica, instance: slow_id, are_frames_read: true }),
        // The quick one undoes it, for all instances share a database.
        Do(Action::TimerFires { replica, timer: Timer::Resend }),
        Do(Action::ToInstance { replica, place: quick }),
        TakesEffect(quick),
        Returns(quick),
        Do(Action::ToReplica { replica, instance: quick_id }),
        // The abort is forgotten, and the initiator never heard of it.
        Do(Action::CrashReplica { replica }),
        Do(Action::StartReplica { replica }),
        Do(Action::Connect { replica, place: quick }),
        Do(Action::ConnectInitiator),
        Do(Action::AskCommit),
        Do(Action::RequestArrives),
        Do(Action::ToInstance { replica, place: quick }),
        TakesEffect(quick),
        Returns(quick),
        Do(Action::ToReplica { replica, instance: quick_id }),
        Do(Action::AppendApplied { replica }),
        // The slow one gets to the abort.
        Do(Action::LateToInstance { place: slow }),
        TakesEffect(slow),
    ];
    play(&mut world, &script)?;
    world.calm()
}

/// What a late abort orders is about the branch of the earlier life alone: its id is not that of the later one.
#[test]
fn a_late_abort_ends_only_its_own_branch() {
    repeat_beside_an_abort_that_is_late(Driver::RunsAnew).expect("the later branch has another id");
}

#[test]
fn a_transaction_that_was_forgotten_never_runs_anew() {
    repeat_beside_an_abort_that_is_late(Driver::Sound).expect("the repeated request meets the presumed abort");
    let problem =
        repeat_beside_an_abort_that_is_late(Driver::RunsAnewUnderTheSameIds).expect_err("the late abort undoes a yes");
    assert!(problem.contains("commit is durable, and its work is gone"), "{problem}");
}

/// Why a delegation is recalled, and not presumed aborted: a lone branch that was asked to commit by itself may have done so.
fn vote_unknown_after_a_restart(driver: Driver) -> Result<(), String> {
    let mut world = World::new(Setup {
        behaviours: vec![Behaviour::UnknownPrepared],
        one_phase: true,
        driver,
        faults: Faults { crashes: 1, ..Faults::NONE },
        ..PLAIN
    });
    let (place, replica) = ((0, 0), 0);
    let instance = world.id_of(place);
    let script = [
        Do(Action::AskCommit),
        Do(Action::RequestArrives),
        Do(Action::AppendApplied { replica }),
        Do(Action::AppendAnswered { replica }),
        Do(Action::ToInstance { replica, place }),
        TakesEffect(place),
        Do(Action::CrashReplica { replica }),
        Do(Action::StartReplica { replica }),
        Do(Action::Connect { replica, place }),
        Returns(place),
        Do(Action::ToReplica { replica, instance }),
        Do(Action::AppendApplied { replica }),
    ];
    play(&mut world, &script)?;
    world.calm()
}

#[test]
fn a_lone_branch_that_does_not_know_is_not_presumed_aborted() {
    vote_unknown_after_a_restart(Driver::Sound).expect("it is told to abort, and tells that it has committed");
    let problem = vote_unknown_after_a_restart(Driver::PresumesAbortOfADelegation).expect_err("it has committed");
    assert!(problem.contains("abort is durable, and it committed"), "{problem}");
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}
