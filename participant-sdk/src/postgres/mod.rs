//! For participants whose data is in Postgres.
//!
//! | you want to | look at |
//! |---|---|
//! | take part in two-phase commits | [`PostgresResource`] with a [`PostgresWork`] |
//! | work and prepare while your service is called | [`PostgresResource::begin`] and its [`PostgresGuard`] |
//! | execute and compensate saga steps exactly once | [`Barrier`] |
//! | take part in three-phase commits | [`PostgresVoters`] beside the resource |
//!
//! A prepared branch keeps the locks of its rows, through restarts too, until it learns its
//! decision. So a service that changes its own tables when it starts may wait for its own branch.
//! It does that in [`Builder::settle_first`](crate::Builder::settle_first), which runs it once
//! nothing is in doubt. Where a service hangs at its start,
//! `select gid, prepared from pg_prepared_xacts` shows what holds the locks.
//!
//! What holds, and where it is seen to:
//! - A yes is only voted when PREPARE TRANSACTION has prepared: it may roll back without an error
//!   (`preparing`).
//! - A commit or abort may come twice, to any instance, and after a crash (`ending`).
//! - A recorded branch that was aborted is never prepared afterwards, however late its prepare
//!   comes (`fencing`).
//! - A prepared transaction of somebody else is never ended, listed or counted (`gid`).
//! - An end never waits behind work for a connection (`connections`).
//! - A transaction that is still open at its deadline is rolled back, whatever its handler does
//!   (`expiry`).
//! - What was given up is ended at the server, and until then counts as a connection
//!   (`connections`).
//! - Locks are waited for in bounded time, and who holds them is named (`limits`, `locks`).
//! - What one branch sets in its session, the next does not see (`session`).
//! - Branches of a coordinator that is gone are shown, with the statement that ends them
//!   (`starting`).
//! - A server that cannot prepare, or would not let its prepared transactions be found, is found
//!   out at the start (`starting`).

pub mod barrier;
mod connections;
mod ending;
mod error;
mod expiry;
mod fencing;
mod gid;
mod guard;
mod hazards;
mod limits;
mod locks;
mod preparing;
mod resource;
mod session;
mod starting;
mod voters;

pub use barrier::Barrier;
pub use error::PostgresError;
pub use guard::{EarlyPrepareError, Enlist, PostgresGuard};
pub use hazards::Hazards;
pub use resource::{EarlyOnly, PostgresResource, PostgresWork};
pub use voters::PostgresVoters;
