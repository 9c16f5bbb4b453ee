//! Any events at all for the coordinator's machine of two phases.

use bytes::Bytes;

use super::{BranchResult, CarriedBranch, EarlyVote, Event, Patience, Route, Timer, TwoPhase, Vote, invariant};
use crate::fuzz::{Story, Tape, gtid, waits_for_log};
use crate::record::{Decided, Delegated, Protocol};

/// Drives a machine with what the bytes say, and checks every invariant after each event.
///
/// # Panics
/// If one breaks.
pub fn two_phase(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    let (mut machine, output) = match tape.below(9) {
        0..5 => TwoPhase::begin(gtid(), tape.epoch(), tape.number(), patience(tape)),
        5 => TwoPhase::recover(&decided(tape), tape.epoch()),
        6 => TwoPhase::presume_abort(gtid(), tape.epoch(), tape.number(), tape.participant(), tape.instance()),
        7 => TwoPhase::recover_delegated(&delegated(tape), tape.epoch()),
        _ => TwoPhase::forgotten(gtid(), tape.epoch(), tape.number(), tape.digest()),
    };
    invariant::check_begun(&machine, &output).expect("sound");
    let mut is_appending = waits_for_log(&output);
    let mut story = Story::new();
    while !tape.is_over() {
        let event = if is_appending && tape.one_in(3) {
            is_appending = false;
            Event::Appended(tape.appended(gtid()))
        } else {
            event(tape)
        };
        story.then(event.clone());
        let before = machine.clone();
        let output = machine.handle(event.clone());
        if let Err(violation) = invariant::check(&before, &event, &machine, &output) {
            panic!("{violation}\nbefore: {before:?}\nevent: {event:?}\noutput: {output:?}");
        }
        if waits_for_log(&output) {
            assert!(!is_appending, "two forced records of one transaction are on their way: {event:?} in {before:?}");
            is_appending = true;
        }
    }
}

pub(crate) fn patience(tape: &mut Tape<'_>) -> Patience {
    Patience { timeout_ms: tape.number(), absence_ms: tape.number() }
}

/// A row that says anything.
pub(crate) fn decided(tape: &mut Tape<'_>) -> Decided {
    Decided {
        gtid: gtid(),
        protocol: tape.pick(&[Protocol::TwoPhase, Protocol::ThreePhase, Protocol::Saga]),
        decision: tape.decision(),
        participants: tape.participants(),
        digest: tape.digest(),
        begun_at_ms: tape.number(),
        reason: tape.one_in(2).then(|| tape.text()),
    }
}

fn delegated(tape: &mut Tape<'_>) -> Delegated {
    Delegated { gtid: gtid(), participant: tape.participant(), digest: tape.digest(), begun_at_ms: tape.number() }
}

/// Anything but the log's word.
pub(crate) fn event(tape: &mut Tape<'_>) -> Event {
    match tape.below(20) {
        0 => Event::BeginRequested { caller: tape.caller() },
        1 | 2 => Event::Enlisted {
            participant: tape.participant(),
            instance: tape.instance(),
            vote: tape.pick(&[EarlyVote::Yes, EarlyVote::ReadOnly]),
            caller: tape.caller(),
        },
        3 => Event::BranchNamed { branch: carried(tape), caller: tape.caller() },
        4 | 5 => Event::CommitRequested {
            branches: (0..tape.below(4)).map(|_| carried(tape)).collect(),
            digest: tape.digest(),
            one_phase: tape.one_in(2),
            may_recur: tape.one_in(2),
            caller: tape.caller(),
            wait: tape.wait(),
        },
        6 => Event::AbortRequested { reason: tape.text(), caller: tape.caller() },
        7 => Event::OutcomeAwaited { caller: tape.caller(), wait: tape.wait() },
        8 => Event::CallerLeft { session: tape.caller().session },
        9 | 10 => {
            let to = match tape.below(4) {
                0 => Route::Absent,
                1 => Route::Unknown,
                _ => Route::Instance(tape.instance()),
            };
            Event::Routed { participant: tape.participant(), to }
        }
        11..14 => Event::Voted { participant: tape.participant(), instance: tape.instance(), vote: vote(tape) },
        14 | 15 => {
            let all = [
                BranchResult::Done,
                BranchResult::Done,
                BranchResult::HeuristicCommitted,
                BranchResult::HeuristicAborted,
            ];
            Event::Acknowledged { participant: tape.participant(), result: tape.pick(&all) }
        }
        16 => Event::Inquired { participant: tape.participant(), instance: tape.instance() },
        17 => Event::Joined { participant: tape.participant() },
        18 => Event::Left { participant: tape.participant(), instance: tape.instance() },
        _ => Event::TimerFired(tape.pick(&[Timer::Deadline, Timer::Absence, Timer::Resend])),
    }
}

fn carried(tape: &mut Tape<'_>) -> CarriedBranch {
    CarriedBranch { participant: tape.participant(), payload: Bytes::from_static(b"payload") }
}

/// A vote as a peer may send it, rather a yes.
pub(crate) fn vote(tape: &mut Tape<'_>) -> Vote {
    match tape.below(8) {
        0..4 => Vote::Yes,
        4 => Vote::ReadOnly,
        5 => Vote::No(tape.text()),
        6 => Vote::Unknown(tape.text()),
        _ => Vote::Committed,
    }
}
