//! The Rust version that the packages name is one that every dependency accepts.

use std::process::Command;

fn version(text: &str) -> Vec<u32> {
    text.split('.').map(|part| part.parse().expect("a number")).collect()
}

#[test]
fn the_rust_version_is_at_least_the_highest_in_the_dependency_tree() {
    // Crates of other platforms may not be downloaded.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let ours = env!("CARGO_PKG_RUST_VERSION");
    let mut seen = 0;
    for package in packages {
        let (name, needs) = (&package["name"], package["rust_version"].as_str());
        let Some(needs) = needs else { continue };
        seen += 1;
        assert!(version(needs) <= version(ours), "{name} needs Rust {needs}, and this package names {ours}");
    }
    assert!(seen > 50, "{seen} packages name a version");
}
