//! Any text and bytes at all, for whatever reads a row, a file, a flag or a request: see the functions.

pub use crate::access::fuzz::{announced, certificate, login, tokens_file};
pub use crate::config::fuzz::config;
pub use crate::log::fuzz::{log_url, page_token, rows, stored};
pub use crate::service::fuzz::requests;
