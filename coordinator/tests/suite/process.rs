//! The program itself: what it prints, and how it ends.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Home, PATIENCE, gtid};

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
fn ended(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = assent(arguments).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code().expect("no signal"), text(stdout), text(stderr))
}

/// A coordinator in a process of its own.
struct Served {
    child: Child,
    endpoint: String,
}

impl Served {
    fn start(home: &Home, arguments: &[&str]) -> Self {
        let log = home.log();
        let mut all = vec!["serve", "--listen", "127.0.0.1:0", "--log", &log];
        all.extend(arguments);
        let mut child = assent(&all).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let Some(rest) = line.strip_prefix("assent listening on ") else {
            let mut problem = String::new();
            child.stderr.take().expect("a pipe").read_to_string(&mut problem).expect("text");
            panic!("{line:?}: {problem}");
        };
        let endpoint = rest.split(' ').next().expect("a URL").to_owned();
        assert!(rest.contains(" replica=assent epoch="), "{line}");
        Self { child, endpoint }
    }

    fn terminate(&mut self) -> i32 {
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
    let mut served = Served::start(&home, &[]);
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
