//! From the decision to the end.

use super::*;
use crate::record::BranchEnd;

fn decided() -> Driven {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.votes("a", Vote::Yes).votes("b", Vote::Yes).durable();
    driven
}

fn record(decision: Decision, participants: &[&str]) -> Decided {
    let mut driven = Driven::preparing(&["a"]);
    driven.votes("a", Vote::Yes);
    let members = participants.iter().map(|participant| member(participant)).collect();
    Decided { decision, members, ..driven.forced().expect("forced").clone() }
}

#[test]
fn it_ends_when_every_branch_has_acknowledged() {
    let mut driven = decided();
    driven.awaits(2, Wait::Ended).acknowledges("a", BranchResult::Done).acknowledges("a", BranchResult::Done);
    assert_eq!((driven.state(), driven.ended()), (State::Committing, None));
    driven.acknowledges("b", BranchResult::Done);
    assert_eq!((driven.state(), driven.told(2)), (State::Committed, Some(Outcome::Committed)));
    let ended = driven.ended().expect("recorded");
    assert!(ended.has_open_row && ended.branches.iter().all(|branch| branch.end == BranchEnd::Committed));
}

#[test]
fn heuristic_outcomes_are_recorded() {
    let mut commit = decided();
    commit.acknowledges("a", BranchResult::HeuristicAborted).acknowledges("b", BranchResult::HeuristicCommitted);
    let ends: Vec<_> = commit.ended().expect("recorded").branches.iter().map(|branch| branch.end).collect();
    assert_eq!(ends, [BranchEnd::HeuristicAborted, BranchEnd::Committed], "one agrees with the decision");
    let mut abort = Driven::preparing(&["a", "b"]);
    abort.votes("a", no()).acknowledges("b", BranchResult::HeuristicCommitted);
    let ends: Vec<_> = abort.ended().expect("recorded").branches.iter().map(|branch| branch.end).collect();
    assert_eq!(ends, [BranchEnd::Aborted, BranchEnd::HeuristicCommitted]);
}

#[test]
fn orders_are_repeated_further_and_further_apart_to_those_who_are_silent() {
    let mut driven = decided();
    driven.acknowledges("a", BranchResult::Done);
    let mut waits = Vec::new();
    for _ in 0..7 {
        driven.fires(Timer::Resend);
        assert_eq!(driven.orders(), ["b: commit"]);
        waits.extend(driven.timer(Timer::Resend));
    }
    assert_eq!(waits, [2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
}

#[test]
fn nothing_is_repeated_after_the_end() {
    let mut driven = decided();
    driven.acknowledges("a", BranchResult::Done).acknowledges("b", BranchResult::Done).fires(Timer::Resend);
    assert!(driven.output.peek_effects().is_empty());
    driven.fires(Timer::Deadline).fires(Timer::Absence);
    assert_eq!(driven.state(), State::Committed);
}

#[test]
fn a_participant_that_comes_back_is_told_at_once() {
    let mut driven = decided();
    driven.acknowledges("a", BranchResult::Done).joins("a");
    assert!(driven.orders().is_empty());
    driven.joins("b");
    assert_eq!(driven.orders(), ["b: commit"]);
}

#[test]
fn a_late_yes_is_told_the_abort() {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.votes("a", no()).votes("b", Vote::Yes);
    assert_eq!((driven.state(), driven.orders()), (State::Aborting, vec!["b: abort".to_owned()]));
}

#[test]
fn a_late_no_is_the_acknowledgement() {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.votes("a", no()).votes("b", no());
    assert_eq!(driven.state(), State::Aborted);
    let mut doubly = Driven::preparing(&["a", "b", "c"]);
    doubly.votes("b", Vote::Yes).votes("a", no()).votes("c", Vote::ReadOnly).votes("b", no());
    assert_eq!(doubly.state(), State::Aborting, "a branch that said yes has to be told, and to acknowledge");
}

#[test]
fn recovery_tells_the_decision_to_every_branch_that_waits_for_it() {
    for (decision, order) in [(Decision::Commit, "commit"), (Decision::Abort, "abort")] {
        let mut driven = Driven::from(TwoPhase::recover(&record(decision, &["a", "b"]), Epoch(9)));
        assert_eq!(driven.orders(), [format!("a: {order}"), format!("b: {order}")]);
        assert_eq!((driven.timer(Timer::Resend), driven.machine.epoch()), (Some(1_000), Epoch(9)));
        driven.acknowledges("a", BranchResult::Done).acknowledges("b", BranchResult::Done);
        assert!(driven.ended().expect("recorded").has_open_row);
    }
}

#[test]
fn recovery_ends_what_nobody_waits_for() {
    let driven = Driven::from(TwoPhase::recover(&record(Decision::Commit, &[]), Epoch(9)));
    assert_eq!((driven.state(), driven.ended().is_some()), (State::Committed, true));
}

#[test]
fn recovery_keeps_the_answer_and_the_key() {
    let mut driven = Driven::from(TwoPhase::recover(&record(Decision::Commit, &["a"]), Epoch(9)));
    driven.commit(&Commit::of(&["a"]).repeated());
    assert_eq!(driven.told(2), Some(Outcome::Committed));
    driven.commit(&Commit { digest: BodyDigest(8), request: 3, ..Commit::of(&["a"]) });
    assert!(matches!(driven.answer(3), Some(Reply::Refused(_))));
}

#[test]
fn a_recovered_presumed_abort_answers_any_request() {
    // Whose request it was is not known: the inquiry of a branch came first.
    let presumed = Driven::from(TwoPhase::presume_abort(gtid(), EPOCH, begun_at_ms(), member("a"), INSTANCE));
    let mut driven = Driven::from(TwoPhase::recover(presumed.forced().expect("forced"), Epoch(9)));
    driven.commit(&Commit::of(&["a"]).repeated());
    assert_eq!(driven.told(2), Some(Outcome::Aborted));
}

#[test]
fn a_recovered_abort_does_not_wait_for_who_was_never_there() {
    let mut driven = Driven::from(TwoPhase::recover(&record(Decision::Abort, &["a"]), Epoch(9)));
    driven.routed("a", Route::Unknown);
    assert_eq!(driven.state(), State::Aborted);
    let mut commit = Driven::from(TwoPhase::recover(&record(Decision::Commit, &["a"]), Epoch(9)));
    commit.routed("a", Route::Unknown).routed("a", Route::Absent);
    assert_eq!(commit.state(), State::Committing, "a commit is never given up");
}

#[test]
fn an_ended_transaction_still_answers() {
    let mut driven = decided();
    driven.acknowledges("a", BranchResult::Done).acknowledges("b", BranchResult::Done).inquires("a");
    assert_eq!(driven.orders(), ["a: commit"]);
    driven.awaits(2, Wait::Ended);
    assert_eq!(driven.told(2), Some(Outcome::Committed));
    driven.aborts(3);
    assert_eq!(driven.told(3), Some(Outcome::Committed));
    driven.on(Event::BeginRequested { caller: caller(4) });
    assert_eq!(driven.told(4), Some(Outcome::Committed));
}

#[test]
fn what_it_waits_for_is_said_in_words() {
    let mut driven = Driven::committing(&["a", "b"]);
    assert!(driven.machine.waiting_for().contains("votes from a, b"));
    driven.routed("a", Route::Absent);
    assert!(driven.machine.waiting_for().contains("an instance of a"));
    assert!(decided().machine.waiting_for().contains("a, b to commit"));
}

#[test]
fn what_a_bystander_is_told_cannot_run_anew() {
    let mut asked_before = Driven::preparing(&["a", "b"]);
    asked_before.awaits(2, Wait::Decided).votes("a", no());
    let mut asked_after = Driven::preparing(&["a", "b"]);
    asked_after.votes("a", no());
    assert_eq!(
        (asked_after.state(), asked_after.forced()),
        (State::Aborting, None),
        "its sender alone needs no record"
    );
    asked_after.awaits(2, Wait::Decided);
    for driven in [asked_before, asked_after] {
        let decision = driven.forced().map(|decided| decided.decision);
        assert_eq!((driven.state(), decision), (State::Deciding(Decision::Abort), Some(Decision::Abort)));
        assert_eq!(driven.told(2), Some(Outcome::Aborted), "the answer waits for the record");
    }
}
