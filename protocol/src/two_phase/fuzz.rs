//! Any events at all for the coordinator's machine of two phases.

use bytes::Bytes;

use super::{CarriedBranch, EarlyVote, Event, Patience, Route, State, Timer, TwoPhase, Vote, invariant};
use crate::branch;
use crate::fuzz::{Story, Tape, gtid, waits_for_log};
use crate::ids::Epoch;
use crate::record::{Decided, Decision, Delegated, Member, Protocol};

/// Drives a machine with what the bytes say, and checks every invariant after each event.
///
/// # Panics
/// If one breaks.
pub fn two_phase(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    let (mut machine, output) = match tape.below(9) {
        0..5 => TwoPhase::begin(gtid(), tape.epoch(), tape.number(), patience(tape)),
        5 => TwoPhase::recover(&decided(tape), tape.epoch()),
        6 => TwoPhase::presume_abort(gtid(), tape.epoch(), tape.number(), any_member(tape), tape.instance()),
        7 => TwoPhase::recover_delegated(&delegated(tape), tape.epoch()),
        _ => TwoPhase::forgotten(gtid(), tape.epoch(), tape.number(), "lost"),
    };
    invariant::check_begun(&machine, &output).expect("sound");
    let mut is_appending = waits_for_log(&output);
    let mut story = Story::new();
    while !tape.is_over() {
        let event = if is_appending && tape.one_in(3) {
            is_appending = false;
            Event::Appended(tape.appended(gtid(), machine.members()))
        } else {
            event(tape, &machine)
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
        members: tape.members(),
        digest: tape.digest(),
        begun_at_ms: tape.number(),
        reason: tape.one_in(2).then(|| tape.text()),
    }
}

fn delegated(tape: &mut Tape<'_>) -> Delegated {
    Delegated { gtid: gtid(), member: any_member(tape), digest: tape.digest(), begun_at_ms: tape.number() }
}

pub(crate) fn any_member(tape: &mut Tape<'_>) -> Member {
    Member { participant: tape.participant(), branch: tape.branch_id() }
}

/// A participant's branch, rather the one in the roster than another of the same name.
pub(crate) fn member(tape: &mut Tape<'_>, machine: &TwoPhase) -> Member {
    let drawn = any_member(tape);
    match machine.position(&drawn.participant) {
        Some(position) if !tape.one_in(4) => machine.branches()[position].member(),
        Some(_) | None => drawn,
    }
}

/// An answer to an order, rather to the one that the machine gives.
fn acknowledgement(tape: &mut Tape<'_>, machine: &TwoPhase) -> branch::Acknowledgement {
    let ordered = if machine.state() == State::Committing { Decision::Commit } else { Decision::Abort };
    let decision = if tape.one_in(5) { tape.decision() } else { ordered };
    let epoch = if tape.one_in(5) { Epoch(machine.epoch().0.wrapping_sub(1)) } else { machine.epoch() };
    branch::Acknowledgement { decision, epoch, end: branch::fuzz::hook_end(tape) }
}

/// Anything but the log's word.
pub(crate) fn event(tape: &mut Tape<'_>, machine: &TwoPhase) -> Event {
    match tape.below(20) {
        0 => Event::BeginRequested { caller: tape.caller() },
        1 | 2 => {
            let Member { participant, branch } = member(tape, machine);
            let vote = tape.pick(&[EarlyVote::Yes, EarlyVote::ReadOnly]);
            Event::Enlisted { participant, branch, instance: tape.instance(), vote, caller: tape.caller() }
        }
        3 => Event::BranchNamed { branch: carried(tape), id: tape.branch_id(), caller: tape.caller() },
        4 | 5 => Event::CommitRequested {
            branches: (0..tape.below(4)).map(|_| carried(tape)).collect(),
            first_id: tape.branch_id(),
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
        11..14 => {
            let Member { participant, branch } = member(tape, machine);
            Event::Voted { participant, branch, instance: tape.instance(), vote: vote(tape) }
        }
        14 | 15 => {
            let Member { participant, branch } = member(tape, machine);
            Event::Acknowledged { participant, branch, acknowledgement: acknowledgement(tape, machine) }
        }
        16 => {
            let Member { participant, branch } = member(tape, machine);
            Event::Inquired { participant, branch, instance: tape.instance() }
        }
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
