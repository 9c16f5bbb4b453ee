//! All tests that need real processes or a real Postgres: one binary, so that it is linked once.
//! One module per subject.

mod bench;
mod called_twice;
mod chaos;
mod crash_points;
mod demo;
mod deploy;
mod forgotten;
mod harness;
mod hot_row;
mod initiators;
mod interrupted;
mod left_prepared;
mod lock_waits;
mod log_away;
mod log_postgres;
mod log_postgres_faults;
mod log_postgres_roles;
mod log_postgres_schema;
mod log_postgres_tls;
mod pooler;
mod propagation;
mod sagas;
mod sdk_postgres;
mod sdk_postgres_barrier;
mod sdk_postgres_guard;
mod sdk_postgres_recorded;
mod sdk_postgres_sessions;
mod sdk_postgres_start;
mod sdk_postgres_voters;
mod three_phase;
mod too_large;
mod transfers;
mod two_names;
mod upgrade;
mod verify_log;
