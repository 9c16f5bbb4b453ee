//! Roles of the log's database: one that owns the schema and migrates, one that serves.

use std::fmt;

use super::{OpenError, backend};

/// What [`grant`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The role that may serve now.
    pub role: String,
    /// Whether it was created. It has no password then.
    pub is_new: bool,
}

/// The privileges that a role lacks to serve, in the words of GRANT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lacking(pub Vec<String>);

impl Lacking {
    /// Whether nothing is lacking.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// Makes a role of the database one that can serve this log, and do nothing else with it: neither
/// change the schema, nor change or delete what has ended. Creates it if it is not there. The URL
/// names the role that owns the schema.
///
/// # Errors
/// [`OpenError::Role`] if that role could do more, or the log has no roles; others if the database
/// cannot be reached or refuses. Nothing was changed.
pub async fn grant(url: &str, role: &str) -> Result<Granted, OpenError> {
    backend::named_by(url)?.grant(role).await
}

/// What a role lacks to serve this log; nothing is changed.
///
/// # Errors
/// As [`grant`].
pub async fn lacking(url: &str, role: &str) -> Result<Lacking, OpenError> {
    backend::named_by(url)?.lacking(role).await
}
