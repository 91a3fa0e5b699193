//! Standard input as a source, and standard output that closes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use crate::program::support::{Dir, Said, noise, program};
use crate::run;

/// Runs with `bytes` on standard input.
fn piped(args: &[&str], bytes: &[u8]) -> Said {
    let mut child: Child = program()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A program that fails early closes the pipe.
        scope.spawn(move || drop(input.write_all(bytes)));
        Said::of(child.wait_with_output().unwrap())
    })
}

#[test]
fn declared_raw_disk_is_read_from_a_pipe() {
    let dir = Dir::new();
    let mut disk = noise(3 << 20);
    disk.truncate(disk.len() - 1000);
    disk[1 << 20..2 << 20].fill(0);
    let out = dir.join("out.raw");
    let said = piped(&["convert", "-f", "raw", "-", out.to_str().unwrap(), "--json"], &disk).ends(0);
    let report = said.json();
    assert_eq!(report["source"]["url"], "-");
    assert_eq!(report["sizes"]["object_bytes"], disk.len());
    assert_eq!(report["sizes"]["virtual_bytes"], disk.len());
    assert!(std::fs::read(&out).unwrap() == disk);
    let digest = run!("digest", out, "-f", "raw", "--json").ends(0).json();
    assert_eq!(digest["hex"], report["digest"]["hex"]);
}

#[test]
fn stream_optimized_vmdk_is_read_from_a_pipe() {
    let dir = Dir::new();
    let sample = diskferry_corpus::sample("vmdk-stream-10g-xfs");
    let out = dir.join("out.raw");
    let report = piped(&["convert", "-", out.to_str().unwrap(), "--json"], sample.bytes()).ends(0).json();
    assert_eq!(report["digest"]["hex"], sample.digest_hex);
    assert_eq!(report["format"], "vmdk");
}

#[test]
fn formats_that_need_random_access_are_refused_from_a_pipe() {
    let dir = Dir::new();
    let out = dir.join("out.raw");
    let out = out.to_str().unwrap();
    let qcow2 = diskferry_corpus::sample("qcow2-v3").bytes();
    let error = piped(&["convert", "-", out, "--json"], qcow2).ends(2).error();
    assert_eq!(error["code"], "usage");
    let error = piped(&["convert", "-", out, "--json"], &noise(4096)).ends(3).error();
    assert_eq!(error["code"], "unknown_format");
    assert!(dir.names().is_empty());
}

#[test]
fn limits_apply_to_a_pipe() {
    let dir = Dir::new();
    let out = dir.join("out.raw");
    let out = out.to_str().unwrap();
    let args = ["convert", "-f", "raw", "-", out, "--json", "--limit", "1M"];
    let said = piped(&args, &noise(2 << 20)).ends(4);
    assert!(said.error()["code"].as_str().unwrap().ends_with("_too_large"), "{}", said.err);
    assert!(dir.names().is_empty());
}

#[test]
fn endless_pipe_fails_at_the_limits() {
    let dir = Dir::new();
    let out = dir.join("out.raw");
    for (option, code) in [("--limit", "object_too_large"), ("--capacity", "capacity_exceeded")] {
        let mut command = program();
        command.args(["convert", "-f", "raw", "-", out.to_str().unwrap(), "--json", option, "64M"]);
        let zeros = std::fs::File::open("/dev/zero").unwrap();
        let said = Said::of(command.stdin(zeros).output().unwrap()).ends(4);
        assert_eq!(said.error()["code"], code);
    }
    assert!(dir.names().is_empty());
}

#[test]
fn stalled_pipe_fails_after_the_stall_timeout() {
    let dir = Dir::new();
    let out = dir.join("out.raw");
    for format in ["raw", "vmdk"] {
        let (reader, _writer) = std::io::pipe().unwrap();
        let mut command = program();
        command.args(["convert", "-f", format, "-", out.to_str().unwrap(), "--json"]);
        let said = command.args(["--stall-timeout", "0.2"]).stdin(reader).output().unwrap();
        let error = Said::of(said).ends(5).error();
        assert_eq!(error["code"], "source_unavailable");
        assert_eq!(error["message"], "- delivered nothing after 0 bytes, for 0.2 seconds");
        assert!(dir.names().is_empty());
    }
}

#[test]
fn map_ends_quietly_if_the_reader_closes_the_pipe() {
    let dir = Dir::new();
    // Every second 4 KiB block is a hole, so the map is far longer than a pipe's buffer.
    let raw = dir.join("a.raw");
    let file = std::fs::File::create(&raw).unwrap();
    for block in 0..20_000u64 {
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], block * 8192).unwrap();
    }
    drop(file);
    for json in [true, false] {
        let mut command = program();
        command.args(["map", "-f", "raw"]).arg(&raw).args(json.then_some("--json"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said = Said::of(child.wait_with_output().unwrap()).ends(0);
        assert!(said.err.is_empty(), "{}", said.err);
    }
}

#[test]
fn full_standard_output_is_an_error() {
    let dir = Dir::new();
    let raw = dir.file("a.raw", &noise(4096));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = program().args(["info", "-f", "raw"]).arg(raw).stdout(full).output().unwrap();
    let said = Said::of(output).ends(6);
    assert!(said.err.starts_with("error[destination_full]: "), "{}", said.err);
}
