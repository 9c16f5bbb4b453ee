//! Any events at all for a participant's branch.

use bytes::Bytes;

use super::{Branch, Event, HookEnd, Timer, invariant};
use crate::fuzz::{Story, Tape, gtid};
use crate::two_phase::BranchResult;
use crate::two_phase::fuzz::vote;

/// Drives a branch with what the bytes say, and checks every invariant after each event.
///
/// # Panics
/// If one breaks.
pub fn branch(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    let mut story = Story::new();
    let mut branch = if tape.one_in(3) {
        let (branch, output) = Branch::in_doubt(gtid());
        invariant::check_in_doubt(&branch, &output).expect("sound");
        branch
    } else {
        let first = event(tape);
        story.then(first.clone());
        let (branch, output) = Branch::meet(gtid(), first.clone());
        invariant::check(None, &first, &branch, &output).expect("sound");
        branch
    };
    while !tape.is_over() {
        let event = event(tape);
        story.then(event.clone());
        let before = branch.clone();
        let output = branch.handle(event.clone());
        if let Err(violation) = invariant::check(Some(&before), &event, &branch, &output) {
            panic!("{violation}\nbefore: {before:?}\nevent: {event:?}\nafter: {branch:?}\noutput: {output:?}");
        }
    }
}

fn event(tape: &mut Tape<'_>) -> Event {
    match tape.below(10) {
        0 | 1 => Event::PrepareOrdered {
            epoch: tape.epoch(),
            payload: Bytes::from_static(b"payload"),
            one_phase: tape.one_in(2),
        },
        2 | 3 => Event::Decided { epoch: tape.epoch(), decision: tape.decision() },
        4 | 5 => Event::PrepareFinished(vote(tape)),
        6 | 7 => Event::EndFinished(hook_end(tape)),
        8 => Event::TimerFired(Timer::Retry),
        9 => Event::SessionUp,
        _ => Event::TimerFired(Timer::Inquire),
    }
}

/// How a hook may end.
pub(crate) fn hook_end(tape: &mut Tape<'_>) -> HookEnd {
    match tape.below(6) {
        0..3 => HookEnd::Ended(BranchResult::Done),
        3 => HookEnd::Ended(BranchResult::HeuristicCommitted),
        4 => HookEnd::Ended(BranchResult::HeuristicAborted),
        _ => HookEnd::Failed(tape.text()),
    }
}
