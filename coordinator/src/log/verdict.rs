//! What a log answers to a forced record, from what stands in the storage after the append.
//!
//! | forced record | nothing stands | open, decided | open, delegated | open 3PC without a decision | open saga | ended |
//! |---|---|---|---|---|---|---|
//! | decision | repeat | durable if the same decision, else overruled | ours: repeat; else undecided | undecided | overruled | durable if the same decision, else overruled |
//! | delegation | repeat | overruled | durable if ours, with the same digest; else undecided | undecided | undecided | overruled |
//! | 'attempt 1 sent' | repeat | overruled | undecided | durable if ours, with the same roster and digest; else undecided | undecided | overruled |
//! | agreement | undecided | durable if the same decision, else overruled | undecided | ours: repeat; else undecided | undecided | durable if the same decision, else overruled |
//! | the log's voter | undecided | durable if ours, in the same state; else overruled | undecided | durable if ours, in the same state; else undecided | undecided | overruled |
//! | saga's start | repeat | overruled | overruled (commit): the gtid is taken | overruled (commit): the gtid is taken | durable if ours, with the same digest; else overruled (commit) | overruled |
//! | saga's turn | overruled (abort) | overruled | undecided | undecided | ours: durable if turned, else repeat; another's: undecided | durable if compensated, else overruled |
//! | saga's step, pause | overruled (abort) | overruled | undecided | undecided | ours: durable; another's: undecided | durable: the end carries it |
//! | end | overruled (abort) | ours, and of this decision: repeat; else overruled | ours, and a 2PC's end: repeat; else undecided | ours, and a 3PC's end: repeat; else undecided | a saga's end: repeat if ours, undecided if another's; else overruled | durable if the same decision, else overruled |
//!
//! A row without a decision is for its voters, or for the only branch that it was delegated to, to
//! decide, and only its owner writes down what came of it, by itself or with the end. Whoever else
//! meets it learns nothing from the log, and neither does an owner whose row is gone: to answer
//! with a decision would be to invent one, and to repeat would hold up everybody behind this batch.
//! So it is with an open saga, which only its owner drives: any other replica drops its machine.

use assent_protocol::record::Ended;
use assent_protocol::three_phase::{Roster, VoterState};
use assent_protocol::{Appended, BodyDigest, Decision, Durable, Epoch, Outcome, Protocol, Record};

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
        /// What the log keeps as a voter, if the row has that and it can be read.
        vote: Option<(Roster, VoterState)>,
    },
    /// A row of the open table: the only branch of a 2PC decides.
    Delegated {
        /// Who owns it.
        owner: Epoch,
        /// The digest of the request.
        digest: BodyDigest,
    },
    /// A row of history.
    Ended(Outcome),
}

/// The decision behind an outcome.
pub(super) const fn decision_of(outcome: Outcome) -> Decision {
    match outcome {
        Outcome::Committed | Outcome::Completed => Decision::Commit,
        Outcome::Aborted | Outcome::Compensated => Decision::Abort,
    }
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
    let overruled = |decision| Some(Appended::Overruled(decision));
    let by = |mine: Decision, theirs: Decision| if mine == theirs { Some(durable(record)) } else { overruled(theirs) };
    let undecided = Some(Appended::Undecided);
    match (record, standing) {
        (Record::Delegated(_), None) => None,
        (Record::Delegated(mine), Some(Standing::Delegated { owner, digest })) => {
            if *owner == held && *digest == mine.digest { Some(durable(record)) } else { undecided }
        }
        (Record::Delegated(_), Some(Standing::Open { saga: false, decision: Some(theirs), .. })) => overruled(*theirs),
        (Record::Delegated(_), Some(Standing::Open { .. })) => undecided,
        (Record::Delegated(_), Some(Standing::Ended(outcome))) => overruled(decision_of(*outcome)),

        // Its owner's decision is written over it.
        (Record::Decided(_), Some(Standing::Delegated { owner, .. })) if *owner == held => None,
        (Record::Ended(mine), Some(Standing::Delegated { owner, .. })) if ends_delegation(mine, *owner == held) => None,
        (Record::SagaStarted(_), Some(Standing::Delegated { .. })) => overruled(Decision::Commit),
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
        (Record::Decided(_), Some(Standing::Open { saga: true, decision: None, .. })) => overruled(Decision::Commit),
        (Record::Decided(_), Some(Standing::Open { saga: false, decision: None, .. })) => undecided,
        (Record::Decided(mine), Some(Standing::Open { decision: Some(theirs), .. })) => by(mine.decision, *theirs),
        (Record::Decided(mine), Some(Standing::Ended(outcome))) => by(mine.decision, decision_of(*outcome)),

        (Record::Agreed(_), None | Some(Standing::Open { saga: true, .. })) => undecided,
        (Record::Agreed(_), Some(Standing::Open { saga: false, decision: None, owner, .. })) => {
            if *owner == held {
                None
            } else {
                undecided
            }
        }
        (Record::Agreed(mine), Some(Standing::Open { saga: false, decision: Some(theirs), .. })) => {
            by(mine.decision, *theirs)
        }
        (Record::Agreed(mine), Some(Standing::Ended(outcome))) => by(mine.decision, decision_of(*outcome)),

        (Record::Attempted(_), None) => None,
        (Record::Attempted(mine), Some(Standing::Open { saga: false, decision: None, owner, digest, vote })) => {
            let has_roster = vote.as_ref().is_some_and(|(roster, _)| *roster == mine.roster);
            let is_ours = *owner == held && *digest == mine.digest && has_roster;
            if is_ours { Some(durable(record)) } else { undecided }
        }
        (Record::Attempted(_), Some(Standing::Open { saga: false, decision: Some(theirs), .. })) => overruled(*theirs),
        (Record::Attempted(_), Some(Standing::Open { saga: true, .. })) => undecided,

        (Record::Voter(_), None | Some(Standing::Open { saga: true, .. })) => undecided,
        (Record::Voter(mine), Some(Standing::Open { saga: false, decision, owner, vote, .. })) => {
            let stands = vote.as_ref().is_some_and(|(_, state)| *state == mine.state);
            match decision {
                _ if *owner == held && stands => Some(durable(record)),
                Some(theirs) => overruled(*theirs),
                None => undecided,
            }
        }
        (Record::Attempted(_) | Record::Voter(_), Some(Standing::Ended(outcome))) => overruled(decision_of(*outcome)),

        (Record::SagaStarted(_), None) => None,
        (Record::SagaStarted(mine), Some(Standing::Open { saga, decision, owner, digest, .. })) => {
            let is_ours = *saga && *owner == held && *digest == mine.digest;
            if is_ours {
                Some(durable(record))
            } else {
                overruled(decision.filter(|_| !saga).unwrap_or(Decision::Commit))
            }
        }
        (Record::SagaStarted(_), Some(Standing::Ended(outcome))) => overruled(decision_of(*outcome)),

        (
            Record::SagaTurned(_) | Record::SagaStep(_) | Record::SagaPaused(_),
            Some(Standing::Open { saga: false, decision, .. }),
        ) => decision.map_or(undecided, overruled),
        (
            Record::SagaTurned(_) | Record::SagaStep(_) | Record::SagaPaused(_),
            Some(Standing::Open { saga: true, owner, .. }),
        ) if *owner != held => undecided,
        (Record::SagaTurned(_), Some(Standing::Open { saga: true, decision, .. })) => decision.map(|_| durable(record)),
        (Record::SagaTurned(_), Some(Standing::Ended(outcome))) => by(Decision::Abort, decision_of(*outcome)),
        (Record::SagaStep(_) | Record::SagaPaused(_), Some(_)) => Some(durable(record)),

        (Record::Ended(mine), Some(Standing::Open { saga, decision, owner, .. })) => {
            let is_foreign_saga = *saga && mine.protocol == Protocol::Saga && *owner != held;
            if ends(mine, *saga, *decision, *owner == held) {
                None
            } else if is_foreign_saga || !saga && decision.is_none() {
                undecided
            } else {
                overruled(decision.unwrap_or(Decision::Commit))
            }
        }
        (Record::Ended(mine), Some(Standing::Ended(outcome))) => by(decision_of(mine.outcome), decision_of(*outcome)),

        // Somebody removed the row by hand. Whoever goes on with this transaction goes on alone:
        // let it stop.
        (Record::SagaTurned(_) | Record::SagaStep(_) | Record::SagaPaused(_) | Record::Ended(_), None) => {
            overruled(Decision::Abort)
        }
    }
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
    use assent_protocol::{Gtid, RetryPolicy};

    use super::*;

    const OURS: Epoch = Epoch(3);

    fn gtid() -> Gtid {
        "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("a version 7")
    }

    fn decided(decision: Decision) -> Decided {
        Decided {
            gtid: gtid(),
            protocol: Protocol::TwoPhase,
            decision,
            participants: vec!["bank".parse().expect("a name")],
            digest: BodyDigest(7),
            begun_at_ms: 0,
            reason: None,
        }
    }

    fn delegated() -> Record {
        let participant = "bank".parse().expect("a name");
        Record::Delegated(Delegated { gtid: gtid(), participant, digest: BodyDigest(7), begun_at_ms: 0 })
    }

    fn roster() -> Roster {
        let seat = Seat {
            participant: "bank".parse().expect("a name"),
            address: "http://bank:7421".parse().expect("an address"),
            store: StoreId(1),
        };
        Roster::new(vec![seat], StoreId(2)).expect("a roster")
    }

    fn attempted() -> Record {
        Record::Attempted(Attempted { gtid: gtid(), roster: roster(), digest: BodyDigest(7), begun_at_ms: 0 })
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
            roster: Some(roster()),
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
            assert_eq!(verdict(&record, None, OURS), Some(Appended::Overruled(Decision::Abort)), "{record:?}");
        }
    }

    #[test]
    fn only_what_stands_as_it_was_written_is_durable() {
        let open = |decision, owner, digest| Standing::Open { saga: false, decision, owner, digest, vote: None };
        let commit = Record::Decided(decided(Decision::Commit));
        let stands = |decision| verdict(&commit, Some(&open(Some(decision), Epoch(9), BodyDigest(8))), OURS);
        assert_eq!(stands(Decision::Commit), Some(durable(&commit)), "whoever wrote it, it is this decision");
        assert_eq!(stands(Decision::Abort), Some(Appended::Overruled(Decision::Abort)));
        let marked = |owner, digest, vote| Standing::Open { saga: false, decision: None, owner, digest, vote };
        let vote = || Some((roster(), VoterState::ATTEMPTED));
        let mark = |standing: Standing| verdict(&attempted(), Some(&standing), OURS);
        assert_eq!(mark(marked(OURS, BodyDigest(7), vote())), Some(durable(&attempted())));
        for other in [
            marked(Epoch(2), BodyDigest(7), vote()),
            marked(OURS, BodyDigest(8), vote()),
            marked(OURS, BodyDigest(7), None),
        ] {
            assert_eq!(mark(other.clone()), Some(Appended::Undecided), "{other:?}");
        }
        let leave = |owner, digest| verdict(&delegated(), Some(&Standing::Delegated { owner, digest }), OURS);
        assert_eq!(leave(OURS, BodyDigest(7)), Some(durable(&delegated())));
        assert_eq!(leave(Epoch(2), BodyDigest(7)), Some(Appended::Undecided));
        assert_eq!(leave(OURS, BodyDigest(8)), Some(Appended::Undecided));
        let over = |owner| verdict(&commit, Some(&Standing::Delegated { owner, digest: BodyDigest(7) }), OURS);
        assert_eq!(over(Epoch(2)), Some(Appended::Undecided), "only its owner has asked the branch");
        assert_eq!(over(OURS), None, "it was to be written over it");
        let saga = |owner, digest| Standing::Open { saga: true, decision: None, owner, digest, vote: None };
        assert_eq!(verdict(&started(), Some(&saga(OURS, BodyDigest(7))), OURS), Some(durable(&started())));
        let taken = Some(Appended::Overruled(Decision::Commit));
        assert_eq!(verdict(&started(), Some(&saga(Epoch(2), BodyDigest(7))), OURS), taken);
        assert_eq!(verdict(&started(), Some(&saga(OURS, BodyDigest(8))), OURS), taken);
    }
}
