//! Promises of the saga machine, and the means to test them.

mod cells;
mod invariants;
mod promises;
mod recovery;

use crate::record::{RecordId, RecordKind};
use bytes::Bytes;

use super::{Definition, Effect, Event, Kept, Saga, StepDefinition, StepIndex, StepResult, Timer, Wait, invariant};
use crate::durable::{Appended, Durable, Output};
use crate::ids::{BodyDigest, Caller, Epoch, Gtid, InstanceId, Name};
use crate::record::{Record, SagaStarted};
use crate::retry::RetryPolicy;

const DIGEST: BodyDigest = BodyDigest(7);
const CALLER: Caller = Caller { session: 1, request: 1 };
const BEGUN_AT_MS: u64 = 1_700_000_000_000;

fn gtid() -> Gtid {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("a version 7")
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// A step named `text`, at a participant `at-text`.
fn step(text: &str, after: &[u16]) -> StepDefinition {
    StepDefinition {
        name: name(text),
        participant: name(&format!("at-{text}")),
        input: Bytes::from(format!("in-{text}")),
        after: after.iter().map(|after| StepIndex(*after)).collect(),
        retry: RetryPolicy::default(),
        compensation_retry: RetryPolicy::default(),
        pivot: false,
        durable: false,
    }
}

fn pivot(text: &str, after: &[u16]) -> StepDefinition {
    StepDefinition { pivot: true, ..step(text, after) }
}

fn attempts(attempts_max: u32, step: StepDefinition) -> StepDefinition {
    StepDefinition { retry: RetryPolicy { attempts_max, ..RetryPolicy::default() }, ..step }
}

fn compensation_attempts(attempts_max: u32, step: StepDefinition) -> StepDefinition {
    StepDefinition { compensation_retry: RetryPolicy { attempts_max, ..RetryPolicy::default() }, ..step }
}

fn definition(steps: Vec<StepDefinition>) -> Definition {
    Definition::new(steps).expect("a DAG")
}

/// A log's word. Tests are a log.
#[expect(clippy::disallowed_methods, reason = "the test plays the log")]
fn durable() -> Event {
    Event::Appended(Appended::Durable(Durable::attest(RecordId { gtid: gtid(), kind: RecordKind::SagaStarted })))
}

fn done(step: u16, attempt: u32, output: &str) -> Event {
    answer(step, false, attempt, StepResult::Done(Bytes::copy_from_slice(output.as_bytes())))
}

fn refused(step: u16, attempt: u32, reason: &str) -> Event {
    answer(step, false, attempt, StepResult::Refused(reason.into()))
}

fn finally_refused(step: u16, attempt: u32, reason: &str) -> Event {
    let (step, result) = (StepIndex(step), StepResult::Refused(reason.into()));
    Event::StepAnswered { step, compensation: false, attempt, instance: InstanceId(5), result, is_final: true }
}

fn unknown(step: u16, attempt: u32, reason: &str) -> Event {
    answer(step, false, attempt, StepResult::Unknown(reason.into()))
}

fn undone(step: u16, attempt: u32) -> Event {
    answer(step, true, attempt, StepResult::Done(Bytes::new()))
}

fn answer(step: u16, compensation: bool, attempt: u32, result: StepResult) -> Event {
    let step = StepIndex(step);
    Event::StepAnswered { step, compensation, attempt, instance: InstanceId(5), result, is_final: false }
}

fn timeout(step: u16, compensation: bool, attempt: u32) -> Event {
    Event::TimerFired(Timer::Attempt { step: StepIndex(step), compensation, attempt })
}

fn retry(step: u16, compensation: bool, attempt: u32) -> Event {
    Event::TimerFired(Timer::Retry { step: StepIndex(step), compensation, attempt })
}

/// A saga under test: every event is checked against every invariant.
struct Run {
    saga: Saga,
    output: Output<Effect>,
    forced_writes: usize,
}

impl Run {
    /// Begins a saga whose caller waits for the end.
    fn start(steps: Vec<StepDefinition>) -> Self {
        Self::start_for(steps, Wait::Ended)
    }

    fn start_for(steps: Vec<StepDefinition>, wait: Wait) -> Self {
        let (saga, output) = Saga::start(gtid(), Epoch(1), definition(steps), DIGEST, BEGUN_AT_MS, CALLER, wait);
        invariant::check_begun(&saga, &output).expect("sound");
        let forced_writes = usize::from(output.forced().is_some());
        Self { saga, output, forced_writes }
    }

    /// A running saga: its start is durable.
    fn running(steps: Vec<StepDefinition>) -> Self {
        let mut run = Self::start(steps);
        run.on(durable());
        run
    }

    fn recovered(kept: Kept) -> Self {
        let (saga, output) = Saga::recover(Epoch(2), kept).expect("recoverable");
        invariant::check_begun(&saga, &output).expect("sound");
        let forced_writes = usize::from(output.forced().is_some());
        Self { saga, output, forced_writes }
    }

    fn on(&mut self, event: Event) -> &mut Self {
        let before = self.saga.clone();
        self.output = self.saga.handle(event.clone());
        invariant::check(&before, &event, &self.saga, &self.output).expect("sound");
        self.forced_writes += usize::from(self.output.forced().is_some());
        self
    }

    fn all(&mut self, events: impl IntoIterator<Item = Event>) -> &mut Self {
        for event in events {
            self.on(event);
        }
        self
    }

    /// The output in short: `+a1` executes a's attempt 1, `-a1` compensates it; records as `started
    /// turned a ended`, forced ones with a `!`.
    fn seen(&self) -> String {
        let name = |step: &StepIndex| self.saga.definition().step(*step).name.to_string();
        let mut seen = Vec::new();
        for record in self.output.records() {
            let mark = if self.output.forced() == Some(record) { "!" } else { "" };
            seen.push(match record {
                Record::SagaStarted(_) => format!("{mark}started"),
                Record::SagaTurned(_) => format!("{mark}turned"),
                Record::SagaStep(record) => format!("{mark}{}", name(&record.step)),
                Record::SagaPaused(record) => {
                    format!("{mark}{}", if record.remedy.is_some() { "paused" } else { "resumed" })
                }
                Record::Ended(record) => format!("{mark}ended:{}", record.outcome),
                Record::Decided(_) => "decided".into(),
                Record::Delegated(_) => "delegated".into(),
                Record::Attempted(_) => "attempted".into(),
                Record::Agreed(_) => "agreed".into(),
                Record::Voter(_) => "voter".into(),
            });
        }
        for effect in self.output.peek_effects() {
            match effect {
                Effect::Execute { step, attempt, .. } => seen.push(format!("+{}{attempt}", name(step))),
                Effect::Compensate { step, attempt, .. } => seen.push(format!("-{}{attempt}", name(step))),
                Effect::Reply { .. } | Effect::SetTimer { .. } | Effect::CancelTimer { .. } => {}
            }
        }
        seen.join(" ")
    }

    #[track_caller]
    fn sees(&mut self, event: Event, expected: &str) -> &mut Self {
        self.on(event);
        assert_eq!(self.seen(), expected);
        self
    }

    fn replies(&self) -> Vec<(Caller, super::Reply)> {
        let reply = |effect: &Effect| match effect {
            Effect::Reply { to, reply } => Some((*to, reply.clone())),
            Effect::Execute { .. }
            | Effect::Compensate { .. }
            | Effect::SetTimer { .. }
            | Effect::CancelTimer { .. } => None,
        };
        self.output.peek_effects().iter().filter_map(reply).collect()
    }
}

fn kept(steps: Vec<StepDefinition>) -> Kept {
    let definition = definition(steps);
    let started = SagaStarted { gtid: gtid(), definition, digest: DIGEST, begun_at_ms: BEGUN_AT_MS };
    Kept { started, turned: None, steps: Vec::new(), paused: None }
}
