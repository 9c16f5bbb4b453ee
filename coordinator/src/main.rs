//! The program `assent`; everything is in the library.

use std::process::ExitCode;

/// A transaction is many short-lived messages and records, made by one thread and dropped by another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    assent::cli::main()
}
