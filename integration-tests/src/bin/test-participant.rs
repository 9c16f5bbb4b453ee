//! A participant with a real database, for tests that kill it: a bank for two-phase and three-phase commits, a till that commits in
//! one phase, or a clerk for sagas.
//!
//! `test-participant bank|till|clerk NAME COORDINATOR DATABASE [LISTEN ADDRESS]`. It writes `joined` once it takes part, and its own
//! ledger into its own database; that ledger is the oracle of the tests. With the last two a bank has a voter in its database, whose
//! peers are answered at LISTEN and told ADDRESS.

use std::time::Duration;

use assent_sdk::postgres::{Barrier, PostgresResource, PostgresVoters, PostgresWork};
use assent_sdk::{Assent, BoxError, Branch, Builder, Compensated, Executed, SagaParticipant, Step, Vote};
use integration_tests::ledger::{Booking, Errand};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgConnection, PgPool};
use tokio::net::TcpListener;

/// Moves money in its own ledger.
struct Bank;

impl PostgresWork for Bank {
    async fn perform(&self, branch: &Branch, connection: &mut PgConnection) -> Result<Vote, BoxError> {
        let booking: Booking = branch.json()?;
        let moved = sqlx::query("update account set balance = balance + $2 where id = $1 and balance + $2 >= 0")
            .bind(booking.account)
            .bind(booking.amount)
            .execute(&mut *connection)
            .await?;
        if moved.rows_affected() == 0 {
            return Ok(Vote::no("insufficient funds"));
        }
        sqlx::query("insert into ledger (gtid, account, amount) values ($1, $2, $3)")
            .bind(branch.gtid().as_uuid())
            .bind(booking.account)
            .bind(booking.amount)
            .execute(connection)
            .await?;
        Ok(Vote::Yes)
    }
}

/// Runs errands: each step leaves one line, each compensation the opposite one.
struct Clerk {
    pool: PgPool,
    barrier: Barrier,
}

impl SagaParticipant for Clerk {
    async fn execute(&self, step: &Step) -> Result<Executed, BoxError> {
        let errand: Errand = step.input_json()?;
        let (gtid, name) = (step.gtid().as_uuid(), step.name().to_string());
        self.barrier
            .execute(&self.pool, step, async move |tx| {
                if errand.is_refused {
                    return Ok(Executed::refused("not today"));
                }
                sqlx::query("insert into errand (gtid, step, effect) values ($1, $2, 1)")
                    .bind(gtid)
                    .bind(&name)
                    .execute(tx)
                    .await?;
                Ok(Executed::Done(name.into()))
            })
            .await
    }

    async fn compensate(&self, step: &Step) -> Result<Compensated, BoxError> {
        let (gtid, name) = (step.gtid().as_uuid(), step.name().to_string());
        self.barrier
            .compensate(&self.pool, step, async move |tx, _output| {
                sqlx::query("insert into errand (gtid, step, effect) values ($1, $2, -1)")
                    .bind(gtid)
                    .bind(name)
                    .execute(tx)
                    .await?;
                Ok(Compensated::Done)
            })
            .await
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter("warn").with_ansi(false).with_writer(std::io::stderr).init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (kind, name, coordinator, database, voter) = match arguments.as_slice() {
        [kind, name, coordinator, database] => (kind, name, coordinator, database, None),
        [kind, name, coordinator, database, listen, address] => {
            (kind, name, coordinator, database, Some((listen, address)))
        }
        _ => anyhow::bail!("usage: test-participant bank|till|clerk NAME COORDINATOR DATABASE [LISTEN ADDRESS]"),
    };
    // Before anything else: whoever restarts it finds it there at once.
    let listener = match voter {
        Some((listen, _)) => Some(TcpListener::bind(listen).await?),
        None => None,
    };
    let dial = async || -> anyhow::Result<Builder> {
        Ok(match kind.as_str() {
            "bank" => {
                let resource = PostgresResource::new(name.parse()?, database.parse()?, Bank);
                let bank = Assent::dial(coordinator).participant(name, resource);
                match voter {
                    Some((_, address)) => {
                        let voters = PostgresVoters::new(database.parse()?);
                        voters.install().await?;
                        bank.insecure(true).voter(voters, address)
                    }
                    None => bank,
                }
            }
            "till" => {
                let resource = PostgresResource::new(name.parse()?, database.parse()?, Bank);
                Assent::dial(coordinator).participant(name, resource.recorded(Barrier::default()))
            }
            "clerk" => {
                let pool = PgPoolOptions::new().max_connections(16).connect(database).await?;
                Assent::dial(coordinator).saga_participant(name, Clerk { pool, barrier: Barrier::default() })
            }
            other => anyhow::bail!("{other} is neither bank, till nor clerk"),
        })
    };
    // The coordinator may be down, too: it is killed as well.
    let assent = loop {
        match dial().await?.wait_for_coordinator(Duration::ZERO).connect().await {
            Ok(assent) => break assent,
            Err(error) => tracing::warn!(error = %anyhow::Error::from(error), "cannot join yet"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    if let Some(listener) = listener {
        tokio::spawn(assent.serve_peers(listener)?);
    }
    println!("joined");
    assent.closed().await;
    Ok(())
}
