//! What `deploy/` ships is what the binary understands.

use std::path::{Path, PathBuf};
use std::time::Duration;

use integration_tests::Program;

const DEADLINE: Duration = Duration::from_secs(30);

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(shipped(name)).expect("a file that is shipped")
}

async fn accepts(configuration: &Path) {
    let finished = Program::assent().args(["serve", "--check", "--config"]).arg(configuration).run(DEADLINE).await;
    assert!(finished.status.success(), "{finished:?}");
}

#[tokio::test]
async fn the_sample_configuration_is_the_one_that_the_binary_prints() {
    let finished = Program::assent().args(["serve", "--sample"]).run(DEADLINE).await;
    assert!(finished.status.success(), "{finished:?}");
    assert_eq!(
        read("assent.toml").trim_end(),
        finished.stdout.trim_end(),
        "print it anew: cargo run --bin assent -- serve --sample > deploy/assent.toml"
    );
    accepts(&shipped("assent.toml")).await;
}

#[tokio::test]
async fn the_configuration_for_kubernetes_is_accepted() {
    let manifest = read("kubernetes/configmap.yaml");
    let (_, block) = manifest.split_once("  assent.toml: |\n").expect("the configuration in its manifest");
    let configuration: String = block.lines().map(|line| format!("{}\n", line.trim())).collect();
    assert!(configuration.contains("drain_max ="), "{configuration}");

    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("assent.toml");
    std::fs::write(&file, configuration).expect("a file");
    accepts(&file).await;
}
