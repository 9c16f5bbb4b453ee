use super::*;
use crate::ids::{BranchId, Gtid};
use crate::record::{BranchEnd, EndedBranch, SagaPaused, SagaTurned, told_to_commit};
use crate::retry::RetryPolicy;
use crate::saga::{Definition, StepDefinition};
use crate::three_phase::{Seat, StoreId, VoterName};

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
/// that it is durable would be to acknowledge what is not there after a crash.
#[test]
fn what_left_nothing_is_never_durable() {
    for record in [Record::Decided(decided(Decision::Commit)), delegated(), attempted(), started()] {
        assert_eq!(verdict(&record, None, OURS), Verdict::Repeat, "it is repeated: {record:?}");
    }
    for record in [Record::Agreed(decided(Decision::Commit)), voter()] {
        assert_eq!(verdict(&record, None, OURS), Verdict::Undecided, "{record:?}");
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
    let commit = Record::Decided(decided(Decision::Commit));
    let stands = |decision| {
        let standing = Standing::Decided { decision, owner: Epoch(9), members: members(), vote: None };
        verdict(&commit, Some(&standing), OURS)
    };
    assert_eq!(stands(Decision::Commit), Verdict::Durable, "whichever replica wrote it, it is this decision");
    assert_eq!(stands(Decision::Abort), overruled(Decision::Abort, &[]));
    let marked = |owner, digest, vote| Standing::Attempted { owner, digest, vote };
    let vote = || Some((roster(1), VoterState::ATTEMPTED));
    let mark = |standing: Standing| verdict(&attempted(), Some(&standing), OURS);
    assert_eq!(mark(marked(OURS, BodyDigest(7), vote())), Verdict::Durable);
    for other in [
        marked(Epoch(2), BodyDigest(7), vote()),
        marked(OURS, BodyDigest(8), vote()),
        marked(OURS, BodyDigest(7), None),
        marked(OURS, BodyDigest(7), Some((roster(2), VoterState::ATTEMPTED))),
    ] {
        assert_eq!(mark(other.clone()), Verdict::Undecided, "{other:?}");
    }
    let left = |owner, digest, number| Standing::Delegated { owner, digest, member: member(number) };
    let leave = |standing: Standing| verdict(&delegated(), Some(&standing), OURS);
    assert_eq!(leave(left(OURS, BodyDigest(7), 1)), Verdict::Durable);
    assert_eq!(leave(left(Epoch(2), BodyDigest(7), 1)), Verdict::Undecided);
    assert_eq!(leave(left(OURS, BodyDigest(8), 1)), Verdict::Undecided);
    assert_eq!(leave(left(OURS, BodyDigest(7), 2)), Verdict::Undecided, "another branch decides");
    let over = |owner| verdict(&commit, Some(&left(owner, BodyDigest(7), 1)), OURS);
    assert_eq!(over(Epoch(2)), Verdict::Undecided, "only its owner has asked the branch");
    assert_eq!(over(OURS), Verdict::Repeat, "it was to be written over it");
    let saga = |owner, digest| Standing::Saga { owner, digest, has_turned: false };
    assert_eq!(verdict(&started(), Some(&saga(OURS, BodyDigest(7))), OURS), Verdict::Durable);
    let taken = overruled(Decision::Commit, &[]);
    assert_eq!(verdict(&started(), Some(&saga(Epoch(2), BodyDigest(7))), OURS), taken);
    assert_eq!(verdict(&started(), Some(&saga(OURS, BodyDigest(8))), OURS), taken);
}

/// A call that came twice leaves two branches, prepared alike: only the one that the log names
/// is told to commit.
#[test]
fn a_commit_is_durable_only_for_the_branches_that_it_names() {
    let standing = |decision, members: &[Member]| {
        let outcome = if decision == Decision::Commit { Outcome::Committed } else { Outcome::Aborted };
        let open = Standing::Decided { decision, owner: OURS, members: members.to_vec(), vote: None };
        [open, Standing::Ended { outcome, members: members.to_vec() }]
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
                let expected = if is_named { Verdict::Durable } else { overruled(Decision::Commit, &theirs) };
                assert_eq!(answer, expected, "{stands:?}");
            }
        }
        let abort = wrap(decided(Decision::Abort));
        for stands in standing(Decision::Abort, &[member(2)]) {
            assert_eq!(verdict(&abort, Some(&stands), OURS), Verdict::Durable, "whatever is not named aborts");
            assert_eq!(verdict(&commit, Some(&stands), OURS), overruled(Decision::Abort, &[]), "{stands:?}");
        }
        let unreadable = verdict(&commit, Some(&Standing::Unreadable), OURS);
        assert_eq!(unreadable, Verdict::Undecided, "it is not known which branches it names");
    }
    for late in [delegated(), attempted(), started()] {
        for stands in standing(Decision::Commit, &[member(2)]) {
            let told = overruled(Decision::Commit, &[member(2)]);
            assert_eq!(verdict(&late, Some(&stands), OURS), told, "{late:?}");
        }
    }
}

fn ended(number: u64, end: BranchEnd) -> EndedBranch {
    EndedBranch { participant: member(number).participant, branch: member(number).branch, step: None, end }
}

/// What history has of a branch that had nothing to commit, or was never asked, is not a word for
/// it to commit.
#[test]
fn history_names_the_branches_that_were_told_to_commit() {
    let branches = [
        ended(1, BranchEnd::Committed),
        ended(2, BranchEnd::ReadOnly),
        ended(3, BranchEnd::HeuristicAborted),
        ended(4, BranchEnd::NotStarted),
        ended(5, BranchEnd::Aborted),
    ];
    assert_eq!(told_to_commit(Protocol::TwoPhase, Outcome::Committed, &branches), [1, 3].map(member));
    assert_eq!(told_to_commit(Protocol::ThreePhase, Outcome::Committed, &branches), [1, 2, 3].map(member));
    for protocol in [Protocol::TwoPhase, Protocol::ThreePhase] {
        assert_eq!(told_to_commit(protocol, Outcome::Aborted, &branches), []);
    }
}

/// The voters' roster has them all, those with nothing to commit included, and so has what they
/// agreed on: it says the same before the end and after it.
#[test]
fn an_agreement_is_as_durable_once_it_has_ended() {
    let members = [1, 2].map(member).to_vec();
    let agreed = Record::Agreed(Decided { members: members.clone(), ..decided(Decision::Commit) });
    let branches = [ended(1, BranchEnd::Committed), ended(2, BranchEnd::ReadOnly)];
    let outcome = Outcome::Committed;
    for stands in [
        Standing::Decided { decision: Decision::Commit, owner: OURS, members, vote: None },
        Standing::Ended { outcome, members: told_to_commit(Protocol::ThreePhase, outcome, &branches) },
    ] {
        assert_eq!(verdict(&agreed, Some(&stands), OURS), Verdict::Durable, "{stands:?}");
    }
}

/// What has no decision is decided by its owner alone; and no end contradicts a decision (I3).
#[test]
fn an_end_is_that_of_the_owners_row_and_of_its_decision() {
    let vote = || Some((roster(1), VoterState::ATTEMPTED));
    let decided = |decision| Standing::Decided { decision, owner: OURS, members: vec![member(1)], vote: None };
    let rows = [
        (decided(Decision::Commit), Some(Protocol::TwoPhase)),
        (Standing::Delegated { owner: OURS, digest: BodyDigest(7), member: member(1) }, Some(Protocol::TwoPhase)),
        (Standing::Attempted { owner: OURS, digest: BodyDigest(7), vote: vote() }, Some(Protocol::ThreePhase)),
        (Standing::Saga { owner: OURS, digest: BodyDigest(7), has_turned: false }, Some(Protocol::Saga)),
        (Standing::Ended { outcome: Outcome::Committed, members: Vec::new() }, None),
        (Standing::Unreadable, None),
    ];
    let end = |protocol, outcome| Ended {
        gtid: gtid(),
        protocol,
        outcome,
        has_open_row: true,
        begun_at_ms: 0,
        digest: BodyDigest(7),
        reason: None,
        branches: Vec::new(),
        outputs: Vec::new(),
    };
    for (row, own) in rows {
        for protocol in [Protocol::TwoPhase, Protocol::ThreePhase, Protocol::Saga] {
            let end = end(protocol, Outcome::Committed);
            // A decided row may be one of either protocol with branches.
            let is_its =
                own == Some(protocol) || matches!(row, Standing::Decided { .. }) && protocol == Protocol::ThreePhase;
            assert_eq!(row.is_ended_by(&end, OURS), is_its, "{protocol}: {row:?}");
            assert!(!row.is_ended_by(&end, Epoch(9)), "another's {protocol}: {row:?}");
        }
    }
    let abort = end(Protocol::TwoPhase, Outcome::Aborted);
    assert!(!decided(Decision::Commit).is_ended_by(&abort, OURS));
    assert!(decided(Decision::Abort).is_ended_by(&abort, OURS));
    let told = verdict(&Record::Ended(abort), Some(&decided(Decision::Commit)), OURS);
    assert_eq!(told, overruled(Decision::Commit, &[member(1)]));
}
