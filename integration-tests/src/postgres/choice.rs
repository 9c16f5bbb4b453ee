//! Which Postgres the tests use: a container's image, or the programs of an installed one.
//!
//! `postgres/choose` decides, and the environment carries its decision. `./test` calls it before the tests; where it has not
//! been called, the first test that needs a server calls it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;

/// Names an image: servers are containers of it.
const IMAGE_VARIABLE: &str = "ASSENT_TEST_POSTGRES_IMAGE";
/// Names a directory with `initdb` and `postgres`: servers are child processes.
const BIN_VARIABLE: &str = "ASSENT_TEST_POSTGRES_BIN";

/// Where servers come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// Containers of an image.
    Image {
        /// The image's name, registry and path included.
        name: String,
        /// The image's tag.
        tag: String,
    },
    /// Child processes of the programs in a directory.
    Installed {
        /// The directory that holds `initdb` and `postgres`.
        bin: PathBuf,
    },
}

impl Choice {
    /// The choice that the environment carries.
    ///
    /// # Errors
    /// When it carries none, or one that makes no sense.
    pub(super) fn from_environment() -> anyhow::Result<Self> {
        if let Some(image) = variable(IMAGE_VARIABLE) {
            // A colon before the last slash belongs to the registry's port.
            let (name, tag) = match image.rsplit_once(':') {
                Some((name, tag)) if !tag.contains('/') => (name, tag),
                _ => (image.as_str(), "latest"),
            };
            return Ok(Self::Image { name: name.to_owned(), tag: tag.to_owned() });
        }
        if let Some(bin) = variable(BIN_VARIABLE) {
            let bin = PathBuf::from(bin);
            ensure!(
                bin.join("postgres").is_file() && bin.join("initdb").is_file(),
                "{BIN_VARIABLE}={} holds no programs 'postgres' and 'initdb'",
                bin.display()
            );
            return Ok(Self::Installed { bin });
        }
        bail!("neither {IMAGE_VARIABLE} nor {BIN_VARIABLE} is set")
    }
}

/// What the environment says about the choice, or nothing: keepers with different choices are different keepers.
pub(super) fn stated() -> String {
    [IMAGE_VARIABLE, BIN_VARIABLE].into_iter().filter_map(variable).collect::<Vec<_>>().join(" ")
}

/// Decides, and prepares what was decided for; the environment for whoever starts servers.
///
/// It may take a minute or two when an image has to be pulled or built, or Postgres installed. What it does appears on the
/// test's standard error.
///
/// # Errors
/// When no Postgres can be had. What to do about it then stands on standard error.
pub(super) async fn decide() -> anyhow::Result<Vec<(String, String)>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("postgres/choose");
    let output = Command::new(&script)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .await
        .with_context(|| format!("cannot run {}", script.display()))?;
    // Through the test's own print, so that it is captured and shown like everything else that the test says.
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    ensure!(
        output.status.success(),
        "tests that need Postgres cannot run on this machine ({}):\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .context("the choice is not UTF-8")?
        .lines()
        .map(|line| match line.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => bail!("{} printed '{line}', which is no NAME=VALUE", script.display()),
        })
        .collect()
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
