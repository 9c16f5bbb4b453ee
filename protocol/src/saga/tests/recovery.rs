//! What a coordinator does that takes a saga over from the log.

use bytes::Bytes;

use super::*;
use crate::record::SagaStep;
use crate::saga::{Unrecoverable, WaitsFor};

fn record(step: u16, compensation: bool, attempt: u32, result: StepResult) -> SagaStep {
    SagaStep { gtid: gtid(), step: StepIndex(step), compensation, attempt, result }
}

fn was_done(step: u16) -> SagaStep {
    record(step, false, 1, StepResult::Done(Bytes::from_static(b"out")))
}

fn was_refused(step: u16, attempt: u32) -> SagaStep {
    record(step, false, attempt, StepResult::Refused("no".into()))
}

fn recovered(definition: Vec<StepDefinition>, turned: bool, steps: Vec<SagaStep>) -> Run {
    let turned = turned.then(|| "why".to_owned());
    Run::recovered(Kept { turned, steps, ..kept(definition) })
}

#[test]
fn steps_without_a_recorded_result_are_executed_again() {
    let chain = || vec![step("a", &[]), step("b", &[0]), step("c", &[1])];
    assert_eq!(recovered(chain(), false, vec![]).seen(), "+a2");
    let mut run = recovered(chain(), false, vec![was_done(0)]);
    assert_eq!(run.seen(), "+b2");
    run.sees(done(1, 2, "B"), "b +c2");
}

#[test]
fn a_saga_whose_last_record_was_lost_ends_once_the_step_answers_again() {
    let mut run = recovered(vec![step("a", &[])], false, vec![was_done(0)]);
    assert_eq!(run.seen(), "!ended:completed");
    run.on(durable());
    assert!(run.saga.is_ended());
}

#[test]
fn a_turned_saga_compensates_what_may_have_been_sent() {
    let chain = || vec![step("a", &[]), step("b", &[0]), step("c", &[1])];
    // Nothing is recorded: all of it may have been done.
    let mut run = recovered(chain(), true, vec![]);
    assert_eq!(run.seen(), "-c1");
    run.sees(undone(2, 1), "c -b1").sees(undone(1, 1), "b -a1").sees(undone(0, 1), "!ended:compensated");
    // b's only attempt was refused, so c never started.
    assert_eq!(recovered(chain(), true, vec![was_done(0), was_refused(1, 1)]).seen(), "-a1");
    // It was not the first attempt, and an earlier one may still act.
    assert_eq!(recovered(chain(), true, vec![was_done(0), was_refused(1, 2)]).seen(), "-b1");
    // c is undone already.
    let c_undone = record(2, true, 1, StepResult::Done(Bytes::new()));
    assert_eq!(recovered(chain(), true, vec![was_done(0), c_undone]).seen(), "-b1");
}

#[test]
fn what_stands_behind_a_compensated_step_is_not_compensated_again() {
    let undone_b = record(1, true, 1, StepResult::Done(Bytes::new()));
    let run = recovered(vec![step("a", &[]), step("b", &[0]), step("c", &[1])], true, vec![was_done(1), undone_b]);
    assert_eq!(run.seen(), "-a1");
}

#[test]
fn a_step_behind_a_forced_result_that_is_missing_was_never_sent() {
    let steps = || vec![StepDefinition { durable: true, ..step("a", &[]) }, step("b", &[0])];
    assert_eq!(recovered(steps(), true, vec![]).seen(), "-a1");
    assert_eq!(recovered(steps(), true, vec![was_done(0)]).seen(), "-b1");
}

#[test]
fn a_refusal_whose_turn_was_lost_turns_again() {
    let run = recovered(vec![step("a", &[]), step("b", &[0])], false, vec![was_done(0), was_refused(1, 1)]);
    assert_eq!(run.seen(), "!turned -a1");
}

#[test]
fn a_pivot_that_may_have_been_sent_is_asked_before_a_recovered_saga_turns() {
    let steps = || vec![step("a", &[]), pivot("p", &[0])];
    let want = || Event::CompensateRequested { reason: "late".into(), caller: CALLER };
    let mut run = recovered(steps(), false, vec![was_done(0)]);
    assert_eq!(run.seen(), "+p2");
    run.sees(want(), "");
    assert_eq!(run.saga.view().waits_for, WaitsFor::Pivots(vec![name("p")]));
    // The attempt that another coordinator sent may still come.
    run.sees(refused(1, 2, "no"), "").sees(retry(1, false, 2), "+p3");
    run.sees(finally_refused(1, 3, "no"), "!turned p -a1");
    // What lets it start is forced, and not there: it was never sent.
    let mut run = recovered(steps(), false, vec![]);
    run.sees(want(), "!turned").sees(timeout(0, false, 2), "");
}

#[test]
fn a_recovered_refusal_of_a_pivot_is_asked_for_again_unless_it_was_of_the_first_attempt() {
    let steps = || vec![step("a", &[]), pivot("p", &[0]), step("b", &[0])];
    let mut run = recovered(steps(), false, vec![was_done(0), was_refused(1, 2)]);
    assert_eq!(run.seen(), "+p3");
    run.sees(finally_refused(1, 3, "no"), "!turned p -b1");
    let mut run = recovered(steps(), false, vec![was_done(0), was_refused(1, 2)]);
    run.sees(done(1, 3, "P"), "p +b2");
    assert_eq!(recovered(steps(), false, vec![was_done(0), was_refused(1, 1)]).seen(), "!turned -b1");
}

#[test]
fn a_recovered_saga_that_turned_never_compensates_its_pivot() {
    let steps = || vec![step("a", &[]), pivot("p", &[0]), step("b", &[1])];
    for of_the_pivot in [vec![], vec![was_refused(1, 1)], vec![was_refused(1, 2)]] {
        let rows = [vec![was_done(0)], of_the_pivot].concat();
        assert_eq!(recovered(steps(), true, rows).seen(), "-a1");
    }
}

#[test]
fn a_recovered_refusal_beside_a_pivot_in_doubt_waits_for_the_pivot() {
    let steps = || vec![pivot("p", &[]), step("a", &[]), step("b", &[])];
    let mut run = recovered(steps(), false, vec![was_refused(1, 1)]);
    assert_eq!(run.seen(), "+p2");
    run.sees(done(0, 2, "P"), "p paused");
    run.sees(Event::ResumeRequested, "resumed +a2 +b2");
}

#[test]
fn a_paused_saga_stays_paused() {
    let mut run = Run::recovered(Kept {
        turned: Some("why".into()),
        steps: vec![was_done(0), record(0, true, 1, StepResult::Refused("stuck".into()))],
        paused: Some("mend it".into()),
        ..kept(vec![step("a", &[])])
    });
    assert_eq!(run.seen(), "");
    let view = run.saga.view();
    assert_eq!((view.state, view.remedy.as_deref()), ("paused", Some("mend it")));
    run.sees(Event::ResumeRequested, "resumed -a1");
}

#[test]
fn a_refusal_behind_a_pivot_that_was_resumed_is_tried_again() {
    let steps = || vec![pivot("p", &[]), step("a", &[0])];
    let answers = || vec![was_done(0), was_refused(1, 1)];
    assert_eq!(recovered(steps(), false, answers()).seen(), "+a2");
    let mut run = Run::recovered(Kept { steps: answers(), paused: Some("mend it".into()), ..kept(steps()) });
    assert_eq!(run.seen(), "");
    run.sees(Event::ResumeRequested, "resumed +a2");
}

#[test]
fn rows_that_contradict_each_other_are_refused() {
    let steps = || vec![step("a", &[]), pivot("p", &[0]), step("b", &[1])];
    let refuses = |turned: bool, records: Vec<SagaStep>| {
        let turned = turned.then(|| "why".to_owned());
        Saga::recover(Epoch(2), Kept { turned, steps: records, ..kept(steps()) }).expect_err("contradictory")
    };
    let gtid = gtid();
    assert_eq!(refuses(false, vec![was_done(7)]), Unrecoverable::UnknownStep { gtid, step: 7, steps: 3 });
    let undone = record(0, true, 1, StepResult::Done(Bytes::new()));
    assert_eq!(refuses(false, vec![undone]), Unrecoverable::CompensatedWithoutTurn { gtid, step: 0 });
    assert_eq!(refuses(false, vec![was_done(1)]), Unrecoverable::ForcedResultMissing { gtid, step: 1, missing: 0 });
    assert_eq!(refuses(true, vec![was_done(0), was_done(1)]), Unrecoverable::TurnedPastPivot { gtid, step: 1 });
    assert_eq!(refuses(true, vec![was_done(0), was_done(2)]), Unrecoverable::TurnedPastPivot { gtid, step: 1 });
    // b was sent, so p was done, and a's result was forced before p.
    assert_eq!(refuses(false, vec![was_done(2)]), Unrecoverable::ForcedResultMissing { gtid, step: 1, missing: 0 });
    // An answer that left it open is an answer too: it went on without a, and a refused it could
    // never end.
    let was_unknown = |step| record(step, false, 1, StepResult::Unknown("who knows".into()));
    assert_eq!(refuses(false, vec![was_unknown(1)]), Unrecoverable::ForcedResultMissing { gtid, step: 1, missing: 0 });
    // Were these believed, a could be compensated before c, whose action may have taken effect on
    // the strength of it.
    let chain = vec![step("a", &[]), step("b", &[0]), step("c", &[1])];
    for steps in [vec![was_refused(0, 1), was_unknown(2)], vec![was_refused(1, 2), was_done(2)]] {
        let refused = steps[0].step.0;
        let error = Saga::recover(Epoch(2), Kept { steps, ..kept(chain.clone()) }).expect_err("contradictory");
        assert_eq!(error, Unrecoverable::SentPastRefusal { gtid, step: refused + 1, refused });
    }
    let found: Gtid = "01890a5d-ac96-774b-bcce-b302099a8058".parse().expect("a version 7");
    let foreign = SagaStep { gtid: found, ..was_done(0) };
    assert_eq!(refuses(false, vec![foreign]), Unrecoverable::ForeignRecord { gtid, found });
}
