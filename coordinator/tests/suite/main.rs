//! A coordinator as its callers meet it: through real sockets, on a log in a file.

mod access;
mod audit;
mod certificates;
mod flood;
mod harness;
mod initiating;
mod listing;
mod malformed;
mod people;
mod process;
mod recovery;
mod refusals;
mod rights;
mod rotation;
mod saga;
mod serving;
mod shown;
mod telemetry;
mod three_phase;
mod tls;
mod transaction;
