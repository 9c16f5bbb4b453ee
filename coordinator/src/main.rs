//! The program `assent`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    assent::cli::main()
}
