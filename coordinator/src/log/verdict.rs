//! What a log answers to a forced record, from what stands in the storage after the append.
//!
//! | forced record | nothing stands | open, decided | open, delegated | open 3PC without a decision | open saga | ended |
//! |---|---|---|---|---|---|---|
//! | decision | repeat | durable if the same, else overruled | ours: repeat; else undecided | undecided | overruled | durable if the same, else overruled |
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
//! decide, and only its owner writes down what came of it, by itself or with the end. Whoever else
//! meets it learns nothing from the log, and neither does an owner whose row is gone: to answer
//! with a decision would be to invent one, and to repeat would hold up everybody behind this batch.
//! So it is with an open saga, which only its owner drives: any other replica drops its machine. And
//! so it is with a row whose branches cannot be read, since nobody can tell whom it names.

use assent_protocol::record::{Ended, EndedBranch, Member};
use assent_protocol::three_phase::{Roster, VoterState};
use assent_protocol::{Appended, BodyDigest, BranchEnd, Decision, Durable, Epoch, Outcome, Protocol, Record};

/// What the storage has of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// A row of the open table.
    Open {
        /// Whether it is a saga's.
        saga: bool,
        /// The decision; for a saga, whether it turned back.
        decision: Option<Decision>,
        /// Who owns it.
        owner: Epoch,
        /// The digest of the request.
        digest: BodyDigest,
        /// The branches that wait for the decision; none of a saga.
        members: Vec<Member>,
        /// What the log keeps as a voter, if the row has that and it can be read.
        vote: Option<(Roster, VoterState)>,
    },
    /// A row of the open table: the only branch of a 2PC decides.
    Delegated {
        /// Who owns it.
        owner: Epoch,
        /// The digest of the request.
        digest: BodyDigest,
        /// The branch that decides.
        member: Member,
    },
    /// A row of history.
    Ended {
        /// How it ended.
        outcome: Outcome,
        /// The branches that it told to commit.
        members: Vec<Member>,
    },
    /// A row of either table whose branches cannot be read.
    Unreadable,
}

/// The decision behind an outcome.
pub(super) const fn decision_of(outcome: Outcome) -> Decision {
    match outcome {
        Outcome::Committed | Outcome::Completed => Decision::Commit,
        Outcome::Aborted | Outcome::Compensated => Decision::Abort,
    }
}

/// The branches that an ended transaction told to commit, among those of its end.
pub(super) fn told_to_commit(outcome: Outcome, branches: &[EndedBranch]) -> Vec<Member> {
    if outcome != Outcome::Committed {
        return Vec::new();
    }
    let is_told = |branch: &&EndedBranch| match branch.end {
        BranchEnd::Committed | BranchEnd::HeuristicCommitted | BranchEnd::HeuristicAborted => true,
        BranchEnd::Aborted
        | BranchEnd::ReadOnly
        | BranchEnd::NotStarted
        | BranchEnd::Completed
        | BranchEnd::Compensated
        | BranchEnd::Abandoned => false,
    };
    branches.iter().filter(is_told).map(EndedBranch::member).collect()
}

/// Whether this end is one of an open row that is a saga's or not, has this decision, and is the
/// writer's own or not. An end never contradicts the decision (I3); a 3PC's brings it along where
/// there is none, and a saga's follows from its steps.
pub(super) fn ends(ended: &Ended, saga: bool, decision: Option<Decision>, is_own: bool) -> bool {
    if !is_own {
        return false;
    }
    match (ended.protocol, decision) {
        (Protocol::Saga, _) => saga,
        (Protocol::ThreePhase, None) => !saga,
        (Protocol::TwoPhase, None) => false,
        (Protocol::TwoPhase | Protocol::ThreePhase, Some(decision)) => !saga && decision == decision_of(ended.outcome),
    }
}

/// Whether this end is one of an open row that was delegated to its only branch, and that is the
/// writer's own or not.
pub(super) fn ends_delegation(ended: &Ended, is_own: bool) -> bool {
    ended.protocol == Protocol::TwoPhase && is_own
}

/// The answer, or `None` if the append has to be repeated: what stands is older than the record.
pub(super) fn verdict(record: &Record, standing: Option<&Standing>, held: Epoch) -> Option<Appended> {
    let undecided = Some(Appended::Undecided);
    match (record, standing) {
        // The gtid is taken, whoever its branches are.
        (Record::SagaStarted(_), Some(Standing::Unreadable)) => overruled(Decision::Commit, &[]),
        (
            Record::Decided(_)
            | Record::Delegated(_)
            | Record::Attempted(_)
            | Record::Agreed(_)
            | Record::Voter(_)
            | Record::SagaTurned(_)
            | Record::SagaStep(_)
            | Record::SagaPaused(_)
            | Record::Ended(_),
            Some(Standing::Unreadable),
        ) => undecided,

        (Record::Delegated(_), None) => None,
        (Record::Delegated(mine), Some(Standing::Delegated { owner, digest, member })) => {
            let is_ours = *owner == held && *digest == mine.digest && *member == mine.member;
            if is_ours { Some(durable(record)) } else { undecided }
        }
        (Record::Delegated(_), Some(Standing::Open { saga: false, decision: Some(theirs), members, .. })) => {
            overruled(*theirs, members)
        }
        (Record::Delegated(_), Some(Standing::Open { .. })) => undecided,

        // Its owner's decision is written over it.
        (Record::Decided(_), Some(Standing::Delegated { owner, .. })) if *owner == held => None,
        (Record::Ended(mine), Some(Standing::Delegated { owner, .. })) if ends_delegation(mine, *owner == held) => None,
        (Record::SagaStarted(_), Some(Standing::Delegated { .. })) => overruled(Decision::Commit, &[]),
        (
            Record::Decided(_)
            | Record::Attempted(_)
            | Record::Agreed(_)
            | Record::Voter(_)
            | Record::SagaTurned(_)
            | Record::SagaStep(_)
            | Record::SagaPaused(_)
            | Record::Ended(_),
            Some(Standing::Delegated { .. }),
        ) => undecided,

        (Record::Decided(_), None) => None,
        (Record::Decided(_), Some(Standing::Open { saga: true, decision: None, .. })) => {
            overruled(Decision::Commit, &[])
        }
        (Record::Decided(_), Some(Standing::Open { saga: false, decision: None, .. })) => undecided,
        (Record::Agreed(_), None | Some(Standing::Open { saga: true, .. })) => undecided,
        (Record::Agreed(_), Some(Standing::Open { saga: false, decision: None, owner, .. })) => {
            if *owner == held {
                None
            } else {
                undecided
            }
        }
        (
            Record::Decided(mine) | Record::Agreed(mine),
            Some(Standing::Open { decision: Some(theirs), members, .. }),
        ) => by(record, (mine.decision, &mine.members), (*theirs, members)),
        (Record::Decided(mine) | Record::Agreed(mine), Some(Standing::Ended { outcome, members })) => {
            by(record, (mine.decision, &mine.members), (decision_of(*outcome), members))
        }

        (Record::Attempted(_), None) => None,
        (Record::Attempted(mine), Some(Standing::Open { saga: false, decision: None, owner, digest, vote, .. })) => {
            let has_roster = vote.as_ref().is_some_and(|(roster, _)| *roster == mine.roster);
            let is_ours = *owner == held && *digest == mine.digest && has_roster;
            if is_ours { Some(durable(record)) } else { undecided }
        }
        (Record::Attempted(_), Some(Standing::Open { saga: false, decision: Some(theirs), members, .. })) => {
            overruled(*theirs, members)
        }
        (Record::Attempted(_), Some(Standing::Open { saga: true, .. })) => undecided,

        (Record::Voter(_), None | Some(Standing::Open { saga: true, .. })) => undecided,
        (Record::Voter(mine), Some(Standing::Open { saga: false, decision, owner, members, vote, .. })) => {
            let stands = vote.as_ref().is_some_and(|(_, state)| *state == mine.state);
            match decision {
                _ if *owner == held && stands => Some(durable(record)),
                Some(theirs) => overruled(*theirs, members),
                None => undecided,
            }
        }

        (Record::SagaStarted(_), None) => None,
        (Record::SagaStarted(mine), Some(Standing::Open { saga, decision, owner, digest, members, .. })) => {
            let is_ours = *saga && *owner == held && *digest == mine.digest;
            match decision.filter(|_| !saga) {
                _ if is_ours => Some(durable(record)),
                Some(theirs) => overruled(theirs, members),
                None => overruled(Decision::Commit, &[]),
            }
        }
        (
            Record::Delegated(_) | Record::Attempted(_) | Record::Voter(_) | Record::SagaStarted(_),
            Some(Standing::Ended { outcome, members }),
        ) => overruled(decision_of(*outcome), members),

        (
            Record::SagaTurned(_) | Record::SagaStep(_) | Record::SagaPaused(_),
            Some(Standing::Open { saga: false, decision, members, .. }),
        ) => decision.map_or(undecided, |theirs| overruled(theirs, members)),
        (
            Record::SagaTurned(_) | Record::SagaStep(_) | Record::SagaPaused(_),
            Some(Standing::Open { saga: true, owner, .. }),
        ) if *owner != held => undecided,
        (Record::SagaTurned(_), Some(Standing::Open { saga: true, decision, .. })) => decision.map(|_| durable(record)),
        (Record::SagaTurned(_), Some(Standing::Ended { outcome, members })) => {
            by(record, (Decision::Abort, &[]), (decision_of(*outcome), members))
        }
        (Record::SagaStep(_) | Record::SagaPaused(_), Some(_)) => Some(durable(record)),

        (Record::Ended(mine), Some(Standing::Open { saga, decision, owner, members, .. })) => {
            let is_foreign_saga = *saga && mine.protocol == Protocol::Saga && *owner != held;
            if ends(mine, *saga, *decision, *owner == held) {
                None
            } else if is_foreign_saga || !saga && decision.is_none() {
                undecided
            } else {
                overruled(decision.unwrap_or(Decision::Commit), members)
            }
        }
        (Record::Ended(mine), Some(Standing::Ended { outcome, members })) => {
            let told = told_to_commit(mine.outcome, &mine.branches);
            by(record, (decision_of(mine.outcome), &told), (decision_of(*outcome), members))
        }

        // Somebody removed the row by hand. Whoever goes on with this transaction goes on alone:
        // let it stop.
        (Record::SagaTurned(_) | Record::SagaStep(_) | Record::SagaPaused(_) | Record::Ended(_), None) => {
            overruled(Decision::Abort, &[])
        }
    }
}

/// Another decision stands, or the same one for other branches: `members` are those that it names.
fn overruled(decision: Decision, members: &[Member]) -> Option<Appended> {
    let members = if decision == Decision::Commit { members.to_vec() } else { Vec::new() };
    Some(Appended::Overruled { decision, members })
}

/// Durable if the decision that stands is the record's own, for all of the record's branches.
fn by(record: &Record, mine: (Decision, &[Member]), theirs: (Decision, &[Member])) -> Option<Appended> {
    let ((mine, branches), (decision, members)) = (mine, theirs);
    let is_same = mine == decision
        && match mine {
            Decision::Commit => branches.iter().all(|branch| members.contains(branch)),
            Decision::Abort => true,
        };
    if is_same { Some(durable(record)) } else { overruled(decision, members) }
}

/// The receipt for a record that the storage has confirmed.
pub(super) fn durable(record: &Record) -> Appended {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where the logs give their word, after the storage gave its own"
    )]
    let receipt = Durable::attest(record.id());
    Appended::Durable(receipt)
}

#[cfg(test)]
mod tests {
    use assent_protocol::record::{Attempted, Decided, Delegated, SagaPaused, SagaStarted, SagaTurned};
    use assent_protocol::saga::{Definition, StepDefinition};
    use assent_protocol::three_phase::{Seat, StoreId, VoterName, VoterRecord};
    use assent_protocol::{BranchId, Gtid, RetryPolicy};

    use super::*;

    const OURS: Epoch = Epoch(3);

    fn gtid() -> Gtid {
        "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("a version 7")
    }

    fn member(number: u64) -> Member {
        let branch = BranchId { epoch: Epoch(3), number };
        Member { participant: "bank".parse().expect("a name"), branch }
    }

    fn decided(decision: Decision) -> Decided {
        Decided {
            gtid: gtid(),
            protocol: Protocol::TwoPhase,
            decision,
            members: vec![member(1)],
            digest: BodyDigest(7),
            begun_at_ms: 0,
            reason: None,
        }
    }

    fn delegated() -> Record {
        Record::Delegated(Delegated { gtid: gtid(), member: member(1), digest: BodyDigest(7), begun_at_ms: 0 })
    }

    fn roster(number: u64) -> Roster {
        let Member { participant, branch } = member(number);
        let seat =
            Seat { participant, branch, address: "http://bank:7421".parse().expect("an address"), store: StoreId(1) };
        Roster::new(vec![seat], StoreId(2)).expect("a roster")
    }

    fn attempted() -> Record {
        Record::Attempted(Attempted { gtid: gtid(), roster: roster(1), digest: BodyDigest(7), begun_at_ms: 0 })
    }

    fn started() -> Record {
        let step = StepDefinition {
            name: "pay".parse().expect("a name"),
            participant: "bank".parse().expect("a name"),
            input: Default::default(),
            after: Vec::new(),
            retry: RetryPolicy::default(),
            compensation_retry: RetryPolicy::default(),
            pivot: false,
            durable: false,
        };
        let definition = Definition::new(vec![step]).expect("a saga");
        Record::SagaStarted(SagaStarted { gtid: gtid(), definition, digest: BodyDigest(7), begun_at_ms: 0 })
    }

    fn voter() -> Record {
        Record::Voter(Box::new(VoterRecord {
            gtid: gtid(),
            voter: VoterName::Log,
            roster: Some(roster(1)),
            is_read_only: false,
            state: VoterState::ATTEMPTED,
            before: None,
        }))
    }

    /// The storage confirmed an append that left nothing: the first column of the table. To answer
    /// that it is durable would be to acknowledge what nobody will find after a crash.
    #[test]
    fn what_left_nothing_is_never_durable() {
        for record in [Record::Decided(decided(Decision::Commit)), delegated(), attempted(), started()] {
            assert_eq!(verdict(&record, None, OURS), None, "it is repeated: {record:?}");
        }
        for record in [Record::Agreed(decided(Decision::Commit)), voter()] {
            assert_eq!(verdict(&record, None, OURS), Some(Appended::Undecided), "{record:?}");
        }
        let turned = Record::SagaTurned(SagaTurned { gtid: gtid(), reason: "no".to_owned() });
        let paused = Record::SagaPaused(SagaPaused { gtid: gtid(), remedy: None });
        for record in [turned, paused] {
            assert_eq!(verdict(&record, None, OURS), overruled(Decision::Abort, &[]), "{record:?}");
        }
    }

    #[test]
    fn only_what_stands_as_it_was_written_is_durable() {
        let members = || vec![member(1), member(2)];
        let open = |decision, owner, digest| Standing::Open {
            saga: false,
            decision,
            owner,
            digest,
            members: members(),
            vote: None,
        };
        let commit = Record::Decided(decided(Decision::Commit));
        let stands = |decision| verdict(&commit, Some(&open(Some(decision), Epoch(9), BodyDigest(8))), OURS);
        assert_eq!(stands(Decision::Commit), Some(durable(&commit)), "whoever wrote it, it is this decision");
        assert_eq!(stands(Decision::Abort), overruled(Decision::Abort, &[]));
        let marked = |owner, digest, vote| Standing::Open {
            saga: false,
            decision: None,
            owner,
            digest,
            members: members(),
            vote,
        };
        let vote = || Some((roster(1), VoterState::ATTEMPTED));
        let mark = |standing: Standing| verdict(&attempted(), Some(&standing), OURS);
        assert_eq!(mark(marked(OURS, BodyDigest(7), vote())), Some(durable(&attempted())));
        for other in [
            marked(Epoch(2), BodyDigest(7), vote()),
            marked(OURS, BodyDigest(8), vote()),
            marked(OURS, BodyDigest(7), None),
            marked(OURS, BodyDigest(7), Some((roster(2), VoterState::ATTEMPTED))),
        ] {
            assert_eq!(mark(other.clone()), Some(Appended::Undecided), "{other:?}");
        }
        let left = |owner, digest, number| Standing::Delegated { owner, digest, member: member(number) };
        let leave = |standing: Standing| verdict(&delegated(), Some(&standing), OURS);
        assert_eq!(leave(left(OURS, BodyDigest(7), 1)), Some(durable(&delegated())));
        assert_eq!(leave(left(Epoch(2), BodyDigest(7), 1)), Some(Appended::Undecided));
        assert_eq!(leave(left(OURS, BodyDigest(8), 1)), Some(Appended::Undecided));
        assert_eq!(leave(left(OURS, BodyDigest(7), 2)), Some(Appended::Undecided), "another branch decides");
        let over = |owner| verdict(&commit, Some(&left(owner, BodyDigest(7), 1)), OURS);
        assert_eq!(over(Epoch(2)), Some(Appended::Undecided), "only its owner has asked the branch");
        assert_eq!(over(OURS), None, "it was to be written over it");
        let saga = |owner, digest| Standing::Open {
            saga: true,
            decision: None,
            owner,
            digest,
            members: Vec::new(),
            vote: None,
        };
        assert_eq!(verdict(&started(), Some(&saga(OURS, BodyDigest(7))), OURS), Some(durable(&started())));
        let taken = overruled(Decision::Commit, &[]);
        assert_eq!(verdict(&started(), Some(&saga(Epoch(2), BodyDigest(7))), OURS), taken);
        assert_eq!(verdict(&started(), Some(&saga(OURS, BodyDigest(8))), OURS), taken);
    }

    /// A call that came twice leaves two branches, prepared alike: only the one that the log names
    /// is told to commit.
    #[test]
    fn a_commit_is_durable_only_for_the_branches_that_it_names() {
        let standing = |decision, members: &[Member]| {
            let (members, digest, owner) = (members.to_vec(), BodyDigest(7), OURS);
            let outcome = if decision == Decision::Commit { Outcome::Committed } else { Outcome::Aborted };
            let open = Standing::Open {
                saga: false,
                decision: Some(decision),
                owner,
                digest,
                members: members.clone(),
                vote: None,
            };
            [open, Standing::Ended { outcome, members }]
        };
        for wrap in [Record::Decided, Record::Agreed] {
            let commit = wrap(decided(Decision::Commit));
            for (theirs, is_named) in [
                (vec![member(1)], true),
                (vec![member(2), member(1)], true),
                (vec![member(2)], false),
                (Vec::new(), false),
                (vec![Member { branch: BranchId::NONE, ..member(1) }], false),
                (vec![Member { participant: "shop".parse().expect("a name"), ..member(1) }], false),
            ] {
                for stands in standing(Decision::Commit, &theirs) {
                    let answer = verdict(&commit, Some(&stands), OURS);
                    let expected = if is_named { Some(durable(&commit)) } else { overruled(Decision::Commit, &theirs) };
                    assert_eq!(answer, expected, "{stands:?}");
                }
            }
            let abort = wrap(decided(Decision::Abort));
            for stands in standing(Decision::Abort, &[member(2)]) {
                assert_eq!(verdict(&abort, Some(&stands), OURS), Some(durable(&abort)), "whatever is not named aborts");
                assert_eq!(verdict(&commit, Some(&stands), OURS), overruled(Decision::Abort, &[]), "{stands:?}");
            }
            let unreadable = verdict(&commit, Some(&Standing::Unreadable), OURS);
            assert_eq!(unreadable, Some(Appended::Undecided), "nobody can tell whom it names");
        }
        for late in [delegated(), attempted(), started()] {
            for stands in standing(Decision::Commit, &[member(2)]) {
                let told = overruled(Decision::Commit, &[member(2)]);
                assert_eq!(verdict(&late, Some(&stands), OURS), told, "{late:?}");
            }
        }
    }

    /// What history has of a branch that had nothing to commit, or was never asked, is not a word
    /// for it to commit.
    #[test]
    fn history_names_the_branches_that_were_told_to_commit() {
        let ended = |number, end| EndedBranch {
            participant: member(number).participant,
            branch: member(number).branch,
            step: None,
            end,
        };
        let branches = [
            ended(1, BranchEnd::Committed),
            ended(2, BranchEnd::ReadOnly),
            ended(3, BranchEnd::HeuristicAborted),
            ended(4, BranchEnd::NotStarted),
        ];
        assert_eq!(told_to_commit(Outcome::Committed, &branches), [member(1), member(3)]);
        assert_eq!(told_to_commit(Outcome::Aborted, &branches), []);
    }
}
