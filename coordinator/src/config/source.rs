//! Where values come from: a file, the environment, flags.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::mistake::{Mistake, edits, unknown, unknown_table};
use super::setting::{SETTINGS, Setting};

/// The sources of a configuration, in the order of their rank.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, if one was named.
    pub file: Option<PathBuf>,
    /// The environment: names and values.
    pub environment: Vec<(String, String)>,
    /// What the command line said.
    pub flags: Vec<Flag>,
}

/// A setting on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The flag as it was written, for messages: `--listen`.
    pub name: String,
    /// The key of the setting.
    pub key: String,
    /// Its value.
    pub text: String,
}

impl Sources {
    /// This process's environment, no file and no flags. A value that is no Unicode reads as one that no setting takes.
    pub fn of_this_process() -> Self {
        let environment = std::env::vars_os()
            .map(|(name, text)| (name.to_string_lossy().into_owned(), text.to_string_lossy().into_owned()))
            .collect();
        Self { environment, ..Self::default() }
    }
}

/// A value, and where it was given.
pub(super) struct Given {
    pub(super) setting: &'static Setting,
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// Where a value was given.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// In the file, at this line, counted from 1.
    File(PathBuf, usize),
    /// In this variable.
    Variable(String),
    /// With this flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// Where each setting got its value from.
#[derive(Default)]
pub(super) struct Origins(HashMap<&'static str, String>);

impl Origins {
    pub(super) fn note(&mut self, given: &Given) {
        self.0.insert(given.setting.key, given.origin.to_string());
    }

    /// Where two settings that do not go together come from.
    pub(super) fn of(&self, keys: [&str; 2]) -> String {
        let found: Vec<&str> = keys.iter().filter_map(|key| self.0.get(key).map(String::as_str)).collect();
        if found.is_empty() { "defaults".to_owned() } else { found.join(" and ") }
    }
}

/// Reads all sources, lowest rank first.
pub(super) fn collect(sources: &Sources, mistakes: &mut Vec<Mistake>) -> Vec<Given> {
    let mut given = Vec::new();
    if let Some(path) = &sources.file {
        match std::fs::read_to_string(path) {
            Ok(text) => of_file(path, &text, &mut given, mistakes),
            Err(error) => mistakes.push(Mistake {
                origin: path.display().to_string(),
                problem: format!("cannot read the configuration file: {error}"),
            }),
        }
    }
    of_environment(&sources.environment, &mut given, mistakes);
    for flag in &sources.flags {
        match Setting::of_key(&flag.key) {
            Some(setting) => {
                given.push(Given { setting, text: flag.text.clone(), origin: Origin::Flag(flag.name.clone()) });
            }
            None => mistakes.push(Mistake { origin: flag.name.clone(), problem: unknown(&flag.key) }),
        }
    }
    given
}

// ---- the file ------------------------------------------------------------------------------------------------------

pub(super) fn of_file(path: &Path, text: &str, given: &mut Vec<Given>, mistakes: &mut Vec<Mistake>) {
    let line = |at: usize| text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1;
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        mistakes.push(Mistake {
            origin: Origin::File(path.to_owned(), line(at)).to_string(),
            problem: error.message().replace('\n', ", "),
        });
    }
    let mut tables = vec![(String::new(), table.get_ref())];
    let mut found = Vec::new();
    while let Some((prefix, table)) = tables.pop() {
        for (name, value) in table {
            let key =
                if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
            let at = name.span().start;
            match value.get_ref() {
                DeValue::Table(inner) if is_table(&key) => tables.push((key, inner)),
                DeValue::Table(_) if Setting::of_key(&key).is_none() => mistakes.push(Mistake {
                    origin: Origin::File(path.to_owned(), line(at)).to_string(),
                    problem: unknown_table(&key),
                }),
                value => found.push((at, key, value)),
            }
        }
    }
    found.sort_by_key(|(at, ..)| *at);
    for (at, key, value) in found {
        let origin = Origin::File(path.to_owned(), line(at));
        let Some(setting) = Setting::of_key(&key) else {
            mistakes.push(Mistake { origin: origin.to_string(), problem: unknown(&key) });
            continue;
        };
        match text_of(value) {
            Some(text) => given.push(Given { setting, text, origin }),
            None => mistakes.push(Mistake {
                origin: origin.to_string(),
                problem: format!("{key}: it is written as a {}; write a text or a number", value.type_str()),
            }),
        }
    }
}

fn is_table(key: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.key.split_once('.').is_some_and(|(table, _)| table == key))
}

fn text_of(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            let number = i128::from_str_radix(number.as_str(), number.radix()).ok()?;
            Some(number.to_string())
        }
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(is_so) => Some(is_so.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

// ---- the environment -----------------------------------------------------------------------------------------------

/// Variables that commands read and that are no settings.
const OTHER_VARIABLES: [&str; 8] = [
    "ASSENT_CONFIG",
    "ASSENT_ENDPOINT",
    "ASSENT_CA",
    "ASSENT_CERT",
    "ASSENT_KEY",
    "ASSENT_SERVER_NAME",
    "ASSENT_TOKEN",
    "ASSENT_TOKEN_FILE",
];

fn of_environment(environment: &[(String, String)], given: &mut Vec<Given>, mistakes: &mut Vec<Mistake>) {
    for (name, text) in environment {
        // Compose files and unit files give empty ones for what is not set.
        if !name.starts_with("ASSENT_") || text.is_empty() {
            continue;
        }
        match SETTINGS.iter().find(|setting| setting.variable() == *name) {
            Some(setting) => {
                given.push(Given { setting, text: text.clone(), origin: Origin::Variable(name.clone()) });
            }
            None => {
                if let Some(meant) = meant_variable(name) {
                    let problem = format!("there is no such setting; did you mean {meant}?");
                    mistakes.push(Mistake { origin: name.clone(), problem });
                }
            }
        }
    }
}

/// The variable that a wrong one was meant to be.
///
/// Not every unknown variable is a mistake: Kubernetes gives every pod `ASSENT_SERVICE_HOST`, `ASSENT_PORT` and the like, for a service
/// that is named assent. So only what is a slip away from a setting counts as one.
fn meant_variable(name: &str) -> Option<String> {
    if OTHER_VARIABLES.contains(&name) || name.starts_with("ASSENT_SERVICE_") || name.starts_with("ASSENT_PORT") {
        return None;
    }
    let nearest =
        SETTINGS.iter().map(|setting| (edits(name, &setting.variable()), setting)).min_by_key(|near| near.0)?;
    (nearest.0 <= 2).then(|| nearest.1.variable())
}
