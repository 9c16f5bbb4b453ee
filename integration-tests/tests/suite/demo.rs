//! `assent demo`: that it shows what it promises, and leaves nothing behind however it ends.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use integration_tests::{Process, Program, eventually};
use rustix::process::{Pid, test_kill_process};
use serde_json::{Value, json};

/// It takes a few seconds on an idle machine.
const DEADLINE: Duration = Duration::from_secs(360);

/// A demo whose temporary directory is within this one.
fn demo(temporary: &Path) -> Program {
    let demo = Program::assent().args(["demo"]).env("TMPDIR", temporary);
    // What configures other coordinators is not for the demo's.
    demo.env("ASSENT_LISTEN", "nonsense").env("ASSENT_TOKEN", "hush").env("ASSENT_ENDPOINT", "http://127.0.0.1:1")
}

fn files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn balances(anna: i64, agency: i64, ben: i64, seats: i64, rooms: i64) -> Value {
    json!({
        "bank-a": {"anna": anna, "agency": agency},
        "bank-b": {"ben": ben},
        "travel": {"seats": seats, "rooms": rooms, "lounge-passes": 0},
    })
}

/// What was told in an act, in its order: who, what, and of which step.
fn events(act: &Value) -> Vec<String> {
    let line = |event: &Value| {
        assert_eq!(event["gtid"], act["gtid"]);
        let words = ["service", "event", "step"].map(|key| event[key].as_str().unwrap_or_default());
        words.join(" ").trim_end().to_owned()
    };
    act["events"].as_array().expect("events").iter().map(line).collect()
}

fn set<'a>(lines: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    lines.into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn every_act_ends_as_it_should_and_nothing_is_left_behind() {
    let temporary = tempfile::tempdir().expect("a directory");
    let finished = demo(temporary.path()).args(["-o", "json"]).run(DEADLINE).await;
    assert_eq!(finished.status.code(), Some(0), "{}", finished.stderr);
    let report: Value = serde_json::from_str(&finished.stdout).expect("one object, and nothing else");
    assert_eq!(report["passed"], true);
    let acts = report["acts"].as_array().expect("acts");
    let told = |key: &str| acts.iter().map(|act| act[key].clone()).collect::<Vec<_>>();
    assert_eq!(told("act"), [1, 2, 3, 4, 5, 6]);
    assert_eq!(told("outcome"), ["committed", "aborted", "completed", "compensated", "committed", "committed"]);
    assert!(told("wrong").iter().all(|wrong| *wrong == json!([])), "{:?}", told("wrong"));
    assert_eq!(
        told("balances"),
        [
            balances(750, 0, 450, 5, 3),
            balances(750, 0, 450, 5, 3),
            balances(350, 400, 450, 4, 2),
            balances(350, 400, 450, 4, 2),
            balances(250, 400, 550, 4, 2),
            balances(200, 500, 500, 4, 1),
        ]
    );
    assert_eq!(report["balances"], balances(200, 500, 500, 4, 1));

    assert_eq!(
        BTreeSet::from_iter(events(&acts[0])),
        set(["bank-a voted_yes", "bank-b voted_yes", "bank-a committed", "bank-b committed"])
    );
    assert_eq!(BTreeSet::from_iter(events(&acts[1])), set(["bank-a voted_yes", "bank-b voted_no", "bank-a aborted"]));
    assert_eq!(acts[1]["reason"], "REFUSED by bank-b: ben has 450 EUR, and 600 are needed");
    let trip = events(&acts[2]);
    assert_eq!(BTreeSet::from_iter(trip[..2].to_vec()), set(["travel executed flight", "travel executed hotel"]));
    assert_eq!(trip[2..], ["bank-a executed payment"]);
    let failing = events(&acts[3]);
    assert_eq!(failing[2..5], ["bank-a executed payment", "travel refused lounge", "bank-a compensated payment"]);
    assert_eq!(
        BTreeSet::from_iter(failing[5..].to_vec()),
        set(["travel compensated flight", "travel compensated hotel"])
    );
    let crash = events(&acts[4]);
    assert_eq!(acts[4]["killed"], json!(["bank-b", "coordinator"]));
    assert_eq!(
        acts[4]["in_doubt"],
        json!({"balances": balances(250, 400, 450, 4, 2), "prepared": {"bank-b": {"ben": 100}}})
    );
    let position =
        |line: &str| crash.iter().position(|told| told == line).unwrap_or_else(|| panic!("{line}: {crash:?}"));
    assert!(position("bank-b commit_held") < position("bank-b found_in_doubt"));
    assert!(position("bank-b found_in_doubt") < position("bank-b committed"));
    assert_eq!(acts[4]["state"], "committed");
    let services = ["bank-a", "bank-b", "travel"];
    let expected = services.map(|service| [format!("{service} voted_yes"), format!("{service} committed")]);
    assert_eq!(BTreeSet::from_iter(events(&acts[5])), expected.into_iter().flatten().collect());
    assert_eq!(acts[5]["killed"], json!(["coordinator"]));
    assert_eq!(acts[5]["state"], "committed");

    assert_eq!(files(temporary.path()), [""; 0]);
}

#[tokio::test]
async fn it_reads_like_a_story_and_keeps_its_files_where_asked() {
    let temporary = tempfile::tempdir().expect("a directory");
    let finished = demo(temporary.path()).arg("--keep").run(DEADLINE).await;
    assert_eq!(finished.status.code(), Some(0), "{}", finished.stderr);
    let story = &finished.stdout;
    for act in 1..=6 {
        assert!(story.contains(&format!("Act {act}: ")), "{story}");
    }
    assert_eq!(story.matches("ok: ").count(), 6, "{story}");
    // Nobody's terminal, so no colours; and no noise.
    assert!(!story.contains('\x1b'), "{story}");
    assert_eq!(finished.stderr, "");
    let kept = files(temporary.path());
    let [directory] = kept.as_slice() else { panic!("{kept:?}") };
    assert!(story.contains(directory), "{story}");
    let kept = files(&temporary.path().join(directory));
    for file in ["assent.db", "bank-a.db", "bank-b.db", "coordinator.log", "travel.db", "travel.log"] {
        assert!(kept.iter().any(|name| name == file), "{file} is not among {kept:?}");
    }
}

/// Starts a demo, and waits until all its processes are there. Answers their ids.
async fn in_the_middle(temporary: &Path) -> (Process, Vec<i32>) {
    let mut demo = demo(temporary).arg("--verbose").start();
    demo.line_with("Act 1: ", DEADLINE).await;
    let output = demo.output();
    let id = |text: &str| text.split(')').next().and_then(|id| id.parse().ok()).expect("a process id");
    let ids: Vec<i32> = output.split("(process ").skip(1).map(id).collect();
    assert_eq!(ids.len(), 4, "{output}");
    (demo, ids)
}

/// Whether a process runs. One that nobody has waited for yet has ended, too.
fn is_running(id: i32) -> bool {
    let exists = Pid::from_raw(id).is_some_and(|pid| test_kill_process(pid).is_ok());
    let status = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    exists && !status.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

#[tokio::test]
async fn a_demo_that_is_stopped_ends_its_processes_and_removes_its_files() {
    let temporary = tempfile::tempdir().expect("a directory");
    let (mut demo, ids) = in_the_middle(temporary.path()).await;
    demo.terminate();
    assert_eq!(demo.exit(DEADLINE).await.code(), Some(1));
    assert_eq!(ids.into_iter().filter(|id| is_running(*id)).collect::<Vec<_>>(), [0; 0]);
    assert_eq!(files(temporary.path()), [""; 0]);
}

#[tokio::test]
async fn a_demo_that_is_killed_takes_its_processes_with_it() {
    let temporary = tempfile::tempdir().expect("a directory");
    let (mut demo, ids) = in_the_middle(temporary.path()).await;
    demo.kill();
    eventually("its processes are gone", DEADLINE, async || {
        let left: Vec<_> = ids.iter().filter(|id| is_running(**id)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} run")) }
    })
    .await;
}

#[tokio::test]
async fn a_demo_has_a_coordinator_of_its_own() {
    let temporary = tempfile::tempdir().expect("a directory");
    let finished = demo(temporary.path()).args(["--endpoint", "http://127.0.0.1:1"]).run(DEADLINE).await;
    assert_eq!(finished.status.code(), Some(2), "{}", finished.stderr);
}
