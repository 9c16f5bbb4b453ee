//! The cells of the transition tables, by name: which event met which state. Tests collect them,
//! and fail if one that must be met never was.

use super::coordinator::{self, Coordinator, Introduction};
use super::participant::{self, Participant};
use super::{Answer, Bar, Leader, Request, Standing, Voter, leader};
use crate::branch;
use crate::durable::Appended;
use crate::record::Decision;
use crate::two_phase::{self, Route};

/// A state, and the event that met it.
pub type Cell = (&'static str, &'static str);

/// The cell of a coordinator's event, and that of the leader within, if it hears of the event.
pub fn of_coordinator(before: &Coordinator, event: &coordinator::Event) -> Vec<Cell> {
    let (kind, for_leader) = match event {
        coordinator::Event::TwoPhase(event) => (two_phase_kind(event), None),
        coordinator::Event::Introduced { introduction, .. } => (introduction_kind(introduction), None),
        coordinator::Event::Answered { answer, .. } => (answer_kind(*answer), Some(answer_kind(*answer))),
        coordinator::Event::Asked { request, .. } => (request_kind(request), None),
        coordinator::Event::LogDue => ("log due", None),
        coordinator::Event::ElectionDue => ("election due", Some("retry timer")),
    };
    let stage = match before.stage() {
        coordinator::Stage::Voting => "coordinator: voting",
        coordinator::Stage::Attempting => "coordinator: attempting",
        coordinator::Stage::Agreeing => "coordinator: agreeing",
        coordinator::Stage::Agreed(_) => "coordinator: agreed",
    };
    let of_leader = before.leader().zip(for_leader).map(|(leader, kind)| (leader_word(leader), kind));
    std::iter::once((stage, kind)).chain(of_leader).collect()
}

/// The cell of a participant's event, and that of the leader within, if it hears of the event.
pub fn of_participant(before: Option<&Participant>, event: &participant::Event) -> Vec<Cell> {
    let stage = before.map_or("participant: unmet", |before| stage_word(before.stage()));
    let for_leader = if let participant::Event::PeerAnswered { answer, .. }
    | participant::Event::VoterAnswered { answer, .. } = event
    {
        Some(answer_kind(*answer))
    } else {
        (*event == participant::Event::TimerFired(participant::Timer::Round)).then_some("retry timer")
    };
    let leader = before.and_then(Participant::leader);
    let of_leader = leader.zip(for_leader).map(|(leader, kind)| (leader_word(leader), kind));
    std::iter::once((stage, participant_kind(event))).chain(of_leader).collect()
}

/// The cell of a question to a voter.
pub fn of_voter(before: &Voter, request: &Request) -> Cell {
    let state = match before.state().map(|state| state.standing) {
        None => "voter: none",
        Some(Standing::Waiting) => "voter: waiting",
        Some(Standing::PreCommitted) => "voter: pre-committed",
        Some(Standing::PreAborted) => "voter: pre-aborted",
        Some(Standing::Committed) => "voter: committed",
        Some(Standing::Aborted) => "voter: aborted",
    };
    (state, request_kind(request))
}

fn introduction_kind(introduction: &Introduction) -> &'static str {
    match introduction {
        Introduction::Voter { .. } => "introduced, seated",
        Introduction::Absent => "introduced, absent",
        Introduction::NoVoter => "introduced, without a voter",
        Introduction::Unknown => "introduced, unknown",
    }
}

fn two_phase_kind(event: &two_phase::Event) -> &'static str {
    match event {
        two_phase::Event::BeginRequested { .. } => "begin requested",
        two_phase::Event::Enlisted { .. } => "enlisted",
        two_phase::Event::BranchNamed { .. } => "branch named",
        two_phase::Event::CommitRequested { .. } => "commit requested",
        two_phase::Event::AbortRequested { .. } => "abort requested",
        two_phase::Event::OutcomeAwaited { .. } => "outcome awaited",
        two_phase::Event::CallerLeft { .. } => "caller left",
        two_phase::Event::Routed { to: Route::Instance(_), .. } => "routed to an instance",
        two_phase::Event::Routed { to: Route::Absent, .. } => "routed, absent",
        two_phase::Event::Routed { to: Route::Unknown, .. } => "routed, unknown",
        two_phase::Event::Voted { .. } => "voted",
        two_phase::Event::Acknowledged { .. } => "acknowledged",
        two_phase::Event::Inquired { .. } => "inquired",
        two_phase::Event::Joined { .. } => "joined",
        two_phase::Event::Left { .. } => "left",
        two_phase::Event::TimerFired(two_phase::Timer::Deadline) => "deadline",
        two_phase::Event::TimerFired(two_phase::Timer::Absence) => "absence",
        two_phase::Event::TimerFired(two_phase::Timer::Resend) => "resend",
        two_phase::Event::Appended(Appended::Durable(_)) => "durable",
        two_phase::Event::Appended(Appended::Overruled { .. }) => "overruled",
        two_phase::Event::Appended(Appended::Undecided) => "undecided",
    }
}

fn request_kind(request: &Request) -> &'static str {
    match request {
        Request::VoteYes { .. } => "vote yes",
        Request::VoteNo => "vote no",
        Request::Join { has_voted: false, .. } => "asked to join",
        Request::Join { has_voted: true, .. } => "asked to join as one that has voted",
        Request::Propose { .. } => "proposed to",
        Request::Decided(Decision::Commit) => "told to commit",
        Request::Decided(Decision::Abort) => "told to abort",
        Request::Elected(_) => "told what it elected",
    }
}

fn answer_kind(answer: Answer) -> &'static str {
    match answer {
        Answer::VotedYes { .. } => "voted yes",
        Answer::Joined { .. } => "joined its ballot",
        Answer::Accepted { .. } => "accepted",
        Answer::Rejected { .. } => "rejected",
        Answer::Ended(_) => "ended",
        Answer::Barred(Bar::Forgotten) => "forgotten",
        Answer::Barred(Bar::StateLost | Bar::Stranger | Bar::OtherRoster | Bar::NotInRoster) => "barred",
    }
}

fn stage_word(stage: participant::Stage) -> &'static str {
    match stage {
        participant::Stage::Unvoted => "participant: unvoted",
        participant::Stage::Voting => "participant: voting",
        participant::Stage::InDoubt => "participant: in doubt",
        participant::Stage::Deciding(_) => "participant: deciding",
        participant::Stage::Decided(_) => "participant: decided",
    }
}

fn participant_kind(event: &participant::Event) -> &'static str {
    match event {
        participant::Event::PrepareOrdered { .. } => "prepare ordered",
        participant::Event::Decided { decision: Decision::Commit, .. } => "commit ordered",
        participant::Event::Decided { decision: Decision::Abort, .. } => "abort ordered",
        participant::Event::Waited => "told to wait",
        participant::Event::Forgotten => "forgotten",
        participant::Event::PeerDecided { decision: Decision::Commit, .. } => "peer says commit",
        participant::Event::PeerDecided { decision: Decision::Abort, .. } => "peer says abort",
        participant::Event::PeerSeen { .. } => "peer seen",
        participant::Event::VoterAnswered { answer, .. } => match answer {
            Answer::VotedYes { .. } => "own voter voted yes",
            Answer::Joined { .. } => "own voter joined",
            Answer::Accepted { .. } => "own voter accepted",
            Answer::Rejected { .. } => "own voter rejected",
            Answer::Ended(_) => "own voter ended",
            Answer::Barred(_) => "own voter barred",
        },
        participant::Event::PeerAnswered { .. } => "peer answered",
        participant::Event::PrepareFinished(_) => "prepare finished",
        participant::Event::EndFinished(_) => "end finished",
        participant::Event::SessionUp => "session up",
        participant::Event::TimerFired(participant::Timer::Branch(branch::Timer::Inquire)) => "inquiry timer",
        participant::Event::TimerFired(participant::Timer::Branch(branch::Timer::Retry)) => "retry timer",
        participant::Event::TimerFired(participant::Timer::Election) => "election timer",
        participant::Event::TimerFired(participant::Timer::Round) => "round timer",
    }
}

fn leader_word(leader: &Leader) -> &'static str {
    match leader.state() {
        leader::State::Joining => "leader: joining",
        leader::State::Proposing(_) => "leader: proposing",
        leader::State::Ended(_) => "leader: ended",
    }
}
