//! Records as rows of the table, and back.

use assent_protocol::three_phase::{Ballot, NodeId, Roster, Standing, VoterName, VoterRecord, VoterState};
use assent_protocol::{Gtid, ParticipantName};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::failed;
use crate::voter::VoterStoreError;
use crate::voter::store::Write;

/// Keeps records where what they replace still stands, and answers which.
pub(super) const KEEP: &str = include_str!("keep.sql");

pub(super) const LOAD: &str =
    "select gtid, roster::text as roster, is_read_only, standing, joined, accepted from assent_voter
    where participant = $1 and gtid = any($2)";

pub(super) const LIST: &str =
    "select gtid, roster::text as roster, is_read_only, standing, joined, accepted from assent_voter
    where participant = $1 and gtid <> $2 order by gtid";

pub(super) const FORGET: &str = "delete from assent_voter
    where participant = $1 and gtid = any($2) and standing in ('committed', 'aborted')";

/// Records, column by column.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) gtid: Vec<Uuid>,
    pub(super) roster: Vec<Option<String>>,
    pub(super) is_read_only: Vec<bool>,
    pub(super) standing: Vec<&'static str>,
    pub(super) joined: Vec<String>,
    pub(super) accepted: Vec<Option<String>>,
    pub(super) old_standing: Vec<Option<&'static str>>,
    pub(super) old_joined: Vec<Option<String>>,
    pub(super) old_accepted: Vec<Option<String>>,
}

impl Rows {
    pub(super) fn of(writes: &[Write]) -> Self {
        let mut rows = Self::default();
        for Write { record, before } in writes {
            rows.gtid.push(record.gtid.as_uuid());
            // A roster does not change, and is not written again.
            let roster = record.roster.as_ref().filter(|_| before.is_none());
            // Names, numbers and addresses: there is nothing in it that JSON could refuse.
            rows.roster.push(roster.map(|roster| serde_json::to_string(roster).expect("a roster is written as JSON")));
            rows.is_read_only.push(record.is_read_only);
            rows.standing.push(record.state.standing.as_str());
            rows.joined.push(record.state.joined.to_string());
            rows.accepted.push(record.state.accepted.map(|ballot| ballot.to_string()));
            rows.old_standing.push(before.map(|before| before.standing.as_str()));
            rows.old_joined.push(before.map(|before| before.joined.to_string()));
            rows.old_accepted.push(before.and_then(|before| before.accepted).map(|ballot| ballot.to_string()));
        }
        rows
    }
}

pub(super) fn gtid_of(row: &PgRow) -> Option<Uuid> {
    row.try_get("gtid").ok()
}

pub(super) fn read(me: &str, row: &PgRow) -> Result<VoterRecord, VoterStoreError> {
    let id: Uuid = row.try_get("gtid").map_err(failed("read a vote"))?;
    let gtid = Gtid::new(id).map_err(|error| VoterStoreError::Database {
        doing: "read a vote",
        source: format!("{id} is no gtid: {error}").into(),
    })?;
    let unreadable = |problem: String| VoterStoreError::Unreadable { gtid, problem };
    let column = |error: sqlx::Error| unreadable(error.to_string());
    let standing: String = row.try_get("standing").map_err(column)?;
    let standing = Standing::from_word(&standing).ok_or_else(|| unreadable(format!("standing {standing}")))?;
    let joined: String = row.try_get("joined").map_err(column)?;
    let accepted: Option<String> = row.try_get("accepted").map_err(column)?;
    let ballot = |text: &str| read_ballot(text).ok_or_else(|| unreadable(format!("ballot {text}")));
    let state =
        VoterState { standing, joined: ballot(&joined)?, accepted: accepted.as_deref().map(ballot).transpose()? };
    let roster: Option<String> = row.try_get("roster").map_err(column)?;
    let roster: Option<Roster> = roster
        .map(|roster| serde_json::from_str(&roster))
        .transpose()
        .map_err(|error| unreadable(format!("roster: {error}")))?;
    let me = ParticipantName::new(me).map_err(|error| unreadable(error.to_string()))?;
    let is_read_only = row.try_get("is_read_only").map_err(column)?;
    Ok(VoterRecord { gtid, voter: VoterName::Participant(me), roster, is_read_only, state, before: None })
}

fn read_ballot(text: &str) -> Option<Ballot> {
    let (round, node) = text.split_once('.')?;
    let round = round.parse().ok().filter(|round| (1..=Ballot::ROUND_MAX).contains(round))?;
    Some(Ballot { round, node: NodeId(u128::from_str_radix(node, 16).ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ballot_is_written_as_it_is_read() {
        for ballot in [Ballot::FIRST, Ballot { round: Ballot::ROUND_MAX, node: NodeId(u128::MAX) }] {
            assert_eq!(read_ballot(&ballot.to_string()), Some(ballot));
        }
        for bad in ["", "1", "1.", ".1", "-1.2", "1.g"] {
            assert_eq!(read_ballot(bad), None, "{bad}");
        }
    }
}
