//! Orders to end never wait behind work.

use super::*;
use crate::three_phase::{Seat, StoreId};

/// So many branches prepare, each in a place of its own; the first of them has voted.
fn busy(hooks_max: usize, waiters: u8) -> Process {
    let mut process = Process::joined(Config { hooks_max, ..config() });
    process.hears(prepare(key(0)));
    assert_eq!(process.calls(), [(key(0), prepare_hook())]);
    process.votes_yes(key(0));
    for number in 1..=waiters {
        process.hears(prepare(key(number)));
        assert_eq!(process.calls(), [(key(number), prepare_hook())]);
    }
    process
}

#[test]
fn a_commit_does_not_wait_behind_prepares_that_wait_for_its_lock() {
    let mut process = busy(2, 2);
    process.hears(commit(key(0)));
    assert_eq!(process.calls(), [(key(0), Hook::Commit)]);
    process.ends(key(0));
    assert!(matches!(process.reports(key(0)), Message::Acknowledge(_)));
}

#[test]
fn work_waits_for_a_place_in_the_order_in_which_it_came() {
    let mut process = busy(1, 1);
    for number in [5, 3, 4] {
        process.hears(prepare(key(number)));
    }
    assert_eq!(process.calls(), []);
    for (finished, next) in [(1, 5), (5, 3), (3, 4)] {
        process.votes_yes(key(finished));
        assert_eq!(process.calls(), [(key(next), prepare_hook())]);
    }
    process.votes_yes(key(4));
    assert_eq!(process.agent.hooks_running(), 0);
}

#[test]
fn an_end_takes_back_a_prepare_that_waits_for_a_place() {
    for (order, hook) in [(abort(key(2)), Hook::Abort), (commit(key(2)), Hook::Commit)] {
        let mut process = busy(1, 1);
        process.hears(prepare(key(2)));
        process.hears(order);
        assert_eq!(process.calls(), [(key(2), hook)]);
        // The place is free for others, and the prepare is not called any more.
        process.votes_yes(key(1));
        assert_eq!(process.calls(), []);
        process.hears(prepare(key(3)));
        assert_eq!(process.calls(), [(key(3), prepare_hook())]);
    }
}

#[test]
fn an_end_of_a_lower_epoch_takes_nothing_back() {
    let mut process = busy(1, 1);
    process.hears(prepare_under(Epoch(EPOCH.0 + 1), key(2), None));
    process.hears(abort(key(2)));
    assert_eq!(process.calls(), []);
    process.votes_yes(key(1));
    assert_eq!(process.calls(), [(key(2), prepare_hook())]);
}

#[test]
fn an_abort_takes_back_a_prepare_of_three_phases_too() {
    let mut process = Process::joined(Config { has_voter: true, ..config() });
    process.hears(prepare(key(1)));
    assert_eq!(process.calls(), [(key(1), prepare_hook())]);
    let seat = Seat {
        participant: "bank-a".parse().expect("a name"),
        branch: BRANCH,
        address: "http://127.0.0.1:1".parse().expect("an address"),
        store: StoreId(1),
    };
    let roster = Roster::new(vec![seat], StoreId(7)).expect("a roster");
    process.hears(prepare_under(EPOCH, key(2), Some(roster)));
    assert_eq!(process.agent.take_lookups().collect::<Vec<_>>(), [gtid(2)]);
    process.take(Input::LookedUp { gtid: gtid(2), record: None, is_forgotten: false });
    assert_eq!(process.calls(), []);
    process.hears(abort(key(2)));
    process.take(Input::LookedUp { gtid: gtid(2), record: None, is_forgotten: false });
    assert_eq!(process.calls(), [(key(2), Hook::Abort)]);
    process.votes_yes(key(1));
    assert_eq!(process.calls(), []);
}

#[test]
fn a_process_that_shuts_down_finishes_its_hooks_and_takes_no_more_work() {
    let mut process = busy(2, 1);
    process.take(Input::ShutDown);
    process.hears(prepare(key(2)));
    assert_eq!(process.calls(), []);
    process.hears(commit(key(0)));
    assert_eq!(process.calls(), [(key(0), Hook::Commit)]);
    process.ends(key(0));
    assert!(!process.agent.is_at_rest(), "a prepare hook runs");
    process.take(Input::HookReturned { key: key(1), returned: Returned::Prepare(Vote::Yes) });
    assert!(process.agent.is_at_rest());
}
