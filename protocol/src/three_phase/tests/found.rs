//! What arbitrary events and records have found, each written out.

use super::super::coordinator::{self, Coordinator, Introduction, Stage};
use super::super::participant::{self, Participant};
use super::super::{
    Answer, Ballot, NodeId, Request, Roster, Seat, Standing, StoreId, VoterName, VoterRecord, VoterState, invariant,
};
use crate::branch::{Hook, HookEnd, Message};
use crate::ids::{BodyDigest, BranchId, Epoch, Gtid, InstanceId, ParticipantName};
use crate::record::{Attempted, Decided, Decision, Member, Protocol};
use crate::two_phase::{BranchResult, BranchState, Vote};

const LOG: StoreId = StoreId(9);

fn gtid() -> Gtid {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("valid")
}

fn name(text: &str) -> ParticipantName {
    text.parse().expect("valid")
}

/// Each participant's branch has its own id.
fn id(text: &str) -> BranchId {
    BranchId { epoch: Epoch(1), number: text.bytes().map(u64::from).sum() }
}

fn member(text: &str) -> Member {
    Member { participant: name(text), branch: id(text) }
}

fn roster(names: &[&str]) -> Roster {
    let seat = |text: &&str| Seat {
        participant: name(text),
        branch: id(text),
        address: "http://10.0.0.7:7421".parse().expect("valid"),
        store: StoreId(1),
    };
    Roster::new(names.iter().map(seat).collect(), LOG).expect("valid")
}

fn attempted() -> Attempted {
    Attempted { gtid: gtid(), roster: roster(&["a", "b"]), digest: BodyDigest(7), begun_at_ms: 0 }
}

fn on(machine: &mut Coordinator, event: coordinator::Event) -> Vec<coordinator::Effect> {
    let before = machine.clone();
    let output = machine.handle(event.clone());
    invariant::check_coordinator(&before, machine, &output).expect("no invariant breaks");
    output.peek_effects().to_vec()
}

/// It aborted on the spot, while the voters were agreeing on the commit.
#[test]
fn an_introduction_that_comes_after_the_roster_is_frozen_changes_nothing() {
    let (mut machine, _) = Coordinator::recover(&attempted(), VoterState::ATTEMPTED, Epoch(2), NodeId(8), LOG);
    let before = machine.clone();
    for introduction in [Introduction::NoVoter, Introduction::Unknown, Introduction::Absent] {
        let event = coordinator::Event::Introduced { participant: name("a"), introduction };
        assert_eq!(on(&mut machine, event), []);
    }
    assert_eq!(machine, before);
}

/// It led an election, and its own log answered askers with an outcome that it did not take for agreed.
#[test]
fn a_row_whose_voter_knows_the_outcome_is_taken_up_as_decided() {
    for (standing, decision) in [(Standing::Committed, Decision::Commit), (Standing::Aborted, Decision::Abort)] {
        let state = VoterState { standing, ..VoterState::ATTEMPTED };
        let (mut machine, _) = Coordinator::recover(&attempted(), state, Epoch(2), NodeId(8), LOG);
        assert_eq!(machine.stage(), Stage::Agreed(decision));
        let (member, instance) = (member("a"), InstanceId(1));
        let request = Request::Join {
            ballot: Ballot { round: 3, node: NodeId(1) },
            roster: roster(&["a", "b"]),
            has_voted: false,
        };
        on(&mut machine, coordinator::Event::Asked { member, instance, request });
    }
}

/// Its vote counted towards the commit, and when it asked it was told to abort.
#[test]
fn whoever_is_in_the_roster_of_a_decision_is_told_it() {
    let decided = Decided {
        gtid: gtid(),
        protocol: Protocol::ThreePhase,
        decision: Decision::Commit,
        members: vec![member("a")],
        digest: BodyDigest(7),
        begun_at_ms: 0,
        reason: None,
    };
    let roster = roster(&["a", "b"]);
    let (mut machine, _) = Coordinator::recover_decided(&decided, Some(roster.clone()), Epoch(2), NodeId(8), LOG);
    assert_eq!(machine.transaction().branches().iter().filter(|branch| branch.state == BranchState::Yes).count(), 2);
    let (member, instance) = (member("b"), InstanceId(1));
    let request = Request::Join { ballot: Ballot { round: 3, node: NodeId(1) }, roster, has_voted: false };
    on(&mut machine, coordinator::Event::Asked { member, instance, request });
}

fn told(participant: &mut Participant, event: participant::Event) -> Vec<participant::Effect> {
    let before = participant.clone();
    let output = participant.handle(event.clone());
    invariant::check_participant(Some(&before), &event, participant, &output).expect("no invariant breaks");
    output.peek_effects().to_vec()
}

fn order() -> participant::Event {
    let roster = roster(&["a", "b"]);
    participant::Event::PrepareOrdered { epoch: Epoch(1), payload: "work".into(), roster, is_prepared: false }
}

/// It went back to voting.
#[test]
fn a_hook_that_is_late_ends_as_its_voter_already_knows() {
    let (mut participant, _) = Participant::meet(gtid(), name("a"), NodeId(7), None, order());
    // Another instance has voted, and its voter knows the outcome.
    told(&mut participant, answered(Answer::Ended(Decision::Commit)));
    let effects = told(&mut participant, participant::Event::PrepareFinished(Vote::Yes));
    assert_eq!(participant.stage(), participant::Stage::Decided(Decision::Commit));
    assert!(effects.contains(&participant::Effect::Call(Hook::Commit)), "{effects:?}");
}

const DONE: participant::Event = participant::Event::EndFinished(HookEnd::Ended(BranchResult::Done));
const COMMIT: participant::Event = participant::Event::Decided { epoch: Epoch(1), decision: Decision::Commit };

fn answered(answer: Answer) -> participant::Event {
    answered_about(answer, None)
}

fn answered_about(answer: Answer, is_read_only: Option<bool>) -> participant::Event {
    participant::Event::VoterAnswered { answer, roster: Some(roster(&["a", "b"])), is_read_only }
}

/// The commit hook is called, and its end is the branch's.
fn commits(participant: &mut Participant, event: participant::Event) {
    let effects = told(participant, event);
    assert!(effects.contains(&participant::Effect::Call(Hook::Commit)), "{effects:?}");
    let effects = told(participant, DONE);
    assert!(participant.is_ended(), "{participant:?} {effects:?}");
}

/// It was told the commit, and asked for it again before its voter had confirmed that. By then the log had removed the transaction, and presumed an
/// abort. The swarm found it as 3pc seed 251135.
#[test]
fn whoever_knows_the_outcome_does_not_inquire() {
    let voter = VoterName::Participant(name("a"));
    let state = VoterState { joined: Ballot { round: 3, node: NodeId(11) }, ..VoterState::ATTEMPTED };
    let roster = roster(&["a", "b"]);
    let stored = VoterRecord { gtid: gtid(), voter, roster: Some(roster), is_read_only: false, state, before: None };
    let (mut participant, _) = Participant::recover(&stored, name("a"), NodeId(7));
    told(&mut participant, COMMIT);
    let inquire = participant::Event::TimerFired(participant::Timer::Branch(crate::branch::Timer::Inquire));
    for event in [inquire, participant::Event::SessionUp] {
        let effects = told(&mut participant, event);
        let is_inquiry = |effect: &participant::Effect| matches!(effect, participant::Effect::Send(Message::Inquire));
        assert!(!effects.iter().any(is_inquiry), "{effects:?}");
    }
    commits(&mut participant, answered(Answer::Ended(Decision::Commit)));
}

/// Fuzzing found that it went back to voting, while it led an election: another instance had voted, and its own hook was late.
#[test]
fn a_hook_that_is_late_is_no_vote_once_the_voter_has_voted_yes() {
    let vote = |participant: &mut Participant, vote| told(participant, participant::Event::PrepareFinished(vote));
    for (late, is_read_only, is_called) in [
        (Vote::Yes, false, true),
        (Vote::Yes, true, true),
        (Vote::ReadOnly, false, true),
        (Vote::ReadOnly, true, false),
        (Vote::No("no money".into()), false, true),
        (Vote::Unknown("an error".into()), true, true),
    ] {
        let case = format!("{late:?} after a yes, read-only: {is_read_only}");
        let (mut participant, _) = Participant::meet(gtid(), name("a"), NodeId(7), None, order());
        told(&mut participant, answered_about(Answer::VotedYes { is_read_only }, Some(is_read_only)));
        assert_eq!(vote(&mut participant, late), [], "{case}");
        assert_eq!(participant.stage(), participant::Stage::InDoubt, "{case}");
        told(&mut participant, COMMIT);
        let effects = told(&mut participant, answered(Answer::Ended(Decision::Commit)));
        assert_eq!(effects.contains(&participant::Effect::Call(Hook::Commit)), is_called, "{case}: {effects:?}");
        assert_eq!(participant.is_ended(), !is_called, "{case}");
    }
}

/// What another instance had prepared was not committed here, and yet acknowledged.
#[test]
fn whoever_had_nothing_to_commit_commits_what_another_instance_has_prepared() {
    let voted = answered_about(Answer::VotedYes { is_read_only: false }, Some(false));
    let ended = answered_about(Answer::Ended(Decision::Commit), Some(false));
    for told_before in [vec![], vec![COMMIT], vec![COMMIT, voted]] {
        let (mut participant, _) = Participant::meet(gtid(), name("a"), NodeId(7), None, order());
        told(&mut participant, participant::Event::PrepareFinished(Vote::ReadOnly));
        told_before.into_iter().for_each(|event| drop(told(&mut participant, event)));
        commits(&mut participant, ended.clone());
    }
}

/// It rolled back, under the same gtid, what another instance had prepared and voted for.
#[test]
fn nothing_is_undone_before_the_voter_has_refused() {
    let refusal = participant::Effect::AskVoter(Request::VoteNo);
    let noted = || participant::Event::Decided { epoch: Epoch(1), decision: Decision::Abort };
    let failed = || participant::Event::PrepareFinished(Vote::Unknown("an error".into()));
    for story in [vec![failed(), order()], vec![noted(), failed()], vec![failed(), order(), order()]] {
        let asked = || {
            let (mut participant, _) = Participant::meet(gtid(), name("a"), NodeId(7), None, order());
            let mut last = Vec::new();
            for event in &story {
                last = told(&mut participant, event.clone());
                assert!(!last.contains(&participant::Effect::Call(Hook::Abort)), "{story:?}: {last:?}");
            }
            assert!(last.contains(&refusal), "{story:?}: {last:?}");
            participant
        };
        let mut participant = asked();
        let effects = told(&mut participant, answered(Answer::Ended(Decision::Abort)));
        assert!(effects.contains(&participant::Effect::Call(Hook::Abort)), "{story:?}: {effects:?}");
        let mut participant = asked();
        let effects = told(&mut participant, answered_about(Answer::VotedYes { is_read_only: true }, Some(true)));
        assert!(!effects.contains(&participant::Effect::Call(Hook::Abort)), "{story:?}: {effects:?}");
        told(&mut participant, COMMIT);
        // The other instance had nothing to commit, and what the hook has left here is to be ended.
        commits(&mut participant, answered_about(Answer::Ended(Decision::Commit), Some(true)));
    }
}

/// The coordinator waited for its vote until the deadline.
#[test]
fn a_hook_that_is_late_votes_no_once_the_voter_has_aborted() {
    let (mut participant, _) = Participant::meet(gtid(), name("a"), NodeId(7), None, order());
    told(&mut participant, answered(Answer::Ended(Decision::Abort)));
    let effects = told(&mut participant, participant::Event::PrepareFinished(Vote::No("no money".into())));
    let says_no =
        |effect: &participant::Effect| matches!(effect, participant::Effect::Send(Message::Vote(Vote::No(_))));
    assert!(effects.iter().any(says_no), "{effects:?}");
}
