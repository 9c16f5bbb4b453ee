//! What a service tells the stage: one JSON object per line on its stdout.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use assent_sdk::Gtid;
use serde::{Deserialize, Serialize};

/// Something that happened in a service, told once it was durable there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    /// When, in Unix microseconds: it orders what services tell over pipes of their own.
    pub(super) at_us: u64,
    /// Who.
    pub(super) service: String,
    /// What.
    #[serde(flatten)]
    pub(super) event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    /// It joined the coordinator.
    Joined,
    /// It will commit nothing any more.
    HoldsCommits,
    /// It will vote on nothing until it may go on.
    HoldsVotes,
    /// It found a branch in doubt in its ledger, and asks about it.
    FoundInDoubt { gtid: Gtid },
    /// It prepared a branch and voted yes.
    VotedYes { gtid: Gtid, movements: String },
    /// It voted no.
    VotedNo { gtid: Gtid, reason: String },
    /// It was asked to commit, and does not.
    CommitHeld { gtid: Gtid },
    /// It committed a branch, or had before.
    Committed { gtid: Gtid, again: bool },
    /// It aborted a branch, or had before.
    Aborted { gtid: Gtid, again: bool },
    /// It executed a step.
    Executed { gtid: Gtid, step: String, movements: String },
    /// It refused a step.
    Refused { gtid: Gtid, step: String, reason: String },
    /// It compensated a step, or had before.
    Compensated { gtid: Gtid, step: String, again: bool },
}

impl Event {
    /// The transaction or saga that it is about.
    pub(super) fn gtid(&self) -> Option<Gtid> {
        match self {
            Self::Joined | Self::HoldsCommits | Self::HoldsVotes => None,
            Self::FoundInDoubt { gtid }
            | Self::VotedYes { gtid, .. }
            | Self::VotedNo { gtid, .. }
            | Self::CommitHeld { gtid }
            | Self::Committed { gtid, .. }
            | Self::Aborted { gtid, .. }
            | Self::Executed { gtid, .. }
            | Self::Refused { gtid, .. }
            | Self::Compensated { gtid, .. } => Some(*gtid),
        }
    }

    /// The same, for people; `None` for what is not worth telling.
    pub(super) fn in_words(&self) -> Option<String> {
        Some(match self {
            Self::Joined | Self::HoldsCommits | Self::HoldsVotes => return None,
            Self::FoundInDoubt { .. } => "finds the branch prepared in its ledger, and asks what became of it".into(),
            Self::VotedYes { movements, .. } => format!("votes yes: {movements}, prepared in its ledger"),
            Self::VotedNo { reason, .. } => format!("votes no: {reason}"),
            Self::CommitHeld { .. } => "is asked to commit, and has not done so yet".into(),
            Self::Committed { again: false, .. } => "commits".into(),
            Self::Committed { again: true, .. } => "is asked again; it has committed, and does nothing".into(),
            Self::Aborted { again: false, .. } => "aborts: what it had prepared is dropped".into(),
            Self::Aborted { again: true, .. } => "is asked again; it has aborted, and does nothing".into(),
            Self::Executed { step, movements, .. } => format!("{step}: {movements}"),
            Self::Refused { step, reason, .. } => format!("{step}: refused, {reason}"),
            Self::Compensated { step, again: false, .. } => format!("{step}: undone"),
            Self::Compensated { step, again: true, .. } => format!("{step}: asked again; it is undone already"),
        })
    }
}

/// Tells the stage. One that has gone hears nothing, and this process is about to end.
pub(super) fn tell(service: &str, event: Event) {
    let at_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    let told = Told { at_us: u64::try_from(at_us).unwrap_or(u64::MAX), service: service.to_owned(), event };
    if let Ok(line) = serde_json::to_string(&told) {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_understood() {
        let gtid = "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("a gtid");
        for event in [
            Event::Joined,
            Event::VotedNo { gtid, reason: "\"no\"\n".into() },
            Event::Compensated { gtid, step: "hotel".into(), again: true },
        ] {
            let told = Told { at_us: 7, service: "bank-a".into(), event };
            let line = serde_json::to_string(&told).expect("a line");
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Told>(&line).expect("an event"), told);
        }
    }
}
