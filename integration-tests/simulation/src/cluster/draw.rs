//! What each seed begins with, and how often something goes wrong in it.

use assent_protocol::saga::{Definition, StepDefinition, StepIndex};
use assent_protocol::{Name, Protocol, RetryPolicy, Wait};

use super::initiator::Shape;
use super::setup::{End, Faults, Setup, VoterKind};
use super::world::name_of_bank;
use crate::swarm::Random;

/// Some seeds go one way at length: one transaction or a saga or two, two instances of their banks,
/// and few kinds of faults, so that a long chain of them meets the same one.
pub(super) fn setup(random: &mut Random) -> Setup {
    match random.below(24) {
        0..=3 => long_transaction(random),
        4..=6 => long_saga(random),
        7 => unary_calls(random),
        8..=15 => many_kinds(random),
        _ => three_phases(random),
    }
}

fn long_transaction(random: &mut Random) -> Setup {
    let banks = 1 + random.below(2);
    Setup {
        banks: vec![VoterKind::Table; banks],
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
        end: End::All,
    }
}

fn long_saga(random: &mut Random) -> Setup {
    let banks = 1 + random.below(2);
    Setup {
        banks: vec![VoterKind::Table; banks],
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
        end: End::All,
    }
}

/// Unary calls to one process, which are asked again while look-ups lag: what ran before may run anew,
/// and must not take effect twice.
fn unary_calls(random: &mut Random) -> Setup {
    let banks = 1 + random.below(2);
    let call = |random: &mut Random| Shape::Carried {
        protocol: phases(random),
        banks: (0..1 + random.below(banks)).collect(),
        is_unary: true,
    };
    Setup {
        banks: vec![VoterKind::Table; banks],
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
        end: End::All,
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
        banks: vec![VoterKind::Table; banks],
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
            early_timers: random.rate(2),
            ..Faults::default()
        },
        end: End::All,
    }
}

/// Mostly two.
fn phases(random: &mut Random) -> Protocol {
    if random.below(4) == 0 { Protocol::ThreePhase } else { Protocol::TwoPhase }
}

fn transaction(random: &mut Random, banks: usize) -> Shape {
    let protocol = phases(random);
    if random.below(3) == 0 {
        let first = random.below(banks);
        let calls = (0..1 + random.below(banks)).map(|at| (first + at) % banks).collect();
        return Shape::Begun { protocol, calls };
    }
    let count = 1 + random.below(banks);
    Shape::Carried { protocol, banks: (0..count).collect(), is_unary: random.below(4) == 0 }
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

/// One transaction in three phases, and every kind of fault that its voters are there for.
fn three_phases(random: &mut Random) -> Setup {
    let count = [1, 2, 2, 3, 3, 3, 3, 4][random.below(8)];
    let instances = 1 + random.below(2);
    let voter = |random: &mut Random| match random.below(4) {
        _ if random.below(16) == 0 => VoterKind::None,
        0 => VoterKind::Table,
        _ if instances > 1 => VoterKind::Table,
        _ => VoterKind::File,
    };
    let protocol = Protocol::ThreePhase;
    let shape = if random.below(4) == 0 {
        Shape::Begun { protocol, calls: (0..count).collect() }
    } else {
        Shape::Carried { protocol, banks: (0..count).collect(), is_unary: random.below(8) == 0 }
    };
    let is_unary = matches!(shape, Shape::Carried { is_unary: true, .. });
    Setup {
        banks: (0..count).map(|_| voter(random)).collect(),
        instances,
        shapes: vec![shape],
        refuses: random.below(4) == 0,
        one_phase: random.below(2) == 0,
        // A unary call that another living name has run may run anew, under a roster of its own.
        two_names: random.below(8) == 0 && !is_unary,
        faults: Faults {
            node_crashes: random.rate(3),
            take_overs: random.rate(2),
            blackouts: random.rate(2),
            instance_crashes: random.rate(3),
            scaled_away: random.rate(1),
            lost_stores: u8::from(random.below(12) == 0),
            breaks: random.rate(3),
            lost_answers: random.rate(3),
            failing_hooks: random.rate(3),
            impatience: random.rate(1),
            jumps: random.rate(4),
            early_timers: random.rate(12),
            deadlines: random.rate(2),
            retentions: random.rate(1),
            lost_calls: random.rate(1),
            doubled_calls: random.rate(1),
            stale_reads: random.rate(3),
            repeats: random.rate(2),
            turns: random.rate(1),
            ..Faults::default()
        },
        end: match random.below(4) {
            0 => End::WithoutCoordinator,
            1 => End::WithoutLog,
            _ => End::All,
        },
    }
}
