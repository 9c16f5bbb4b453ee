//! The glossary's words: pages and examples do not use those that it retires.

use std::path::{Path, PathBuf};

/// The files and folders that are held to it. More are to be added as they are gone over; none is to be taken out.
const HELD: &[&str] = &[
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/comparison.md",
    "docs/wire.md",
    "docs/taking-part",
    "examples",
];

/// The words that the glossary retires, as they stand in a text in lower case.
const RETIRED: &[&str] =
    &["seat", "seats", "barred", "bars", "ride", "rides", "riding", "turned", "turns", "whoever", "nobody", "somebody"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a folder") {
            files(&entry.expect("an entry").path(), found);
        }
    } else if path
        .extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| ["md", "rs", "proto", "sql", "yaml", "toml", "py", "sh"].contains(&extension))
    {
        found.push(path.to_owned());
    }
}

/// The retired words of a text, each with its line.
fn retired(text: &str) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.to_lowercase();
        for word in line.split(|character: char| !character.is_alphanumeric()) {
            found.extend(RETIRED.iter().find(|retired| **retired == word).map(|retired| (number + 1, *retired)));
        }
        if line.contains("let go") {
            found.push((number + 1, "let go"));
        }
    }
    found
}

#[test]
fn pages_say_what_the_glossary_says() {
    let mut checked = Vec::new();
    for held in HELD {
        files(&root().join(held), &mut checked);
    }
    assert!(checked.len() > 10, "{checked:?}");
    let mut problems = String::new();
    for file in checked {
        for (line, word) in retired(&std::fs::read_to_string(&file).expect("a text")) {
            problems.push_str(&format!("{}:{line}: {word}\n", file.display()));
        }
    }
    assert!(problems.is_empty(), "docs/glossary.md says which words to use instead:\n{problems}");
}

#[test]
fn a_retired_word_is_found_and_its_like_is_not() {
    assert_eq!(retired("a member\nWhoever takes a Seat, and seating"), [(2, "whoever"), (2, "seat")]);
    assert_eq!(retired("it returns, barely; a bride"), []);
}

#[test]
fn the_glossary_retires_the_words_that_are_looked_for() {
    let glossary = std::fs::read_to_string(root().join("docs/glossary.md")).expect("the glossary");
    let (_, table) = glossary.split_once("## Retired words").expect("the table");
    for word in ["seat", "bar", "ride", "turned", "let go", "whoever", "nobody", "somebody"] {
        assert!(table.contains(word), "{word}");
    }
}
