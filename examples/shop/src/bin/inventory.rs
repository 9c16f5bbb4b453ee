//! The inventory: what is in stock, over gRPC.

use assent_sdk::postgres::{Barrier, EarlyOnly, PostgresResource};
use assent_sdk::propagation::CallFailed;
use assent_sdk::propagation::server::{ContextLayer, required_context_of};
use assent_sdk::{Assent, BoxError, Compensated, Executed, Gtid, SagaParticipant, Step};
use shop::inventory::inventory_service_server::{InventoryService, InventoryServiceServer};
use shop::inventory::{ReserveRequest, ReserveResponse};
use shop::{Order, Service, listen};
use sqlx::{PgConnection, PgPool};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// Takes items out of the stock; answers what they cost, or `None` if there are not enough.
async fn reserve(
    connection: &mut PgConnection,
    gtid: Gtid,
    item: &str,
    quantity: u32,
) -> Result<Option<i64>, sqlx::Error> {
    let quantity = i32::try_from(quantity).unwrap_or(i32::MAX);
    let cents: Option<i64> =
        sqlx::query_scalar("update stock set free = free - $2 where item = $1 and free >= $2 returning cents * $2")
            .bind(item)
            .bind(quantity)
            .fetch_optional(&mut *connection)
            .await?;
    if cents.is_some() {
        sqlx::query("insert into reservation (gtid, item, quantity) values ($1, $2, $3)")
            .bind(gtid.as_uuid())
            .bind(item)
            .bind(quantity)
            .execute(connection)
            .await?;
    }
    Ok(cents)
}

/// As a branch of a transaction: the work is done and prepared while the call is answered.
struct Inventory {
    assent: Assent,
    resource: PostgresResource<EarlyOnly>,
}

#[tonic::async_trait]
impl InventoryService for Inventory {
    async fn reserve(&self, request: Request<ReserveRequest>) -> Result<Response<ReserveResponse>, Status> {
        let context = required_context_of(&request)?;
        let ReserveRequest { item, quantity } = request.into_inner();
        let mut branch = self.resource.begin(&context).await?;
        let cents = reserve(branch.connection()?, context.gtid, &item, quantity).await.map_err(CallFailed::from)?;
        let Some(cents) = cents else {
            return Err(CallFailed::refused(format!("there are not {quantity} of {item}")).into());
        };
        branch.prepare(&self.assent).await?;
        Ok(Response::new(ReserveResponse { cents: cents.unsigned_abs() }))
    }
}

/// As a step of a saga: done once, undone once, whatever comes twice or late.
struct Reservations {
    pool: PgPool,
    barrier: Barrier,
}

impl SagaParticipant for Reservations {
    async fn execute(&self, step: &Step) -> Result<Executed, BoxError> {
        let work = async |connection: &mut PgConnection| {
            let Order { item, quantity, .. } = step.input_json()?;
            Ok(match reserve(connection, step.gtid(), &item, quantity).await? {
                Some(cents) => Executed::json(&cents)?,
                None => Executed::refused(format!("there are not {quantity} of {item}")),
            })
        };
        self.barrier.execute(&self.pool, step, work).await
    }

    async fn compensate(&self, step: &Step) -> Result<Compensated, BoxError> {
        let undo = async |connection: &mut PgConnection, _| {
            let released = "with released as (delete from reservation where gtid = $1 returning item, quantity)
                            update stock set free = free + quantity from released where stock.item = released.item";
            sqlx::query(released).bind(step.gtid().as_uuid()).execute(connection).await?;
            Ok(Compensated::Done)
        };
        self.barrier.compensate(&self.pool, step, undo).await
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let tables = include_str!("../../sql/inventory.sql");
    let steps = |pool, barrier| Reservations { pool, barrier };
    let Service { assent, resource } = Service::join("inventory", tables, steps).await?;
    let incoming = TcpIncoming::from(listen("inventory", "127.0.0.1:8081").await?);
    tonic::transport::Server::builder()
        .layer(ContextLayer::new())
        .add_service(InventoryServiceServer::new(Inventory { assent, resource }))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}
