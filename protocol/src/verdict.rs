//! What a log answers to a forced record, from what stands in its storage after the append.
//!
//! | forced record | nothing stands | decided | delegated | 3PC without a decision | saga | ended |
//! |---|---|---|---|---|---|---|
//! | decision | repeat | durable if the same, else overruled | ours: repeat; else undecided | undecided | overruled: by an abort once it has turned, else by a commit | durable if the same, else overruled |
//! | delegation | repeat | overruled | durable if ours, of the same branch and with the same digest; else undecided | undecided | undecided | overruled |
//! | 'attempt 1 sent' | repeat | overruled | undecided | durable if ours, with the same roster and digest; else undecided | undecided | overruled |
//! | agreement | undecided | durable if the same, else overruled | undecided | ours: repeat; else undecided | undecided | durable if the same, else overruled |
//! | the log's voter | undecided | durable if ours, in the same state; else overruled | undecided | durable if ours, in the same state; else undecided | undecided | overruled |
//! | saga's start | repeat | overruled | overruled (commit): the gtid is taken | overruled (commit): the gtid is taken | durable if ours, with the same digest; else overruled (commit) | overruled |
//! | saga's turn | overruled (abort) | overruled | undecided | undecided | ours: durable if turned, else repeat; another's: undecided | durable if compensated, else overruled |
//! | saga's step, pause | overruled (abort) | overruled | undecided | undecided | ours: durable; another's: undecided | durable: the end carries it |
//! | end | overruled (abort) | ours, and of this decision: repeat; else overruled | ours, and a 2PC's end: repeat; else undecided | ours, and a 3PC's end: repeat; else undecided | a saga's end: repeat if ours, undecided if another's; else overruled | durable if the same, else overruled |
//!
//! A commit is the same if every branch of it is one of those that the standing commit names, by
//! participant and branch id: one that stands for other branches says nothing about these. An abort
//! is the same whatever its branches, since whatever the log does not name aborts. An overruling
//! commit of a transaction with branches comes with the branches that it names.
//!
//! A row without a decision is for its voters, or for the only branch that it was delegated to, to
//! decide, and only its owner writes down what came of it, by itself or with the end. Another replica
//! that meets it learns nothing from the log, and neither does an owner whose row is gone: to answer
//! with a decision would be to invent one, and to repeat would hold up every batch behind this one.
//! So it is with an open saga, which only its owner drives: any other replica drops its machine. And
//! so it is with a row whose branches cannot be read, since it is not known which it names; but not
//! of a saga's start, whose gtid is taken.

use crate::durable::{Appended, Durable};
use crate::ids::{BodyDigest, Epoch};
use crate::record::{Attempted, Decided, Decision, Delegated, Ended, Member, Outcome, Protocol, Record, SagaStarted};
use crate::three_phase::{Roster, VoterRecord, VoterState};

/// What the storage has of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// An open row with a decision; not a saga's.
    Decided {
        /// The decision.
        decision: Decision,
        /// Who owns it.
        owner: Epoch,
        /// The branches that wait for the decision.
        members: Vec<Member>,
        /// What the log keeps as a voter, if the row has that.
        vote: Option<VoterState>,
    },
    /// An open row: the only branch of a 2PC decides.
    Delegated {
        /// Who owns it.
        owner: Epoch,
        /// The digest of the request.
        digest: BodyDigest,
        /// The branch that decides.
        member: Member,
    },
    /// An open row: the voters of a 3PC decide.
    Attempted {
        /// Who owns it.
        owner: Epoch,
        /// The digest of the request.
        digest: BodyDigest,
        /// Who votes, and what the log keeps as one of them; `None` if that cannot be read.
        vote: Option<(Roster, VoterState)>,
    },
    /// An open saga.
    Saga {
        /// Who owns it.
        owner: Epoch,
        /// The digest of the request.
        digest: BodyDigest,
        /// Whether it has turned back.
        has_turned: bool,
    },
    /// It has ended.
    Ended {
        /// How.
        outcome: Outcome,
        /// The branches that were [told to commit](Ended::told_to_commit).
        members: Vec<Member>,
    },
    /// There is a row, and its branches cannot be read.
    Unreadable,
}

/// What the log answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What stands is the record, or says the same.
    Durable,
    /// See [`Appended::Overruled`].
    Overruled {
        /// The decision that stands.
        decision: Decision,
        /// The branches that it names, if it is a commit of a transaction with branches.
        members: Vec<Member>,
    },
    /// See [`Appended::Undecided`].
    Undecided,
    /// What stands is older than the record: the append has to be repeated.
    Repeat,
}

impl Verdict {
    /// As the log answers it, whose word is the receipt; `None` if the append has to be repeated.
    pub fn appended(self, receipt: impl FnOnce() -> Durable) -> Option<Appended> {
        match self {
            Self::Durable => Some(Appended::Durable(receipt())),
            Self::Overruled { decision, members } => Some(Appended::Overruled { decision, members }),
            Self::Undecided => Some(Appended::Undecided),
            Self::Repeat => None,
        }
    }
}

/// The answer to a record of the epoch that is `held`, where `standing` is what stands: a row of
/// the table each.
pub fn verdict(record: &Record, standing: Option<&Standing>, held: Epoch) -> Verdict {
    match record {
        Record::Decided(mine) => decision(mine, standing, held),
        Record::Delegated(mine) => delegation(mine, standing, held),
        Record::Attempted(mine) => attempt(mine, standing, held),
        Record::Agreed(mine) => agreement(mine, standing, held),
        Record::Voter(mine) => vote(mine, standing, held),
        Record::SagaStarted(mine) => start(mine, standing, held),
        Record::SagaTurned(_) => turn(standing, held),
        Record::SagaStep(_) | Record::SagaPaused(_) => progress(standing, held),
        Record::Ended(mine) => end(mine, standing, held),
    }
}

fn decision(mine: &Decided, standing: Option<&Standing>, held: Epoch) -> Verdict {
    match standing {
        None => Verdict::Repeat,
        Some(Standing::Decided { decision, members, .. }) => same_or_overruled(mine, *decision, members),
        // Its owner's decision is written over it.
        Some(Standing::Delegated { owner, .. }) => repeat_if(*owner == held),
        Some(Standing::Attempted { .. } | Standing::Unreadable) => Verdict::Undecided,
        Some(Standing::Saga { has_turned: true, .. }) => same_or_overruled(mine, Decision::Abort, &[]),
        Some(Standing::Saga { has_turned: false, .. }) => overruled(Decision::Commit, &[]),
        Some(Standing::Ended { outcome, members }) => same_or_overruled(mine, outcome.decision(), members),
    }
}

fn delegation(mine: &Delegated, standing: Option<&Standing>, held: Epoch) -> Verdict {
    match standing {
        None => Verdict::Repeat,
        Some(Standing::Decided { decision, members, .. }) => overruled(*decision, members),
        Some(Standing::Delegated { owner, digest, member }) => {
            durable_if(*owner == held && *digest == mine.digest && *member == mine.member)
        }
        Some(Standing::Attempted { .. } | Standing::Saga { .. } | Standing::Unreadable) => Verdict::Undecided,
        Some(Standing::Ended { outcome, members }) => overruled(outcome.decision(), members),
    }
}

fn attempt(mine: &Attempted, standing: Option<&Standing>, held: Epoch) -> Verdict {
    match standing {
        None => Verdict::Repeat,
        Some(Standing::Decided { decision, members, .. }) => overruled(*decision, members),
        Some(Standing::Attempted { owner, digest, vote }) => {
            let has_roster = vote.as_ref().is_some_and(|(roster, _)| *roster == mine.roster);
            durable_if(*owner == held && *digest == mine.digest && has_roster)
        }
        Some(Standing::Delegated { .. } | Standing::Saga { .. } | Standing::Unreadable) => Verdict::Undecided,
        Some(Standing::Ended { outcome, members }) => overruled(outcome.decision(), members),
    }
}

fn agreement(mine: &Decided, standing: Option<&Standing>, held: Epoch) -> Verdict {
    match standing {
        Some(Standing::Decided { decision, members, .. }) => same_or_overruled(mine, *decision, members),
        Some(Standing::Attempted { owner, .. }) => repeat_if(*owner == held),
        None | Some(Standing::Delegated { .. } | Standing::Saga { .. } | Standing::Unreadable) => Verdict::Undecided,
        Some(Standing::Ended { outcome, members }) => same_or_overruled(mine, outcome.decision(), members),
    }
}

fn vote(mine: &VoterRecord, standing: Option<&Standing>, held: Epoch) -> Verdict {
    match standing {
        Some(Standing::Decided { owner, vote, .. }) if *owner == held && *vote == Some(mine.state) => Verdict::Durable,
        Some(Standing::Decided { decision, members, .. }) => overruled(*decision, members),
        Some(Standing::Attempted { owner, vote, .. }) => {
            durable_if(*owner == held && vote.as_ref().is_some_and(|(_, state)| *state == mine.state))
        }
        None | Some(Standing::Delegated { .. } | Standing::Saga { .. } | Standing::Unreadable) => Verdict::Undecided,
        Some(Standing::Ended { outcome, members }) => overruled(outcome.decision(), members),
    }
}

fn start(mine: &SagaStarted, standing: Option<&Standing>, held: Epoch) -> Verdict {
    match standing {
        None => Verdict::Repeat,
        Some(Standing::Decided { decision, members, .. }) => overruled(*decision, members),
        Some(Standing::Saga { owner, digest, .. }) if *owner == held && *digest == mine.digest => Verdict::Durable,
        // The gtid is taken, whatever its branches are.
        Some(
            Standing::Delegated { .. } | Standing::Attempted { .. } | Standing::Saga { .. } | Standing::Unreadable,
        ) => overruled(Decision::Commit, &[]),
        Some(Standing::Ended { outcome, members }) => overruled(outcome.decision(), members),
    }
}

fn turn(standing: Option<&Standing>, held: Epoch) -> Verdict {
    match standing {
        None => gone(),
        Some(Standing::Decided { decision, members, .. }) => overruled(*decision, members),
        Some(Standing::Saga { owner, has_turned: true, .. }) if *owner == held => Verdict::Durable,
        Some(Standing::Saga { owner, has_turned: false, .. }) if *owner == held => Verdict::Repeat,
        Some(
            Standing::Delegated { .. } | Standing::Attempted { .. } | Standing::Saga { .. } | Standing::Unreadable,
        ) => Verdict::Undecided,
        Some(Standing::Ended { outcome, members }) => match outcome.decision() {
            Decision::Abort => Verdict::Durable,
            Decision::Commit => overruled(Decision::Commit, members),
        },
    }
}

/// A saga's step or pause.
fn progress(standing: Option<&Standing>, held: Epoch) -> Verdict {
    match standing {
        None => gone(),
        Some(Standing::Decided { decision, members, .. }) => overruled(*decision, members),
        Some(Standing::Saga { owner, .. }) => durable_if(*owner == held),
        Some(Standing::Delegated { .. } | Standing::Attempted { .. } | Standing::Unreadable) => Verdict::Undecided,
        Some(Standing::Ended { .. }) => Verdict::Durable,
    }
}

fn end(mine: &Ended, standing: Option<&Standing>, held: Epoch) -> Verdict {
    match standing {
        None => gone(),
        Some(row) if row.is_ended_by(mine, held) => Verdict::Repeat,
        Some(Standing::Decided { decision, members, .. }) => overruled(*decision, members),
        Some(Standing::Saga { owner, .. }) if mine.protocol == Protocol::Saga && *owner != held => Verdict::Undecided,
        Some(Standing::Saga { has_turned: true, .. }) => overruled(Decision::Abort, &[]),
        Some(Standing::Saga { has_turned: false, .. }) => overruled(Decision::Commit, &[]),
        Some(Standing::Delegated { .. } | Standing::Attempted { .. } | Standing::Unreadable) => Verdict::Undecided,
        Some(Standing::Ended { outcome, members }) => {
            same_if((mine.outcome.decision(), &mine.told_to_commit()), outcome.decision(), members)
        }
    }
}

impl Standing {
    /// Whether this end, written under the epoch that is `held`, is one of this open row. An end
    /// never contradicts the decision (I3); a 3PC's, and that of a delegation, brings it along
    /// where there is none, and a saga's follows from its steps.
    pub fn is_ended_by(&self, ended: &Ended, held: Epoch) -> bool {
        match (self, ended.protocol) {
            (Self::Decided { decision, owner, .. }, Protocol::TwoPhase | Protocol::ThreePhase) => {
                *owner == held && *decision == ended.outcome.decision()
            }
            (Self::Delegated { owner, .. }, Protocol::TwoPhase)
            | (Self::Attempted { owner, .. }, Protocol::ThreePhase)
            | (Self::Saga { owner, .. }, Protocol::Saga) => *owner == held,
            (Self::Decided { .. }, Protocol::Saga)
            | (Self::Delegated { .. }, Protocol::ThreePhase | Protocol::Saga)
            | (Self::Attempted { .. }, Protocol::TwoPhase | Protocol::Saga)
            | (Self::Saga { .. }, Protocol::TwoPhase | Protocol::ThreePhase)
            | (Self::Ended { .. } | Self::Unreadable, _) => false,
        }
    }
}

/// The row was removed by hand. The machine that goes on with this transaction goes on alone, and is
/// to stop.
fn gone() -> Verdict {
    overruled(Decision::Abort, &[])
}

/// Another decision stands, or the same one for other branches: `members` are those that it names.
fn overruled(decision: Decision, members: &[Member]) -> Verdict {
    let members = if decision == Decision::Commit { members.to_vec() } else { Vec::new() };
    Verdict::Overruled { decision, members }
}

fn same_or_overruled(mine: &Decided, decision: Decision, members: &[Member]) -> Verdict {
    same_if((mine.decision, &mine.members), decision, members)
}

/// Durable if the decision that stands is the record's own, for all of the record's branches.
fn same_if((mine, branches): (Decision, &[Member]), decision: Decision, members: &[Member]) -> Verdict {
    let is_same = mine == decision
        && match mine {
            Decision::Commit => branches.iter().all(|branch| members.contains(branch)),
            Decision::Abort => true,
        };
    if is_same { Verdict::Durable } else { overruled(decision, members) }
}

fn durable_if(is_ours: bool) -> Verdict {
    if is_ours { Verdict::Durable } else { Verdict::Undecided }
}

fn repeat_if(is_ours: bool) -> Verdict {
    if is_ours { Verdict::Repeat } else { Verdict::Undecided }
}

#[cfg(test)]
mod tests;
