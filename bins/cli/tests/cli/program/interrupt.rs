//! Signals: an interrupted run leaves no files.

use std::io::Write;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::program::support::{Dir, Said, noise, program};

/// Starts a conversion that has written its first bytes and waits for more input.
fn waiting(dir: &Dir, more: &[&str]) -> (Child, std::process::ChildStdin) {
    let mut child = program()
        .args(["convert", "-f", "raw", "-", dir.join("out.raw").to_str().unwrap(), "--force"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&noise(4 << 20)).unwrap();
    let began = Instant::now();
    while !dir.names().iter().any(|name| name.ends_with(".partial")) {
        assert!(began.elapsed() < Duration::from_secs(60), "the conversion never began: {:?}", dir.names());
        std::thread::sleep(Duration::from_millis(10));
    }
    (child, input)
}

#[test]
fn sigint_and_sigterm_exit_with_130_and_leave_no_files() {
    for signal in [Signal::INT, Signal::TERM] {
        let dir = Dir::new();
        let (child, input) = waiting(&dir, &["--json"]);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let said = Said::of(child.wait_with_output().unwrap()).ends(130);
        drop(input);
        assert_eq!(said.error()["code"], "cancelled");
        assert!(dir.names().is_empty(), "{:?}", dir.names());
    }
}

#[test]
fn interrupted_run_keeps_an_existing_target() {
    let dir = Dir::new();
    dir.file("out.raw", b"precious");
    let (child, input) = waiting(&dir, &[]);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    // A quick second signal changes nothing. The process may have exited by then.
    let _ = kill_process(Pid::from_child(&child), Signal::INT);
    let said = Said::of(child.wait_with_output().unwrap()).ends(130);
    drop(input);
    assert!(said.err.starts_with("error[cancelled]: "), "{}", said.err);
    assert_eq!(dir.names(), ["out.raw"]);
    assert_eq!(std::fs::read(dir.join("out.raw")).unwrap(), b"precious");
}

#[test]
fn stalled_source_fails_after_the_stall_timeout() {
    let dir = Dir::new();
    let (child, input) = waiting(&dir, &["--stall-timeout", "0.3", "--json"]);
    let said = Said::of(child.wait_with_output().unwrap()).ends(5);
    drop(input);
    assert_eq!(said.error()["code"], "source_unavailable");
    assert_eq!(said.error()["retryable"], true);
    assert!(dir.names().is_empty(), "{:?}", dir.names());
}
