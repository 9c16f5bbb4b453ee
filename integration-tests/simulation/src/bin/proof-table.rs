//! Prints the table of what was explored, found and hit, and fails if something is missing: `proof-table [FOLDER]`.

use std::path::PathBuf;
use std::process::ExitCode;

use simulation::proof;

fn main() -> ExitCode {
    let folder = std::env::args_os().nth(1).map_or_else(proof::folder, PathBuf::from);
    let rows = match proof::load(&folder) {
        Ok(rows) => rows,
        Err(error) => {
            eprintln!("{}: {error}", folder.display());
            return ExitCode::FAILURE;
        }
    };
    let (text, missing) = proof::table(&rows);
    print!("{text}");
    for problem in &missing {
        eprintln!("missing: {problem}");
    }
    if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
