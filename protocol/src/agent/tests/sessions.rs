//! Over which session a message goes, and how large a frame is.

use super::*;
use crate::message::{Ask, Commit, Expected};
use crate::reason::Wait;
use crate::record::Protocol;
use crate::two_phase::CarriedBranch;

const OTHER: SessionId = SessionId(2);

fn is_yes(said: &[FromClient], of: BranchKey) -> bool {
    said == [FromClient::branch(of.gtid, of.id, Message::Vote(Vote::Yes))]
}

fn is_inquiry(said: &[FromClient], of: BranchKey) -> bool {
    said == [FromClient::branch(of.gtid, of.id, Message::Inquire)]
}

fn prepares(process: &mut Process, key: BranchKey) {
    process.hears(prepare(key));
    process.calls();
    process.take(Input::HookReturned { key, returned: Returned::Prepare(Vote::Yes) });
}

#[test]
fn a_vote_goes_where_the_order_came_from() {
    let mut process = Process::joined(config());
    process.opens(OTHER, Epoch(8));
    process.take(Input::Message { session: OTHER, message: prepare_under(Epoch(8), key(1), None) });
    process.calls();
    process.take(Input::HookReturned { key: key(1), returned: Returned::Prepare(Vote::Yes) });
    assert!(process.says().is_empty());
    assert!(is_yes(&process.says_over(OTHER), key(1)));
}

#[test]
fn a_vote_whose_session_is_gone_goes_over_the_next_one() {
    let mut process = Process::joined(config());
    process.hears(prepare(key(1)));
    process.take(Input::SessionClosed(SESSION));
    process.opens(OTHER, Epoch(8));
    process.take(Input::HookReturned { key: key(1), returned: Returned::Prepare(Vote::Yes) });
    assert!(is_yes(&process.says_over(OTHER), key(1)));
}

#[test]
fn an_order_of_a_lower_epoch_leaves_the_session_as_it_is() {
    let mut process = Process::joined(config());
    process.opens(OTHER, Epoch(6));
    process.hears(prepare(key(1)));
    process.take(Input::Message { session: OTHER, message: prepare_under(Epoch(6), key(1), None) });
    process.take(Input::HookReturned { key: key(1), returned: Returned::Prepare(Vote::Yes) });
    assert!(process.says_over(OTHER).is_empty());
    assert!(is_yes(&process.says(), key(1)));
}

#[test]
fn a_branch_in_doubt_asks_every_replica() {
    let mut process = Process::joined(config());
    process.opens(OTHER, Epoch(8));
    prepares(&mut process, key(1));
    process.says();
    process.fires(Timer::Branch(key(1), crate::three_phase::participant::Timer::Branch(crate::branch::Timer::Inquire)));
    for session in [SESSION, OTHER] {
        assert!(is_inquiry(&process.says_over(session), key(1)));
    }
}

#[test]
fn every_branch_in_doubt_asks_over_a_new_session_in_order() {
    let mut process = Process::joined(Config { hooks_max: 9, ..config() });
    for number in [3, 1, 2] {
        prepares(&mut process, key(number));
    }
    process.hears(prepare(key(4)));
    process.take(Input::SessionClosed(SESSION));
    process.opens(OTHER, Epoch(8));
    let inquiries = [1, 2, 3].map(|number| FromClient::branch(gtid(number), BRANCH, Message::Inquire));
    assert_eq!(process.says_over(OTHER), inquiries);
}

#[test]
fn a_frame_is_closed_before_it_is_too_large() {
    let mut process = Process::joined(config());
    let large = || CarriedBranch { participant: "bank-b".parse().expect("a name"), payload: vec![0; 400_000].into() };
    for number in 0..5 {
        let ask = Ask::Commit(Commit {
            branches: vec![large()],
            attempt: 1,
            begun: false,
            timeout_ms: 0,
            wait: Wait::Decided,
            protocol: Protocol::TwoPhase,
            first_epoch: None,
            expected: Expected::Anything,
        });
        process.take(Input::Asked { ticket: Ticket(number.into()), gtid: gtid(number), ask });
    }
    let frames: Vec<usize> = (0..4).map(|_| process.says().len()).collect();
    assert_eq!(frames, [2, 2, 1, 0]);
}
