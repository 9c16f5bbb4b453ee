//! From the beginning to the last vote.

use super::*;
use crate::reason::{AbortCode, Refusal};

#[test]
fn a_commit_asks_every_branch_at_once() {
    let driven = Driven::committing(&["a", "b"]);
    assert_eq!(driven.state(), State::Preparing);
    assert_eq!(driven.orders(), ["a: prepare", "b: prepare"]);
    assert_eq!(driven.payloads(), [b"work", b"work"]);
}

#[test]
fn enlisted_branches_are_not_asked_again() {
    let mut driven = Driven::begun();
    driven.enlist("a", EarlyVote::Yes).commit(&Commit::of(&["b"]));
    assert_eq!(driven.orders(), ["b: prepare"]);
}

#[test]
fn when_everybody_has_enlisted_the_commit_is_decided_at_once() {
    let mut driven = Driven::begun();
    driven.enlist("a", EarlyVote::Yes).enlist("b", EarlyVote::ReadOnly).commit(&Commit::of(&[]));
    let decided = driven.forced().expect("forced");
    assert_eq!((decided.decision, decided.members.as_slice()), (Decision::Commit, &[member("a")][..]));
}

#[test]
fn a_begin_may_be_repeated() {
    let mut driven = Driven::begun();
    driven.on(Event::BeginRequested { caller: caller(5) });
    assert_eq!(driven.answer(5), Some(&Reply::Begun));
    driven.commit(&Commit::of(&["a"])).on(Event::BeginRequested { caller: caller(6) });
    assert!(matches!(driven.answer(6), Some(Reply::Refused(Refusal::RosterFrozen { .. }))));
}

#[test]
fn enlisting_after_prepare_began_is_refused() {
    let mut driven = Driven::preparing(&["a"]);
    driven.enlist("b", EarlyVote::Yes);
    assert!(matches!(driven.answer(90), Some(Reply::Refused(Refusal::RosterFrozen { .. }))));
    driven.on(Event::BranchNamed { branch: carried("b"), id: id("b"), caller: caller(91) });
    assert!(matches!(driven.answer(91), Some(Reply::Refused(Refusal::RosterFrozen { .. }))));
    assert_eq!(driven.machine.branches().len(), 1);
}

#[test]
fn a_repeated_enlistment_is_answered_as_the_first_one() {
    let mut driven = Driven::begun();
    driven.enlist("a", EarlyVote::Yes).enlist("a", EarlyVote::Yes);
    assert_eq!(driven.answer(90), Some(&Reply::Enlisted));
    // A refusal would have the participant undo what counts as its yes.
    driven.commit(&Commit::of(&["b"])).enlist("a", EarlyVote::Yes);
    assert_eq!(driven.answer(90), Some(&Reply::Enlisted));
    driven.routed("b", Route::Instance(INSTANCE)).votes("b", Vote::Yes).enlist("a", EarlyVote::Yes);
    assert_eq!(driven.answer(90), Some(&Reply::Enlisted));
    driven.durable().enlist("a", EarlyVote::Yes);
    assert_eq!(driven.answer(90), Some(&Reply::Enlisted));
    assert_eq!(driven.machine.branches().len(), 2);
}

#[test]
fn a_participant_takes_part_once() {
    let mut driven = Driven::begun();
    driven.enlist("a", EarlyVote::Yes);
    let Member { participant, branch } = member("a");
    let (instance, vote, caller) = (OTHER_INSTANCE, EarlyVote::Yes, caller(91));
    driven.on(Event::Enlisted { participant, branch, instance, vote, caller });
    assert_eq!(driven.answer(91), Some(&Reply::Refused(Refusal::DuplicateBranch(name("a")))));
    driven.commit(&Commit::of(&["a"]));
    assert_eq!(driven.answer(1), Some(&Reply::Refused(Refusal::DuplicateBranch(name("a")))));
    driven.commit(&Commit::of(&["b", "b"]));
    assert_eq!(driven.answer(1), Some(&Reply::Refused(Refusal::DuplicateBranch(name("b")))));
    assert_eq!((driven.state(), driven.machine.branches().len()), (State::Active, 1), "a refusal changes nothing");
}

#[test]
fn a_named_branch_may_be_named_again_with_the_same_payload() {
    let mut driven = Driven::begun();
    let named = |payload: &'static str| Event::BranchNamed {
        branch: CarriedBranch { participant: name("a"), payload: payload.into() },
        id: id("a"),
        caller: caller(92),
    };
    driven.on(named("work")).on(named("work"));
    assert_eq!(driven.answer(92), Some(&Reply::Enlisted));
    driven.on(named("other work"));
    assert_eq!(driven.answer(92), Some(&Reply::Refused(Refusal::DuplicateBranch(name("a")))));
    driven.commit(&Commit::of(&[]));
    assert_eq!((driven.orders(), driven.payloads()), (vec!["a: prepare".to_owned()], vec![b"work".as_slice()]));
}

#[test]
fn a_retry_with_another_body_is_refused() {
    let mut driven = Driven::preparing(&["a"]);
    let other = Commit { digest: BodyDigest(8), request: 2, ..Commit::of(&["b"]) };
    driven.commit(&other);
    assert_eq!(driven.answer(2), Some(&Reply::Refused(Refusal::KeyReused)));
    driven.votes("a", Vote::Yes).durable().commit(&other);
    assert_eq!(driven.answer(2), Some(&Reply::Refused(Refusal::KeyReused)));
}

#[test]
fn a_retry_with_the_same_body_waits_for_the_same_answer() {
    let mut driven = Driven::preparing(&["a"]);
    driven.commit(&Commit::of(&["a"]).repeated());
    assert_eq!((driven.orders(), driven.answer(2)), (vec![], None), "nobody is asked twice");
    driven.votes("a", Vote::Yes);
    assert_eq!((driven.told(1), driven.told(2)), (Some(Outcome::Committed), Some(Outcome::Committed)));
}

#[test]
fn a_no_aborts_and_says_whose_and_why() {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.votes("a", Vote::Yes).votes("b", no());
    let Some(Reply::Outcome { outcome: Outcome::Aborted, reason: Some(reason) }) = driven.answer(1) else {
        panic!("told at once: {:?}", driven.output);
    };
    assert_eq!(
        (reason.code, &reason.participant, reason.message.as_str()),
        (AbortCode::Refused, &Some(name("b")), "no money")
    );
    assert_eq!(driven.orders(), ["a: abort"], "who refused has undone its work already");
}

#[test]
fn an_error_in_prepare_aborts_and_the_branch_is_told_too() {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.votes("a", unknown());
    assert_eq!(driven.orders(), ["a: abort", "b: abort"]);
    assert_eq!(driven.machine.reason().map(|reason| reason.code), Some(AbortCode::PrepareFailed));
}

#[test]
fn an_absent_participant_is_asked_with_its_payload_when_it_comes() {
    let mut driven = Driven::committing(&["a", "b"]);
    driven.routed("a", Route::Absent);
    assert_eq!(driven.timer(Timer::Absence), Some(PATIENCE.absence_ms));
    driven.routed("b", Route::Instance(INSTANCE)).joins("a");
    assert_eq!((driven.orders(), driven.payloads()), (vec!["a: prepare".to_owned()], vec![b"work".as_slice()]));
}

#[test]
fn an_absent_participant_is_not_waited_for_forever() {
    let mut driven = Driven::committing(&["a", "b"]);
    driven.routed("a", Route::Absent).routed("b", Route::Absent).joins("a").routed("a", Route::Instance(INSTANCE));
    driven.fires(Timer::Absence);
    let reason = driven.machine.reason().expect("aborted");
    assert_eq!((reason.code, &reason.participant), (AbortCode::ParticipantUnavailable, &Some(name("b"))));
    assert_eq!(driven.orders(), ["a: abort"], "who was never asked is not told");
}

#[test]
fn an_absence_that_is_over_aborts_nothing() {
    let mut driven = Driven::committing(&["a"]);
    driven.routed("a", Route::Absent).joins("a").routed("a", Route::Instance(INSTANCE)).fires(Timer::Absence);
    assert_eq!(driven.state(), State::Preparing);
}

#[test]
fn a_name_that_nobody_bears_aborts_at_once() {
    let mut driven = Driven::committing(&["a", "b"]);
    driven.routed("a", Route::Instance(INSTANCE)).routed("b", Route::Unknown);
    assert_eq!(driven.machine.reason().map(|reason| reason.code), Some(AbortCode::ParticipantUnknown));
    assert_eq!(driven.orders(), ["a: abort"]);
    driven.acknowledges("a", BranchResult::Done);
    assert_eq!(driven.state(), State::Aborted);
}

#[test]
fn two_names_that_nobody_bears_leave_nothing_open() {
    let mut driven = Driven::committing(&["a", "b"]);
    driven.routed("a", Route::Unknown).routed("b", Route::Unknown);
    assert_eq!(driven.state(), State::Aborted, "nobody was asked, so nobody is waited for");
}

#[test]
fn a_prepare_that_found_nobody_needs_no_abort() {
    let mut driven = Driven::committing(&["a", "b"]);
    driven.routed("a", Route::Unknown).routed("b", Route::Absent);
    assert_eq!(driven.state(), State::Aborted);
}

#[test]
fn an_instance_that_leaves_before_it_votes_aborts() {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.on(Event::Left { participant: name("a"), instance: OTHER_INSTANCE });
    assert_eq!(driven.state(), State::Preparing, "another instance was asked");
    driven.leaves("a");
    assert_eq!(driven.machine.reason().map(|reason| reason.code), Some(AbortCode::ParticipantLost));
    assert_eq!(driven.orders(), ["a: abort", "b: abort"], "it may have prepared");
}

#[test]
fn an_instance_that_leaves_after_its_yes_changes_nothing() {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.votes("a", Vote::Yes).leaves("a");
    assert_eq!(driven.state(), State::Preparing);
}

#[test]
fn only_the_instance_that_was_asked_votes() {
    let mut driven = Driven::preparing(&["a"]);
    driven.votes_at(OTHER_INSTANCE, "a", Vote::Yes);
    assert_eq!(driven.state(), State::Preparing);
    driven.votes("a", Vote::Yes);
    assert_eq!(driven.state(), State::Deciding(Decision::Commit));
}

#[test]
fn the_deadline_aborts_and_names_who_is_silent() {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.votes("a", Vote::Yes).fires(Timer::Deadline);
    let reason = driven.machine.reason().expect("aborted");
    assert_eq!((reason.code, reason.message.as_str()), (AbortCode::DeadlineExceeded, "no vote in time from b"));
    let mut idle = Driven::begun();
    idle.enlist("a", EarlyVote::Yes).fires(Timer::Deadline);
    assert_eq!(idle.orders(), ["a: abort"]);
}

#[test]
fn the_initiator_may_abort_until_it_is_decided() {
    let mut active = Driven::begun();
    active.enlist("a", EarlyVote::Yes).aborts(2);
    assert_eq!((active.told(2), active.orders()), (Some(Outcome::Aborted), vec!["a: abort".to_owned()]));
    let mut deciding = Driven::preparing(&["a"]);
    deciding.votes("a", Vote::Yes).aborts(2);
    assert_eq!(deciding.answer(2), None, "it is too late to ask, and too early to tell");
    deciding.durable();
    assert_eq!(deciding.told(2), Some(Outcome::Committed), "the outcome is the answer");
}

#[test]
fn a_branch_in_doubt_is_answered_once_there_is_a_decision() {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.votes("a", Vote::Yes).inquires("a");
    assert!(driven.orders().is_empty());
    driven.votes("b", Vote::Yes).inquires("a");
    assert!(driven.orders().is_empty(), "not before it is durable");
    driven.durable().inquires("a");
    assert_eq!(driven.orders(), ["a: commit"]);
}

#[test]
fn a_stranger_is_told_to_abort_once_the_roster_is_frozen() {
    let mut driven = Driven::begun();
    driven.inquires("stranger");
    assert!(driven.orders().is_empty(), "its enlistment may be on the way");
    driven.commit(&Commit::of(&["a"])).inquires("stranger");
    assert_eq!(driven.orders(), ["stranger: abort"]);
    driven.votes("stranger", Vote::Yes);
    assert_eq!(driven.orders(), ["stranger: abort"]);
}
