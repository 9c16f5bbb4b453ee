//! What a replica knows of a gtid, crossed with what it is told about it; and the cells of the
//! transition tables of three-phase commit.

use assent_protocol::branch::Message;
use assent_protocol::message::{Ask, FromClient};
use assent_protocol::replica::Known;
use assent_protocol::two_phase::Vote;

use crate::shared::Cells;

/// What a replica knows of a gtid, crossed with the messages.
pub(crate) static CELLS: Cells = Cells::new();
/// The transition tables of three-phase commit.
pub(crate) static THREE_PHASE: Cells = Cells::new();

pub(crate) fn known(known: Known) -> &'static str {
    match known {
        Known::Transaction => "transaction",
        Known::Saga => "saga",
        Known::Asking => "asking",
        Known::Ended => "ended",
        Known::EndedInLog => "ended, in the log",
        Known::Unknown => "unknown",
    }
}

pub(crate) fn kind(message: &FromClient) -> &'static str {
    match message {
        FromClient::Hello(_) | FromClient::Heartbeat => "session",
        FromClient::Request(request) => match &request.ask {
            Ask::Begin { .. } => "begin",
            Ask::Commit(commit) if commit.begun => "commit, begun",
            Ask::Commit(commit) if commit.attempt == 1 => "commit, first",
            Ask::Commit(_) => "commit, again",
            Ask::Abort { .. } => "abort",
            Ask::StartSaga { attempt: 1, .. } => "start saga, first",
            Ask::StartSaga { .. } => "start saga, again",
            Ask::Await { .. } => "await",
            Ask::Enlist { .. } => "enlist",
        },
        FromClient::Branch(report) => match &report.message {
            Message::Vote(Vote::Yes) => "yes",
            Message::Vote(Vote::ReadOnly) => "read-only",
            Message::Vote(Vote::No(_)) => "no",
            Message::Vote(Vote::Unknown(_)) => "unknown vote",
            Message::Vote(Vote::Committed) => "committed",
            Message::Acknowledge(_) => "acknowledge",
            Message::Inquire => "inquire",
        },
        FromClient::Step(answer) if answer.compensation => "compensation answered",
        FromClient::Step(_) => "action answered",
        FromClient::Voter(_) => "voter",
    }
}

/// The cells that the swarm must meet: all that its sessions can bring about. A first commit and a
/// first start always find their gtid unknown.
#[cfg(test)]
pub(crate) const TABLE: &[(&str, &[&str])] = &[
    (
        "asking",
        &[
            "abort",
            "acknowledge",
            "action answered",
            "await",
            "begin",
            "commit, again",
            "commit, begun",
            "compensation answered",
            "enlist",
            "inquire",
            "start saga, again",
            "unknown vote",
            "yes",
        ],
    ),
    (
        "ended",
        &[
            "abort",
            "acknowledge",
            "await",
            "begin",
            "commit, again",
            "commit, begun",
            "committed",
            "enlist",
            "inquire",
            "no",
            "read-only",
            "yes",
        ],
    ),
    ("ended, in the log", &["abort", "action answered", "await", "compensation answered", "start saga, again"]),
    ("saga", &["abort", "action answered", "await", "compensation answered", "start saga, again"]),
    (
        "transaction",
        &[
            "abort",
            "acknowledge",
            "await",
            "begin",
            "commit, again",
            "commit, begun",
            "committed",
            "enlist",
            "inquire",
            "no",
            "read-only",
            "unknown vote",
            "yes",
        ],
    ),
    (
        "unknown",
        &[
            "abort",
            "acknowledge",
            "action answered",
            "await",
            "begin",
            "commit, again",
            "commit, begun",
            "commit, first",
            "committed",
            "compensation answered",
            "enlist",
            "inquire",
            "no",
            "read-only",
            "start saga, again",
            "start saga, first",
            "unknown vote",
            "yes",
        ],
    ),
];

/// The cells of the transition tables of three-phase commit that the swarm must meet. What is left
/// out it meets seldom, or no process says it: begins that are repeated, branches that are named one
/// by one, names that nobody has ever borne, votes that come again over one stream, orders to end a
/// branch that has neither a machine nor a record, which are carried out as those of two phases.
#[cfg(test)]
pub(crate) const THREE_PHASE_TABLE: &[(&str, &[&str])] = &[
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
    ("participant: unmet", &["prepare ordered"]),
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
        ],
    ),
    (
        "participant: voting",
        &[
            "abort ordered",
            "election timer",
            "inquiry timer",
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
