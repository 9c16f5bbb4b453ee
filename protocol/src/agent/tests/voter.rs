//! Branches with a voter: their records, and the order of questions.

use std::sync::Arc;

use super::super::{Asked, Notice, Question};
use super::*;
use crate::message::VoterMessage;
use crate::record::Decision;
use crate::three_phase::{
    Answer as Said, Ballot, Proposal, Request, Seat, StoreId, VoterName, VoterRecord, VoterState,
};

fn me() -> VoterName {
    VoterName::Participant("bank-a".parse().expect("a name"))
}

fn roster() -> Roster {
    let seat = |name: &str, branch| Seat {
        participant: name.parse().expect("a name"),
        branch,
        address: "http://127.0.0.1:1".parse().expect("an address"),
        store: StoreId(1),
    };
    let other = BranchId { number: 32, ..BRANCH };
    Roster::new(vec![seat("bank-a", BRANCH), seat("bank-b", other)], StoreId(7)).expect("a roster")
}

fn record(number: u8, state: VoterState) -> Arc<VoterRecord> {
    let (roster, is_read_only) = (Some(roster()), false);
    Arc::new(VoterRecord { gtid: gtid(number), voter: me(), roster, is_read_only, state, before: None })
}

fn with_voter() -> Process {
    Process::joined(Config { has_voter: true, hooks_max: 9, ..config() })
}

fn questions(process: &mut Process) -> Vec<Question> {
    process.agent.take_questions().collect()
}

fn looked_up(process: &mut Process, record: Option<Arc<VoterRecord>>) {
    assert_eq!(process.agent.take_lookups().collect::<Vec<_>>(), [gtid(1)]);
    process.take(Input::LookedUp { gtid: gtid(1), record, is_forgotten: false });
}

fn answered(process: &mut Process, question: Question, answer: Said, state: VoterState) {
    let asked = Asked { answer, kept: Some(record(1, state)), has_changed: true };
    process.take(Input::VoterAnswered { question, asked: Some(asked) });
}

/// Branch 1 votes yes in three phases.
fn voted() -> Process {
    let mut process = with_voter();
    process.hears(prepare_under(EPOCH, key(1), Some(roster())));
    looked_up(&mut process, None);
    assert_eq!(process.calls(), [(key(1), prepare_hook())]);
    process.take(Input::HookReturned { key: key(1), returned: Returned::Prepare(Vote::Yes) });
    assert!(process.says().is_empty(), "its vote is not durable");
    let [vote] = questions(&mut process).try_into().expect("one question");
    answered(&mut process, vote, Said::VotedYes { is_read_only: false }, VoterState::WAITING);
    assert_eq!(process.reports(key(1)), Message::Vote(Vote::Yes));
    process
}

fn propose() -> Request {
    Request::Propose { ballot: Ballot::FIRST, proposal: Proposal::PreCommit }
}

#[test]
fn an_outcome_waits_for_the_acceptance_that_is_under_way() {
    let mut process = voted();
    process.hears(FromReplica::AskVoter { gtid: gtid(1), request: propose() });
    process.hears(commit(key(1)));
    let [proposal] = questions(&mut process).try_into().expect("the coordinator's question alone");
    assert_eq!((&proposal.from, &proposal.request), (&VoterName::Log, &propose()));
    answered(&mut process, proposal, Said::Accepted { ballot: Ballot::FIRST }, VoterState::ATTEMPTED);
    let accepted = VoterMessage::Answered(Said::Accepted { ballot: Ballot::FIRST });
    assert_eq!(process.says(), [FromClient::voter(gtid(1), accepted)]);
    let [outcome] = questions(&mut process).try_into().expect("the branch's question");
    assert_eq!((&outcome.from, &outcome.request), (&me(), &Request::Decided(Decision::Commit)));
    assert_eq!(process.calls(), [], "the outcome is not kept");
    let committed = VoterState { standing: crate::three_phase::Standing::Committed, ..VoterState::ATTEMPTED };
    answered(&mut process, outcome, Said::Ended(Decision::Commit), committed);
    assert_eq!(process.calls(), [(key(1), Hook::Commit)]);
}

#[test]
fn a_question_of_the_coordinator_that_fails_holds_up_no_other() {
    let mut process = voted();
    process.hears(FromReplica::AskVoter { gtid: gtid(1), request: propose() });
    process.hears(commit(key(1)));
    let [question] = questions(&mut process).try_into().expect("one question");
    process.take(Input::VoterAnswered { question, asked: None });
    assert!(process.says().is_empty(), "the coordinator asks again");
    let [outcome] = questions(&mut process).try_into().expect("the branch's question");
    assert_eq!(outcome.from, me());
}

#[test]
fn an_order_waits_for_the_record_of_another_instance() {
    let mut process = with_voter();
    process.hears(prepare_under(EPOCH, key(1), Some(roster())));
    process.hears(commit(key(1)));
    assert_eq!(process.calls(), []);
    looked_up(&mut process, Some(record(1, VoterState::WAITING)));
    assert_eq!(process.reports(key(1)), Message::Vote(Vote::Yes), "the other instance has voted");
    assert_eq!(process.calls(), []);
    assert_eq!(questions(&mut process)[0].request, Request::Decided(Decision::Commit));
}

#[test]
fn an_order_to_prepare_that_comes_after_everything_else_is_dropped() {
    let mut process = with_voter();
    process.hears(prepare_under(EPOCH, key(1), Some(roster())));
    process.take(Input::LookedUp { gtid: gtid(1), record: None, is_forgotten: true });
    assert_eq!(process.calls(), []);
    assert!(process.agent.branches().is_empty());
}

#[test]
fn a_branch_that_was_left_after_a_vote_in_three_phases_is_taken_up_by_its_record() {
    let mut process = with_voter();
    for _ in 0..2 {
        process.fires(Timer::Look);
        process.take(Input::Listed(Some(vec![key(1)])));
    }
    assert!(process.agent.branches().is_empty(), "its record is not known");
    looked_up(&mut process, Some(record(1, VoterState::WAITING)));
    let notices: Vec<Notice> = process.agent.take_notices().collect();
    assert_eq!(notices, [Notice::LeftPrepared { key: key(1), has_voted: true }]);
    assert_eq!(process.reports(key(1)), Message::Inquire);
    process.hears(commit(key(1)));
    assert_eq!(questions(&mut process)[0].request, Request::Decided(Decision::Commit), "its voter is asked first");
}

#[test]
fn a_participant_votes_for_one_branch_of_a_transaction() {
    let mut process = voted();
    let other = BranchKey { id: BranchId { number: 99, ..BRANCH }, ..key(1) };
    process.hears(prepare_under(EPOCH, other, Some(roster())));
    looked_up(&mut process, Some(record(1, VoterState::WAITING)));
    assert!(matches!(process.reports(other), Message::Vote(Vote::No(_))));
}

#[test]
fn a_refusal_without_a_roster_is_of_the_branch_that_votes() {
    let mut process = with_voter();
    process.hears(prepare_under(EPOCH, key(1), Some(roster())));
    looked_up(&mut process, None);
    process.calls();
    let other = BranchKey { id: BranchId { number: 99, ..BRANCH }, ..key(1) };
    process.hears(prepare_under(EPOCH, other, Some(roster())));
    let refusal = VoterRecord { roster: None, ..VoterRecord::clone(&record(1, VoterState::REFUSED)) };
    looked_up(&mut process, Some(Arc::new(refusal)));
    assert!(matches!(process.reports(other), Message::Vote(Vote::No(_))));
    assert_eq!(process.agent.branches(), [key(1)]);
}

#[test]
fn without_a_voter_it_votes_no_in_three_phases() {
    let mut process = Process::joined(config());
    process.hears(prepare_under(EPOCH, key(1), Some(roster())));
    assert!(matches!(process.reports(key(1)), Message::Vote(Vote::No(_))));
    assert_eq!(process.calls(), []);
}

#[test]
fn an_ended_record_that_is_kept_too_long_is_told_to_the_log() {
    let mut process = with_voter();
    process.fires(Timer::Kept);
    assert!(process.agent.take_reading());
    let committed = VoterState { standing: crate::three_phase::Standing::Committed, ..VoterState::ATTEMPTED };
    let young = VoterRecord { gtid: young_gtid(process.now_ms), ..VoterRecord::clone(&record(1, committed)) };
    process.take(Input::RecordsRead(vec![VoterRecord::clone(&record(1, committed)), young]));
    let message = VoterMessage::AskLog { branch: BRANCH, request: Request::Decided(Decision::Commit) };
    assert_eq!(process.says(), [FromClient::voter(gtid(1), message)]);
    process.hears(FromReplica::ForgetVoters { gtids: vec![gtid(1)] });
    assert_eq!(process.agent.take_forgotten().collect::<Vec<_>>(), [gtid(1)]);
}

#[test]
fn an_end_of_a_branch_that_was_found_follows_the_vote_of_another_instance() {
    let mut process = with_voter();
    for _ in 0..2 {
        process.fires(Timer::Look);
        process.take(Input::Listed(Some(vec![key(1)])));
    }
    looked_up(&mut process, None);
    process.says();
    // Another instance is asked to prepare it in three phases, and votes.
    process.hears(commit(key(1)));
    assert_eq!(process.calls(), [], "its voter may have voted");
    looked_up(&mut process, Some(record(1, VoterState::WAITING)));
    assert_eq!(questions(&mut process)[0].request, Request::Decided(Decision::Commit), "its voter is asked first");
    assert_eq!(process.calls(), []);
}

#[test]
fn a_refusal_of_the_voter_ends_a_branch_that_was_prepared_early() {
    let mut process = with_voter();
    process.take(Input::Prepared { ticket: Ticket(1), key: key(1), vote: crate::two_phase::EarlyVote::Yes });
    let from = VoterName::Participant("bank-b".parse().expect("a name"));
    let ballot = Ballot { round: 2, ..Ballot::FIRST };
    let request = Request::Join { ballot, roster: roster(), has_voted: false };
    let refusal = VoterRecord { roster: None, ..VoterRecord::clone(&record(1, VoterState::REFUSED)) };
    let asked = Asked { answer: Said::Ended(Decision::Abort), kept: Some(Arc::new(refusal)), has_changed: true };
    process.take(Input::Overheard { gtid: gtid(1), overheard: super::super::Overheard { from, request, asked } });
    assert_eq!(process.calls(), [(key(1), Hook::Abort)]);
}

#[test]
fn records_are_read_again_and_again() {
    let mut process = Process::new(Config { has_voter: true, ..config() });
    process.take(Input::Found { doubts: Vec::new(), records: Vec::new() });
    for _ in 0..3 {
        let is_set = |change: &TimerChange| matches!(change, TimerChange::Set { timer: Timer::Kept, .. });
        assert!(process.timers().iter().any(is_set));
        process.fires(Timer::Kept);
        assert!(process.agent.take_reading());
    }
}

#[test]
fn an_old_vote_of_an_instance_that_is_gone_is_taken_up() {
    let mut process = with_voter();
    let young = VoterRecord { gtid: young_gtid(process.now_ms), ..VoterRecord::clone(&record(1, VoterState::WAITING)) };
    process.take(Input::RecordsRead(vec![VoterRecord::clone(&record(1, VoterState::WAITING)), young]));
    assert_eq!(process.reports(key(1)), Message::Inquire);
    assert_eq!(process.agent.branches(), [key(1)], "the young one is at work in its instance");
}

fn young_gtid(now_ms: u64) -> Gtid {
    let mut bytes = *gtid(1).as_bytes();
    bytes[..6].copy_from_slice(&now_ms.to_be_bytes()[2..]);
    Gtid::from_bytes(&bytes).expect("valid")
}
