//! What goes to stdout: tables for people, JSON for programs.

use std::borrow::Cow;
use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

/// The form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON value.
    Json,
    /// One JSON object per line.
    Jsonl,
}

/// Stdout, which may be closed at any time by whoever reads it: every call fails then, instead of a panic.
#[derive(Debug)]
pub struct Output {
    format: Format,
    is_first: bool,
}

impl Output {
    /// Output of this form.
    pub fn new(format: Format) -> Self {
        Self { format, is_first: true }
    }

    /// Its form.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Writes a text as it is.
    ///
    /// # Errors
    /// If stdout is closed, or its disk full.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    /// Writes one line of a table, or several. What a terminal would obey is written as it is written in JSON.
    ///
    /// # Errors
    /// If stdout is closed, or its disk full.
    pub fn line(&mut self, line: &str) -> io::Result<()> {
        self.text(&format!("{}\n", visible(line.trim_end())))
    }

    /// Writes one value: as the whole of the output, on several lines for `json` and on one for `jsonl`.
    ///
    /// # Errors
    /// If stdout is closed, or its disk full.
    pub fn value(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = match self.format {
            Format::Table | Format::Json => serde_json::to_string_pretty(value)?,
            Format::Jsonl => serde_json::to_string(value)?,
        };
        self.line(&text)
    }

    /// Writes one value of a list, which [`end_list`](Self::end_list) ends.
    ///
    /// # Errors
    /// If stdout is closed, or its disk full.
    pub fn item(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(value)?;
        match self.format {
            Format::Table | Format::Jsonl => self.line(&text),
            Format::Json => {
                let before = if std::mem::take(&mut self.is_first) { "[\n  " } else { ",\n  " };
                self.text(&format!("{before}{}", visible(&text)))
            }
        }
    }

    /// Ends a list of [`item`](Self::item)s.
    ///
    /// # Errors
    /// If stdout is closed, or its disk full.
    pub fn end_list(&mut self) -> io::Result<()> {
        match (self.format, self.is_first) {
            (Format::Table | Format::Jsonl, _) => Ok(()),
            (Format::Json, true) => self.text("[]\n"),
            (Format::Json, false) => self.text("\n]\n"),
        }
    }
}

/// A text in which nothing moves the cursor, colours, or turns the direction of reading: reasons and outputs come from others. What would is
/// written as in JSON, so that JSON stays what it says.
pub(super) fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        if is_obeyed(letter) {
            // All of them are in the first plane.
            shown.push_str(&format!("\\u{:04x}", u32::from(letter)));
        } else {
            shown.push(letter);
        }
    }
    Cow::Owned(shown)
}

fn is_obeyed(letter: char) -> bool {
    // A new line ends a row, and nothing else.
    (letter.is_control() && letter != '\n')
        || matches!(letter, '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        let foreign = "a\u{1b}[2J\u{9b}31m\u{7f}\u{202e}gnp\u{2066}.\u{feff}b\u{e9}";
        let shown = visible(foreign);
        assert_eq!(shown, "a\\u001b[2J\\u009b31m\\u007f\\u202egnp\\u2066.\\ufeffb\u{e9}");
        // In JSON it says the same.
        let json = serde_json::to_string(foreign).expect("JSON");
        let read: String = serde_json::from_str(&visible(&json)).expect("JSON");
        assert_eq!(read, foreign);
        assert!(matches!(visible("two\nlines"), Cow::Borrowed(_)));
    }
}
