//! Rows as a SQL log reads them, before anything in them is believed.

use std::collections::{BTreeMap, BTreeSet};

use assent_protocol::record::{Attempted, Decided, Delegated, Ended, SagaStarted, SagaStep, told_to_commit};
use assent_protocol::saga::StepIndex;
use assent_protocol::verdict::Standing;
use assent_protocol::{Epoch, Gtid, ParticipantName, Protocol};
use bytes::Bytes;

use super::read::{
    EndedTransaction, Found, LoggedStep, OpenSaga, OpenTransaction, Page, PageToken, Shown, State, Transaction,
    Unreadable,
};
use super::{Owned, stored};

/// A row of the open table.
#[derive(Clone, Debug)]
pub(super) struct OpenRow {
    pub(super) gtid: Gtid,
    pub(super) owner_epoch: i64,
    pub(super) digest: i64,
    pub(super) begun_at_ms: u64,
    pub(super) decided_at_ms: u64,
    pub(super) protocol: String,
    pub(super) decision: Option<String>,
    pub(super) participants: String,
    /// In the order of `participants`; not there where no branch has one.
    pub(super) branch_ids: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) remedy: Option<String>,
    /// JSON; not read for listings.
    pub(super) definition: Option<String>,
    pub(super) voter: Option<String>,
    /// JSON; not read for listings.
    pub(super) roster: Option<String>,
    pub(super) pinned: bool,
}

/// A row of the steps.
#[derive(Clone, Debug)]
pub(super) struct StepRow {
    pub(super) gtid: Gtid,
    pub(super) step: i64,
    pub(super) compensation: bool,
    pub(super) attempt: i64,
    pub(super) result: String,
    pub(super) output: Option<Bytes>,
    pub(super) reason: Option<String>,
    pub(super) at_ms: u64,
}

/// A row of history.
#[derive(Clone, Debug)]
pub(super) struct HistoryRow {
    pub(super) gtid: Gtid,
    pub(super) ended_at_ms: u64,
    pub(super) begun_at_ms: u64,
    pub(super) decided_at_ms: Option<u64>,
    pub(super) digest: i64,
    pub(super) protocol: String,
    pub(super) outcome: String,
    pub(super) branches: String,
    /// In the order of `branches`; not there where no branch has one.
    pub(super) branch_ids: Option<String>,
    pub(super) reason: Option<String>,
    /// JSON; not read for listings.
    pub(super) outputs: Option<String>,
    pub(super) pinned: bool,
}

/// What an append reads of a row that stands in its way, of either table.
pub(super) struct StandingRow<'a> {
    pub(super) protocol: &'a str,
    pub(super) decision: Option<&'a str>,
    /// There in a row of history.
    pub(super) outcome: Option<&'a str>,
    pub(super) owner: Epoch,
    pub(super) digest: i64,
    /// In a row of history, its branches.
    pub(super) participants: &'a str,
    pub(super) branch_ids: Option<&'a str>,
    pub(super) voter: Option<&'a str>,
    pub(super) roster: Option<&'a str>,
}

impl StandingRow<'_> {
    /// What stands. Names and branch ids that cannot be read are what is the matter with this one
    /// row, and stop no other.
    pub(super) fn read(&self) -> Result<Standing, String> {
        let (owner, digest) = (self.owner, stored::digest_from_column(self.digest));
        if let Some(word) = self.outcome {
            let (outcome, protocol) = (stored::parse_outcome(word)?, stored::parse_protocol(self.protocol)?);
            let branches = stored::parse_branches(outcome, self.participants, self.branch_ids);
            return Ok(branches.map_or(Standing::Unreadable, |branches| Standing::Ended {
                outcome,
                members: told_to_commit(protocol, outcome, &branches),
            }));
        }
        let protocol = stored::parse_protocol(self.protocol)?;
        let decision = self.decision.map(stored::parse_decision).transpose()?;
        if protocol == Protocol::Saga {
            return Ok(Standing::Saga { owner, digest, has_turned: decision.is_some() });
        }
        let Ok(mut members) = stored::parse_members(self.participants, self.branch_ids) else {
            return Ok(Standing::Unreadable);
        };
        let vote = stored::vote_from_columns(self.roster, self.voter, &members);
        Ok(match decision {
            Some(decision) => Standing::Decided { decision, owner, members, vote: vote.map(|(_, state)| state) },
            None if protocol == Protocol::ThreePhase => Standing::Attempted { owner, digest, vote },
            None => {
                let member = members.pop().filter(|_| members.is_empty());
                member.map_or(Standing::Unreadable, |member| Standing::Delegated { owner, digest, member })
            }
        })
    }
}

impl OpenRow {
    pub(super) fn parse(&self, steps: Vec<StepRow>) -> Result<OpenTransaction, Unreadable> {
        self.try_parse(steps).map_err(|reason| Unreadable { gtid: self.gtid, reason })
    }

    fn try_parse(&self, steps: Vec<StepRow>) -> Result<OpenTransaction, String> {
        let protocol = stored::parse_protocol(&self.protocol)?;
        let decision = self.decision.as_deref().map(stored::parse_decision).transpose()?;
        let (digest, owner) = (stored::digest_from_column(self.digest), epoch(self.owner_epoch));
        if protocol == Protocol::Saga {
            let json = self.definition.as_deref().ok_or("it is a saga without a definition")?;
            let definition = stored::parse_definition(json)?;
            let steps_max = definition.steps().len();
            let steps: Result<Vec<LoggedStep>, String> = steps.into_iter().map(|step| step.parse(steps_max)).collect();
            return Ok(OpenTransaction::Saga(OpenSaga {
                started: SagaStarted { gtid: self.gtid, definition, digest, begun_at_ms: self.begun_at_ms },
                turned: decision.map(|_| self.reason.clone().unwrap_or_default()),
                paused: self.remedy.clone(),
                steps: steps?,
                started_at_ms: self.decided_at_ms,
                owner,
            }));
        }
        let mut members = stored::parse_members(&self.participants, self.branch_ids.as_deref())?;
        if protocol == Protocol::TwoPhase && decision.is_none() {
            let (Some(member), true) = (members.pop(), members.is_empty()) else {
                return Err("it has neither a decision nor the one participant that decides".to_owned());
            };
            return Ok(OpenTransaction::Delegated {
                record: Delegated { gtid: self.gtid, member, digest, begun_at_ms: self.begun_at_ms },
                delegated_at_ms: self.decided_at_ms,
                owner,
            });
        }
        let roster = self.roster.as_deref().map(|json| stored::parse_voters(json, &members)).transpose()?;
        let Some(decision) = decision else {
            let state = self.voter.as_deref().ok_or("it has neither a decision nor a voter")?;
            return Ok(OpenTransaction::Attempted {
                record: Attempted {
                    gtid: self.gtid,
                    roster: roster.ok_or("it has a voter without a roster")?,
                    digest,
                    begun_at_ms: self.begun_at_ms,
                },
                state: stored::parse_voter(state)?,
                attempted_at_ms: self.decided_at_ms,
                owner,
            });
        };
        Ok(OpenTransaction::Decided {
            record: Decided {
                gtid: self.gtid,
                protocol,
                decision,
                members,
                digest,
                begun_at_ms: self.begun_at_ms,
                reason: self.reason.clone(),
            },
            roster,
            decided_at_ms: self.decided_at_ms,
            owner,
        })
    }

    /// As it stands in a listing. What cannot be read is left out: [`OpenRow::parse`] says what
    /// that is.
    fn list(self) -> Transaction {
        let protocol = stored::parse_protocol(&self.protocol).unwrap_or(Protocol::TwoPhase);
        let decision = self.decision.as_deref().and_then(|word| stored::parse_decision(word).ok());
        let state = stored::open_state(protocol, decision, self.remedy.is_some());
        Transaction {
            gtid: self.gtid,
            protocol,
            state,
            participants: stored::parse_roster(&self.participants).unwrap_or_default(),
            begun_at_ms: self.begun_at_ms,
            decided_at_ms: (state != State::Preparing).then_some(self.decided_at_ms),
            ended_at_ms: None,
            reason: self.reason,
            remedy: self.remedy,
            owner: Some(epoch(self.owner_epoch)),
            pinned: self.pinned,
        }
    }
}

impl StepRow {
    fn parse(self, steps_max: usize) -> Result<LoggedStep, String> {
        let step = u16::try_from(self.step).ok().filter(|step| usize::from(*step) < steps_max);
        let step = step.ok_or_else(|| format!("it has an answer of step {}, and {steps_max} steps", self.step))?;
        let attempt = u32::try_from(self.attempt).map_err(|_| format!("step {step} has attempt {}", self.attempt))?;
        let result = stored::parse_result(&self.result, self.output, self.reason)?;
        let (gtid, compensation) = (self.gtid, self.compensation);
        let record = SagaStep { gtid, step: StepIndex(step), compensation, attempt, result };
        Ok(LoggedStep { record, at_ms: self.at_ms })
    }
}

impl HistoryRow {
    pub(super) fn parse(&self) -> Result<EndedTransaction, Unreadable> {
        self.try_parse().map_err(|reason| Unreadable { gtid: self.gtid, reason })
    }

    fn try_parse(&self) -> Result<EndedTransaction, String> {
        let outcome = stored::parse_outcome(&self.outcome)?;
        Ok(EndedTransaction {
            record: Ended {
                gtid: self.gtid,
                protocol: stored::parse_protocol(&self.protocol)?,
                outcome,
                has_open_row: false,
                begun_at_ms: self.begun_at_ms,
                digest: stored::digest_from_column(self.digest),
                reason: self.reason.clone(),
                branches: stored::parse_branches(outcome, &self.branches, self.branch_ids.as_deref())?,
                outputs: stored::parse_outputs(self.outputs.as_deref())?,
            },
            decided_at_ms: self.decided_at_ms,
            ended_at_ms: self.ended_at_ms,
        })
    }

    /// As it stands in a listing; `None` if it is not even clear how it ended.
    fn list(self) -> Option<Transaction> {
        let outcome = stored::parse_outcome(&self.outcome).ok()?;
        let mut participants: Vec<ParticipantName> = Vec::new();
        for branch in stored::parse_branches(outcome, &self.branches, None).unwrap_or_default() {
            if !participants.contains(&branch.participant) {
                participants.push(branch.participant);
            }
        }
        Some(Transaction {
            gtid: self.gtid,
            protocol: stored::parse_protocol(&self.protocol).ok()?,
            state: outcome.into(),
            participants,
            begun_at_ms: self.begun_at_ms,
            decided_at_ms: self.decided_at_ms,
            ended_at_ms: Some(self.ended_at_ms),
            reason: self.reason,
            remedy: None,
            owner: None,
            pinned: self.pinned,
        })
    }
}

fn epoch(column: i64) -> Epoch {
    Epoch(u64::try_from(column).unwrap_or_default())
}

/// Open rows with their steps, each readable or not, in the order of the rows.
pub(super) fn open_transactions(
    rows: &[OpenRow],
    steps: Vec<StepRow>,
) -> Vec<(Gtid, Result<OpenTransaction, Unreadable>)> {
    let mut by_saga: BTreeMap<Gtid, Vec<StepRow>> = BTreeMap::new();
    for step in steps {
        by_saga.entry(step.gtid).or_default().push(step);
    }
    rows.iter().map(|row| (row.gtid, row.parse(by_saga.remove(&row.gtid).unwrap_or_default()))).collect()
}

/// Those of them that the epoch owns. The caller has asked for no others: a row that the check
/// refuses was given to another epoch just now.
pub(super) fn owned(rows: &[OpenRow], steps: Vec<StepRow>, held: Epoch) -> Vec<(Gtid, Result<Owned, Unreadable>)> {
    let read = open_transactions(rows, steps).into_iter();
    read.filter_map(|(gtid, read)| Some((gtid, read.map(|open| Owned::by(held, open)).transpose()?))).collect()
}

/// What was found, by gtid. An open row counts before history, and of two rows of history the
/// first.
pub(super) fn found(open: &[OpenRow], steps: Vec<StepRow>, history: &[HistoryRow]) -> Vec<(Gtid, Found)> {
    let mut found: BTreeMap<Gtid, Found> = BTreeMap::new();
    for (gtid, read) in open_transactions(open, steps) {
        found.insert(gtid, read.map_or_else(Found::Unreadable, Found::Open));
    }
    for row in history {
        found.entry(row.gtid).or_insert_with(|| row.parse().map_or_else(Found::Unreadable, Found::Ended));
    }
    found.into_iter().collect()
}

/// One transaction with all that is known about it.
pub(super) fn shown(open: Vec<OpenRow>, steps: Vec<StepRow>, history: Vec<HistoryRow>) -> Option<Shown> {
    let (_, found) = found(&open, steps, &history).into_iter().next()?;
    let transaction = open.into_iter().next().map(OpenRow::list);
    let transaction = transaction.or_else(|| history.into_iter().find_map(HistoryRow::list))?;
    Some(Shown { transaction, found })
}

/// One page out of what was open and, read after it, what had ended. Both are sorted by gtid,
/// newest first, and one longer than the page where there is more.
pub(super) fn page(open: Vec<OpenRow>, history: Vec<HistoryRow>, limit: usize) -> Page {
    let mut by_gtid: BTreeMap<Gtid, Transaction> = open.into_iter().map(|row| (row.gtid, row.list())).collect();
    let mut gtids: BTreeSet<Gtid> = by_gtid.keys().copied().collect();
    for row in history {
        let gtid = row.gtid;
        gtids.insert(gtid);
        // It may have ended between the two reads.
        if let Some(transaction) = row.list() {
            by_gtid.insert(gtid, transaction);
        }
    }
    let mut on_page: Vec<Gtid> = gtids.into_iter().rev().collect();
    let has_more = on_page.len() > limit;
    on_page.truncate(limit);
    let next = on_page.last().filter(|_| has_more).map(|last| PageToken { before: *last });
    Page { transactions: on_page.iter().filter_map(|gtid| by_gtid.remove(gtid)).collect(), next }
}
