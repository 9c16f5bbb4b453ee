//! What goes on beside the transactions: retention, and health.

use std::sync::Arc;
use std::time::Duration;

use assent_proto::v1::admin_service_server;
use assent_proto::v1::session_service_server;
use assent_proto::v1::transaction_service_server;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{self, HealthServer};
use tonic_health::server::HealthReporter;

use super::now_ms;
use crate::log::Log;

/// How often ended transactions are looked through for those to forget.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// How often the log is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// How long one answer may take.
const PING_MAX: Duration = Duration::from_secs(5);
/// How long it may be silent before this replica counts as unfit. Shorter troubles are ridden out: sessions stay, and what is undecided waits.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The names of the services as health checks ask for them; the empty one stands for all.
const SERVICES: [&str; 4] = [
    "",
    session_service_server::SERVICE_NAME,
    transaction_service_server::SERVICE_NAME,
    admin_service_server::SERVICE_NAME,
];

/// What `grpc.health.v1.Health` says.
#[derive(Clone, Debug)]
pub(super) struct Health {
    reporter: HealthReporter,
}

impl Health {
    /// All services serve.
    pub(super) async fn serving() -> (Self, HealthServer<impl health_server::Health>) {
        let (reporter, service) = tonic_health::server::health_reporter();
        let health = Self { reporter };
        health.set(ServingStatus::Serving).await;
        (health, service)
    }

    /// None serves any more.
    pub(super) async fn leave(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    async fn set(&self, status: ServingStatus) {
        for service in SERVICES {
            self.reporter.set_service_status(service, status).await;
        }
    }
}

/// Looks after the log until it is aborted.
pub(super) async fn run(log: Arc<dyn Log>, health: Health, retention: Duration) {
    tokio::join!(maintain(&*log, retention), watch(&*log, &health));
}

async fn maintain(log: &dyn Log, retention: Duration) {
    let mut due = interval(MAINTENANCE_INTERVAL);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        match log.maintain(now_ms(), retention).await {
            Ok(done) if done == Default::default() => {}
            Ok(done) => tracing::info!(
                forgotten = done.transactions_forgotten,
                kept = done.transactions_kept,
                partitions_created = done.partitions_created,
                partitions_dropped = done.partitions_dropped,
                "looked through the history"
            ),
            Err(error) => tracing::warn!(%error, "could not look through the history; trying again later"),
        }
    }
}

async fn watch(log: &dyn Log, health: &Health) {
    let mut due = interval(PING_INTERVAL);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard_at = Instant::now();
    let mut is_fit = true;
    loop {
        due.tick().await;
        if let Ok(Ok(())) = tokio::time::timeout(PING_MAX, log.ping()).await {
            heard_at = Instant::now();
            if !is_fit {
                tracing::info!("the log answers again: serving");
                health.set(ServingStatus::Serving).await;
                is_fit = true;
            }
        } else if is_fit && heard_at.elapsed() > SILENCE_MAX {
            tracing::error!("the log has not answered for {} s: not serving", SILENCE_MAX.as_secs());
            health.set(ServingStatus::NotServing).await;
            is_fit = false;
        }
    }
}
