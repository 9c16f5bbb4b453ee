//! What the coordinator's log and the participants' resources both have to know of a connection to
//! Postgres.
//!
//! | file | subject |
//! |---|---|
//! | `loan.rs` | a connection of a pool that goes back clean, or is closed |
//! | `pooler.rs` | a pooler between this process and the server |
//!
//! It knows nothing of transactions of Assent, of the log's tables or of a participant's.

mod loan;
mod pooler;

pub use loan::{CLEANED_WITHIN, Cleaning, Loan};
pub use pooler::{is_refused_by_pooler, shares_sessions};
