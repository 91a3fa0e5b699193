//! An embedder that needs no S3 does not pay for it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

/// Crates that an embedder of local files compiles, at most: itself, ours and those of others.
const MOST_CRATES: usize = 80;

fn cargo(arguments: &[&str]) -> Output {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/local");
    // A build of its own: it has its own lock file and features.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("local");
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(package)
        .env("CARGO_TARGET_DIR", target)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn a_crate_outside_of_the_workspace_embeds_local_conversion_in_few_crates() {
    let tree =
        cargo(&["tree", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"]).stdout;
    let tree = String::from_utf8(tree).expect("names are text");
    let crates: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(crates.len() < MOST_CRATES, "{} crates: {crates:?}", crates.len());
    assert!(!crates.iter().any(|name| name.starts_with("aws-") || name.contains("hyper")), "{crates:?}");

    let sample = diskferry_corpus::sample("vmdk-stream");
    let dir = tempfile::tempdir().expect("a directory");
    let (from, to) = (dir.path().join(sample.file_name()), dir.path().join("disk.qcow2"));
    std::fs::write(&from, sample.bytes()).expect("the sample is written");
    let (from, to) = (from.to_str().expect("text"), to.to_str().expect("text"));
    let ran = cargo(&["run", "--locked", "--quiet", "--", from, to]);
    assert!(String::from_utf8_lossy(&ran.stdout).contains(sample.digest_hex), "{ran:?}");
}
