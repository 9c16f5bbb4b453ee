//! Requests across sessions: which attempt they are, under which epoch, and when they are given up.

use super::*;
use crate::message::{Ask, Commit, Expected, Reason, Refused, Reply, Request};
use crate::reason::Wait;
use crate::record::{Outcome, Protocol};
use crate::two_phase::EarlyVote;

const TICKET: Ticket = Ticket(3);

fn commit_of(attempt: u32, first_epoch: Option<Epoch>) -> Ask {
    Ask::Commit(Commit {
        branches: Vec::new(),
        attempt,
        begun: true,
        timeout_ms: 0,
        wait: Wait::Decided,
        protocol: Protocol::TwoPhase,
        first_epoch,
        expected: Expected::Anything,
    })
}

fn asks_to_commit(process: &mut Process) {
    process.take(Input::Asked { ticket: TICKET, gtid: gtid(1), ask: commit_of(1, None) });
}

fn is_commit(said: &[FromClient], attempt: u32, first_epoch: Epoch) {
    let request = Request { request_id: TICKET.0, gtid: gtid(1), ask: commit_of(attempt, Some(first_epoch)) };
    assert_eq!(said, [FromClient::Request(request)]);
}

fn refused(process: &mut Process, reason: Reason) {
    let refused: Refused = reason.refused("no");
    process.hears(FromReplica::Reply { request_id: TICKET.0, reply: Reply::Refused(refused) });
}

#[test]
fn a_request_that_was_never_written_is_still_the_first_attempt() {
    let mut process = Process::joined(config());
    asks_to_commit(&mut process);
    process.take(Input::SessionClosed(SESSION));
    process.opens(SessionId(2), Epoch(8));
    is_commit(&process.says_over(SessionId(2)), 1, Epoch(8));
}

#[test]
fn a_request_without_a_session_waits_for_one() {
    let mut process = Process::new(config());
    asks_to_commit(&mut process);
    process.opens(SESSION, EPOCH);
    is_commit(&process.says(), 1, EPOCH);
    assert!(process.says().is_empty(), "it is written once");
}

#[test]
fn a_request_that_was_written_is_a_further_attempt_under_its_first_epoch() {
    let mut process = Process::joined(config());
    asks_to_commit(&mut process);
    is_commit(&process.says(), 1, EPOCH);
    for (session, attempt) in [(2, 2), (3, 3)] {
        process.take(Input::SessionClosed(SessionId(session - 1)));
        process.opens(SessionId(session), Epoch(7 + session));
        is_commit(&process.says_over(SessionId(session)), attempt, EPOCH);
    }
}

#[test]
fn one_that_was_queued_over_a_session_between_counts_its_written_attempts_alone() {
    let mut process = Process::joined(config());
    asks_to_commit(&mut process);
    is_commit(&process.says(), 1, EPOCH);
    process.take(Input::SessionClosed(SESSION));
    process.opens(SessionId(2), Epoch(8));
    process.take(Input::SessionClosed(SessionId(2)));
    process.opens(SessionId(3), Epoch(9));
    is_commit(&process.says_over(SessionId(3)), 2, EPOCH);
}

#[test]
fn a_request_that_a_leaving_replica_refuses_is_asked_for_the_first_time_elsewhere() {
    let mut process = Process::joined(config());
    asks_to_commit(&mut process);
    process.says();
    refused(&mut process, Reason::Draining);
    assert_eq!(process.answers(), []);
    process.take(Input::SessionClosed(SESSION));
    process.opens(SessionId(2), Epoch(8));
    is_commit(&process.says_over(SessionId(2)), 1, Epoch(8));
    process.fires(Timer::Request(TICKET));
    assert!(process.says_over(SessionId(2)).is_empty(), "it waits for its answer");
}

#[test]
fn a_first_attempt_that_is_refused_is_told() {
    let mut process = Process::joined(config());
    asks_to_commit(&mut process);
    process.says();
    refused(&mut process, Reason::Overloaded);
    assert!(matches!(process.answers().as_slice(), [(TICKET, Answer::Reply(Reply::Refused(_)))]));
}

#[test]
fn a_later_attempt_that_is_refused_for_the_moment_is_asked_again() {
    let mut process = Process::joined(config());
    asks_to_commit(&mut process);
    process.says();
    process.take(Input::SessionClosed(SESSION));
    process.opens(SessionId(2), Epoch(8));
    is_commit(&process.says_over(SessionId(2)), 2, EPOCH);
    process.timers();
    for reason in [Reason::Overloaded, Reason::Draining] {
        refused(&mut process, reason);
        assert_eq!(process.answers(), [], "the first attempt may have taken effect");
        assert!(matches!(
            process.timers().as_slice(),
            [TimerChange::Set { timer: Timer::Request(TICKET), after_ms: 50..=5_000, .. }]
        ));
        assert!(process.says_over(SessionId(2)).is_empty(), "it waits");
        process.fires(Timer::Request(TICKET));
        is_commit(&process.says_over(SessionId(2)), 2, EPOCH);
    }
    refused(&mut process, Reason::KeyReused);
    assert!(matches!(process.answers().as_slice(), [(TICKET, Answer::Reply(Reply::Refused(_)))]));
}

#[test]
fn a_request_that_is_given_up_is_not_written() {
    let mut process = Process::joined(config());
    asks_to_commit(&mut process);
    process.take(Input::GivenUp(TICKET));
    assert!(process.says().is_empty());
    let reply = Reply::Outcome { outcome: Outcome::Committed, reason: None, outputs: Vec::new() };
    process.hears(FromReplica::Reply { request_id: TICKET.0, reply });
    assert_eq!(process.answers(), []);
}

#[test]
fn an_enlistment_is_written_once() {
    let mut process = Process::joined(config());
    process.take(Input::Prepared { ticket: TICKET, key: key(1), vote: EarlyVote::Yes });
    process.take(Input::SessionClosed(SESSION));
    assert_eq!(process.answers(), [], "it was never written");
    process.opens(SessionId(2), EPOCH);
    let enlist = FromClient::request(TICKET.0, gtid(1), Ask::Enlist { branch: BRANCH, vote: EarlyVote::Yes });
    assert!(process.says_over(SessionId(2)).contains(&enlist));
    process.take(Input::SessionClosed(SessionId(2)));
    assert_eq!(process.answers(), [(TICKET, Answer::Lost)]);
    process.opens(SessionId(3), EPOCH);
    assert!(!process.says_over(SessionId(3)).contains(&enlist));
}

#[test]
fn the_same_branch_is_enlisted_once() {
    let mut process = Process::joined(config());
    process.take(Input::Prepared { ticket: TICKET, key: key(1), vote: EarlyVote::Yes });
    process.take(Input::Prepared { ticket: Ticket(4), key: key(1), vote: EarlyVote::Yes });
    assert_eq!(process.answers(), [(Ticket(4), Answer::Known)]);
    assert_eq!(process.says().len(), 1);
}

#[test]
fn what_is_told_is_lost_without_a_session() {
    let mut process = Process::new(config());
    let ask = || Ask::Abort { reason: "enough".into() };
    process.take(Input::Told { ticket: TICKET, gtid: gtid(1), ask: ask() });
    process.opens(SESSION, EPOCH);
    assert!(process.says().is_empty());
    process.take(Input::Told { ticket: TICKET, gtid: gtid(1), ask: ask() });
    assert_eq!(process.says(), [FromClient::request(TICKET.0, gtid(1), ask())]);
}
