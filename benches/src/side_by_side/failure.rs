//! Errors of tools, files and the library.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use diskferry_core::Error;

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// An error of the comparison.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A tool is not installed.
    Missing { tool: &'static str, package: &'static str },
    /// The program to measure does not exist.
    NotBuilt { program: PathBuf, release: bool },
    /// A program failed.
    Ran { what: String, status: String, said: String },
    /// An operation on a file, a process or a socket failed.
    Io { what: String, source: io::Error },
    /// The library failed in a floor.
    Library(Error),
    /// Any other unexpected condition.
    Odd(String),
}

impl Failure {
    /// For `map_err`: names the failed operation.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Like [`io`](Self::io), with a file name.
    pub(crate) fn at(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        Self::io(format!("{what} {}", path.display()))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Library(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { tool, package } => {
                write!(f, "{tool} is not installed: apt-get install -y --no-install-recommends {package}")
            }
            Self::NotBuilt { program, release } => {
                let flag = if *release { " --release" } else { "" };
                write!(
                    f,
                    "{} does not exist; build it with: cargo build{flag} --bin diskferry",
                    program.display()
                )
            }
            Self::Ran { what, status, said } => {
                write!(f, "{what} ended with {status}")?;
                if said.is_empty() { Ok(()) } else { write!(f, ":\n{said}") }
            }
            Self::Io { what, source } => write!(f, "{what}: {source}"),
            Self::Library(error) => write!(f, "{error}"),
            Self::Odd(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Failure {}
