//! Sagas: start, answers, turn, pause, end.

use assent_protocol::record::{SagaStarted, SagaStep};
use assent_protocol::saga::{StepIndex, StepResult};
use assent_protocol::{BodyDigest, Decision, Outcome, Record};
use bytes::Bytes;

use super::sample::{
    NOW_MS, abort, append, commit, done, ended, find, forced, gtid, lazy, name, paused, saga, saga_ended, turned,
};
use super::{Ground, start};
use crate::log::{Batch, Found, LoggedStep, OpenSaga, OpenTransaction, Owned, State};

async fn open_saga(log: &std::sync::Arc<dyn crate::log::Log>, n: u64) -> OpenSaga {
    match find(log, gtid(n)).await {
        Some(Found::Open(OpenTransaction::Saga(saga))) => saga,
        other => panic!("saga {n} is open, not {other:?}"),
    }
}

/// Recovery gets back the definition and every answer.
pub async fn a_saga_is_found_as_it_was_logged(ground: &dyn Ground) {
    let log = ground.open().await;
    let owner = log.acquire(&name("r1")).await.expect("free");
    let started = saga(gtid(1));
    assert_eq!(append(&log, &forced([Record::SagaStarted(started.clone())])).await, [None]);
    let refused = SagaStep { result: StepResult::Refused("sold out".to_owned()), ..done(gtid(1), 1, "") };
    let unknown = SagaStep { result: StepResult::Unknown("timeout".to_owned()), attempt: 7, ..done(gtid(1), 2, "") };
    let undone = SagaStep { compensation: true, attempt: u32::MAX, ..done(gtid(1), 0, "") };
    let first = done(gtid(1), 0, "r-\u{0}1");
    let answers = [undone.clone(), unknown.clone(), first.clone(), refused.clone()];
    append(&log, &Batch { at_ms: NOW_MS + 4, ..lazy(answers.into_iter().map(Record::SagaStep)) }).await;
    assert_eq!(append(&log, &forced([Record::SagaTurned(turned(gtid(1), "sold out"))])).await, [None]);
    let expected = OpenSaga {
        started,
        turned: Some("sold out".to_owned()),
        paused: None,
        steps: [first, undone, refused, unknown]
            .into_iter()
            .map(|record| LoggedStep { record, at_ms: NOW_MS + 4 })
            .collect(),
        started_at_ms: NOW_MS,
        owner,
    };
    assert_eq!(open_saga(&log, 1).await, expected);
    let recovered = log.open_transactions(None, 10).await.expect("there");
    let recovered: Vec<_> = recovered.into_iter().map(|(gtid, read)| (gtid, read.map(Owned::into_inner))).collect();
    assert_eq!(recovered, [(gtid(1), Ok(OpenTransaction::Saga(expected)))]);
}

/// One row for each step: the last answer, also within a batch.
pub async fn a_sagas_latest_answers_count(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced([Record::SagaStarted(saga(gtid(1))), Record::SagaStarted(saga(gtid(2)))])).await;
    let attempt = |attempt, result| Record::SagaStep(SagaStep { attempt, result, ..done(gtid(1), 2, "") });
    append(&log, &lazy([attempt(1, StepResult::Unknown("timeout".to_owned()))])).await;
    let both = [attempt(2, StepResult::Refused("busy".to_owned())), attempt(3, StepResult::Done(Bytes::from("h-1")))];
    append(&log, &Batch { at_ms: NOW_MS + 1, ..lazy(both) }).await;
    let steps = open_saga(&log, 1).await.steps;
    let record = SagaStep { attempt: 3, ..done(gtid(1), 2, "h-1") };
    assert_eq!(steps, [LoggedStep { record, at_ms: NOW_MS + 1 }]);
    assert_eq!(open_saga(&log, 2).await.steps, []);
}

/// A pause survives a restart, and so does its end.
pub async fn a_saga_can_be_paused_and_resumed(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced([Record::SagaStarted(saga(gtid(1)))])).await;
    let state = async || log.show(gtid(1)).await.expect("there").expect("known").transaction;
    assert_eq!(state().await.state, State::Running);
    append(&log, &lazy([Record::SagaPaused(paused(gtid(1), Some("pay by hand")))])).await;
    assert_eq!(open_saga(&log, 1).await.paused.as_deref(), Some("pay by hand"));
    assert_eq!((state().await.state, state().await.remedy.as_deref()), (State::Paused, Some("pay by hand")));
    append(&log, &lazy([Record::SagaPaused(paused(gtid(1), None))])).await;
    assert_eq!(open_saga(&log, 1).await.paused, None);
    append(&log, &lazy([Some("one"), None, Some("two")].map(|remedy| Record::SagaPaused(paused(gtid(1), remedy)))))
        .await;
    assert_eq!(open_saga(&log, 1).await.paused.as_deref(), Some("two"), "the last of a batch counts");
}

/// They are two facts about one row.
pub async fn a_turn_and_a_pause_in_one_batch_both_count(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced([Record::SagaStarted(saga(gtid(1)))])).await;
    let batch = Batch {
        at_ms: NOW_MS,
        forced: vec![Record::SagaTurned(turned(gtid(1), "no seats"))],
        lazy: vec![Record::SagaPaused(paused(gtid(1), Some("call them"))), Record::SagaStep(done(gtid(1), 0, "r"))],
    };
    assert_eq!(append(&log, &batch).await, [None]);
    let saga = open_saga(&log, 1).await;
    assert_eq!((saga.turned.as_deref(), saga.paused.as_deref()), (Some("no seats"), Some("call them")));
    assert_eq!(saga.steps.len(), 1);
    // The first reason is the one that the saga turned for.
    assert_eq!(append(&log, &forced([Record::SagaTurned(turned(gtid(1), "again"))])).await, [None]);
    assert_eq!(open_saga(&log, 1).await.turned.as_deref(), Some("no seats"));
}

/// A step that is marked durable is forced.
pub async fn a_durable_step_is_confirmed(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced([Record::SagaStarted(saga(gtid(1)))])).await;
    let step = done(gtid(1), 1, "seat 7a");
    assert_eq!(append(&log, &forced([Record::SagaStep(step.clone())])).await, [None]);
    assert_eq!(open_saga(&log, 1).await.steps[0].record, step);
}

/// I11 for starts: a second owner of the gtid is turned away.
pub async fn a_sagas_gtid_is_taken_once(ground: &dyn Ground) {
    let log = start(ground).await;
    let start_again = |n| forced([Record::SagaStarted(saga(gtid(n)))]);
    assert_eq!(append(&log, &start_again(1)).await, [None]);
    assert_eq!(append(&log, &start_again(1)).await, [None], "the repetition of our own");
    let other = SagaStarted { digest: BodyDigest(1), ..saga(gtid(1)) };
    assert_eq!(append(&log, &forced([Record::SagaStarted(other)])).await, [Some(Decision::Commit)]);
    assert_eq!(append(&log, &forced([Record::Decided(abort(gtid(1)))])).await, [Some(Decision::Commit)]);
    append(&log, &forced([Record::Decided(abort(gtid(2))), Record::Decided(commit(gtid(3)))])).await;
    assert_eq!(append(&log, &start_again(2)).await, [Some(Decision::Abort)], "an inquiry was told abort");
    assert_eq!(append(&log, &start_again(3)).await, [Some(Decision::Commit)]);
    assert_eq!(append(&log, &forced([Record::Ended(saga_ended(gtid(1), Outcome::Completed))])).await, [None]);
    assert_eq!(append(&log, &start_again(1)).await, [Some(Decision::Commit)], "it never runs twice");
    assert!(matches!(find(&log, gtid(1)).await, Some(Found::Ended(_))));
}

/// One saga is started twice, with different bodies: the first start's digest counts in history
/// too.
pub async fn an_end_keeps_the_digest_that_opened_the_row(ground: &dyn Ground) {
    let log = start(ground).await;
    let first = SagaStarted { digest: BodyDigest(9), ..saga(gtid(1)) };
    assert_eq!(append(&log, &forced([Record::SagaStarted(first)])).await, [None]);
    assert_eq!(append(&log, &forced([Record::SagaStarted(saga(gtid(1)))])).await, [Some(Decision::Commit)]);
    append(&log, &forced([Record::Ended(saga_ended(gtid(1), Outcome::Completed))])).await;
    let Some(Found::Ended(ended)) = find(&log, gtid(1)).await else { panic!("ended") };
    assert_eq!(ended.record.digest, BodyDigest(9));
}

/// The end of a 2PC that somebody has taken a saga for ends no saga, and hides nothing of it.
pub async fn an_end_of_another_kind_hides_nothing(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced([Record::SagaStarted(saga(gtid(1)))])).await;
    let batch = Batch {
        at_ms: NOW_MS,
        forced: vec![Record::SagaTurned(turned(gtid(1), "no seats"))],
        lazy: vec![Record::Ended(ended(gtid(1), Decision::Abort)), Record::SagaStep(done(gtid(1), 0, "r"))],
    };
    for _ in 0..2 {
        assert_eq!(append(&log, &batch).await, [None]);
        let open = open_saga(&log, 1).await;
        assert_eq!((open.turned.as_deref(), open.steps.len()), (Some("no seats"), 1));
    }
}

/// The end carries what history keeps; the answers in the same batch are of no use any more.
pub async fn the_end_of_a_saga_subsumes_its_steps(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced([Record::SagaStarted(saga(gtid(1))), Record::SagaStarted(saga(gtid(2)))])).await;
    append(&log, &lazy([Record::SagaStep(done(gtid(1), 0, "r"))])).await;
    let batch = Batch {
        at_ms: NOW_MS,
        forced: vec![Record::Ended(saga_ended(gtid(1), Outcome::Completed)), Record::SagaStep(done(gtid(1), 3, "p"))],
        lazy: vec![
            Record::SagaStep(done(gtid(1), 2, "h")),
            Record::SagaStep(done(gtid(2), 0, "r")),
            Record::SagaPaused(paused(gtid(1), Some("too late"))),
        ],
    };
    for _ in 0..2 {
        assert_eq!(append(&log, &batch).await, [None, None]);
        assert!(matches!(find(&log, gtid(1)).await, Some(Found::Ended(_))));
        assert_eq!(open_saga(&log, 2).await.steps.len(), 1);
    }
}

/// Stragglers are not kept for a saga that is over: nobody would ever delete them.
pub async fn answers_that_come_after_the_end_leave_nothing(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced([Record::SagaStarted(saga(gtid(1)))])).await;
    append(&log, &lazy([Record::SagaStep(done(gtid(1), 0, "r"))])).await;
    append(&log, &forced([Record::Ended(saga_ended(gtid(1), Outcome::Completed))])).await;
    let ended = find(&log, gtid(1)).await;
    let late = Batch {
        at_ms: NOW_MS + 1,
        forced: vec![Record::SagaStep(done(gtid(1), 3, "p")), Record::SagaTurned(turned(gtid(1), "late"))],
        lazy: vec![Record::SagaStep(done(gtid(1), 2, "h")), Record::SagaPaused(paused(gtid(1), Some("late")))],
    };
    assert_eq!(append(&log, &late).await, [None, Some(Decision::Commit)]);
    assert_eq!(find(&log, gtid(1)).await, ended);
    assert_eq!(log.open_transactions(None, 10).await.expect("there"), []);
}

/// The forced outcome.
pub async fn a_sagas_end_is_confirmed_once_and_for_all(ground: &dyn Ground) {
    let log = start(ground).await;
    append(&log, &forced([Record::SagaStarted(saga(gtid(1)))])).await;
    append(&log, &forced([Record::SagaTurned(turned(gtid(1), "no seats"))])).await;
    let compensated = forced([Record::Ended(saga_ended(gtid(1), Outcome::Compensated))]);
    assert_eq!(append(&log, &compensated).await, [None]);
    assert_eq!(append(&log, &compensated).await, [None]);
    let completed = forced([Record::Ended(saga_ended(gtid(1), Outcome::Completed))]);
    assert_eq!(append(&log, &completed).await, [Some(Decision::Abort)]);
    let turn = forced([Record::SagaTurned(turned(gtid(1), "no seats"))]);
    assert_eq!(append(&log, &turn).await, [None], "it did turn back");
}

/// A row that somebody removed by hand must not be driven on as if it were there.
pub async fn a_saga_that_is_gone_is_not_driven_on(ground: &dyn Ground) {
    let log = start(ground).await;
    let records = [
        Record::SagaTurned(turned(gtid(1), "no seats")),
        Record::SagaStep(SagaStep { step: StepIndex(1), ..done(gtid(2), 0, "r") }),
        Record::Ended(saga_ended(gtid(3), Outcome::Completed)),
    ];
    assert_eq!(append(&log, &forced(records)).await, [Some(Decision::Abort); 3]);
    assert_eq!(log.lookup(&[1, 2, 3].map(gtid)).await.expect("there"), []);
}
