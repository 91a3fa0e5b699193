//! The external programs that tests and benchmarks run.
//!
//! `.ci/tools` lists each with its Debian package. It is the only such list: `.ci/test` installs from it, and [`command`] finds
//! programs through it. So a test cannot run a program that the test command does not install: it would fail on every machine,
//! not only on a fresh one. `corpus/tests/tools.rs` checks that nothing starts a program in another way.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

const LIST: &str = include_str!("../../.ci/tools");

/// Directories with Debian's administration programs; a user's `PATH` lacks them.
const ADMIN_DIRS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// All listed programs, each with its Debian package.
pub fn list() -> impl Iterator<Item = (&'static str, &'static str)> {
    LIST.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '))
}

/// The Debian package of a listed program.
///
/// # Panics
/// If it is not listed.
pub fn package(program: &str) -> &'static str {
    list().find(|(name, _)| *name == program).map(|(_, package)| package).unwrap_or_else(|| {
        panic!("{program} is not in .ci/tools: add it with its Debian package, so that .ci/test installs it")
    })
}

/// Returns the path of a program if it is installed, in `PATH` or an administration directory. It need not be listed.
pub fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Returns a command that runs a listed program, with messages in English and times in UTC.
///
/// # Panics
/// If the program is not listed, or not installed. The message contains the command that installs it.
pub fn command(program: &str) -> Command {
    let package = package(program);
    let file = find(program).unwrap_or_else(|| {
        panic!(
            "{program} is not installed: apt-get install -y --no-install-recommends {package} (.ci/test installs all \
             that the tests need)"
        )
    });
    command_at(&file)
}

/// Like [`command`], for a program at a path.
pub(crate) fn command_at(file: &Path) -> Command {
    let mut command = Command::new(file);
    command.env("LC_ALL", "C").env("TZ", "UTC").env("PATH", search_path());
    command
}

fn search_path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(ADMIN_DIRS.map(PathBuf::from));
    env::join_paths(dirs).unwrap_or(path.clone())
}
