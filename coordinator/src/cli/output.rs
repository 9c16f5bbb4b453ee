//! What goes to stdout: tables for people, JSON for programs.

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

    /// Writes one line of a table.
    ///
    /// # Errors
    /// If stdout is closed, or its disk full.
    pub fn line(&mut self, line: &str) -> io::Result<()> {
        self.text(&format!("{}\n", line.trim_end()))
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
                self.text(&format!("{before}{text}"))
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
