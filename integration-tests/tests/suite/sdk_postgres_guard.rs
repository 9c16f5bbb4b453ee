//! Early prepare: work in a guard, prepared before the service answers.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use assent_proto::session::{Code, Refused};
use assent_protocol::Epoch;
use assent_sdk::postgres::{Barrier, EarlyPrepareError, Enlist, PostgresError, PostgresGuard, PostgresResource};
use assent_sdk::{Branch, BranchKey, Context, EarlyVote, EnlistError, Gtid, Participant, Vote};
use integration_tests::{Database, eventually};
use sqlx::Executor as _;
use tokio::sync::Notify;

use crate::sdk_postgres::{DEADLINE, Work, balance, bank, branch, coordinator, ending, gtid, instance, key, unlocked};

/// A coordinator that answers as it was told, when it is let.
#[derive(Clone)]
struct Enlister(Arc<Inner>);

struct Inner {
    answer: fn() -> Result<(), EnlistError>,
    enlisted: Mutex<Vec<BranchKey>>,
    reached: Notify,
    held: Option<Notify>,
}

impl Enlister {
    fn answering(answer: fn() -> Result<(), EnlistError>) -> Self {
        Self(Arc::new(Inner { answer, enlisted: Mutex::default(), reached: Notify::new(), held: None }))
    }

    fn held() -> Self {
        let (reached, held) = (Notify::new(), Some(Notify::new()));
        Self(Arc::new(Inner { answer: || Ok(()), enlisted: Mutex::default(), reached, held }))
    }

    fn enlisted(&self) -> Vec<BranchKey> {
        self.0.enlisted.lock().expect("not poisoned").clone()
    }
}

impl Enlist for Enlister {
    async fn enlist(&self, key: BranchKey, vote: EarlyVote) -> Result<(), EnlistError> {
        assert_eq!(vote, EarlyVote::Yes);
        self.0.reached.notify_one();
        if let Some(held) = &self.0.held {
            held.notified().await;
        }
        self.0.enlisted.lock().expect("not poisoned").push(key);
        (self.0.answer)()
    }
}

fn refused() -> Result<(), EnlistError> {
    Err(EnlistError::Refused(Refused {
        code: Code::FailedPrecondition,
        reason: "ROSTER_FROZEN".into(),
        message: "too late".into(),
        retry_after_ms: None,
    }))
}

fn context(gtid: Gtid) -> Context {
    Context { gtid, coordinator: "http://localhost:7420".into(), deadline_unix_ms: None, epoch: Some(Epoch(7)) }
}

async fn joined(bank: &Database) -> PostgresResource<Work> {
    let resource = instance(bank);
    resource.start(&coordinator()).await.expect("starts");
    resource
}

async fn worked(resource: &PostgresResource<Work>, gtid: Gtid) -> PostgresGuard {
    let mut guard = resource.begin(&context(gtid)).await.expect("begins");
    works(&mut guard).await;
    guard
}

async fn works(guard: &mut PostgresGuard) {
    let connection = guard.connection().expect("before its deadline");
    connection.execute("update account set balance = balance + 1 where id = 1").await.expect("works");
}

/// Long enough to work in, on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(3);

fn context_with_deadline(gtid: Gtid) -> Context {
    let deadline = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970") + TIMEOUT;
    Context { deadline_unix_ms: Some(deadline.as_millis().try_into().expect("fits")), ..context(gtid) }
}

#[tokio::test]
async fn early_work_takes_effect_with_the_decision() {
    let bank = bank().await;
    let resource = joined(&bank).await;
    let enlister = Enlister::answering(|| Ok(()));
    let committed = worked(&resource, gtid()).await;
    let committed_key = committed.key();
    assert_eq!(committed_key.id.epoch, Epoch(7), "it is named by the epoch of its transaction");
    committed.prepare(&enlister).await.expect("enlists");
    assert_eq!(balance(&bank).await, 0);
    resource.commit(&ending(committed_key)).await.expect("commits");
    let aborted = worked(&resource, gtid()).await;
    let aborted_key = aborted.key();
    aborted.prepare(&enlister).await.expect("enlists");
    resource.abort(&ending(aborted_key)).await.expect("aborts");
    assert_eq!(enlister.enlisted(), [committed_key, aborted_key]);
    assert_eq!(balance(&bank).await, 1);
}

#[tokio::test]
async fn a_refused_branch_is_rolled_back() {
    let bank = bank().await;
    let resource = joined(&bank).await;
    for answer in [refused, || Err(EnlistError::Closed), || Err(EnlistError::NotAParticipant)] {
        let enlister = Enlister::answering(answer);
        let error = worked(&resource, gtid()).await.prepare(&enlister).await.expect_err("not enlisted");
        assert!(matches!(error, EarlyPrepareError::NotEnlisted(_)), "{error}");
        assert_eq!(bank.prepared_transactions().await, [""; 0]);
    }
    assert_eq!(balance(&bank).await, 0);
}

#[tokio::test]
async fn a_branch_that_may_be_enlisted_stays_in_doubt() {
    let bank = bank().await;
    let resource = joined(&bank).await;
    let enlister = Enlister::answering(|| Err(EnlistError::Unknown));
    let guard = worked(&resource, gtid()).await;
    let key = guard.key();
    let error = guard.prepare(&enlister).await.expect_err("unknown");
    assert!(matches!(error, EarlyPrepareError::InDoubt(_)), "{error}");
    assert_eq!(resource.in_doubt(&coordinator()).await.expect("listed"), [key]);
    resource.commit(&ending(key)).await.expect("commits");
    assert_eq!(balance(&bank).await, 1);
}

#[tokio::test]
async fn a_guard_that_is_dropped_rolls_back() {
    let bank = bank().await;
    let resource = joined(&bank).await;
    drop(worked(&resource, gtid()).await);
    // The lock is released.
    worked(&resource, gtid()).await.roll_back().await;
    worked(&resource, gtid()).await.prepare(&Enlister::answering(|| Ok(()))).await.expect("enlists");
    assert_eq!(balance(&bank).await, 0);
    assert_eq!(bank.prepared_transactions().await.len(), 1);
}

#[tokio::test]
async fn a_guard_does_not_outlive_its_transaction() {
    let bank = bank().await;
    let resource = instance(&bank).with_connections(2);
    resource.start(&coordinator()).await.expect("starts");
    let mut guard = resource.begin(&context_with_deadline(gtid())).await.expect("begins");
    works(&mut guard).await;
    // The handler hangs, with the guard in its hands.
    unlocked(&bank).await;

    let error = guard.connection().expect_err("past its deadline");
    assert!(matches!(error, PostgresError::PastDeadline { .. }), "{error}");
    for word in ["rolled back", "begin a new transaction"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    let enlister = Enlister::answering(|| Ok(()));
    let error = guard.prepare(&enlister).await.expect_err("past its deadline");
    assert!(matches!(error, EarlyPrepareError::NotPrepared(PostgresError::PastDeadline { .. })), "{error}");
    assert_eq!(enlister.enlisted(), []);
    assert_eq!(bank.prepared_transactions().await, [""; 0]);

    // The only connection for work is as good as new.
    worked(&resource, gtid()).await.prepare(&enlister).await.expect("enlists");
    assert_eq!(enlister.enlisted().len(), 1);
    assert_eq!(balance(&bank).await, 0);
}

#[tokio::test]
async fn a_statement_does_not_outlive_its_transaction() {
    let bank = bank().await;
    let resource = joined(&bank).await;
    for handler_is_dropped in [false, true] {
        let mut guard = resource.begin(&context_with_deadline(gtid())).await.expect("begins");
        works(&mut guard).await;
        let handler = tokio::spawn(async move {
            // What precedes a savepoint keeps its locks when the statement behind it is cancelled.
            let connection = guard.connection().expect("before its deadline");
            connection.execute("savepoint s").await.expect("open");
            let error = connection.execute("select pg_sleep(600)").await.expect_err("it is terminated");
            assert!(error.to_string().contains("terminating connection"), "{error}");
            guard.connection().expect_err("past its deadline");
        });
        let mut connection = bank.connect().await;
        eventually("the statement runs", DEADLINE, async || {
            let runs: bool = sqlx::query_scalar(
                "select exists (select from pg_stat_activity
                     where datname = current_database() and state = 'active' and query = 'select pg_sleep(600)')",
            )
            .fetch_one(&mut connection)
            .await
            .expect("the activity");
            if runs { Ok(()) } else { Err("it does not") }
        })
        .await;
        if handler_is_dropped {
            handler.abort();
            handler.await.expect_err("the caller has hung up");
        } else {
            handler.await.expect("no panic");
        }
        unlocked(&bank).await;
    }
}

#[tokio::test]
async fn a_guard_in_a_process_that_stands_still_does_not_outlive_its_transaction() {
    let bank = bank().await;
    let url = bank.url();
    let (resume, stands_still) = std::sync::mpsc::channel::<()>();
    let (worked, has_worked) = tokio::sync::oneshot::channel();
    let process = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let resource = PostgresResource::early("bank-a".parse().expect("a name"), url.parse().expect("a URL"));
            resource.start(&coordinator()).await.expect("starts");
            let mut guard = resource.begin(&context_with_deadline(gtid())).await.expect("begins");
            works(&mut guard).await;
            worked.send(()).expect("the test waits");
            stands_still.recv().ok();
        });
    });
    has_worked.await.expect("it works");
    unlocked(&bank).await;
    drop(resume);
    process.join().expect("no panic");
}

#[tokio::test]
async fn a_guard_in_time_is_not_hit_by_its_deadline() {
    let bank = bank().await;
    let resource = instance(&bank).with_connections(2);
    resource.start(&coordinator()).await.expect("starts");
    let context = context_with_deadline(gtid());
    let mut guard = resource.begin(&context).await.expect("begins");
    works(&mut guard).await;
    guard.prepare(&Enlister::answering(|| Ok(()))).await.expect("enlists");
    // The same connection, in another transaction that has no deadline.
    let mut next = resource.begin(&self::context(gtid())).await.expect("begins");
    tokio::time::sleep(TIMEOUT).await;
    let connection = next.connection().expect("it has no deadline");
    connection.execute("select 1").await.expect("the connection is whole");
}

#[tokio::test]
async fn a_handler_that_is_dropped_does_not_forget_its_branch() {
    let bank = bank().await;
    let resource = joined(&bank).await;
    let gtid = gtid();
    let enlister = Enlister::held();
    let guard = worked(&resource, gtid).await;
    let handler = tokio::spawn({
        let enlister = enlister.clone();
        async move { guard.prepare(&enlister).await }
    });
    enlister.0.reached.notified().await;
    handler.abort();
    handler.await.expect_err("the caller has hung up");
    enlister.0.held.as_ref().expect("it is held").notify_one();
    eventually("the branch is enlisted", DEADLINE, async || match enlister.enlisted().as_slice() {
        [enlisted] if enlisted.gtid == gtid => Ok(()),
        other => Err(format!("{other:?} are")),
    })
    .await;
    assert_eq!(bank.prepared_transactions().await.len(), 1);
}

#[tokio::test]
async fn early_work_that_fails_is_not_enlisted() {
    let bank = bank().await;
    let resource = joined(&bank).await;
    let enlister = Enlister::answering(|| Ok(()));

    let mut guard = worked(&resource, gtid()).await;
    guard
        .connection()
        .expect("open")
        .execute("insert into account values (1, 0)")
        .await
        .expect_err("account 1 is there");
    let error = guard.prepare(&enlister).await.expect_err("a silent rollback");
    assert!(matches!(error, EarlyPrepareError::NotPrepared(PostgresError::FailedBefore)), "{error}");

    let mut guard = worked(&resource, gtid()).await;
    guard.connection().expect("open").execute("insert into transfer values (7)").await.expect("its check is deferred");
    let error = guard.prepare(&enlister).await.expect_err("breaks a constraint");
    assert!(matches!(error, EarlyPrepareError::WorkRefused(_)), "{error}");

    let guard = worked(&resource, gtid()).await;
    bank.connect()
        .await
        .execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'")
        .await
        .expect("terminated");
    guard.prepare(&enlister).await.expect_err("the connection is lost");

    assert_eq!(enlister.enlisted(), []);
    assert_eq!(bank.prepared_transactions().await, [""; 0]);
    assert_eq!(balance(&bank).await, 0);
}

#[tokio::test]
async fn a_participant_has_one_branch_in_a_transaction() {
    let bank = bank().await;
    let resource = joined(&bank).await;
    let enlister = Enlister::answering(|| Ok(()));
    let gtid = gtid();
    worked(&resource, gtid).await.prepare(&enlister).await.expect("enlists");
    let again = resource.begin(&context(gtid)).await.err().expect("prepared already");
    assert!(matches!(again, PostgresError::AlreadyPrepared), "{again}");
}

/// Each of two calls has a branch of its own, so that what becomes of one leaves the other as it is.
#[tokio::test]
async fn a_call_that_fails_leaves_the_branch_of_another_call_prepared() {
    let bank = bank().await;
    let resource = joined(&bank).await;
    let enlister = Enlister::answering(|| Ok(()));
    let transaction = context(gtid());
    // The later call begins before the first has prepared. The coordinator refuses its branch, or its
    // connection is lost on the way.
    for is_refused in [true, false] {
        let mut first = resource.begin(&transaction).await.expect("begins");
        let later = resource.begin(&transaction).await.expect("begins");
        works(&mut first).await;
        let key = first.key();
        first.prepare(&enlister).await.expect("enlists");
        if is_refused {
            let error = later.prepare(&Enlister::answering(refused)).await.expect_err("one branch is enough");
            assert!(matches!(error, EarlyPrepareError::NotEnlisted(_)), "{error}");
        } else {
            bank.connect()
                .await
                .execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'")
                .await
                .expect("terminated");
            later.prepare(&enlister).await.expect_err("the connection is lost");
        }
        assert_eq!(resource.in_doubt(&coordinator()).await.expect("listed"), [key], "the first call's");
        resource.commit(&ending(key)).await.expect("commits");
    }
    assert_eq!(balance(&bank).await, 2);
}

#[tokio::test]
async fn early_work_is_recorded_too() {
    let bank = bank().await;
    Barrier::default().install(&bank.pool(1).await).await.expect("installs");
    let resource = instance(&bank).recorded(Barrier::default());
    resource.start(&coordinator()).await.expect("starts");
    let mut guard = resource.begin(&context(gtid())).await.expect("begins");
    let key = guard.key();
    works(&mut guard).await;
    guard.prepare(&Enlister::answering(|| Ok(()))).await.expect("enlists");
    resource.commit(&ending(key)).await.expect("commits");
    resource.commit(&ending(key)).await.expect("there is a record");
    assert_eq!(balance(&bank).await, 1);
}

#[tokio::test]
async fn nothing_begins_before_the_participant_has_joined() {
    let bank = bank().await;
    let error = instance(&bank).begin(&context(gtid())).await.err().expect("not joined");
    assert!(matches!(error, PostgresError::NotJoined), "{error}");
}

#[tokio::test]
async fn a_service_that_only_works_early_refuses_carried_work() {
    let bank = bank().await;
    let resource = PostgresResource::early("bank-a".parse().expect("a name"), bank.url().parse().expect("a URL"));
    let carried: Branch = branch(key(), "yes");
    assert!(matches!(resource.prepare(&carried).await.expect("votes"), Vote::No(_)));
}
