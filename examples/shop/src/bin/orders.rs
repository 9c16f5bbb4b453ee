//! Orders, over HTTP: `POST /orders` is one transaction, `POST /preorders` one saga.

use std::sync::Arc;
use std::time::Duration;

use assent_sdk::postgres::Barrier;
use assent_sdk::propagation::client::{ContextLayer, ContextService};
use assent_sdk::propagation::{CallFailed, Context, with_context};
use assent_sdk::saga::{Retry, SagaBuilder, SagaOutcome};
use assent_sdk::{BoxError, Compensated, Executed, Gtid, Outcome, SagaParticipant, Step};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use shop::http::{HttpClient, detail};
use shop::inventory::ReserveRequest;
use shop::inventory::inventory_service_client::InventoryServiceClient;
use shop::{Charge, Order, Placed, Service, listen, setting};
use sqlx::{PgConnection, PgPool};
use tonic::transport::{Channel, Endpoint};
use tower::Layer as _;

/// How long a customer waits.
const PATIENCE: Duration = Duration::from_secs(10);

struct Orders {
    service: Service,
    inventory: InventoryServiceClient<ContextService<Channel>>,
    payments: HttpClient,
}

impl Orders {
    /// Everything that an order is, each part a branch of the transaction. The calls carry the context by themselves.
    async fn place(&self, context: &Context, order: &Order) -> Result<(), CallFailed> {
        let Order { item, quantity, account } = order.clone();
        let reserved = self.inventory.clone().reserve(ReserveRequest { item, quantity }).await?.into_inner();
        let charge = Charge { account, cents: i64::try_from(reserved.cents).map_err(CallFailed::other)? };
        match self.payments.post("/charges", &charge).await.map_err(CallFailed::other)? {
            (status, _) if status.is_success() => {}
            (StatusCode::CONFLICT, why) => return Err(CallFailed::refused(detail(&why))),
            (status, why) => return Err(CallFailed::other(format!("payments answered {status}: {why}"))),
        }
        let mut branch = self.service.resource.begin(context).await?;
        insert(branch.connection()?, context.gtid, order).await?;
        Ok(branch.prepare(&self.service.assent).await?)
    }
}

async fn insert(connection: &mut PgConnection, gtid: Gtid, order: &Order) -> Result<(), sqlx::Error> {
    sqlx::query("insert into placed (gtid, item, quantity, account) values ($1, $2, $3, $4)")
        .bind(gtid.as_uuid())
        .bind(&order.item)
        .bind(i32::try_from(order.quantity).unwrap_or(i32::MAX))
        .bind(&order.account)
        .execute(connection)
        .await?;
    Ok(())
}

/// One transaction: no service ever shows a part of the order.
async fn order(State(orders): State<Arc<Orders>>, Json(order): Json<Order>) -> Result<Json<Placed>, CallFailed> {
    let transaction = orders.service.assent.begin(Some(PATIENCE)).await?;
    let gtid = transaction.gtid();
    let context = transaction.context().ok_or_else(|| CallFailed::other("it was begun"))?;
    // Where this fails the transaction is dropped, and aborts.
    with_context(context.clone(), orders.place(&context, &order)).await?;
    // A call that lost the context would have done its work on its own.
    let outcome = transaction.expect(["orders", "inventory", "payments"]).commit().await?;
    match outcome {
        Outcome::Committed => Ok(Json(Placed { gtid: gtid.to_string(), is_placed: true })),
        Outcome::Aborted(reason) => Err(CallFailed::refused(reason)),
        Outcome::InDoubt { gtid } => Ok(Json(Placed { gtid: gtid.to_string(), is_placed: false })),
    }
}

/// One saga: each step is seen at once, and undone if a later one fails. It may take days, and holds no locks.
async fn preorder(State(orders): State<Arc<Orders>>, Json(order): Json<Order>) -> Result<Json<Placed>, CallFailed> {
    let retry = || Retry::exponential(Duration::from_millis(200)).attempts(20);
    let mut saga = SagaBuilder::new();
    let reserve = saga.step("reserve", "inventory").input_json(&order).retry(retry()).add();
    let charge = saga.step("charge", "payments").input_json(&order).after(&reserve).retry(retry()).add();
    saga.step("place", "orders").input_json(&order).after(&charge).retry(retry()).add();
    let gtid = orders.service.assent.start_saga(saga).await?;
    match orders.service.assent.saga_outcome(gtid, PATIENCE).await? {
        SagaOutcome::Completed(_) => Ok(Json(Placed { gtid: gtid.to_string(), is_placed: true })),
        SagaOutcome::Compensated(reason) => Err(CallFailed::refused(reason)),
        SagaOutcome::InDoubt { gtid } => Ok(Json(Placed { gtid: gtid.to_string(), is_placed: false })),
    }
}

/// The last step of the saga.
struct Preorders {
    pool: PgPool,
    barrier: Barrier,
}

impl SagaParticipant for Preorders {
    async fn execute(&self, step: &Step) -> Result<Executed, BoxError> {
        let work = async |connection: &mut PgConnection| {
            insert(connection, step.gtid(), &step.input_json()?).await?;
            Ok(Executed::done())
        };
        self.barrier.execute(&self.pool, step, work).await
    }

    async fn compensate(&self, step: &Step) -> Result<Compensated, BoxError> {
        let undo = async |connection: &mut PgConnection, _| {
            let gtid = step.gtid();
            sqlx::query("delete from placed where gtid = $1").bind(gtid.as_uuid()).execute(connection).await?;
            Ok(Compensated::Done)
        };
        self.barrier.compensate(&self.pool, step, undo).await
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let tables = include_str!("../../sql/orders.sql");
    let service = Service::join("orders", tables, |pool, barrier| Preorders { pool, barrier }).await?;
    let channel = Endpoint::from_shared(setting("INVENTORY_URL", "http://127.0.0.1:8081"))?.connect_lazy();
    let inventory = InventoryServiceClient::new(ContextLayer::new().layer(channel));
    let payments = HttpClient::new(setting("PAYMENTS_URL", "http://127.0.0.1:8082"));
    let listener = listen("orders", "127.0.0.1:8080").await?;
    let app = Router::new()
        .route("/orders", post(order))
        .route("/preorders", post(preorder))
        .with_state(Arc::new(Orders { service, inventory, payments }));
    axum::serve(listener, app).await?;
    Ok(())
}
