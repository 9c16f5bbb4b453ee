//! One branch that commits by itself.

use super::*;
use crate::reason::AbortCode;

fn asked() -> Driven {
    let mut driven = Driven::begun();
    driven.commit(&Commit::one_phase(&["a"]));
    assert_eq!((driven.state(), driven.orders()), (State::OnePhase, vec!["a: commit alone".to_owned()]));
    driven.routed("a", Route::Instance(INSTANCE));
    driven
}

#[test]
fn one_branch_commits_in_one_phase() {
    let mut driven = asked();
    driven.votes("a", Vote::Committed);
    assert_eq!((driven.told(1), driven.forced()), (Some(Outcome::Committed), None));
    assert_eq!(driven.state(), State::Committed);
}

#[test]
fn one_branch_refuses_in_one_phase() {
    let mut driven = asked();
    driven.votes("a", no());
    assert_eq!((driven.told(1), driven.state()), (Some(Outcome::Aborted), State::Aborted));
    assert_eq!(driven.machine.reason().map(|reason| reason.code), Some(AbortCode::Refused));
}

#[test]
fn a_branch_that_prepares_instead_is_committed_in_two_phases() {
    let mut driven = asked();
    driven.votes("a", Vote::Yes);
    assert_eq!(driven.forced().map(|decided| decided.decision), Some(Decision::Commit));
    assert_eq!(driven.orders(), ["a: commit"]);
}

#[test]
fn several_branches_never_commit_by_themselves() {
    let mut driven = Driven::begun();
    driven.commit(&Commit { one_phase: true, ..Commit::of(&["a", "b"]) });
    assert_eq!(driven.orders(), ["a: prepare", "b: prepare"]);
}

#[test]
fn a_branch_beside_others_that_the_request_does_not_name_is_asked_to_prepare() {
    // After a crash nobody could say what became of it: the repeated request is met by a presumed abort.
    let mut driven = Driven::begun();
    driven.enlist("b", EarlyVote::ReadOnly).commit(&Commit::one_phase(&["a"]));
    assert_eq!(driven.orders(), ["a: prepare"]);
}

#[test]
fn who_may_have_committed_is_asked_until_it_tells() {
    let mut driven = asked();
    driven.votes("a", unknown());
    assert!(driven.timer(Timer::Resend).is_some());
    driven.fires(Timer::Resend);
    assert_eq!((driven.orders(), driven.payloads()), (vec!["a: commit alone".to_owned()], vec![b"work".as_slice()]));
    driven.routed("a", Route::Absent);
    assert_eq!(driven.state(), State::OnePhase);
    driven.fires(Timer::Absence).fires(Timer::Deadline).aborts(2);
    assert_eq!(driven.state(), State::OnePhase, "neither time nor the initiator ends it");
    driven.joins("a");
    assert_eq!(driven.orders(), ["a: commit alone"]);
    driven.votes("a", Vote::Committed);
    assert_eq!((driven.told(1), driven.told(2)), (Some(Outcome::Committed), Some(Outcome::Committed)));
}

#[test]
fn a_question_that_was_lost_is_repeated() {
    let mut driven = asked();
    driven.leaves("a");
    assert!(driven.timer(Timer::Resend).is_some());
    let mut unnoticed = asked();
    unnoticed.fires(Timer::Deadline);
    assert_eq!(unnoticed.orders(), ["a: commit alone"]);
    assert!(unnoticed.timer(Timer::Resend).is_some());
}

#[test]
fn another_instance_may_tell() {
    let mut driven = asked();
    driven.leaves("a").on(Event::Voted { participant: name("a"), instance: OTHER_INSTANCE, vote: Vote::Committed });
    assert_eq!(driven.told(1), Some(Outcome::Committed));
}

#[test]
fn a_branch_that_was_never_asked_is_given_up() {
    for timer in [Timer::Absence, Timer::Deadline] {
        let mut driven = Driven::begun();
        driven.commit(&Commit::one_phase(&["a"])).routed("a", Route::Absent).fires(timer);
        assert_eq!((driven.told(1), driven.state()), (Some(Outcome::Aborted), State::Aborted), "{timer:?}");
    }
}

#[test]
fn a_branch_that_may_have_been_asked_in_an_earlier_life_is_not_given_up() {
    let mut driven = Driven::begun();
    driven.commit(&Commit::one_phase(&["a"]).repeated()).routed("a", Route::Absent);
    assert_eq!(driven.timer(Timer::Absence), None);
    driven.fires(Timer::Absence).fires(Timer::Deadline);
    assert_eq!(driven.state(), State::OnePhase);
    driven.joins("a").routed("a", Route::Instance(INSTANCE)).votes("a", Vote::Committed);
    assert_eq!(
        driven.forced().map(|decided| decided.decision),
        Some(Decision::Commit),
        "it may be asked for once more"
    );
    driven.durable();
    assert_eq!(driven.state(), State::Committed);
}

#[test]
fn a_branch_that_committed_in_an_earlier_life_counts_as_a_yes() {
    let mut driven = Driven::begun();
    driven.commit(&Commit::of(&["a", "b"]).repeated()).votes("a", Vote::Committed).votes("b", Vote::Yes);
    assert_eq!(driven.forced().map(|decided| decided.participants.clone()), Some(vec![name("b")]));
    driven.durable().acknowledges("b", BranchResult::Done);
    assert_eq!((driven.branch("a"), driven.state()), (BranchState::Committed, State::Committed));
}

#[test]
fn a_branch_that_committed_beside_a_refusal_is_a_heuristic() {
    let mut driven = Driven::begun();
    driven.commit(&Commit::of(&["a", "b"]).repeated()).votes("a", Vote::Committed).votes("b", no());
    driven.durable();
    assert_eq!((driven.branch("a"), driven.state()), (BranchState::HeuristicCommitted, State::Aborted));
}

#[test]
fn a_vote_that_nobody_asked_for_changes_nothing() {
    let mut driven = Driven::begun();
    driven.commit(&Commit::one_phase(&["a"])).routed("a", Route::Absent).votes("a", no());
    assert_eq!(driven.state(), State::OnePhase);
}
