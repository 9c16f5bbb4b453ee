//! `assent token`: tokens for callers that have no certificate.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use assent_transport::Identity;
use clap::{Args, Subcommand};

use super::{Exit, Failure, Output};
use crate::access::{MintedToken, TokensError, mint};

/// Make tokens for callers that have no certificate.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token, and its entry for the tokens file.
    New(New),
}

/// Make a token, and its entry for the tokens file.
#[derive(Debug, Args)]
pub struct New {
    /// Who its holder is: participant/NAME, initiator/NAME, observer/NAME, operator/NAME, administrator/NAME. A service that is several
    /// has several.
    #[arg(value_name = "ROLE/NAME", required = true)]
    identities: Vec<Identity>,
    /// The file that the token goes to, for --token-file; only this user can read it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The tokens file of the server, to which the entry is added; printed without one.
    #[arg(long, value_name = "FILE")]
    tokens_file: Option<PathBuf>,
}

impl Token {
    /// Makes it. The token itself is never printed: terminals and shells remember.
    pub(super) fn run(self, output: &mut Output) -> Result<(), Failure> {
        let Self::New(New { identities, out, tokens_file }) = self;
        let MintedToken { token, entry } = mint(&identities)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        append(&out, &mut options, &format!("{}\n", token.expose()))?;
        match tokens_file {
            Some(path) => {
                let mut options = OpenOptions::new();
                options.append(true).create(true);
                append(&path, &mut options, &format!("\n{entry}"))?;
                output.line(&format!("the token is in {}, and its entry in {}", out.display(), path.display()))?;
            }
            None => output.text(&entry)?,
        }
        Ok(())
    }
}

fn append(path: &Path, options: &mut OpenOptions, text: &str) -> Result<(), Failure> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            let next = "choose another --out, or remove it first";
            Failure::new(Exit::Conflict, format!("{} is there already", path.display()), next)
        }
        _ => Failure::new(
            Exit::Failed,
            format!("cannot write {} ({error})", path.display()),
            "check that this user may write there",
        ),
    })
}

impl From<TokensError> for Failure {
    fn from(error: TokensError) -> Self {
        Self::of_error(Exit::Failed, &error)
    }
}
