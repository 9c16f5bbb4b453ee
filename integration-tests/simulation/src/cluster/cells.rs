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
            Ask::StartSaga { .. } => "start saga",
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
        FromClient::Step(_) => "step answer",
        FromClient::Voter(_) => "voter",
    }
}

/// The cells that the swarm must meet: all that its sessions can bring about. A first commit always
/// finds its gtid unknown.
#[cfg(test)]
pub(crate) const TABLE: &[(&str, &[&str])] = &[
    (
        "asking",
        &[
            "acknowledge",
            "await",
            "begin",
            "commit, again",
            "commit, begun",
            "enlist",
            "inquire",
            "unknown vote",
            "yes",
        ],
    ),
    (
        "ended",
        &[
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
    (
        "transaction",
        &[
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
            "acknowledge",
            "await",
            "begin",
            "commit, again",
            "commit, begun",
            "commit, first",
            "committed",
            "enlist",
            "inquire",
            "no",
            "read-only",
            "unknown vote",
            "yes",
        ],
    ),
];
