//! Branch ids: a participant may prepare two branches of one transaction, and only the one that the
//! log names commits.

use std::sync::Arc;

use assent_protocol::record::{Attempted, Decided, Delegated, Ended, EndedBranch, Member};
use assent_protocol::three_phase::{Roster, Seat};
use assent_protocol::{Appended, BranchEnd, BranchId, Decision, Gtid, Outcome, Protocol, Record};

use super::sample::{self, append, attempted, branch, commit, delegated, find, forced, gtid, lazy, member, name, twin};
use super::{Ground, start};
use crate::log::{Batch, EndedTransaction, Found, Log, OpenTransaction};

/// [`commit`], for the branch of `inventory` that a second call left behind.
fn twins(gtid: Gtid) -> Decided {
    Decided { members: vec![twin("inventory"), member("billing")], ..commit(gtid) }
}

fn ended(gtid: Gtid, protocol: Protocol, members: &[Member]) -> Ended {
    let branches = members.iter().map(|Member { participant, branch }| EndedBranch {
        participant: participant.clone(),
        branch: *branch,
        step: None,
        end: BranchEnd::Committed,
    });
    Ended { protocol, branches: branches.collect(), ..sample::ended(gtid, Decision::Commit) }
}

async fn is_overruled(log: &Arc<dyn Log>, record: Record, members: &[Member]) {
    let batch = forced([record]);
    let expected = [Appended::Overruled { decision: Decision::Commit, members: members.to_vec() }];
    for _ in 0..2 {
        assert_eq!(log.append(&batch).await.expect("the log is there"), expected, "{batch:?}");
    }
}

/// The same gtid, digest and decision for other branches is another commit: the writer is told
/// which branches the log names, before and after the end.
pub async fn a_commit_of_other_branches_is_overruled(ground: &dyn Ground) {
    let log = start(ground).await;
    let first = commit(gtid(1));
    append(&log, &forced([Record::Decided(first.clone())])).await;
    for is_ended in [false, true] {
        let before = find(&log, gtid(1)).await;
        is_overruled(&log, Record::Decided(twins(gtid(1))), &first.members).await;
        let nameless = first.members.iter().map(|member| Member { branch: BranchId::NONE, ..member.clone() });
        let nameless = Decided { members: nameless.collect(), ..commit(gtid(1)) };
        is_overruled(&log, Record::Decided(nameless), &first.members).await;
        let more = [&first.members[..], &[member("airline")]].concat();
        is_overruled(&log, Record::Decided(Decided { members: more, ..commit(gtid(1)) }), &first.members).await;
        let delegation = Delegated { member: twin("inventory"), ..delegated(gtid(1)) };
        is_overruled(&log, Record::Delegated(delegation), &first.members).await;
        // A part of the branches is a part of what stands, and an abort has no branches to name.
        let part = Decided { members: vec![member("billing")], ..commit(gtid(1)) };
        assert_eq!(append(&log, &forced([Record::Decided(first.clone()), Record::Decided(part)])).await, [None, None]);
        assert_eq!(find(&log, gtid(1)).await, before, "nothing was changed");
        if !is_ended {
            append(&log, &lazy([Record::Ended(ended(gtid(1), Protocol::TwoPhase, &first.members))])).await;
        }
    }
    append(&log, &forced([Record::Decided(sample::abort(gtid(2)))])).await;
    let abort = Decided { members: vec![twin("inventory")], ..sample::abort(gtid(2)) };
    assert_eq!(append(&log, &forced([Record::Decided(abort.clone())])).await, [None], "the same abort");
    append(&log, &lazy([Record::Ended(sample::ended(gtid(2), Decision::Abort))])).await;
    assert_eq!(append(&log, &forced([Record::Decided(abort)])).await, [None], "the same abort");
    let late = log.append(&forced([Record::Decided(twins(gtid(2)))])).await.expect("there");
    assert_eq!(late, [Appended::Overruled { decision: Decision::Abort, members: Vec::new() }]);
    // A saga names no branches.
    append(&log, &forced([Record::SagaStarted(sample::saga(gtid(3)))])).await;
    is_overruled(&log, Record::Decided(commit(gtid(3))), &[]).await;
    append(&log, &forced([Record::Ended(sample::saga_ended(gtid(3), Outcome::Completed))])).await;
    is_overruled(&log, Record::Decided(commit(gtid(3))), &[]).await;
}

/// Of the branches that history has, only those that were told to commit stand for a commit.
pub async fn a_branch_that_had_nothing_to_commit_is_not_named(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced([Record::Decided(sample::decided(gtid(1), Decision::Commit, &["inventory"]))])).await;
    let branches = vec![branch("billing", BranchEnd::ReadOnly), branch("inventory", BranchEnd::HeuristicAborted)];
    append(&log, &lazy([Record::Ended(Ended { branches, ..sample::ended(gtid(1), Decision::Commit) })])).await;
    is_overruled(&log, Record::Decided(commit(gtid(1))), &[member("inventory")]).await;
}

/// A delegation and an attempt are repeated for the same branches only.
pub async fn a_row_without_a_decision_is_one_of_its_branches(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced([Record::Delegated(delegated(gtid(1))), Record::Attempted(attempted(gtid(2)))])).await;
    let both = [1, 2].map(gtid);
    let before = log.lookup(&both).await.expect("there");
    let Attempted { roster, .. } = attempted(gtid(2));
    let seats = roster.participants().iter().map(|seat| Seat { branch: seat.branch.plus(1), ..seat.clone() });
    let others = Roster::new(seats.collect(), roster.log()).expect("a roster");
    for record in [
        Record::Delegated(Delegated { member: twin("inventory"), ..delegated(gtid(1)) }),
        Record::Attempted(Attempted { roster: others, ..attempted(gtid(2)) }),
    ] {
        let answers = log.append(&forced([record.clone()])).await.expect("there");
        assert_eq!(answers, [Appended::Undecided], "{record:?}");
    }
    assert_eq!(log.lookup(&both).await.expect("there"), before);
    let again = forced([Record::Delegated(delegated(gtid(1))), Record::Attempted(attempted(gtid(2)))]);
    assert_eq!(append(&log, &again).await, [None, None]);
    // What the voters agreed on is as any commit: for the branches that it names.
    let agreed = Decided { protocol: Protocol::ThreePhase, ..commit(gtid(2)) };
    assert_eq!(append(&log, &forced([Record::Agreed(agreed.clone())])).await, [None]);
    let other = Decided { protocol: Protocol::ThreePhase, ..twins(gtid(2)) };
    is_overruled(&log, Record::Agreed(other.clone()), &agreed.members).await;
    append(&log, &lazy([Record::Ended(ended(gtid(2), Protocol::ThreePhase, &agreed.members))])).await;
    is_overruled(&log, Record::Agreed(other), &agreed.members).await;
    is_overruled(&log, Record::Ended(ended(gtid(2), Protocol::ThreePhase, &twins(gtid(2)).members)), &agreed.members)
        .await;
}

/// Every id is read as it was written: of rows of either table, of each protocol, in whatever
/// company, and where no branch has one.
pub async fn branch_ids_are_found_as_they_were_written(ground: &dyn Ground) {
    let log = start(ground).await;
    let none = |participant| Member { participant: name(participant), branch: BranchId::NONE };
    let rosters = [
        vec![member("inventory"), twin("billing")],
        vec![none("inventory"), member("billing")],
        vec![none("inventory"), none("billing")],
        vec![twin("inventory")],
    ];
    let all: Vec<(Gtid, Protocol, &[Member])> = (1..)
        .map(gtid)
        .zip([Protocol::TwoPhase, Protocol::ThreePhase].iter().flat_map(|p| rosters.iter().map(move |r| (*p, r))))
        .map(|(gtid, (protocol, roster))| (gtid, protocol, roster.as_slice()))
        .collect();
    let opening = all.iter().map(|(gtid, protocol, members)| match protocol {
        Protocol::TwoPhase | Protocol::Saga => Record::Decided(Decided { members: members.to_vec(), ..commit(*gtid) }),
        Protocol::ThreePhase => {
            let usual = attempted(*gtid).roster;
            let seat = |Member { participant, branch }: &Member| {
                let usual = usual.seat(participant).expect("one of two").clone();
                Seat { branch: *branch, ..usual }
            };
            let roster = Roster::new(members.iter().map(seat).collect(), usual.log()).expect("a roster");
            Record::Attempted(Attempted { roster, ..attempted(*gtid) })
        }
    });
    let opening: Vec<Record> = opening.collect();
    assert_eq!(append(&log, &forced(opening.iter().cloned())).await, vec![None; all.len()]);
    for (opened, (gtid, ..)) in opening.iter().zip(&all) {
        match (find(&log, *gtid).await, opened) {
            (Some(Found::Open(OpenTransaction::Decided { record, .. })), Record::Decided(opened)) => {
                assert_eq!(record, *opened);
            }
            (Some(Found::Open(OpenTransaction::Attempted { record, .. })), Record::Attempted(opened)) => {
                assert_eq!(record, *opened);
            }
            (other, _) => panic!("{gtid} is not as it was opened, but {other:?}"),
        }
    }
    let ends: Vec<Ended> = all.iter().map(|(gtid, protocol, members)| ended(*gtid, *protocol, members)).collect();
    append(&log, &lazy(ends.iter().cloned().map(Record::Ended))).await;
    // Neither decided nor opened, and not all of one mind.
    let gave_up = Ended {
        has_open_row: false,
        branches: vec![branch("inventory", BranchEnd::Aborted), branch("billing", BranchEnd::NotStarted)],
        ..sample::ended(gtid(50), Decision::Abort)
    };
    append(&log, &Batch { lazy: vec![Record::Ended(gave_up.clone())], ..forced([]) }).await;
    for end in ends.into_iter().chain([gave_up]) {
        let Some(Found::Ended(EndedTransaction { record, .. })) = find(&log, end.gtid).await else {
            panic!("{} is lost", end.gtid)
        };
        assert_eq!(record.branches, end.branches, "{}", end.gtid);
    }
}
