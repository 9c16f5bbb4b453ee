//! The invariants over a real log, checked by reading it: `assent verify-log`.
//!
//! Nothing is written, and nothing is believed: not that the constraints of the schema were there
//! when a row was written, not that every writer was this binary. Rows are read in pages, each page
//! at one moment of the log, with all that it is compared with. So a running server is no obstacle:
//! what it moves between two pages is seen in either place, and no row is compared with one of
//! another moment.
//!
//! | file | subject |
//! |---|---|
//! | `mod.rs` | the names of the invariants, what was found, the way through the log |
//! | `open.rs` | rows of open transactions, with the steps of sagas |
//! | `history.rs` | rows of ended transactions |

mod history;
mod open;

use std::collections::{BTreeMap, BTreeSet};

use assent_protocol::Gtid;
use futures::future::BoxFuture;
use serde::{Serialize, Serializer};

use super::rows::{HistoryRow, OpenRow, StepRow};
use super::{LogError, OpenError, SchemaError, backend, migration};

/// Rows read at once.
const PAGE: usize = 1_000;

/// Violations that are told in full; the rest is counted.
const TOLD_MAX: usize = 1_000;

/// What has to hold of a log. The numbers I1 to I13 are those of the design.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// The schema is the one that this binary knows.
    SchemaVersion,
    /// The log has one identity, a UUID.
    OneIdentity,
    /// The id of a row is a UUIDv7.
    GtidValid,
    /// Recovery can read the row.
    RowReadable,
    /// The row has the columns of its protocol, and no others.
    RowFitsProtocol,
    /// A decision has its roster: known names, each once, and an id for each branch or for none (I8).
    DecisionHasRoster,
    /// Commits, attempts and sagas come from a request, whose digest refuses another body (I11).
    DigestOfRequest,
    /// Begun, then decided, then ended.
    TimesInOrder,
    /// Whoever drives it holds the epoch of its row (I7).
    OwnerKnown,
    /// Epochs come from one sequence: none is above it (I7).
    EpochDrawn,
    /// A saga's answers are those of steps that it has.
    SagaStepDefined,
    /// Only a saga that turned back compensates (I10).
    SagaTurnedFirst,
    /// No saga turns back past its pivot (I10).
    SagaPivotStands,
    /// What comes before a step that was answered is not refused, and its result is there where
    /// that is forced.
    SagaForcedResult,
    /// What is done has an output, and nothing else has one.
    OutputOfDone,
    /// Answers of steps belong to an open saga.
    StepOfOpenSaga,
    /// The log as a voter stands where a voter can stand: what it accepted it had joined.
    VoterLegal,
    /// The log as a voter never stands against the decision (I3).
    VoterFitsDecision,
    /// The branches ended as the transaction did; heuristics are named as such (I1, I2, I10).
    OutcomeFitsBranches,
    /// A transaction is open or ended, never both (I9).
    OpenOrEnded,
    /// A transaction ends one way (I3).
    EndsOneWay,
}

impl Invariant {
    /// Every invariant.
    pub const ALL: [Self; 21] = [
        Self::SchemaVersion,
        Self::OneIdentity,
        Self::GtidValid,
        Self::RowReadable,
        Self::RowFitsProtocol,
        Self::DecisionHasRoster,
        Self::DigestOfRequest,
        Self::TimesInOrder,
        Self::OwnerKnown,
        Self::EpochDrawn,
        Self::SagaStepDefined,
        Self::SagaTurnedFirst,
        Self::SagaPivotStands,
        Self::SagaForcedResult,
        Self::OutputOfDone,
        Self::StepOfOpenSaga,
        Self::VoterLegal,
        Self::VoterFitsDecision,
        Self::OutcomeFitsBranches,
        Self::OpenOrEnded,
        Self::EndsOneWay,
    ];

    /// Its name, on screen and for scripts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SchemaVersion => "schema_version",
            Self::OneIdentity => "one_identity",
            Self::GtidValid => "gtid_valid",
            Self::RowReadable => "row_readable",
            Self::RowFitsProtocol => "row_fits_protocol",
            Self::DecisionHasRoster => "decision_has_roster",
            Self::DigestOfRequest => "digest_of_request",
            Self::TimesInOrder => "times_in_order",
            Self::OwnerKnown => "owner_known",
            Self::EpochDrawn => "epoch_drawn",
            Self::SagaStepDefined => "saga_step_defined",
            Self::SagaTurnedFirst => "saga_turned_first",
            Self::SagaPivotStands => "saga_pivot_stands",
            Self::SagaForcedResult => "saga_forced_result",
            Self::OutputOfDone => "output_of_done",
            Self::StepOfOpenSaga => "step_of_open_saga",
            Self::VoterLegal => "voter_legal",
            Self::VoterFitsDecision => "voter_fits_decision",
            Self::OutcomeFitsBranches => "outcome_fits_branches",
            Self::OpenOrEnded => "open_or_ended",
            Self::EndsOneWay => "ends_one_way",
        }
    }

    /// What to do where it does not hold.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::SchemaVersion => {
                "run `assent migrate --log URL` with the binary that serves this log, or verify with that binary"
            }
            Self::OneIdentity => {
                "stop the server and restore the table identity from a backup: branches that are prepared are found by it"
            }
            Self::GtidValid => {
                "somebody wrote this row by hand: no client can ask for it; remove it once it is understood"
            }
            Self::RowReadable | Self::RowFitsProtocol => {
                "recovery parks this transaction: compare its row with a backup, and end its branches by hand as their decision says"
            }
            Self::DecisionHasRoster => {
                "some branch may never be told: look for the gtid among the participants' prepared branches, and end those as decided"
            }
            Self::DigestOfRequest => {
                "a repeated request cannot be compared with the first: ask the initiator which one it sent, and do not send it again"
            }
            Self::TimesInOrder => {
                "the clocks of replicas were over an hour apart, and a decision may be looked for in the wrong days: repair them (NTP)"
            }
            Self::OwnerKnown => {
                "no replica drives this transaction: restart the coordinator, which takes over every open row at its start"
            }
            Self::EpochDrawn => {
                "stop every replica and raise the sequence of epochs above the highest one in use: new epochs would be refused as stale"
            }
            Self::SagaStepDefined | Self::SagaTurnedFirst | Self::SagaPivotStands | Self::SagaForcedResult => {
                "recovery parks this saga: see which of its steps took effect at their participants, and finish or undo them by hand"
            }
            Self::OutputOfDone => "ask the step's participant what it answered: the log's word on it cannot be trusted",
            Self::StepOfOpenSaga => {
                "the saga's row is gone: if it is not in history either, see at the participants which steps took effect"
            }
            Self::VoterLegal | Self::VoterFitsDecision => {
                "the log has broken or lost its promises as a voter: stop its elections, and compare what the participants' voters \
                 keep before anything is ended by hand"
            }
            Self::OutcomeFitsBranches => {
                "look into the ledgers of the branches that are named: they ended against the outcome that was told"
            }
            Self::OpenOrEnded => {
                "the open row counts: let its replica end it, or compare both with the participants and remove the wrong one"
            }
            Self::EndsOneWay => "one of the two was told to somebody: compare both rows with the participants' ledgers",
        }
    }
}

impl std::fmt::Display for Invariant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Invariant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The transaction, as its id stands in the log; nothing where it is about the log itself.
    pub gtid: Option<String>,
    /// What should hold.
    pub invariant: Invariant,
    /// What stands there instead.
    pub what: String,
    /// Whether a replica may be changing the row this very moment. It was wrong at one moment all
    /// the same.
    pub in_motion: bool,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Open transactions.
    pub open: u64,
    /// Those of them that a replica may be driving while this runs.
    pub in_motion: u64,
    /// Answers of the open sagas' steps.
    pub steps: u64,
    /// Rows of ended transactions.
    pub ended: u64,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Which log.
    pub log: String,
    /// The version of its schema.
    pub schema: i64,
    /// What was read.
    pub counts: Counts,
    /// What does not hold: the first thousand of it, in the order of the rows.
    pub violations: Vec<Violation>,
    /// How often each invariant does not hold, of all that was read.
    pub violated: BTreeMap<Invariant, u64>,
}

/// Why a log could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It could not be read on.
    #[error(transparent)]
    Read(#[from] LogError),
}

/// Checks a log, and changes nothing. `tell` hears how far it is, after every page.
///
/// # Errors
/// [`VerifyError`] if it could not be read to its end. What is wrong in it is no error, a wrong
/// schema included.
pub async fn verify(url: &str, mut tell: impl FnMut(&Counts)) -> Result<Verified, VerifyError> {
    let mut verified = Verified::default();
    match migration::check(url).await {
        Ok(report) => {
            (verified.log, verified.schema) = (report.log, report.found);
            if report.found == 0 {
                // Nothing is wrong in a log that is not there.
                return Err(OpenError::Schema(SchemaError::Missing { log: verified.log }).into());
            }
            if report.found != report.needed {
                let what = format!("the schema has version {}, and this binary needs {}", report.found, report.needed);
                verified.violate(None, Invariant::SchemaVersion, what, false);
                return Ok(verified);
            }
        }
        Err(OpenError::Schema(
            error @ (SchemaError::Older { .. } | SchemaError::Newer { .. } | SchemaError::Changed { .. }),
        )) => {
            let (SchemaError::Missing { log }
            | SchemaError::Older { log, .. }
            | SchemaError::Newer { log, .. }
            | SchemaError::Changed { log, .. }) = &error;
            verified.log = log.clone();
            if let SchemaError::Older { found, .. } | SchemaError::Newer { found, .. } = error {
                verified.schema = found;
            }
            verified.violate(None, Invariant::SchemaVersion, error.to_string(), false);
            return Ok(verified);
        }
        Err(error) => return Err(error.into()),
    }
    let mut rows = backend::named_by(url)?.rows().await?;
    verified.read(&mut *rows, &mut tell).await?;
    rows.close().await;
    Ok(verified)
}

impl Verified {
    async fn read(&mut self, source: &mut dyn Rows, tell: &mut impl FnMut(&Counts)) -> Result<(), VerifyError> {
        let identities = source.identities().await?;
        if identities.len() != 1 || uuid::Uuid::parse_str(&identities[0]).is_err() {
            let what = format!("it has {} identities: {identities:?}", identities.len());
            self.violate(None, Invariant::OneIdentity, what, false);
        }
        let mut after = None;
        loop {
            let page = source.open_page(after.take(), PAGE).await?;
            let last = page.rows.last().map(|row| row.key.clone()).filter(|_| page.rows.len() == PAGE);
            self.open_page(page);
            tell(&self.counts);
            match last {
                Some(last) => after = Some(last),
                None => break,
            }
        }
        for key in source.strays(TOLD_MAX).await? {
            let what = "a step of it has an answer, and there is no open saga of that id".to_owned();
            self.violate(Some(key), Invariant::StepOfOpenSaga, what, false);
        }
        loop {
            let mut rows = source.history_page(after.take(), PAGE).await?;
            let is_last = rows.len() < PAGE;
            // The rows of one transaction are looked at together, so the last one's wait for the
            // next page.
            if let Some(last) = rows.last().map(|row| row.key.clone()).filter(|_| !is_last)
                && rows.first().is_some_and(|first| first.key != last)
            {
                rows.retain(|row| row.key != last);
            }
            after = rows.last().map(|row| row.key.clone());
            self.counts.ended += rows.len() as u64;
            for Raw { key, row } in &rows {
                match row {
                    Some(row) => history::check(row, &mut |invariant, what| {
                        self.violate(Some(key.clone()), invariant, what, false);
                    }),
                    None => self.no_gtid(key, "an ended transaction"),
                }
            }
            for pair in rows.windows(2) {
                if let [Raw { row: Some(one), key }, Raw { row: Some(other), .. }] = pair
                    && one.gtid == other.gtid
                    && one.outcome != other.outcome
                {
                    let what = format!("it is {} in one row of history, and {} in another", one.outcome, other.outcome);
                    self.violate(Some(key.clone()), Invariant::EndsOneWay, what, false);
                }
            }
            tell(&self.counts);
            if is_last {
                return Ok(());
            }
        }
    }

    fn open_page(&mut self, page: OpenPage) {
        let OpenPage { rows, steps, ended, holders, drawn } = page;
        self.counts.open += rows.len() as u64;
        self.counts.steps += steps.len() as u64;
        for (name, epoch) in holders.iter().filter(|(_, epoch)| *epoch > drawn) {
            let what = format!("replica {name} holds epoch {epoch}, and the last one that was drawn is {drawn}");
            let is_known = self.violations.iter().any(|known| known.what == what);
            if !is_known {
                self.violate(None, Invariant::EpochDrawn, what, false);
            }
        }
        let mut by_saga: BTreeMap<Gtid, Vec<StepRow>> = BTreeMap::new();
        for step in steps {
            by_saga.entry(step.gtid).or_default().push(step);
        }
        for Raw { key, row } in rows {
            let Some(row) = row else {
                self.no_gtid(&key, "an open transaction");
                continue;
            };
            let is_held = holders.iter().any(|(_, epoch)| *epoch == row.owner_epoch);
            self.counts.in_motion += u64::from(is_held);
            let mut violate = |invariant, what| self.violate(Some(key.clone()), invariant, what, is_held);
            if !is_held {
                violate(
                    Invariant::OwnerKnown,
                    format!("its owner is epoch {}, which no replica holds", row.owner_epoch),
                );
            }
            if row.owner_epoch > drawn {
                let what =
                    format!("its owner is epoch {}, and the last one that was drawn is {drawn}", row.owner_epoch);
                violate(Invariant::EpochDrawn, what);
            }
            if ended.contains(&row.gtid) {
                violate(Invariant::OpenOrEnded, "it is open, and stands in history too".to_owned());
            }
            let steps = by_saga.remove(&row.gtid).unwrap_or_default();
            open::check(&row, steps, &mut violate);
        }
    }

    fn no_gtid(&mut self, key: &str, whose: &str) {
        let what = format!("{key:?} is the id of {whose}, and no UUIDv7");
        self.violate(Some(key.to_owned()), Invariant::GtidValid, what, false);
    }

    fn violate(&mut self, gtid: Option<String>, invariant: Invariant, what: String, in_motion: bool) {
        *self.violated.entry(invariant).or_default() += 1;
        if self.violations.len() < TOLD_MAX {
            self.violations.push(Violation { gtid, invariant, what, in_motion });
        }
    }
}

/// Hears what does not hold of one row.
type Violate<'a> = dyn FnMut(Invariant, String) + 'a;

/// A row, and its id as it stands there; no row if the id is none.
pub(super) struct Raw<T> {
    pub(super) key: String,
    pub(super) row: Option<T>,
}

/// Open rows, with all that they are compared with, at one moment of the log.
pub(super) struct OpenPage {
    /// By id.
    pub(super) rows: Vec<Raw<OpenRow>>,
    /// The answers of the sagas among them.
    pub(super) steps: Vec<StepRow>,
    /// Those that are in history too.
    pub(super) ended: BTreeSet<Gtid>,
    /// The replicas and their epochs.
    pub(super) holders: Vec<(String, i64)>,
    /// The highest epoch that was drawn.
    pub(super) drawn: i64,
}

/// Where the rows come from.
pub(super) trait Rows: Send {
    /// The identities of the log; one, where all is well.
    fn identities(&mut self) -> BoxFuture<'_, Result<Vec<String>, LogError>>;

    /// Open transactions behind an id, at most `limit` of them.
    fn open_page(&mut self, after: Option<String>, limit: usize) -> BoxFuture<'_, Result<OpenPage, LogError>>;

    /// The ids of answers without an open saga, at most `limit` of them.
    fn strays(&mut self, limit: usize) -> BoxFuture<'_, Result<Vec<String>, LogError>>;

    /// Ended transactions behind an id, at most `limit` of them.
    fn history_page(
        &mut self,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Raw<HistoryRow>>, LogError>>;

    /// Closes the connections.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}
