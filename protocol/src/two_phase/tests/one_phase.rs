//! One branch that commits by itself.

use super::*;
use crate::reason::AbortCode;

/// The delegation is on its way to the log.
fn delegating() -> Driven {
    let mut driven = Driven::begun();
    driven.commit(&Commit::one_phase(&["a"]));
    let delegated = driven.delegated().expect("forced");
    assert_eq!((&delegated.member, delegated.digest), (&driven.member("a"), DIGEST));
    assert_eq!((driven.state(), driven.orders()), (State::Delegating, vec![]));
    driven
}

/// The order was given, and found no instance.
fn absent() -> Driven {
    let mut driven = delegating();
    driven.durable().routed("a", Route::Absent);
    driven
}

fn asked() -> Driven {
    let mut driven = delegating();
    driven.durable();
    assert_eq!((driven.state(), driven.orders()), (State::OnePhase, vec!["a: commit alone".to_owned()]));
    driven.routed("a", Route::Instance(INSTANCE));
    driven
}

fn recalling() -> Driven {
    let record = delegating().delegated().expect("forced").clone();
    let driven = Driven::from(TwoPhase::recover_delegated(&record, Epoch(EPOCH.0 + 1)));
    assert_eq!((driven.state(), driven.orders()), (State::Recalling, vec!["a: abort".to_owned()]));
    assert!(driven.timer(Timer::Resend).is_some());
    driven
}

#[test]
fn one_branch_commits_in_one_phase() {
    let mut driven = asked();
    driven.votes("a", Vote::Committed);
    assert_eq!((driven.told(1), driven.forced()), (Some(Outcome::Committed), None));
    assert_eq!(driven.state(), State::Committed);
    assert_eq!(driven.ended().map(|ended| ended.has_open_row), Some(true), "the delegation moves to the history");
}

#[test]
fn a_repeated_request_costs_no_further_record() {
    let mut driven = Driven::begun();
    driven.commit(&Commit::one_phase(&["a"]).repeated()).durable().routed("a", Route::Instance(INSTANCE));
    driven.votes("a", Vote::Committed);
    assert_eq!((driven.told(2), driven.forced(), driven.state()), (Some(Outcome::Committed), None, State::Committed));
}

#[test]
fn one_branch_refuses_in_one_phase() {
    let mut driven = asked();
    driven.votes("a", no());
    assert_eq!((driven.told(1), driven.state()), (Some(Outcome::Aborted), State::Aborted));
    assert_eq!(driven.machine.reason().map(|reason| reason.code), Some(AbortCode::Refused));
}

#[test]
fn a_branch_that_had_nothing_to_commit_could_not_tell_it_again_so_the_log_does() {
    let mut driven = asked();
    driven.votes("a", Vote::ReadOnly);
    assert_eq!(driven.forced().map(|decided| decided.decision), Some(Decision::Commit));
    driven.durable();
    assert_eq!(driven.state(), State::Committed);
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
    let mut prepared = Driven::begun();
    prepared.enlist("b", EarlyVote::Yes).commit(&Commit::one_phase(&["a"]));
    assert_eq!(prepared.orders(), ["a: prepare"]);
}

#[test]
fn a_branch_beside_others_that_have_nothing_to_commit_may_decide_alone() {
    let mut driven = Driven::begun();
    driven.enlist("b", EarlyVote::ReadOnly).commit(&Commit::one_phase(&["a"]));
    assert_eq!(driven.delegated().map(|delegated| &delegated.member), Some(&driven.member("a")));
    driven.durable().routed("a", Route::Instance(INSTANCE)).votes("a", Vote::Committed);
    assert_eq!((driven.told(1), driven.state()), (Some(Outcome::Committed), State::Committed));
}

#[test]
fn nothing_is_ordered_before_the_delegation_is_durable() {
    let mut driven = delegating();
    driven.joins("a");
    assert_eq!(driven.orders(), [""; 0]);
    driven.fires(Timer::Resend);
    assert_eq!(driven.orders(), [""; 0]);
    driven.durable();
    assert_eq!((driven.orders(), driven.payloads()), (vec!["a: commit alone".to_owned()], vec![b"work".as_slice()]));
}

#[test]
fn an_abort_that_comes_before_the_order_goes_through_the_log() {
    for is_asked_for in [true, false] {
        let mut driven = delegating();
        if is_asked_for {
            driven.aborts(2);
        } else {
            driven.fires(Timer::Deadline);
        }
        assert_eq!((driven.state(), driven.told(1), driven.told(2)), (State::Delegating, None, None));
        driven.durable();
        let decided = driven.forced().expect("the delegation may be found by another coordinator");
        assert_eq!((decided.decision, decided.members.as_slice()), (Decision::Abort, [].as_slice()));
        assert_eq!(driven.orders(), [""; 0], "the branch never hears of it");
        driven.durable();
        assert_eq!(driven.state(), State::Aborted);
        let code = if is_asked_for { AbortCode::Requested } else { AbortCode::DeadlineExceeded };
        assert_eq!(driven.machine.reason().map(|reason| reason.code), Some(code));
    }
}

#[test]
fn a_delegation_that_comes_second_is_overruled() {
    for (theirs, outcome) in [(Decision::Commit, Outcome::Committed), (Decision::Abort, Outcome::Aborted)] {
        let mut driven = delegating();
        driven.overruled(theirs);
        assert_eq!((driven.told(1), driven.orders()), (Some(outcome), vec![]));
        assert!(driven.ended().is_none(), "the row is another writer's");
    }
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
    driven.leaves("a").votes_at(OTHER_INSTANCE, "a", Vote::Committed);
    assert_eq!(driven.told(1), Some(Outcome::Committed));
}

#[test]
fn a_refusal_is_final_only_where_no_other_instance_was_asked() {
    let mut driven = asked();
    driven.leaves("a").fires(Timer::Resend).routed("a", Route::Instance(OTHER_INSTANCE));
    driven.votes_at(OTHER_INSTANCE, "a", no());
    assert_eq!((driven.told(1), driven.state()), (None, State::Recalling), "the first may have the order in its queue");
    assert_eq!(driven.orders(), ["a: abort"]);
    driven.acknowledges("a", BranchResult::Done);
    assert_eq!((driven.told(1), driven.state()), (Some(Outcome::Aborted), State::Aborted));
    assert_eq!(driven.machine.reason().map(|reason| reason.code), Some(AbortCode::Refused));
}

/// Its acknowledgement would say no more than that an order was carried out, and the next
/// coordinator gives another one.
#[test]
fn a_branch_that_has_committed_by_itself_is_never_ordered_to_commit() {
    let mut driven = asked();
    driven.votes("a", Vote::Committed);
    for vote in [unknown(), Vote::Yes] {
        driven.votes("a", vote);
        assert_eq!((driven.orders(), driven.state()), (vec![], State::Committed));
    }
    driven.inquires("a").joins("a");
    assert_eq!(driven.orders(), [""; 0]);
    let mut refused = asked();
    refused.votes("a", no()).votes("a", unknown());
    assert_eq!(refused.orders(), ["a: abort"], "the order that a recall gives, too");
}

#[test]
fn a_branch_that_was_never_asked_is_given_up() {
    for timer in [Timer::Absence, Timer::Deadline] {
        let mut driven = absent();
        driven.fires(timer);
        assert_eq!(driven.forced().map(|decided| decided.decision), Some(Decision::Abort), "{timer:?}");
        driven.durable();
        assert_eq!(driven.state(), State::Aborted, "{timer:?}");
    }
}

#[test]
fn a_delegation_in_the_log_is_recalled_by_an_order_to_abort() {
    let mut committed = recalling();
    committed.awaits(1, Wait::Decided).acknowledges("a", BranchResult::HeuristicCommitted);
    assert_eq!((committed.told(1), committed.state()), (Some(Outcome::Committed), State::Committed));
    assert_eq!(committed.branch("a"), BranchState::Committed, "it did as it was told in the end");
    assert_eq!(committed.ended().map(|ended| ended.outcome), Some(Outcome::Committed));

    let mut aborted = recalling();
    aborted.awaits(1, Wait::Decided).acknowledges("a", BranchResult::Done);
    assert_eq!((aborted.told(1), aborted.state()), (Some(Outcome::Aborted), State::Aborted));
    assert_eq!(aborted.machine.reason().map(|reason| reason.code), Some(AbortCode::Forgotten));
}

#[test]
fn callers_wait_for_the_branch_while_its_delegation_is_recalled() {
    let mut driven = recalling();
    driven.commit(&Commit::one_phase(&["a"]).repeated()).aborts(3).awaits(4, Wait::Decided).fires(Timer::Deadline);
    assert_eq!((driven.told(2), driven.told(3), driven.told(4)), (None, None, None));
    driven.votes("a", unknown());
    assert_eq!((driven.orders(), driven.state()), (vec!["a: abort".to_owned()], State::Recalling));
    driven.votes("a", no());
    assert_eq!((driven.orders(), driven.state()), (vec!["a: abort".to_owned()], State::Recalling), "of one instance");
    driven.joins("a");
    assert_eq!(driven.orders(), ["a: abort"]);
    driven.fires(Timer::Resend);
    assert_eq!(driven.orders(), ["a: abort"]);
    // The order to abort met the hook at work, which has committed.
    driven.votes("a", Vote::Committed);
    let all = [driven.told(2), driven.told(3), driven.told(4)];
    assert_eq!(all, [Some(Outcome::Committed); 3]);
}

#[test]
fn another_body_is_refused_while_a_delegation_is_recalled() {
    let mut driven = recalling();
    driven.commit(&Commit { digest: BodyDigest(8), ..Commit::one_phase(&["a"]) });
    assert_eq!(driven.answer(1), Some(&Reply::Refused(crate::reason::Refusal::KeyReused)));
}

#[test]
fn a_branch_that_committed_by_itself_counts_as_a_yes_among_several() {
    let mut driven = Driven::begun();
    driven.commit(&Commit::of(&["a", "b"]).repeated()).votes("a", Vote::Committed).votes("b", Vote::Yes);
    assert_eq!(driven.forced().map(|decided| decided.members.clone()), Some(vec![driven.member("b")]));
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
    let mut driven = absent();
    driven.votes("a", no());
    assert_eq!(driven.state(), State::OnePhase);
}
