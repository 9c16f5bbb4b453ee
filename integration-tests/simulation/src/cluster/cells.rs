//! What a replica knows of a gtid, crossed with what it is told about it.

use assent_protocol::branch::Message;
use assent_protocol::message::{Ask, FromClient};
use assent_protocol::replica::Known;
use assent_protocol::two_phase::Vote;

use crate::shared::Cells;

pub(crate) static CELLS: Cells = Cells::new();

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
