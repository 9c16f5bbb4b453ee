//! Errors with their causes.
//!
//! `Display` of an error says one thing and leaves its causes to `source()`: a log that writes both
//! would say everything twice. But `main() -> Result<(), BoxError>` and `expect` print `Debug`, and
//! `{error}` in a log line drops the causes, which say what to do. So every error of this crate
//! prints its causes as `Debug`, and [`ErrorChain`] prints those of any error.

use std::error::Error;
use std::fmt;

/// An error and its causes in one line, the outermost first.
///
/// ```
/// use assent_sdk::ErrorChain;
///
/// let error = "ten".parse::<u32>().expect_err("not a number");
/// assert_eq!(ErrorChain(&error).to_string(), "invalid digit found in string");
/// ```
///
/// In a log line: `tracing::warn!(error = %ErrorChain(&error), "cannot join")`. The errors of this
/// crate print the same as their `Debug`, so `?error` does too.
#[derive(Clone, Copy)]
pub struct ErrorChain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Errors of other crates may repeat their source.
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes `Debug` of errors print them with their causes.
macro_rules! debug_as_chain {
    ($($error:ty),+ $(,)?) => {
        $(impl std::fmt::Debug for $error {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(&$crate::error_chain::ErrorChain(self), f)
            }
        })+
    };
}

pub(crate) use debug_as_chain;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::participant::BoxError;
    use crate::{ConnectError, EnlistError, Error as RequestError};

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the file: {0}")]
    struct Repeats(#[source] std::fmt::Error);

    #[test]
    fn a_cause_that_was_said_is_not_repeated() {
        let error = Repeats(std::fmt::Error);
        assert_eq!(ErrorChain(&error).to_string(), format!("cannot read the file: {}", std::fmt::Error));
    }

    /// What `main() -> Result<(), BoxError>` prints behind `Error: `.
    fn printed_by_main(error: impl Into<BoxError>) -> String {
        format!("{:?}", error.into())
    }

    #[test]
    fn main_prints_what_to_do() {
        let start = ConnectError::Start("max_prepared_transactions is 0: set it to at least max_connections".into());
        assert_eq!(
            printed_by_main(start),
            "the participant cannot start: max_prepared_transactions is 0: set it to at least max_connections"
        );
        let refused = assent_proto::error::Reason::Draining.refused("this replica is leaving; ask another");
        assert_eq!(
            printed_by_main(EnlistError::Refused(refused.clone())),
            "the branch was not enlisted; what it prepared has to be undone: this replica is leaving; ask another [DRAINING]"
        );
        assert_eq!(printed_by_main(RequestError::from(refused)), "this replica is leaving; ask another [DRAINING]");
        let name = "Bank A".parse::<crate::ParticipantName>().expect_err("a blank");
        assert_eq!(printed_by_main(name.clone()), name.to_string());
        assert!(name.to_string().contains("use 1 to 63 of a-z"), "{name}");
    }

    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }

    #[test]
    fn every_error_of_this_crate_prints_its_causes() {
        let mut files = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
        let mut errors = 0;
        for file in files {
            let text = fs::read_to_string(&file).expect("a source file");
            for derive in text.lines().filter(|line| line.starts_with("#[derive(") && line.contains("thiserror::Error"))
            {
                errors += 1;
                assert!(!derive.contains("Debug"), "{}: {derive}: use debug_as_chain", file.display());
            }
        }
        assert!(errors > 10, "only {errors} errors were found");
    }
}
