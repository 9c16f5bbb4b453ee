//! Finding the binaries of this workspace.
//!
//! Cargo tells a test where the binaries of its own package are, and builds those; `assent` belongs to another package. Beside
//! the test there may be an `assent` from yesterday, so looking is not enough: cargo is asked, which builds it if need be and
//! takes a fraction of a second if not. `./test` has built everything before and says so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Set to `built` by who has built all binaries in the profile of the tests.
const BUILT_VARIABLE: &str = "ASSENT_TEST_BINARIES";

/// The package that the tests are in: its own binaries are always built before its tests.
const OWN_BINARIES: &[&str] = &["test-participant", "test-postgres"];

/// What cargo tells a test about its package. Build scripts of dependencies would take it for a change and run again.
const OF_THE_TEST: &[&str] = &["CARGO_BIN_", "CARGO_CRATE_", "CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_PRIMARY_"];

/// The path of a binary of this workspace, built from the current sources in the profile of the running test.
///
/// # Panics
/// When there is no such binary, or it does not build.
#[must_use]
pub fn executable(name: &str) -> PathBuf {
    static FOUND: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = found.get(name) {
        return path.clone();
    }
    let path = find(name);
    found.insert(name.to_owned(), path.clone());
    path
}

fn find(name: &str) -> PathBuf {
    let beside = beside_this_test().join(name).with_extension(std::env::consts::EXE_EXTENSION);
    let built = std::env::var_os(BUILT_VARIABLE).is_some_and(|value| value == "built");
    if (built || OWN_BINARIES.contains(&name)) && beside.is_file() {
        return beside;
    }
    build(name)
}

/// `target/debug` when the test is `target/debug/deps/suite-0123456789abcdef`, or is itself a binary in there.
fn beside_this_test() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let directory = test.parent().expect("a directory around the test");
    let deps = directory.file_name().is_some_and(|name| name == "deps");
    if deps { directory.parent().expect("a directory around deps").to_owned() } else { directory.to_owned() }
}

fn build(name: &str) -> PathBuf {
    let directory = beside_this_test();
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a directory around this package");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (variable, _) in std::env::vars_os() {
        if OF_THE_TEST.iter().any(|prefix| variable.to_string_lossy().starts_with(prefix)) {
            cargo.env_remove(variable);
        }
    }
    // These packages, as in a test's own build: the features of what they share stay the same, and so does what is built.
    let output = cargo
        .args(["build", "--package", "assent", "--package", "integration-tests", "--bins"])
        .args(["--package", "first-participant", "--package", "shop"])
        .args(["--profile", profile, "--message-format", "json-render-diagnostics"])
        .current_dir(workspace)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run cargo to build '{name}': {error}"));
    assert!(
        output.status.success(),
        "'{name}' does not build; try 'cargo build --workspace --bins':\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact" && message["target"]["name"] == name)
        // A library of the same name has no executable.
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .unwrap_or_else(|| panic!("no package of this workspace has a binary '{name}'"))
}
