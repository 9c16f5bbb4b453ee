//! What is wrong with a configuration, all of it at once.

use std::fmt;

use super::setting::SETTINGS;

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Everything that is wrong, in the order of the sources.
    pub mistakes: Vec<Mistake>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file and line, the variable, or the flag.
    pub origin: String,
    /// What is wrong there, and what it should have been.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.problem)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [mistake] = self.mistakes.as_slice() {
            return write!(f, "the configuration has a mistake: {mistake}");
        }
        write!(f, "the configuration has {} mistakes:", self.mistakes.len())?;
        for mistake in &self.mistakes {
            write!(f, "\n  {mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// What to say about a key that no setting has.
pub(super) fn unknown(key: &str) -> String {
    match nearest(key) {
        Some(known) => format!("there is no setting {key}; did you mean {known}?"),
        None => format!("there is no setting {key}; `assent serve --sample` shows them all"),
    }
}

/// The known key that a wrong one was most likely meant to be.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let near =
        SETTINGS.iter().filter_map(|setting| Some((distance(key, setting.key)?, edits(key, setting.key), setting)));
    near.min_by_key(|(distance, edits, _)| (*distance, *edits)).map(|(.., setting)| setting.key)
}

/// How far a key is from a setting; `None` if so far that a suggestion would only mislead.
fn distance(key: &str, setting: &str) -> Option<usize> {
    let near = |given: &str, known: &str| Some(edits(given, known)).filter(|edits| *edits <= given.len() / 3);
    let name_of = |key: &str| key.rsplit('.').next().map_or(0, |name| key.len() - name.len());
    let (given, known) = (&key[name_of(key)..], &setting[name_of(setting)..]);
    // A name in the wrong table, or one that was not written out, is as near as one with a slip in it.
    let is_beginning = given.len() >= 3 && known.starts_with(given);
    [near(key, setting), near(given, known).map(|edits| edits + 1), is_beginning.then_some(4)]
        .into_iter()
        .flatten()
        .min()
}

/// What to say about a table that no setting is in.
pub(super) fn unknown_table(name: &str) -> String {
    let tables = SETTINGS.iter().filter_map(|setting| setting.key.split_once('.').map(|(table, _)| table));
    let nearest = tables.map(|table| (edits(name, table), table)).min();
    match nearest {
        Some((edits, table)) if edits <= name.len() / 3 => {
            format!("there is no table [{name}]; did you mean [{table}]?")
        }
        Some(_) | None => format!("there is no table [{name}]; `assent serve --sample` shows them all"),
    }
}

/// How many characters have to be inserted, left out, replaced or swapped with their neighbour to make one text the other (optimal
/// string alignment).
pub(super) fn edits(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for (at, letter) in from.iter().enumerate() {
        let mut row = vec![at + 1];
        for (column, other) in to.iter().enumerate() {
            let replaced = rows[at][column] + usize::from(letter != other);
            let mut fewest = replaced.min(rows[at][column + 1] + 1).min(row[column] + 1);
            if at > 0 && column > 0 && *letter == to[column - 1] && from[at - 1] == *other {
                fewest = fewest.min(rows[at - 1][column - 1] + 1);
            }
            row.push(fewest);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}
