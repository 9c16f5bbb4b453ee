//! Any text at all in the columns of a log, and in what is given for one.

use std::fmt::Debug;

use assent_protocol::fuzz::{self, Tape};
use assent_protocol::record::{EndedBranch, Member};
use assent_protocol::saga::{Kept, Saga, StepIndex, StepResult};
use assent_protocol::three_phase::{Coordinator, NodeId, Seat, StoreId};
use assent_protocol::two_phase::TwoPhase;
use assent_protocol::{BranchEnd, BranchId, Epoch, Outcome, Protocol};
use bytes::Bytes;

use super::read::{OpenSaga, OpenTransaction, PageToken};
use super::rows::{HistoryRow, OpenRow, StepRow};
use super::stored;
use super::url::{Target, redacted};

/// Reads each stored form: of a sample, as it is written; and damaged. What is read is read as the
/// same once it is written again.
///
/// # Panics
/// If that is not so.
pub fn stored(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    match tape.below(8) {
        0 => {
            let names = tape.participants();
            again(tape, names, |names| stored::roster(names), stored::parse_roster);
        }
        1 => {
            let (outcome, branches) = (outcome(tape), ended_branches(tape));
            let write = |all: &Vec<_>| columns(stored::branches(outcome, all), stored::ended_ids(all));
            again(tape, branches, write, |text| {
                let (branches, ids) = from_columns(text)?;
                stored::parse_branches(outcome, branches, ids)
            });
        }
        2 => {
            let state = fuzz::state(tape);
            again(tape, state, stored::voter, stored::parse_voter);
        }
        3 => {
            let roster = fuzz::roster(tape);
            let members: Vec<Member> = roster.participants().iter().map(Seat::member).collect();
            again(tape, roster, stored::voters, |text| stored::parse_voters(text, &members));
        }
        4 => {
            let definition = fuzz::definition(tape);
            again(tape, definition, stored::definition, |text| {
                // U+0000 may be escaped in damaged JSON. It is written without, and so it is read
                // from then on.
                stored::parse_definition(text).and_then(|read| stored::parse_definition(&stored::definition(&read)))
            });
        }
        5 => {
            let payload: Bytes = (0..tape.below(50)).map(|_| tape.byte()).collect();
            again(tape, payload, |payload| stored::payload(payload), stored::parse_payload);
        }
        6 => {
            let members = members(tape);
            let write = |members: &Vec<_>| columns(stored::names(members), stored::ids(members));
            again(tape, members, write, |text| {
                let (participants, ids) = from_columns(text)?;
                stored::parse_members(participants, ids)
            });
        }
        _ => {
            let steps = 1 + tape.below(3) as u16;
            let outputs: Vec<_> = (0..steps).map(|step| (StepIndex(step * 2), Bytes::from_static(b"out"))).collect();
            let write = |outputs: &Vec<_>| stored::outputs(outputs).unwrap_or_else(|| "{}".to_owned());
            again(tape, outputs, write, |text| stored::parse_outputs(Some(text)));
        }
    }
}

fn again<T: PartialEq + Debug>(
    tape: &mut Tape<'_>,
    sample: T,
    write: impl Fn(&T) -> String,
    read: impl Fn(&str) -> Result<T, String>,
) {
    let written = write(&sample);
    assert_eq!(read(&written).expect("just written"), sample);
    if let Ok(found) = read(&tape.damaged_text(written)) {
        assert_eq!(read(&write(&found)).expect("just written"), found);
    }
}

/// Two columns as one text, so that either may be damaged.
fn columns(names: String, ids: Option<String>) -> String {
    format!("{names} {}", ids.unwrap_or_default())
}

fn from_columns(text: &str) -> Result<(&str, Option<&str>), String> {
    let (names, ids) = text.split_once(' ').ok_or("one column")?;
    Ok((names, Some(ids).filter(|ids| !ids.is_empty())))
}

fn branch_id(tape: &mut Tape<'_>) -> BranchId {
    if tape.one_in(4) { BranchId::NONE } else { BranchId { epoch: Epoch(tape.number()), number: tape.number() } }
}

fn members(tape: &mut Tape<'_>) -> Vec<Member> {
    let names = tape.participants();
    names.into_iter().map(|participant| Member { participant, branch: branch_id(tape) }).collect()
}

fn outcome(tape: &mut Tape<'_>) -> Outcome {
    tape.pick(&[Outcome::Committed, Outcome::Aborted, Outcome::Completed, Outcome::Compensated])
}

fn ended_branches(tape: &mut Tape<'_>) -> Vec<EndedBranch> {
    let ends = [
        BranchEnd::Committed,
        BranchEnd::ReadOnly,
        BranchEnd::NotStarted,
        BranchEnd::Compensated,
        BranchEnd::HeuristicAborted,
    ];
    let branch = |tape: &mut Tape<'_>| EndedBranch {
        participant: tape.participant(),
        branch: branch_id(tape),
        step: tape.one_in(2).then(|| tape.participant()),
        end: tape.pick(&ends),
    };
    (0..tape.below(4)).map(|_| branch(tape)).collect()
}

// ---- rows --------------------------------------------------------------------------------------------------------------

/// Reads rows with anything in their columns, and lets recovery take up whatever can be read.
///
/// # Panics
/// If one can be neither refused nor taken up.
pub fn rows(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    let row = open_row(tape);
    let steps = (0..tape.below(4)).map(|_| step_row(tape)).collect();
    match row.parse(steps) {
        Ok(OpenTransaction::Decided { record, roster, .. }) if record.protocol == Protocol::ThreePhase => {
            drop(Coordinator::recover_decided(&record, roster, Epoch(2), NodeId(1), StoreId(1)));
        }
        Ok(OpenTransaction::Decided { record, .. }) => drop(TwoPhase::recover(&record, Epoch(2))),
        Ok(OpenTransaction::Delegated { record, .. }) => drop(TwoPhase::recover_delegated(&record, Epoch(2))),
        Ok(OpenTransaction::Attempted { record, state, .. }) => {
            drop(Coordinator::recover(&record, state, Epoch(2), NodeId(1), StoreId(1)));
        }
        Ok(OpenTransaction::Saga(OpenSaga { started, turned, paused, steps, .. })) => {
            let steps = steps.into_iter().map(|step| step.record).collect();
            drop(Saga::recover(Epoch(2), Kept { started, turned, steps, paused }));
        }
        Err(unreadable) => assert!(!unreadable.reason.is_empty()),
    }
    let outcome = outcome(tape);
    let branches = ended_branches(tape);
    let branch_ids = stored::ended_ids(&branches);
    let branches = stored::branches(outcome, &branches);
    let ended = HistoryRow {
        gtid: fuzz::gtid(),
        ended_at_ms: tape.number(),
        begun_at_ms: tape.number(),
        decided_at_ms: tape.one_in(2).then(|| tape.number()),
        digest: -1,
        protocol: word(tape, &["2pc", "3pc", "saga"]),
        outcome: word(tape, &["committed", "aborted", "completed", "compensated"]),
        branches: mostly(tape, branches),
        branch_ids: branch_ids.map(|ids| mostly(tape, ids)),
        reason: tape.one_in(2).then(|| tape.text()),
        outputs: tape.one_in(2).then(|| mostly(tape, "{\"0\":\"b3V0\"}".to_owned())),
        pinned: tape.one_in(2),
    };
    if let Err(unreadable) = ended.parse() {
        assert!(!unreadable.reason.is_empty());
    }
}

fn open_row(tape: &mut Tape<'_>) -> OpenRow {
    let members = members(tape);
    let (participants, branch_ids) = (stored::names(&members), stored::ids(&members));
    let definition = stored::definition(&fuzz::definition(tape));
    let voter = stored::voter(&fuzz::state(tape));
    let roster = stored::voters(&fuzz::roster(tape));
    OpenRow {
        gtid: fuzz::gtid(),
        owner_epoch: tape.pick(&[1, 2, 0, -1, i64::MAX]),
        digest: tape.pick(&[0, 7, -7]),
        begun_at_ms: tape.number(),
        decided_at_ms: tape.number(),
        protocol: word(tape, &["2pc", "3pc", "saga"]),
        decision: tape.one_in(2).then(|| word(tape, &["commit", "abort"])),
        participants: mostly(tape, participants),
        branch_ids: branch_ids.map(|ids| mostly(tape, ids)),
        reason: tape.one_in(2).then(|| tape.text()),
        remedy: tape.one_in(4).then(|| tape.text()),
        definition: (!tape.one_in(4)).then(|| mostly(tape, definition)),
        voter: (!tape.one_in(4)).then(|| mostly(tape, voter)),
        roster: (!tape.one_in(4)).then(|| mostly(tape, roster)),
        pinned: tape.one_in(2),
    }
}

fn step_row(tape: &mut Tape<'_>) -> StepRow {
    let result = fuzz::result(tape);
    let reason = (!matches!(result, StepResult::Done(_))).then(|| tape.text());
    StepRow {
        gtid: fuzz::gtid(),
        step: tape.pick(&[0, 1, 2, 3, 4, -1, 70_000]),
        compensation: tape.one_in(3),
        attempt: tape.pick(&[1, 2, 0, -1, i64::from(u32::MAX), i64::MAX]),
        result: stored::result(&result).0.to_owned(),
        output: (reason.is_none() || tape.one_in(8)).then(|| Bytes::from_static(b"out")),
        reason,
        at_ms: tape.number(),
    }
}

/// One of these words, now and then damaged.
fn word(tape: &mut Tape<'_>, words: &[&str]) -> String {
    let word = tape.pick(words).to_owned();
    mostly(tape, word)
}

fn mostly(tape: &mut Tape<'_>, text: String) -> String {
    if tape.one_in(8) { tape.damaged_text(text) } else { text }
}

// ---- what is given from outside ----------------------------------------------------------------------------------------

/// Reads a page token.
///
/// # Panics
/// If what is read is not written and read as the same.
pub fn page_token(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    let text = tape.damaged_text(PageToken::before(fuzz::gtid()).to_string());
    if let Ok(token) = text.parse::<PageToken>() {
        assert_eq!(token.to_string().parse::<PageToken>().ok(), Some(token));
    }
}

/// Reads the URL of a log, and shows it without its password.
///
/// # Panics
/// If the password is shown.
pub fn log_url(bytes: &[u8]) {
    const PASSWORD: &str = "hush-hush";
    let tape = &mut Tape::new(bytes);
    let scheme = tape.pick(&["postgres://", "postgresql://", "mysql://", "postgres:"]);
    let more = tape.damaged_text("?");
    let host = tape.damaged_text("@db:5432/assent?sslmode=disable");
    // Without an `@` there is no telling a password from a port; and a host may be called like the
    // password.
    if host.contains('@') && !host.contains(PASSWORD) && !more.contains(PASSWORD) {
        let url = format!("{scheme}me:{PASSWORD}{more}{host}");
        let shown = redacted(&url);
        assert!(!shown.contains(PASSWORD), "{url:?} is shown as {shown:?}");
        if let Err(error) = Target::parse(&url) {
            assert!(!error.to_string().contains(PASSWORD), "{url:?}: {error}");
        }
    }
    let plain = tape.damaged_text("sqlite:/var/lib/assent/log.db");
    drop(Target::parse(&plain));
    redacted(&plain);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(3_000), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_stored_form_is_read_as_it_was_written_or_refused(bytes in vec(any::<u8>(), 0..200)) {
            super::stored(&bytes);
        }

        #[test]
        fn a_row_is_taken_up_or_refused_whatever_it_says(bytes in vec(any::<u8>(), 0..300)) {
            super::rows(&bytes);
        }

        #[test]
        fn a_page_token_is_read_or_refused(bytes in vec(any::<u8>(), 0..60)) {
            super::page_token(&bytes);
        }

        #[test]
        fn a_password_is_never_shown_however_the_url_is_written(bytes in vec(any::<u8>(), 0..60)) {
            super::log_url(&bytes);
        }
    }
}
