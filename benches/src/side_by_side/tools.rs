//! External programs: their paths, or how to install them.

use std::path::PathBuf;

use diskferry_corpus::tools;

use crate::failure::{Failure, Result};

/// Converts images.
///
/// # Errors
/// If it is not installed, with the command that installs it.
pub(crate) fn qemu_img() -> Result<PathBuf> {
    required("qemu-img")
}

/// Makes file systems with files on them.
///
/// # Errors
/// See [`qemu_img`].
pub(crate) fn mke2fs() -> Result<PathBuf> {
    required("mke2fs")
}

/// Copies files.
///
/// # Errors
/// See [`qemu_img`].
pub(crate) fn cp() -> Result<PathBuf> {
    required("cp")
}

/// Serves the data of a plugin as a block device. Optional, so `.ci/tools` does not list it.
pub(crate) fn nbdkit() -> Option<PathBuf> {
    tools::find("nbdkit")
}

fn required(tool: &'static str) -> Result<PathBuf> {
    tools::find(tool).ok_or_else(|| Failure::Missing { tool, package: tools::package(tool) })
}
