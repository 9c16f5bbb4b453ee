//! The cells of the transition tables: those of the coordinator, the participant, the voter and the leader.

use assent_protocol::branch;
use assent_protocol::three_phase::coordinator::{self, Introduction};
use assent_protocol::three_phase::{Answer, Bar, Leader, Request, Standing, VoterState, leader, participant};
use assent_protocol::two_phase::{self, Route};
use assent_protocol::{Appended, Decision};

use crate::shared::Cells;

pub(crate) static CELLS: Cells = Cells::new();

pub(crate) fn coordinator_word(stage: coordinator::Stage) -> &'static str {
    match stage {
        coordinator::Stage::Voting => "coordinator: voting",
        coordinator::Stage::Attempting => "coordinator: attempting",
        coordinator::Stage::Agreeing => "coordinator: agreeing",
        coordinator::Stage::Agreed(_) => "coordinator: agreed",
    }
}

pub(crate) fn coordinator_kind(event: &coordinator::Event) -> &'static str {
    match event {
        coordinator::Event::TwoPhase(event) => two_phase_kind(event),
        coordinator::Event::Introduced { introduction, .. } => match introduction {
            Introduction::Voter { .. } => "introduced, seated",
            Introduction::Absent => "introduced, absent",
            Introduction::NoVoter => "introduced, without a voter",
            Introduction::Unknown => "introduced, unknown",
        },
        coordinator::Event::Answered { answer, .. } => answer_kind(*answer),
        coordinator::Event::Asked { request, .. } => request_kind(request),
        coordinator::Event::LogDue => "log due",
        coordinator::Event::ElectionDue => "election due",
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

pub(crate) fn request_kind(request: &Request) -> &'static str {
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
        Answer::Barred(_) => "barred",
    }
}

pub(crate) fn participant_word(stage: participant::Stage) -> &'static str {
    match stage {
        participant::Stage::Unvoted => "participant: unvoted",
        participant::Stage::Voting => "participant: voting",
        participant::Stage::InDoubt => "participant: in doubt",
        participant::Stage::Deciding(_) => "participant: deciding",
        participant::Stage::Decided(_) => "participant: decided",
    }
}

pub(crate) fn participant_kind(event: &participant::Event) -> &'static str {
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

pub(crate) fn voter_word(state: Option<VoterState>) -> &'static str {
    match state.map(|state| state.standing) {
        None => "voter: none",
        Some(Standing::Waiting) => "voter: waiting",
        Some(Standing::PreCommitted) => "voter: pre-committed",
        Some(Standing::PreAborted) => "voter: pre-aborted",
        Some(Standing::Committed) => "voter: committed",
        Some(Standing::Aborted) => "voter: aborted",
    }
}

/// An answer that reaches a leader, or its timer.
pub(crate) fn hit_leader(leader: Option<&Leader>, answer: Option<Answer>) {
    let Some(leader) = leader else { return };
    let state = match leader.state() {
        leader::State::Joining => "leader: joining",
        leader::State::Proposing(_) => "leader: proposing",
        leader::State::Ended(_) => "leader: ended",
    };
    CELLS.hit(state, answer.map_or("retry timer", answer_kind));
}

/// What the swarm must meet: each cell that its first 800 seeds meet, of the 3,000 that every test runs. What is left out it meets seldom, or no
/// driver says it: begins that are repeated, branches that are named one by one, names that nobody has ever borne.
#[cfg(test)]
pub(crate) const TABLE: &[(&str, &[&str])] = &[
    (
        "coordinator: agreed",
        &[
            "accepted",
            "acknowledged",
            "asked to join",
            "asked to join as one that has voted",
            "commit requested",
            "deadline",
            "durable",
            "election due",
            "ended",
            "inquired",
            "joined",
            "joined its ballot",
            "left",
            "log due",
            "overruled",
            "rejected",
            "resend",
            "routed to an instance",
            "routed, absent",
            "told to abort",
            "told to commit",
            "voted",
        ],
    ),
    (
        "coordinator: agreeing",
        &[
            "accepted",
            "acknowledged",
            "asked to join",
            "asked to join as one that has voted",
            "barred",
            "commit requested",
            "deadline",
            "durable",
            "election due",
            "ended",
            "inquired",
            "joined",
            "joined its ballot",
            "left",
            "log due",
            "proposed to",
            "rejected",
            "told to abort",
            "told to commit",
            "voted",
        ],
    ),
    (
        "coordinator: attempting",
        &[
            "acknowledged",
            "asked to join",
            "commit requested",
            "deadline",
            "durable",
            "inquired",
            "joined",
            "left",
            "overruled",
            "told to abort",
            "voted",
        ],
    ),
    (
        "coordinator: voting",
        &[
            "acknowledged",
            "asked to join",
            "commit requested",
            "deadline",
            "durable",
            "enlisted",
            "inquired",
            "introduced, absent",
            "introduced, seated",
            "introduced, without a voter",
            "joined",
            "left",
            "overruled",
            "resend",
            "routed to an instance",
            "routed, absent",
            "told to abort",
            "voted",
        ],
    ),
    ("leader: joining", &["accepted", "barred", "ended", "joined its ballot", "rejected", "retry timer"]),
    ("leader: proposing", &["accepted", "ended", "joined its ballot", "rejected", "retry timer"]),
    (
        "participant: decided",
        &[
            "abort ordered",
            "commit ordered",
            "end finished",
            "forgotten",
            "inquiry timer",
            "own voter ended",
            "peer answered",
            "peer says abort",
            "peer says commit",
            "peer seen",
            "prepare ordered",
            "retry timer",
            "session up",
            "told to wait",
        ],
    ),
    (
        "participant: deciding",
        &[
            "abort ordered",
            "commit ordered",
            "election timer",
            "forgotten",
            "inquiry timer",
            "own voter accepted",
            "own voter ended",
            "own voter joined",
            "own voter voted yes",
            "peer answered",
            "peer says abort",
            "peer seen",
            "prepare ordered",
            "told to wait",
        ],
    ),
    (
        "participant: in doubt",
        &[
            "abort ordered",
            "commit ordered",
            "election timer",
            "inquiry timer",
            "own voter accepted",
            "own voter ended",
            "own voter joined",
            "own voter rejected",
            "peer answered",
            "peer says abort",
            "peer says commit",
            "peer seen",
            "round timer",
            "session up",
            "told to wait",
        ],
    ),
    ("participant: unmet", &["abort ordered", "commit ordered", "prepare ordered", "session up"]),
    (
        "participant: unvoted",
        &[
            "abort ordered",
            "election timer",
            "inquiry timer",
            "own voter ended",
            "peer says abort",
            "peer seen",
            "prepare finished",
            "prepare ordered",
            "session up",
            "told to wait",
        ],
    ),
    (
        "participant: voting",
        &[
            "abort ordered",
            "election timer",
            "inquiry timer",
            "own voter barred",
            "own voter ended",
            "own voter voted yes",
            "peer says abort",
            "peer seen",
            "told to wait",
        ],
    ),
    (
        "voter: aborted",
        &[
            "asked to join",
            "asked to join as one that has voted",
            "proposed to",
            "told to abort",
            "vote no",
            "vote yes",
        ],
    ),
    ("voter: committed", &["asked to join", "asked to join as one that has voted", "proposed to"]),
    (
        "voter: none",
        &[
            "asked to join",
            "asked to join as one that has voted",
            "proposed to",
            "told to abort",
            "told to commit",
            "vote no",
            "vote yes",
        ],
    ),
    (
        "voter: pre-aborted",
        &[
            "asked to join",
            "asked to join as one that has voted",
            "proposed to",
            "told to abort",
            "told what it elected",
        ],
    ),
    (
        "voter: pre-committed",
        &[
            "asked to join",
            "asked to join as one that has voted",
            "proposed to",
            "told to commit",
            "told what it elected",
        ],
    ),
    (
        "voter: waiting",
        &[
            "asked to join",
            "asked to join as one that has voted",
            "proposed to",
            "told to abort",
            "told to commit",
            "told what it elected",
        ],
    ),
];
