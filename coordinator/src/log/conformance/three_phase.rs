//! Three-phase transactions: rows without a decision, in which the log is a voter.

use std::sync::Arc;

use assent_protocol::record::{Attempted, Decided, Ended};
use assent_protocol::three_phase::{Ballot, NodeId, Roster, Standing, StoreId, VoterName, VoterRecord, VoterState};
use assent_protocol::{Appended, BodyDigest, BranchEnd, Decision, Gtid, Outcome, Protocol, Record};

use super::sample::{self, NOW_MS, abort, append, attempted, commit, find, forced, gtid, lazy, moved, name, saga};
use super::{Ground, SharedGround, start, two_live};
use crate::log::{Batch, EndedTransaction, Filter, Found, Log, OpenTransaction, Owned, State};

/// Some state further on; a higher n is a later one.
fn state(n: u64, standing: Standing) -> VoterState {
    let ballot = Ballot { round: n, node: NodeId(u128::MAX - u128::from(n)) };
    VoterState { standing, joined: ballot, accepted: (standing == Standing::PreAborted).then_some(ballot) }
}

fn agreed(decided: Decided) -> Record {
    Record::Agreed(Decided { protocol: Protocol::ThreePhase, ..decided })
}

/// All kinds of answers, which [`append`] does not take.
async fn answers(log: &Arc<dyn Log>, batch: &Batch) -> Vec<Appended> {
    log.append(batch).await.expect("the log is there")
}

async fn is_untold(log: &Arc<dyn Log>, record: Record) {
    let batch = forced([record]);
    for _ in 0..2 {
        assert_eq!(answers(log, &batch).await, [Appended::Undecided], "{batch:?}");
    }
}

async fn stands(log: &Arc<dyn Log>, gtid: Gtid) -> Option<VoterState> {
    match find(log, gtid).await {
        Some(Found::Open(OpenTransaction::Attempted { state, .. })) => Some(state),
        Some(_) | None => None,
    }
}

/// 'Attempt 1 sent', every field of it, for recovery and for operators.
pub async fn an_attempt_is_found_as_it_was_written(ground: &dyn Ground) {
    let log = ground.open().await;
    let owner = log.acquire(&name("r1")).await.expect("free");
    let record = Attempted { digest: BodyDigest(u64::MAX), ..attempted(gtid(1)) };
    let batch = forced([Record::Attempted(record.clone()), Record::Decided(commit(gtid(2)))]);
    let open = OpenTransaction::Attempted { record, state: VoterState::ATTEMPTED, attempted_at_ms: NOW_MS, owner };
    for _ in 0..2 {
        assert_eq!(append(&log, &batch).await, [None, None]);
        assert_eq!(find(&log, gtid(1)).await, Some(Found::Open(open.clone())));
    }
    let recovered = log.open_transactions(None, 1).await.expect("there");
    let recovered: Vec<_> = recovered.into_iter().map(|(gtid, read)| (gtid, read.map(Owned::into_inner))).collect();
    assert_eq!(recovered, [(gtid(1), Ok(open.clone()))]);
    let shown = log.show(gtid(1)).await.expect("there").expect("known");
    assert_eq!(shown.found, Found::Open(open));
    let listed = shown.transaction;
    assert_eq!((listed.state, listed.protocol, listed.decided_at_ms), (State::Preparing, Protocol::ThreePhase, None));
    assert_eq!(listed.participants, ["inventory", "billing"].map(name));
    let filter = Filter { states: vec![State::Preparing], participant: Some(name("billing")), ..Filter::default() };
    let page = log.list(&filter, None, 10).await.expect("there");
    assert_eq!(page.transactions, [listed]);
}

/// Those of one batch, whose rosters are partly one and the same.
pub async fn each_attempt_of_a_batch_keeps_its_roster(ground: &dyn Ground) {
    let log = start(ground).await;
    let usual = attempted(gtid(1)).roster;
    let other = Roster::new(usual.participants()[..1].to_vec(), StoreId(7)).expect("a roster");
    let rosters = [&usual, &usual, &other, &usual, &other];
    let opened: Vec<Attempted> = rosters
        .into_iter()
        .zip(1..)
        .map(|(roster, n)| Attempted { roster: roster.clone(), ..attempted(gtid(n)) })
        .collect();
    let batch = Batch { forced: opened.iter().cloned().map(Record::Attempted).collect(), ..forced([]) };
    assert_eq!(append(&log, &batch).await, vec![None; opened.len()]);
    for opened in opened {
        let found = find(&log, opened.gtid).await;
        let Some(Found::Open(OpenTransaction::Attempted { record, .. })) = found else { panic!("{found:?}") };
        assert_eq!(record, opened);
        let listed = log.show(opened.gtid).await.expect("there").expect("known").transaction;
        let names: Vec<_> = opened.roster.participants().iter().map(|seat| seat.participant.clone()).collect();
        assert_eq!(listed.participants, names);
    }
}

/// The log moves on only from where it stands, and the repetition of a move is not a second one.
pub async fn the_logs_vote_is_compared_and_set(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced([Record::Attempted(attempted(gtid(1)))])).await;
    let (one, two) = (state(2, Standing::PreCommitted), state(3, Standing::PreAborted));
    let first = forced([moved(gtid(1), VoterState::ATTEMPTED, one), Record::Decided(commit(gtid(2)))]);
    for _ in 0..3 {
        assert_eq!(append(&log, &first).await, [None, None]);
        assert_eq!(stands(&log, gtid(1)).await, Some(one));
    }
    is_untold(&log, moved(gtid(1), VoterState::ATTEMPTED, two)).await;
    assert_eq!(stands(&log, gtid(1)).await, Some(one), "a move from elsewhere is none");
    assert_eq!(append(&log, &forced([moved(gtid(1), one, two)])).await, [None]);
    assert_eq!(stands(&log, gtid(1)).await, Some(two));
    is_untold(&log, moved(gtid(7), VoterState::ATTEMPTED, one)).await;
    assert_eq!(find(&log, gtid(7)).await, None, "a voter whose row is gone has lost its promises");
    let Record::Voter(record) = moved(gtid(1), two, one) else { panic!("a vote") };
    let foreign = VoterRecord { voter: VoterName::Participant(name("inventory")), ..*record.clone() };
    is_untold(&log, Record::Voter(Box::new(foreign))).await;
    is_untold(&log, Record::Voter(Box::new(VoterRecord { before: None, ..*record }))).await;
    assert_eq!(stands(&log, gtid(1)).await, Some(two));
}

/// What the voters agreed on goes into their row, which keeps what it was opened with; then the row
/// moves to history as any other.
pub async fn an_agreement_decides_its_row(ground: &dyn Ground) {
    let log = ground.open().await;
    let owner = log.acquire(&name("r1")).await.expect("free");
    for (n, decided, outcome) in [(1, commit(gtid(1)), Outcome::Committed), (2, abort(gtid(2)), Outcome::Aborted)] {
        let opened = attempted(gtid(n));
        append(&log, &forced([Record::Attempted(opened.clone())])).await;
        let said = Decided { digest: BodyDigest(0), begun_at_ms: 1, ..decided };
        let batch =
            Batch { at_ms: NOW_MS + 5, ..forced([agreed(said.clone()), Record::Decided(commit(gtid(10 + n)))]) };
        let record = Decided {
            protocol: Protocol::ThreePhase,
            digest: opened.digest,
            begun_at_ms: opened.begun_at_ms,
            ..said.clone()
        };
        let roster = Some(opened.roster.clone());
        let open = OpenTransaction::Decided { record: record.clone(), roster, decided_at_ms: NOW_MS + 5, owner };
        for _ in 0..3 {
            assert_eq!(append(&log, &batch).await, [None, None]);
            assert_eq!(find(&log, gtid(n)).await, Some(Found::Open(open.clone())));
        }
        let listed = log.show(gtid(n)).await.expect("there").expect("known").transaction;
        assert_eq!((listed.state, listed.decided_at_ms), (said.decision.into(), Some(NOW_MS + 5)));
        // Nothing changes it any more.
        let other = if said.decision == Decision::Commit { abort(gtid(n)) } else { commit(gtid(n)) };
        let late = forced([
            agreed(other.clone()),
            Record::Decided(other),
            Record::Attempted(opened),
            moved(gtid(n), VoterState::ATTEMPTED, state(9, Standing::PreCommitted)),
        ]);
        assert_eq!(append(&log, &late).await, [Some(said.decision); 4]);
        assert_eq!(find(&log, gtid(n)).await, Some(Found::Open(open)));
        let end = Ended { protocol: Protocol::ThreePhase, ..sample::ended(gtid(n), said.decision) };
        append(&log, &Batch { at_ms: NOW_MS + 9, ..lazy([Record::Ended(end.clone())]) }).await;
        let record = Ended { has_open_row: false, ..end };
        assert_eq!(record.outcome, outcome);
        let expected = EndedTransaction { record, decided_at_ms: Some(NOW_MS + 5), ended_at_ms: NOW_MS + 9 };
        assert_eq!(find(&log, gtid(n)).await, Some(Found::Ended(expected)));
        assert_eq!(append(&log, &late).await, [Some(said.decision); 4], "history rules too");
        assert_eq!(append(&log, &forced([agreed(said)])).await, [None]);
    }
}

/// What the voters agreed on may come with the end: the row goes to history without having been
/// decided before.
pub async fn an_end_brings_what_was_agreed_on(ground: &dyn Ground) {
    let owner = start(ground).await;
    for (n, decision, is_forced) in
        [(1, Decision::Commit, true), (2, Decision::Abort, true), (3, Decision::Commit, false)]
    {
        let opened = attempted(gtid(n));
        append(&owner, &forced([Record::Attempted(opened.clone())])).await;
        let said = Ended { protocol: Protocol::ThreePhase, ..sample::ended(gtid(n), decision) };
        let untouched = find(&owner, gtid(n)).await;
        // No end that knows of two phases only.
        is_untold(&owner, Record::Ended(Ended { protocol: Protocol::TwoPhase, ..said.clone() })).await;
        assert_eq!(find(&owner, gtid(n)).await, untouched);
        let end = Record::Ended(said.clone());
        let batch = Batch { at_ms: NOW_MS + 7, ..if is_forced { forced([end]) } else { lazy([end]) } };
        let record =
            Ended { has_open_row: false, digest: opened.digest, begun_at_ms: opened.begun_at_ms, ..said.clone() };
        let expected = EndedTransaction { record, decided_at_ms: Some(NOW_MS + 7), ended_at_ms: NOW_MS + 7 };
        for _ in 0..2 {
            assert!(append(&owner, &batch).await.iter().all(Option::is_none));
            assert_eq!(find(&owner, gtid(n)).await, Some(Found::Ended(expected.clone())));
        }
        let contrary = if decision == Decision::Commit { Outcome::Aborted } else { Outcome::Committed };
        let late = forced([Record::Ended(Ended { outcome: contrary, ..said })]);
        assert_eq!(append(&owner, &late).await, [Some(decision)]);
    }
    // Beside others, each with its own.
    let ends =
        |n: u64, decision| Record::Ended(Ended { protocol: Protocol::ThreePhase, ..sample::ended(gtid(n), decision) });
    append(&owner, &forced([4, 5, 6].map(|n| Record::Attempted(attempted(gtid(n)))))).await;
    append(&owner, &forced([agreed(abort(gtid(6))), Record::Decided(commit(gtid(7)))])).await;
    let plain = Record::Ended(sample::ended(gtid(7), Decision::Commit));
    let batch = Batch {
        lazy: vec![ends(6, Decision::Abort), plain],
        ..forced([ends(4, Decision::Commit), ends(5, Decision::Abort), Record::Decided(commit(gtid(8)))])
    };
    assert_eq!(append(&owner, &batch).await, [None; 3]);
    for (n, outcome) in [(4, Outcome::Committed), (5, Outcome::Aborted), (6, Outcome::Aborted), (7, Outcome::Committed)]
    {
        let Some(Found::Ended(ended)) = find(&owner, gtid(n)).await else { panic!("{n} is open") };
        assert_eq!(ended.record.outcome, outcome);
    }
}

/// History keeps the branches of the end, which may be others than its row was opened with.
pub async fn an_end_has_branches_of_its_own(ground: &dyn Ground) {
    let log = start(ground).await;
    for (n, is_agreed) in [(1, true), (2, false)] {
        append(&log, &forced([Record::Attempted(attempted(gtid(n)))])).await;
        if is_agreed {
            append(&log, &forced([agreed(commit(gtid(n)))])).await;
        }
        let branches = vec![sample::branch("a.b", BranchEnd::Committed), sample::branch("reader", BranchEnd::ReadOnly)];
        let end = Ended {
            protocol: Protocol::ThreePhase,
            branches: branches.clone(),
            ..sample::ended(gtid(n), Decision::Commit)
        };
        assert_eq!(append(&log, &forced([Record::Ended(end)])).await, [None]);
        let Some(Found::Ended(ended)) = find(&log, gtid(n)).await else { panic!("{n} is open") };
        assert_eq!(ended.record.branches, branches);
    }
}

/// First writer wins: a presumed abort and an attempt, in either order. Over an attempt nobody
/// presumes, not even its owner.
pub async fn nobody_presumes_over_an_attempt(ground: &dyn Ground) {
    let log = start(ground).await;
    let presumed = |n| Record::Decided(Decided { protocol: Protocol::ThreePhase, ..abort(gtid(n)) });
    assert_eq!(append(&log, &forced([presumed(1)])).await, [None]);
    assert_eq!(append(&log, &forced([Record::Attempted(attempted(gtid(1)))])).await, [Some(Decision::Abort)]);
    let Some(Found::Open(OpenTransaction::Decided { roster, .. })) = find(&log, gtid(1)).await else { panic!("open") };
    assert_eq!(roster, None, "no attempt, no roster");
    assert_eq!(append(&log, &forced([Record::Attempted(attempted(gtid(2)))])).await, [None]);
    let untouched = find(&log, gtid(2)).await;
    is_untold(&log, presumed(2)).await;
    is_untold(&log, Record::Decided(abort(gtid(2)))).await;
    is_untold(&log, Record::Decided(commit(gtid(2)))).await;
    is_untold(&log, Record::Attempted(Attempted { digest: BodyDigest(3), ..attempted(gtid(2)) })).await;
    is_untold(&log, Record::Ended(sample::ended(gtid(2), Decision::Abort))).await;
    let end = Ended { has_open_row: false, ..sample::ended(gtid(2), Decision::Abort) };
    append(&log, &lazy([Record::Ended(end)])).await;
    assert_eq!(append(&log, &forced([Record::SagaStarted(saga(gtid(2)))])).await, [Some(Decision::Commit)], "taken");
    is_untold(&log, Record::SagaTurned(sample::turned(gtid(2), "no"))).await;
    assert_eq!(find(&log, gtid(2)).await, untouched);
    // An agreement needs its attempt, and a saga is nobody's to agree on.
    append(&log, &forced([Record::SagaStarted(saga(gtid(3)))])).await;
    for n in [3, 4] {
        let before = find(&log, gtid(n)).await;
        is_untold(&log, agreed(commit(gtid(n)))).await;
        is_untold(&log, moved(gtid(n), VoterState::ATTEMPTED, state(2, Standing::PreAborted))).await;
        assert_eq!(find(&log, gtid(n)).await, before);
    }
    is_untold(&log, Record::Attempted(attempted(gtid(3)))).await;
    // The others of such a batch have their answers.
    let batch = forced([presumed(2), Record::Decided(commit(gtid(5))), Record::Attempted(attempted(gtid(6)))]);
    let all = answers(&log, &batch).await;
    assert!(matches!(&all[..], [Appended::Undecided, Appended::Durable(_), Appended::Durable(_)]), "{all:?}");
}

/// Recovery has the voter's last state, under the epoch that took it over.
pub async fn a_new_epoch_votes_on_from_where_the_old_one_stood(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced([Record::Attempted(attempted(gtid(1)))])).await;
    let one = state(2, Standing::PreAborted);
    append(&log, &forced([moved(gtid(1), VoterState::ATTEMPTED, one)])).await;
    let heir = log.acquire(&name("r1")).await.expect("free");
    let open = log.open_transactions(None, 10).await.expect("there");
    let expected =
        OpenTransaction::Attempted { record: attempted(gtid(1)), state: one, attempted_at_ms: NOW_MS, owner: heir };
    let open: Vec<_> = open.into_iter().map(|(gtid, read)| (gtid, read.map(Owned::into_inner))).collect();
    assert_eq!(open, [(gtid(1), Ok(expected))]);
    assert_eq!(append(&log, &forced([moved(gtid(1), one, state(3, Standing::PreCommitted))])).await, [None]);
    assert_eq!(append(&log, &forced([agreed(commit(gtid(1)))])).await, [None]);
}

/// Two replicas, one row: only its owner votes and decides in it, and nobody else is told anything.
pub async fn a_row_without_a_decision_is_its_owners(ground: &dyn SharedGround) {
    let (owner, other) = two_live(ground).await;
    append(&owner, &forced([Record::Attempted(attempted(gtid(1)))])).await;
    let one = state(2, Standing::PreCommitted);
    let end = Record::Ended(Ended { protocol: Protocol::ThreePhase, ..sample::ended(gtid(1), Decision::Commit) });
    for record in [
        Record::Attempted(attempted(gtid(1))),
        Record::Decided(Decided { protocol: Protocol::ThreePhase, ..abort(gtid(1)) }),
        agreed(abort(gtid(1))),
        moved(gtid(1), VoterState::ATTEMPTED, one),
        moved(gtid(1), one, VoterState::ATTEMPTED),
        end.clone(),
    ] {
        is_untold(&other, record).await;
    }
    append(&other, &lazy([end])).await;
    assert_eq!(stands(&owner, gtid(1)).await, Some(VoterState::ATTEMPTED));
    assert_eq!(append(&owner, &forced([moved(gtid(1), VoterState::ATTEMPTED, one)])).await, [None]);
    assert_eq!(append(&owner, &forced([agreed(commit(gtid(1)))])).await, [None]);
    // Now there is something to tell.
    let late = forced([agreed(abort(gtid(1))), Record::Decided(abort(gtid(1))), moved(gtid(1), one, one)]);
    assert_eq!(append(&other, &late).await, [Some(Decision::Commit); 3]);
    assert_eq!(append(&other, &forced([agreed(commit(gtid(1)))])).await, [None]);
}
