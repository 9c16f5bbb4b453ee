//! `assent verify-log`: the invariants over a real log. It reads, and never writes.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Exit, Failure, Format, Output};
use crate::config::{Config, Flag, Sources};
use crate::log::verify::{Counts, Invariant, Verified, VerifyError, Violation, verify};

const AFTER_HELP: &str = "\
It needs no server and disturbs none: beside a running one it reads every page at one moment, and marks what a replica may be
changing meanwhile.

Exit codes: 0 nothing is wrong, 1 something is, 2 usage, 7 the log could not be read to its end.";

/// Check the invariants over a whole log, by reading it.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct VerifyLog {
    /// A configuration file (TOML) that names the log [env: ASSENT_CONFIG].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The log: postgres://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:PATH [env: ASSENT_LOG].
    #[arg(long, value_name = "URL")]
    log: Option<String>,
}

/// The answer, as JSON shows it; as JSON lines, behind the violations.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    log: &'a str,
    schema: i64,
    #[serde(flatten)]
    counts: Counts,
    violated: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    violations: Option<Vec<Told<'a>>>,
}

/// A violation, and what to do.
#[derive(Debug, Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    violation: &'a Violation,
    remedy: &'static str,
}

impl<'a> From<&'a Violation> for Told<'a> {
    fn from(violation: &'a Violation) -> Self {
        Self { violation, remedy: violation.invariant.remedy() }
    }
}

impl VerifyLog {
    /// Checks, and shows what was found.
    pub(super) async fn run(self, output: &mut Output) -> Result<(), Failure> {
        let config = Config::load(&self.sources(Sources::of_this_process()))?;
        let mut progress = Progress::default();
        let verified = verify(config.log.expose(), |counts| progress.tell(counts)).await;
        progress.end();
        let verified = verified.map_err(unread)?;
        show(&verified, output)?;
        let violations: u64 = verified.violated.values().sum();
        if violations == 0 {
            return Ok(());
        }
        let (what, next) = match verified.violated.keys().next() {
            Some(Invariant::SchemaVersion) => {
                (format!("{} was not read", verified.log), Invariant::SchemaVersion.remedy())
            }
            Some(_) | None => (
                format!("{} holds {violations} violations", verified.log),
                "each one names what to do; keep a copy of the log before you change it",
            ),
        };
        Err(Failure::new(Exit::Failed, what, next))
    }

    fn sources(self, base: Sources) -> Sources {
        let variable = base.environment.iter().find(|(name, value)| name == "ASSENT_CONFIG" && !value.is_empty());
        let file = self.config.or_else(|| variable.map(|(_, value)| PathBuf::from(value)));
        let log = self.log.map(|text| Flag { name: "--log".to_owned(), key: "log".to_owned(), text });
        Sources { file, flags: log.into_iter().collect(), ..base }
    }
}

/// A log that could not be read is not one that is wrong: scripts tell the two by the exit code.
fn unread(error: VerifyError) -> Failure {
    let failure = match error {
        VerifyError::Open(error) => Failure::from(error),
        VerifyError::Read(error) => Failure::of_error(Exit::Unreachable, &error),
    };
    let exit = if failure.exit == Exit::Usage { Exit::Usage } else { Exit::Unreachable };
    Failure { exit, ..failure }
}

fn show(verified: &Verified, output: &mut Output) -> Result<(), Failure> {
    let Verified { log, schema, counts, violations, violated } = verified;
    let told = violations.iter().map(Told::from);
    let by_name = violated.iter().map(|(invariant, times)| (invariant.as_str(), *times)).collect();
    let mut answer = Answer { log, schema: *schema, counts: *counts, violated: by_name, violations: None };
    match output.format() {
        Format::Json => {
            answer.violations = Some(told.collect());
            return Ok(output.value(&answer)?);
        }
        Format::Jsonl => {
            for violation in told {
                output.item(&violation)?;
            }
            return Ok(output.value(&answer)?);
        }
        Format::Table => {}
    }
    let facts = [
        ("log", log.clone()),
        ("schema", format!("version {schema}")),
        ("open", format!("{} transactions, {} of them may be in motion", counts.open, counts.in_motion)),
        ("steps", format!("{} answers", counts.steps)),
        ("ended", format!("{} transactions", counts.ended)),
        ("violations", violated.values().sum::<u64>().to_string()),
    ];
    for (name, fact) in facts {
        output.line(&format!("{name:<10} {fact}"))?;
    }
    for (invariant, times) in violated {
        output.line("")?;
        output.line(&format!("{invariant}, {times} times"))?;
        output.line(&format!(" next: {}", invariant.remedy()))?;
        for violation in violations.iter().filter(|violation| violation.invariant == *invariant) {
            let gtid = violation.gtid.as_deref().unwrap_or("the log");
            let motion = if violation.in_motion { " (may be in motion)" } else { "" };
            output.line(&format!("  {gtid:<36}  {}{motion}", violation.what))?;
        }
    }
    if violated.values().sum::<u64>() > violations.len() as u64 {
        output.line(&format!("\nonly the first {} are shown", violations.len()))?;
    }
    Ok(())
}

/// How far it is, on stderr: for a person all the time, for a log file now and then.
#[derive(Debug, Default)]
struct Progress {
    told: u64,
}

/// Shorter logs are read before anybody wonders.
const TOLD_FROM: u64 = 10_000;
/// Where nobody looks on, a line for so many rows.
const TOLD_EVERY: u64 = 1_000_000;

impl Progress {
    fn tell(&mut self, counts: &Counts) {
        let read = counts.open + counts.ended;
        let text = format!("{} open and {} ended transactions read", counts.open, counts.ended);
        // A stderr that is closed hears nothing, and nothing else is to be done.
        if io::stderr().is_terminal() {
            if read >= TOLD_FROM {
                self.told = read;
                write!(io::stderr(), "\r{text} ").ok();
            }
        } else if read / TOLD_EVERY > self.told / TOLD_EVERY {
            self.told = read;
            writeln!(io::stderr(), "{text}").ok();
        }
    }

    fn end(&self) {
        if self.told > 0 && io::stderr().is_terminal() {
            writeln!(io::stderr()).ok();
        }
    }
}
