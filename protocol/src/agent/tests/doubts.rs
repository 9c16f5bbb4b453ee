//! Branches that another instance has left prepared.

use super::*;

fn looks(process: &mut Process) {
    process.fires(Timer::Look);
    assert!(process.agent.take_listing(), "it lists");
}

fn is_asked(process: &mut Process) -> Vec<FromClient> {
    process.says().into_iter().filter(|message| matches!(message, FromClient::Branch(_))).collect()
}

fn inquiry(key: BranchKey) -> FromClient {
    FromClient::branch(key.gtid, key.id, Message::Inquire)
}

/// When the next look begins, in milliseconds: the earliest and the latest.
fn next_look(process: &mut Process) -> (u64, u64) {
    match process.timers().as_slice() {
        [TimerChange::Set { timer: Timer::Look, after_ms, jitter_ms }] => (*after_ms, after_ms + jitter_ms),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_branch_that_is_still_there_after_the_grace_is_asked_about() {
    let mut process = Process::joined(config());
    looks(&mut process);
    process.take(Input::Listed(Some(vec![key(1), key(2)])));
    assert_eq!(next_look(&mut process), (10_000, 10_000));
    assert!(is_asked(&mut process).is_empty(), "another instance may be at work on it");
    looks(&mut process);
    process.take(Input::Listed(Some(vec![key(2), key(3)])));
    assert_eq!(is_asked(&mut process), [inquiry(key(2))]);
    process.hears(abort(key(2)));
    assert_eq!(process.calls(), [(key(2), Hook::Abort)]);
}

#[test]
fn a_branch_that_this_agent_knows_is_not_taken_for_one_that_was_left() {
    let mut process = Process::joined(config());
    process.hears(prepare(key(1)));
    for _ in 0..2 {
        looks(&mut process);
        process.take(Input::Listed(Some(vec![key(1)])));
    }
    assert!(is_asked(&mut process).is_empty());
    process.votes_yes(key(1));
}

#[test]
fn the_next_look_begins_after_the_interval_or_sooner_if_this_one_failed() {
    let mut process = Process::joined(config());
    looks(&mut process);
    process.take(Input::Listed(Some(Vec::new())));
    assert_eq!(next_look(&mut process), (45_000, 75_000));
    looks(&mut process);
    process.take(Input::Listed(None));
    assert_eq!(next_look(&mut process), (7_500, 12_500));
    // One that fails in its second half starts over.
    looks(&mut process);
    process.take(Input::Listed(Some(vec![key(1)])));
    looks(&mut process);
    process.take(Input::Listed(None));
    looks(&mut process);
    process.take(Input::Listed(Some(vec![key(1)])));
    assert!(is_asked(&mut process).is_empty(), "it begins with its first half");
}

#[test]
fn a_new_session_is_a_reason_to_look_now_or_right_after_this_look() {
    let mut process = Process::joined(config());
    process.take(Input::SessionClosed(SESSION));
    process.opens(SessionId(2), EPOCH);
    assert!(process.agent.take_listing());
    process.take(Input::SessionClosed(SessionId(2)));
    process.opens(SessionId(3), EPOCH);
    assert!(!process.agent.take_listing(), "one look at a time");
    process.take(Input::Listed(Some(Vec::new())));
    assert!(process.agent.take_listing());
}

#[test]
fn what_was_left_votes_anew_when_it_is_asked_to_prepare() {
    let mut process = Process::joined(config());
    for _ in 0..2 {
        looks(&mut process);
        process.take(Input::Listed(Some(vec![key(1)])));
    }
    process.says();
    // Its instance lives after all, and may have rolled it back.
    process.hears(prepare(key(1)));
    assert!(process.says().is_empty(), "memory is no ground for a yes");
    assert_eq!(process.calls(), [(key(1), prepare_hook())]);
}

#[test]
fn what_was_prepared_before_the_start_keeps_its_yes() {
    let mut process = Process::new(config());
    process.take(Input::Found { doubts: vec![key(1)], records: Vec::new() });
    process.opens(SESSION, EPOCH);
    assert_eq!(is_asked(&mut process), [inquiry(key(1))]);
    process.hears(prepare(key(1)));
    assert_eq!(process.reports(key(1)), Message::Vote(Vote::Yes));
}
