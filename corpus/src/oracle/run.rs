//! Runs a tool and collects its output.

use std::io::{ErrorKind, Write as _};
use std::process::{Command, Stdio};

use crate::tools;

/// The outcome of running a tool.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// True if it exited with 0.
    pub ok: bool,
    /// Its exit code; none if a signal killed it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a tool that may fail, with an empty standard input.
///
/// # Panics
/// Like [`tools::command`].
pub fn capture(program: &str, args: &[&str]) -> Outcome {
    finish(tools::command(program).args(args), "")
}

/// Like [`capture`], with a text on standard input.
///
/// # Panics
/// Like [`tools::command`].
pub fn capture_fed(program: &str, args: &[&str], input: &str) -> Outcome {
    finish(tools::command(program).args(args), input)
}

/// Runs a tool that must succeed, and returns its standard output.
///
/// # Panics
/// Like [`tools::command`], and if the tool fails.
pub fn tool(program: &str, args: &[&str]) -> String {
    tool_fed(program, args, "")
}

/// Like [`tool`], with a text on standard input.
///
/// # Panics
/// Like [`tools::command`], and if the tool fails.
pub fn tool_fed(program: &str, args: &[&str], input: &str) -> String {
    let out = capture_fed(program, args, input);
    assert!(out.ok, "{program} {} ended with {:?}\n{}{}", args.join(" "), out.code, out.stdout, out.stderr);
    out.stdout
}

/// Runs a command to its end with `input` on standard input. The input must fit into a pipe's buffer.
pub(super) fn finish(command: &mut Command, input: &str) -> Outcome {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |e| panic!("{program} cannot be run: {e}");
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(failed);
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that exits early does not read its input. Its exit code says whether that is an error.
        match stdin.write_all(input.as_bytes()) {
            Err(e) if e.kind() != ErrorKind::BrokenPipe => panic!("{program} cannot be fed: {e}"),
            _ => drop(stdin),
        }
    }
    let out = child.wait_with_output().unwrap_or_else(|e| panic!("{program} cannot be waited for: {e}"));
    Outcome {
        ok: out.status.success(),
        code: out.status.code(),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}
