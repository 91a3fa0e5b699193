//! External programs: finds them, or reports how to install them.

use std::path::PathBuf;

use diskferry_corpus::tools;

use crate::failure::{Failure, Result};

/// Returns the path of qemu-img.
///
/// # Errors
/// If it is not installed, with the command that installs it.
pub(crate) fn qemu_img() -> Result<PathBuf> {
    required("qemu-img")
}

/// Returns the path of mke2fs.
///
/// # Errors
/// Like [`qemu_img`].
pub(crate) fn mke2fs() -> Result<PathBuf> {
    required("mke2fs")
}

/// Returns the path of cp.
///
/// # Errors
/// Like [`qemu_img`].
pub(crate) fn cp() -> Result<PathBuf> {
    required("cp")
}

/// Returns the path of nbdkit. It is optional, so `.ci/tools` does not list it.
pub(crate) fn nbdkit() -> Option<PathBuf> {
    tools::find("nbdkit")
}

fn required(tool: &'static str) -> Result<PathBuf> {
    tools::find(tool).ok_or_else(|| Failure::Missing { tool, package: tools::package(tool) })
}
