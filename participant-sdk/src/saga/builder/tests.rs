use std::error::Error;
use std::time::Duration;

use super::*;
use crate::saga::Retry;

/// The text of an error and of everything behind it.
fn told(error: &InvalidSaga) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        told = format!("{told}: {error}");
        source = error.source();
    }
    told
}

fn mistake(saga: SagaBuilder) -> String {
    told(&saga.build().expect_err("a mistake"))
}

#[test]
fn a_trip_is_what_was_described() {
    let mut saga = SagaBuilder::new();
    let flight = saga.step("flight", "airline").input_json(&["OSL", "LIS"]).output::<String>().add();
    let hotel = saga.step("hotel", "hotels").input("three nights").durable().add();
    let payment = saga
        .step("payment", "bank")
        .after(&flight)
        .after(&hotel)
        .retry(Retry::exponential(Duration::from_millis(50)).attempts(3))
        .compensation_retry(Retry::every(Duration::from_secs(1)))
        .pivot()
        .add();
    let _mail = saga.step("mail", "mailer").after(&payment).retry(RetryPolicy::default()).add();
    assert_eq!(payment.name(), "payment");

    let definition = saga.build().expect("a saga");
    let [flight, hotel, payment, mail] = definition.steps() else { panic!("four steps") };
    assert_eq!((flight.name.as_str(), flight.participant.as_str()), ("flight", "airline"));
    assert_eq!(flight.input, r#"["OSL","LIS"]"#);
    assert_eq!((flight.after.len(), flight.pivot, flight.durable), (0, false, false));
    assert_eq!((&flight.retry, &flight.compensation_retry), (&RetryPolicy::default(), &RetryPolicy::default()));
    assert_eq!((hotel.input.as_ref(), hotel.after.len(), hotel.durable), (b"three nights".as_slice(), 0, true));
    assert_eq!((payment.after.as_slice(), payment.pivot), ([StepIndex(0), StepIndex(1)].as_slice(), true));
    assert_eq!((payment.retry.initial_interval_ms, payment.retry.attempts_max), (50, 3));
    assert_eq!(payment.compensation_retry.maximum_interval_ms, 1_000);
    assert_eq!(mail.after, [StepIndex(2)]);
}

#[test]
fn steps_that_were_added_in_a_loop_can_be_waited_for() {
    let mut saga = SagaBuilder::new();
    let rooms: Vec<_> = (0..3).map(|room| saga.step(&format!("room-{room}"), "hotels").output::<u32>().add()).collect();
    let _bill = saga.step("bill", "bank").after_all(&rooms).after(&rooms[1]).add();
    let definition = saga.build().expect("a saga");
    // Named twice, waited for once: a coordinator would refuse the repetition.
    assert_eq!(definition.step(StepIndex(3)).after, [StepIndex(0), StepIndex(1), StepIndex(2)]);
}

#[test]
fn a_handle_of_another_saga_is_refused() {
    let mut other = SagaBuilder::default();
    let flight = other.step("flight", "airline").add();
    let mut saga = SagaBuilder::default();
    // A step of the same position and name, to be taken for the other's.
    let _own = saga.step("flight", "airline").add();
    let _hotel = saga.step("hotel", "hotels").after(&flight.clone()).add();
    assert_eq!(
        mistake(saga),
        "step hotel comes after flight, which is a step of another saga: use a handle that this builder gave"
    );
}

#[test]
fn an_unusable_name_is_shown() {
    let mut saga = SagaBuilder::new();
    let _flight = saga.step("Flight", "airline").add();
    assert_eq!(
        mistake(saga),
        "a step of the saga has an unusable name: \"Flight\" is not a name: use 1 to 63 of a-z 0-9 - _ . and start with a \
         letter or digit"
    );
    let mut saga = SagaBuilder::new();
    let _flight = saga.step("flight", "air line").add();
    assert!(
        mistake(saga).starts_with("the participant of step flight has an unusable name: \"air line\" is not a name"),
    );
}

#[test]
fn an_input_that_is_no_json_is_refused() {
    // JSON's keys are texts.
    let unwritable = std::collections::BTreeMap::from([((1, 2), 3)]);
    let mut saga = SagaBuilder::new();
    let _flight = saga.step("flight", "airline").input_json(&unwritable).add();
    assert_eq!(mistake(saga), "the input of step flight cannot be written as JSON: key must be a string");
}

#[test]
fn what_no_definition_may_be_is_refused() {
    assert_eq!(mistake(SagaBuilder::new()), "a saga needs at least one step");

    let mut saga = SagaBuilder::new();
    let _first = saga.step("flight", "airline").add();
    let _second = saga.step("flight", "railway").add();
    assert_eq!(mistake(saga), "two steps are named flight; give each step of a saga its own name");

    let mut saga = SagaBuilder::new();
    let shrinking = Retry::exponential(Duration::from_secs(2)).max_interval(Duration::from_secs(1));
    let _flight = saga.step("flight", "airline").compensation_retry(shrinking).add();
    assert_eq!(
        mistake(saga),
        "the retry policy of step flight is unusable: the maximum interval is shorter than the initial one"
    );
}

#[test]
fn too_many_steps_are_refused_however_many_they_are() {
    for steps in [Definition::STEPS_MAX + 1, usize::from(u16::MAX) + 2] {
        let mut saga = SagaBuilder::new();
        for step in 0..steps {
            let _step = saga.step(&format!("s{step}"), "p").add();
        }
        assert_eq!(mistake(saga), format!("a saga has at most 1000 steps, not {steps}"));
    }
}

#[test]
fn the_first_mistake_is_the_one_that_is_told() {
    let mut saga = SagaBuilder::new();
    let first = saga.step("A", "airline").add();
    let _second = saga.step("b", "B").after(&first).add();
    let _third = saga.step("b", "hotels").add();
    assert!(mistake(saga).contains("\"A\" is not a name"));
}
