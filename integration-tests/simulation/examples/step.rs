//! `replay` of integration-tests, without what that is built with: `cargo run -p simulation --example step -- SEED`.

fn main() -> std::process::ExitCode {
    simulation::replay::main(std::env::args().skip(1))
}
