//! Any bytes at all, for whatever reads a file: see the functions.

pub use crate::journal::fuzz::journal_file;
pub use crate::voter::fuzz::voter_payload;
