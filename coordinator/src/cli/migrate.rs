//! `assent migrate`: makes the database of a log ready for this version.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use super::{Exit, Failure, Format, Output};
use crate::config::{Config, Flag, Sources, Telemetry};
use crate::log::{self, Migration, MigrationReport, OpenError};
use crate::server::{Patience, Silence};
use crate::telemetry;

/// Make the database of a log ready for this version. Running it again, or twice at once, does no harm.
#[derive(Debug, Args)]
pub struct Migrate {
    /// A configuration file (TOML) that names the log [env: ASSENT_CONFIG].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The log: postgres://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:PATH [env: ASSENT_LOG].
    #[arg(long, value_name = "URL")]
    log: Option<String>,
    /// How long to wait for a database that does not answer.
    #[arg(long, value_name = "DURATION")]
    wait_for_log: Option<String>,
    /// Make this role of the database one that can serve the log and do nothing else with it; it is created if need be.
    /// The log's URL names the role that owns the schema.
    #[arg(long, value_name = "NAME")]
    server_role: Option<String>,
    /// Change nothing; exit code 1 if there is something to do.
    #[arg(long)]
    check: bool,
}

/// The answer, as JSON shows it.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    log: &'a str,
    found: i64,
    needed: i64,
    migrations: Vec<Step>,
    applied: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_role: Option<&'a ServerRole>,
}

/// The role that serves.
#[derive(Debug, Serialize)]
struct ServerRole {
    name: String,
    /// Whether this run has created it: it has no password then.
    created: bool,
    /// What it lacks; nothing, unless this only checks.
    lacking: Vec<String>,
}

/// One migration.
#[derive(Debug, Serialize)]
struct Step {
    version: i64,
    name: &'static str,
}

impl Migrate {
    /// Migrates, or tells what there would be to do.
    pub(super) async fn run(self, output: &mut Output) -> Result<(), Failure> {
        let (is_check, server_role) = (self.check, self.server_role.clone());
        let config = Config::load(&self.sources(Sources::of_this_process()))?;
        // Of all that could be said, only that a database is waited for.
        let told = Telemetry { log_filter: "warn".to_owned(), otlp_endpoint: None, ..config.telemetry.clone() };
        telemetry::init(&told, config.replica.as_str())?;
        let url = config.log.expose();
        let report =
            with_patience(
                config.wait_for_log,
                async || {
                    if is_check { log::check(url).await } else { log::migrate(url).await }
                },
            )
            .await?;
        let role = match &server_role {
            Some(role) => Some(ServerRole::of(url, role, is_check).await?),
            None => None,
        };
        show(&report, role.as_ref(), is_check, output)?;
        if is_check && !report.migrations.is_empty() {
            let what = format!("{} is not ready for this version", report.log);
            return Err(Failure::new(Exit::Failed, what, "run `assent migrate` with the same log"));
        }
        match role {
            Some(role) if !role.lacking.is_empty() => {
                let what = format!("role {} cannot serve {}", role.name, report.log);
                Err(Failure::new(Exit::Failed, what, "run `assent migrate` with the same log and role"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn sources(self, base: Sources) -> Sources {
        let variable = base.environment.iter().find(|(name, value)| name == "ASSENT_CONFIG" && !value.is_empty());
        let file = self.config.or_else(|| variable.map(|(_, value)| PathBuf::from(value)));
        let own = [("--log", "log", self.log), ("--wait-for-log", "wait_for_log", self.wait_for_log)];
        let flags = own
            .into_iter()
            .filter_map(|(name, key, text)| Some(Flag { name: name.to_owned(), key: key.to_owned(), text: text? }));
        Sources { file, flags: flags.collect(), ..base }
    }
}

impl ServerRole {
    async fn of(url: &str, role: &str, is_check: bool) -> Result<Self, OpenError> {
        if is_check {
            let lacking = log::lacking(url, role).await?;
            return Ok(Self { name: role.to_owned(), created: false, lacking: lacking.0 });
        }
        let granted = log::grant(url, role).await?;
        Ok(Self { name: granted.role, created: granted.is_new, lacking: Vec::new() })
    }
}

/// Tries again while the database does not answer.
async fn with_patience(
    wait: Duration,
    mut attempt: impl AsyncFnMut() -> Result<MigrationReport, OpenError>,
) -> Result<MigrationReport, Failure> {
    let mut patience = Patience::until(Instant::now() + wait, wait);
    loop {
        match attempt().await {
            Ok(report) => return Ok(report),
            Err(error @ OpenError::Unreachable { .. }) => patience.wait(Silence::Open(error)).await?,
            Err(error) => return Err(error.into()),
        }
    }
}

fn show(
    report: &MigrationReport,
    server_role: Option<&ServerRole>,
    is_check: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    let MigrationReport { log, found, needed, migrations } = report;
    if output.format() != Format::Table {
        let step = |migration: &Migration| Step { version: migration.version, name: migration.name };
        let migrations = migrations.iter().map(step).collect();
        let answer = Answer { log, found: *found, needed: *needed, migrations, applied: !is_check, server_role };
        return Ok(output.value(&answer)?);
    }
    if migrations.is_empty() {
        output.line(&format!("{log} has version {found}: nothing to do"))?;
    } else {
        let tense = if is_check { "would go" } else { "went" };
        output.line(&format!("{log} {tense} from version {found} to {needed}"))?;
        for migration in migrations {
            output.line(&format!("  {:>4}  {}", migration.version, migration.name))?;
        }
    }
    match server_role {
        Some(ServerRole { name, lacking, .. }) if !lacking.is_empty() => {
            output.line(&format!("role {name} lacks {}", lacking.join(", ")))?;
        }
        Some(ServerRole { name, created: true, .. }) => {
            output.line(&format!(
                "role {name} was created, and can serve; give it a password: \\password {name} in psql"
            ))?;
        }
        Some(ServerRole { name, .. }) => output.line(&format!("role {name} can serve, and nothing else"))?,
        None => {}
    }
    Ok(())
}
