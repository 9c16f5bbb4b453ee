//! Any configuration at all.

use std::path::Path;

use assent_protocol::fuzz::Tape;

use super::{Config, Flag, SETTINGS, Sources, sample, source};

/// Reads a configuration file, variables and flags that say anything: every mistake has its words, and the rest is a configuration.
///
/// # Panics
/// If something else comes of it.
pub fn config(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    let mut sources = Sources::default();
    for _ in 0..tape.below(3) {
        let setting = &SETTINGS[tape.below(SETTINGS.len())];
        let values = ["30s", "1h 30m", "64KiB", "1_000", "127.0.0.1:7420", "sqlite:a.db", "http://collector:4317"];
        let text = tape.pick(&values);
        let text = if tape.one_in(2) { tape.damaged_text(text) } else { text.to_owned() };
        if tape.one_in(2) {
            sources.environment.push((setting.variable(), text));
        } else {
            sources.flags.push(Flag { name: "--set".to_owned(), key: setting.key.to_owned(), text });
        }
    }
    if let Err(error) = Config::load(&sources) {
        assert!(!error.mistakes.is_empty() && error.mistakes.iter().all(|mistake| !mistake.problem.is_empty()));
    }
    let (mut given, mut mistakes) = (Vec::new(), Vec::new());
    // Every setting stands in it behind a `#`; some of them stand for themselves.
    let sample = sample();
    let lines = sample.lines().map(|line| if tape.one_in(2) { line.trim_start_matches("# ") } else { line }.to_owned());
    let file = lines.collect::<Vec<_>>().join("\n");
    let file = tape.damaged_text(file);
    source::of_file(Path::new("assent.toml"), &file, &mut given, &mut mistakes);
    let mut config = Config::default();
    for given in given {
        if let Err(problem) = (given.setting.set)(&mut config, &given.text) {
            assert!(!problem.is_empty(), "{}", given.setting.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(1_000), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_configuration_is_read_or_its_mistakes_are_told(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            super::config(&bytes);
        }
    }
}
