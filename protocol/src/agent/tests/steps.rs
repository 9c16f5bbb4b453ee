//! Steps: one hook for each, and an answer for the latest order.

use super::super::{StepEnd, StepKey};
use super::*;
use crate::message::{StepAnswer, StepOrder};
use crate::saga::{OUTPUT_TOO_LARGE, StepIndex, StepResult};

fn order(number: u8, attempt: u32) -> StepOrder {
    StepOrder {
        gtid: gtid(number),
        epoch: EPOCH,
        step: StepIndex(0),
        name: "flight".parse().expect("a name"),
        attempt,
        input: Bytes::new(),
        timeout_ms: 60_000,
    }
}

fn execute(number: u8, attempt: u32) -> FromReplica {
    FromReplica::ExecuteStep { order: order(number, attempt), outputs: Vec::new(), pivot: true }
}

fn step(number: u8, compensation: bool) -> StepKey {
    StepKey { gtid: gtid(number), step: StepIndex(0), compensation }
}

fn calls(process: &mut Process) -> Vec<StepKey> {
    let calls = process.agent.take_calls().filter_map(|call| match call {
        Call::Step(call) => {
            Some(StepKey { gtid: call.order.gtid, step: call.order.step, compensation: call.compensation })
        }
        Call::Branch { .. } => None,
    });
    calls.collect()
}

fn answer(process: &mut Process) -> StepAnswer {
    match process.says().as_slice() {
        [FromClient::Step(answer)] => answer.clone(),
        other => panic!("it says {other:?}"),
    }
}

fn finally_refused() -> StepEnd {
    StepEnd { result: StepResult::Refused("no".into()), is_final: true }
}

#[test]
fn an_order_that_repeats_a_hook_is_answered_when_that_one_returns() {
    let mut process = Process::joined(config());
    process.hears(execute(1, 1));
    process.hears(execute(1, 3));
    process.hears(execute(1, 2));
    assert_eq!(calls(&mut process), [step(1, false)]);
    process.take(Input::StepReturned { key: step(1, false), end: finally_refused() });
    let answer = answer(&mut process);
    assert_eq!(answer.attempt, 3);
    assert!(!answer.is_final, "the hook refused for the first attempt, and not for the second");
}

#[test]
fn a_refusal_is_final_for_the_order_that_the_hook_was_called_with() {
    let mut process = Process::joined(config());
    process.hears(execute(1, 2));
    process.hears(execute(1, 1));
    process.take(Input::StepReturned { key: step(1, false), end: finally_refused() });
    let answer = answer(&mut process);
    assert_eq!((answer.attempt, answer.is_final), (2, true));
}

#[test]
fn an_output_that_fits_into_no_message_is_not_sent() {
    let mut process = Process::joined(config());
    process.hears(execute(1, 1));
    let end = StepResult::Done(vec![0; 1_001].into()).into();
    process.take(Input::StepReturned { key: step(1, false), end });
    let StepResult::Unknown(problem) = answer(&mut process).result else { panic!("it is sent") };
    assert!(problem.starts_with(OUTPUT_TOO_LARGE), "{problem}");
}

#[test]
fn neither_actions_hold_up_compensations_nor_these_a_commit() {
    let mut process = Process::joined(config());
    process.hears(prepare(key(9)));
    process.calls();
    process.votes_yes(key(9));
    process.hears(execute(1, 1));
    process.hears(execute(2, 1));
    process.hears(FromReplica::CompensateStep { order: order(3, 1), output: None });
    process.hears(FromReplica::CompensateStep { order: order(4, 1), output: None });
    assert_eq!(calls(&mut process), [step(1, false), step(3, true)]);
    process.hears(commit(key(9)));
    assert_eq!(process.calls(), [(key(9), Hook::Commit)]);
    process.take(Input::StepReturned { key: step(3, true), end: StepResult::Done(Bytes::new()).into() });
    assert_eq!(calls(&mut process), [step(4, true)]);
    process.take(Input::StepReturned { key: step(1, false), end: StepResult::Done(Bytes::new()).into() });
    assert_eq!(calls(&mut process), [step(2, false)]);
}

#[test]
fn a_process_without_a_saga_participant_says_so() {
    let mut process = Process::joined(Config { serves_steps: false, ..config() });
    process.hears(execute(1, 1));
    assert!(matches!(answer(&mut process).result, StepResult::Unknown(_)));
    assert_eq!(calls(&mut process), []);
}
