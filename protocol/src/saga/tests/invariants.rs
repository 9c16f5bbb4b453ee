//! For each invariant, mutants that break it and are caught.

use bytes::Bytes;

use super::*;
use crate::record::{Outcome, SagaStep, SagaTurned};
use crate::saga::Reply;
use crate::saga::machine::Phase;
use crate::saga::step::Progress;

/// One event in a sound run, to be made unsound.
struct Mutant {
    before: Saga,
    event: Event,
    after: Saga,
    output: Output<Effect>,
}

impl Mutant {
    /// The last of `events`, which happened to a running saga.
    fn of(steps: Vec<StepDefinition>, events: Vec<Event>) -> Self {
        let mut run = Run::running(steps);
        let (event, before) = events.split_last().expect("at least one event");
        run.all(before.iter().cloned());
        let before = run.saga.clone();
        run.on(event.clone());
        Self { before, event: event.clone(), after: run.saga, output: run.output }
    }

    #[track_caller]
    fn breaks(&self, invariant: &str) {
        let found = invariant::check(&self.before, &self.event, &self.after, &self.output).expect_err("it is unsound");
        assert!(found.invariant.starts_with(invariant), "{found}");
    }

    /// Its effects, with one more.
    fn and(&self, effect: Effect) -> Output<Effect> {
        let mut effects = self.output.peek_effects().to_vec();
        effects.push(effect);
        match self.output.forced() {
            Some(record) => Output::after(record.clone(), effects),
            None => Output::effects(effects),
        }
    }
}

fn chain() -> Vec<StepDefinition> {
    vec![step("a", &[]), step("b", &[0]), step("c", &[1])]
}

/// a and b are done, c was refused, and the turn is durable: b is being compensated.
fn compensating() -> Vec<Event> {
    vec![done(0, 1, "A"), done(1, 1, "B"), refused(2, 1, "no"), durable()]
}

fn tell(reply: Reply) -> Effect {
    Effect::Reply { to: CALLER, reply }
}

fn compensate(index: u16, output: Option<&'static str>) -> Effect {
    Effect::Compensate {
        step: StepIndex(index),
        name: name("s"),
        to: name("p"),
        prefer: None,
        attempt: 1,
        input: Bytes::new(),
        output: output.map(Bytes::from),
    }
}

fn execute(index: u16) -> Effect {
    Effect::Execute {
        step: StepIndex(index),
        name: name("s"),
        to: name("p"),
        prefer: None,
        attempt: 1,
        input: Bytes::new(),
        outputs: Vec::new(),
        pivot: false,
    }
}

fn step_record(index: u16) -> Record {
    let result = StepResult::Done(Bytes::new());
    Record::SagaStep(SagaStep { gtid: gtid(), step: StepIndex(index), compensation: false, attempt: 1, result })
}

#[test]
fn i3_an_outcome_that_changes_is_caught() {
    let mut mutant = Mutant::of(vec![step("a", &[])], vec![done(0, 1, "A"), durable()]);
    mutant.after.phase = Phase::Ended(Outcome::Compensated);
    mutant.breaks("I3");
    let mut mutant = Mutant::of(chain(), [compensating(), vec![undone(1, 1)]].concat());
    mutant.after.turned = Some("something else".into());
    mutant.breaks("I3");
}

#[test]
fn i4_what_is_taken_for_durable_without_a_receipt_is_caught() {
    let mut mutant = Mutant::of(vec![step("a", &[])], vec![done(0, 1, "A")]);
    mutant.after.phase = Phase::Ended(Outcome::Completed);
    mutant.breaks("I4");
    let mut mutant = Mutant::of(vec![step("a", &[]), pivot("p", &[0])], vec![done(0, 1, "A")]);
    mutant.after.step_mut(StepIndex(0)).progress = Progress::Completed;
    mutant.breaks("I4");
}

#[test]
fn i4_a_reply_before_its_record_is_caught() {
    for reply in [
        Reply::Ended { outcome: Outcome::Completed, reason: None, outputs: Vec::new() },
        Reply::Compensating { reason: "why".into() },
        Reply::PastPivot,
    ] {
        let mut mutant = Mutant::of(chain(), vec![done(0, 1, "A")]);
        mutant.output = mutant.and(tell(reply));
        mutant.breaks("I4");
    }
    let (saga, _) = Saga::start(gtid(), Epoch(1), definition(chain()), DIGEST, BEGUN_AT_MS, CALLER, Wait::Started);
    let output = Output::effects(vec![
        tell(Reply::Started),
        Effect::SetTimer {
            timer: saga.step(StepIndex(0)).timer(StepIndex(0)).expect("set"),
            after_ms: 1,
            jitter: false,
        },
    ]);
    let found = invariant::check_begun(&saga, &output).expect_err("told before the start is durable");
    assert!(found.invariant.starts_with("I4"), "{found}");
}

#[test]
fn i4_a_compensation_before_the_turn_is_durable_is_caught() {
    let mut mutant = Mutant::of(chain(), compensating()[..3].to_vec());
    mutant.output = Output::effects(mutant.output.peek_effects().to_vec());
    mutant.breaks("I4");
}

#[test]
fn i4_an_action_before_its_dependency_is_recorded_is_caught() {
    let mut mutant = Mutant::of(vec![step("a", &[]), pivot("p", &[0])], vec![done(0, 1, "A")]);
    mutant.output = Output::effects(mutant.output.peek_effects().to_vec());
    mutant.breaks("I4");
}

#[test]
fn a_second_forced_record_in_flight_is_caught() {
    let steps = vec![pivot("p", &[0, 1])];
    let steps = [vec![step("a", &[]), step("b", &[])], steps].concat();
    let mut mutant = Mutant::of(steps, vec![done(0, 1, "A"), done(1, 1, "B")]);
    mutant.output = Output::after(step_record(1), mutant.output.peek_effects().to_vec());
    mutant.breaks("one forced record");
}

#[test]
fn i10_an_action_after_the_turn_is_caught() {
    let mut mutant = Mutant::of(chain(), [compensating(), vec![undone(1, 1)]].concat());
    mutant.output = mutant.and(execute(2));
    mutant.breaks("I10 once compensating");
    let mut mutant = Mutant::of(chain(), [compensating(), vec![undone(1, 1)]].concat());
    mutant.after.step_mut(StepIndex(1)).progress = Progress::Completed;
    mutant.breaks("I10 once compensating");
}

#[test]
fn i10_compensating_what_never_acted_is_caught() {
    let steps = || vec![step("a", &[]), step("b", &[]), step("c", &[1])];
    let refusal = |index| {
        let mut mutant = Mutant::of(steps(), vec![done(0, 1, "A"), refused(1, 1, "no")]);
        mutant.output = mutant.and(compensate(index, None));
        mutant
    };
    refusal(2).breaks("I10 only what may have acted"); // never sent
    refusal(1).breaks("I10 only what may have acted"); // refused by this event
}

#[test]
fn i10_undoing_a_pivot_that_may_be_done_is_caught() {
    let mut mutant = Mutant::of(vec![pivot("p", &[]), step("a", &[])], vec![timeout(0, false, 1)]);
    mutant.after.phase = Phase::Turning;
    let turned = Record::SagaTurned(SagaTurned { gtid: gtid(), reason: "why".into() });
    mutant.output = Output::after(turned.clone(), mutant.output.peek_effects().to_vec());
    mutant.breaks("I10 no way back");
    mutant.output = mutant.and(compensate(0, None));
    mutant.breaks("I10 only what may have acted");
    // Nor one that was refused while an earlier attempt may still come.
    let mut mutant = Mutant::of(
        vec![pivot("p", &[]), step("a", &[])],
        vec![timeout(0, false, 1), retry(0, false, 1), refused(0, 2, "no")],
    );
    let timer = Timer::Attempt { step: StepIndex(0), compensation: false, attempt: 2 };
    mutant.after = mutant.before.clone();
    mutant.after.step_mut(StepIndex(0)).progress = Progress::Refused;
    mutant.after.phase = Phase::Turning;
    mutant.output = Output::after(turned, vec![Effect::CancelTimer { timer }]);
    mutant.breaks("I10 no way back");
    let mut mutant = Mutant::of(vec![pivot("p", &[]), step("a", &[])], vec![done(0, 1, "P")]);
    mutant.after.turned = Some("why".into());
    mutant.breaks("I10 no way back");
}

#[test]
fn i10_compensating_out_of_order_is_caught() {
    let mut mutant = Mutant::of(chain(), compensating()[..3].to_vec());
    mutant.output = mutant.and(compensate(0, Some("A")));
    mutant.breaks("I10 compensations run in reverse order");
}

#[test]
fn i10_a_compensation_without_the_known_output_is_caught() {
    let mut mutant = Mutant::of(chain(), [compensating(), vec![undone(1, 1)]].concat());
    let timers = mutant.output.peek_effects().iter().filter(|effect| !matches!(effect, Effect::Compensate { .. }));
    mutant.output = Output::effects(timers.cloned().chain([compensate(0, None)]).collect());
    mutant.breaks("I10 a compensation has the output");
}

#[test]
fn i10_an_end_that_leaves_an_effect_behind_is_caught() {
    let mut mutant = Mutant::of(vec![step("a", &[])], vec![done(0, 1, "A")]);
    mutant.after.step_mut(StepIndex(0)).progress = Progress::Stuck;
    mutant.breaks("I10 the net effect");
}

#[test]
fn i11_an_answer_to_another_body_is_caught() {
    let event = Event::StartRequested { digest: BodyDigest(8), caller: CALLER, wait: Wait::Started };
    let mut mutant = Mutant::of(chain(), vec![event]);
    mutant.output = Output::effects(vec![tell(Reply::Started)]);
    mutant.breaks("I11");
}

#[test]
fn i12_an_attempt_without_its_timer_is_caught() {
    let mut mutant = Mutant::of(chain(), vec![done(0, 1, "A")]);
    let effects = mutant.output.peek_effects().iter();
    mutant.output =
        Output::effects(effects.filter(|effect| !matches!(effect, Effect::SetTimer { .. })).cloned().collect());
    mutant.breaks("I12 no attempt without its timer");
}

#[test]
fn i12_a_saga_that_waits_for_nothing_is_caught() {
    let mut mutant = Mutant::of(chain(), vec![timeout(0, false, 1)]);
    mutant.after.step_mut(StepIndex(0)).progress = Progress::ActionDue;
    mutant.output = Output::none();
    mutant.breaks("I12 what is not paused ends");
}
