//! A bank with its accounts in its own Postgres: `bank NAME postgres://USER:PASSWORD@HOST/DATABASE`.

use assent_sdk::postgres::{PostgresResource, PostgresWork};
use assent_sdk::{Assent, BoxError, Branch, Vote};
use sqlx::{Executor, PgConnection, PgPool};

/// What a transfer asks of this bank.
#[derive(serde::Deserialize)]
struct Booking {
    account: String,
    cents: i64,
}

struct Book;

impl PostgresWork for Book {
    async fn perform(&self, branch: &Branch, connection: &mut PgConnection) -> Result<Vote, BoxError> {
        let Booking { account, cents } = branch.json()?;
        let booked = sqlx::query("update account set cents = cents + $2 where id = $1 and cents + $2 >= 0")
            .bind(account)
            .bind(cents)
            .execute(connection)
            .await?;
        Ok(if booked.rows_affected() == 1 { Vote::Yes } else { Vote::no("insufficient funds") })
    }
}

const TABLE: &str = "create table if not exists account (id text primary key, cents bigint not null);
                     insert into account values ('alice', 10000), ('bob', 10000) on conflict do nothing";

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt::init();
    let arguments: Vec<String> = std::env::args().collect();
    let [_, name, database] = arguments.as_slice() else { return Err("usage: bank NAME DATABASE_URL".into()) };
    let coordinator = std::env::var("ASSENT_ENDPOINT").unwrap_or_else(|_| "http://127.0.0.1:7420".to_owned());
    let pool = PgPool::connect(database).await?;
    let bank = PostgresResource::new(name.parse()?, database.parse()?, Book);
    let assent = Assent::dial(coordinator)
        .participant(name, bank)
        .settle_first(async move { Ok(pool.execute(TABLE).await.map(drop)?) })
        .connect()
        .await?;
    println!("{name} has joined");
    assent.closed().await;
    Ok(())
}
