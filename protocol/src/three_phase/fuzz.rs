//! Any events, and any records in a store, for the machines of three phases.

use bytes::Bytes;

use super::coordinator::{self, Coordinator, Introduction};
use super::leader::{self, Leader};
use super::participant::{self, Participant};
use super::voter::{Answer, Bar, Proposal, Request, Standing, Voter, VoterRecord, VoterState};
use super::{Ballot, NodeId, Roster, Seat, StoreId, VoterName, invariant};
use crate::durable::{Appended, Output};
use crate::fuzz::{Story, Tape, gtid, name, waits_for_log};
use crate::record::{Attempted, Decision};
use crate::{branch, two_phase};

// ---- a voter ---------------------------------------------------------------------------------------------------------

/// Loads a voter from any record, asks it anything, and checks every invariant after each answer.
///
/// # Panics
/// If one breaks.
pub fn voter(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    let me = voter_name(tape);
    let stored = tape.one_in(3).then(|| VoterRecord { voter: me.clone(), ..record(tape) });
    let mut voter = Voter::load(gtid(), me, store(tape), stored.as_ref());
    let mut story = Story::new();
    while !tape.is_over() {
        let (from, request) = (voter_name(tape), request(tape));
        story.then((from.clone(), request.clone()));
        let before = voter.clone();
        let output = voter.handle(&from, request.clone());
        if let Err(violation) = invariant::check_voter(&before, &request, &voter, &output) {
            panic!("{violation}\nbefore: {before:?}\nrequest: {request:?} of {from:?}\noutput: {output:?}");
        }
    }
}

// ---- a leader --------------------------------------------------------------------------------------------------------

/// Lets a leader hear anything. Its ballots only rise, it proposes one thing under each, and it announces one outcome, once.
///
/// # Panics
/// If that is not so.
pub fn leader(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    let (roster, node) = (roster(tape), node(tape));
    let (mut leader, output) =
        if tape.one_in(2) { Leader::elect(roster, node, ballot(tape)) } else { Leader::first(roster, node) };
    let mut proposed = None;
    let mut announced = None;
    check_leader(&leader, &output, &mut proposed, &mut announced);
    let mut story = Story::new();
    while !tape.is_over() {
        let event = if tape.one_in(8) {
            leader::Event::RetryDue
        } else {
            leader::Event::Answered { voter: voter_name(tape), answer: answer_to(tape, leader.ballot()) }
        };
        story.then(event.clone());
        let before = leader.clone();
        let output = leader.handle(event);
        assert!(before.ballot() <= leader.ballot() && leader.ballot() <= leader.highest(), "{before:?} {leader:?}");
        assert!(before.highest() <= leader.highest(), "{before:?} became {leader:?}");
        if before.ballot() != leader.ballot() {
            proposed = None;
        }
        check_leader(&leader, &output, &mut proposed, &mut announced);
    }
}

fn check_leader(
    leader: &Leader,
    output: &Output<leader::Effect>,
    proposed: &mut Option<Proposal>,
    announced: &mut Option<Decision>,
) {
    assert!(output.records().next().is_none(), "a leader keeps nothing");
    for effect in output.peek_effects() {
        match effect {
            leader::Effect::Ask { request: Request::Propose { ballot, proposal }, .. } => {
                assert_eq!(*ballot, leader.ballot(), "it proposes under its own ballot");
                assert_eq!(*proposed.get_or_insert(*proposal), *proposal, "one proposal for each ballot");
            }
            leader::Effect::Ask { request: Request::Join { ballot, .. }, .. } => assert_eq!(*ballot, leader.ballot()),
            leader::Effect::Ask { request, .. } => panic!("a leader does not ask {request:?}"),
            leader::Effect::SetTimer { .. } => {}
            leader::Effect::Announce(decision) => {
                assert_eq!(announced.replace(*decision), None, "it announces once");
                assert_eq!(leader.state(), leader::State::Ended(*decision));
            }
        }
    }
}

// ---- the coordinator -------------------------------------------------------------------------------------------------

/// Begins, or recovers from any row, drives with what the bytes say, and checks every invariant after each event.
///
/// # Panics
/// If one breaks.
pub fn coordinator(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    let (mut machine, output) = begun(tape);
    let mut is_appending = waits_for_log(&output);
    let mut story = Story::new();
    while !tape.is_over() {
        let event = if is_appending && tape.one_in(3) {
            is_appending = false;
            let members = machine.transaction().members();
            let appended = match (machine.stage(), tape.appended(gtid(), members)) {
                // Before 'attempt 1 sent' an abort is all that the log can have.
                (coordinator::Stage::Voting, Appended::Overruled { .. }) => {
                    Appended::Overruled { decision: Decision::Abort, members: vec![] }
                }
                (_, appended) => appended,
            };
            coordinator::Event::TwoPhase(two_phase::Event::Appended(appended))
        } else {
            coordinator_event(tape, &machine)
        };
        story.then(event.clone());
        let before = machine.clone();
        let output = machine.handle(event.clone());
        if let Err(violation) = invariant::check_coordinator(&before, &machine, &output) {
            panic!("{violation}\nbefore: {before:?}\nevent: {event:?}\noutput: {output:?}");
        }
        if waits_for_log(&output) {
            assert!(!is_appending, "two forced records of one transaction are on their way: {event:?} in {before:?}");
            is_appending = true;
        }
    }
}

fn begun(tape: &mut Tape<'_>) -> (Coordinator, Output<coordinator::Effect>) {
    let (node, log) = (node(tape), store(tape));
    match tape.below(10) {
        0..5 => {
            let patience = two_phase::fuzz::patience(tape);
            Coordinator::begin(gtid(), tape.epoch(), tape.number(), patience, node, log)
        }
        5 | 6 => {
            let attempted =
                Attempted { gtid: gtid(), roster: roster(tape), digest: tape.digest(), begun_at_ms: tape.number() };
            Coordinator::recover(&attempted, state(tape), tape.epoch(), node, log)
        }
        7 => {
            let roster = tape.one_in(2).then(|| roster(tape));
            Coordinator::recover_decided(&two_phase::fuzz::decided(tape), roster, tape.epoch(), node, log)
        }
        8 => {
            let (epoch, now_ms) = (tape.epoch(), tape.number());
            let inquirer = two_phase::fuzz::any_member(tape);
            Coordinator::presume_abort(gtid(), epoch, now_ms, inquirer, tape.instance(), node, log)
        }
        _ => Coordinator::forgotten(gtid(), tape.epoch(), tape.number(), "lost", node, log),
    }
}

fn coordinator_event(tape: &mut Tape<'_>, machine: &Coordinator) -> coordinator::Event {
    use coordinator::Event;
    match tape.below(16) {
        0..8 => Event::TwoPhase(two_phase::fuzz::event(tape, machine.transaction())),
        8..10 => {
            let participant = tape.participant();
            let introduction = match tape.below(8) {
                0 => Introduction::Absent,
                1 => Introduction::NoVoter,
                2 => Introduction::Unknown,
                _ => {
                    let Seat { address, store, .. } = seat(tape);
                    Introduction::Voter { address, store }
                }
            };
            Event::Introduced { participant, introduction }
        }
        10..12 => {
            let ballot = machine.leader().map_or(Ballot::FIRST, Leader::ballot);
            Event::Answered { participant: tape.participant(), answer: answer_to(tape, ballot) }
        }
        12 | 13 => {
            let member = two_phase::fuzz::member(tape, machine.transaction());
            Event::Asked { member, instance: tape.instance(), request: request(tape) }
        }
        14 => Event::LogDue,
        _ => Event::ElectionDue,
    }
}

// ---- a participant ---------------------------------------------------------------------------------------------------

/// What the participant is told: in most runs one outcome by everybody, as whoever speaks is bound to.
struct Words {
    outcome: Option<Decision>,
    /// Questions to the own voter that it has not answered.
    asked: usize,
}

impl Words {
    fn decision(&self, tape: &mut Tape<'_>) -> Decision {
        self.outcome.unwrap_or_else(|| tape.decision())
    }
}

/// Meets a branch, or recovers one from any record, drives it with what the bytes say, and checks every invariant after each event. Its voter answers
/// what it was asked, with anything.
///
/// # Panics
/// If an invariant breaks. Where it is told both outcomes, it cannot end as everybody says; it goes on all the same.
pub fn participant(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    let (me, node) = (name("bank"), node(tape));
    let mut words = Words { outcome: tape.pick(&[Some(Decision::Commit), Some(Decision::Abort), None]), asked: 0 };
    let mut story = Story::new();
    let (mut participant, output) = match tape.below(4) {
        0 => Participant::prepared(gtid(), me, node),
        1 => Participant::recover(&own_record(tape, &words), me, node),
        kind => {
            let stored = (kind == 2).then(|| own_record(tape, &words));
            let first = participant_event(tape, None, &mut words);
            story.then(first.clone());
            let (participant, output) = Participant::meet(gtid(), me, node, stored.as_ref(), first.clone());
            if stored.is_none() {
                invariant::check_participant(None, &first, &participant, &output).expect("sound");
            }
            (participant, output)
        }
    };
    words.asked += questions(&output);
    while !tape.is_over() {
        let event = participant_event(tape, participant.leader(), &mut words);
        story.then(event.clone());
        let before = participant.clone();
        let output = participant.handle(event.clone());
        words.asked += questions(&output);
        match invariant::check_participant(Some(&before), &event, &participant, &output) {
            Err(violation) if words.outcome.is_some() => {
                panic!("{violation}\nbefore: {before:?}\nevent: {event:?}\noutput: {output:?}");
            }
            Err(_) | Ok(()) => {}
        }
    }
}

fn questions(output: &Output<participant::Effect>) -> usize {
    output.peek_effects().iter().filter(|effect| matches!(effect, participant::Effect::AskVoter(_))).count()
}

fn own_record(tape: &mut Tape<'_>, words: &Words) -> VoterRecord {
    let mut record = VoterRecord { voter: VoterName::Participant(name("bank")), ..record(tape) };
    record.state.standing = match (record.state.standing.decision(), words.decision(tape)) {
        (None, _) => record.state.standing,
        (Some(_), Decision::Commit) => Standing::Committed,
        (Some(_), Decision::Abort) => Standing::Aborted,
    };
    record
}

fn participant_event(tape: &mut Tape<'_>, leader: Option<&Leader>, words: &mut Words) -> participant::Event {
    use participant::{Event, Timer};
    let ballot = leader.map_or(Ballot::FIRST, Leader::ballot);
    match tape.below(20) {
        0..3 => Event::PrepareOrdered {
            epoch: tape.epoch(),
            payload: Bytes::from_static(b"payload"),
            roster: roster(tape),
            is_prepared: tape.one_in(2),
        },
        3 => Event::Decided { epoch: tape.epoch(), decision: words.decision(tape) },
        4 => Event::Waited,
        5 => Event::Forgotten,
        6 => Event::PeerDecided { from: voter_name(tape), decision: words.decision(tape) },
        7 => Event::PeerSeen { ballot: self::ballot(tape) },
        8..11 if words.asked > 0 => {
            words.asked -= 1;
            let roster = tape.one_in(2).then(|| roster(tape));
            let is_read_only = tape.pick(&[None, Some(false), Some(true)]);
            Event::VoterAnswered { answer: heard(tape, ballot, words), roster, is_read_only }
        }
        8..13 => Event::PeerAnswered { voter: voter_name(tape), answer: heard(tape, ballot, words) },
        13 | 14 => Event::PrepareFinished(two_phase::fuzz::vote(tape)),
        15 => Event::EndFinished(branch::fuzz::hook_end(tape)),
        16 => Event::SessionUp,
        17 => Event::TimerFired(Timer::Branch(tape.pick(&[branch::Timer::Inquire, branch::Timer::Retry]))),
        18 => Event::TimerFired(Timer::Election),
        _ => Event::TimerFired(Timer::Round),
    }
}

fn heard(tape: &mut Tape<'_>, at_work: Ballot, words: &Words) -> Answer {
    let answer = answer_to(tape, at_work);
    if matches!(answer, Answer::Ended(_)) { Answer::Ended(words.decision(tape)) } else { answer }
}

// ---- what voters say ---------------------------------------------------------------------------------------------------

fn node(tape: &mut Tape<'_>) -> NodeId {
    NodeId(u128::from(tape.number()))
}

fn store(tape: &mut Tape<'_>) -> StoreId {
    StoreId(tape.below(3) as u128)
}

/// Rounds as the wire lets them through.
pub(crate) fn ballot(tape: &mut Tape<'_>) -> Ballot {
    Ballot { round: tape.number().clamp(1, Ballot::ROUND_MAX), node: node(tape) }
}

fn voter_name(tape: &mut Tape<'_>) -> VoterName {
    if tape.one_in(4) { VoterName::Log } else { VoterName::Participant(tape.participant()) }
}

fn seat(tape: &mut Tape<'_>) -> Seat {
    Seat {
        participant: tape.participant(),
        branch: tape.branch_id(),
        address: "http://10.0.0.7:7421".parse().expect("valid"),
        store: store(tape),
    }
}

/// One to four participants.
pub fn roster(tape: &mut Tape<'_>) -> Roster {
    let mut seats: Vec<Seat> = Vec::new();
    for _ in 0..=tape.below(4) {
        let seat = seat(tape);
        if seats.iter().all(|other| other.participant != seat.participant) {
            seats.push(seat);
        }
    }
    Roster::new(seats, store(tape)).expect("each once")
}

fn standing(tape: &mut Tape<'_>) -> Standing {
    tape.pick(&[
        Standing::Waiting,
        Standing::PreCommitted,
        Standing::PreAborted,
        Standing::Committed,
        Standing::Aborted,
    ])
}

/// What a store holds: whatever can be written there, as long as `la <= le`.
pub fn state(tape: &mut Tape<'_>) -> VoterState {
    let joined = ballot(tape);
    let accepted = tape.one_in(2).then(|| ballot(tape).min(joined));
    VoterState { standing: standing(tape), joined, accepted }
}

/// A record in a voter's store.
pub fn record(tape: &mut Tape<'_>) -> VoterRecord {
    VoterRecord {
        gtid: gtid(),
        voter: voter_name(tape),
        roster: tape.one_in(2).then(|| roster(tape)),
        is_read_only: tape.one_in(2),
        state: state(tape),
        before: None,
    }
}

pub(crate) fn request(tape: &mut Tape<'_>) -> Request {
    match tape.below(9) {
        0 => Request::VoteYes { roster: roster(tape), is_read_only: tape.one_in(2) },
        1 => Request::VoteNo,
        2..5 => Request::Join { ballot: ballot(tape), roster: roster(tape), has_voted: tape.one_in(2) },
        5 | 6 => {
            Request::Propose { ballot: ballot(tape), proposal: tape.pick(&[Proposal::PreCommit, Proposal::PreAbort]) }
        }
        7 => Request::Decided(tape.decision()),
        _ => Request::Elected(tape.decision()),
    }
}

/// An answer, rather one about the ballot that is at work.
pub(crate) fn answer_to(tape: &mut Tape<'_>, at_work: Ballot) -> Answer {
    let ballot = if tape.one_in(4) { ballot(tape) } else { at_work };
    match tape.below(10) {
        0..4 => {
            Answer::Joined { ballot, standing: standing(tape), accepted: tape.one_in(2).then(|| self::ballot(tape)) }
        }
        4..7 => Answer::Accepted { ballot },
        7 => Answer::Rejected { ballot, joined: self::ballot(tape) },
        8 => match tape.below(3) {
            0 => Answer::VotedYes { is_read_only: tape.one_in(2) },
            1 => Answer::VotedYes { is_read_only: false },
            _ => Answer::Barred(tape.pick(&Bar::ALL)),
        },
        _ => Answer::Ended(tape.decision()),
    }
}
