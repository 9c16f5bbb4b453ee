//! What a broken invariant looks like.
//!
//! Each machine has one function per invariant beside it (`saga::invariant` and its siblings). They run after every event in
//! tests and as debug assertions in the server.

/// A machine did what it must never do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{invariant} is broken: {problem}")]
pub struct Violation {
    /// Which invariant, by its number and name: `I10 never forward again`.
    pub invariant: &'static str,
    /// What was seen, in words.
    pub problem: String,
}
