//! Transcripts: what a replica does, told line by line, one story to a file.
//!
//! A line that starts at the margin is an input: `who: what`. The indented lines below it are all
//! that the replica does about it. A line that starts with `#` is for the reader.
//!
//! ```text
//! s1: vote 1 yes                            session 1 says that its branch of transaction 1 votes yes
//!     log <- forced: decided 1 commit ...   the replica hands this record to the log, and waits for it
//! log: durable                              the log answers the oldest batch
//!     s1 <- commit 1, epoch 1               the replica tells session 1 to commit its branch of transaction 1
//! ```
//!
//! `ASSENT_BLESS=1 cargo test -p assent-protocol --test transcripts` rewrites the indented lines.
//! The difference is to be read before it is committed.
//!
//! | file | subject |
//! |---|---|
//! | `stage` | the replica, its clock and its sessions; which inputs a line can give |
//! | `client` | the messages that a session's line can say |
//! | `log` | the log: it answers when a line says so, and keeps what it has answered for |
//! | `tell` | the words for what the replica does |

mod client;
mod log;
mod stage;
mod tell;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use stage::Stage;

const INDENT: &str = "    ";

#[test]
fn every_transcript_is_what_the_replica_does() {
    let is_blessing = std::env::var_os("ASSENT_BLESS").is_some();
    let mut differences = String::new();
    for path in transcripts() {
        let written = fs::read_to_string(&path).expect("a readable file");
        let problem = match play(&written) {
            Ok(played) if played == written => continue,
            Ok(played) if is_blessing => {
                fs::write(&path, played).expect("a writable file");
                continue;
            }
            Ok(played) => first_difference(&written, &played),
            Err(problem) => problem,
        };
        writeln!(differences, "{}:{problem}", path.display()).expect("a string");
    }
    assert!(differences.is_empty(), "{differences}If this is meant, set ASSENT_BLESS=1 and read the difference.");
}

fn transcripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let files = fs::read_dir(folder).expect("the folder of this test").map(|file| file.expect("readable").path());
    let mut paths: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "txt")).collect();
    paths.sort();
    assert!(!paths.is_empty(), "the transcripts stand beside this file");
    paths
}

/// The transcript with what the replica does now below each input.
fn play(written: &str) -> Result<String, String> {
    let mut stage = Stage::default();
    let mut played = String::new();
    for (number, line) in written.lines().enumerate().filter(|(_, line)| !line.starts_with(INDENT)) {
        played += line;
        played.push('\n');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        for done in stage.take(line).map_err(|problem| format!("{}: `{line}`: {problem}", number + 1))? {
            writeln!(played, "{INDENT}{done}").expect("a string");
        }
    }
    Ok(played)
}

fn first_difference(written: &str, played: &str) -> String {
    let (mut written, mut played) = (written.lines(), played.lines());
    let mut input = "";
    for number in 1.. {
        let (old, new) = (written.next(), played.next());
        if old != new {
            let (old, new) = (old.unwrap_or("the end"), new.unwrap_or("the end"));
            return format!("{number}: after `{input}`\n  written: {old}\n  played:  {new}");
        }
        input = new.filter(|line| !line.starts_with(INDENT)).unwrap_or(input);
    }
    unreachable!("the texts differ")
}
