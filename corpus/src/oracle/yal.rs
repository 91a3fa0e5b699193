//! libyal's readers, by a small Python script, as the second opinion on QCOW2, VHD and VMDK.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::run::{Outcome, capture};
use super::text;

const SCRIPT: &str = include_str!("../../oracle/yal.py");

/// Reads an image (`vhd`, `qcow2`, `vmdk`) with libyal into a raw file at `out`.
///
/// Where libyal is known to be wrong, see `corpus/README.md`.
///
/// # Panics
/// When no Python has the readers, or the reader fails.
pub fn yal_to_raw(path: &Path, format: &str, out: &Path) {
    let outcome = yal_outcome(path, format, out);
    assert!(outcome.ok, "libyal reads {} as {format}: {}", path.display(), outcome.stderr);
}

/// As [`yal_to_raw`], where the reader may fail.
pub fn yal_outcome(path: &Path, format: &str, out: &Path) -> Outcome {
    capture(python(), &["-c", SCRIPT, format, text(path), text(out)])
}

/// The Python that has the readers: `DISKFERRY_PYTHON`, or the environment that `.ci/test` makes under `target/`.
fn python() -> &'static str {
    static FOUND: OnceLock<String> = OnceLock::new();
    FOUND.get_or_init(|| {
        let tried: Vec<String> = candidates();
        let works = |python: &&String| {
            Path::new(python).exists() && capture(python, &["-c", "import pyqcow, pyvmdk, pyvhdi"]).ok
        };
        tried.iter().find(works).cloned().unwrap_or_else(|| {
            panic!(
                "no Python with libyal's readers among {}; run .ci/test once, or set DISKFERRY_PYTHON to one that has \
                 them: pip install -r corpus/oracle/requirements.txt",
                tried.join(", ")
            )
        })
    })
}

fn candidates() -> Vec<String> {
    if let Ok(named) = std::env::var("DISKFERRY_PYTHON") {
        return vec![named];
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let targets = [std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from), Some(workspace.join("target"))];
    targets.into_iter().flatten().map(|t| text(&t.join("oracles/bin/python")).to_owned()).collect()
}
