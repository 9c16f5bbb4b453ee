//! What the services of the shop have in common: how they start, and what they say to each other.

pub mod http;

use assent_sdk::postgres::{Barrier, EarlyOnly, PostgresResource};
use assent_sdk::{Assent, BoxError, SagaParticipant};
use serde::{Deserialize, Serialize};
use sqlx::{Executor as _, PgPool};
use tokio::net::TcpListener;

/// The gRPC of the inventory.
#[allow(missing_docs, reason = "generated")]
pub mod inventory {
    tonic::include_proto!("shop.v1");
}

/// An order, as customers send it, and as the steps of a saga are given it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The name of the item.
    pub item: String,
    /// How many.
    pub quantity: u32,
    /// Who pays.
    pub account: String,
}

/// What customers are told about their order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Placed {
    /// The transaction, or the saga: by its id each service knows its part of the order.
    pub gtid: String,
    /// Whether the order is placed; otherwise it is still on its way.
    pub is_placed: bool,
}

/// What payments is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Charge {
    /// Who pays.
    pub account: String,
    /// How much.
    pub cents: i64,
}

/// A service with a database of its own.
pub struct Service {
    /// Its session with the coordinator.
    pub assent: Assent,
    /// Where its branches are prepared.
    pub resource: PostgresResource<EarlyOnly>,
}

impl Service {
    /// Joins as a participant of transactions and of sagas, and makes the tables once nothing that it had prepared before is in
    /// doubt.
    ///
    /// # Errors
    /// The coordinator or the database is not there, or not fit.
    pub async fn join<S: SagaParticipant>(
        name: &str,
        tables: &'static str,
        steps: impl FnOnce(PgPool, Barrier) -> S,
    ) -> Result<Self, BoxError> {
        tracing_subscriber::fmt::init();
        let database = setting("DATABASE_URL", &format!("postgres://shop:shop@127.0.0.1:5432/{name}"));
        let (pool, barrier) = (PgPool::connect(&database).await?, Barrier::default());
        let resource = PostgresResource::early(name.parse()?, database.parse()?);
        let (tables_pool, tables_barrier) = (pool.clone(), barrier.clone());
        let assent = Assent::dial(setting("ASSENT_ENDPOINT", "http://127.0.0.1:7420"))
            .participant(name, resource.clone())
            .saga_participant(name, steps(pool, barrier))
            .settle_first(async move {
                tables_barrier.install(&tables_pool).await?;
                tables_pool.execute(tables).await?;
                Ok(())
            })
            .connect()
            .await?;
        Ok(Self { assent, resource })
    }
}

/// A setting from the environment.
pub fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// Opens the port of a service, and says where.
///
/// # Errors
/// The address cannot be listened at.
pub async fn listen(name: &str, default: &str) -> Result<TcpListener, BoxError> {
    let listener = TcpListener::bind(setting("LISTEN", default)).await?;
    println!("{name} listening on http://{}", listener.local_addr()?);
    Ok(listener)
}
