//! A coordinator as its callers meet it: through real sockets, on a log in a file.

mod harness;
mod listing;
mod process;
mod saga;
mod serving;
mod transaction;
