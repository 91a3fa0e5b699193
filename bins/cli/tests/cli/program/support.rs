//! Runs the program and parses its output.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Returns a command for the program, isolated from the environment of the test run.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diskferry"));
    for (name, _) in std::env::vars_os() {
        let upper = name.to_string_lossy().to_ascii_uppercase();
        if ["AWS_", "SSL_CERT_"].iter().any(|start| upper.starts_with(start)) || upper.ends_with("_PROXY") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// The output of a run.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("what the program prints is UTF-8");
        let code = output.status.code().expect("the program ends by itself, not by a signal");
        Self { code, out: text(output.stdout), err: text(output.stderr) }
    }

    /// Asserts the exit code, and shows all output if it differs.
    #[track_caller]
    pub(crate) fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, code, "standard output:\n{}\nstandard error:\n{}", self.out, self.err);
        self
    }

    /// Parses standard output as one JSON document.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }

    /// Parses standard error as one JSON error, checks its keys, and returns its body.
    #[track_caller]
    pub(crate) fn error(&self) -> Value {
        let document: Value =
            serde_json::from_str(&self.err).unwrap_or_else(|error| panic!("{error}: {}", self.err));
        assert_eq!(keys(&document), ["error"]);
        let body = document["error"].clone();
        assert_eq!(keys(&body), ["code", "hint", "message", "offset", "retryable"]);
        assert!(self.out.is_empty(), "a failure has no result: {}", self.out);
        body
    }
}

/// Runs the program with these arguments.
pub(crate) fn run<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Said {
    Said::of(program().args(args).output().expect("the program starts"))
}

/// Collects arguments of any string type into a list.
#[macro_export]
macro_rules! run {
    ($($arg:expr),* $(,)?) => {
        $crate::program::support::run([$(std::ffi::OsStr::new(&$arg)),*])
    };
}

/// Returns the sorted keys of a JSON object.
#[track_caller]
pub(crate) fn keys(value: &Value) -> Vec<&str> {
    let object = value.as_object().unwrap_or_else(|| panic!("not an object: {value}"));
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// A temporary directory, removed on drop.
pub(crate) struct Dir(tempfile::TempDir);

impl Dir {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file with this content.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.join(name);
        std::fs::write(&path, content).expect("a file");
        path
    }

    /// Writes a sample of the corpus.
    pub(crate) fn sample(&self, name: &str) -> PathBuf {
        diskferry_corpus::sample(name).write_to(self.path()).expect("the sample's files")
    }

    /// Returns the sorted names of all files in it, including hidden ones.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).expect("the directory");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

/// Returns bytes that are not zero and have a long period.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8 | 1
    };
    (0..len).map(|_| next()).collect()
}
