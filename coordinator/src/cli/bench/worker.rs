//! The child processes: participants, and load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use assent_sdk::postgres::{PostgresResource, PostgresWork};
use assent_sdk::saga::SagaBuilder;
use assent_sdk::voter::FileVoters;
use assent_sdk::{Assent, BoxError, Branch, Executed, Outcome, Participant, SagaParticipant, Step, Vote};
use bytes::Bytes;
use hdrhistogram::Histogram;
use sqlx::PgConnection;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

use super::plan::{Latency, Mark, Plan, Protocol, Role, participant};
use crate::cli::{Exit, Failure};
use crate::service::process;

/// How long a transaction may take before it counts as in doubt.
const PATIENCE: Duration = Duration::from_secs(30);
/// Connections of all participants together: a Postgres that nobody has configured takes a hundred.
const CONNECTIONS_MAX: usize = 80;

/// Connections of one of them.
pub(super) const fn connections(participants: usize) -> usize {
    match CONNECTIONS_MAX.checked_div(participants) {
        Some(connections) => connections,
        None => CONNECTIONS_MAX,
    }
}

/// Runs a child until its stdin is closed.
pub(super) async fn run() -> Result<(), Failure> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let first = lines.next_line().await?.unwrap_or_default();
    let plan: Plan = serde_json::from_str(&first)
        .map_err(|error| Failure::new(Exit::Usage, format!("no plan came: {error}"), "use `assent bench`"))?;
    let counts = Arc::new(Counts::new());
    let _joined = match plan.role {
        Role::Participants => join(&plan).await?,
        Role::Load => load(plan, Arc::clone(&counts)).await?,
    };
    say("\"ready\"").await?;
    while let Some(line) = lines.next_line().await? {
        match line.as_str() {
            "mark" => {
                let mark = counts.mark().await;
                say(&serde_json::to_string(&mark).unwrap_or_default()).await?;
            }
            "stop" => {
                counts.is_stopping.store(true, Relaxed);
                counts.initiators.close();
                counts.initiators.wait().await;
                say("\"stopped\"").await?;
            }
            _ => {}
        }
    }
    Ok(())
}

async fn say(line: &str) -> Result<(), Failure> {
    let mut stdout = tokio::io::stdout();
    stdout.write_all(format!("{line}\n").as_bytes()).await?;
    stdout.flush().await?;
    Ok(())
}

fn cannot(what: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    let mut why = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        why.push_str(&format!(": {error}"));
        cause = error.source();
    }
    Failure::new(Exit::Failed, format!("{what}: {why}"), "")
}

// ---- participants --------------------------------------------------------------------------------------------------

/// Votes yes, executes, and does nothing.
#[derive(Clone, Copy)]
struct Null;

impl Participant for Null {
    async fn prepare(&self, _branch: &Branch) -> Result<Vote, BoxError> {
        Ok(Vote::Yes)
    }
    async fn commit(&self, _branch: &Branch) -> Result<(), BoxError> {
        Ok(())
    }
    async fn abort(&self, _branch: &Branch) -> Result<(), BoxError> {
        Ok(())
    }
}

impl SagaParticipant for Null {
    async fn execute(&self, _step: &Step) -> Result<Executed, BoxError> {
        Ok(Executed::done())
    }
    async fn compensate(&self, _step: &Step) -> Result<assent_sdk::Compensated, BoxError> {
        Ok(assent_sdk::Compensated::Done)
    }
}

/// Writes one row.
struct OneRow {
    insert: &'static str,
}

impl PostgresWork for OneRow {
    async fn perform(&self, branch: &Branch, connection: &mut PgConnection) -> Result<Vote, BoxError> {
        sqlx::query(self.insert)
            .bind(branch.gtid().as_uuid())
            .bind(branch.participant().as_str())
            .execute(connection)
            .await?;
        Ok(Vote::Yes)
    }
}

/// The one row of a branch.
pub(super) const INSERT: &str = "insert into assent_bench.entry (gtid, participant) values ($1, $2)";

async fn join(plan: &Plan) -> Result<Vec<Assent>, Failure> {
    let mut joined = Vec::new();
    let dialer = plan.credentials.target(&plan.endpoint).dialer;
    for number in 0..plan.participants {
        let name = participant(number);
        let dialled = Assent::dial(&plan.endpoint).dialer(dialer.clone()).saga_participant(&name, Null);
        let dialled = match &plan.database {
            None => dialled.participant(&name, Null),
            Some(database) => {
                let name_checked = name.parse().map_err(|error| cannot("a participant's name", &error))?;
                let options = database.parse().map_err(|error: sqlx::Error| cannot("the database's URL", &error))?;
                let resource = PostgresResource::new(name_checked, options, OneRow { insert: INSERT });
                dialled.participant(&name, resource.with_connections(connections(plan.participants)))
            }
        };
        let cannot_join = |error| cannot("a participant cannot join", &error);
        joined.push(match &plan.voters {
            None => dialled.connect().await.map_err(cannot_join)?,
            Some(directory) => {
                let peers = TcpListener::bind("127.0.0.1:0").await?;
                let address = format!("http://{}", peers.local_addr()?);
                let voters = FileVoters::open(directory.join(&name)).await;
                let voters = voters.map_err(|error| cannot("a participant's voter", &error))?;
                let assent = dialled.voter(voters, address).connect().await.map_err(cannot_join)?;
                let serving = assent.serve_peers(peers).map_err(|error| cannot("a participant's voter", &error))?;
                tokio::spawn(serving);
                assent
            }
        });
    }
    Ok(joined)
}

// ---- load ----------------------------------------------------------------------------------------------------------

/// What the load has seen since the last mark.
struct Counts {
    committed: AtomicU64,
    aborted: AtomicU64,
    in_doubt: AtomicU64,
    errors: AtomicU64,
    last_error: Mutex<Option<String>>,
    latency_us: Mutex<(Histogram<u64>, Instant)>,
    is_stopping: AtomicBool,
    initiators: TaskTracker,
}

impl Counts {
    fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, 120_000_000, 3);
        let Ok(histogram) = histogram else { unreachable!("the bounds are constants, and legal") };
        Self {
            committed: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            in_doubt: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            last_error: Mutex::new(None),
            latency_us: Mutex::new((histogram, Instant::now())),
            is_stopping: AtomicBool::new(false),
            initiators: TaskTracker::new(),
        }
    }

    async fn took(&self, elapsed: Duration) {
        let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.latency_us.lock().await.0.saturating_record(elapsed_us);
    }

    async fn mark(&self) -> Mark {
        let mut latency = self.latency_us.lock().await;
        let (histogram, since) = &mut *latency;
        let mark = Mark {
            cpu_us: process::cpu_time().and_then(|time| u64::try_from(time.as_micros()).ok()),
            elapsed_us: u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX),
            committed: self.committed.swap(0, Relaxed),
            aborted: self.aborted.swap(0, Relaxed),
            in_doubt: self.in_doubt.swap(0, Relaxed),
            errors: self.errors.swap(0, Relaxed),
            last_error: self.last_error.lock().await.take(),
            latency_us: Latency {
                p50: histogram.value_at_quantile(0.50),
                p95: histogram.value_at_quantile(0.95),
                p99: histogram.value_at_quantile(0.99),
                max: histogram.max(),
            },
        };
        histogram.reset();
        *since = Instant::now();
        mark
    }
}

async fn load(plan: Plan, counts: Arc<Counts>) -> Result<Vec<Assent>, Failure> {
    let assent = Assent::dial(&plan.endpoint)
        .dialer(plan.credentials.target(&plan.endpoint).dialer)
        .connect()
        .await
        .map_err(|error| cannot("the load cannot join", &error))?;
    let payload: Bytes = (0..plan.payload_bytes).map(|at| (at % 251) as u8).collect();
    let plan = Arc::new(plan);
    for _ in 0..plan.concurrency {
        let (assent, plan, counts, payload) = (assent.clone(), Arc::clone(&plan), Arc::clone(&counts), payload.clone());
        let initiators = counts.initiators.clone();
        initiators.spawn(async move {
            while !counts.is_stopping.load(Relaxed) {
                let started = Instant::now();
                let ended = match plan.protocol {
                    Protocol::TwoPhase => commit(&assent, assent_sdk::Protocol::TwoPhase, &plan, &payload).await,
                    Protocol::ThreePhase => commit(&assent, assent_sdk::Protocol::ThreePhase, &plan, &payload).await,
                    Protocol::Saga => saga(&assent, &plan, &payload).await,
                };
                match ended {
                    Ok(counter) => {
                        counter(&counts).fetch_add(1, Relaxed);
                        counts.took(started.elapsed()).await;
                    }
                    Err(error) => {
                        counts.errors.fetch_add(1, Relaxed);
                        *counts.last_error.lock().await = Some(error.to_string());
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        });
    }
    Ok(vec![assent])
}

/// Which counter an outcome goes to.
type Counter = fn(&Counts) -> &AtomicU64;

async fn commit(
    assent: &Assent,
    protocol: assent_sdk::Protocol,
    plan: &Plan,
    payload: &Bytes,
) -> Result<Counter, assent_sdk::Error> {
    let mut transaction = assent.transaction().protocol(protocol);
    for number in 0..plan.participants {
        transaction = transaction.branch(participant(number), payload.clone());
    }
    Ok(match transaction.commit().await? {
        Outcome::Committed => |counts| &counts.committed,
        Outcome::Aborted(_) => |counts| &counts.aborted,
        Outcome::InDoubt { .. } => |counts| &counts.in_doubt,
    })
}

async fn saga(assent: &Assent, plan: &Plan, payload: &Bytes) -> Result<Counter, assent_sdk::Error> {
    let mut saga = SagaBuilder::new();
    let mut before = None;
    for step in 0..plan.steps {
        let name = format!("step-{step}");
        let at = participant(step % plan.participants);
        let draft = saga.step(&name, &at).input(payload.clone());
        before = Some(match &before {
            None => draft.add(),
            Some(before) => draft.after(before).add(),
        });
    }
    Ok(match assent.run_saga(saga, PATIENCE).await? {
        assent_sdk::saga::SagaOutcome::Completed(_) => |counts| &counts.committed,
        assent_sdk::saga::SagaOutcome::Compensated(_) => |counts| &counts.aborted,
        assent_sdk::saga::SagaOutcome::InDoubt { .. } => |counts| &counts.in_doubt,
    })
}
