//! All tests that need real processes or a real Postgres: one binary, so that it is linked once. One module per subject.

mod chaos;
mod harness;
mod propagation;
mod sagas;
mod transfers;
