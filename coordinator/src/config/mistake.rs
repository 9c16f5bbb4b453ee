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
        None => format!("there is no setting {key}; `assent serve --help` lists them"),
    }
}

/// The known key that a wrong one was most likely meant to be.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let distance = |setting: &'static str| {
        // A key in the wrong table is as near as one with a slip in it.
        let last = setting.rsplit('.').next().unwrap_or(setting);
        let given = key.rsplit('.').next().unwrap_or(key);
        edits(key, setting).min(edits(given, last) + 1)
    };
    let nearest = SETTINGS.iter().map(|setting| (distance(setting.key), setting.key)).min()?;
    // Farther off, a suggestion would only mislead.
    (nearest.0 <= (key.len() / 3).clamp(1, 4)).then_some(nearest.1)
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
