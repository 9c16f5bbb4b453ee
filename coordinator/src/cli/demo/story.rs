//! How it is told: as a story for people, or as one object for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use assent_proto::v1::Transaction;
use assent_sdk::Gtid;
use comfy_table::{CellAlignment, Table, presets};
use serde::{Serialize, Serializer};

use super::books::Books;
use super::event::Told;
use super::stage::state_word;
use crate::cli::{Format, Output};

/// What happened, as programs read it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether every act was played, and left the balances that it should.
    pub(super) passed: bool,
    pub(super) acts: Vec<Act>,
    /// At the end: by service and account.
    pub(super) balances: Books,
    pub(super) took_ms: u64,
    /// Where everything was kept, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) directory: Option<PathBuf>,
}

/// One act.
#[derive(Debug, Serialize)]
pub(super) struct Act {
    pub(super) act: usize,
    pub(super) title: &'static str,
    pub(super) gtid: Gtid,
    /// What the initiator was told.
    pub(super) outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// What the services told, in the order in which it happened.
    pub(super) events: Vec<Told>,
    /// Who was killed in its course.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) killed: Vec<&'static str>,
    /// While they were dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) in_doubt: Option<InDoubt>,
    /// What the coordinator says about it at the end.
    pub(super) state: String,
    /// Afterwards: by service and account.
    pub(super) balances: Books,
    /// How the balances are not as they should be; empty if they are.
    pub(super) wrong: Vec<String>,
}

/// The books while a transaction is in doubt.
#[derive(Debug)]
pub(super) struct InDoubt(pub(super) Books);

impl Serialize for InDoubt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            balances: &'a Books,
            prepared: BTreeMap<&'a str, BTreeMap<&'a str, i64>>,
        }
        Shown { balances: &self.0, prepared: self.0.prepared() }.serialize(serializer)
    }
}

/// The teller.
#[derive(Debug)]
pub(super) struct Story<'a> {
    output: &'a mut Output,
    is_coloured: bool,
    is_verbose: bool,
    has_begun: bool,
}

/// How a piece of text stands out.
#[derive(Clone, Copy, Debug)]
enum Style {
    Title,
    Good,
    Bad,
    Faint,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Self::Title => "1",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Faint => "2",
        }
    }
}

impl<'a> Story<'a> {
    /// A teller. Colours are for terminals whose users have not said no (<https://no-color.org>).
    pub(super) fn new(output: &'a mut Output, is_verbose: bool) -> Self {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
        let is_coloured = io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb;
        Self { output, is_coloured, is_verbose, has_begun: false }
    }

    /// Whether more is told than the story.
    pub(super) fn is_verbose(&self) -> bool {
        self.is_verbose
    }

    fn is_for_people(&self) -> bool {
        self.output.format() == Format::Table
    }

    fn styled(&self, style: Style, text: impl fmt::Display) -> String {
        if self.is_coloured { format!("\x1b[{}m{text}\x1b[0m", style.code()) } else { text.to_string() }
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        if self.is_for_people() { self.output.line(line) } else { Ok(()) }
    }

    /// A headline.
    pub(super) fn title(&mut self, title: &str) -> io::Result<()> {
        if !self.is_for_people() && io::stderr().is_terminal() {
            // The object comes at the end; meanwhile somebody waits.
            writeln!(io::stderr(), "{title}").ok();
        }
        let title = self.styled(Style::Title, title);
        if !std::mem::replace(&mut self.has_begun, true) {
            return self.line(&title);
        }
        self.pause()?;
        self.line(&title)
    }

    /// A paragraph, in lines of its own.
    pub(super) fn says(&mut self, text: &str) -> io::Result<()> {
        text.lines().try_for_each(|line| self.line(&format!("  {line}")))
    }

    /// An empty line.
    pub(super) fn pause(&mut self) -> io::Result<()> {
        self.line("")
    }

    /// What somebody does.
    pub(super) fn does(&mut self, who: &str, what: impl fmt::Display) -> io::Result<()> {
        self.line(&format!("  {who:<12} {what}"))
    }

    /// What services have told.
    pub(super) fn tells<'b>(&mut self, told: impl IntoIterator<Item = &'b Told>) -> io::Result<()> {
        for told in told {
            if let Some(words) = told.event.in_words() {
                self.does(&told.service, words)?;
            }
        }
        Ok(())
    }

    /// A detail, for those who want to see more.
    pub(super) fn detail(&mut self, text: impl fmt::Display) -> io::Result<()> {
        if !self.is_verbose {
            return Ok(());
        }
        let text = self.styled(Style::Faint, format_args!("  {text}"));
        self.line(&text)
    }

    /// The coordinator's own account of a transaction, for those who want to see more.
    pub(super) fn record(&mut self, transaction: &Transaction) -> io::Result<()> {
        let branch = |branch: &assent_proto::v1::Branch| match branch.step.as_str() {
            "" => format!("{} {}", branch.participant, branch.state),
            step => format!("{step} {}", branch.state),
        };
        let branches: Vec<String> = transaction.branches.iter().map(branch).collect();
        let (state, waits) = (state_word(transaction.state()), &transaction.waiting_for);
        let waits = if waits.is_empty() { String::new() } else { format!("; it waits for {waits}") };
        self.detail(format_args!("the coordinator's record: {state} ({}){waits}", branches.join(", ")))
    }

    /// All accounts, beside what they were.
    pub(super) fn balances(&mut self, before: Option<&Books>, now: &Books) -> io::Result<()> {
        if !self.is_for_people() {
            return Ok(());
        }
        let is_changed =
            |line: &super::books::Line| before.is_some_and(|before| before.same_account(line) != Some(&line.account));
        let table = table(before, now).to_string();
        self.pause()?;
        for (row, text) in table.lines().enumerate() {
            // The first row is the header.
            let line = row.checked_sub(1).and_then(|row| now.lines.get(row));
            let text = format!("  {}", text.strip_prefix(' ').unwrap_or(text).trim_end());
            let text = match line {
                Some(line) if is_changed(line) => self.styled(Style::Title, text),
                Some(_) => text,
                None => self.styled(Style::Faint, text),
            };
            self.line(&text)?;
        }
        Ok(())
    }

    /// The verdict on an act.
    pub(super) fn verdict(&mut self, good: &str, wrong: &[String]) -> io::Result<()> {
        self.pause()?;
        if wrong.is_empty() {
            let text = self.styled(Style::Good, format_args!("ok: {good}"));
            return self.says(&text);
        }
        for difference in wrong {
            let text = self.styled(Style::Bad, format_args!("WRONG: {difference}"));
            self.says(&text)?;
        }
        Ok(())
    }

    /// The last line.
    pub(super) fn end(&mut self, took: Duration) -> io::Result<()> {
        let text = format!("Every act ended as it should, in {:.1} s.", took.as_secs_f64());
        let text = self.styled(Style::Good, text);
        self.pause()?;
        self.line(&text)
    }

    /// Where everything was kept.
    pub(super) fn kept(&mut self, directory: &Path) -> io::Result<()> {
        self.line(&format!("The log, the ledgers and the output of all processes are in {}", directory.display()))
    }

    /// What happened, for programs.
    pub(super) fn report(&mut self, report: &Report) -> io::Result<()> {
        if self.is_for_people() { Ok(()) } else { self.output.value(report) }
    }
}

fn table(before: Option<&Books>, now: &Books) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let is_in_doubt = now.are_in_doubt();
    let mut header = vec!["SERVICE", "ACCOUNT"];
    header.extend(before.map(|_| "BEFORE"));
    header.push("NOW");
    header.extend(is_in_doubt.then_some("IN DOUBT"));
    table.set_header(header);
    for line in &now.lines {
        let account = &line.account;
        let mut row = vec![line.service.to_owned(), account.name.clone()];
        if let Some(before) = before {
            row.push(before.same_account(line).map_or_else(String::new, |found| found.balance.to_string()));
        }
        row.push(format!("{} {}", account.balance, account.unit));
        if is_in_doubt {
            let prepared = account.prepared;
            row.push(if prepared == 0 { String::new() } else { format!("{prepared:+} {}", account.unit) });
        }
        table.add_row(row);
    }
    for column in 2..4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::services::{BANK_A, BANK_B};

    #[test]
    fn balances_stand_beside_what_they_were() {
        let before = Books::opening();
        let now = before.with(&[(BANK_A, "anna", -250)]).with_prepared(&[(BANK_B, "ben", 250)]);
        let lines: Vec<String> =
            table(Some(&before), &now).to_string().lines().map(|line| line.trim().to_owned()).collect();
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&lines[0]), ["SERVICE", "ACCOUNT", "BEFORE", "NOW", "IN", "DOUBT"]);
        assert_eq!(words(&lines[1]), ["bank-a", "anna", "1000", "750", "EUR"]);
        assert_eq!(words(&lines[3]), ["bank-b", "ben", "200", "200", "EUR", "+250", "EUR"]);
        assert_eq!(lines.len(), 7);
    }
}
