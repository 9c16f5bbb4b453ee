//! `assent bench`: how fast, and at what cost, with every process on its own account.
//!
//! | file | subject |
//! |---|---|
//! | `mod.rs` | the arguments, and the run |
//! | `plan.rs` | what the processes tell one another |
//! | `own_log.rs` | where its log is: nowhere that somebody uses |
//! | `child.rs` | child processes, from the parent's side |
//! | `worker.rs` | the children: participants and load |
//! | `postgres.rs` | the Postgres under it, and what it does without a coordinator |
//! | `tls.rs` | certificates for one run |
//! | `report.rs` | the figures |

mod child;
mod own_log;
mod plan;
mod postgres;
mod report;
mod tls;
mod worker;

use std::io::IsTerminal;
use std::time::Duration;

use assent_proto::v1::{GetStatisticsRequest, GetStatisticsResponse};
use clap::{Args, ValueEnum};

use super::{Exit, Failure, Global, Output, Target};
use crate::log::{self, Durability};
use child::Child;
use own_log::OwnLog;
use plan::{Mark, Plan, Protocol, Role};
use postgres::Baseline;
use report::{Place, Report, Storage};
use tls::RunTls;

/// Measure a coordinator, with participants and load in processes of their own.
#[derive(Debug, Args)]
pub struct Bench {
    /// The protocol.
    #[arg(long, value_enum, default_value = "2pc")]
    protocol: Protocol,
    /// Participants; each transaction has a branch at every one.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=100))]
    participants: u16,
    /// Steps of a saga, one after the other.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    steps: u16,
    /// Transactions under way at once.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    concurrency: u32,
    /// Seconds to measure, after the warm-up.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    duration: u64,
    /// What participants do: nothing, or a row each, prepared and committed in the log's Postgres.
    #[arg(long, value_enum, default_value = "null")]
    resource: Resource,
    /// Bytes of payload for each branch or step.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(..=3 * 1024 * 1024))]
    payload_bytes: u32,
    /// Where the log is that this is measured with: postgres://USER:PASSWORD@HOST:PORT/DATABASE, in a database of its own on that server,
    /// which is dropped at the end; or sqlite:PATH, a file that does not exist yet. A temporary SQLite file if not given.
    #[arg(long, value_name = "URL")]
    log: Option<String>,
    /// Encrypt every connection to the coordinator, and let certificates say who is there: an authority is made for this run.
    #[arg(long)]
    tls: bool,
    /// Measure also what the same Postgres does without a coordinator.
    #[arg(long)]
    baseline: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Resource {
    Null,
    Postgres,
}

/// What runs before it counts.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long the last transactions may take to end.
const END_MAX: Duration = Duration::from_secs(10);
/// How long each baseline is measured: before the transactions, and after them.
const BASELINE: Duration = Duration::from_secs(4);

/// The body of a child process.
pub(super) async fn worker() -> Result<(), Failure> {
    worker::run().await
}

/// Everything at one moment.
struct Moment {
    coordinator: GetStatisticsResponse,
    participants: Mark,
    load: Mark,
    postgres_cpu_us: Option<u64>,
}

impl Bench {
    /// Measures, and prints.
    pub(super) async fn run(self, global: &Global, output: &mut Output) -> Result<(), Failure> {
        let is_postgres = self.log.as_deref().is_some_and(|log| log.starts_with("postgres"));
        if !is_postgres && (self.baseline || self.resource == Resource::Postgres) {
            let next = "give the Postgres with --log postgres://USER:PASSWORD@HOST:PORT/DATABASE";
            return Err(Failure::new(Exit::Usage, "--baseline and --resource postgres need a Postgres", next));
        }
        if let Some(url) = &self.log {
            log::check_url(url)?;
        }
        if self.tls && global.endpoint.is_some() {
            let next = "leave --tls out, and give --ca, --cert and --key for the coordinator at --endpoint";
            return Err(Failure::new(Exit::Usage, "--tls is for a coordinator that is started for the run", next));
        }
        let directory = tempfile::tempdir()?;
        let tls = self.tls.then(|| RunTls::make(directory.path(), usize::from(self.participants))).transpose()?;
        let global = &tls.as_ref().map_or_else(|| global.clone(), |tls| tls.of_clients(global));
        // Of a coordinator that is there, `--log` names the Postgres whose server the participants use, or says whose durability to tell.
        let named = self.log.as_deref().filter(|_| is_postgres || global.endpoint.is_none());
        let own_log = OwnLog::make(named, global.endpoint.is_some(), directory.path()).await?;
        let postgres = is_postgres.then(|| own_log.url());
        if let Some(url) = postgres {
            postgres::set_up(url).await?;
        }
        let baseline_before = self.baselines(postgres).await?;
        let (target, coordinator) = self.coordinator(global, own_log.url(), tls.as_ref()).await?;
        let voters = (self.protocol == Protocol::ThreePhase).then(|| directory.path().to_owned());
        let plan = |role| Plan {
            role,
            endpoint: target.endpoint.clone(),
            credentials: plan::Credentials::of(global),
            protocol: self.protocol,
            participants: usize::from(self.participants),
            steps: usize::from(self.steps),
            concurrency: self.concurrency as usize,
            payload_bytes: self.payload_bytes as usize,
            voters: voters.clone(),
            database: (self.resource == Resource::Postgres).then(|| postgres.unwrap_or_default().to_owned()),
        };
        let mut participants = Child::worker("participants", &plan(Role::Participants)).await?;
        let mut load = Child::worker("load", &plan(Role::Load)).await?;
        progress("warming up", WARM_UP).await;
        let before = moment(&target, &mut participants, &mut load, postgres).await?;
        progress("measuring", Duration::from_secs(self.duration)).await;
        let after = moment(&target, &mut participants, &mut load, postgres).await?;
        load.stop().await?;
        all_ended(&target).await?;
        drop(load);
        drop(participants);
        // A machine's speed drifts within a run: what is compared is measured on both sides.
        let baseline_after = self.baselines(postgres).await?;
        let baseline = baseline_before.zip(baseline_after).map(|(before, after)| before.mean(&after));
        let storage = Storage { log: self.durability(global, own_log.url()).await?, voters: voters.map(Place::of) };
        if let Some(coordinator) = coordinator {
            coordinator.end().await;
        }
        own_log.remove().await?;
        let report = Report::of(&self, &before, &after, baseline, storage);
        report.print(output)?;
        let Mark { committed, aborted, last_error, .. } = &after.load;
        if committed + aborted == 0 {
            let what = last_error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
            let next = "nothing was measured; remove the cause, or measure for longer with --duration";
            return Err(Failure::new(Exit::Failed, format!("no transaction came to its end{what}"), next));
        }
        if let Some(error) = last_error {
            eprintln!("the last error: {error}");
        }
        Ok(())
    }

    async fn baselines(&self, postgres: Option<&str>) -> Result<Option<Baseline>, Failure> {
        let Some(url) = postgres.filter(|_| self.baseline) else { return Ok(None) };
        status("measuring the same Postgres without a coordinator");
        let (inserts_per_s, insert_p50_ms) = postgres::inserts(url, BASELINE).await?;
        let prepared_tx_per_s = match self.resource {
            Resource::Null => None,
            Resource::Postgres => {
                let participants = usize::from(self.participants);
                Some(postgres::prepared(url, participants, self.concurrency as usize, BASELINE).await?)
            }
        };
        Ok(Some(Baseline { inserts_per_s, insert_p50_ms, ratio: 0.0, prepared_tx_per_s, prepared_ratio: None }))
    }

    /// On which settings the log's word rests; unknown for a coordinator that was there before, unless its log was named.
    async fn durability(&self, global: &Global, own_log: &str) -> Result<Option<Durability>, Failure> {
        match &self.log {
            _ if global.endpoint.is_none() => Ok(Some(log::durability(own_log).await?)),
            Some(log) => Ok(Some(log::durability(log).await?)),
            None => Ok(None),
        }
    }

    /// The coordinator that is asked for, or one that is started for this run.
    async fn coordinator(
        &self,
        global: &Global,
        log: &str,
        tls: Option<&RunTls>,
    ) -> Result<(Target, Option<Child>), Failure> {
        if global.endpoint.is_some() {
            return Ok((Target::of(global), None));
        }
        if log.starts_with("postgres") {
            log::migrate(log).await?;
        }
        let arguments =
            ["serve", "--listen", "127.0.0.1:0", "--replica", "bench", "--log", log, "--log-filter", "warn"];
        let mut arguments = arguments.map(str::to_owned).to_vec();
        arguments.extend(tls.map(RunTls::of_server).unwrap_or_default());
        let mut child = Child::start("coordinator", &arguments)?;
        let line = child.hear().await?;
        let endpoint = line
            .split_whitespace()
            .find(|word| word.starts_with("http"))
            .ok_or_else(|| Failure::new(Exit::Failed, format!("the coordinator said {line:?}"), ""))?;
        let started = Global { endpoint: Some(endpoint.to_owned()), ..global.clone() };
        Ok((Target::of(&started), Some(child)))
    }
}

async fn moment(
    target: &Target,
    participants: &mut Child,
    load: &mut Child,
    postgres: Option<&str>,
) -> Result<Moment, Failure> {
    let mut admin = target.admin().await?;
    let coordinator = admin.get_statistics(GetStatisticsRequest {}).await?.into_inner();
    let (participants, load) = (participants.mark().await?, load.mark().await?);
    let postgres_cpu_us = match postgres {
        Some(url) => postgres::cpu_us(url).await,
        None => None,
    };
    Ok(Moment { coordinator, participants, load, postgres_cpu_us })
}

/// Waits until no branch is left prepared: one that is killed so would hold its locks until the next run.
async fn all_ended(target: &Target) -> Result<(), Failure> {
    let mut admin = target.admin().await?;
    let until = tokio::time::Instant::now() + END_MAX;
    while tokio::time::Instant::now() < until {
        let statistics = admin.get_statistics(GetStatisticsRequest {}).await?.into_inner().statistics;
        if statistics.is_none_or(|statistics| statistics.open == 0) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn status(what: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("{what} ...");
    }
}

/// Waits, and shows that it does.
async fn progress(what: &str, duration: Duration) {
    if !std::io::stderr().is_terminal() {
        return tokio::time::sleep(duration).await;
    }
    for second in 0..duration.as_secs() {
        eprint!("\r{what} {}/{} s ", second, duration.as_secs());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    eprint!("\r\x1b[K");
}
