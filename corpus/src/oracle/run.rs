//! Running a tool, and saying how to get one that is missing.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::process::{Command, Stdio};

/// What came of running a tool.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether it exited with 0.
    pub ok: bool,
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

/// Runs a tool that may fail.
///
/// # Panics
/// When it is missing.
pub fn capture(program: &str, args: &[&str]) -> Outcome {
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C").env("TZ", "UTC").env("PATH", search_path()).stdin(Stdio::null());
    let out = command.output().unwrap_or_else(|e| match e.kind() {
        ErrorKind::NotFound => panic!(
            "{program} is missing; install it: {} (`.ci/test` installs all that the tests need)",
            install(program)
        ),
        _ => panic!("{program} cannot be run: {e}"),
    });
    Outcome {
        ok: out.status.success(),
        code: out.status.code(),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// Runs a tool that must succeed, and gives its standard output.
///
/// # Panics
/// When it is missing or fails.
pub fn tool(program: &str, args: &[&str]) -> String {
    let out = capture(program, args);
    assert!(out.ok, "{program} {} ended with {:?}\n{}{}", args.join(" "), out.code, out.stdout, out.stderr);
    out.stdout
}

/// The command that brings a tool on Debian.
fn install(program: &str) -> String {
    let package = match program {
        "qemu-img" | "qemu-io" | "qemu-nbd" => "qemu-utils",
        "sfdisk" => "fdisk",
        "sgdisk" => "gdisk",
        "mkfs.ext4" | "mke2fs" | "debugfs" | "e2fsck" => "e2fsprogs",
        "mkfs.vfat" => "dosfstools",
        "mcopy" => "mtools",
        "mkfs.xfs" | "xfs_repair" => "xfsprogs",
        "mkfs.btrfs" => "btrfs-progs",
        "mkntfs" | "ntfscp" => "ntfs-3g",
        "mkswap" => "util-linux",
        other => other,
    };
    format!("apt-get install -y --no-install-recommends {package}")
}

/// Debian keeps the makers of file systems where a user's PATH does not look.
fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}
