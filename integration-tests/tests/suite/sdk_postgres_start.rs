//! A participant finds out before it joins that its database cannot do its part.

use std::sync::{Arc, Mutex};

use assent_sdk::postgres::{Barrier, PostgresResource, PostgresWork};
use assent_sdk::{BoxError, Branch, Coordinator, Participant, Vote};
use integration_tests::Postgres;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Executor as _, PgConnection};

use crate::sdk_postgres::{Work, branch, coordinator, ending, furnished, instance, key, name};

#[tokio::test]
async fn a_server_that_does_not_prepare_is_refused() {
    let postgres = Postgres::start_with(&[("max_prepared_transactions", "0")]).await;
    let bank = furnished(postgres.create_database().await).await;
    let resource = instance(&bank);
    let error = resource.start(&coordinator()).await.expect_err("cannot prepare");
    assert!(error.to_string().contains("set it to at least max_connections"), "{error}");
    resource.prepare(&branch(key(), "yes")).await.expect_err("and it does not");
    resource.abort(&ending(key())).await.expect("there is nothing to abort");
}

#[tokio::test]
async fn a_full_server_says_what_to_do() {
    let postgres = Postgres::start_with(&[("max_prepared_transactions", "1")]).await;
    let bank = furnished(postgres.create_database().await).await;
    bank.connect().await.execute("begin; prepare transaction 'forgotten'").await.expect("prepares");
    let resource = instance(&bank);
    resource.start(&coordinator()).await.expect("one is more than none");
    let error = resource.prepare(&branch(key(), "yes")).await.expect_err("no room");
    assert!(error.to_string().contains("raise max_prepared_transactions"), "{error}");
    assert_eq!(bank.prepared_transactions().await, ["forgotten"]);
}

/// Log lines of this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn branches_of_a_coordinator_that_is_gone_are_shown_with_what_ends_them() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let postgres = Postgres::start().await;
    let bank = furnished(postgres.create_database().await).await;
    let resource = instance(&bank);
    resource.start(&coordinator()).await.expect("starts");
    assert_eq!(resource.prepare(&branch(key(), "yes")).await.expect("prepares"), Vote::Yes);
    let other = Coordinator { id: "another".into(), ..coordinator() };
    instance(&bank).start(&other).await.expect("starts");
    let lines = String::from_utf8(lines.0.lock().expect("no panic").clone()).expect("text");
    let gids = bank.prepared_transactions().await;
    assert_eq!(gids.len(), 1);
    let statement = lines.split_once("rollback prepared '").expect("a statement").1;
    assert!(statement.starts_with(&format!("{}'", gids[0])), "{lines}");
}

#[tokio::test]
async fn roles_that_cannot_do_their_part_are_told() {
    let postgres = Postgres::start().await;
    let bank = furnished(postgres.create_database().await).await;
    bank.connect()
        .await
        .execute(
            "create role teller login superuser password 'x';
             create role clerk login password 'x';
             grant select, insert, update on account to clerk;
             create table assent_barrier (id int)",
        )
        .await
        .expect("the roles");
    let options: PgConnectOptions = bank.url().parse().expect("a URL");
    let of = |role| PostgresResource::new(name(), options.clone().username(role).password("x"), Work);

    // Prepared by one role and not to be ended by the other: listed, refused with the reason, and
    // left in doubt.
    let (teller, clerk) = (of("teller"), of("clerk"));
    let key = key();
    assert_eq!(teller.prepare(&branch(key, "yes")).await.expect("prepares"), Vote::Yes);
    clerk.start(&coordinator()).await.expect("starts");
    assert_eq!(clerk.in_doubt(&coordinator()).await.expect("listed"), [key]);
    let error = clerk.commit(&ending(key)).await.expect_err("another role's");
    assert!(error.to_string().contains("prepared by another role"), "{error}");
    teller.commit(&ending(key)).await.expect("commits");

    // The table is there under this name and is not the barrier's.
    let error = of("clerk").recorded(Barrier::default()).start(&coordinator()).await.expect_err("unfit");
    assert!(error.to_string().contains("Barrier::install"), "{error}");
    bank.connect().await.execute("drop table assent_barrier").await.expect("dropped");
    let pool = bank.pool(1).await;
    Barrier::default().install(&pool).await.expect("installs");
    let error = of("clerk").recorded(Barrier::default()).start(&coordinator()).await.expect_err("no privileges");
    assert!(error.to_string().contains("needs select, insert, update and delete"), "{error}");
    of("teller").recorded(Barrier::default()).start(&coordinator()).await.expect("starts");

    bank.connect().await.execute("revoke select on pg_catalog.pg_prepared_xacts from public").await.expect("hidden");
    let error = of("clerk").start(&coordinator()).await.expect_err("sees nothing");
    assert!(error.to_string().contains("grant select on pg_catalog.pg_prepared_xacts"), "{error}");
}

#[tokio::test]
async fn an_unreachable_database_is_told() {
    let port = integration_tests::Port::reserve();
    let url = format!("postgres://nobody@127.0.0.1:{}/nothing", port.number());
    let resource = PostgresResource::new(name(), url.parse().expect("a URL"), Work);
    let error = resource.start(&coordinator()).await.expect_err("nobody is there");
    assert!(error.to_string().contains("cannot connect"), "{error}");
}

/// Changes the account that the payload names.
struct OneOf;

impl PostgresWork for OneOf {
    async fn perform(&self, branch: &Branch, connection: &mut PgConnection) -> Result<Vote, BoxError> {
        let account: i32 = std::str::from_utf8(branch.payload())?.parse()?;
        let sql = "update account set balance = balance + 1 where id = $1";
        sqlx::query(sql).bind(account).execute(connection).await?;
        Ok(Vote::Yes)
    }
}

#[tokio::test]
async fn a_branch_of_a_role_that_is_gone_keeps_none_of_the_others_from_ending() {
    let postgres = Postgres::start().await;
    let bank = furnished(postgres.create_database().await).await;
    bank.connect()
        .await
        .execute(
            "create role v_old login password 'x'; create role v_new login password 'x';
             insert into account values (2, 0); grant select, update on account to public",
        )
        .await
        .expect("the roles");
    let options: PgConnectOptions = bank.url().parse().expect("a URL");
    let of = |role| PostgresResource::new(name(), options.clone().username(role).password("x"), OneOf);
    let (orphan, own) = (key(), key());
    assert_eq!(of("v_old").prepare(&branch(orphan, "1")).await.expect("prepares"), Vote::Yes);
    assert_eq!(of("v_new").prepare(&branch(own, "2")).await.expect("prepares"), Vote::Yes);
    bank.connect().await.execute("drop role v_old").await.expect("nothing depends on it");

    let next = of("v_new");
    next.start(&coordinator()).await.expect("starts");
    assert_eq!(next.in_doubt(&coordinator()).await.expect("listed"), [orphan, own]);
    next.commit(&ending(own)).await.expect("commits");
    let gids = bank.prepared_transactions().await;
    let [gid] = gids.as_slice() else { panic!("{gids:?}") };
    // What is to be done is said with the decision, which only then is known.
    for (ended, statement) in
        [(next.commit(&ending(orphan)).await, "commit"), (next.abort(&ending(orphan)).await, "rollback")]
    {
        let error = ended.expect_err("no role may end it").to_string();
        for words in [&format!("{statement} prepared '{gid}'"), "superuser", bank.name()] {
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}
