//! An embedder that does not need S3 does not compile it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use diskferry_s3io::server::{Server, ServerOptions};

/// Maximum number of crates that an embedder of local files compiles, including its own and ours.
const MAX_CRATES_LOCAL: usize = 80;

/// Runs cargo in `package`, a crate under `tests` that is outside of the workspace.
fn cargo(package: &str, arguments: &[&str]) -> Output {
    // A build of its own: it has its own lock file and features.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(package);
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(package))
        .env("CARGO_TARGET_DIR", target)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The names of all crates that are compiled for `package`.
fn crates(package: &str) -> BTreeSet<String> {
    let arguments = ["tree", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"];
    let tree = String::from_utf8(cargo(package, &arguments).stdout).expect("names are text");
    tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Converts a sample, which `place` makes available as the source.
fn converts(package: &str, place: impl FnOnce(&Path) -> String) {
    let sample = diskferry_corpus::sample("vmdk-stream");
    let dir = tempfile::tempdir().expect("a directory");
    let (from, to) = (dir.path().join(sample.file_name()), dir.path().join("disk.qcow2"));
    std::fs::write(&from, sample.bytes()).expect("the sample is written");
    let from = place(&from);
    let ran = cargo(package, &["run", "--locked", "--quiet", "--", &from, to.to_str().expect("text")]);
    assert!(String::from_utf8_lossy(&ran.stdout).contains(sample.digest_hex), "{ran:?}");
}

#[test]
fn a_crate_outside_of_the_workspace_embeds_local_conversion_in_few_crates() {
    let crates = crates("local");
    assert!(crates.len() < MAX_CRATES_LOCAL, "{} crates: {crates:?}", crates.len());
    assert!(!crates.iter().any(|name| name.starts_with("aws-") || name.contains("hyper")), "{crates:?}");
    converts("local", |path| path.to_str().expect("text").to_owned());
}

#[test]
fn a_crate_outside_of_the_workspace_reads_http_without_the_sdk() {
    let crates = crates("http");
    assert!(crates.contains("hyper") && !crates.iter().any(|name| name.starts_with("aws-")), "{crates:?}");

    let server = Server::start(ServerOptions::default()).expect("a server");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    converts("http", |path| {
        runtime.block_on(async {
            server.create_bucket("images").await.expect("a bucket");
            server.put_file("images", "disk.vmdk", path).await.expect("an object");
            server.presign("images", "disk.vmdk", Duration::from_secs(600)).await.expect("a URL")
        })
    });
}
