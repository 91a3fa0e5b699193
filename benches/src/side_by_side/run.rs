//! Runs one program, and measures its duration and peak memory.
//!
//! Every measurement runs in a separate process, floors included, so that allocator caches and idle threads of one run do not
//! affect the next. A child's peak memory starts at its parent's size, so this process stays small.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::failure::{Failure, Result};

/// The result of a run.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Ran {
    /// Duration from start to exit.
    pub(crate) seconds: f64,
    /// Peak resident memory.
    pub(crate) peak_bytes: u64,
    /// Its standard output.
    pub(crate) out: String,
}

/// Runs a command to its end.
///
/// # Errors
/// If it cannot be started or fails; the error contains its output.
pub(crate) fn run(command: &mut Command) -> Result<Ran> {
    let what = command.get_program().to_string_lossy().into_owned();
    let scratch = || tempfile::tempfile().map_err(Failure::io("making a temporary file"));
    // Files, not pipes: a program with much output would wait for a reader.
    let (mut out, mut err) = (scratch()?, scratch()?);
    let shared = |file: &File| file.try_clone().map_err(Failure::io("sharing a temporary file"));
    command.stdin(Stdio::null()).stdout(shared(&out)?).stderr(shared(&err)?);
    let began = Instant::now();
    let child = command.spawn().map_err(Failure::io(format!("starting {what}")))?;
    let ended = usage::wait(&child).map_err(Failure::io(format!("waiting for {what}")))?;
    let seconds = began.elapsed().as_secs_f64();
    if !ended.status.success() {
        let said = said(&mut err)?;
        return Err(Failure::Ran { what: shown(command), status: ended.status.to_string(), said });
    }
    Ok(Ran { seconds, peak_bytes: ended.peak_bytes, out: said(&mut out)? })
}

/// Runs a part of this program in a separate process, which prints the measured seconds.
///
/// # Errors
/// Like [`run`], and if no number is printed.
pub(crate) fn timed(command: &mut Command) -> Result<Ran> {
    let ran = run(command)?;
    let seconds = ran.out.trim().parse();
    let odd = |_| Failure::Odd(format!("{} printed no seconds", shown(command)));
    Ok(Ran { seconds: seconds.map_err(odd)?, ..ran })
}

fn said(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .map_err(Failure::io("reading a program's output"))?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Waits for a child and returns its resource usage; the standard library returns only the status.
#[allow(unsafe_code, reason = "wait4 is not in the standard library")]
mod usage {
    use std::io;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, ExitStatus};

    pub(super) struct Ended {
        pub(super) status: ExitStatus,
        pub(super) peak_bytes: u64,
    }

    pub(super) fn wait(child: &Child) -> io::Result<Ended> {
        let pid = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
        let mut status = 0;
        // SAFETY: `rusage` consists of integers, for which all-zero bytes are valid.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        loop {
            // SAFETY: both pointers are valid for the duration of the call. The child is waited for only here, so its ID
            // has not been reused.
            let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
            if waited == pid {
                break;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        // Linux reports KiB.
        let peak_bytes = u64::try_from(usage.ru_maxrss).unwrap_or_default().saturating_mul(1024);
        Ok(Ended { status: ExitStatus::from_raw(status), peak_bytes })
    }
}

#[cfg(test)]
mod tests {
    use diskferry_corpus::tools::command;

    use super::*;

    #[test]
    fn run_returns_the_output_and_the_peak_memory() {
        let ran = run(command("sh").args(["-c", "echo 0.25"])).unwrap();
        assert_eq!(ran.out, "0.25");
        assert!(ran.peak_bytes > 100 << 10 && ran.seconds > 0.0);
        assert_eq!(timed(command("sh").args(["-c", "echo 0.25"])).unwrap().seconds, 0.25);
    }

    #[test]
    fn failed_run_reports_its_error_output() {
        let error = run(command("sh").args(["-c", "echo alas >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("alas"), "{error}");
        assert!(timed(command("true").arg("x")).is_err());
    }
}
