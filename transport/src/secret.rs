//! Texts that are not printed.

use std::fmt;

/// A text that must not be printed: a token, or a URL with a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether this is the secret. Takes the same time wherever the two differ.
    pub fn is(&self, given: &[u8]) -> bool {
        let expected = self.0.as_bytes();
        expected.len() == given.len()
            && expected.iter().zip(given).fold(0, |difference, (one, other)| difference | (one ^ other)) == 0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_compared_and_not_printed() {
        let secret = Secret::from("secret");
        assert!(secret.is(b"secret"));
        for other in [&b""[..], b"secre", b"secret1", b"Secret"] {
            assert!(!secret.is(other));
        }
        assert_eq!(format!("{secret:?}"), "***");
    }
}
