//! Every cell of the transition table, by random events: the table tells the truth, and every
//! invariant holds after each event.

use std::collections::BTreeSet;

use super::*;
use crate::fuzz::Tape;
use crate::saga::{Stage, fuzz};

const STAGES: [Stage; 10] = [
    Stage::Starting,
    Stage::Running,
    Stage::Deciding,
    Stage::Turning,
    Stage::Compensating,
    Stage::PausedRunning,
    Stage::PausedCompensating,
    Stage::Ending,
    Stage::Ended,
    Stage::Overruled,
];

const ROWS: [&str; 15] = [
    "`StepAnswered`, action",
    "`StepAnswered`, compensation",
    "`Sent`",
    "`Undeliverable`",
    "`Joined`",
    "`Left`",
    "`TimerFired`",
    "`Appended`, durable",
    "`Appended`, overruled",
    "`StartRequested`",
    "`WaitRequested`",
    "`CompensateRequested`",
    "`CallerLeft`",
    "`PauseRequested`",
    "`ResumeRequested`",
];

/// The cells of the documented table, row by row.
fn table() -> Vec<Vec<String>> {
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let lines: Vec<_> = include_str!("../machine.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! "))
        .filter(|line| line.starts_with("| `"))
        .map(cells)
        .collect();
    let names: Vec<_> = lines.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(names, ROWS, "the rows of the table");
    assert!(lines.iter().all(|row| row.len() == 1 + STAGES.len()), "a cell for every state");
    lines.into_iter().map(|row| row[1..].to_vec()).collect()
}

/// What a seed chooses: bytes by SplitMix64 (Steele, Lea, Flood 2014), enough to choose events
/// with, and the same everywhere.
fn bytes(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    };
    std::iter::repeat_with(next).take(100).flatten().collect()
}

#[test]
fn the_transition_table_tells_the_truth_and_every_cell_is_hit() {
    let table = table();
    let (mut hit, mut acted) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..6_000 {
        let bytes = bytes(seed);
        let tape = &mut Tape::new(&bytes);
        let (mut saga, output) =
            Saga::start(gtid(), Epoch(1), fuzz::definition(tape), DIGEST, BEGUN_AT_MS, tape.caller(), fuzz::wait(tape));
        invariant::check_begun(&saga, &output).expect("sound");
        for _ in 0..60 {
            let row = fuzz::row(tape);
            let (stage, event) = (saga.stage(), fuzz::event(tape, &saga, row));
            let before = saga.clone();
            let output = saga.handle(event.clone());
            if let Err(violation) = invariant::check(&before, &event, &saga, &output) {
                panic!("seed {seed}: {violation}\nbefore: {before:#?}\nevent: {event:?}\noutput: {output:?}");
            }
            let column = STAGES.iter().position(|known| *known == stage).expect("a known state");
            let is_nothing = saga == before && output == Output::none();
            // Another body is refused in every state.
            if !is_nothing {
                assert_ne!(table[row][column], "–", "seed {seed}: {event:?} in {stage:?} led to {output:?}");
                acted.insert((row, column));
            }
            hit.insert((row, column));
        }
    }
    for (row, cells) in table.iter().enumerate() {
        for (column, cell) in cells.iter().enumerate() {
            let (event, stage) = (ROWS[row], STAGES[column]);
            assert!(hit.contains(&(row, column)), "{event} in {stage:?} was never tried");
            assert!(cell == "–" || acted.contains(&(row, column)), "{event} in {stage:?} never did anything");
        }
    }
}

#[test]
fn the_same_events_give_the_same_outputs_and_a_saga_survives_being_stored() {
    let run = |seed| {
        let bytes = bytes(seed);
        let tape = &mut Tape::new(&bytes);
        let definition = fuzz::definition(tape);
        let (mut saga, output) = Saga::start(gtid(), Epoch(1), definition, DIGEST, BEGUN_AT_MS, CALLER, Wait::Ended);
        let mut outputs = vec![output];
        for _ in 0..60 {
            let row = tape.below(ROWS.len());
            let event = fuzz::event(tape, &saga, row);
            outputs.push(saga.handle(event));
        }
        (saga, outputs)
    };
    for seed in 0..100 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
