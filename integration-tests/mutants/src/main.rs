//! Plants one bug at a time in a copy of the workspace, and runs the check that is to catch it.
//!
//! ```text
//! cargo run -p mutants                 # every mutant that needs no processes and no Postgres
//! cargo run -p mutants -- --slow       # the others too
//! cargo run -p mutants -- early        # those whose name contains a word
//! cargo run -p mutants -- --check      # only whether each applies
//! ```
//!
//! Prints a table. Fails if a mutant does not apply, does not compile, or is not caught; and if a slow check fails with nothing planted.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;
use std::{env, fs};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

/// The table of mutants.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    mutant: Vec<Mutant>,
}

/// One planted bug.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    name: String,
    /// Why it matters, or who shipped it.
    why: String,
    /// Relative to the workspace.
    file: PathBuf,
    /// Stands in the file exactly once.
    find: String,
    replace: String,
    /// The package whose test catches it.
    #[serde(default = "protocol")]
    package: String,
    /// The kind of that test: `unit`, `world`, `model`, `swarm`, `suite`.
    layer: String,
    /// Behind `cargo test -p PACKAGE`: which tests.
    check: Vec<String>,
    /// It needs a build of everything, or Postgres.
    #[serde(default)]
    slow: bool,
}

fn protocol() -> String {
    "assent-protocol".to_owned()
}

/// What became of a mutant.
struct Verdict<'a> {
    mutant: &'a Mutant,
    caught_by: Result<String, String>,
    seconds: f64,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let words: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let text = fs::read_to_string(workspace.join("integration-tests/mutants/mutants.toml"))?;
    let table: Table = toml::from_str(&text).context("mutants.toml")?;
    let chosen: Vec<&Mutant> = table
        .mutant
        .iter()
        .filter(|mutant| has("--slow") || has("--check") || !mutant.slow)
        .filter(|mutant| words.is_empty() || words.iter().any(|word| mutant.name.contains(word.as_str())))
        .collect();
    ensure!(!chosen.is_empty(), "no mutant of that name");
    for mutant in &chosen {
        mutate(&workspace, mutant).with_context(|| format!("mutant {}", mutant.name))?;
    }
    if has("--check") {
        println!("{} mutants apply", chosen.len());
        return Ok(ExitCode::SUCCESS);
    }
    let scratch = scratch();
    let mut controlled = Controlled::new();
    let verdicts = chosen
        .into_iter()
        .map(|mutant| {
            let verdict = try_out(&workspace, &scratch, mutant, &mut controlled)?;
            eprintln!(
                "{}: {} ({:.0} s)",
                mutant.name,
                verdict.caught_by.as_ref().unwrap_or_else(|e| e),
                verdict.seconds
            );
            Ok(verdict)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    print!("{}", report(&verdicts));
    if words.is_empty() {
        record(&workspace, &verdicts, table.mutant.len())?;
    }
    let missed = verdicts.iter().filter(|verdict| verdict.caught_by.is_err()).count();
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where the copy lives, with a target folder of its own that is kept from one mutant to the next.
fn scratch() -> PathBuf {
    env::var_os("ASSENT_MUTANTS_DIR").map_or_else(|| env::temp_dir().join("assent-mutants"), PathBuf::from)
}

/// The mutated text of the mutant's file.
fn mutate(workspace: &Path, mutant: &Mutant) -> anyhow::Result<String> {
    let file = workspace.join(&mutant.file);
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let times = text.matches(&mutant.find).count();
    ensure!(times == 1, "its text stands {times} times in {}, not once", mutant.file.display());
    ensure!(mutant.find != mutant.replace, "it changes nothing");
    Ok(text.replacen(&mutant.find, &mutant.replace, 1))
}

/// The checks, by package, that passed with nothing planted.
type Controlled<'a> = BTreeSet<(&'a String, &'a Vec<String>)>;

fn try_out<'a>(
    workspace: &Path,
    scratch: &Path,
    mutant: &'a Mutant,
    controlled: &mut Controlled<'a>,
) -> anyhow::Result<Verdict<'a>> {
    let copy = scratch.join(if mutant.slow { "workspace" } else { "protocol-only" });
    let folders: &[&str] = if mutant.slow {
        &[
            "proto",
            "protocol",
            "coordinator",
            "participant-sdk",
            "crash-points",
            "integration-tests",
            "migrations",
            "deploy",
            "docs",
        ]
    } else {
        &["protocol", "integration-tests/simulation"]
    };
    // Where a check needs more than a compiler, it has to pass while nothing is planted: what always fails catches nothing.
    if mutant.slow && controlled.insert((&mutant.package, &mutant.check)) {
        copy_workspace(workspace, &copy, folders, None)?;
        let (is_ok, said) = cargo(&copy, scratch, mutant, &[])?;
        ensure!(is_ok, "{} fails although nothing is planted: {}", mutant.check.join(" "), tail(&said));
    }
    copy_workspace(workspace, &copy, folders, Some(mutant))?;
    let started = Instant::now();
    let compiled = cargo(&copy, scratch, mutant, &["--no-run"])?;
    if !compiled.0 {
        let caught_by = Err(format!("does not compile: {}", tail(&compiled.1)));
        return Ok(Verdict { mutant, caught_by, seconds: started.elapsed().as_secs_f64() });
    }
    let started = Instant::now();
    let (is_ok, said) = cargo(&copy, scratch, mutant, &[])?;
    let seconds = started.elapsed().as_secs_f64();
    let failed = said.lines().find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let caught_by = match (is_ok, failed) {
        (false, Some(test)) => Ok(test.to_owned()),
        (false, None) => Err(format!("the check did not run: {}", tail(&said))),
        (true, _) if said.lines().any(|line| line.starts_with("running ") && line != "running 0 tests") => {
            Err("NOT CAUGHT".to_owned())
        }
        (true, _) => Err("no test has the name of the check".to_owned()),
    };
    Ok(Verdict { mutant, caught_by, seconds })
}

/// Writes only what differs, so that a build starts from the one before.
fn copy_workspace(workspace: &Path, copy: &Path, folders: &[&str], mutant: Option<&Mutant>) -> anyhow::Result<()> {
    let mut kept = Vec::new();
    for folder in folders {
        copy_folder(&workspace.join(folder), &copy.join(folder), &mut kept)?;
    }
    for file in ["Cargo.lock", "clippy.toml", "rust-toolchain.toml"] {
        if workspace.join(file).exists() {
            copy_if_changed(&workspace.join(file), &copy.join(file))?;
        }
    }
    let mut manifest: toml::Table = toml::from_str(&fs::read_to_string(workspace.join("Cargo.toml"))?)?;
    let Some(root) = manifest.get_mut("workspace").and_then(toml::Value::as_table_mut) else {
        bail!("Cargo.toml has no [workspace]");
    };
    for key in ["members", "default-members"] {
        if let Some(members) = root.get_mut(key).and_then(toml::Value::as_array_mut) {
            members.retain(|member| {
                member.as_str().is_some_and(|member| folders.iter().any(|folder| Path::new(member).starts_with(folder)))
            });
        }
    }
    write_if_changed(&copy.join("Cargo.toml"), toml::to_string(&manifest)?.as_bytes())?;
    if let Some(mutant) = mutant {
        write_if_changed(&copy.join(&mutant.file), mutate(workspace, mutant)?.as_bytes())?;
    }
    // The mutant before this one is undone.
    for file in kept {
        let relative = file.strip_prefix(workspace)?;
        if mutant.is_none_or(|mutant| relative != mutant.file) {
            copy_if_changed(&file, &copy.join(relative))?;
        }
    }
    Ok(())
}

/// Notes the files of a folder, and removes from the copy what is not there any more.
fn copy_folder(from: &Path, to: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if !from.join(entry.file_name()).exists() {
            if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
        }
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_name() == "target" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to.join(entry.file_name()), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn write_if_changed(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    if fs::read(path).is_ok_and(|known| known == content) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content).with_context(|| path.display().to_string())
}

/// As [`write_if_changed`], and scripts stay executable: without that, tests that run one fail whatever is planted.
fn copy_if_changed(from: &Path, to: &Path) -> anyhow::Result<()> {
    write_if_changed(to, &fs::read(from)?)?;
    let (wanted, has) = (fs::metadata(from)?.permissions(), fs::metadata(to)?.permissions());
    if wanted != has {
        fs::set_permissions(to, wanted).with_context(|| to.display().to_string())?;
    }
    Ok(())
}

fn cargo(copy: &Path, scratch: &Path, mutant: &Mutant, more: &[&str]) -> anyhow::Result<(bool, String)> {
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["test", "-p", &mutant.package])
        .args(more)
        .args(&mutant.check)
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", scratch.join("target"))
        .env("RUST_BACKTRACE", "0")
        // Figures of a mutant are nobody's.
        .env("ASSENT_PROOF", scratch.join("proof"))
        .env("PROPTEST_FAILURE_PERSISTENCE", "off")
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), said.into_owned()))
}

fn tail(said: &str) -> String {
    said.lines().filter(|line| line.contains("error") || line.contains("FAILED")).take(3).collect::<Vec<_>>().join("; ")
}

/// Leaves a row for each in the table of figures; `simulation::proof` says what stands in it.
fn record(workspace: &Path, verdicts: &[Verdict<'_>], all: usize) -> anyhow::Result<()> {
    let target = || env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let folder = env::var_os("ASSENT_PROOF").map_or_else(|| target().join("proof"), PathBuf::from);
    let left_out = all - verdicts.len();
    let note =
        if left_out == 0 { String::new() } else { format!("{left_out} more are slow, and planted by ./test deep") };
    let mut lines = String::new();
    for Verdict { mutant, caught_by, .. } in verdicts {
        writeln!(lines, "mutant\t-\t{}\t{}\t1\t{note}", mutant.name, u8::from(caught_by.is_ok()))?;
    }
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("mutants.tsv"), lines)?;
    Ok(())
}

fn report(verdicts: &[Verdict<'_>]) -> String {
    let mut report = String::from("| mutant | why | layer | caught by | seconds |\n|---|---|---|---|---:|\n");
    for Verdict { mutant, caught_by, seconds } in verdicts {
        let by = caught_by.as_ref().map_or_else(|problem| format!("**{problem}**"), |test| format!("`{test}`"));
        writeln!(report, "| {} | {} | {} | {by} | {seconds:.1} |", mutant.name, mutant.why, mutant.layer).ok();
    }
    let caught = verdicts.iter().filter(|verdict| verdict.caught_by.is_ok()).count();
    writeln!(report, "\n{caught} of {} mutants are caught.", verdicts.len()).ok();
    report
}
