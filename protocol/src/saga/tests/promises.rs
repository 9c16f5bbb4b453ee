//! What the machine promises, one test for each promise.

use crate::record::{RecordId, RecordKind};
use bytes::Bytes;

use super::*;
use crate::record::{BranchEnd, Decision, Outcome};
use crate::saga::{NOT_CONNECTED, OUTPUT_TOO_LARGE, Reply, StepState, TIMED_OUT, WaitsFor};

const OTHER: Caller = Caller { session: 2, request: 9 };

fn ended(outcome: Outcome, reason: Option<&str>, outputs: &[(&str, &str)]) -> Reply {
    let outputs = outputs.iter().map(|(step, output)| (name(step), Bytes::from(output.to_string()))).collect();
    Reply::Ended { outcome, reason: reason.map(Into::into), outputs }
}

#[test]
fn a_plain_saga_costs_two_forced_writes_and_two_messages_a_step() {
    let mut run = Run::start(vec![step("a", &[]), step("b", &[0]), step("c", &[0]), step("d", &[1, 2])]);
    assert_eq!(run.seen(), "!started +a1");
    run.sees(durable(), "")
        .sees(done(0, 1, "A"), "a +b1 +c1")
        .sees(done(2, 1, "C"), "c")
        .sees(done(1, 1, "B"), "b +d1")
        .sees(done(3, 1, "D"), "!ended:completed");
    assert_eq!(
        run.replies(),
        [(CALLER, ended(Outcome::Completed, None, &[("a", "A"), ("b", "B"), ("c", "C"), ("d", "D")]))]
    );
    run.sees(durable(), "");
    assert_eq!(run.forced_writes, 2);
    assert!(run.saga.is_ended());
    assert_eq!(run.saga.outcome(), Some(Outcome::Completed));
}

#[test]
fn nothing_is_acknowledged_or_sent_before_the_start_is_durable() {
    let run = Run::start_for(vec![step("a", &[])], Wait::Started);
    assert!(matches!(run.output.forced(), Some(Record::SagaStarted(started)) if started.begun_at_ms == BEGUN_AT_MS));
    assert_eq!(run.replies(), [(CALLER, Reply::Started)]); // held behind the record
    assert_eq!(run.saga.view().waits_for, WaitsFor::Log);
}

#[test]
fn outputs_are_handed_to_the_steps_behind() {
    let mut run = Run::running(vec![step("a", &[]), step("b", &[]), step("c", &[1, 0, 1])]);
    run.all([done(0, 1, "A"), done(1, 1, "B")]);
    let Some(Effect::Execute { outputs, input, to, .. }) =
        run.output.peek_effects().iter().find(|effect| matches!(effect, Effect::Execute { .. }))
    else {
        panic!("c starts: {:?}", run.output)
    };
    assert_eq!(outputs, &[(name("b"), Bytes::from("B")), (name("a"), Bytes::from("A"))]);
    assert_eq!((input, to), (&Bytes::from("in-c"), &name("at-c")));
}

#[test]
fn a_refusal_compensates_in_reverse_order_of_the_dependencies() {
    let steps = || vec![step("a", &[]), step("b", &[0]), step("c", &[0]), step("d", &[1, 2])];
    let mut run = Run::running(steps());
    run.all([done(0, 1, "A"), done(1, 1, "B"), done(2, 1, "C")])
        .sees(refused(3, 1, "full"), "!turned d -c1 -b1")
        .sees(durable(), "")
        .sees(undone(2, 1), "c")
        .sees(undone(1, 1), "b -a1")
        .sees(undone(0, 1), "!ended:compensated");
    let reason = "STEP_FAILED at-d: step d was refused: full";
    assert_eq!(run.replies(), [(CALLER, ended(Outcome::Compensated, Some(reason), &[]))]);
    let Some(Record::Ended(record)) = run.output.forced() else { panic!("ended") };
    let ends: Vec<_> = record.branches.iter().map(|branch| branch.end).collect();
    assert_eq!(ends, [BranchEnd::Compensated, BranchEnd::Compensated, BranchEnd::Compensated, BranchEnd::Aborted]);
    assert!(record.outputs.is_empty());
}

#[test]
fn a_compensation_goes_first_to_who_did_the_action_and_has_its_output() {
    let mut run = Run::running(vec![step("a", &[]), step("b", &[0])]);
    run.on(done(0, 1, "A")).on(refused(1, 1, "no"));
    assert!(run.output.peek_effects().iter().any(|effect| matches!(
        effect,
        Effect::Compensate { prefer: Some(InstanceId(5)), output: Some(output), .. } if output == "A"
    )));
}

#[test]
fn no_compensation_is_sent_before_the_turn_is_durable() {
    let mut run = Run::running(vec![step("a", &[]), step("b", &[]), step("c", &[0, 1])]);
    run.on(done(0, 1, "A"));
    run.sees(refused(1, 1, "no"), "!turned b -a1");
    assert_eq!(run.saga.view().state, "running");
    // A compensation's answer before the receipt cannot be one.
    run.sees(undone(0, 1), "").sees(durable(), "");
    assert_eq!(run.saga.view().state, "compensating");
    run.sees(undone(0, 1), "!ended:compensated");
}

#[test]
fn a_saga_with_nothing_to_undo_ends_at_once() {
    let mut run = Run::running(vec![step("a", &[]), step("b", &[0])]);
    run.sees(refused(0, 1, "no"), "!ended:compensated");
    let Some(Record::Ended(record)) = run.output.forced() else { panic!("ended") };
    let ends: Vec<_> = record.branches.iter().map(|branch| branch.end).collect();
    assert_eq!(ends, [BranchEnd::Aborted, BranchEnd::NotStarted]);
    assert_eq!(run.saga.view().state, "running"); // not yet durable, so not yet shown
    run.on(durable());
    assert_eq!(run.saga.view().state, "compensated");
    assert_eq!(run.forced_writes, 2);
}

#[test]
fn a_turn_waits_for_an_action_in_flight_and_compensates_with_its_output() {
    let mut run = Run::running(vec![step("a", &[]), step("b", &[0]), step("c", &[0])]);
    run.on(done(0, 1, "A"))
        .sees(refused(1, 1, "no"), "!turned b") // c is in flight, and a stands before it
        .sees(done(2, 1, "C"), "c")
        .sees(durable(), "-c1")
        .sees(undone(2, 1), "c -a1");
}

#[test]
fn an_action_of_unknown_outcome_is_compensated_without_another_attempt() {
    for lost in
        [timeout(2, false, 1), unknown(2, 1, "db"), Event::Left { participant: name("at-c"), instance: InstanceId(5) }]
    {
        let mut run = Run::running(vec![step("a", &[]), step("b", &[0]), step("c", &[0])]);
        let sent = Event::Sent { step: StepIndex(2), compensation: false, attempt: 1, instance: InstanceId(5) };
        run.all([done(0, 1, "A"), sent, refused(1, 1, "no"), durable()]).sees(lost, "-c1");
        assert!(
            run.output.peek_effects().iter().any(|effect| matches!(effect, Effect::Compensate { output: None, .. }))
        );
        // Its late answer changes nothing.
        run.sees(done(2, 1, "C"), "").sees(undone(2, 1), "c -a1");
    }
}

#[test]
fn an_unknown_outcome_is_retried_with_backoff_and_jitter() {
    let mut run = Run::running(vec![step("a", &[])]);
    let waits = |run: &Run| {
        run.output.peek_effects().iter().find_map(|effect| match effect {
            Effect::SetTimer { timer: Timer::Retry { .. }, after_ms, jitter } => Some((*after_ms, *jitter)),
            Effect::SetTimer { .. }
            | Effect::Execute { .. }
            | Effect::Compensate { .. }
            | Effect::Reply { .. }
            | Effect::CancelTimer { .. } => None,
        })
    };
    run.on(timeout(0, false, 1));
    assert_eq!(waits(&run), Some((100, true)));
    assert_eq!(run.saga.view().steps[0].last_error.as_deref(), Some(TIMED_OUT));
    run.sees(retry(0, false, 1), "+a2").on(unknown(0, 2, "deadlock"));
    assert_eq!(waits(&run), Some((200, true)));
    assert_eq!(run.saga.view().steps[0].waits_for, WaitsFor::Retry);
    run.sees(retry(0, false, 2), "+a3").sees(done(0, 3, "A"), "!ended:completed");
}

#[test]
fn a_policy_that_is_used_up_turns_the_saga() {
    let mut run = Run::running(vec![attempts(2, step("a", &[]))]);
    run.all([timeout(0, false, 1), retry(0, false, 1)]).sees(timeout(0, false, 2), "!turned -a1");
    run.on(durable()).on(undone(0, 1)).on(durable());
    let reason = "STEP_FAILED at-a: step a has no known outcome after 2 attempts, the last for: timeout";
    assert_eq!(run.saga.view().reason.as_deref(), Some(reason));
}

#[test]
fn a_non_retryable_reason_turns_the_saga_at_once() {
    let retry = RetryPolicy { non_retryable: vec!["sold-out".into()], ..RetryPolicy::default() };
    let mut run = Run::running(vec![StepDefinition { retry, ..step("a", &[]) }]);
    run.sees(unknown(0, 1, "sold-out"), "!turned -a1");
}

/// Its action is done, and the saga cannot go on: whatever the policy says, the next attempt would
/// give the same.
#[test]
fn a_step_whose_output_fits_into_no_message_is_compensated_at_once() {
    let mut run = Run::running(vec![step("a", &[])]);
    run.sees(unknown(0, 1, &format!("{OUTPUT_TOO_LARGE}: 5 MiB")), "!turned -a1");
}

#[test]
fn a_refused_step_is_compensated_only_if_an_earlier_attempt_may_still_act() {
    let steps = || vec![step("a", &[]), step("b", &[])];
    let mut run = Run::running(steps());
    run.on(done(0, 1, "A")).sees(refused(1, 1, "no"), "!turned b -a1");
    let mut run = Run::running(steps());
    run.all([done(0, 1, "A"), timeout(1, false, 1), retry(1, false, 1)]).sees(refused(1, 2, "no"), "!turned b -b1 -a1");
}

#[test]
fn an_attempt_that_was_never_sent_costs_no_budget_and_ends_with_the_participants_return() {
    let steps = vec![attempts(1, step("a", &[]))];
    let mut run = Run::running(steps);
    let away = |attempt| Event::Undeliverable { step: StepIndex(0), compensation: false, attempt };
    run.on(away(1));
    let view = run.saga.view();
    assert_eq!(view.steps[0].waits_for, WaitsFor::Participant);
    assert_eq!(view.steps[0].last_error.as_deref(), Some(NOT_CONNECTED));
    run.sees(Event::Joined { participant: name("at-b") }, "")
        .sees(Event::Joined { participant: name("at-a") }, "+a2")
        .on(away(2))
        .sees(retry(0, false, 2), "+a3")
        // Nothing was sent, so there is nothing to undo.
        .on(away(3))
        .sees(Event::CompensateRequested { reason: "late".into(), caller: OTHER }, "!ended:compensated");
}

#[test]
fn a_root_step_that_is_found_undeliverable_with_the_receipt_is_tried_again() {
    let mut run = Run::start(vec![step("a", &[])]);
    // The driver releases the held effects, and only then tells of the receipt.
    run.sees(Event::Undeliverable { step: StepIndex(0), compensation: false, attempt: 1 }, "").sees(durable(), "");
    assert_eq!(run.saga.view().steps[0].waits_for, WaitsFor::Participant);
    run.sees(Event::Joined { participant: name("at-a") }, "+a2");
}

#[test]
fn only_the_attempts_of_the_instance_that_left_are_lost() {
    let left = |instance| Event::Left { participant: name("at-a"), instance: InstanceId(instance) };
    let mut run = Run::running(vec![step("a", &[])]);
    run.on(Event::Sent { step: StepIndex(0), compensation: false, attempt: 1, instance: InstanceId(5) });
    run.sees(left(6), "");
    assert_eq!(run.saga.view().steps[0].waits_for, WaitsFor::Answer);
    run.sees(left(5), "");
    assert_eq!(run.saga.view().steps[0].waits_for, WaitsFor::Participant);
    run.sees(Event::Joined { participant: name("at-a") }, "+a2");
}

#[test]
fn a_late_or_repeated_answer_changes_nothing() {
    let mut run = Run::running(vec![step("a", &[]), step("b", &[0]), step("c", &[1])]);
    run.all([timeout(0, false, 1), retry(0, false, 1)]);
    run.sees(done(0, 1, "older"), "") // attempt 2 is in flight
        .sees(done(0, 2, "A"), "a +b1")
        .sees(done(0, 2, "again"), "")
        .sees(refused(0, 2, "again"), "")
        .sees(done(9, 1, "no such step"), "")
        .sees(done(1, 0, "no such attempt"), "");
    assert_eq!(run.saga.view().steps[0].state, StepState::Completed);
}

#[test]
fn an_answer_that_comes_after_its_timeout_and_before_another_attempt_counts() {
    let mut run = Run::running(vec![step("a", &[])]);
    run.on(timeout(0, false, 1)).sees(unknown(0, 1, "still"), "").sees(done(0, 1, "A"), "!ended:completed");
}

#[test]
fn a_durable_step_holds_its_dependents_behind_its_record() {
    let durably = |step| StepDefinition { durable: true, ..step };
    let mut run = Run::running(vec![durably(step("a", &[])), step("b", &[]), step("c", &[0]), step("d", &[0, 1])]);
    run.sees(done(0, 1, "A"), "!a +c1");
    // d is complete but for a's record, and waits for it.
    run.sees(done(1, 1, "B"), "b").sees(durable(), "+d1");
}

#[test]
fn durable_steps_are_appended_one_after_the_other() {
    let durably = |step| StepDefinition { durable: true, ..step };
    let mut run =
        Run::running(vec![durably(step("a", &[])), durably(step("b", &[])), step("c", &[0]), step("d", &[1])]);
    run.sees(done(0, 1, "A"), "!a +c1")
        .sees(done(1, 1, "B"), "")
        .sees(durable(), "!b +d1")
        .sees(durable(), "")
        .sees(done(2, 1, "C"), "c")
        .sees(done(3, 1, "D"), "!ended:completed");
}

#[test]
fn the_last_durable_step_needs_no_record_of_its_own() {
    let mut run = Run::running(vec![StepDefinition { durable: true, ..step("a", &[]) }]);
    run.sees(done(0, 1, "A"), "!ended:completed");
}

#[test]
fn a_refusal_while_a_durable_result_is_appended_turns_after_it() {
    let durably = |step| StepDefinition { durable: true, ..step };
    let mut run = Run::running(vec![durably(step("a", &[])), step("b", &[]), step("c", &[0])]);
    run.sees(done(0, 1, "A"), "!a +c1").sees(refused(1, 1, "no"), "b");
    assert_eq!(run.saga.view().waits_for, WaitsFor::Log);
    // c was sent with a's receipt, and is waited for.
    run.sees(durable(), "!turned").sees(timeout(2, false, 1), "").sees(durable(), "-c1").sees(undone(2, 1), "c -a1");
}

#[test]
fn what_lets_a_pivot_start_is_durable_first() {
    let mut run = Run::running(vec![step("a", &[]), pivot("p", &[0])]);
    run.sees(done(0, 1, "A"), "!a +p1");
}

#[test]
fn behind_a_completed_pivot_there_is_only_forward() {
    let mut run = Run::running(vec![pivot("p", &[]), attempts(1, step("a", &[0]))]);
    run.sees(done(0, 1, "P"), "p +a1")
        .sees(timeout(1, false, 1), "") // its only attempt, and still it is tried again
        .sees(retry(1, false, 1), "+a2")
        .sees(Event::CompensateRequested { reason: "changed my mind".into(), caller: OTHER }, "");
    assert_eq!(run.replies(), [(OTHER, Reply::PastPivot)]);
    run.sees(done(1, 2, "A"), "!ended:completed");
}

#[test]
fn a_refusal_behind_a_completed_pivot_pauses_until_a_human_mends_it() {
    let mut run = Run::running(vec![pivot("p", &[]), step("a", &[0])]);
    run.on(done(0, 1, "P")).sees(refused(1, 1, "no stock"), "a paused");
    let view = run.saga.view();
    assert_eq!((view.state, &view.waits_for), ("paused", &WaitsFor::Human));
    let remedy = view.remedy.expect("a remedy");
    for word in ["Step a", "at-a", "no stock", "pivot", "resume", "executed again"] {
        assert!(remedy.contains(word), "{word:?} is not in {remedy:?}");
    }
    run.sees(Event::ResumeRequested, "resumed +a2").sees(done(1, 2, "A"), "!ended:completed");
}

#[test]
fn a_pivot_of_unknown_outcome_is_retried_whatever_its_policy_says() {
    let mut run = Run::running(vec![step("a", &[]), attempts(1, pivot("p", &[0]))]);
    run.all([done(0, 1, "A"), durable()])
        .sees(timeout(1, false, 1), "")
        .sees(Event::CompensateRequested { reason: "late".into(), caller: OTHER }, "");
    assert_eq!(run.saga.view().waits_for, WaitsFor::Pivots(vec![name("p")]));
    run.sees(retry(1, false, 1), "+p2");
    assert!(run.replies().is_empty());
    // Attempt 1 may still arrive: only a refusal that speaks for it as well decides.
    run.sees(refused(1, 2, "no"), "");
    assert_eq!(run.saga.view().waits_for, WaitsFor::Pivots(vec![name("p")]));
    let error = run.saga.view().steps[1].last_error.clone().expect("why it waits");
    assert!(error.contains("an earlier attempt may still take effect: no"), "{error}");
    run.sees(retry(1, false, 2), "+p3").sees(finally_refused(1, 3, "no"), "!turned p -a1");
    let reason = "late".to_owned();
    assert_eq!(run.replies(), [(OTHER, Reply::Compensating { reason })]);
    run.sees(durable(), "").sees(undone(0, 1), "!ended:compensated");
}

#[test]
fn a_pivot_that_was_refused_while_an_earlier_attempt_was_open_may_turn_out_done() {
    let mut run = Run::running(vec![step("a", &[]), pivot("p", &[0])]);
    run.all([done(0, 1, "A"), durable(), timeout(1, false, 1), retry(1, false, 1)])
        .sees(refused(1, 2, "no"), "")
        .sees(retry(1, false, 2), "+p3")
        .sees(done(1, 3, "P"), "!ended:completed");
}

#[test]
fn a_refusal_of_a_pivots_only_attempt_decides_even_after_its_timeout() {
    let mut run = Run::running(vec![step("a", &[]), pivot("p", &[0])]);
    run.all([done(0, 1, "A"), durable(), timeout(1, false, 1)]).sees(refused(1, 1, "no"), "!turned p -a1");
    // Behind another attempt, a late refusal changes nothing: that attempt is asked about anyway.
    let mut run = Run::running(vec![step("a", &[]), pivot("p", &[0])]);
    run.all([done(0, 1, "A"), durable(), timeout(1, false, 1), retry(1, false, 1), timeout(1, false, 2)]);
    run.sees(refused(1, 2, "no"), "").sees(finally_refused(1, 2, "no"), "!turned p -a1");
}

#[test]
fn a_refusal_of_a_second_pivot_need_not_be_final_behind_the_first() {
    let mut run = Run::running(vec![pivot("p", &[]), pivot("q", &[])]);
    run.all([timeout(1, false, 1), retry(1, false, 1)]).sees(refused(1, 2, "no"), "");
    run.sees(done(0, 1, "P"), "p").sees(retry(1, false, 2), "+q3");
    run.sees(refused(1, 3, "no"), "q paused").sees(Event::ResumeRequested, "resumed +q4");
    run.sees(done(1, 4, "Q"), "!ended:completed");
}

#[test]
fn a_failure_beside_a_pivot_in_flight_waits_for_the_pivot() {
    let steps = || vec![pivot("p", &[]), attempts(1, step("a", &[])), step("b", &[]), step("c", &[2])];
    // Done: the way back is closed, and the failed step is tried again.
    let mut run = Run::running(steps());
    run.sees(timeout(1, false, 1), "").sees(done(2, 1, "B"), "b"); // c does not start meanwhile
    run.sees(done(0, 1, "P"), "p +a2 +c1");
    // Refused: it turns.
    let mut run = Run::running(steps());
    run.on(timeout(1, false, 1)).sees(refused(0, 1, "no"), "!turned p -a1");
    // A refusal beside a pivot that turns out done needs a human.
    let mut run = Run::running(steps());
    run.on(refused(1, 1, "no")).sees(done(0, 1, "P"), "p paused").sees(Event::ResumeRequested, "resumed +a2");
}

#[test]
fn a_compensation_that_is_refused_pauses_with_a_remedy() {
    let mut run = Run::running(vec![step("a", &[]), step("b", &[0])]);
    run.all([done(0, 1, "A"), refused(1, 1, "no"), durable()])
        .sees(answer(0, true, 1, StepResult::Refused("already shipped".into())), "a paused");
    let remedy = run.saga.view().remedy.expect("a remedy");
    for word in ["Step a", "at-a", "already shipped", "Check", "resume", "compensation of a is asked for again"] {
        assert!(remedy.contains(word), "{word:?} is not in {remedy:?}");
    }
    assert_eq!(run.saga.view().steps[0].state, StepState::Stuck);
    run.sees(Event::ResumeRequested, "resumed -a2").sees(undone(0, 2), "!ended:compensated");
}

#[test]
fn a_compensation_that_used_up_its_policy_pauses_and_resumes_with_a_fresh_budget() {
    let mut run = Run::running(vec![compensation_attempts(2, step("a", &[])), step("b", &[0])]);
    run.all([done(0, 1, "A"), refused(1, 1, "no"), durable()])
        .sees(timeout(0, true, 1), "")
        .sees(retry(0, true, 1), "-a2")
        .sees(timeout(0, true, 2), "paused")
        .sees(Event::ResumeRequested, "resumed -a3")
        .sees(timeout(0, true, 3), "")
        .sees(retry(0, true, 3), "-a4")
        .sees(timeout(0, true, 4), "paused");
}

#[test]
fn a_paused_saga_sends_nothing_and_notes_what_is_answered() {
    let pause = || Event::PauseRequested { reason: "maintenance".into() };
    let mut run = Run::running(vec![step("a", &[]), step("b", &[0]), attempts(1, step("c", &[]))]);
    run.sees(pause(), "paused").sees(pause(), "").sees(done(0, 1, "A"), "a").sees(timeout(2, false, 1), "");
    assert!(run.saga.view().remedy.expect("a remedy").contains("maintenance"));
    assert_eq!(run.saga.view().steps[1].waits_for, WaitsFor::Human);
    // The timeout came while it was paused: the budget is fresh, so the saga does not turn.
    run.sees(Event::ResumeRequested, "resumed +b1 +c2");
    assert_eq!(run.saga.view().state, "running");
}

#[test]
fn resume_ends_the_waits_for_retries() {
    let mut run = Run::running(vec![step("a", &[])]);
    run.on(timeout(0, false, 1)).sees(Event::ResumeRequested, "+a2");
}

#[test]
fn the_initiator_can_turn_a_saga_back() {
    let want = |caller| Event::CompensateRequested { reason: "customer left".into(), caller };
    let compensating = || Reply::Compensating { reason: "customer left".into() };
    let mut run = Run::running(vec![step("a", &[]), step("b", &[0])]);
    run.on(done(0, 1, "A")).sees(want(OTHER), "!turned");
    assert_eq!(run.replies(), [(OTHER, compensating())]);
    run.sees(want(CALLER), "").sees(durable(), "");
    assert_eq!(run.replies(), [(CALLER, compensating())]);
    run.sees(want(OTHER), "").sees(refused(1, 1, "no"), "b -a1").sees(undone(0, 1), "!ended:compensated");
    run.on(want(OTHER)).on(durable());
    let end = ended(Outcome::Compensated, Some("customer left"), &[]);
    assert_eq!(run.replies(), [(OTHER, end.clone())]);
    run.on(want(OTHER));
    assert_eq!(run.replies(), [(OTHER, end)]);
}

#[test]
fn the_same_start_has_the_same_answer_and_another_body_is_refused() {
    let again = |wait| Event::StartRequested { digest: DIGEST, caller: OTHER, wait };
    let mut run = Run::start(vec![step("a", &[])]);
    run.on(again(Wait::Started));
    assert!(run.replies().is_empty(), "the start is not durable yet");
    run.on(durable());
    assert_eq!(run.replies(), [(OTHER, Reply::Started)]);
    run.on(Event::StartRequested { digest: BodyDigest(8), caller: OTHER, wait: Wait::Ended });
    assert_eq!(run.replies(), [(OTHER, Reply::KeyReused)]);
    run.on(again(Wait::Ended)).on(done(0, 1, "A"));
    let end = ended(Outcome::Completed, None, &[("a", "A")]);
    assert_eq!(run.replies(), [(CALLER, end.clone()), (OTHER, end.clone())]);
    run.on(durable()).on(again(Wait::Started));
    assert_eq!(run.replies(), [(OTHER, Reply::Started)]);
    run.on(again(Wait::Ended));
    assert_eq!(run.replies(), [(OTHER, end)]);
}

#[test]
fn a_caller_whose_session_is_gone_is_told_nothing() {
    let mut run = Run::running(vec![step("a", &[])]);
    run.on(Event::CallerLeft { session: CALLER.session }).sees(done(0, 1, "A"), "!ended:completed");
    assert!(run.replies().is_empty());
}

#[test]
fn a_start_that_another_writer_overruled_sends_nothing() {
    let mut run = Run::start_for(vec![step("a", &[])], Wait::Ended);
    let overruled = Appended::Overruled { decision: Decision::Commit, members: vec![] };
    run.sees(Event::Appended(overruled), "");
    assert_eq!(run.replies(), [(CALLER, Reply::Overruled { decision: Decision::Commit })]);
    assert!(run.saga.is_ended());
    run.sees(done(0, 1, "A"), "").sees(durable(), "");
}

#[test]
fn a_receipt_of_another_transaction_opens_nothing() {
    #[expect(clippy::disallowed_methods, reason = "the test plays the log")]
    let foreign = Durable::attest(RecordId {
        gtid: "01890a5d-ac96-774b-bcce-b302099a8058".parse().expect("a version 7"),
        kind: RecordKind::SagaStarted,
    });
    let mut run = Run::start(vec![step("a", &[])]);
    run.sees(Event::Appended(Appended::Durable(foreign)), "");
    assert_eq!(run.saga.view().waits_for, WaitsFor::Log);
}

#[test]
fn what_participants_write_is_cut() {
    let mut run = Run::running(vec![step("a", &[])]);
    run.on(unknown(0, 1, &"x".repeat(100_000)));
    assert_eq!(run.saga.view().steps[0].last_error.as_ref().map(String::len), Some(1_000));
}
