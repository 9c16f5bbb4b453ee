//! All tests that need real processes or a real Postgres: one binary, so that it is linked once. One module per subject.

mod chaos;
mod demo;
mod deploy;
mod harness;
mod propagation;
mod sagas;
mod sdk_postgres;
mod sdk_postgres_barrier;
mod sdk_postgres_guard;
mod sdk_postgres_recorded;
mod sdk_postgres_start;
mod transfers;
