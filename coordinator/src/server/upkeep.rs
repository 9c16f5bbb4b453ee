//! What goes on beside the transactions: retention, health, and the lease.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use assent_proto::v1::admin_service_server;
use assent_proto::v1::session_service_server;
use assent_proto::v1::transaction_service_server;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, timeout};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{self, HealthServer};
use tonic_health::server::HealthReporter;

use crate::driver::now_ms;
use crate::log::{Lease, Log};

/// How often ended transactions are looked through for those to forget.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// How the log is watched over.
#[derive(Clone, Copy)]
struct Watch {
    /// How often it is asked whether it is there.
    interval: Duration,
    /// How long one answer may take.
    answer_max: Duration,
    /// How long it may be silent before this replica counts as unfit. Shorter troubles are ridden out: sessions stay, and
    /// what is undecided waits.
    silence_max: Duration,
}

const WATCH: Watch = Watch {
    interval: Duration::from_secs(5),
    answer_max: Duration::from_secs(5),
    silence_max: Duration::from_secs(30),
};

/// The names of the services as health checks ask for them; the empty one stands for all.
const SERVICES: [&str; 4] = [
    "",
    session_service_server::SERVICE_NAME,
    transaction_service_server::SERVICE_NAME,
    admin_service_server::SERVICE_NAME,
];

/// Checked by this name, health says SERVING where the configuration says `insecure`, and NOT_FOUND elsewhere.
const INSECURE: &str = "assent.insecure";

/// What `grpc.health.v1.Health` says.
#[derive(Clone, Debug)]
pub(super) struct Health {
    reporter: HealthReporter,
}

impl Health {
    /// All services serve. A server that is open to a network without TLS or authentication has one more: [`INSECURE`].
    pub(super) async fn serving(insecure: bool) -> (Self, HealthServer<impl health_server::Health>) {
        let (reporter, service) = tonic_health::server::health_reporter();
        if insecure {
            reporter.set_service_status(INSECURE, ServingStatus::Serving).await;
        }
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
    tokio::join!(maintain(&*log, retention), WATCH.run(&*log, &health));
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

/// How the lease is kept.
#[derive(Clone, Copy)]
struct Renewal {
    /// How long it lasts.
    lease: Duration,
    /// How often it is renewed.
    interval: Duration,
}

/// Renews the lease, each third of it, until another process has taken over.
///
/// A lease that has lapsed stops nobody: as long as no other replica has taken over it is renewed like any other, and after that the epoch
/// keeps this one from appending. So a log that is away for longer than a lease is waited for.
pub(super) async fn keep_lease(log: &dyn Log) {
    let lease = log.lease();
    Renewal { lease, interval: lease / 3 }.run(log).await;
}

/// The same while the log is being acquired: one that is lost then is for the start to acquire anew, or for its first append to notice.
pub(super) async fn keep_lease_at_start(log: &dyn Log) -> Infallible {
    loop {
        keep_lease(log).await;
    }
}

impl Renewal {
    async fn run(self, log: &dyn Log) {
        let mut due = interval_at(Instant::now() + self.interval, self.interval);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Counted from before it is sent: the lease, on the database's clock, ends later.
        let mut renewed_at = Instant::now();
        let mut has_lapsed = false;
        loop {
            due.tick().await;
            let sent_at = Instant::now();
            let why = match timeout(self.lease, log.renew()).await {
                Ok(Ok(Lease::Lost)) => {
                    tracing::error!("another process took over: this one stops driving");
                    return;
                }
                Ok(Ok(Lease::Renewed | Lease::NotAcquired)) => {
                    if has_lapsed {
                        tracing::info!("the lease is renewed: no other replica has taken over meanwhile");
                    }
                    (renewed_at, has_lapsed) = (sent_at, false);
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if !has_lapsed && renewed_at.elapsed() >= self.lease {
                tracing::warn!(
                    why,
                    "the lease has lapsed, and could not be renewed: a replica of another name may start"
                );
                has_lapsed = true;
            }
        }
    }
}

impl Watch {
    async fn run(self, log: &dyn Log, health: &Health) {
        let mut due = interval(self.interval);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard_at = Instant::now();
        let mut is_fit = true;
        loop {
            due.tick().await;
            if let Ok(Ok(())) = tokio::time::timeout(self.answer_max, log.ping()).await {
                heard_at = Instant::now();
                if !is_fit {
                    tracing::info!("the log answers again: serving");
                    health.set(ServingStatus::Serving).await;
                    is_fit = true;
                }
            } else if is_fit && heard_at.elapsed() > self.silence_max {
                tracing::error!("the log has not answered for {} s: not serving", self.silence_max.as_secs());
                health.set(ServingStatus::NotServing).await;
                is_fit = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Request;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_server::Health as _;
    use tonic_health::server::HealthService;

    use super::*;
    use crate::log::memory::MemoryLog;

    async fn is_serving(health: &Health, service: &str) -> bool {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthService::from_health_reporter(health.reporter.clone()).check(Request::new(request)).await;
        answer.expect("known").into_inner().status() == tonic_health::pb::health_check_response::ServingStatus::Serving
    }

    async fn until_serving_is(expected: bool, health: &Health) {
        let waited = tokio::time::timeout(Duration::from_secs(20), async {
            for service in SERVICES {
                while is_serving(health, service).await != expected {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
        waited.await.expect("it is told");
    }

    /// Serves while its log is out, for as long as this.
    async fn watched(silence_max: Duration) -> (Health, Arc<MemoryLog>) {
        let (health, _service) = Health::serving(false).await;
        let log = Arc::new(MemoryLog::new());
        log.set_outage(true);
        let (watched, told): (Arc<dyn Log>, Health) = (Arc::clone(&log) as _, health.clone());
        let watch = Watch { interval: Duration::from_millis(1), answer_max: Duration::from_secs(5), silence_max };
        tokio::spawn(async move { watch.run(&*watched, &told).await });
        (health, log)
    }

    #[tokio::test]
    async fn a_lease_is_kept_through_an_outage_until_another_process_takes_over() {
        let log = Arc::new(MemoryLog::new());
        let name = "r1".parse().expect("a name");
        log.acquire(&name).await.expect("free");
        let kept: Arc<dyn Log> = Arc::clone(&log) as _;
        let renewal = Renewal { lease: Duration::from_millis(2), interval: Duration::from_millis(1) };
        let keeping = tokio::spawn(async move { renewal.run(&*kept).await });
        log.set_outage(true);
        // Time enough for many renewals that fail.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!keeping.is_finished(), "a lapsed lease stops nobody");
        log.set_outage(false);
        log.another().acquire(&name).await.expect("its own name");
        tokio::time::timeout(Duration::from_secs(20), keeping).await.expect("it is told").expect("no panic");
    }

    #[tokio::test]
    async fn a_replica_is_unfit_while_its_log_is_silent() {
        let (health, log) = watched(Duration::from_millis(20)).await;
        until_serving_is(false, &health).await;
        log.set_outage(false);
        until_serving_is(true, &health).await;
        log.set_outage(true);
        until_serving_is(false, &health).await;
    }

    #[tokio::test]
    async fn short_troubles_of_the_log_are_ridden_out() {
        let (health, _log) = watched(Duration::from_secs(3_600)).await;
        // Time enough for many answers that do not come.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(is_serving(&health, "").await);
    }
}
