//! Any events, and any rows in the log, for a saga.

use crate::record::{RecordId, RecordKind};
use bytes::Bytes;

use super::step::Progress;
use super::{Definition, Event, Kept, Saga, StepDefinition, StepIndex, StepResult, Timer, Wait, invariant};
use crate::durable::{Appended, Output};
use crate::fuzz::{Story, Tape, gtid, name, waits_for_log};
use crate::ids::BodyDigest;
use crate::record::{Decision, SagaStarted, SagaStep};
use crate::retry::RetryPolicy;

const DIGEST: BodyDigest = BodyDigest(7);

/// The row of the transition table that says what an answer of the log does; the row behind it is
/// of one that overrules.
const APPENDED: usize = 7;

/// Starts a saga, drives it with what the bytes say, and checks every invariant after each event.
///
/// # Panics
/// If one breaks.
pub fn saga(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    let definition = definition(tape);
    let (epoch, begun_at_ms) = (tape.epoch(), tape.number());
    let (saga, output) = Saga::start(gtid(), epoch, definition, DIGEST, begun_at_ms, tape.caller(), wait(tape));
    drive(tape, saga, &output);
}

/// Recovers a saga from rows that say anything, and drives whatever is not refused.
///
/// # Panics
/// If an invariant breaks.
pub fn saga_records(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    let definition = definition(tape);
    let steps = (0..tape.below(8)).map(|_| step_record(tape, &definition)).collect();
    let started = SagaStarted { gtid: gtid(), definition, digest: DIGEST, begun_at_ms: tape.number() };
    let turned = tape.one_in(2).then(|| tape.text());
    let paused = tape.one_in(4).then(|| tape.text());
    let kept = Kept { started, turned, steps, paused };
    let mut story = Story::new();
    story.then(kept.clone());
    if let Ok((saga, output)) = Saga::recover(tape.epoch(), kept) {
        drive(tape, saga, &output);
    }
}

fn drive(tape: &mut Tape<'_>, mut saga: Saga, output: &Output<super::Effect>) {
    invariant::check_begun(&saga, output).expect("sound");
    let mut is_appending = waits_for_log(output);
    let mut story = Story::new();
    while !tape.is_over() {
        let row = if is_appending && tape.one_in(4) { APPENDED } else { row(tape) };
        let event = event(tape, &saga, row);
        story.then(event.clone());
        let before = saga.clone();
        let output = saga.handle(event.clone());
        if let Err(violation) = invariant::check(&before, &event, &saga, &output) {
            panic!("{violation}\nbefore: {before:?}\nevent: {event:?}\noutput: {output:?}");
        }
        if matches!(event, Event::Appended(_)) {
            is_appending = false;
        }
        if waits_for_log(&output) {
            assert!(!is_appending, "two forced records of one saga are on their way: {event:?} in {before:?}");
            is_appending = true;
        }
    }
}

/// What a step answered, or anything that a row could say of it.
fn step_record(tape: &mut Tape<'_>, definition: &Definition) -> SagaStep {
    SagaStep {
        gtid: gtid(),
        step: StepIndex(tape.below(definition.steps().len() + 1) as u16),
        compensation: tape.one_in(3),
        attempt: tape.number_32(),
        result: result(tape),
    }
}

pub(crate) fn wait(tape: &mut Tape<'_>) -> Wait {
    tape.pick(&[Wait::Started, Wait::Ended])
}

/// Up to five steps, each of which may wait for any of those before it.
pub fn definition(tape: &mut Tape<'_>) -> Definition {
    let count = 1 + tape.below(5);
    let step = |tape: &mut Tape<'_>, position: usize| StepDefinition {
        name: name(&format!("s{position}")),
        participant: name(["bank", "shop"][tape.below(2)]),
        input: Bytes::from(format!("in-{position}")),
        after: (0..position).filter(|_| tape.one_in(2)).map(|after| StepIndex(after as u16)).collect(),
        retry: RetryPolicy { attempts_max: tape.below(3) as u32, ..RetryPolicy::default() },
        compensation_retry: RetryPolicy { attempts_max: tape.below(3) as u32, ..RetryPolicy::default() },
        pivot: tape.one_in(6),
        durable: tape.one_in(4),
    };
    Definition::new((0..count).map(|position| step(tape, position)).collect()).expect("a DAG")
}

/// What a step answered.
pub fn result(tape: &mut Tape<'_>) -> StepResult {
    match tape.below(8) {
        0 => StepResult::Refused("no".into()),
        1 | 2 => StepResult::Unknown("who knows".into()),
        _ => StepResult::Done(Bytes::from_static(b"out")),
    }
}

/// A row of the transition table, rather one that leads on.
pub(crate) fn row(tape: &mut Tape<'_>) -> usize {
    match tape.below(40) {
        row @ 0..15 if row != 8 || tape.one_in(8) => row,
        8 | 15..25 => 0,
        25..30 => 1,
        30..35 => 6,
        _ => APPENDED,
    }
}

/// An event of that row of the transition table.
pub(crate) fn event(tape: &mut Tape<'_>, saga: &Saga, row: usize) -> Event {
    let compensation = match row {
        0 => false,
        1 => true,
        _ => tape.one_in(2),
    };
    let step = step(tape, saga, compensation);
    let attempt = attempt(tape, saga, step);
    let instance = tape.instance();
    let participant = name(["bank", "shop"][tape.below(2)]);
    let wait = wait(tape);
    match row {
        0 | 1 => {
            let (result, is_final) = (result(tape), tape.one_in(2));
            Event::StepAnswered { step, compensation, attempt, instance, result, is_final }
        }
        2 => Event::Sent { step, compensation, attempt, instance },
        3 => Event::Undeliverable { step, compensation, attempt },
        4 => Event::Joined { participant },
        5 => Event::Left { participant, instance },
        6 if tape.one_in(2) => Event::TimerFired(Timer::Attempt { step, compensation, attempt }),
        6 => {
            let step = StepIndex(tape.below(saga.steps.len()) as u16);
            Event::TimerFired(saga.step(step).timer(step).unwrap_or(Timer::Retry { step, compensation, attempt }))
        }
        APPENDED => Event::Appended(durable()),
        8 => Event::Appended(Appended::Overruled { decision: Decision::Abort, members: vec![] }),
        9 => {
            let digest = if tape.one_in(3) { BodyDigest(8) } else { DIGEST };
            Event::StartRequested { digest, caller: tape.caller(), wait }
        }
        10 => Event::WaitRequested { caller: tape.caller(), wait },
        11 => Event::CompensateRequested { reason: "enough".into(), caller: tape.caller() },
        12 => Event::CallerLeft { session: tape.caller().session },
        13 => Event::PauseRequested { reason: "a look".into() },
        _ => Event::ResumeRequested,
    }
}

#[expect(clippy::disallowed_methods, reason = "the tape plays the log")]
fn durable() -> Appended {
    Appended::Durable(crate::durable::Durable::attest(RecordId { gtid: gtid(), kind: RecordKind::SagaStarted }))
}

/// A step, rather one with an attempt in flight.
fn step(tape: &mut Tape<'_>, saga: &Saga, compensation: bool) -> StepIndex {
    let in_flight: Vec<_> = saga
        .indices()
        .filter(|index| {
            matches!(
                (saga.step(*index).progress, compensation),
                (Progress::Executing { .. }, false) | (Progress::Compensating { .. }, true)
            )
        })
        .collect();
    if in_flight.is_empty() || tape.one_in(4) {
        StepIndex(tape.below(saga.steps.len() + 1) as u16)
    } else {
        in_flight[tape.below(in_flight.len())]
    }
}

fn attempt(tape: &mut Tape<'_>, saga: &Saga, step: StepIndex) -> u32 {
    let last = saga.steps.get(usize::from(step.0)).map_or(1, |step| step.attempt);
    if tape.one_in(5) { last.saturating_sub(1) } else { last }
}
