//! Every cell of the transition table, by random events: the table tells the truth, and every invariant holds after each event.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::*;
use crate::record::Decision;
use crate::saga::Stage;
use crate::saga::step::Progress;

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

/// SplitMix64 (Steele, Lea, Flood 2014): enough to choose events with, and the same everywhere.
struct Choices(u64);

impl Choices {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below the bound")
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn definition(&mut self) -> Definition {
        let count = 1 + self.below(5);
        let steps = (0..count)
            .map(|position| {
                let after: Vec<u16> = (0..position).filter(|_| self.one_in(2)).map(|after| after as u16).collect();
                let mut made = step(&format!("s{position}"), &after);
                made.participant = name(["bank", "shop"][self.below(2)]);
                made.pivot = self.one_in(6);
                made.durable = self.one_in(4);
                made.retry.attempts_max = self.below(3) as u32;
                made.compensation_retry.attempts_max = self.below(3) as u32;
                made
            })
            .collect();
        definition(steps)
    }

    fn result(&mut self) -> StepResult {
        match self.below(8) {
            0 => StepResult::Refused("no".into()),
            1 | 2 => StepResult::Unknown("who knows".into()),
            _ => StepResult::Done(Bytes::from_static(b"out")),
        }
    }

    fn caller(&mut self) -> Caller {
        Caller { session: self.below(3) as u64, request: self.below(4) as u64 }
    }

    /// A step, rather one with an attempt in flight.
    fn step(&mut self, saga: &Saga, compensation: bool) -> StepIndex {
        let in_flight: Vec<_> = saga
            .indices()
            .filter(|index| {
                matches!(
                    (saga.step(*index).progress, compensation),
                    (Progress::Executing { .. }, false) | (Progress::Compensating { .. }, true)
                )
            })
            .collect();
        if in_flight.is_empty() || self.one_in(4) {
            StepIndex(self.below(saga.steps.len() + 1) as u16)
        } else {
            in_flight[self.below(in_flight.len())]
        }
    }

    fn attempt(&mut self, saga: &Saga, step: StepIndex) -> u32 {
        let last = saga.steps.get(usize::from(step.0)).map_or(1, |step| step.attempt);
        if self.one_in(5) { last.saturating_sub(1) } else { last }
    }

    fn event(&mut self, saga: &Saga, row: usize) -> Event {
        let compensation = match row {
            0 => false,
            1 => true,
            _ => self.one_in(2),
        };
        let step = self.step(saga, compensation);
        let attempt = self.attempt(saga, step);
        let instance = InstanceId(self.below(2) as u64);
        let participant = name(["bank", "shop"][self.below(2)]);
        let wait = if self.one_in(2) { Wait::Started } else { Wait::Ended };
        match row {
            0 | 1 => Event::StepAnswered { step, compensation, attempt, instance, result: self.result() },
            2 => Event::Sent { step, compensation, attempt, instance },
            3 => Event::Undeliverable { step, compensation, attempt },
            4 => Event::Joined { participant },
            5 => Event::Left { participant, instance },
            6 if self.one_in(2) => Event::TimerFired(Timer::Attempt { step, compensation, attempt }),
            6 => {
                let step = StepIndex(self.below(saga.steps.len()) as u16);
                Event::TimerFired(saga.step(step).timer(step).unwrap_or(Timer::Retry { step, compensation, attempt }))
            }
            7 => durable(),
            8 => Event::Appended(Appended::Overruled(Decision::Abort)),
            9 => {
                let digest = if self.one_in(3) { BodyDigest(8) } else { DIGEST };
                Event::StartRequested { digest, caller: self.caller(), wait }
            }
            10 => Event::WaitRequested { caller: self.caller(), wait },
            11 => Event::CompensateRequested { reason: "enough".into(), caller: self.caller() },
            12 => Event::CallerLeft { session: self.below(3) as u64 },
            13 => Event::PauseRequested { reason: "a look".into() },
            _ => Event::ResumeRequested,
        }
    }
}

#[test]
fn the_transition_table_tells_the_truth_and_every_cell_is_hit() {
    let table = table();
    let (mut hit, mut acted) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..4_000 {
        let mut choices = Choices(seed);
        let wait = if choices.one_in(2) { Wait::Started } else { Wait::Ended };
        let (mut saga, output) =
            Saga::start(gtid(), Epoch(1), choices.definition(), DIGEST, BEGUN_AT_MS, choices.caller(), wait);
        invariant::check_begun(&saga, &output).expect("sound");
        for _ in 0..60 {
            let row = match choices.below(40) {
                row @ 0..15 if row != 8 || choices.one_in(8) => row,
                8 | 15..25 => 0,
                25..30 => 1,
                30..35 => 6,
                _ => 7,
            };
            let (stage, event) = (saga.stage(), choices.event(&saga, row));
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
        let mut choices = Choices(seed);
        let definition = choices.definition();
        let (mut saga, output) = Saga::start(gtid(), Epoch(1), definition, DIGEST, BEGUN_AT_MS, CALLER, Wait::Ended);
        let mut outputs = vec![output];
        for _ in 0..60 {
            let row = choices.below(ROWS.len());
            let event = choices.event(&saga, row);
            outputs.push(saga.handle(event));
        }
        (saga, outputs)
    };
    for seed in 0..100 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
