//! Steps through one seed of the swarm, readably: when, who, what, and what changed.
//!
//! ```text
//! replay SEED [--until STEP] [--state]
//! ```
//!
//! Times are by the clock of the world: a message takes milliseconds, a timer as long as it was set for.

use std::process::ExitCode;

use crate::swarm::{self, Run, Swarm, Told};

const USAGE: &str = "usage: replay SEED [--until STEP] [--state]

  SEED     as a failing test of the swarm names it
  --until  stops before this step
  --state  shows how everybody stands after every step, not only what changed";

struct Wanted {
    seed: u64,
    until: usize,
    state: bool,
}

fn parse(arguments: impl Iterator<Item = String>) -> Option<Wanted> {
    let mut wanted = Wanted { seed: 0, until: usize::MAX, state: false };
    let mut seed = None;
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--until" => wanted.until = arguments.next()?.parse().ok()?,
            "--state" => wanted.state = true,
            _ if seed.is_none() => seed = Some(argument.parse().ok()?),
            _ => return None,
        }
    }
    wanted.seed = seed?;
    Some(wanted)
}

/// Runs the command on the arguments behind its name. Fails if the seed breaks something.
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let Some(wanted) = parse(arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    show::<crate::cluster::world::World>(&wanted)
}

fn show<W: Swarm>(wanted: &Wanted) -> ExitCode {
    let Run { trace, setup, story, outcome } = swarm::replay::<W>(wanted.seed);
    println!("{} seed {}, trace {trace:016x}\n{setup}\n", W::NAME, wanted.seed);
    let mut before: &[(String, String)] = &[];
    for (at, Told { time_ms, who, what, parts }) in story.iter().enumerate() {
        if at >= wanted.until {
            println!("... and {} steps more", story.len() - at);
            return ExitCode::SUCCESS;
        }
        println!("{at:>4} {:>9.3} s  {who:<14} {what}", *time_ms as f64 / 1000.0);
        for (part, now) in parts {
            let old = before.iter().find(|(known, _)| known == part).map(|(_, old)| old);
            if wanted.state || old != Some(now) {
                println!("                      {part}: {now}");
            }
        }
        before = parts;
    }
    match outcome {
        Ok(()) => {
            println!("\nnothing was broken, and it ended");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            println!("\nBROKEN: {problem}");
            ExitCode::FAILURE
        }
    }
}
