//! What a voter answers, row by row of its table; and what a leader and a branch make of it.

use super::super::participant::{self, Participant, Stage};
use super::super::{
    Answer, Ballot, Bar, Leader, NodeId, Proposal, Request, Roster, Seat, Standing, StoreId, Voter, VoterName,
    VoterRecord, VoterState, invariant, leader,
};
use crate::branch::{self, Hook, HookEnd, Message};
use crate::ids::{BranchId, Epoch, Gtid};
use crate::record::{Decision, Record};
use crate::two_phase::{BranchResult, Vote};

fn gtid() -> Gtid {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("valid")
}

fn voter_name(name: &str) -> VoterName {
    VoterName::Participant(name.parse().expect("valid"))
}

fn roster() -> Roster {
    let seat = |name: &str, store| Seat {
        participant: name.parse().expect("valid"),
        branch: BranchId { epoch: Epoch(1), number: name.bytes().map(u64::from).sum() },
        address: "http://127.0.0.1:1".parse().expect("valid"),
        store: StoreId(store),
    };
    Roster::new(vec![seat("a", 1), seat("b", 2)], StoreId(9)).expect("valid")
}

fn ballot(round: u64) -> Ballot {
    Ballot { round, node: NodeId(7) }
}

fn join(round: u64) -> Request {
    Request::Join { ballot: ballot(round), roster: roster(), has_voted: false }
}

fn propose(ballot: Ballot, proposal: Proposal) -> Request {
    Request::Propose { ballot, proposal }
}

fn yes() -> Request {
    Request::VoteYes { roster: roster(), is_read_only: false }
}

/// A participant's store, whose voter is loaded for every request.
#[derive(Default)]
struct Store {
    stored: Option<VoterRecord>,
}

impl Store {
    fn ask_from(&mut self, from: &VoterName, request: Request) -> Answer {
        let before = Voter::load(gtid(), voter_name("a"), StoreId(1), self.stored.as_ref());
        let mut voter = before.clone();
        let output = voter.handle(from, request.clone());
        invariant::check_voter(&before, &request, &voter, &output).expect("no invariant breaks");
        if let Some(Record::Voter(record)) = output.forced() {
            self.stored = Some((**record).clone());
        }
        output.peek_effects()[0]
    }

    fn ask(&mut self, request: Request) -> Answer {
        let from = match request {
            Request::VoteYes { .. } | Request::VoteNo | Request::Elected(_) => voter_name("a"),
            Request::Join { .. } | Request::Propose { .. } | Request::Decided(_) => VoterName::Log,
        };
        self.ask_from(&from, request)
    }

    fn state(&self) -> Option<VoterState> {
        self.stored.as_ref().map(|stored| stored.state)
    }
}

fn voted() -> Store {
    let mut store = Store::default();
    assert_eq!(store.ask(yes()), Answer::VotedYes { is_read_only: false });
    store
}

#[test]
fn a_yes_is_kept_and_repeated() {
    let mut store = voted();
    assert_eq!(store.state(), Some(VoterState::WAITING));
    assert_eq!(store.ask(Request::VoteNo), Answer::VotedYes { is_read_only: false });
    assert_eq!(store.state(), Some(VoterState::WAITING));
}

#[test]
fn who_is_asked_before_it_has_voted_never_votes_yes() {
    let mut store = Store::default();
    assert_eq!(store.ask(join(2)), Answer::Ended(Decision::Abort));
    assert_eq!(store.ask(yes()), Answer::Ended(Decision::Abort));
    assert_eq!(store.state(), Some(VoterState::REFUSED));
}

/// Whoever asks a voter without a vote on record, and knows that it has voted, gets no refusal.
#[test]
fn a_voter_that_has_forgotten_says_so_and_changes_nothing() {
    let knowing = || Request::Join { ballot: ballot(2), roster: roster(), has_voted: true };
    let requests =
        || [knowing(), propose(Ballot::FIRST, Proposal::PreCommit), Request::Elected(Decision::Abort)].into_iter();
    let mut store = Store::default();
    for request in requests() {
        assert_eq!(store.ask(request), Answer::Barred(Bar::Forgotten));
    }
    assert_eq!(store.stored, None);
    assert_eq!(
        store.ask(Request::Decided(Decision::Commit)),
        Answer::Ended(Decision::Commit),
        "there is nothing to keep"
    );
    assert_eq!(store.stored, None);

    assert_eq!(store.ask(join(2)), Answer::Ended(Decision::Abort), "to one that does not know, it never voted");
    let refused = store.stored.clone();
    for request in requests() {
        assert_eq!(store.ask(request), Answer::Barred(Bar::Forgotten), "the refusal misleads nobody who knows");
    }
    assert_eq!(store.stored, refused);

    let mut store = voted();
    assert_eq!(store.ask(knowing()), Answer::Joined { ballot: ballot(2), standing: Standing::Waiting, accepted: None });
    assert_eq!(store.ask(Request::Decided(Decision::Abort)), Answer::Ended(Decision::Abort));
    assert_eq!(store.ask(knowing()), Answer::Ended(Decision::Abort), "a vote that was aborted is on record");
}

#[test]
fn a_voter_whose_store_was_lost_does_not_pass_for_one_that_never_voted() {
    let mut voter = Voter::load(gtid(), voter_name("a"), StoreId(77), None);
    let output = voter.handle(&VoterName::Log, join(2));
    assert_eq!((output.forced(), output.peek_effects()), (None, [Answer::Barred(Bar::StateLost)].as_slice()));
}

#[test]
fn strangers_and_other_rosters_are_refused() {
    let mut store = voted();
    assert_eq!(store.ask_from(&voter_name("mallory"), join(2)), Answer::Barred(Bar::Stranger));
    assert_eq!(
        store.ask_from(&voter_name("mallory"), Request::Decided(Decision::Commit)),
        Answer::Barred(Bar::Stranger)
    );
    assert_eq!(store.ask_from(&voter_name("b"), yes()), Answer::Barred(Bar::Stranger));
    let other = Roster::new(roster().participants()[..1].to_vec(), StoreId(9)).expect("valid");
    let request = Request::Join { ballot: ballot(2), roster: other, has_voted: false };
    assert_eq!(store.ask(request), Answer::Barred(Bar::OtherRoster));
    let others = Roster::new(roster().participants()[1..].to_vec(), StoreId(9)).expect("valid");
    let request = Request::Join { ballot: ballot(2), roster: others, has_voted: false };
    assert_eq!(Store::default().ask(request), Answer::Barred(Bar::NotInRoster));
    assert_eq!(store.state(), Some(VoterState::WAITING));
}

#[test]
fn a_proposal_is_accepted_under_the_ballot_that_was_joined_last_and_under_no_other() {
    let mut store = voted();
    assert_eq!(store.ask(join(3)), Answer::Joined { ballot: ballot(3), standing: Standing::Waiting, accepted: None });
    let first = propose(Ballot::FIRST, Proposal::PreCommit);
    assert_eq!(store.ask(first), Answer::Rejected { ballot: Ballot::FIRST, joined: ballot(3) });
    assert_eq!(
        store.ask(propose(ballot(4), Proposal::PreCommit)),
        Answer::Rejected { ballot: ballot(4), joined: ballot(3) }
    );
    for _ in 0..2 {
        assert_eq!(
            store.ask(propose(ballot(3), Proposal::PreAbort)),
            Answer::Accepted { ballot: ballot(3) },
            "also when it is repeated"
        );
    }
    assert_eq!(
        store.ask(join(4)),
        Answer::Joined { ballot: ballot(4), standing: Standing::PreAborted, accepted: Some(ballot(3)) }
    );
    assert_eq!(
        store.ask(propose(ballot(4), Proposal::PreCommit)),
        Answer::Accepted { ballot: ballot(4) },
        "pre-aborted becomes pre-committed only by a later ballot"
    );
}

#[test]
fn a_join_is_kept_and_a_lower_one_is_rejected() {
    let mut store = voted();
    let report = Answer::Joined { ballot: ballot(3), standing: Standing::Waiting, accepted: None };
    assert_eq!(store.ask(join(3)), report);
    assert_eq!(store.ask(join(3)), report, "its answer may have been lost");
    assert_eq!(store.ask(join(2)), Answer::Rejected { ballot: ballot(2), joined: ballot(3) });
    assert_eq!(store.ask(propose(ballot(3), Proposal::PreCommit)), Answer::Accepted { ballot: ballot(3) });
    assert_eq!(store.ask(join(3)), Answer::Rejected { ballot: ballot(3), joined: ballot(3) });
    let first = Request::Join { ballot: Ballot::FIRST, roster: roster(), has_voted: false };
    assert_eq!(
        voted().ask(first),
        Answer::Rejected { ballot: Ballot::FIRST, joined: Ballot::FIRST },
        "nobody is elected under the first ballot"
    );
}

#[test]
fn who_knows_the_outcome_says_nothing_else() {
    let mut store = voted();
    assert_eq!(store.ask(Request::Decided(Decision::Commit)), Answer::Ended(Decision::Commit));
    let kept = store.stored.clone();
    for request in [
        yes(),
        Request::VoteNo,
        join(9),
        propose(Ballot::FIRST, Proposal::PreCommit),
        Request::Decided(Decision::Abort),
    ] {
        assert_eq!(store.ask(request), Answer::Ended(Decision::Commit));
    }
    assert_eq!(store.stored, kept);
}

fn answered(leader: &mut Leader, voter: VoterName, answer: Answer) -> Vec<leader::Effect> {
    leader.handle(leader::Event::Answered { voter, answer }).peek_effects().to_vec()
}

fn reports(round: u64, standing: Standing, accepted: Option<Ballot>) -> Answer {
    Answer::Joined { ballot: ballot(round), standing, accepted }
}

/// What is proposed to whom.
fn proposals(effects: &[leader::Effect]) -> Vec<(String, Proposal)> {
    let proposals = effects.iter().filter_map(|effect| match effect {
        leader::Effect::Ask { voter, request: Request::Propose { proposal, .. } } => {
            Some((voter.to_string(), *proposal))
        }
        leader::Effect::Ask { .. } | leader::Effect::SetTimer { .. } | leader::Effect::Announce(_) => None,
    });
    proposals.collect()
}

#[test]
fn commit_is_proposed_only_if_all_that_accepted_last_are_pre_committed() {
    let first = Some(Ballot::FIRST);
    let (pc, pa, w) = (Standing::PreCommitted, Standing::PreAborted, Standing::Waiting);
    for (one, other, expected) in [
        ((w, None), (w, None), Proposal::PreAbort),
        ((w, None), (pc, first), Proposal::PreCommit),
        ((pc, first), (pc, first), Proposal::PreCommit),
        ((pc, first), (pa, Some(ballot(2))), Proposal::PreAbort),
        ((pa, Some(ballot(2))), (pc, Some(ballot(3))), Proposal::PreCommit),
        ((w, None), (pa, Some(ballot(2))), Proposal::PreAbort),
    ] {
        let (mut leader, _) = Leader::elect(roster(), NodeId(7), ballot(4));
        assert_eq!(answered(&mut leader, voter_name("a"), reports(5, one.0, one.1)), []);
        let effects = answered(&mut leader, voter_name("b"), reports(5, other.0, other.1));
        assert_eq!(proposals(&effects), [("a".to_owned(), expected), ("b".to_owned(), expected)], "{one:?} {other:?}");
        let late = answered(&mut leader, VoterName::Log, reports(5, pc, Some(ballot(4))));
        assert_eq!(proposals(&late), [("the log".to_owned(), expected)], "one proposal for each ballot");
    }
}

#[test]
fn nothing_is_announced_with_fewer_than_a_quorum() {
    let (mut leader, _) = Leader::first(roster(), NodeId(7));
    let accepted = Answer::Accepted { ballot: Ballot::FIRST };
    for _ in 0..3 {
        assert_eq!(answered(&mut leader, VoterName::Log, accepted), []);
    }
    assert_eq!(answered(&mut leader, voter_name("b"), accepted), [leader::Effect::Announce(Decision::Commit)]);
    assert_eq!(leader.waiting_for(), "");
}

#[test]
fn whoever_knows_the_outcome_ends_an_election() {
    let (mut leader, _) = Leader::elect(roster(), NodeId(7), Ballot::FIRST);
    assert_eq!(
        answered(&mut leader, voter_name("b"), Answer::Ended(Decision::Abort)),
        [leader::Effect::Announce(Decision::Abort)]
    );
    assert!(leader.handle(leader::Event::RetryDue).peek_effects().is_empty());
}

#[test]
fn an_election_that_fails_is_repeated_above_whatever_it_met() {
    let (mut leader, _) = Leader::elect(roster(), NodeId(7), Ballot::FIRST);
    assert_eq!(leader.ballot(), ballot(2));
    let rejected = Answer::Rejected { ballot: ballot(2), joined: Ballot { round: 9, node: NodeId(8) } };
    let effects = answered(&mut leader, voter_name("a"), rejected);
    assert!(matches!(effects.as_slice(), [leader::Effect::SetTimer { jitter_ms: 1.., .. }]), "{effects:?}");
    assert_eq!(answered(&mut leader, voter_name("a"), rejected), [], "it backs off once");
    let _ = leader.handle(leader::Event::RetryDue);
    assert_eq!(leader.ballot(), ballot(10));
    assert_eq!(answered(&mut leader, voter_name("a"), reports(2, Standing::Waiting, None)), [], "of an earlier ballot");
}

#[test]
fn an_operator_sees_who_is_missing_and_why() {
    let (mut leader, _) = Leader::elect(roster(), NodeId(7), Ballot::FIRST);
    answered(&mut leader, voter_name("a"), Answer::Barred(Bar::StateLost));
    answered(&mut leader, VoterName::Log, reports(2, Standing::Waiting, None));
    let text = leader.waiting_for();
    for part in ["1 of 3 voters, 2 needed", "no answer from b", "a cannot vote: its durable state is lost"] {
        assert!(text.contains(part), "{text}");
    }
}

/// Who is asked to join, and whether it is asked as one that has voted.
fn joins(effects: &[leader::Effect]) -> Vec<(String, bool)> {
    let joins = effects.iter().filter_map(|effect| match effect {
        leader::Effect::Ask { voter, request: Request::Join { has_voted, .. } } => {
            Some((voter.to_string(), *has_voted))
        }
        leader::Effect::Ask { .. } | leader::Effect::SetTimer { .. } | leader::Effect::Announce(_) => None,
    });
    joins.collect()
}

fn asked(names: [(&str, bool); 2]) -> Vec<(String, bool)> {
    names.map(|(name, has_voted)| (name.to_owned(), has_voted)).into()
}

#[test]
fn a_replica_asks_everybody_as_one_that_has_voted() {
    let (_, output) = Leader::elect(roster(), NodeId(7), Ballot::FIRST);
    assert!(joins(output.peek_effects()).iter().all(|(_, has_voted)| *has_voted));
    assert_eq!(joins(output.peek_effects()).len(), 3);
}

#[test]
fn a_participant_asks_its_own_voter_first_and_the_others_as_far_as_it_knows() {
    let me = || "a".parse().expect("valid");
    let own_only = [("a".to_owned(), true)];
    for (standing, accepted, is_known) in [
        (Standing::Waiting, None, false),
        (Standing::PreAborted, Some(ballot(4)), false),
        (Standing::PreCommitted, Some(Ballot::FIRST), true),
    ] {
        let (mut leader, output) = Leader::elect_as(me(), roster(), NodeId(7), ballot(4));
        assert_eq!(joins(output.peek_effects()), own_only);
        let effects = answered(&mut leader, voter_name("a"), reports(5, standing, accepted));
        assert_eq!(joins(&effects), asked([("b", is_known), ("the log", is_known)]), "{standing:?}");
        assert_eq!(answered(&mut leader, voter_name("a"), reports(5, standing, accepted)), [], "once");
    }
    // That the log has joined anybody says that every vote was in; that a peer has says nothing about an attempt.
    for (voter, is_known) in [(voter_name("b"), false), (VoterName::Log, true)] {
        let (mut leader, _) = Leader::elect_as(me(), roster(), NodeId(7), ballot(4));
        answered(&mut leader, voter_name("a"), reports(5, Standing::Waiting, None));
        answered(&mut leader, voter, Answer::Rejected { ballot: ballot(5), joined: ballot(6) });
        let output = leader.handle(leader::Event::RetryDue);
        assert_eq!(joins(output.peek_effects()), own_only);
        let effects = answered(&mut leader, voter_name("a"), reports(7, Standing::Waiting, None));
        assert_eq!(joins(&effects), asked([("b", is_known), ("the log", is_known)]));
    }
}

#[test]
fn a_leader_decides_nothing_from_those_that_have_forgotten() {
    let (mut leader, _) = Leader::elect(roster(), NodeId(7), Ballot::FIRST);
    for voter in roster().names() {
        assert_eq!(answered(&mut leader, voter, Answer::Barred(Bar::Forgotten)), []);
    }
    assert!(leader.waiting_for().contains("b cannot vote: it has forgotten"), "{}", leader.waiting_for());
}

// ---- a branch ----------------------------------------------------------------------------------------------------------

fn on(participant: &mut Participant, event: participant::Event) -> Vec<participant::Effect> {
    let before = participant.clone();
    let output = participant.handle(event.clone());
    invariant::check_participant(Some(&before), &event, participant, &output).expect("no invariant breaks");
    output.peek_effects().to_vec()
}

/// Prepared, and its voter is asked.
fn voting() -> Participant {
    let order = participant::Event::PrepareOrdered {
        epoch: Epoch(1),
        payload: "work".into(),
        roster: roster(),
        is_prepared: false,
    };
    let (mut participant, _) = Participant::meet(gtid(), "a".parse().expect("valid"), NodeId(7), None, order);
    let effects = on(&mut participant, participant::Event::PrepareFinished(Vote::Yes));
    assert!(effects.contains(&participant::Effect::AskVoter(yes())), "{effects:?}");
    assert!(!effects.contains(&participant::Effect::Send(Message::Vote(Vote::Yes))), "not before it is durable");
    participant
}

fn in_doubt() -> Participant {
    let mut participant = voting();
    let answer = Answer::VotedYes { is_read_only: false };
    let effects =
        on(&mut participant, participant::Event::VoterAnswered { answer, roster: Some(roster()), is_read_only: None });
    assert!(effects.contains(&participant::Effect::Send(Message::Vote(Vote::Yes))), "{effects:?}");
    participant
}

const ELECTION: participant::Event = participant::Event::TimerFired(participant::Timer::Election);

#[test]
fn a_branch_leads_after_silence_and_not_while_somebody_is_at_work() {
    let mut participant = in_doubt();
    for _ in 0..3 {
        let effects = on(&mut participant, ELECTION);
        assert!(effects.contains(&participant::Effect::Send(Message::Inquire)), "it has heard somebody, so it asks");
        assert!(participant.leader().is_none());
        on(&mut participant, participant::Event::Waited);
    }
    on(&mut participant, ELECTION);
    let effects = on(&mut participant, ELECTION);
    assert!(participant.leader().is_some(), "now it has not");
    assert_eq!(joined_by(&effects), [("itself".to_owned(), false)]);
    let effects = on(&mut participant, own(reports(2, Standing::Waiting, None)));
    assert_eq!(joined_by(&effects), [("b".to_owned(), true), ("the log".to_owned(), false)]);
    assert_eq!(participant.stage(), Stage::InDoubt);
}

/// What its own voter answers.
fn own(answer: Answer) -> participant::Event {
    participant::Event::VoterAnswered { answer, roster: Some(roster()), is_read_only: None }
}

/// Leads an election that its own voter has joined.
fn leading() -> Participant {
    let mut participant = in_doubt();
    for _ in 0..2 {
        on(&mut participant, ELECTION);
    }
    on(&mut participant, own(reports(2, Standing::Waiting, None)));
    participant
}

#[test]
fn what_an_election_came_to_is_told_once_the_own_voter_keeps_it() {
    let refused =
        || participant::Event::PeerAnswered { voter: voter_name("b"), answer: Answer::Ended(Decision::Abort) };
    let mut participant = leading();
    let effects = on(&mut participant, refused());
    assert_eq!(effects, [participant::Effect::AskVoter(Request::Elected(Decision::Abort))]);
    assert!(participant.waiting_for().contains("its own store"));
    let effects = on(&mut participant, own(Answer::Ended(Decision::Abort)));
    let told = effects.iter().filter(|effect| {
        matches!(effect, participant::Effect::AskPeer { request: Request::Decided(Decision::Abort), .. })
    });
    assert_eq!(told.count(), 2);
    assert!(effects.contains(&participant::Effect::Call(Hook::Abort)));

    // Another instance has ended the branch: what the own voter keeps is true, and the refusal is of one that has forgotten.
    let mut participant = leading();
    on(&mut participant, refused());
    let effects = on(&mut participant, own(Answer::Ended(Decision::Commit)));
    assert!(effects.contains(&participant::Effect::Call(Hook::Commit)), "{effects:?}");
}

/// Another instance has ended the branch, and everybody has forgotten: this one neither leads nor guesses.
#[test]
fn a_branch_whose_own_voter_has_forgotten_leads_no_more_and_asks() {
    let forgotten = || own(Answer::Barred(Bar::Forgotten));
    let mut before_it_asks = in_doubt();
    for _ in 0..2 {
        on(&mut before_it_asks, ELECTION);
    }
    let mut after_a_refusal = leading();
    let answer = Answer::Ended(Decision::Abort);
    on(&mut after_a_refusal, participant::Event::PeerAnswered { voter: voter_name("b"), answer });
    for mut participant in [before_it_asks, after_a_refusal] {
        let effects = on(&mut participant, forgotten());
        let inquires = participant::Effect::Send(Message::Inquire);
        assert_eq!(effects, [participant::Effect::CancelTimer(participant::Timer::Round), inquires]);
        assert_eq!((participant.stage(), participant.leader()), (Stage::InDoubt, None));
        on(&mut participant, participant::Event::Decided { epoch: Epoch(2), decision: Decision::Commit });
        let effects = on(&mut participant, own(Answer::Ended(Decision::Commit)));
        assert!(effects.contains(&participant::Effect::Call(Hook::Commit)), "{effects:?}");
    }
}

fn joined_by(effects: &[participant::Effect]) -> Vec<(String, bool)> {
    let asked = effects.iter().filter_map(|effect| match effect {
        participant::Effect::AskPeer { voter, address, request: Request::Join { .. } } => {
            Some((voter.to_string(), address.is_some()))
        }
        participant::Effect::AskVoter(Request::Join { .. }) => Some(("itself".to_owned(), false)),
        participant::Effect::Call(_)
        | participant::Effect::Send(_)
        | participant::Effect::AskVoter(_)
        | participant::Effect::AskPeer { .. }
        | participant::Effect::ForgetVoter
        | participant::Effect::SetTimer { .. }
        | participant::Effect::CancelTimer(_)
        | participant::Effect::Contradiction { .. } => None,
    });
    asked.collect()
}

#[test]
fn a_branch_whose_voter_was_asked_first_votes_no() {
    let mut participant = voting();
    let answer = Answer::Ended(Decision::Abort);
    let effects =
        on(&mut participant, participant::Event::VoterAnswered { answer, roster: Some(roster()), is_read_only: None });
    assert!(matches!(&effects[0], participant::Effect::Send(Message::Vote(Vote::No(_)))), "{effects:?}");
    assert_eq!(participant.stage(), Stage::Decided(Decision::Abort));
}

/// The log never heard of it, and the initiator asks again: without a vote that request would wait for its deadline.
#[test]
fn a_branch_that_its_voters_have_aborted_votes_no_when_it_is_asked_to_prepare_again() {
    let again = || participant::Event::PrepareOrdered {
        epoch: Epoch(2),
        payload: "work".into(),
        roster: roster(),
        is_prepared: false,
    };
    let mut participant = in_doubt();
    on(&mut participant, participant::Event::PeerDecided { from: voter_name("b"), decision: Decision::Abort });
    let says_no =
        |effects: &[participant::Effect]| matches!(effects, [participant::Effect::Send(Message::Vote(Vote::No(_)))]);
    let effects = on(&mut participant, again());
    assert!(says_no(&effects), "{effects:?}");
    let answer = Answer::Ended(Decision::Abort);
    on(&mut participant, participant::Event::VoterAnswered { answer, roster: Some(roster()), is_read_only: None });
    let effects = on(&mut participant, again());
    assert!(says_no(&effects), "{effects:?}");
}

#[test]
fn a_branch_ends_only_when_its_voter_keeps_the_outcome() {
    let mut participant = in_doubt();
    let told = participant::Event::Decided { epoch: Epoch(1), decision: Decision::Commit };
    let effects = on(&mut participant, told);
    assert_eq!(effects, [participant::Effect::AskVoter(Request::Decided(Decision::Commit))]);
    let answer = Answer::Ended(Decision::Commit);
    let effects =
        on(&mut participant, participant::Event::VoterAnswered { answer, roster: Some(roster()), is_read_only: None });
    assert!(effects.contains(&participant::Effect::Call(crate::branch::Hook::Commit)), "{effects:?}");
}

#[test]
fn a_stranger_tells_no_outcome_and_a_contradiction_is_shown() {
    let mut participant = in_doubt();
    let told = |from: &str, decision| participant::Event::PeerDecided { from: voter_name(from), decision };
    assert_eq!(on(&mut participant, told("mallory", Decision::Abort)), []);
    on(&mut participant, told("b", Decision::Abort));
    assert_eq!(participant.stage(), Stage::Deciding(Decision::Abort));
    let effects = on(&mut participant, told("b", Decision::Commit));
    assert_eq!(effects, [participant::Effect::Contradiction { doing: Decision::Abort }]);
}

#[test]
fn a_branch_that_is_told_twice_forgets_once_its_hook_is_done() {
    let mut store = voted();
    store.ask(Request::Decided(Decision::Abort));
    let record = store.stored.expect("it has voted");
    let (mut participant, output) = Participant::recover(&record, "a".parse().expect("valid"), NodeId(7));
    assert!(output.peek_effects().contains(&participant::Effect::Call(Hook::Abort)));
    assert_eq!(on(&mut participant, participant::Event::Forgotten), []);
    let effects = on(&mut participant, participant::Event::EndFinished(HookEnd::Ended(BranchResult::Done)));
    assert!(effects.contains(&participant::Effect::ForgetVoter), "{effects:?}");
    assert!(participant.is_ended());
}

/// It may have ended before, and lost that (see `docs/decisions/0008`): an abort that is presumed for an inquiry would undo what it has committed.
#[test]
fn who_is_found_pre_committed_leads_and_does_not_inquire() {
    let mut store = voted();
    store.ask(Request::Propose { ballot: Ballot::FIRST, proposal: Proposal::PreCommit });
    let record = store.stored.expect("it has voted");
    let (mut participant, output) = Participant::recover(&record, "a".parse().expect("valid"), NodeId(7));
    let mut all = output.peek_effects().to_vec();
    let timers = [participant::Timer::Branch(branch::Timer::Inquire), participant::Timer::Election];
    all.extend(on(&mut participant, participant::Event::SessionUp));
    assert!(participant.leader().is_some());
    all.extend(on(&mut participant, participant::Event::Waited));
    for timer in timers {
        all.extend(on(&mut participant, participant::Event::TimerFired(timer)));
    }
    assert!(!all.contains(&participant::Effect::Send(Message::Inquire)), "{all:?}");
    // Whoever only waits has no row that could have ended without it.
    let record = voted().stored.expect("it has voted");
    let (mut participant, _) = Participant::recover(&record, "a".parse().expect("valid"), NodeId(7));
    let asked = on(&mut participant, participant::Event::SessionUp);
    assert!(asked.contains(&participant::Effect::Send(Message::Inquire)), "{asked:?}");
}

/// The swarm found it as seed 19728: whoever had lost that it committed, while the others had forgotten and the log was away, waited for ever.
#[test]
fn who_stands_pre_committed_and_meets_one_that_has_forgotten_has_committed() {
    let leading_from = |standing, accepted| {
        let mut participant = in_doubt();
        on(&mut participant, ELECTION);
        on(&mut participant, ELECTION);
        let ballot = participant.leader().expect("it leads").ballot();
        on(&mut participant, own(Answer::Joined { ballot, standing, accepted }));
        participant
    };
    let forgotten = |voter| participant::Event::PeerAnswered { voter, answer: Answer::Barred(Bar::Forgotten) };
    for voter in [voter_name("b"), VoterName::Log] {
        let mut participant = leading_from(Standing::PreCommitted, Some(Ballot::FIRST));
        let effects = on(&mut participant, forgotten(voter.clone()));
        assert_eq!(effects, [participant::Effect::AskVoter(Request::Elected(Decision::Commit))], "{voter}");
        // Who waits, or stands pre-aborted, forces what it is told: it has not ended.
        for (standing, accepted) in [(Standing::Waiting, None), (Standing::PreAborted, Some(Ballot::FIRST))] {
            let mut participant = leading_from(standing, accepted);
            assert_eq!(on(&mut participant, forgotten(voter.clone())), [], "{voter}");
        }
        // Nor is it so because its store could not be read.
        let mut participant = leading_from(Standing::PreCommitted, Some(Ballot::FIRST));
        let lost = participant::Event::PeerAnswered { voter, answer: Answer::Barred(Bar::StateLost) };
        assert_eq!(on(&mut participant, lost), []);
    }
}
