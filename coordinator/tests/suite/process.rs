//! The program itself: what it prints, and how it ends.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use assent_proto::v1::{BeginRequest, CommitRequest};

use crate::harness::{Home, Manner, PATIENCE, branch, gtid, participant, transactions, until, whole};

/// As [`ended`], for tests that serve in this process.
pub(crate) async fn ended_beside(arguments: &[&str]) -> (i32, String, String) {
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let program = tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        ended(&arguments)
    });
    program.await.expect("no panic")
}

/// The program, without this process's own settings.
fn assent(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_assent"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ASSENT_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Its exit code, stdout and stderr.
pub(crate) fn ended(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = assent(arguments).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code().expect("no signal"), text(stdout), text(stderr))
}

/// A coordinator in a process of its own.
pub(crate) struct Served {
    child: Child,
    endpoint: String,
}

impl Served {
    pub(crate) fn start(home: &Home, arguments: &[&str], stderr: Stdio) -> Self {
        Self::start_in(home, arguments, stderr, &[])
    }

    /// The same, with these in its environment.
    pub(crate) fn start_in(home: &Home, arguments: &[&str], stderr: Stdio, environment: &[(&str, &str)]) -> Self {
        let log = home.log();
        let mut all = vec!["serve", "--listen", "127.0.0.1:0", "--log", &log];
        all.extend(arguments);
        Self::of(assent(&all).stderr(stderr).envs(environment.iter().copied()))
    }

    /// A coordinator that has so many open files to begin with, and may have so many at most.
    #[cfg(unix)]
    pub(crate) fn start_with_files(home: &Home, soft: u32, hard: u32) -> Self {
        let script = format!(
            "ulimit -S -n {soft} && ulimit -H -n {hard} && exec \"$0\" serve --listen 127.0.0.1:0 --log \"$1\""
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_assent"), &home.log()]);
        Self::of(shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()))
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let Some(rest) = line.strip_prefix("assent listening on ") else {
            panic!("it said {line:?}, and nothing else: {:?}", child.wait());
        };
        let endpoint = rest.split(' ').next().expect("a URL").to_owned();
        assert!(rest.contains(" replica=assent epoch="), "{line}");
        Self { child, endpoint }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    pub(crate) fn terminate(&mut self) -> i32 {
        let killed = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(killed.success());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code().expect("no signal");
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_coordinator_says_where_it_listens_and_ends_at_a_signal() {
    let home = Home::new();
    let mut served = Served::start(&home, &[], Stdio::inherit());
    let endpoint = served.endpoint.clone();
    let endpoint = ["--endpoint", endpoint.as_str()];
    let (code, stdout, stderr) = ended(&[&["tx", "list"][..], &endpoint].concat());
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with("GTID"), "{stdout}");
    let (code, stdout, _) = ended(&[&["tx", "list", "-o", "json"][..], &endpoint].concat());
    assert_eq!((code, stdout.as_str()), (0, "[]\n"));
    let (code, _, stderr) = ended(&[&["tx", "show", &gtid()][..], &endpoint].concat());
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.starts_with("error: no transaction"), "{stderr}");
    // Another one on its port.
    let other = Home::new();
    let listen = endpoint[1].trim_start_matches("http://");
    let (code, _, stderr) = ended(&["serve", "--listen", listen, "--log", &other.log()]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("another process listens there"), "{stderr}");
    // Another one on its log.
    let (code, _, stderr) = ended(&["serve", "--listen", "127.0.0.1:0", "--log", &home.log()]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("in use by another process"), "{stderr}");
    assert_eq!(served.terminate(), 0);
    let (code, _, stderr) = ended(&[&["tx", "list"][..], &endpoint].concat());
    assert_eq!(code, 7, "{stderr}");
}

#[test]
fn mistakes_in_the_configuration_end_it_at_once() {
    let home = Home::new();
    let path = home.path().join("assent.toml");
    std::fs::write(&path, "listen = 'nowhere'\n[limits]\nopen_maxx = 1\n").expect("written");
    let path = path.to_str().expect("a path");
    let (code, stdout, stderr) = ended(&["serve", "--config", path]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("has 2 mistakes") && stderr.contains("did you mean limits.open_max?"), "{stderr}");
    let (code, _, stderr) = ended(&["serve", "--log", "mysql://me@db/x"]);
    assert_eq!(code, 2, "{stderr}");
    let (code, stdout, _) = ended(&["serve", "--check"]);
    assert_eq!((code, stdout.as_str()), (0, "the configuration is fit\n"));
    let (code, _, stderr) = ended(&["serve", "--log", "postgres://me:hush@127.0.0.1:1/x", "--wait-for-log", "100ms"]);
    assert_eq!(code, 7, "{stderr}");
    assert!(!stderr.contains("hush"), "{stderr}");
}

#[test]
fn all_mistakes_are_told_at_once_wherever_they_are() {
    let home = Home::new();
    let path = home.path().join("assent.toml");
    let file = "listen = 5\nfoo = 'x'\n[limits]\nopen_max = 'many'\n[session]\nsilence_max = '-5s'\n";
    std::fs::write(&path, file).expect("written");
    let path = path.to_str().expect("a path");
    let arguments = ["serve", "--config", path, "--log", "mysql://me:hush@db/x", "--set", "nope=3", "--drain-max=-1s"];
    let mut command = assent(&arguments);
    command.env("ASSENT_LISTTEN", "x").env("ASSENT_RETENTION", "-3d").env("ASSENT_LIMITS_OPEN_BYTES_MAX", "-1");
    let output = command.output().expect("it runs");
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b""[..]), "{stderr}");
    for part in [
        "has 10 mistakes",
        "assent.toml:1: listen",
        "assent.toml:2: there is no setting foo",
        "assent.toml:4: limits.open_max",
        "assent.toml:6: session.silence_max",
        "ASSENT_LISTTEN: there is no such setting; did you mean ASSENT_LISTEN?",
        "ASSENT_RETENTION: retention",
        "ASSENT_LIMITS_OPEN_BYTES_MAX: limits.open_bytes_max",
        "--log: log: \"mysql://me@db/x\" does not name a log",
        "--set nope: there is no setting nope",
        "--drain-max: drain_max",
        " next: correct that",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    // What is given twice: a flag stands above the environment, and a flag is given once.
    let output = assent(&["serve", "--check", "--log", "sqlite:a.db"]).env("ASSENT_LOG", "sqlite:b.db").output();
    assert_eq!(output.expect("it runs").status.code(), Some(0));
    let (code, _, stderr) = ended(&["serve", "--check", "--log", "sqlite:a.db", "--log", "sqlite:b.db"]);
    assert!(code == 2 && stderr.contains("cannot be used multiple times"), "{code}: {stderr}");
    for (arguments, part) in [
        (["serve", "--config", "/no/such/file"], "cannot read the configuration file"),
        (["serve", "--config", "/"], "cannot read the configuration file"),
        (["serve", "--listen", "127.0.0.1:80000"], "write HOST:PORT"),
        (["serve", "--replica", ""], "use 1 to 63 of a-z"),
        (["serve", "--tokens-file", "/no/such/file"], "the tokens file /no/such/file"),
    ] {
        let (code, stdout, stderr) = ended(&arguments);
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.contains(part) && stderr.contains(" next: "), "{stderr}");
    }
}

#[test]
fn a_log_that_cannot_be_a_file_says_what_to_do() {
    let home = Home::new();
    let not_a_database = home.path().join("letter.db");
    std::fs::write(&not_a_database, "Dear Sir or Madam, ".repeat(100)).expect("written");
    let before = std::fs::read(&not_a_database).expect("read");
    for (path, parts) in [
        (home.path().join("missing/log.db"), ["there is no directory", "next: create it"]),
        (home.path().to_owned(), ["it is a directory", "next: name a file"]),
        (not_a_database.clone(), ["it is not an SQLite database", "next: choose another path"]),
    ] {
        let log = format!("sqlite:{}", path.display());
        for command in [&["serve", "--listen", "127.0.0.1:0", "--log", &log][..], &["migrate", "--log", &log]] {
            let (code, stdout, stderr) = ended(command);
            assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
            assert!(parts.iter().all(|part| stderr.contains(part)), "{stderr}");
        }
    }
    assert_eq!(std::fs::read(&not_a_database).expect("read"), before, "it is as it was");
}

#[tokio::test]
async fn what_an_operator_mistypes_is_explained() {
    let home = Home::new();
    let coordinator = home.start().await;
    let endpoint = coordinator.endpoint();
    let gtid = gtid();
    for (arguments, code, part) in [
        (&["tx", "show", "nonsense"][..], 2, "UUID of version 7"),
        (&["tx", "show", ""], 2, "UUID of version 7"),
        (&["tx", "show", "f47ac10b-58cc-4372-a567-0e02b2c3d479"], 2, "UUID of version 7"),
        (&["tx", "show", &gtid], 3, "next: "),
        (&["tx", "list", "-o", "yaml"], 2, "possible values: table, json, jsonl"),
        (&["tx", "list", "--state", "nope"], 2, "possible values: active"),
        (&["tx", "list", "--participant", "Not A Name"], 2, "use 1 to 63 of a-z"),
        (&["tx", "list", "--older-than=-5s"], 2, "write such as 500ms, 30s"),
        (&["tx", "list", "--older-than=5"], 2, "write 5s for seconds"),
        (&["tx", "list", "--limit=-1"], 2, "invalid value '-1'"),
        (&["tx", "list", "--limit", "0"], 2, "0 is not in 1.."),
        (&["bench", "--participants", "0"], 2, "0 is not in 1..=100"),
        (&["bench", "--duration", "0"], 2, "0 is not in 1..=86400"),
        (&["bench", "--payload-bytes", "99999999"], 2, "is not in 0..=3145728"),
        (&["bench", "--log", "foo"], 2, "use sqlite:PATH or postgres://"),
    ] {
        let (ended, stdout, stderr) = ended_beside(&[arguments, &["--endpoint", &endpoint]].concat()).await;
        assert_eq!((ended, stdout.as_str()), (code, ""), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(part), "{arguments:?}: {stderr}");
    }
    for (wrong, code, part) in
        [("nonsense", 2, "is not a URL of a coordinator"), ("http://127.0.0.1:1", 7, "start one with `assent serve`")]
    {
        let (ended, stdout, stderr) = ended_beside(&["tx", "list", "--endpoint", wrong]).await;
        assert_eq!((ended, stdout.as_str()), (code, ""), "{stderr}");
        assert!(stderr.contains(part) && stderr.contains(" next: "), "{stderr}");
    }
}

#[tokio::test]
async fn a_benchmark_in_which_nothing_succeeds_has_failed() {
    let home = Home::new();
    let limits = assent::driver::Limits { payload_bytes_max: 10, ..Default::default() };
    let coordinator = home.start_with(assent::config::Config { limits, ..home.config() }).await;
    let endpoint = coordinator.endpoint();
    let arguments =
        ["bench", "--duration", "1", "--concurrency", "1", "--payload-bytes", "11", "--endpoint", &endpoint];
    let (code, _, stderr) = ended_beside(&arguments).await;
    assert_eq!(code, 1, "{stderr}");
    for part in ["no transaction came to its end", "11 bytes, and the coordinator takes 10", " next: "] {
        assert!(stderr.contains(part), "{stderr}");
    }
}

/// Figures of a file that nothing forces to a disk are none: a benchmark says what it measured on.
#[test]
fn a_benchmark_says_on_what_its_figures_rest() {
    let arguments = ["bench", "--protocol", "3pc", "--duration", "1", "--concurrency", "4", "--output", "json"];
    let (code, stdout, stderr) = ended(&arguments);
    assert_eq!(code, 0, "{stderr}");
    let report: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    let log = serde_json::json!({ "kind": "sqlite", "synchronous": "full" });
    assert_eq!(report["storage"]["log"], log, "{stdout}");
    let voters = &report["storage"]["voters"];
    assert!(voters["directory"].as_str().is_some_and(|directory| directory.starts_with('/')), "{stdout}");
    assert!(voters["file_system"].is_string() || !cfg!(target_os = "linux"), "{stdout}");
    let (committed, per_s) = (report["committed"].as_u64().expect("a count"), report["tx_per_s"].as_f64());
    assert!(committed > 0 && per_s.is_some_and(|per_s| per_s > 0.0), "{stdout}");
}

#[test]
fn the_program_explains_itself() {
    let (code, stdout, stderr) = ended(&[]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("Examples:") && stdout.contains("Exit codes:"), "{stdout}");
    let (code, stdout, _) = ended(&["serve", "--help"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("ASSENT_LIMITS_OPEN_MAX"), "{stdout}");
    let (code, stdout, _) = ended(&["serve", "--sample"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("#open_max = 100000"), "{stdout}");
    let (code, stdout, _) = ended(&["completions", "bash"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("_assent"), "{stdout}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    for arguments in [&["completions", "bash"][..], &["serve", "--sample"], &["--help"], &[]] {
        let mut child = assent(arguments).spawn().expect("it starts");
        drop(child.stdout.take());
        let mut stderr = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut stderr).expect("text");
        assert_eq!((child.wait().expect("it ends").code(), stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[tokio::test]
async fn an_operator_lists_and_shows_transactions() {
    let home = Home::new();
    let coordinator = home.start().await;
    let _bank = participant(&coordinator, "bank-a", Manner::Willing).await;
    let _mute = participant(&coordinator, "mute", Manner::Mute).await;
    let mut client = transactions(&coordinator).await;
    let (done, stuck) = (gtid(), gtid());
    let request = CommitRequest { wait_for_end: true, ..whole(&done, vec![branch("bank-a", "x")]) };
    client.commit(request).await.expect("an outcome");
    client.commit(whole(&stuck, vec![branch("mute", "x"), branch("bank-a", "x")])).await.expect("an outcome");
    let active = client.begin(BeginRequest::default()).await.expect("begun").into_inner().gtid;
    until("the end of the first is in the log", async || coordinator.statistics().snapshot().open == 2).await;
    let endpoint = coordinator.endpoint();
    let run = async |arguments: &[&str]| {
        let (code, stdout, stderr) = ended_beside(&[arguments, &["--endpoint", &endpoint]].concat()).await;
        assert_eq!((code, stderr.as_str()), (0, ""), "{arguments:?}");
        stdout
    };

    let table = run(&["tx", "list"]).await;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[1].starts_with(&active) && lines[1].contains("active"), "{table}");
    assert!(
        lines[2].starts_with(&stuck) && lines[2].contains("committing") && lines[2].ends_with("mute,bank-a"),
        "{table}"
    );
    assert!(lines[3].starts_with(&done) && lines[3].contains("committed"), "{table}");
    let listed: serde_json::Value =
        serde_json::from_str(&run(&["tx", "list", "-o", "json", "--all"]).await).expect("JSON");
    assert_eq!(listed.as_array().map(Vec::len), Some(3));
    let lines = run(&["tx", "list", "-o", "jsonl", "--state", "committing", "--participant", "mute"]).await;
    let only: serde_json::Value = serde_json::from_str(lines.trim()).expect("one object a line");
    assert_eq!(only["gtid"], stuck.as_str());
    assert_eq!(run(&["tx", "list", "--limit", "1"]).await.lines().count(), 2);
    assert_eq!(run(&["tx", "list", "--older-than", "1h", "-o", "json"]).await, "[]\n");

    let shown = run(&["tx", "show", &stuck]).await;
    for part in ["state      committing", "decided ", "waits for  mute", "PARTICIPANT", "s ago)"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let shown: serde_json::Value =
        serde_json::from_str(&run(&["tx", "show", &done, "-o", "json"]).await).expect("JSON");
    assert_eq!(shown["state"], "committed");
    assert_eq!(shown["branches"][0]["participant"], "bank-a");
    assert_eq!(shown["branches"][0]["state"], "committed");
    assert!(shown["ended_at"].is_string());
}

#[test]
fn a_log_is_made_ready_once() {
    let home = Home::new();
    let log = home.log();
    let (code, stdout, stderr) = ended(&["migrate", "--check", "--log", &log]);
    assert_eq!(code, 1, "{stdout}{stderr}");
    assert!(stderr.contains("is not ready") && stderr.contains("assent migrate"), "{stderr}");
    let (code, stdout, stderr) = ended(&["migrate", "--log", &log]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("went from version 0"), "{stdout}");
    for arguments in [&["migrate", "--log", &log][..], &["migrate", "--check", "--log", &log]] {
        let (code, stdout, stderr) = ended(arguments);
        assert_eq!((code, stderr.as_str()), (0, ""), "{arguments:?}");
        assert!(stdout.contains("nothing to do"), "{stdout}");
    }
    let (code, stdout, _) = ended(&["migrate", "--check", "--log", &log, "-o", "json"]);
    let answer: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((code, &answer["found"]), (0, &answer["needed"]));
    let (code, _, stderr) = ended(&["migrate", "--log", "postgres://me:hush@127.0.0.1:1/x", "--wait-for-log", "0s"]);
    assert_eq!(code, 7, "{stderr}");
    assert!(!stderr.contains("hush"), "{stderr}");
}
