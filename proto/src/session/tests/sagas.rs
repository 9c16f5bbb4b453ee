//! Definitions on the wire.

use assent_protocol::RetryPolicy;

use super::malformed::read_request;
use super::*;
use crate::v1::request::Ask as AskKind;

fn step(name: &str, after: &[&str]) -> v1::SagaStep {
    v1::SagaStep {
        name: name.into(),
        participant: "airline".into(),
        after: after.iter().map(ToString::to_string).collect(),
        ..v1::SagaStep::default()
    }
}

fn read(steps: Vec<v1::SagaStep>) -> Result<Definition, Malformed> {
    v1::SagaDefinition { steps }.try_into()
}

#[track_caller]
fn assert_problem(steps: Vec<v1::SagaStep>, text: &str) {
    let malformed = read(steps.clone()).expect_err("no saga");
    assert!(malformed.problem.starts_with(text), "{malformed}\ninstead of\n{text}");
    // Within a request, the same is said about the request.
    let start = v1::StartSaga { definition: Some(v1::SagaDefinition { steps }), wait: 0, attempt: 1 };
    let nested = read_request(AskKind::StartSaga(start)).expect_err("no saga");
    assert_eq!(nested, Malformed { message: "StartSaga", request_id: Some(7), problem: malformed.problem });
}

#[test]
fn names_become_numbers_and_names_again() {
    let steps = vec![step("flight", &[]), step("hotel", &[]), step("invoice", &["hotel", "flight"])];
    let definition = read(steps.clone()).expect("a saga");
    let after: Vec<_> = definition.steps().iter().map(|step| step.after.clone()).collect();
    assert_eq!(after, [vec![], vec![], vec![StepIndex(1), StepIndex(0)]]);
    assert_eq!(v1::SagaDefinition::from(definition).steps, steps);
}

#[test]
fn a_definition_that_is_missing_or_empty() {
    let start = v1::StartSaga { attempt: 1, ..v1::StartSaga::default() };
    let malformed = read_request(AskKind::StartSaga(start)).expect_err("no definition");
    assert_eq!(malformed.to_string(), "malformed StartSaga: definition is not given");
    assert_problem(Vec::new(), "a saga needs at least one step");
}

#[test]
fn a_dependency_that_is_unknown() {
    assert_problem(
        vec![step("flight", &[]), step("hotel", &["car\u{1b}"])],
        "step hotel comes after \"car\\u{1b}\", but no step has this name",
    );
}

#[test]
fn a_step_behind_a_later_one_or_in_a_circle() {
    assert_problem(
        vec![step("hotel", &["flight"]), step("flight", &[])],
        "step hotel comes after flight, which stands behind it: put each step behind those that it waits for",
    );
    assert_problem(
        vec![step("a", &["b"]), step("b", &["a"])],
        "step a comes after b, which stands behind it: put each step behind those that it waits for (steps that wait \
         for one another in a circle have no such order)",
    );
    assert_problem(vec![step("a", &["a"])], "step a comes after itself");
}

#[test]
fn a_step_or_dependency_that_comes_twice() {
    assert_problem(vec![step("a", &[]), step("a", &[])], "two steps are named a");
    assert_problem(vec![step("a", &[]), step("b", &["a", "a"])], "step b names a twice in after");
    // Two steps may well wait for the same one.
    assert!(read(vec![step("a", &[]), step("b", &["a"]), step("c", &["a"])]).is_ok());
}

#[test]
fn names_that_are_none() {
    assert_problem(vec![step("Flight", &[])], "step name \"Flight\" is not a name");
    let unfit = v1::SagaStep { participant: String::new(), ..step("flight", &[]) };
    assert_problem(vec![unfit], "step flight: participant \"\" is not a name");
}

#[test]
fn more_steps_than_allowed() {
    let steps = |count: usize| (0..count).map(|number| step(&format!("s{number}"), &[])).collect::<Vec<_>>();
    assert!(read(steps(1_000)).is_ok());
    assert_problem(steps(1_001), "a saga has at most 1000 steps, not 1001");
    assert_problem(steps(70_000), "a saga has at most 1000 steps, not 70000");
}

#[test]
fn zeros_of_a_policy_take_the_defaults() {
    let with = |retry| read(vec![v1::SagaStep { retry, ..step("a", &[]) }]).expect("a saga").steps()[0].retry.clone();
    assert_eq!(with(None), RetryPolicy::default());
    assert_eq!(with(Some(v1::RetryPolicy::default())), RetryPolicy::default());
    let some = v1::RetryPolicy { initial_interval_ms: 5, attempts_max: 3, ..v1::RetryPolicy::default() };
    let expected = RetryPolicy { initial_interval_ms: 5, attempts_max: 3, ..RetryPolicy::default() };
    assert_eq!(with(Some(some)), expected);
}

#[test]
fn a_policy_that_makes_no_sense() {
    let none = v1::RetryPolicy::default;
    for (policy, problem) in [
        (v1::RetryPolicy { multiplier_percent: 99, ..none() }, "the multiplier is under 100 percent"),
        (
            v1::RetryPolicy { initial_interval_ms: 2, maximum_interval_ms: 1, ..none() },
            "the maximum interval is shorter than the initial one",
        ),
    ] {
        let text = format!("the retry policy of step a is unusable: {problem}");
        assert_problem(vec![v1::SagaStep { retry: Some(policy.clone()), ..step("a", &[]) }], &text);
        assert_problem(vec![v1::SagaStep { compensation_retry: Some(policy), ..step("a", &[]) }], &text);
    }
    let endless = v1::RetryPolicy { attempt_timeout_ms: u64::MAX, ..none() };
    assert_problem(
        vec![v1::SagaStep { compensation_retry: Some(endless), ..step("a", &[]) }],
        "the compensation_retry policy of step a is unusable: attempt_timeout_ms is 18446744073709551615, and at most \
         31536000000 (365 days)",
    );
}

#[test]
fn a_reason_and_the_list_that_it_is_sought_in_are_made_one_line_alike() {
    let listed = v1::RetryPolicy { non_retryable: vec!["sold\nout".into()], ..v1::RetryPolicy::default() };
    let definition = read(vec![v1::SagaStep { retry: Some(listed), ..step("a", &[]) }]).expect("a saga");
    let answered = crate::text::one_line("sold\nout".into());
    assert!(!definition.steps()[0].retry.allows(1, &answered));
}
