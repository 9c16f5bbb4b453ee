//! What the test participants are asked to do, and the tables that they keep: the oracle of the tests.

use serde::{Deserialize, Serialize};
use sqlx::{Executor, PgConnection};

/// A bank's part of a transfer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Booking {
    /// Whose balance moves.
    pub account: i32,
    /// By how much; a balance never falls below zero.
    pub amount: i64,
}

/// A clerk's step of a saga.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Errand {
    /// Whether the clerk refuses.
    pub is_refused: bool,
}

/// Makes a bank's tables, with so many accounts of this balance each.
///
/// # Errors
/// When the database refuses.
pub async fn open_bank(database: &mut PgConnection, accounts: i32, balance: i64) -> Result<(), sqlx::Error> {
    database.execute("create table account (id int primary key, balance bigint not null check (balance >= 0))").await?;
    database
        .execute("create table ledger (gtid uuid primary key, account int not null, amount bigint not null)")
        .await?;
    sqlx::query("insert into account select id, $2 from generate_series(1, $1) id")
        .bind(accounts)
        .bind(balance)
        .execute(database)
        .await?;
    Ok(())
}

/// Makes a clerk's table.
///
/// # Errors
/// When the database refuses.
pub async fn open_office(database: &mut PgConnection) -> Result<(), sqlx::Error> {
    database
        .execute("create table errand (gtid uuid not null, step text not null, effect int not null, at timestamptz default now())")
        .await?;
    Ok(())
}
