//! The programs of others: where they are, or how to get them.

use std::env;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// Converts images.
///
/// # Errors
/// Where it is not installed, with the command that does.
pub(crate) fn qemu_img() -> Result<PathBuf> {
    find("qemu-img").ok_or(Failure::Missing { tool: "qemu-img", package: "qemu-utils" })
}

/// Makes file systems with files on them.
///
/// # Errors
/// As [`qemu_img`].
pub(crate) fn mke2fs() -> Result<PathBuf> {
    find("mke2fs").ok_or(Failure::Missing { tool: "mke2fs", package: "e2fsprogs" })
}

/// Serves what a plugin of it reads as a block device.
pub(crate) fn nbdkit() -> Option<PathBuf> {
    find("nbdkit")
}

/// Looks in `PATH`, and where root's tools are.
fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(|dir| Path::new(dir).to_owned()));
    dirs.map(|dir| dir.join(name)).find(|file| file.is_file())
}
