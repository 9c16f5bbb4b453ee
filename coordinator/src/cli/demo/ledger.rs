//! A service's ledger: one SQLite file, which alone knows what is prepared, applied and undone.
//!
//! | entry | prepare | commit | abort | execute | compensate |
//! |---|---|---|---|---|---|
//! | none | **prepared**, or refused | error | **undone** | **applied**, or refused | **undone** |
//! | prepared | yes | **applied**: balances change | **undone** | - | - |
//! | applied | yes | nothing | error | done | **undone**: balances change back |
//! | undone | refused | error | nothing | refused | nothing |
//!
//! Each call is one database transaction that is flushed before it returns, so that a yes outlives the process. What is
//! prepared is set aside: it counts neither as spent nor as there to be spent.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use assent_sdk::{BranchKey, Gtid};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, Sqlite, Transaction};

use super::services::{Movement, Spec};

/// How long a reader waits for the writer, and the other way round.
const BUSY_MAX: Duration = Duration::from_secs(10);

/// An open ledger.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    pool: SqlitePool,
}

/// What an entry belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    gtid: String,
    /// The branch's id; empty for a saga's step.
    branch: String,
    /// The saga's step; empty for a branch.
    step: String,
}

/// Why a ledger did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum LedgerError {
    /// The file cannot be used.
    #[error("the ledger cannot be used")]
    Database(#[from] sqlx::Error),
    /// A decision that does not fit what is here.
    #[error("{key} cannot {wanted}: it is {found}")]
    Contradiction { key: Key, wanted: &'static str, found: &'static str },
}

/// The answer to a prepare or an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    No(String),
}

/// Whether a call changed something, or found it done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Now,
    Before,
}

/// An account as the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) unit: String,
    pub(super) balance: i64,
    /// What would be added to the balance if all that is prepared were committed.
    pub(super) prepared: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Prepared,
    Applied,
    Undone,
}

impl Key {
    /// A branch of a transaction.
    pub(super) fn branch(key: BranchKey) -> Self {
        Self { gtid: key.gtid.to_string(), branch: key.id.to_string(), step: String::new() }
    }

    /// A step of a saga.
    pub(super) fn step(gtid: Gtid, step: &str) -> Self {
        Self { gtid: gtid.to_string(), branch: String::new(), step: step.to_owned() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step.as_str() {
            "" => write!(f, "branch {} of {}", self.branch, self.gtid),
            step => write!(f, "step {step} of {}", self.gtid),
        }
    }
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Applied => "applied",
            Self::Undone => "undone",
        }
    }
}

impl Ledger {
    /// Opens a service's ledger; a new one has the opening balances.
    pub(super) async fn open(path: &Path, service: &Spec) -> Result<Self, LedgerError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_MAX);
        // One connection: hooks of different branches wait for each other, as they would for the file's lock.
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
        let mut transaction = pool.begin().await?;
        sqlx::raw_sql(include_str!("ledger.sql")).execute(&mut *transaction).await?;
        for account in service.accounts {
            sqlx::query("insert into account (name, unit, balance) values (?, ?, ?) on conflict (name) do nothing")
                .bind(account.name)
                .bind(account.unit)
                .bind(account.balance)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(Self { pool })
    }

    /// The accounts in a ledger that another process may have open, or may have left behind when it was killed.
    pub(super) async fn read(path: &Path) -> Result<Vec<Account>, LedgerError> {
        let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY_MAX);
        let mut connection = options.connect().await?;
        let rows = sqlx::query(
            "select name, unit, balance, \
                    (select coalesce(sum(amount), 0) from movement join entry using (gtid, branch, step) \
                     where account = name and state = 'prepared') as prepared \
             from account order by rowid",
        )
        .fetch_all(&mut connection)
        .await?;
        let account = |row: &sqlx::sqlite::SqliteRow| {
            Ok(Account {
                name: row.try_get("name")?,
                unit: row.try_get("unit")?,
                balance: row.try_get("balance")?,
                prepared: row.try_get("prepared")?,
            })
        };
        let accounts = rows.iter().map(account).collect::<Result<_, sqlx::Error>>()?;
        connection.close().await?;
        Ok(accounts)
    }

    /// Sets the movements aside, so that they can be applied or dropped whatever happens.
    pub(super) async fn prepare(&self, key: &Key, movements: &[Movement]) -> Result<Answer, LedgerError> {
        self.take_on(key, movements, State::Prepared).await
    }

    /// Applies what is prepared.
    pub(super) async fn commit(&self, key: &Key) -> Result<Change, LedgerError> {
        let mut transaction = self.begin().await?;
        match state(&mut transaction, key).await? {
            Some(State::Applied) => return Ok(Change::Before),
            Some(State::Prepared) => {}
            Some(State::Undone) => return Err(contradiction(key, "commit", "undone")),
            None => return Err(contradiction(key, "commit", "unknown here")),
        }
        set_state(&mut transaction, key, State::Applied).await?;
        add(&mut transaction, key, 1).await?;
        transaction.commit().await?;
        Ok(Change::Now)
    }

    /// Drops what is prepared; what has never come will be refused.
    pub(super) async fn abort(&self, key: &Key) -> Result<Change, LedgerError> {
        let mut transaction = self.begin().await?;
        match state(&mut transaction, key).await? {
            Some(State::Undone) => return Ok(Change::Before),
            Some(State::Prepared) | None => {}
            Some(State::Applied) => return Err(contradiction(key, "abort", "committed")),
        }
        set_state(&mut transaction, key, State::Undone).await?;
        transaction.commit().await?;
        Ok(Change::Now)
    }

    /// Applies a step's movements at once.
    pub(super) async fn execute(&self, key: &Key, movements: &[Movement]) -> Result<Answer, LedgerError> {
        self.take_on(key, movements, State::Applied).await
    }

    /// Applies the reverse of a step's movements; a step that has never come will be refused.
    pub(super) async fn compensate(&self, key: &Key) -> Result<Change, LedgerError> {
        let mut transaction = self.begin().await?;
        match state(&mut transaction, key).await? {
            Some(State::Undone) => return Ok(Change::Before),
            Some(State::Applied) => add(&mut transaction, key, -1).await?,
            Some(State::Prepared) | None => {}
        }
        set_state(&mut transaction, key, State::Undone).await?;
        transaction.commit().await?;
        Ok(Change::Now)
    }

    /// The branches that are prepared.
    pub(super) async fn in_doubt(&self) -> Result<Vec<(String, String)>, LedgerError> {
        let query = "select gtid, branch from entry where state = 'prepared' and step = '' order by gtid, branch";
        Ok(sqlx::query_as(query).fetch_all(&self.pool).await?)
    }

    async fn take_on(&self, key: &Key, movements: &[Movement], as_state: State) -> Result<Answer, LedgerError> {
        let mut transaction = self.begin().await?;
        match state(&mut transaction, key).await? {
            Some(State::Prepared | State::Applied) => return Ok(Answer::Yes),
            Some(State::Undone) => return Ok(Answer::No("it was undone before it came".to_owned())),
            None => {}
        }
        for movement in movements {
            if let Some(problem) = problem_with(&mut transaction, movement).await? {
                return Ok(Answer::No(problem));
            }
        }
        set_state(&mut transaction, key, as_state).await?;
        for movement in movements {
            sqlx::query("insert into movement (gtid, branch, step, account, amount) values (?, ?, ?, ?, ?)")
                .bind(&key.gtid)
                .bind(&key.branch)
                .bind(&key.step)
                .bind(&movement.account)
                .bind(movement.amount)
                .execute(&mut *transaction)
                .await?;
        }
        if as_state == State::Applied {
            add(&mut transaction, key, 1).await?;
        }
        transaction.commit().await?;
        Ok(Answer::Yes)
    }

    /// A database transaction that holds the file's only write lock from its beginning: what it reads stays true.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, LedgerError> {
        Ok(self.pool.begin_with("begin immediate").await?)
    }
}

fn contradiction(key: &Key, wanted: &'static str, found: &'static str) -> LedgerError {
    LedgerError::Contradiction { key: key.clone(), wanted, found }
}

async fn state(transaction: &mut Transaction<'static, Sqlite>, key: &Key) -> Result<Option<State>, LedgerError> {
    let state: Option<String> =
        sqlx::query_scalar("select state from entry where gtid = ? and branch = ? and step = ?")
            .bind(&key.gtid)
            .bind(&key.branch)
            .bind(&key.step)
            .fetch_optional(&mut **transaction)
            .await?;
    let known = [State::Prepared, State::Applied, State::Undone];
    Ok(state.and_then(|word| known.into_iter().find(|state| state.as_str() == word)))
}

async fn set_state(transaction: &mut Transaction<'static, Sqlite>, key: &Key, state: State) -> Result<(), LedgerError> {
    let query = "insert into entry (gtid, branch, step, state) values (?, ?, ?, ?) \
                 on conflict (gtid, branch, step) do update set state = excluded.state";
    let query = sqlx::query(query).bind(&key.gtid).bind(&key.branch).bind(&key.step);
    query.bind(state.as_str()).execute(&mut **transaction).await?;
    Ok(())
}

/// Adds an entry's movements to the balances, `times` 1 or -1.
async fn add(transaction: &mut Transaction<'static, Sqlite>, key: &Key, times: i64) -> Result<(), LedgerError> {
    let query = "update account set balance = balance + ? * movement.amount from movement \
                 where movement.account = account.name and movement.gtid = ? and movement.branch = ? and movement.step = ?";
    let query = sqlx::query(query).bind(times).bind(&key.gtid).bind(&key.branch).bind(&key.step);
    query.execute(&mut **transaction).await?;
    Ok(())
}

/// Why a movement is refused, if it is.
async fn problem_with(
    transaction: &mut Transaction<'static, Sqlite>,
    movement: &Movement,
) -> Result<Option<String>, LedgerError> {
    // What others are about to take is not there any more; what they are about to bring is not there yet.
    let row = sqlx::query(
        "select unit, \
                balance + (select coalesce(sum(amount), 0) from movement join entry using (gtid, branch, step) \
                           where account = name and state = 'prepared' and amount < 0) as available \
         from account where name = ?",
    )
    .bind(&movement.account)
    .fetch_optional(&mut **transaction)
    .await?;
    let Movement { account, amount } = movement;
    let Some(row) = row else { return Ok(Some(format!("there is no account {account}"))) };
    let (unit, available): (String, i64) = (row.try_get("unit")?, row.try_get("available")?);
    let is_covered = available.checked_add(*amount).is_some_and(|left| left >= 0);
    Ok((!is_covered).then(|| format!("{account} has {available} {unit}, and {} are needed", amount.unsigned_abs())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::services::Order;

    const BANK: &str = "bank-a";
    const GTID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
    const BRANCH: &str = "7.1f";

    fn spec() -> &'static Spec {
        Spec::named(BANK).expect("a service")
    }

    fn key() -> Key {
        Key::branch(BranchKey { gtid: GTID.parse().expect("a gtid"), id: BRANCH.parse().expect("an id") })
    }

    fn step(name: &str) -> Key {
        Key::step(GTID.parse().expect("a gtid"), name)
    }

    fn pay(amount: i64) -> Vec<Movement> {
        Order::of(&[("anna", -amount), ("agency", amount)]).movements
    }

    async fn anna(path: &Path) -> (i64, i64) {
        let accounts = Ledger::read(path).await.expect("the accounts");
        let account = accounts.into_iter().find(|account| account.name == "anna").expect("her account");
        (account.balance, account.prepared)
    }

    #[tokio::test]
    async fn what_is_prepared_outlives_the_process() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger.db");
        let ledger = Ledger::open(&path, spec()).await.expect("a ledger");
        assert_eq!(ledger.prepare(&key(), &pay(250)).await.expect("an answer"), Answer::Yes);
        drop(ledger);

        let ledger = Ledger::open(&path, spec()).await.expect("the same ledger");
        assert_eq!(ledger.in_doubt().await.expect("the branches"), [(GTID.to_owned(), BRANCH.to_owned())]);
        assert_eq!(anna(&path).await, (1_000, -250));
        assert_eq!(ledger.commit(&key()).await.expect("it is prepared"), Change::Now);
        assert_eq!(ledger.commit(&key()).await.expect("it is committed"), Change::Before);
        assert_eq!(anna(&path).await, (750, 0));
        ledger.abort(&key()).await.expect_err("it has committed");
    }

    #[tokio::test]
    async fn what_is_prepared_cannot_be_spent_twice() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger.db");
        let ledger = Ledger::open(&path, spec()).await.expect("a ledger");
        assert_eq!(ledger.prepare(&key(), &pay(600)).await.expect("an answer"), Answer::Yes);
        let refused = ledger.execute(&step("payment"), &pay(600)).await.expect("an answer");
        assert_eq!(refused, Answer::No("anna has 400 EUR, and 600 are needed".into()));
        ledger.abort(&key()).await.expect("it is prepared");
        assert_eq!(ledger.execute(&step("payment"), &pay(600)).await.expect("an answer"), Answer::Yes);
        assert_eq!(anna(&path).await, (400, 0));
    }

    #[tokio::test]
    async fn an_abort_or_a_compensation_that_comes_first_wins() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger.db");
        let ledger = Ledger::open(&path, spec()).await.expect("a ledger");
        ledger.abort(&key()).await.expect("nothing to do");
        assert!(matches!(ledger.prepare(&key(), &pay(1)).await, Ok(Answer::No(_))));
        ledger.commit(&key()).await.expect_err("it was aborted");
        ledger.compensate(&step("payment")).await.expect("nothing to do");
        assert!(matches!(ledger.execute(&step("payment"), &pay(1)).await, Ok(Answer::No(_))));
        assert_eq!(anna(&path).await, (1_000, 0));
    }

    #[tokio::test]
    async fn a_step_is_executed_once_and_undone_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger.db");
        let ledger = Ledger::open(&path, spec()).await.expect("a ledger");
        for _ in 0..2 {
            assert_eq!(ledger.execute(&step("payment"), &pay(300)).await.expect("an answer"), Answer::Yes);
            assert_eq!(anna(&path).await, (700, 0));
        }
        for change in [Change::Now, Change::Before] {
            assert_eq!(ledger.compensate(&step("payment")).await.expect("it was executed"), change);
            assert_eq!(anna(&path).await, (1_000, 0));
        }
    }
}
