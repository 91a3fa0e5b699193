//! qemu-img with images in memory: creates an image of a disk, and reads an image.

use std::path::Path;

use diskferry_corpus::oracle::{self, Outcome};
pub(crate) use diskferry_corpus::oracle::{qemu_img, qemu_img_outcome};
use tempfile::TempDir;

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs qemu-io commands on an image, all in one process.
pub(crate) fn qemu_io(path: &Path, format: &str, commands: &[&str]) {
    assert!(qemu_io_unless_it_stops_itself(path, format, commands), "qemu-io {commands:?} stopped itself");
}

/// Like [`qemu_io`], but returns false for a defect of qemu: with small clusters it can start to write compressed bytes
/// over its tables. It then detects this and marks the image as corrupt, so the result is undefined.
pub(crate) fn qemu_io_unless_it_stops_itself(path: &Path, format: &str, commands: &[&str]) -> bool {
    let mut args = vec!["-t", "unsafe", "-f", oracle::qemu_format(format)];
    args.extend(commands.iter().flat_map(|command| ["-c", *command]));
    args.push(text(path));
    let outcome = oracle::capture("qemu-io", &args);
    if outcome.stderr.contains("Marking image as corrupt: Preventing invalid write on metadata") {
        return false;
    }
    // The exit code does not show which command failed.
    let wrong = ["failed", "invalid", "rror"].iter().any(|word| outcome.stdout.contains(word));
    assert!(outcome.ok && !wrong, "qemu-io {commands:?}: {}{}", outcome.stdout, outcome.stderr);
    true
}

/// The image that qemu-img creates of raw bytes.
pub(crate) fn convert(raw: &[u8], format: &str, options: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("raw"), dir.path().join("target"));
    std::fs::write(&source, raw).unwrap();
    let options: Vec<&str> = options.split(',').filter(|option| !option.is_empty()).collect();
    oracle::make(&source, format, &options, &[], &target);
    std::fs::read(target).unwrap()
}

/// The bytes that qemu-img reads from an image of a format. With an empty format, qemu-img detects it.
pub(crate) fn qemu_reads(image: &[u8], format: &str) -> Vec<u8> {
    qemu_reads_files(&[("image", image)], format)
}

/// The bytes that qemu-img reads from the first of these files.
pub(crate) fn qemu_reads_files(files: &[(&str, &[u8])], format: &str) -> Vec<u8> {
    let (outcome, read) = qemu_tries_files(files, format);
    assert!(outcome.ok, "qemu-img reads {} as {format:?}: {}", files[0].0, outcome.stderr);
    read
}

/// The result of reading the first of these files with qemu-img, and its output.
pub(crate) fn qemu_tries_files(files: &[(&str, &[u8])], format: &str) -> (Outcome, Vec<u8>) {
    let dir = written(files);
    let raw = dir.path().join("guest.raw");
    let source = dir.path().join(files[0].0);
    let format = oracle::qemu_format(format);
    let mut args = vec!["convert", "-t", "unsafe"];
    if !format.is_empty() {
        args.extend(["-f", format]);
    }
    args.extend(["-O", "raw", text(&source), text(&raw)]);
    let outcome = qemu_img_outcome(&args);
    (outcome, std::fs::read(&raw).unwrap_or_default())
}

/// The bytes that dissect.hypervisor reads from an image of one file.
pub(crate) fn dissect_reads(image: &[u8], format: &str) -> Vec<u8> {
    let dir = written(&[("image", image)]);
    let read = oracle::dissect(&dir.path().join("image"), format);
    read.unwrap_or_else(|error| panic!("dissect.hypervisor: {error}"))
}

/// The format that qemu-img detects.
pub(crate) fn qemu_probes(image: &[u8]) -> String {
    let dir = written(&[("image", image)]);
    let info = qemu_img(&["info", "--output=json", text(&dir.path().join("image"))]);
    let line = info.lines().rfind(|line| line.starts_with("    \"format\": ")).unwrap_or_default();
    line.split('"').nth(3).unwrap_or_default().to_owned()
}

/// A temporary directory with these files.
pub(crate) fn written(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}
