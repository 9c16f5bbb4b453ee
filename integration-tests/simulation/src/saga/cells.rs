//! The cells of the transition table, and those that the models must meet.

use assent_protocol::Appended;
use assent_protocol::saga::{Event, Stage};

use crate::shared::Cells;

pub(crate) static CELLS: Cells = Cells::new();

pub(crate) fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Starting => "starting",
        Stage::Running => "running",
        Stage::Deciding => "deciding",
        Stage::Turning => "turning",
        Stage::Compensating => "compensating",
        Stage::PausedRunning => "paused running",
        Stage::PausedCompensating => "paused compensating",
        Stage::Ending => "ending",
        Stage::Ended => "ended",
        Stage::Overruled => "overruled",
    }
}

pub(crate) fn kind(event: &Event) -> &'static str {
    match event {
        Event::StepAnswered { compensation: false, .. } => "action answered",
        Event::StepAnswered { compensation: true, .. } => "compensation answered",
        Event::Sent { .. } => "sent",
        Event::Undeliverable { .. } => "undeliverable",
        Event::Joined { .. } => "joined",
        Event::Left { .. } => "left",
        Event::TimerFired(_) => "timer",
        Event::Appended(Appended::Durable(_)) => "durable",
        Event::Appended(Appended::Overruled { .. }) => "overruled",
        Event::Appended(Appended::Undecided) => "undecided",
        Event::StartRequested { .. } => "start requested",
        Event::WaitRequested { .. } => "wait requested",
        Event::CompensateRequested { .. } => "compensate requested",
        Event::CallerLeft { .. } => "caller left",
        Event::PauseRequested { .. } => "pause requested",
        Event::ResumeRequested => "resume requested",
    }
}

/// What the models must meet. What is left out no session of theirs says: requests that cannot be delivered, pauses on an operator's
/// wish, waiting without a start.
pub(crate) const TABLE: &[(&str, &[&str])] = &[
    (
        "compensating",
        &[
            "action answered",
            "caller left",
            "compensate requested",
            "compensation answered",
            "joined",
            "left",
            "sent",
            "start requested",
            "timer",
        ],
    ),
    ("deciding", &["action answered", "durable", "sent", "start requested", "timer"]),
    (
        "ending",
        &[
            "action answered",
            "caller left",
            "compensate requested",
            "compensation answered",
            "durable",
            "joined",
            "left",
            "start requested",
            "timer",
        ],
    ),
    ("paused compensating", &["action answered", "compensation answered", "resume requested", "timer"]),
    ("paused running", &["action answered", "resume requested"]),
    (
        "running",
        &[
            "action answered",
            "caller left",
            "compensate requested",
            "durable",
            "joined",
            "left",
            "sent",
            "start requested",
            "timer",
        ],
    ),
    ("starting", &["caller left", "compensate requested", "durable", "sent", "start requested"]),
    (
        "turning",
        &[
            "action answered",
            "caller left",
            "compensate requested",
            "durable",
            "joined",
            "left",
            "sent",
            "start requested",
            "timer",
        ],
    ),
];
