//! The cells of the two machines' transition tables, and those that the models must meet.

use assent_protocol::branch::{self, Branch};
use assent_protocol::two_phase::{Event, Route, State, Timer};
use assent_protocol::{Appended, Decision};

use crate::shared::Cells;

pub(crate) static CELLS: Cells = Cells::new();

pub(crate) fn word(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::Preparing => "preparing",
        State::Delegating => "delegating",
        State::OnePhase => "one-phase",
        State::Recalling => "recalling",
        State::Deciding(Decision::Commit) => "deciding commit",
        State::Deciding(Decision::Abort) => "deciding abort",
        State::Committing => "committing",
        State::Aborting => "aborting",
        State::Committed => "committed",
        State::Aborted => "aborted",
    }
}

pub(crate) fn kind(event: &Event) -> &'static str {
    match event {
        Event::BeginRequested { .. } => "begin requested",
        Event::Enlisted { .. } => "enlisted",
        Event::BranchNamed { .. } => "branch named",
        Event::CommitRequested { .. } => "commit requested",
        Event::AbortRequested { .. } => "abort requested",
        Event::OutcomeAwaited { .. } => "outcome awaited",
        Event::CallerLeft { .. } => "caller left",
        Event::Routed { to: Route::Instance(_), .. } => "routed to an instance",
        Event::Routed { to: Route::Absent, .. } => "routed, absent",
        Event::Routed { to: Route::Unknown, .. } => "routed, unknown",
        Event::Voted { .. } => "voted",
        Event::Acknowledged { .. } => "acknowledged",
        Event::Inquired { .. } => "inquired",
        Event::Joined { .. } => "joined",
        Event::Left { .. } => "left",
        Event::TimerFired(Timer::Deadline) => "deadline",
        Event::TimerFired(Timer::Absence) => "absence",
        Event::TimerFired(Timer::Resend) => "resend",
        Event::Appended(Appended::Durable(_)) => "durable",
        Event::Appended(Appended::Overruled { .. }) => "overruled",
        Event::Appended(Appended::Undecided) => "undecided",
    }
}

pub(crate) fn branch_word(branch: Option<&Branch>) -> &'static str {
    match branch.map(Branch::state) {
        None | Some(branch::State::Ended) => "branch: absent",
        Some(branch::State::Preparing { .. }) => "branch: preparing",
        Some(branch::State::InDoubt) => "branch: in doubt",
        Some(branch::State::Committing) => "branch: committing",
        Some(branch::State::Aborting) => "branch: aborting",
    }
}

pub(crate) fn branch_kind(event: &branch::Event) -> &'static str {
    match event {
        branch::Event::PrepareOrdered { .. } => "prepare ordered",
        branch::Event::Decided { decision: Decision::Commit, .. } => "commit ordered",
        branch::Event::Decided { decision: Decision::Abort, .. } => "abort ordered",
        branch::Event::PrepareFinished(_) => "prepare finished",
        branch::Event::EndFinished(_) => "end finished",
        branch::Event::SessionUp => "session up",
        branch::Event::TimerFired(branch::Timer::Inquire) => "inquiry timer",
        branch::Event::TimerFired(branch::Timer::Retry) => "retry timer",
    }
}

/// What the models must meet. What is left out no session of theirs says: begins that are repeated, branches that are named one by one,
/// waiting without a request, names that nobody has ever borne.
pub(crate) const TABLE: &[(&str, &[&str])] = &[
    (
        "aborted",
        &[
            "abort requested",
            "acknowledged",
            "commit requested",
            "enlisted",
            "inquired",
            "joined",
            "outcome awaited",
            "routed to an instance",
            "routed, absent",
            "voted",
        ],
    ),
    (
        "aborting",
        &[
            "deadline",
            "abort requested",
            "absence",
            "acknowledged",
            "commit requested",
            "enlisted",
            "inquired",
            "joined",
            "resend",
            "routed to an instance",
            "routed, absent",
            "voted",
        ],
    ),
    ("active", &["abort requested", "commit requested", "deadline", "enlisted"]),
    ("branch: aborting", &["abort ordered", "end finished", "prepare ordered", "retry timer"]),
    ("branch: absent", &["abort ordered", "commit ordered", "prepare ordered"]),
    ("branch: committing", &["end finished"]),
    ("branch: in doubt", &["abort ordered", "commit ordered", "inquiry timer"]),
    ("branch: preparing", &["abort ordered", "prepare finished"]),
    (
        "committed",
        &[
            "abort requested",
            "acknowledged",
            "commit requested",
            "inquired",
            "joined",
            "routed to an instance",
            "routed, absent",
            "voted",
        ],
    ),
    (
        "committing",
        &[
            "deadline",
            "abort requested",
            "acknowledged",
            "commit requested",
            "enlisted",
            "inquired",
            "joined",
            "resend",
            "routed to an instance",
            "routed, absent",
            "voted",
        ],
    ),
    (
        "deciding abort",
        &[
            "deadline",
            "abort requested",
            "absence",
            "acknowledged",
            "caller left",
            "commit requested",
            "durable",
            "enlisted",
            "inquired",
            "joined",
            "overruled",
            "resend",
            "routed to an instance",
            "routed, absent",
            "voted",
        ],
    ),
    (
        "deciding commit",
        &[
            "deadline",
            "abort requested",
            "absence",
            "caller left",
            "commit requested",
            "durable",
            "enlisted",
            "inquired",
            "joined",
            "overruled",
            "resend",
            "routed to an instance",
            "routed, absent",
            "voted",
        ],
    ),
    (
        "delegating",
        &["abort requested", "caller left", "commit requested", "deadline", "durable", "joined", "outcome awaited"],
    ),
    (
        "recalling",
        &[
            "abort requested",
            "acknowledged",
            "caller left",
            "commit requested",
            "joined",
            "outcome awaited",
            "resend",
            "voted",
        ],
    ),
    (
        "one-phase",
        &[
            "abort requested",
            "absence",
            "caller left",
            "commit requested",
            "deadline",
            "joined",
            "left",
            "resend",
            "routed to an instance",
            "routed, absent",
            "voted",
        ],
    ),
    (
        "preparing",
        &[
            "abort requested",
            "absence",
            "caller left",
            "commit requested",
            "deadline",
            "inquired",
            "joined",
            "left",
            "routed to an instance",
            "routed, absent",
            "voted",
        ],
    ),
];
