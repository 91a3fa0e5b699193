//! Independent Python readers of QCOW2, VHD and VMDK: libyal and dissect.hypervisor.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::run::{Outcome, finish};
use super::text;
use crate::tools::command_at;

const SCRIPT: &str = include_str!("../../oracle/read.py");

/// Maximum disk size for [`dissect`], which returns the disk in memory.
const DISSECT_MOST: u64 = 256 << 20;

/// Reads an image (`vhd`, `qcow2`, `vmdk`) with libyal into a raw file at `out`.
///
/// `corpus/README.md` lists the images that libyal reads wrongly.
///
/// # Panics
/// If no Python has the readers, or the reader fails.
pub fn yal_to_raw(path: &Path, format: &str, out: &Path) {
    let outcome = yal_outcome(path, format, out);
    assert!(outcome.ok, "libyal reads {} as {format}: {}", path.display(), outcome.stderr);
}

/// Like [`yal_to_raw`], but the reader may fail.
///
/// # Panics
/// If no Python has the readers.
pub fn yal_outcome(path: &Path, format: &str, out: &Path) -> Outcome {
    run(python(), &["-c", SCRIPT, "libyal", format, text(path), text(out)])
}

/// Reads an image (`vhd`, `qcow2`, `vmdk`) with dissect.hypervisor and returns the guest's bytes.
///
/// The error is the last line that the reader printed: the type and the text of its exception. A disk of more than 256 MiB, and a
/// reader that needs more than a minute of processor time or 2 GiB of memory, are errors too. dissect.hypervisor does
/// not apply the sector bitmaps of a VHD, and ignores the footer's checksum; `corpus/README.md` lists the images that it
/// reads wrongly.
///
/// # Panics
/// If no Python has the readers.
pub fn dissect(path: &Path, format: &str) -> Result<Vec<u8>, String> {
    dissect_by("dissect", path, format)
}

/// Like [`dissect`], through its file-like interface, which most programs use. If the size of a VHD or VMDK is not a multiple
/// of 8 KiB, it reads past the end and fails.
///
/// # Panics
/// If no Python has the readers.
pub fn dissect_stream(path: &Path, format: &str) -> Result<Vec<u8>, String> {
    dissect_by("dissect-stream", path, format)
}

fn dissect_by(reader: &str, path: &Path, format: &str) -> Result<Vec<u8>, String> {
    let out = tempfile::NamedTempFile::new().expect("a temporary file");
    let most = DISSECT_MOST.to_string();
    let ran = run(python(), &["-c", SCRIPT, reader, format, text(path), text(out.path()), &most]);
    if ran.ok {
        return Ok(std::fs::read(out.path()).expect("the reader wrote the disk"));
    }
    match (ran.stderr.trim().lines().last(), ran.code) {
        (Some(last), Some(_)) => Err(last.to_owned()),
        (_, code) => Err(format!("the reader ended with code {code:?}, without an exception")),
    }
}

fn run(python: &str, args: &[&str]) -> Outcome {
    finish(command_at(Path::new(python)).args(args), "")
}

/// Finds the Python with the readers: `DISKFERRY_PYTHON`, or the environment that `.ci/test` creates below `target/`.
fn python() -> &'static str {
    static FOUND: OnceLock<String> = OnceLock::new();
    FOUND.get_or_init(|| {
        let tried: Vec<String> = candidates();
        let works = |python: &&String| {
            Path::new(python).exists()
                && run(python, &["-c", "import pyqcow, pyvmdk, pyvhdi, dissect.hypervisor"]).ok
        };
        tried.iter().find(works).cloned().unwrap_or_else(|| {
            panic!(
                "no Python with libyal's readers and dissect.hypervisor among {}; run .ci/test once, or set \
                 DISKFERRY_PYTHON to one that has them: pip install -r corpus/oracle/requirements.txt",
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
