//! Steps through one seed of the simulation: `cargo run -p integration-tests --bin replay -- SEED`; see `simulation::replay`.

fn main() -> std::process::ExitCode {
    simulation::replay::main(std::env::args().skip(1))
}
