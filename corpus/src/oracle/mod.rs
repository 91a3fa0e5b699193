//! Independent tools that tests use as oracles.
//!
//! If a tool is missing, these functions panic with the command that installs it: a test without its oracle fails, and is
//! not skipped. If a tool fails, they panic with its output.

mod readers;
mod run;

pub mod matrix;

use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub use readers::{dissect, dissect_stream, yal_outcome, yal_to_raw};
pub use run::{Outcome, capture, capture_fed, tool, tool_fed};

/// Returns qemu's name of a format: VHD is `vpc`.
pub fn qemu_format(format: &str) -> &str {
    match format {
        "vhd" => "vpc",
        other => other,
    }
}

/// Runs `qemu-img` and returns its standard output.
///
/// # Panics
/// If it is missing or fails.
pub fn qemu_img(args: &[&str]) -> String {
    tool("qemu-img", args)
}

/// Runs `qemu-img`, which may fail, and returns its outcome.
pub fn qemu_img_outcome(args: &[&str]) -> Outcome {
    capture("qemu-img", args)
}

/// Runs `qemu-io` commands on an image of a format (diskferry's name or qemu's).
///
/// qemu-io exits with 0 after failed reads and writes, so its output is checked too.
pub fn qemu_io(path: &Path, format: &str, commands: &[&str]) {
    for command in commands {
        let out = tool("qemu-io", &["-t", "unsafe", "-f", qemu_format(format), "-c", command, text(path)]);
        assert!(
            !out.contains("failed") && !out.contains("invalid"),
            "qemu-io -c '{command}' on {}: {out}",
            path.display()
        );
    }
}

/// Returns the output of `qemu-img info --output=json` for an image of this format.
pub fn qemu_info(path: &Path, format: &str) -> Value {
    let out = qemu_img(&["info", "--output=json", "-f", qemu_format(format), text(path)]);
    serde_json::from_str(&out).expect("qemu-img info prints JSON")
}

/// Returns the size of the guest disk according to qemu, in bytes.
pub fn qemu_virtual_bytes(path: &Path, format: &str) -> u64 {
    qemu_info(path, format)["virtual-size"].as_u64().expect("qemu-img info prints virtual-size")
}

/// Asserts that `qemu-img check` finds no errors and no leaks. Only for formats that it supports (qcow2, vmdk).
pub fn qemu_check(path: &Path, format: &str) {
    qemu_img(&["check", "-f", qemu_format(format), text(path)]);
}

/// Makes an image from a raw disk with `qemu-img convert`. `options` are `key=value` for `-o`; `flags` are further flags such
/// as `-c`. The format is diskferry's name or qemu's.
pub fn make(raw: &Path, format: &str, options: &[&str], flags: &[&str], path: &Path) {
    let joined = options.join(",");
    let mut args = vec!["convert", "-f", "raw", "-O", qemu_format(format)];
    args.extend(flags);
    if !joined.is_empty() {
        args.extend(["-o", &joined]);
    }
    args.extend([text(raw), text(path)]);
    qemu_img(&args);
}

/// Converts an image to a raw file at `out` with qemu-img.
///
/// qemu rounds the size of the guest disk up to whole sectors.
pub fn to_raw(path: &Path, format: &str, out: &Path) {
    qemu_img(&["convert", "-f", qemu_format(format), "-O", "raw", text(path), text(out)]);
}

/// Returns the fs-verity digest (SHA-256, 4 KiB blocks, no salt) of a file, computed by the `fsverity` tool, in hexadecimal.
///
/// The tool reads every byte, including holes: about one second per GiB.
pub fn fsverity_digest(path: &Path) -> String {
    let out = tool("fsverity", &["digest", "--compact", text(path)]);
    out.trim().rsplit(':').next().unwrap_or_default().to_owned()
}

/// Truncates or extends a file to a length. The extension is a hole.
pub fn set_len(path: &Path, bytes: u64) {
    let file = File::options().write(true).open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    file.set_len(bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Returns the guest bytes of an image, read by qemu-img. Only for disks that fit into memory.
pub fn guest_bytes(path: &Path, format: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let raw: PathBuf = dir.path().join("guest.raw");
    to_raw(path, format, &raw);
    std::fs::read(&raw).expect("qemu-img wrote the raw disk")
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_else(|| panic!("{} is not UTF-8", path.display()))
}
