//! A call that is dropped behind any of its messages to the server: at its BEGIN, in the middle, at
//! its COMMIT. What is left is as after a call that came to its end, or never began.

use std::time::Duration;

use assent::log::{self, Filter, Log, Options};
use assent_protocol::{Gtid, ParticipantName};
use assent_sdk::postgres::{Barrier, PostgresResource, PostgresVoters};
use assent_sdk::voter::conformance;
use assent_sdk::{BoxError, BranchKey, Compensated, Context, Executed, Participant, Vote};
use integration_tests::Database;
use sqlx::{Executor as _, PgConnection};

use super::slow::Slow;
use super::{barrier_behind_a_relay, idle_in_transaction, nothing_runs, step};
use crate::log_postgres::PostgresGround;
use crate::log_postgres_schema::gtid;
use crate::sdk_postgres::{Work, balance, bank, branch, coordinator, ending, key, name, unlocked};

/// More messages than any call sends.
const MESSAGES_MAX: u64 = 200;

/// Calls again and again: the first time the answer to its first message is held back and the call
/// is dropped, then that to its second, until it comes to its end. `after` looks at what each has
/// left, once the answer has come.
async fn dropped_anywhere(relay: &Slow, mut call: impl AsyncFnMut(), mut after: impl AsyncFnMut()) {
    for messages in 0..MESSAGES_MAX {
        relay.hold_an_answer_after(messages);
        let is_at_its_end = tokio::select! {
            () = relay.holds() => false,
            () = call() => true,
        };
        relay.release();
        after().await;
        if is_at_its_end {
            assert!(messages > 0, "it has asked the server nothing");
            return;
        }
    }
    panic!("the call does not come to its end");
}

/// 2025-01-15: what has ended within the last day of the server's clock is never forgotten.
const NOW_MS: u64 = 1_736_929_200_000;
const DAY_MS: u64 = 86_400_000;

/// The calls of a log that use a connection of its pools.
const CALLS: [&str; 11] = [
    "coordinator_id",
    "lookup",
    "list",
    "show",
    "open_transactions",
    "participants",
    "note_participant",
    "pin",
    "maintain",
    "renew",
    "ping",
];

async fn call(log: &dyn Log, what: &str, gtid: Gtid, now_ms: u64) {
    let participant: ParticipantName = "bank-a".parse().expect("a name");
    match what {
        "coordinator_id" => drop(log.coordinator_id().await.expect("answers")),
        "lookup" => drop(log.lookup(&[gtid]).await.expect("answers")),
        "list" => drop(log.list(&Filter::default(), None, 10).await.expect("answers")),
        "show" => drop(log.show(gtid).await.expect("answers")),
        "open_transactions" => drop(log.open_transactions(None, 10).await.expect("answers")),
        "participants" => drop(log.participants().await.expect("answers")),
        "note_participant" => log.note_participant(&participant).await.expect("answers"),
        "pin" => drop(log.pin(gtid, true).await.expect("answers")),
        "maintain" => drop(log.maintain(now_ms, Duration::from_millis(3 * DAY_MS)).await.expect("answers")),
        "renew" => drop(log.renew().await.expect("answers")),
        "ping" => log.ping().await.expect("answers"),
        other => panic!("the log has no {other}"),
    }
}

#[tokio::test]
async fn a_call_of_the_log_that_was_dropped_leaves_no_transaction_open() {
    let ground = PostgresGround::fresh().await;
    let relay = Slow::to(ground.database.address().await).await;
    let options = Options { read_connections_max: 1, ..Options::default() };
    let log = log::open(&ground.database.url_at(relay.address), options).await.expect("the log opens");
    log.acquire(&"r1".parse().expect("a name")).await.expect("free");
    let mut now_ms = NOW_MS;
    for what in CALLS {
        let gtid = gtid();
        call(&*log, what, gtid, now_ms).await;
        let mut noted = 0;
        dropped_anywhere(
            &relay,
            async || {
                // Each time there is a partition to make, and in the end one to drop.
                now_ms += DAY_MS;
                call(&*log, what, gtid, now_ms).await;
            },
            async || {
                // What the pool's only connection writes now is committed: others see it.
                noted += 1;
                let name: ParticipantName = format!("after-{noted}").parse().expect("a name");
                log.note_participant(&name).await.expect("the pool's only connection is of use");
                let known: Vec<String> = sqlx::query_scalar("select name from assent.participant")
                    .fetch_all(&mut ground.database.connect().await)
                    .await
                    .expect("listed");
                assert!(known.contains(&name.to_string()), "{what}: {known:?}");
                ground.execute("delete from assent.participant").await;
                idle_in_transaction(&ground.database, 0).await;
            },
        )
        .await;
    }
}

/// The service's own pool is used by all else that the service does.
#[tokio::test]
async fn a_step_that_was_dropped_anywhere_leaves_the_services_pool_clean() {
    let (database, relay, pool, barrier) = barrier_behind_a_relay().await;
    pool.execute("create table note (id int)").await.expect("a table");
    let bank_a: ParticipantName = "bank-a".parse().expect("a name");
    for what in ["execute", "compensate", "clean_up", "install"] {
        let mut written = 0_i64;
        dropped_anywhere(
            &relay,
            async || match what {
                "execute" => {
                    let work = async |_: &mut PgConnection| Ok::<_, BoxError>(Executed::done());
                    drop(barrier.execute(&pool, &step(), work).await.expect("executes"));
                }
                "compensate" => {
                    let undo = async |_: &mut PgConnection, _| Ok::<_, BoxError>(Compensated::Done);
                    drop(barrier.compensate(&pool, &step(), undo).await.expect("compensates"));
                }
                "clean_up" => {
                    let ended = async |gtids: Vec<Gtid>| Ok::<_, BoxError>(gtids);
                    barrier.clean_up(&pool, &bank_a, Duration::ZERO, ended).await.map(drop).expect("cleans up");
                }
                "install" => barrier.install(&pool).await.expect("installs"),
                other => panic!("the barrier has no {other}"),
            },
            async || {
                pool.execute("insert into note values (1)").await.expect("written");
                written += 1;
                let notes: i64 = sqlx::query_scalar("select count(*) from note")
                    .fetch_one(&mut database.connect().await)
                    .await
                    .expect("counted");
                assert_eq!(notes, written, "{what}: what the service wrote is committed");
                idle_in_transaction(&database, 0).await;
            },
        )
        .await;
        pool.execute("delete from note").await.expect("deleted");
    }
}

/// Whatever was dropped, the branch ends as it is ordered to, once, and nothing is left over.
async fn branches_end<const RECORDED: bool>(
    bank: &Database,
    relay: &Slow,
    resource: &PostgresResource<Work, RECORDED>,
) {
    resource.start(&coordinator()).await.expect("starts");
    let is_left_clean = async || {
        unlocked(bank).await;
        nothing_runs(bank).await;
        idle_in_transaction(bank, 0).await;
        assert_eq!(bank.prepared_transactions().await, [""; 0]);
    };
    let aborted = std::cell::Cell::new(key());
    dropped_anywhere(
        relay,
        async || {
            aborted.set(key());
            assert_eq!(resource.prepare(&branch(aborted.get(), "yes")).await.expect("prepares"), Vote::Yes);
        },
        async || {
            resource.abort(&ending(aborted.get())).await.expect("aborts");
            is_left_clean().await;
        },
    )
    .await;
    assert_eq!(balance(bank).await, 0);

    let prepared = async || -> BranchKey {
        let key = key();
        assert_eq!(resource.prepare(&branch(key, "yes")).await.expect("prepares"), Vote::Yes);
        key
    };
    let (next, mut committed) = (std::cell::Cell::new(prepared().await), 0);
    dropped_anywhere(
        relay,
        async || resource.commit(&ending(next.get())).await.expect("commits"),
        async || {
            resource.commit(&ending(next.get())).await.expect("it was committed");
            committed += 1;
            assert_eq!(balance(bank).await, committed, "each once");
            next.set(prepared().await);
        },
    )
    .await;
    dropped_anywhere(
        relay,
        async || resource.abort(&ending(next.get())).await.expect("aborts"),
        async || {
            resource.abort(&ending(next.get())).await.expect("aborts");
            is_left_clean().await;
            next.set(prepared().await);
        },
    )
    .await;
    resource.abort(&ending(next.get())).await.expect("aborts");
    for what in ["start", "in_doubt"] {
        dropped_anywhere(
            relay,
            async || match what {
                "start" => resource.start(&coordinator()).await.expect("starts"),
                _ => drop(resource.in_doubt(&coordinator()).await.expect("lists")),
            },
            is_left_clean,
        )
        .await;
    }
    assert_eq!(balance(bank).await, committed);
}

fn at(bank: &Database, relay: &Slow) -> PostgresResource<Work> {
    let url = bank.url_at(relay.address).parse().expect("a URL");
    PostgresResource::new(name(), url, Work).with_connections(2)
}

#[tokio::test]
async fn a_branch_whose_hook_was_dropped_anywhere_ends_as_ordered() {
    let bank = bank().await;
    let relay = Slow::to(bank.address().await).await;
    branches_end(&bank, &relay, &at(&bank, &relay)).await;
}

#[tokio::test]
async fn a_recorded_branch_whose_hook_was_dropped_anywhere_ends_as_ordered() {
    let bank = bank().await;
    Barrier::default().install(&bank.pool(1).await).await.expect("installs");
    let relay = Slow::to(bank.address().await).await;
    branches_end(&bank, &relay, &at(&bank, &relay).recorded(Barrier::default())).await;
}

#[tokio::test]
async fn a_guard_that_was_dropped_anywhere_leaves_no_transaction_open() {
    let bank = bank().await;
    let relay = Slow::to(bank.address().await).await;
    let resource = at(&bank, &relay);
    resource.start(&coordinator()).await.expect("starts");
    dropped_anywhere(
        &relay,
        async || {
            let context =
                Context { gtid: gtid(), coordinator: coordinator().address, deadline_unix_ms: None, epoch: None };
            let mut guard = resource.begin(&context).await.expect("begins");
            let connection = guard.connection().expect("open");
            connection.execute("update account set balance = balance + 1 where id = 1").await.expect("works");
            guard.roll_back().await;
        },
        async || {
            unlocked(&bank).await;
            nothing_runs(&bank).await;
            idle_in_transaction(&bank, 0).await;
        },
    )
    .await;
    assert_eq!(balance(&bank).await, 0);
}

#[tokio::test]
async fn a_vote_that_was_dropped_anywhere_leaves_the_voters_connection_of_use() {
    let database = Database::create().await;
    let relay = Slow::to(database.address().await).await;
    let voters = PostgresVoters::new(database.url_at(relay.address).parse().expect("a URL"));
    voters.install().await.expect("installs");
    conformance::is_there(&voters).await;
    dropped_anywhere(
        &relay,
        async || conformance::votes(&voters, gtid()).await.expect("votes"),
        async || {
            conformance::votes(&voters, gtid()).await.expect("votes");
            idle_in_transaction(&database, 0).await;
        },
    )
    .await;
    dropped_anywhere(
        &relay,
        async || voters.install().await.expect("installs"),
        async || idle_in_transaction(&database, 0).await,
    )
    .await;
}
