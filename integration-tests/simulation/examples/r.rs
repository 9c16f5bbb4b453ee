fn main() -> std::process::ExitCode {
    let a: Vec<String> = std::env::args().skip(1).collect();
    simulation::replay::main(a.into_iter())
}
