use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::setting::Setting;
use super::source::Flag;
use super::*;

/// A configuration file for one test.
struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn file(text: &str) -> File {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("assent.toml");
    fs::write(&path, text).expect("written");
    File { _folder: folder, path }
}

fn sources(file: Option<&File>, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Sources {
    Sources {
        file: file.map(|file| file.path.clone()),
        environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        flags: flags
            .iter()
            .map(|(key, text)| Flag { name: format!("--set {key}"), key: (*key).to_owned(), text: (*text).to_owned() })
            .collect(),
    }
}

fn mistakes(sources: &Sources) -> Vec<String> {
    Config::load(sources).expect_err("mistakes").mistakes.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_given_means_the_defaults() {
    assert_eq!(Config::load(&Sources::default()), Ok(Config::default()));
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let file = file("listen = '127.0.0.1:1'\nreplica = 'of-file'\nretention = '1d'\n[limits]\nopen_max = 5\n");
    let environment =
        [("ASSENT_LISTEN", "127.0.0.1:2"), ("ASSENT_REPLICA", "of-environment"), ("ASSENT_LIMITS_OPEN_MAX", "6")];
    let config = Config::load(&sources(Some(&file), &environment, &[("listen", "127.0.0.1:3")])).expect("fit");
    assert_eq!(config.listen, "127.0.0.1:3");
    assert_eq!(config.replica.as_str(), "of-environment");
    assert_eq!(config.limits.open_max, 6);
    assert_eq!(config.retention, Duration::from_secs(86_400));
    assert_eq!(config.session, Config::default().session);
}

#[test]
fn an_empty_variable_is_one_that_is_not_set() {
    let config = Config::load(&sources(None, &[("ASSENT_TOKEN", ""), ("ASSENT_LOG", "")], &[])).expect("fit");
    assert_eq!(config, Config::default());
}

#[test]
fn every_mistake_is_reported_with_its_place() {
    let file = file(
        "listen = 'nowhere'\n\nretenton = '7d'\n[limits]\nopen_maxx = 5\npayload_bytes_max = '5MiB'\n[sesion]\nsilence_max = '1s'\n",
    );
    let environment = [("ASSENT_REPLICA", "Not A Name"), ("ASSENT_LISTN", "127.0.0.1:1")];
    let found = mistakes(&sources(Some(&file), &environment, &[("retention", "7"), ("nonsense", "1")]));
    let path = file.path.display().to_string();
    let expected = [
        (format!("{path}:1: listen: "), "HOST:PORT"),
        (format!("{path}:3: there is no setting retenton"), "did you mean retention?"),
        (format!("{path}:5: there is no setting limits.open_maxx"), "did you mean limits.open_max?"),
        (format!("{path}:6: limits.payload_bytes_max: "), "at most 3MiB"),
        (format!("{path}:7: there is no table [sesion]"), "did you mean [session]?"),
        ("ASSENT_REPLICA: replica: ".to_owned(), "use 1 to 63 of"),
        ("ASSENT_LISTN: ".to_owned(), "did you mean ASSENT_LISTEN?"),
        ("--set retention: retention: ".to_owned(), "has no unit"),
        ("--set nonsense: there is no setting nonsense".to_owned(), "shows them all"),
    ];
    for (beginning, part) in &expected {
        let is_there = found.iter().any(|mistake| mistake.starts_with(beginning.as_str()) && mistake.contains(part));
        assert!(is_there, "no mistake starts with {beginning:?} and has {part:?} in it:\n{}", found.join("\n"));
    }
    assert_eq!(found.len(), expected.len(), "{}", found.join("\n"));
}

#[test]
fn the_nearest_setting_is_suggested() {
    for (key, meant) in [
        ("limits.open", Some("limits.open_max")),
        ("open_max", Some("limits.open_max")),
        ("limit.open_max", Some("limits.open_max")),
        ("sessions_max", Some("session.sessions_max")),
        ("session.timeout_max", Some("limits.timeout_max")),
        ("tokensfile", Some("tokens_file")),
        ("port", None),
        ("x", None),
        ("é.é", None),
    ] {
        assert_eq!(mistake::nearest(key), meant, "{key}");
    }
}

#[test]
fn broken_toml_is_reported_with_its_line() {
    let file = file("listen = '127.0.0.1:1'\nreplica = \n");
    let found = mistakes(&sources(Some(&file), &[], &[]));
    assert!(found.iter().any(|mistake| mistake.starts_with(&format!("{}:2: ", file.path.display()))), "{found:?}");
    let missing = Sources { file: Some("/nowhere/assent.toml".into()), ..Sources::default() };
    assert!(mistakes(&missing)[0].contains("cannot read the configuration file"));
}

#[test]
fn values_of_another_kind_are_refused() {
    let file = file("shards = true\nreplica = ['a']\nretention = 30\n[listen]\nport = 1\n");
    let found = mistakes(&sources(Some(&file), &[], &[])).join("\n");
    for part in ["shards: \"true\" is no whole number", "replica: it is written as a array", "30 for seconds", "listen"]
    {
        let part = part.replace("30 for seconds", "has no unit: write 30s");
        assert!(found.contains(&part), "{part}: {found}");
    }
}

#[test]
fn what_kubernetes_adds_is_no_mistake() {
    let environment = [
        ("ASSENT_PORT", "tcp://10.0.0.1:7420"),
        ("ASSENT_SERVICE_HOST", "10.0.0.1"),
        ("ASSENT_PORT_7420_TCP_ADDR", "10.0.0.1"),
        ("ASSENT_ENDPOINT", "http://10.0.0.1:7420"),
        ("ASSENT_CONFIG", "/etc/assent.toml"),
        ("ASSENT_SOMETHING_ELSE", "1"),
    ];
    assert_eq!(Config::load(&sources(None, &environment, &[])), Ok(Config::default()));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    for (flags, part) in [
        (
            [("session.heartbeat_interval", "5s"), ("session.silence_max", "6s")],
            "session.silence_max (6s) is under twice",
        ),
        ([("limits.timeout_default", "2h"), ("limits.timeout_max", "1h")], "limits.timeout_default"),
        ([("limits.open_bytes_max", "1KiB"), ("limits.payload_bytes_max", "2KiB")], "could never be taken on"),
    ] {
        let found = mistakes(&sources(None, &[], &flags));
        assert!(found.len() == 1 && found[0].contains(part), "{found:?}");
        assert!(found[0].contains(&format!("--set {}", flags[0].0)), "{found:?}");
    }
}

#[test]
fn secrets_are_not_printed() {
    let config = Config { log: "postgres://me:hush@db/assent".into(), ..Config::default() };
    assert!(!format!("{config:?}").contains("hush"));
}

#[test]
fn durations_and_sizes_have_units() {
    assert_eq!(value::duration("1h 30m"), Ok(Duration::from_secs(5_400)));
    assert_eq!(value::duration("0"), Ok(Duration::ZERO));
    for wrong in ["30", "1.5", "soon", "", "-5s"] {
        assert!(value::duration(wrong).is_err(), "{wrong}");
    }
    for (text, bytes) in [("0", 0), ("1_000", 1_000), ("64KiB", 65_536), ("1 MiB", 1 << 20), ("2GB", 2_000_000_000)] {
        assert_eq!(value::bytes(text), Ok(bytes), "{text}");
    }
    for wrong in ["", "MiB", "1TiB", "-1", "1.5MiB", "99999999999GiB"] {
        assert!(value::bytes(wrong).is_err(), "{wrong}");
    }
    for fit in ["127.0.0.1:0", "[::]:7420", "localhost:7420"] {
        assert!(value::listen(fit).is_ok(), "{fit}");
    }
    for wrong in ["7420", ":7420", "localhost", "localhost:70000", "::1:7420", "http://localhost:7420"] {
        assert!(value::listen(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    for setting in SETTINGS.iter().filter(|setting| !setting.default.is_empty()) {
        let mut config = Config::default();
        (setting.set)(&mut config, setting.default.trim_matches('"')).expect(setting.key);
        assert_eq!(config, Config::default(), "{}", setting.key);
    }
}

/// In `deploy/assent.toml` every setting stands, as a comment, with its default.
#[test]
fn the_sample_file_has_every_setting() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/assent.toml");
    let sample = fs::read_to_string(path).expect("deploy/assent.toml; `assent serve --sample` prints it");
    let fit = file(&sample);
    assert_eq!(Config::load(&sources(Some(&fit), &[], &[])), Ok(Config::default()), "as it is, it changes nothing");
    let mut uncommented = String::new();
    let mut table = String::new();
    let mut seen = Vec::new();
    for line in sample.lines() {
        let line = match line.strip_prefix('#') {
            Some(setting) if is_assignment(setting) => setting.trim(),
            _ => line,
        };
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = format!("{name}.");
        } else if let Some((name, value)) = line.split_once(" = ").filter(|_| is_assignment(line)) {
            let setting = Setting::of_key(&format!("{table}{name}")).expect("a setting");
            seen.push(setting.key);
            if setting.default.is_empty() {
                continue;
            }
            assert_eq!(value, setting.default, "{}", setting.key);
        }
        uncommented.push_str(line);
        uncommented.push('\n');
    }
    assert_eq!(seen, SETTINGS.iter().map(|setting| setting.key).collect::<Vec<_>>());
    let fit = file(&uncommented);
    assert_eq!(Config::load(&sources(Some(&fit), &[], &[])), Ok(Config::default()));
}

fn is_assignment(line: &str) -> bool {
    let name = line.split_once(" = ").map(|(name, _)| name.trim());
    name.is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
}

/// Found by fuzzing: the filter's parser cut through the letter.
#[test]
fn a_filter_that_is_not_ascii_is_a_mistake() {
    let told = mistakes(&sources(None, &[], &[("telemetry.log_filter", "[é{")]));
    assert!(
        matches!(told.as_slice(), [told] if told.contains("ASCII") && told.contains("info,assent::driver=debug")),
        "{told:?}"
    );
}
