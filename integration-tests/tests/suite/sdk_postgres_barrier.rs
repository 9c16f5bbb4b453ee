//! The barrier: a step takes effect once, and never after its compensation, whatever comes in which
//! order and at the same time.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use assent_protocol::saga::StepIndex;
use assent_sdk::postgres::Barrier;
use assent_sdk::postgres::barrier::{Action, BarrierError, Compensation};
use assent_sdk::{BoxError, Compensated, Executed, Gtid, SagaParticipant, Step};
use integration_tests::{Database, eventually};
use sqlx::{Executor as _, PgConnection, PgPool};

use crate::sdk_postgres::{DEADLINE, gtid};

/// A hotel that counts how often a room was booked and given back.
#[derive(Clone)]
struct Hotel {
    pool: PgPool,
    barrier: Barrier,
    answer: &'static str,
}

impl Hotel {
    async fn open(database: &Database) -> Self {
        let pool = database.pool(16).await;
        pool.execute("create table booking (gtid uuid, step int, change int)").await.expect("a table");
        let barrier = Barrier::default();
        barrier.install(&pool).await.expect("installs");
        Self { pool, barrier, answer: "done" }
    }

    fn answering(&self, answer: &'static str) -> Self {
        Self { answer, ..self.clone() }
    }

    /// What has become of a step in all: 0 or 1 if the barrier holds.
    async fn net_effect(&self, step: &Step) -> i64 {
        sqlx::query_scalar("select coalesce(sum(change), 0) from booking where gtid = $1 and step = $2")
            .bind(step.gtid().as_uuid())
            .bind(i32::from(step.index().0))
            .fetch_one(&self.pool)
            .await
            .expect("the sum")
    }

    /// How often it was booked and given back.
    async fn effects(&self, step: &Step) -> (i64, i64) {
        sqlx::query_as(
            "select count(*) filter (where change = 1), count(*) filter (where change = -1) from booking where gtid = $1 and step = $2",
        )
        .bind(step.gtid().as_uuid())
        .bind(i32::from(step.index().0))
        .fetch_one(&self.pool)
        .await
        .expect("the counts")
    }
}

async fn change(connection: &mut PgConnection, step: &Step, by: i32) -> Result<(), BoxError> {
    sqlx::query("insert into booking values ($1, $2, $3)")
        .bind(step.gtid().as_uuid())
        .bind(i32::from(step.index().0))
        .bind(by)
        .execute(connection)
        .await?;
    Ok(())
}

impl SagaParticipant for Hotel {
    async fn execute(&self, step: &Step) -> Result<Executed, BoxError> {
        self.barrier
            .execute(&self.pool, step, async |tx| {
                change(tx, step, 1).await?;
                match self.answer {
                    "done" => Ok(Executed::Done(format!("attempt {}", step.attempt()).into())),
                    "done without output" => Ok(Executed::done()),
                    "refused" => Ok(Executed::refused("taken")),
                    "refused after an error" => {
                        tx.execute("select 1 / 0").await.expect_err("cannot be divided");
                        Ok(Executed::refused("taken"))
                    }
                    "drops an error" => {
                        tx.execute("select 1 / 0").await.expect_err("cannot be divided");
                        Ok(Executed::done())
                    }
                    _ => Err("the test fails".into()),
                }
            })
            .await
    }

    async fn compensate(&self, step: &Step) -> Result<Compensated, BoxError> {
        self.barrier
            .compensate(&self.pool, step, async |tx, output| {
                assert_eq!(&output[..], b"attempt 1");
                change(tx, step, -1).await?;
                match self.answer {
                    "refused" => Ok(Compensated::Refused("the guest is there".into())),
                    "drops an error" => {
                        tx.execute("select 1 / 0").await.expect_err("cannot be divided");
                        Ok(Compensated::Done)
                    }
                    "error" => Err("the test fails".into()),
                    _ => Ok(Compensated::Done),
                }
            })
            .await
    }
}

fn step_of(gtid: Gtid, index: u16) -> Step {
    let name = |text: &str| text.parse().expect("a name");
    Step::new(gtid, name("hotel"), StepIndex(index), name("book"), "", DEADLINE)
}

fn step() -> Step {
    step_of(gtid(), 3)
}

fn pivot() -> Step {
    step().with_pivot()
}

fn done() -> Executed {
    Executed::Done("attempt 1".into())
}

fn is_refused(executed: &Executed) -> bool {
    matches!(executed, Executed::Refused(_) | Executed::FinallyRefused(_))
}

#[tokio::test]
async fn a_repeated_action_gives_the_same_output_and_has_one_effect() {
    let database = Database::create().await;
    let hotel = Hotel::open(&database).await;
    let step = step();
    for _ in 0..3 {
        assert_eq!(hotel.execute(&step).await.expect("executes"), done());
    }
    assert_eq!(hotel.effects(&step).await, (1, 0));
    // Another step of the same saga, and the same step of another saga, are others.
    for other in [step_of(step.gtid(), 4), self::step()] {
        assert_eq!(hotel.execute(&other).await.expect("executes"), done());
        assert_eq!(hotel.effects(&other).await, (1, 0));
    }
    let silent = self::step();
    for _ in 0..2 {
        let executed = hotel.answering("done without output").execute(&silent).await.expect("executes");
        assert_eq!(executed, Executed::done());
    }
}

#[tokio::test]
async fn a_compensation_undoes_once() {
    let database = Database::create().await;
    let hotel = Hotel::open(&database).await;
    let step = step();
    hotel.execute(&step).await.expect("executes");
    for _ in 0..3 {
        assert_eq!(hotel.compensate(&step).await.expect("compensates"), Compensated::Done);
    }
    assert_eq!(hotel.effects(&step).await, (1, 1));
    assert!(is_refused(&hotel.execute(&step).await.expect("answers")), "never forward again");
    assert_eq!(hotel.effects(&step).await, (1, 1));
}

#[tokio::test]
async fn an_empty_compensation_does_nothing_and_bars_the_late_action() {
    let database = Database::create().await;
    let hotel = Hotel::open(&database).await;
    let step = step();
    for _ in 0..2 {
        assert_eq!(hotel.compensate(&step).await.expect("compensates"), Compensated::Done);
        assert!(is_refused(&hotel.execute(&step).await.expect("answers")));
    }
    assert_eq!(hotel.effects(&step).await, (0, 0));
}

#[tokio::test]
async fn what_is_not_done_is_rolled_back_and_may_come_again() {
    let database = Database::create().await;
    let hotel = Hotel::open(&database).await;
    let step = step();
    assert_eq!(hotel.answering("refused").execute(&step).await.expect("answers"), Executed::refused("taken"));
    hotel.answering("error").execute(&step).await.expect_err("fails");
    let error = hotel.answering("drops an error").execute(&step).await.expect_err("a silent rollback");
    assert!(matches!(error.downcast_ref(), Some(BarrierError::FailedBefore)), "{error}");
    assert_eq!(hotel.effects(&step).await, (0, 0));

    assert_eq!(hotel.execute(&step).await.expect("executes"), done());
    let refused = Compensated::Refused("the guest is there".into());
    assert_eq!(hotel.answering("refused").compensate(&step).await.expect("answers"), refused);
    hotel.answering("error").compensate(&step).await.expect_err("fails");
    let error = hotel.answering("drops an error").compensate(&step).await.expect_err("a silent rollback");
    assert!(matches!(error.downcast_ref(), Some(BarrierError::FailedBefore)), "{error}");
    assert_eq!(hotel.effects(&step).await, (1, 0));
    assert_eq!(hotel.execute(&step).await.expect("executes"), done(), "it is still done");
    assert_eq!(hotel.compensate(&step).await.expect("compensates"), Compensated::Done);
    assert_eq!(hotel.effects(&step).await, (1, 1));
}

/// Waits until somebody in this database waits for a lock.
async fn somebody_waits(database: &Database) {
    let mut connection = database.connect().await;
    eventually("the second waits for the first", DEADLINE, async || {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_one(&mut connection)
        .await
        .expect("the activity");
        if waiting == 1 { Ok(()) } else { Err(format!("{waiting} wait")) }
    })
    .await;
}

/// Attempt 1 times out before it has reached the database, and attempt 2 is refused over another
/// connection: on the strength of that the saga turns back, and does not compensate the pivot.
#[tokio::test]
async fn an_attempt_of_a_pivot_that_comes_after_a_later_one_was_refused_does_nothing() {
    let database = Database::create().await;
    let hotel = Hotel::open(&database).await;
    for answer in ["refused", "refused after an error"] {
        let dawdling = pivot();
        let second = dawdling.clone().with_attempt(1, 2);
        let refused = Executed::finally_refused("taken");
        assert_eq!(hotel.answering(answer).execute(&second).await.expect("answers"), refused);
        for late in [&dawdling, &second] {
            assert_eq!(hotel.execute(late).await.expect("answers"), refused, "attempt {}", late.attempt());
        }
        assert_eq!(hotel.effects(&dawdling).await, (0, 0));
    }
    // No other step's refusal is kept: the compensation closes the barrier behind it.
    let other = step();
    let second = other.clone().with_attempt(1, 2);
    assert_eq!(hotel.answering("refused").execute(&second).await.expect("answers"), Executed::refused("taken"));
    assert_eq!(hotel.execute(&other).await.expect("executes"), done());
}

#[tokio::test]
async fn an_attempt_of_a_pivot_that_waits_for_a_later_one_does_nothing_once_that_is_refused() {
    let database = Database::create().await;
    let hotel = Hotel::open(&database).await;
    for is_refused in [true, false] {
        let first = pivot();
        let second = first.clone().with_attempt(1, 2);
        let tx = hotel.pool.begin().await.expect("begins");
        let Action::First(mut action) = hotel.barrier.enter_action(tx, &second).await.expect("enters") else {
            panic!("nothing was there before");
        };
        change(action.connection(), &second, 1).await.expect("works");
        let late = tokio::spawn({
            let (hotel, first) = (hotel.clone(), first.clone());
            async move { hotel.execute(&first).await }
        });
        somebody_waits(&database).await;
        let expected = if is_refused { action.refuse("after all").await } else { action.commit("attempt 2").await };
        assert_eq!(late.await.expect("no panic").expect("answers"), expected.expect("commits"));
        assert_eq!(hotel.effects(&first).await, (i64::from(!is_refused), 0));
    }
}

#[tokio::test]
async fn a_refused_pivot_may_be_done_by_a_later_attempt_only() {
    let database = Database::create().await;
    let hotel = Hotel::open(&database).await;
    let refused = Executed::finally_refused("taken");
    let pivot = pivot();
    let attempt = |epoch, attempt| pivot.clone().with_attempt(epoch, attempt);
    assert_eq!(hotel.answering("refused").execute(&attempt(2, 3)).await.expect("answers"), refused);
    // An earlier epoch's are earlier, whatever their numbers.
    for earlier in [attempt(1, 9), attempt(2, 1), attempt(2, 3)] {
        assert_eq!(hotel.execute(&earlier).await.expect("answers"), refused);
    }
    // One that fails leaves everything as it was; one that is refused refuses for itself, too.
    hotel.answering("error").execute(&attempt(2, 4)).await.expect_err("fails");
    assert_eq!(hotel.execute(&attempt(2, 3)).await.expect("answers"), refused);
    assert_eq!(hotel.answering("refused").execute(&attempt(2, 5)).await.expect("answers"), refused);
    assert_eq!(hotel.execute(&attempt(2, 4)).await.expect("answers"), refused);
    assert_eq!(hotel.effects(&pivot).await, (0, 0));
    let done = Executed::Done("attempt 1".into());
    for _ in 0..2 {
        assert_eq!(hotel.execute(&attempt(3, 1)).await.expect("executes"), done);
        assert_eq!(hotel.answering("refused").execute(&attempt(2, 5)).await.expect("answers"), done, "it is done");
    }
    assert_eq!(hotel.effects(&pivot).await, (1, 0));
}

#[tokio::test]
async fn a_refused_pivot_that_is_compensated_is_refused_for_ever() {
    let database = Database::create().await;
    let hotel = Hotel::open(&database).await;
    let pivot = pivot();
    hotel.answering("refused").execute(&pivot).await.expect("answers");
    for attempt in 2..4 {
        assert_eq!(hotel.compensate(&pivot).await.expect("compensates"), Compensated::Done);
        let later = pivot.clone().with_attempt(1, attempt);
        assert!(matches!(hotel.execute(&later).await.expect("answers"), Executed::FinallyRefused(_)));
    }
    assert_eq!(hotel.effects(&pivot).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attempt_of_a_pivot_takes_effect_after_the_refusal_of_a_later_one() {
    let database = Database::create().await;
    let hotel = Hotel::open(&database).await;
    for round in 0..40_u32 {
        let pivot = pivot();
        let tasks: Vec<_> = (1..=12_u32)
            .map(|number| {
                let answer = if (number + round) % 3 == 0 { "refused" } else { "done" };
                let (hotel, step) = (hotel.answering(answer), pivot.clone().with_attempt(1, number));
                tokio::spawn(async move { Ok::<_, BoxError>((number, hotel.execute(&step).await?)) })
            })
            .collect();
        let (mut last_refused, mut outputs) = (0, Vec::new());
        for task in tasks {
            match task.await.expect("no panic").expect("answers") {
                (number, Executed::FinallyRefused(_)) => last_refused = last_refused.max(number),
                (_, Executed::Done(output)) => outputs.push(output),
                (_, Executed::Refused(_)) => panic!("a pivot's refusal is final"),
            }
        }
        outputs.dedup();
        assert!(outputs.len() <= 1, "it is done once: {outputs:?}");
        assert_eq!(hotel.effects(&pivot).await, (outputs.len() as i64, 0));
        if let Some(output) = outputs.first() {
            let text = std::str::from_utf8(output).expect("a text");
            let by: u32 = text.trim_start_matches("attempt ").parse().expect("a number");
            assert!(by > last_refused, "{text} took effect, and attempt {last_refused} was refused");
        }
    }
}

/// The table as its first version was.
const FIRST_VERSION: &str = "
create table assent_barrier (
    gtid uuid not null,
    participant text not null check (octet_length(participant) between 1 and 63),
    step integer not null check (step between -1 and 65535),
    executed_at timestamptz,
    compensated_at timestamptz,
    output bytea not null default '',
    primary key (gtid, participant, step),
    constraint something_happened check (executed_at is not null or compensated_at is not null),
    constraint a_branch_is_not_compensated check (step >= 0 or compensated_at is null),
    constraint only_actions_have_outputs check (executed_at is not null or output = '')
)";

#[tokio::test]
async fn a_table_of_the_first_version_gets_its_new_columns_once_nothing_holds_it() {
    let database = Database::create().await;
    let pool = database.pool(4).await;
    pool.execute(FIRST_VERSION).await.expect("a table");
    pool.execute("create table booking (gtid uuid, step int, change int)").await.expect("a table");
    let hotel = Hotel { pool, barrier: Barrier::default(), answer: "done" };
    let (before, pivot) = (step(), pivot());
    assert_eq!(hotel.execute(&before).await.expect("executes"), done());
    // A branch that is in doubt, and is told its end by this very service once it is up.
    let branch = "begin; insert into assent_barrier (gtid, participant, step, executed_at)
        values (gen_random_uuid(), 'hotel', -1, now()); prepare transaction 'in doubt'";
    database.connect().await.execute(branch).await.expect("prepares");

    hotel.barrier.install(&hotel.pool).await.expect("leaves the columns to the next start");
    assert_eq!(hotel.execute(&step()).await.expect("executes"), done());
    assert_eq!(hotel.compensate(&before).await.expect("compensates"), Compensated::Done);
    let error = hotel.execute(&pivot).await.expect_err("there is no place for its refusal");
    assert!(error.to_string().contains("Barrier::install"), "{error}");

    database.connect().await.execute("commit prepared 'in doubt'").await.expect("commits");
    for _ in 0..2 {
        hotel.barrier.install(&hotel.pool).await.expect("installs");
        let schema = sqlx::raw_sql(sqlx::AssertSqlSafe(hotel.barrier.schema()));
        schema.execute(&hotel.pool).await.expect("may be run again");
    }
    let refused = Executed::finally_refused("taken");
    assert_eq!(hotel.answering("refused").execute(&pivot).await.expect("answers"), refused);
    assert!(is_refused(&hotel.execute(&before).await.expect("answers")), "what was there is there");
}

#[tokio::test]
async fn whoever_comes_second_waits_for_the_first_and_finds_what_it_has_left() {
    let database = Database::create().await;
    let hotel = Hotel::open(&database).await;
    // First: an action or a compensation (of nothing, or of an action), which commits or rolls
    // back. Second: either.
    for first_is_action in [true, false] {
        for was_done in [true, false] {
            for first_commits in [true, false] {
                for second_is_action in [true, false] {
                    let case = format!(
                        "first: action {first_is_action}, done before {was_done}, commits {first_commits}; second: action {second_is_action}"
                    );
                    let step = step();
                    if was_done {
                        hotel.execute(&step).await.expect("executes");
                    }
                    let tx = hotel.pool.begin().await.expect("begins");
                    let mut first_action = None;
                    let mut first_undo = None;
                    let settles_at_once = if first_is_action {
                        match hotel.barrier.enter_action(tx, &step).await.expect("enters") {
                            Action::First(mut action) => {
                                change(action.connection(), &step, 1).await.expect("works");
                                first_action = Some(action);
                                false
                            }
                            Action::Settled(executed) => executed == done(),
                        }
                    } else {
                        match hotel.barrier.enter_compensation(tx, &step).await.expect("enters") {
                            Compensation::Undo(mut undo) => {
                                change(undo.connection(), &step, -1).await.expect("works");
                                first_undo = Some(undo);
                                false
                            }
                            Compensation::Settled(compensated) => compensated == Compensated::Done,
                        }
                    };
                    // A first that has nothing to do does not stay open for the second to wait for.
                    assert_eq!(settles_at_once, first_is_action == was_done, "{case}");
                    let second = tokio::spawn({
                        let (hotel, step) = (hotel.clone(), step.clone());
                        async move {
                            if second_is_action {
                                hotel.execute(&step).await.map(|executed| is_refused(&executed))
                            } else {
                                hotel.compensate(&step).await.map(|compensated| {
                                    assert_eq!(compensated, Compensated::Done);
                                    true
                                })
                            }
                        }
                    });
                    // An action that was done before is not rewritten by its undoing: to look at
                    // it, nobody waits.
                    if first_action.is_some() || first_undo.is_some() {
                        somebody_waits_or_is_done(&database, &second).await;
                    }
                    match (first_action, first_undo, first_commits) {
                        (Some(action), _, true) => drop(action.commit("attempt 1").await.expect("commits")),
                        (Some(action), _, false) => drop(action.refuse("after all").await.expect("rolls back")),
                        (_, Some(undo), true) => drop(undo.commit().await.expect("commits")),
                        (_, Some(undo), false) => drop(undo.refuse("after all").await.expect("rolls back")),
                        (None, None, _) => {}
                    }
                    let second_refused = second.await.expect("no panic").expect("answers");
                    let net = hotel.net_effect(&step).await;
                    let (booked, given_back) = hotel.effects(&step).await;
                    assert!(booked <= 1 && given_back <= booked, "{case}: {booked} {given_back}");
                    if second_is_action {
                        // It is refused exactly if the compensation was before.
                        assert_eq!(net, i64::from(!second_refused), "{case}");
                    } else {
                        assert_eq!(net, 0, "{case}: nothing is left after a compensation");
                        assert!(is_refused(&hotel.execute(&step).await.expect("answers")), "{case}");
                        assert_eq!(hotel.net_effect(&step).await, 0, "{case}: and nothing will come");
                    }
                }
            }
        }
    }
}

async fn somebody_waits_or_is_done<T>(database: &Database, task: &tokio::task::JoinHandle<T>) {
    tokio::select! {
        () = somebody_waits(database) => {}
        () = async {
            eventually("the task is done", DEADLINE, async || if task.is_finished() { Ok(()) } else { Err("it is not") }).await;
        } => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_actions_and_compensations_has_one_effect_at_most() {
    let database = Database::create().await;
    let hotel = Hotel::open(&database).await;
    for round in 0..40_u32 {
        let step = step();
        let with_compensation = round % 4 != 0;
        let tasks: Vec<_> = (0..12_u32)
            .map(|number| {
                let (hotel, step) = (hotel.clone(), step.clone());
                tokio::spawn(async move {
                    if with_compensation && number % 3 == round % 3 {
                        assert_eq!(hotel.compensate(&step).await?, Compensated::Done);
                        // From here on there is no effect, for ever.
                        assert_eq!(hotel.net_effect(&step).await, 0);
                        return Ok::<_, BoxError>(None);
                    }
                    hotel.execute(&step).await.map(Some)
                })
            })
            .collect();
        for task in tasks {
            if let Some(executed) = task.await.expect("no panic").expect("answers") {
                assert!(executed == done() || is_refused(&executed), "{executed:?}");
                assert!(with_compensation || executed == done(), "nothing refuses it");
            }
        }
        let (booked, given_back) = hotel.effects(&step).await;
        assert!(booked <= 1 && given_back == if with_compensation { booked } else { 0 }, "{booked} {given_back}");
    }
}

#[tokio::test]
async fn rows_go_only_with_the_end_of_their_saga() {
    let database = Database::create().await;
    let hotel = Hotel::open(&database).await;
    let (ended, running) = (gtid(), gtid());
    for gtid in [ended, running] {
        for index in 0..3 {
            hotel.execute(&step_of(gtid, index)).await.expect("executes");
        }
    }
    let asked = AtomicU32::new(0);
    let which = async |gtids: Vec<Gtid>| {
        asked.fetch_add(1, Ordering::Relaxed);
        assert_eq!(gtids, [ended, running]);
        // One that was not asked about is not deleted either.
        Ok::<_, BoxError>(vec![ended, gtid()])
    };
    let name = "hotel".parse().expect("a name");
    let young = hotel.barrier.clean_up(&hotel.pool, &name, Duration::from_secs(3_600), which).await.expect("looks");
    assert_eq!((young, asked.load(Ordering::Relaxed)), (0, 0), "nobody is asked about what is young");
    let other = "motel".parse().expect("a name");
    assert_eq!(hotel.barrier.clean_up(&hotel.pool, &other, Duration::ZERO, which).await.expect("looks"), 0);
    let gone = hotel.barrier.clean_up(&hotel.pool, &name, Duration::ZERO, which).await.expect("deletes");
    assert_eq!((gone, asked.load(Ordering::Relaxed)), (3, 1));
    assert_eq!(hotel.execute(&step_of(running, 0)).await.expect("answers"), done());
    assert_eq!(hotel.effects(&step_of(running, 0)).await, (1, 0));

    let unanswered = async |_: Vec<Gtid>| Err::<Vec<Gtid>, BoxError>("nobody knows".into());
    let error = hotel.barrier.clean_up(&hotel.pool, &name, Duration::ZERO, unanswered).await.expect_err("unanswered");
    assert!(matches!(error, BarrierError::Unanswered(_)), "{error}");
}

#[tokio::test]
async fn cleaning_up_goes_through_everything() {
    let database = Database::create().await;
    let hotel = Hotel::open(&database).await;
    let mut insert = sqlx::QueryBuilder::new("insert into assent_barrier (gtid, participant, step, executed_at) ");
    let gtids: Vec<Gtid> = (0..1_201).map(|_| gtid()).collect();
    insert.push_values(&gtids, |mut row, gtid| {
        row.push_bind(gtid.as_uuid()).push_bind("hotel").push_bind(0).push("now()");
    });
    insert.build().execute(&hotel.pool).await.expect("inserts");
    let every_third = async |asked: Vec<Gtid>| {
        assert!(asked.len() <= 500, "{} at once", asked.len());
        let is_third = |gtid: &Gtid| gtids.iter().position(|known| known == gtid).is_some_and(|at| at % 3 == 0);
        Ok::<_, BoxError>(asked.into_iter().filter(is_third).collect())
    };
    let name = "hotel".parse().expect("a name");
    let gone = hotel.barrier.clean_up(&hotel.pool, &name, Duration::ZERO, every_third).await.expect("deletes");
    assert_eq!(gone, 401);
}

#[tokio::test]
async fn the_table_may_be_anywhere_and_is_installed_once() {
    let database = Database::create().await;
    let pool = database.pool(8).await;
    pool.execute("create schema \"My \"\"own\"\"\"").await.expect("a schema");
    let barrier = Barrier::in_table(Some("My \"own\""), "what's done").expect("fit");
    let error = barrier.check(&mut database.connect().await).await.expect_err("not there yet");
    assert!(matches!(error, BarrierError::Table { .. }), "{error}");
    let installs = (0..8).map(|_| barrier.install(&pool));
    for installed in futures::future::join_all(installs).await {
        installed.expect("installs");
    }
    barrier.check(&mut database.connect().await).await.expect("is there");
    let comments: i64 = sqlx::query_scalar(
        "select count(*) from pg_description join pg_class on pg_class.oid = objoid where relname = 'what''s done'",
    )
    .fetch_one(&pool)
    .await
    .expect("the comments");
    assert_eq!(comments, 10, "the table and each column say what they are for");
    let step = step();
    for is_first in [true, false] {
        let executed = barrier
            .execute(&pool, &step, async |_| {
                assert!(is_first);
                Ok(Executed::done())
            })
            .await
            .expect("executes");
        assert_eq!(executed, Executed::done());
    }
}

#[tokio::test]
async fn the_table_refuses_what_cannot_be() {
    let database = Database::create().await;
    let hotel = Hotel::open(&database).await;
    let values = [
        ("nothing has happened", "gen_random_uuid(), 'hotel', 0, null, null, ''"),
        ("no such step", "gen_random_uuid(), 'hotel', -2, now(), null, ''"),
        ("no such participant", "gen_random_uuid(), '', 0, now(), null, ''"),
        ("a compensated branch", "gen_random_uuid(), 'hotel', -1, now(), now(), ''"),
        ("an output of nothing", "gen_random_uuid(), 'hotel', 0, null, now(), 'x'"),
        ("a refusal of no attempt", "gen_random_uuid(), 'hotel', 0, null, now(), '', 1, null, 'no'"),
        ("a refusal of what was done", "gen_random_uuid(), 'hotel', 0, now(), null, '', 1, 1, 'no'"),
    ];
    for (what, values) in values {
        let columns =
            "gtid, participant, step, executed_at, compensated_at, output, refused_epoch, refused_attempt, refusal";
        let columns: Vec<&str> = columns.split(", ").take(values.split(", ").count()).collect();
        let sql = format!("insert into assent_barrier ({}) values ({values})", columns.join(", "));
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&hotel.pool).await.expect_err(what);
    }
}

#[tokio::test]
async fn at_a_higher_isolation_level_the_second_fails_and_is_tried_again() {
    let database = Database::create().await;
    let hotel = Hotel::open(&database).await;
    let step = step();
    let mut late = hotel.pool.begin().await.expect("begins");
    late.execute("set transaction isolation level repeatable read").await.expect("sets");
    late.execute("select from booking").await.expect("takes its snapshot");
    assert_eq!(hotel.execute(&step).await.expect("executes"), done());
    let error = hotel.barrier.enter_action(late, &step).await.err().expect("cannot serialize");
    assert!(matches!(error, BarrierError::Statement { .. }), "{error}");
    assert_eq!(hotel.execute(&step).await.expect("executes"), done());
    assert_eq!(hotel.effects(&step).await, (1, 0));
}
