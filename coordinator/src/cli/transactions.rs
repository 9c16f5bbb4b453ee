//! `assent tx`: transactions and sagas, as operators see them.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::time::{Duration, SystemTime};

use assent_proto::v1::{self, GetTransactionRequest, ListTransactionsRequest};
use assent_protocol::Gtid;
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use serde::Serialize;

use super::client::AdminClient;
use super::{Failure, Format, Global, Output, Target};

/// Look at transactions and sagas.
#[derive(Debug, Subcommand)]
pub enum Transactions {
    /// List them: open ones first, each from the newest.
    List(List),
    /// Show one with its branches and what it waits for.
    Show(Show),
}

/// Filters are joined by and.
#[derive(Debug, Args)]
pub struct List {
    /// Only those in this state.
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Only those with a branch or step at this participant.
    #[arg(long, value_name = "NAME")]
    participant: Option<String>,
    /// Only those under this protocol.
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// Only those that began at least this long ago, such as 5m or 2h.
    #[arg(long, value_name = "DURATION", value_parser = crate::config::duration)]
    older_than: Option<Duration>,
    /// How many at most.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// All of them.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

/// Which.
#[derive(Debug, Args)]
pub struct Show {
    /// The transaction's id.
    gtid: Gtid,
}

/// The states by their words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the words of v1::TransactionState, where each is explained")]
pub enum State {
    Active,
    Preparing,
    Committing,
    Committed,
    Aborting,
    Aborted,
    Running,
    Compensating,
    Completed,
    Compensated,
    Paused,
}

/// The protocols by their words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// Two-phase commit.
    #[value(name = "2pc")]
    TwoPhase,
    /// Three-phase commit.
    #[value(name = "3pc")]
    ThreePhase,
    /// Sagas.
    Saga,
}

impl From<State> for v1::TransactionState {
    fn from(state: State) -> Self {
        match state {
            State::Active => Self::Active,
            State::Preparing => Self::Preparing,
            State::Committing => Self::Committing,
            State::Committed => Self::Committed,
            State::Aborting => Self::Aborting,
            State::Aborted => Self::Aborted,
            State::Running => Self::Running,
            State::Compensating => Self::Compensating,
            State::Completed => Self::Completed,
            State::Compensated => Self::Compensated,
            State::Paused => Self::Paused,
        }
    }
}

impl From<Protocol> for v1::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::TwoPhase => Self::TwoPhase,
            Protocol::ThreePhase => Self::ThreePhase,
            Protocol::Saga => Self::Saga,
        }
    }
}

/// The most that a coordinator gives at once.
const PAGE_MAX: u64 = 1_000;

impl Transactions {
    /// Asks the coordinator, and shows the answer.
    pub(super) async fn run(self, global: &Global, output: &mut Output) -> Result<(), Failure> {
        let mut admin = Target::of(global).admin().await?;
        match self {
            Self::List(list) => list.run(&mut admin, output).await,
            Self::Show(Show { gtid }) => {
                let request = GetTransactionRequest { gtid: gtid.to_string() };
                let transaction = admin.get_transaction(request).await?.into_inner().transaction.unwrap_or_default();
                show(&transaction, output)
            }
        }
    }
}

impl List {
    async fn run(self, admin: &mut AdminClient, output: &mut Output) -> Result<(), Failure> {
        let mut left = if self.all { u64::MAX } else { self.limit };
        let mut listed = 0_u64;
        let mut page_token = String::new();
        let mut has_heading = false;
        while left > 0 {
            let request = ListTransactionsRequest {
                state: self.state.map_or(0, |state| v1::TransactionState::from(state).into()),
                participant: self.participant.clone().unwrap_or_default(),
                protocol: self.protocol.map_or(0, |protocol| v1::Protocol::from(protocol).into()),
                older_than: self.older_than.map(|age| prost_types::Duration {
                    seconds: i64::try_from(age.as_secs()).unwrap_or(i64::MAX),
                    nanos: i32::try_from(age.subsec_nanos()).unwrap_or(0),
                }),
                page_size: u32::try_from(left.min(PAGE_MAX)).unwrap_or(u32::MAX),
                page_token,
            };
            let page = admin.list_transactions(request).await?.into_inner();
            // Only now: a request that is refused has nothing to show.
            if output.format() == Format::Table && !std::mem::replace(&mut has_heading, true) {
                output.line(&row("GTID", "STATE", "HOW", "AGE", "PARTICIPANTS"))?;
            }
            for transaction in page.transactions {
                let transaction = Shown::from(transaction);
                match output.format() {
                    Format::Table => output.line(&transaction.row())?,
                    Format::Json | Format::Jsonl => output.item(&transaction)?,
                }
                listed += 1;
                left -= 1;
            }
            progress(listed);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        output.end_list()?;
        if output.format() == Format::Table && !page_token.is_empty() {
            hint(&format!("there are more; --limit {} or --all shows them", listed * 2));
        }
        Ok(())
    }
}

/// How far a long listing is, where a person waits and sees nothing else.
fn progress(listed: u64) {
    let is_seen = std::io::stderr().is_terminal() && !std::io::stdout().is_terminal();
    if is_seen && listed >= PAGE_MAX {
        write!(std::io::stderr(), "\r{listed} transactions ").ok();
    }
}

/// A remark for a person, beside the output.
fn hint(text: &str) {
    if std::io::stderr().is_terminal() {
        writeln!(std::io::stderr(), "{text}").ok();
    }
}

fn row(gtid: &str, state: &str, protocol: &str, age: &str, participants: &str) -> String {
    format!("{gtid:<36}  {state:<12}  {protocol:<4}  {age:>8}  {participants}")
}

// ---- one transaction -------------------------------------------------------------------------------------------------

/// A transaction as JSON shows it.
#[derive(Debug, Serialize)]
struct Shown {
    gtid: String,
    protocol: &'static str,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<ShownReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    begun_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    replica: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    waiting_for: String,
    branches: Vec<ShownBranch>,
    #[serde(skip)]
    age: Option<Duration>,
}

/// Why it aborted or compensated.
#[derive(Debug, Serialize)]
struct ShownReason {
    code: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    participant: String,
    message: String,
}

/// One branch or step.
#[derive(Debug, Serialize)]
struct ShownBranch {
    participant: String,
    /// As it stands in the name of the prepared resource.
    #[serde(skip_serializing_if = "String::is_empty")]
    branch_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    step: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    state: String,
    #[serde(skip_serializing_if = "is_zero")]
    attempts: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    last_error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error_at: Option<String>,
    /// Since when no instance of the participant is connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    absent_since: Option<String>,
    /// As text where it is one, else as hexadecimal digits behind `0x`.
    #[serde(skip_serializing_if = "String::is_empty")]
    output: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl From<v1::Transaction> for Shown {
    fn from(transaction: v1::Transaction) -> Self {
        let state = v1::TransactionState::try_from(transaction.state).unwrap_or_default();
        let state = state.as_str_name().trim_start_matches("TRANSACTION_STATE_").to_ascii_lowercase();
        let protocol = match v1::Protocol::try_from(transaction.protocol) {
            Ok(v1::Protocol::TwoPhase) => "2pc",
            Ok(v1::Protocol::ThreePhase) => "3pc",
            Ok(v1::Protocol::Saga) => "saga",
            Ok(v1::Protocol::Unspecified) | Err(_) => "?",
        };
        Self {
            age: time(transaction.begun_at).and_then(|at| SystemTime::now().duration_since(at).ok()),
            gtid: transaction.gtid,
            protocol,
            state,
            reason: transaction.reason.map(|reason| ShownReason {
                code: reason.code,
                participant: reason.participant,
                message: reason.message,
            }),
            begun_at: text(transaction.begun_at),
            decided_at: text(transaction.decided_at),
            ended_at: text(transaction.ended_at),
            deadline: text(transaction.deadline),
            replica: transaction.replica,
            waiting_for: transaction.waiting_for,
            branches: transaction.branches.into_iter().map(ShownBranch::from).collect(),
        }
    }
}

fn time(at: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    SystemTime::try_from(at?).ok()
}

fn text(at: Option<prost_types::Timestamp>) -> Option<String> {
    time(at).map(|at| humantime::format_rfc3339_millis(at).to_string())
}

impl From<v1::Branch> for ShownBranch {
    fn from(branch: v1::Branch) -> Self {
        let output = match std::str::from_utf8(&branch.output) {
            Ok(text) => text.to_owned(),
            Err(_) => branch.output.iter().fold("0x".to_owned(), |hex, byte| format!("{hex}{byte:02x}")),
        };
        Self {
            participant: branch.participant,
            branch_id: branch.branch_id,
            step: branch.step,
            state: branch.state,
            attempts: branch.attempts,
            last_error: branch.last_error,
            last_error_at: text(branch.last_error_at),
            absent_since: text(branch.absent_since),
            output,
        }
    }
}

impl Shown {
    fn row(&self) -> String {
        let mut participants: Vec<&str> = self.branches.iter().map(|branch| branch.participant.as_str()).collect();
        participants.dedup();
        let age = self.age.map(rounded).unwrap_or_default();
        row(&self.gtid, &self.state, self.protocol, &age, &participants.join(","))
    }
}

/// Shows one transaction.
fn show(transaction: &v1::Transaction, output: &mut Output) -> Result<(), Failure> {
    let shown = Shown::from(transaction.clone());
    if output.format() != Format::Table {
        return Ok(output.value(&shown)?);
    }
    let mut facts: Vec<(&str, String)> =
        vec![("gtid", shown.gtid.clone()), ("protocol", shown.protocol.to_owned()), ("state", shown.state.clone())];
    if let Some(reason) = &shown.reason {
        let by = if reason.participant.is_empty() { String::new() } else { format!(" by {}", reason.participant) };
        facts.push(("reason", format!("{}{by}: {}", reason.code, reason.message)));
    }
    let times = [("begun", transaction.begun_at), ("decided", transaction.decided_at), ("ended", transaction.ended_at)];
    facts.extend(times.into_iter().filter_map(|(name, at)| Some((name, since(at?)?))));
    if let Some(deadline) = transaction.deadline.and_then(since) {
        facts.push(("deadline", deadline));
    }
    if !shown.replica.is_empty() {
        facts.push(("replica", shown.replica.clone()));
    }
    if !shown.waiting_for.is_empty() {
        facts.push(("waits for", shown.waiting_for.clone()));
    }
    for (name, fact) in facts {
        output.line(&format!("{name:<10} {fact}"))?;
    }
    if !shown.branches.is_empty() {
        output.line("")?;
        output.line(&branches_table(transaction, &shown.branches))?;
    }
    let absent = absences(&transaction.branches);
    if !absent.is_empty() {
        output.line("")?;
    }
    for line in absent {
        output.line(&line)?;
    }
    Ok(())
}

/// The participants that are not there, each once, and since when.
fn absences(branches: &[v1::Branch]) -> Vec<String> {
    let mut named = BTreeSet::new();
    let absent = branches.iter().filter(|branch| branch.absent_since.is_some() && named.insert(&branch.participant));
    let line = |branch: &v1::Branch| {
        let since = branch.absent_since.and_then(since).unwrap_or_default();
        format!("{}: no instance connected since {since}", branch.participant)
    };
    absent.map(line).collect()
}

fn branches_table(transaction: &v1::Transaction, branches: &[ShownBranch]) -> String {
    let are_steps = branches.iter().any(|branch| !branch.step.is_empty());
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut header = vec!["PARTICIPANT", "STATE", "ATTEMPTS", "LAST ERROR"];
    if are_steps {
        header.insert(0, "STEP");
        header.push("OUTPUT");
    }
    table.set_header(header);
    for (branch, told) in branches.iter().zip(&transaction.branches) {
        let attempts = if branch.attempts == 0 { String::new() } else { branch.attempts.to_string() };
        let error = match told.last_error_at.and_then(since) {
            Some(since) if !branch.last_error.is_empty() => format!("{} at {since}", branch.last_error),
            Some(_) | None => branch.last_error.clone(),
        };
        let mut row = vec![branch.participant.clone(), branch.state.clone(), attempts, error];
        if are_steps {
            row.insert(0, branch.step.clone());
            row.push(shortened(&branch.output));
        }
        table.add_row(row);
    }
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end()).collect();
    lines.join("\n")
}

/// An output as one cell: short, and without anything that a terminal would obey.
fn shortened(output: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut cell: String = output.chars().take(CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if output.chars().count() > CHARS_MAX {
        cell.push('…');
    }
    cell
}

/// A point in time, and how long ago it is or how far away.
fn since(at: prost_types::Timestamp) -> Option<String> {
    let at = SystemTime::try_from(at).ok()?;
    let distance = match SystemTime::now().duration_since(at) {
        Ok(ago) => format!("{} ago", rounded(ago)),
        Err(ahead) => format!("in {}", rounded(ahead.duration())),
    };
    Some(format!("{} ({distance})", humantime::format_rfc3339_millis(at)))
}

/// A duration in its two largest units: `3m 20s`, `2d 4h`, `850ms`.
fn rounded(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (large, small, in_small) = match seconds {
        0 => return format!("{}ms", duration.subsec_millis()),
        1..60 => return format!("{seconds}s"),
        60..3_600 => ("m", "s", 60),
        3_600..86_400 => ("h", "m", 60),
        _ => ("d", "h", 24),
    };
    let unit = match large {
        "m" => 60,
        "h" => 3_600,
        _ => 86_400,
    };
    let rest = seconds % unit / (unit / in_small);
    if rest == 0 { format!("{}{large}", seconds / unit) } else { format!("{}{large} {rest}{small}", seconds / unit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_at_a_glance() {
        for (seconds, text) in [
            (5, "5s"),
            (60, "1m"),
            (200, "3m 20s"),
            (3_600, "1h"),
            (7_380, "2h 3m"),
            (187_200, "2d 4h"),
            (864_000, "10d"),
        ] {
            assert_eq!(rounded(Duration::from_secs(seconds)), text);
        }
        assert_eq!(rounded(Duration::from_millis(850)), "850ms");
    }

    #[test]
    fn every_state_is_a_word_of_the_api() {
        for state in State::value_variants() {
            let word = state.to_possible_value().expect("a word").get_name().to_owned();
            let wire = v1::TransactionState::from(*state).as_str_name();
            assert_eq!(wire, format!("TRANSACTION_STATE_{}", word.to_ascii_uppercase()));
        }
    }

    #[test]
    fn a_branch_is_shown_with_what_went_wrong_and_who_is_not_there() {
        let at = Some(prost_types::Timestamp { seconds: 1_795_000_000, nanos: 0 });
        let transaction = v1::Transaction {
            branches: vec![
                v1::Branch {
                    participant: "bank".to_owned(),
                    state: "committing".to_owned(),
                    last_error: "the disk is full".to_owned(),
                    branch_id: "7.1f".to_owned(),
                    last_error_at: at,
                    absent_since: at,
                    ..v1::Branch::default()
                },
                v1::Branch { participant: "shop".to_owned(), ..v1::Branch::default() },
            ],
            ..v1::Transaction::default()
        };
        let shown = Shown::from(transaction.clone());
        let table = branches_table(&transaction, &shown.branches);
        assert!(table.contains("the disk is full at 2026-11-18T"), "{table}");
        let [line] = &absences(&transaction.branches)[..] else { panic!("one is not there") };
        assert!(line.starts_with("bank: no instance connected since 2026-11-18T"), "{line}");
        let json = serde_json::to_value(&shown).expect("JSON");
        let (bank, shop) = (&json["branches"][0], &json["branches"][1]);
        assert_eq!((&bank["branch_id"], bank["absent_since"].is_string()), (&"7.1f".into(), true), "{bank}");
        assert!(shop.get("branch_id").is_none() && shop.get("absent_since").is_none(), "{shop}");
    }

    #[test]
    fn what_a_participant_gave_does_not_reach_the_terminal() {
        assert_eq!(shortened("a\u{1b}[2Jb"), "a [2Jb");
    }
}
