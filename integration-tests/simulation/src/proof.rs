//! What was explored, found and hit: tests write rows, and the end of `./test` is a table of them.
//!
//! A row is a line of a file, with tabs between `kind protocol name count of note`; `of` is empty where a count has no bound, and `note` may be. Files
//! are named `*.tsv` and stand in one folder, so that tests that run beside each other, and other programs, need not know of one another:
//!
//! | kind | count | of |
//! |---|---|---|
//! | states | states of a model | |
//! | seeds, hours | seeds of a swarm; what they took by the clocks of their worlds | |
//! | fault | how often it happened | |
//! | cells | cells of the transition tables that were met | cells that must be met |
//! | planted | 1 if the model with this mistake was refuted | 1 |
//! | mutant | 1 if the bug, planted in the code, was caught | 1 |
//! | crash point | 1 if a case crashed, failed or stopped there, and held | 1 |

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// One figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Of what kind.
    pub kind: String,
    /// About which protocol, or `-`.
    pub protocol: String,
    /// What was counted.
    pub name: String,
    /// How often, or how much.
    pub count: u64,
    /// Of how many, where there is such a number.
    pub of: Option<u64>,
    /// In words.
    pub note: String,
}

impl Row {
    /// A count without a bound.
    pub fn new(kind: &str, protocol: &str, name: &str, count: u64, note: &str) -> Self {
        let clean = |text: &str| text.replace(['\t', '\n'], " ");
        Self { kind: clean(kind), protocol: clean(protocol), name: clean(name), count, of: None, note: clean(note) }
    }

    /// So many of so many.
    pub fn of(kind: &str, protocol: &str, name: &str, count: u64, of: u64) -> Self {
        Self { of: Some(of), ..Self::new(kind, protocol, name, count, "") }
    }

    fn to_line(&self) -> String {
        let Self { kind, protocol, name, count, of, note } = self;
        let of = of.map(|of| of.to_string()).unwrap_or_default();
        format!("{kind}\t{protocol}\t{name}\t{count}\t{of}\t{note}\n")
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let (kind, protocol, name) = (fields.next()?, fields.next()?, fields.next()?);
        let count = fields.next()?.parse().ok()?;
        let of = match fields.next()? {
            "" => None,
            of => Some(of.parse().ok()?),
        };
        Some(Self { of, ..Self::new(kind, protocol, name, count, fields.next().unwrap_or_default()) })
    }
}

/// Where the rows are: `$ASSENT_PROOF`, else `proof` in the target folder.
pub fn folder() -> PathBuf {
    if let Some(folder) = env::var_os("ASSENT_PROOF") {
        return PathBuf::from(folder);
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from).join("proof")
}

/// Leaves rows for the table, in place of those that the same test left before. That there is no table without a place to write to is shown by the table.
pub fn record(rows: &[Row]) {
    let Some(first) = rows.first() else { return };
    let name: String = [&first.kind, &first.protocol, &first.name].map(String::as_str).join("-");
    let name: String = name.chars().map(|it| if it.is_ascii_alphanumeric() { it } else { '-' }).collect();
    let lines: String = rows.iter().map(Row::to_line).collect();
    let folder = folder();
    let written = fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join(format!("{name}.tsv")), lines));
    if let Err(error) = written {
        eprintln!("no figures for the table in {}: {error}", folder.display());
    }
}

/// All rows of a folder.
///
/// # Errors
/// If it cannot be read, or has a line that is no row.
pub fn load(folder: &Path) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "tsv") {
            continue;
        }
        for line in fs::read_to_string(&path)?.lines() {
            let row = Row::parse(line).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{}: not a row: {line:?}", path.display()))
            })?;
            rows.push(row);
        }
    }
    Ok(rows)
}

/// The columns. `cluster` is the world of whole processes, which runs all protocols, and meets the
/// cells of three-phase commit.
const PROTOCOLS: [&str; 4] = ["2pc", "saga", "3pc", "cluster"];
/// Those with models of single machines, and those with a swarm.
const MODELLED: &[&str] = &["2pc", "saga", "3pc"];
const SWARMED: &[&str] = &["cluster"];
/// What has to be there for each protocol. Mistakes planted in the models, by name: whoever removes one removes it here.
const PLANTED: [(&str, &[&str]); 3] = [
    ("2pc", &["asynchronous failover", "last writer wins", "prepare repeated"]),
    ("saga", &["asynchronous failover", "no fencing", "actions repeated"]),
    (
        "3pc",
        &[
            "stale proposal accepted",
            "commit by any pre-committed report",
            "join not durable",
            "acceptance without its ballot",
            "quorum of one",
            "ballot shared by two leaders",
            "lost store unnoticed",
            "classic 3PC",
            "forgotten voter refuses",
            "outcome over a vote only noted",
        ],
    ),
];

/// The table, and what is missing in it.
pub fn table(rows: &[Row]) -> (String, Vec<String>) {
    let mut lines = vec![["", "2pc", "saga", "3pc", "cluster"].map(str::to_owned)];
    let mut missing = Vec::new();
    let of_kind = |kind: &str, protocol: &str| -> Vec<&Row> {
        let mut found: Vec<_> = rows.iter().filter(|row| row.kind == kind && row.protocol == protocol).collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    };
    let mut add = |title: &str, required: &[&str], cell: &dyn Fn(&str) -> Option<String>| {
        let cells = PROTOCOLS.map(|protocol| {
            cell(protocol).unwrap_or_else(|| {
                if required.contains(&protocol) {
                    missing.push(format!("{protocol}: no figure for {title}"));
                }
                "-".to_owned()
            })
        });
        let [two_phase, saga, three_phase, cluster] = cells;
        lines.push([title.to_owned(), two_phase, saga, three_phase, cluster]);
    };
    let sum = |kind: &str, protocol: &str| {
        let found = of_kind(kind, protocol);
        (!found.is_empty()).then(|| found.iter().map(|row| row.count).sum::<u64>())
    };
    let all = |kind: &str, protocol: &str| {
        let found = of_kind(kind, protocol);
        let of: u64 = found.iter().filter_map(|row| row.of).sum();
        sum(kind, protocol).map(|count| format!("{count} of {of}"))
    };
    add("states explored", MODELLED, &|protocol| sum("states", protocol).map(grouped));
    add("seeds", SWARMED, &|protocol| sum("seeds", protocol).map(grouped));
    add("simulated hours", SWARMED, &|protocol| sum("hours", protocol).map(grouped));
    add("cells met", &PROTOCOLS, &|protocol| all("cells", protocol));
    add("mistakes found in models", MODELLED, &|protocol| all("planted", protocol));
    add("faults injected", SWARMED, &|protocol| sum("fault", protocol).map(grouped));
    let mut faults: Vec<&str> = rows.iter().filter(|row| row.kind == "fault").map(|row| row.name.as_str()).collect();
    faults.sort_unstable();
    faults.dedup();
    for fault in faults {
        let count = |protocol: &str| of_kind("fault", protocol).into_iter().find(|row| row.name == fault);
        add(&format!("  {fault}"), &[], &|protocol| count(protocol).map(|row| grouped(row.count)));
    }
    let mut text = aligned(&lines);

    for (protocol, names) in PLANTED {
        for name in names {
            if !rows.iter().any(|row| row.kind == "planted" && row.protocol == protocol && row.name == *name) {
                missing.push(format!("{protocol}: the model did not find {name:?}"));
            }
        }
    }
    for row in rows {
        if row.count < row.of.unwrap_or(1) && row.kind != "hours" {
            missing.push(format!(
                "{} {} {}: {} of {}",
                row.protocol,
                row.kind,
                row.name,
                row.count,
                row.of.unwrap_or(1)
            ));
        }
    }
    text.push('\n');
    let models: BTreeMap<_, _> =
        rows.iter().filter(|row| row.kind == "states").map(|row| ((&row.protocol, &row.name), row)).collect();
    for ((protocol, name), row) in models {
        writeln!(text, "model {protocol} {name}: {} states, {}", grouped(row.count), row.note).ok();
    }
    for (kind, title) in [("mutant", "mutants caught"), ("crash point", "crash points hit")] {
        let found: Vec<_> = rows.iter().filter(|row| row.kind == kind).collect();
        let (hit, of) = (found.iter().filter(|row| row.count > 0).count(), found.len());
        let notes: std::collections::BTreeSet<_> =
            found.iter().map(|row| row.note.as_str()).filter(|note| !note.is_empty()).collect();
        let notes: String = notes.into_iter().map(|note| format!("; {note}")).collect();
        writeln!(text, "{title}: {hit} of {of}{notes}").ok();
        if of == 0 {
            missing.push(format!("no figure for {title}"));
        }
    }
    (text, missing)
}

/// Columns side by side; figures to the right.
fn aligned(lines: &[[String; 5]]) -> String {
    let width = |at: usize| lines.iter().map(|line| line[at].len()).max().unwrap_or_default();
    let widths = [width(0), width(1), width(2), width(3), width(4)];
    let line = |[title, a, b, c, d]: &[String; 5]| {
        let [w, wa, wb, wc, wd] = widths;
        format!("{title:<w$}  {a:>wa$}  {b:>wb$}  {c:>wc$}  {d:>wd$}\n")
    };
    lines.iter().map(line).collect()
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of a run in which everything was there.
    fn whole() -> Vec<Row> {
        let mut rows = vec![Row::of("mutant", "-", "one", 1, 1), Row::of("crash point", "2pc", "one", 1, 1)];
        for protocol in SWARMED {
            rows.extend([
                Row::new("seeds", protocol, "seeds", 3_000, ""),
                Row::new("hours", protocol, "hours", 0, ""),
                Row::new("fault", protocol, "message lost", 4, ""),
            ]);
        }
        rows.extend(PROTOCOLS.map(|protocol| Row::of("cells", protocol, "cells", 7, 7)));
        for (protocol, planted) in PLANTED {
            rows.push(Row::new("states", protocol, "model", 10, "exhaustive"));
            rows.extend(planted.iter().map(|name| Row::of("planted", protocol, name, 1, 1)));
        }
        rows
    }

    #[test]
    fn a_row_survives_its_line() {
        for row in whole() {
            assert_eq!(Row::parse(row.to_line().trim_end_matches('\n')), Some(row));
        }
        assert_eq!(Row::parse("seeds\t2pc\tseeds\tmany\t\t"), None);
    }

    #[test]
    fn a_whole_run_misses_nothing() {
        let (text, missing) = table(&whole());
        assert_eq!(missing, Vec::<String>::new(), "{text}");
        assert!(text.contains("3,000"), "{text}");
    }

    #[test]
    fn whatever_is_missing_is_told() {
        let rows = whole();
        for at in 0..rows.len() {
            let mut fewer = rows.clone();
            let left_out = fewer.remove(at);
            assert!(!table(&fewer).1.is_empty(), "{left_out:?} is not missed");
            let mut never = rows.clone();
            never[at].count = 0;
            assert!(never[at].kind == "hours" || !table(&never).1.is_empty(), "{left_out:?} may be zero");
        }
    }
}
