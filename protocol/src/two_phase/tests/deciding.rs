//! What is durable before who is told.

use super::super::RESEND_INITIAL_MS;
use super::*;
use crate::durable::Parts;
use crate::reason::AbortCode;

#[test]
fn nothing_is_told_before_the_decision_is_durable() {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.awaits(2, Wait::Ended).votes("a", Vote::Yes).votes("b", Vote::Yes);
    let Parts::AfterAppend { forced, lazy, held } = driven.output.clone().split() else {
        panic!("the effects are sealed: {:?}", driven.output);
    };
    assert!(matches!(forced, Record::Decided(Decided { decision: Decision::Commit, .. })) && lazy.is_empty());
    let effects = held.release(&receipt());
    assert_eq!(effects.len(), 3, "two orders and one answer: {effects:?}");
    driven.awaits(3, Wait::Decided);
    assert!(driven.output.peek_effects().is_empty());
    driven.durable();
    assert_eq!((driven.told(1), driven.told(2), driven.told(3)), (None, None, Some(Outcome::Committed)));
    assert_eq!(driven.timer(Timer::Resend), Some(RESEND_INITIAL_MS));
}

#[test]
fn the_record_names_who_waits_for_it() {
    let mut driven = Driven::preparing(&["a", "b", "c"]);
    driven.votes("b", Vote::ReadOnly).votes("c", Vote::Yes).votes("a", Vote::Yes);
    let decided = driven.forced().expect("forced");
    assert_eq!(decided.members, [driven.member("a"), driven.member("c")]);
    assert_eq!((decided.digest, decided.begun_at_ms), (DIGEST, begun_at_ms()));
}

#[test]
fn read_only_branches_are_left_alone() {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.votes("a", Vote::ReadOnly).votes("b", Vote::Yes);
    assert_eq!(driven.orders(), ["b: commit"]);
    driven.durable().acknowledges("b", BranchResult::Done);
    assert_eq!(driven.state(), State::Committed);
}

#[test]
fn when_all_are_read_only_nothing_is_logged_but_the_end() {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.votes("a", Vote::ReadOnly).votes("b", Vote::ReadOnly);
    assert_eq!((driven.told(1), driven.forced()), (Some(Outcome::Committed), None));
    assert!(!driven.ended().expect("its end rides along").has_open_row);
}

#[test]
fn a_transaction_without_branches_commits() {
    let driven = Driven::committing(&[]);
    assert_eq!((driven.state(), driven.told(1)), (State::Committed, Some(Outcome::Committed)));
}

#[test]
fn an_abort_is_not_logged_unless_the_request_may_recur() {
    let mut once = Driven::preparing(&["a", "b"]);
    once.votes("a", no());
    assert_eq!((once.told(1), once.forced()), (Some(Outcome::Aborted), None));
    let mut recurring = Driven::begun();
    recurring.commit(&Commit { may_recur: true, ..Commit::of(&["a", "b"]) });
    recurring.routed("b", Route::Instance(INSTANCE)).votes("a", no());
    let decided = recurring.forced().expect("its repetition must find it");
    assert_eq!((decided.decision, names(&decided.members)), (Decision::Abort, vec!["b"]));
    recurring.durable();
    assert_eq!(recurring.state(), State::Aborting);
}

#[test]
fn every_outcome_of_a_request_that_may_recur_is_logged_before_it_is_told() {
    let mut driven = Driven::begun();
    driven.commit(&Commit { may_recur: true, ..Commit::of(&["a"]) }).votes("a", Vote::ReadOnly);
    assert_eq!(driven.forced().map(|decided| decided.decision), Some(Decision::Commit));
    driven.durable();
    assert_eq!(driven.state(), State::Committed);
}

#[test]
fn a_retry_during_prepare_makes_the_abort_durable() {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.commit(&Commit::of(&["a", "b"]).repeated()).votes("a", no());
    assert_eq!(driven.forced().map(|decided| decided.decision), Some(Decision::Abort));
}

#[test]
fn a_retry_during_an_unlogged_abort_is_answered_once_it_is_durable() {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.votes("a", no());
    assert_eq!(driven.state(), State::Aborting);
    driven.commit(&Commit::of(&["a", "b"]).repeated());
    assert_eq!(driven.forced().map(|decided| decided.decision), Some(Decision::Abort));
    assert_eq!(driven.told(2), Some(Outcome::Aborted), "behind the record");
    driven.acknowledges("b", BranchResult::Done).durable();
    let resend = driven.timer(Timer::Resend);
    assert_eq!(resend, Some(RESEND_INITIAL_MS), "the acknowledgement that came too early is asked for again");
    driven.commit(&Commit { request: 3, ..Commit::of(&["a", "b"]).repeated() });
    assert_eq!((driven.told(3), driven.forced()), (Some(Outcome::Aborted), None));
}

#[test]
fn an_abort_that_was_asked_for_during_prepare_is_durable_before_it_is_told() {
    let mut driven = Driven::preparing(&["a"]);
    driven.aborts(2);
    assert_eq!(driven.forced().map(|decided| decided.decision), Some(Decision::Abort));
    assert_eq!((driven.told(1), driven.told(2)), (Some(Outcome::Aborted), Some(Outcome::Aborted)), "behind the record");
}

#[test]
fn an_overruled_commit_aborts_and_everybody_is_told_so() {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.awaits(2, Wait::Decided).awaits(3, Wait::Ended).votes("a", Vote::Yes).votes("b", Vote::Yes);
    driven.overruled(Decision::Abort);
    // The answers that were held with the commit are never released.
    assert_eq!(
        (driven.told(1), driven.told(2), driven.told(3)),
        (Some(Outcome::Aborted), Some(Outcome::Aborted), None)
    );
    assert_eq!(driven.machine.reason().map(|reason| reason.code), Some(AbortCode::Forgotten));
    assert_eq!(driven.orders(), ["a: abort", "b: abort"]);
    driven.acknowledges("a", BranchResult::Done).acknowledges("b", BranchResult::Done);
    assert_eq!(driven.told(3), Some(Outcome::Aborted));
}

#[test]
fn whoever_is_overruled_leaves_the_row_to_its_writer() {
    let presumed = TwoPhase::presume_abort(gtid(), EPOCH, begun_at_ms(), member("a"), INSTANCE);
    let mut driven = Driven::from(presumed);
    driven.overruled(Decision::Commit);
    assert_eq!(driven.orders(), ["a: commit"]);
    driven.inquires("b");
    assert!(driven.orders().is_empty(), "it may well be in the writer's roster");
    driven.acknowledges("a", BranchResult::Done);
    assert_eq!((driven.state(), driven.ended()), (State::Committed, None));
}

#[test]
fn an_inquiry_about_an_unknown_transaction_aborts_it_durably() {
    let mut driven = Driven::from(TwoPhase::presume_abort(gtid(), EPOCH, begun_at_ms(), member("a"), INSTANCE));
    let decided = driven.forced().expect("no commit may come after the answer");
    assert_eq!((decided.decision, decided.members.as_slice()), (Decision::Abort, &[member("a")][..]));
    driven.inquires("b");
    assert!(driven.orders().is_empty(), "the log may yet say commit");
    driven.durable().inquires("b");
    assert_eq!(driven.orders(), ["b: abort"]);
    driven.acknowledges("a", BranchResult::Done);
    assert_eq!(driven.ended().map(|ended| ended.outcome), Some(Outcome::Aborted));
}

#[test]
fn a_request_whose_transaction_was_forgotten_is_aborted_durably() {
    let mut driven = Driven::from(TwoPhase::forgotten(gtid(), EPOCH, begun_at_ms(), "lost"));
    assert_eq!(
        driven.forced().map(|decided| (decided.decision, decided.digest)),
        Some((Decision::Abort, crate::two_phase::machine::NO_REQUEST))
    );
    driven.commit(&Commit::of(&["a"]).repeated());
    assert!(driven.output.peek_effects().is_empty());
    driven.durable();
    assert_eq!((driven.told(2), driven.state()), (Some(Outcome::Aborted), State::Aborted));
}

#[test]
fn a_caller_who_has_left_is_not_kept() {
    let mut driven = Driven::preparing(&["a"]);
    driven.on(Event::CallerLeft { session: 2 }).on(Event::CallerLeft { session: 1 }).votes("a", Vote::Yes);
    assert_eq!(driven.told(1), None);
}
