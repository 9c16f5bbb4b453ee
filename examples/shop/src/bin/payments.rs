//! Payments: the customers' accounts, over HTTP.

use assent_sdk::postgres::Barrier;
use assent_sdk::propagation::CallFailed;
use assent_sdk::propagation::server::{ContextLayer, InTransaction};
use assent_sdk::{BoxError, Compensated, Executed, Gtid, SagaParticipant, Step};
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use shop::{Charge, Order, Service, listen};
use sqlx::{PgConnection, PgPool};
use std::sync::Arc;

/// Takes money from an account; answers whether there was enough.
async fn charge(connection: &mut PgConnection, gtid: Gtid, charge: &Charge) -> Result<bool, sqlx::Error> {
    let taken = sqlx::query("update account set cents = cents - $2 where id = $1 and cents >= $2")
        .bind(&charge.account)
        .bind(charge.cents)
        .execute(&mut *connection)
        .await?;
    if taken.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query("insert into charge (gtid, account, cents) values ($1, $2, $3)")
        .bind(gtid.as_uuid())
        .bind(&charge.account)
        .bind(charge.cents)
        .execute(connection)
        .await?;
    Ok(true)
}

/// As a branch of a transaction: the work is done and prepared while the call is answered.
async fn charged(
    State(payments): State<Arc<Service>>,
    InTransaction(context): InTransaction,
    Json(wanted): Json<Charge>,
) -> Result<(), CallFailed> {
    let mut branch = payments.resource.begin(&context).await?;
    if !charge(branch.connection()?, context.gtid, &wanted).await? {
        return Err(CallFailed::refused(format!("{} cannot pay that", wanted.account)));
    }
    Ok(branch.prepare(&payments.assent).await?)
}

/// As a step of a saga: done once, undone once, whatever comes twice or late.
struct Charges {
    pool: PgPool,
    barrier: Barrier,
}

impl SagaParticipant for Charges {
    async fn execute(&self, step: &Step) -> Result<Executed, BoxError> {
        let work = async |connection: &mut PgConnection| {
            let Order { account, .. } = step.input_json()?;
            let cents = step.output_json_of("reserve")?.ok_or("the step reserve comes before this one")?;
            let wanted = Charge { account, cents };
            let is_charged = charge(connection, step.gtid(), &wanted).await?;
            Ok(if is_charged {
                Executed::done()
            } else {
                Executed::refused(format!("{} cannot pay that", wanted.account))
            })
        };
        self.barrier.execute(&self.pool, step, work).await
    }

    async fn compensate(&self, step: &Step) -> Result<Compensated, BoxError> {
        let undo = async |connection: &mut PgConnection, _| {
            let refunded = "with refunded as (delete from charge where gtid = $1 returning account, cents)
                            update account set cents = account.cents + refunded.cents from refunded where id = account";
            sqlx::query(refunded).bind(step.gtid().as_uuid()).execute(connection).await?;
            Ok(Compensated::Done)
        };
        self.barrier.compensate(&self.pool, step, undo).await
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let tables = include_str!("../../sql/payments.sql");
    let payments = Service::join("payments", tables, |pool, barrier| Charges { pool, barrier }).await?;
    let listener = listen("payments", "127.0.0.1:8082").await?;
    let app = Router::new().route("/charges", post(charged)).layer(ContextLayer::new()).with_state(Arc::new(payments));
    axum::serve(listener, app).await?;
    Ok(())
}
