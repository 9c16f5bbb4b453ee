//! A branch is its participant's and has an id: another branch of the same participant is a stranger.

use super::*;
use crate::reason::Refusal;

/// Branches that voted yes, and were decided to commit under their ids.
fn committing() -> Driven {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.votes("a", Vote::Yes).votes("b", Vote::Yes).durable();
    assert_eq!(driven.state(), State::Committing);
    driven
}

/// The answer of a branch to an order to commit.
fn committed(result: BranchResult) -> Acknowledgement {
    Acknowledgement { decision: Decision::Commit, epoch: EPOCH, end: HookEnd::Ended(result) }
}

fn nothing_moves(driven: &mut Driven, event: Event) {
    let before = driven.machine.clone();
    driven.on(event);
    assert_eq!(driven.machine, before);
}

#[test]
fn the_second_enlistment_of_a_participant_is_refused_and_the_first_stays() {
    let mut driven = Driven::begun();
    driven.enlist("a", EarlyVote::Yes).enlist_as(twin("a"), EarlyVote::Yes);
    assert_eq!(driven.answer(90), Some(&Reply::Refused(Refusal::DuplicateBranch(name("a")))));
    // The answer to the first was lost. Were it refused, its branch would undo what counts as its yes.
    driven.enlist("a", EarlyVote::Yes);
    assert_eq!(driven.answer(90), Some(&Reply::Enlisted));
    assert_eq!(driven.machine.members(), [member("a")]);
    driven.commit(&Commit::of(&[])).enlist_as(twin("a"), EarlyVote::Yes);
    assert!(matches!(driven.answer(90), Some(Reply::Refused(Refusal::RosterFrozen { .. }))));
    driven.enlist("a", EarlyVote::Yes);
    assert_eq!(driven.answer(90), Some(&Reply::Enlisted));
}

#[test]
fn the_branch_that_was_not_enlisted_is_told_to_abort_before_the_end_and_after_it() {
    let mut driven = Driven::begun();
    driven.enlist("a", EarlyVote::Yes).enlist_as(twin("a"), EarlyVote::Yes).commit(&Commit::of(&[]));
    driven.inquires_as(twin("a"));
    assert!(driven.output.peek_effects().is_empty(), "the log has yet to answer");
    driven.durable().inquires_as(twin("a"));
    assert_eq!(driven.told_to(&twin("a")), [Order::Abort]);
    driven.inquires("a");
    assert_eq!(driven.told_to(&member("a")), [Order::Commit]);
    driven.acknowledges("a", BranchResult::Done);
    assert_eq!(driven.state(), State::Committed);
    driven.inquires_as(twin("a"));
    assert_eq!(driven.told_to(&twin("a")), [Order::Abort]);
    driven.votes_as(twin("a"), Vote::Yes);
    assert_eq!(driven.told_to(&twin("a")), [Order::Abort]);
    driven.inquires("a");
    assert_eq!(driven.told_to(&member("a")), [Order::Commit]);
}

#[test]
fn the_branches_of_one_commit_request_are_numbered_one_after_the_other() {
    let driven = Driven::preparing(&["a", "b"]);
    let ids: Vec<BranchId> = driven.machine.branches().iter().map(|branch| branch.id).collect();
    assert_eq!(ids, [FIRST_ID, FIRST_ID.plus(1)]);
}

#[test]
fn a_vote_of_another_branch_is_not_counted() {
    for vote in [Vote::Yes, Vote::ReadOnly, Vote::Committed, no(), unknown()] {
        let mut driven = Driven::preparing(&["a", "b"]);
        driven.votes("b", Vote::Yes);
        let Member { participant, branch } = twin("a");
        nothing_moves(&mut driven, Event::Voted { participant, branch, instance: INSTANCE, vote });
        assert_eq!(driven.told_to(&twin("a")), [Order::Abort], "whatever it has prepared is undone");
    }
}

#[test]
fn the_only_branch_is_the_only_one_that_decides_a_delegation() {
    for vote in [Vote::Committed, no(), Vote::ReadOnly] {
        let mut driven = Driven::begun();
        driven.commit(&Commit::one_phase(&["a"])).durable().routed("a", Route::Instance(INSTANCE));
        let Member { participant, branch } = twin("a");
        nothing_moves(&mut driven, Event::Voted { participant, branch, instance: INSTANCE, vote });
        assert_eq!(driven.state(), State::OnePhase);
    }
}

#[test]
fn an_acknowledgement_of_another_branch_ends_nothing() {
    for result in [BranchResult::Done, BranchResult::HeuristicCommitted, BranchResult::HeuristicAborted] {
        let mut driven = committing();
        let Member { participant, branch } = twin("a");
        let acknowledgement = committed(result);
        nothing_moves(&mut driven, Event::Acknowledged { participant, branch, acknowledgement });
        assert!(driven.output.peek_effects().is_empty());
    }
}

#[test]
fn an_inquiry_of_another_branch_is_not_answered_with_the_decision() {
    let mut driven = committing();
    let Member { participant, branch } = twin("a");
    nothing_moves(&mut driven, Event::Inquired { participant, branch, instance: INSTANCE });
    assert_eq!(driven.told_to(&twin("a")), [Order::Abort]);
    assert_eq!(driven.orders(), ["a: abort"], "and nothing else is said");
}

/// It was given by an earlier coordinator, or before the log overruled the abort.
#[test]
fn an_answer_to_another_order_never_counts() {
    let wrong = [
        Acknowledgement { decision: Decision::Abort, ..committed(BranchResult::Done) },
        Acknowledgement { decision: Decision::Abort, ..committed(BranchResult::HeuristicCommitted) },
        Acknowledgement { epoch: Epoch(EPOCH.0 - 1), ..committed(BranchResult::Done) },
        Acknowledgement { epoch: Epoch(EPOCH.0 + 1), ..committed(BranchResult::Done) },
        Acknowledgement { end: HookEnd::Failed("no connection".to_owned()), ..committed(BranchResult::Done) },
    ];
    for acknowledgement in wrong {
        let mut driven = committing();
        let Member { participant, branch } = driven.member("a");
        nothing_moves(&mut driven, Event::Acknowledged { participant, branch, acknowledgement });
    }
    let mut driven = committing();
    driven.acknowledges("a", BranchResult::Done).acknowledges("b", BranchResult::Done);
    assert_eq!(driven.state(), State::Committed);
}

#[test]
fn a_delegation_is_not_recalled_by_an_answer_to_an_earlier_order() {
    let mut first = Driven::begun();
    first.commit(&Commit::one_phase(&["a"]));
    let record = first.delegated().expect("forced").clone();
    let mut driven = Driven::from(TwoPhase::recover_delegated(&record, Epoch(EPOCH.0 + 1)));
    let Member { participant, branch } = driven.member("a");
    let abort = Acknowledgement { decision: Decision::Abort, ..committed(BranchResult::Done) };
    for acknowledgement in [abort.clone(), committed(BranchResult::Done)] {
        let participant = participant.clone();
        nothing_moves(&mut driven, Event::Acknowledged { participant, branch, acknowledgement });
    }
    let acknowledgement = Acknowledgement { epoch: Epoch(EPOCH.0 + 1), ..abort };
    driven.on(Event::Acknowledged { participant, branch, acknowledgement });
    assert_eq!(driven.state(), State::Aborted);
}

/// The look-up had found nothing, and the request ran once more: its branches have other ids than those that the log has committed.
#[test]
fn a_commit_that_stands_for_other_branches_aborts_those_of_this_machine() {
    for decides in [Decision::Commit, Decision::Abort] {
        let mut driven = Driven::begun();
        driven.commit(&Commit { may_recur: true, ..Commit::of(&["a", "b"]) });
        driven.awaits(2, Wait::Ended).votes("a", Vote::Yes);
        driven.votes("b", if decides == Decision::Commit { Vote::Yes } else { unknown() });
        assert_eq!(driven.state(), State::Deciding(decides));
        let ours = driven.machine.members();
        driven.overruled_for(Decision::Commit, vec![twin("a"), twin("b")]);
        for member in &ours {
            assert_eq!(driven.told_to(member), [Order::Abort], "{decides}");
        }
        let outcomes = (driven.told(1), driven.told(2));
        assert_eq!(outcomes, (Some(Outcome::Committed), Some(Outcome::Committed)), "{decides}");
        assert_eq!((driven.branch("a"), driven.state()), (BranchState::Outside, State::Committed), "{decides}");
        assert_eq!(driven.ended(), None, "the row is another writer's, and so is its end");
        driven.inquires_as(ours[0].clone());
        assert_eq!(driven.told_to(&ours[0]), [Order::Abort], "should the order have been lost");
        driven.inquires_as(twin("a"));
        assert!(driven.output.peek_effects().is_empty(), "it may be one of those that the log names");
    }
}

#[test]
fn a_commit_that_stands_for_some_of_the_branches_commits_those() {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.votes("a", Vote::Yes).votes("b", Vote::Yes);
    let [a, b] = ["a", "b"].map(|participant| driven.member(participant));
    driven.overruled_for(Decision::Commit, vec![a.clone()]);
    assert_eq!((driven.told_to(&a), driven.told_to(&b)), (vec![Order::Commit], vec![Order::Abort]));
    assert_eq!(driven.state(), State::Committing);
    driven.inquires("b");
    assert_eq!(driven.told_to(&b), [Order::Abort]);
    driven.fires(Timer::Resend);
    assert_eq!(driven.orders(), ["a: commit"], "the other one is told once, and asks if it has not heard");
    driven.acknowledges("a", BranchResult::Done);
    assert_eq!(driven.state(), State::Committed);
}

/// The answer to the append was lost, and the log answers for the record that this machine has written before.
#[test]
fn a_commit_that_stands_for_the_same_branches_commits_them() {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.votes("a", Vote::Yes).votes("b", Vote::Yes).overruled(Decision::Commit);
    assert_eq!((driven.orders(), driven.state()), (vec!["a: commit".into(), "b: commit".into()], State::Committing));
}

#[test]
fn an_abort_that_overrules_aborts_every_branch() {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.votes("a", Vote::Yes).votes("b", Vote::Yes).overruled_for(Decision::Abort, vec![twin("a")]);
    assert_eq!((driven.orders(), driven.state()), (vec!["a: abort".into(), "b: abort".into()], State::Aborting));
}
