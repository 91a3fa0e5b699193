//! What the tests of a reader stand on: images made by qemu-img and qemu-io, opened from memory, read in whole
//! through the block map, and held against what qemu-img reads from them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use diskferry_core::address::{GuestOffset, GuestRange};
use diskferry_core::disk::Disk;
use diskferry_core::error::{Error, Result};
use diskferry_core::extent::{Extent, ExtentKind, Tally};
use diskferry_core::source::Source;
use diskferry_core::source::memory::MemorySource;
use diskferry_formats::{Declared, Format};
use tempfile::TempDir;

/// Runs a future to its end; nothing here needs a runtime's sockets or timers.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Runs a tool that must succeed and gives its standard output.
pub(crate) fn run(tool: &str, args: &[&str]) -> String {
    let output = Command::new(tool)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{tool}: {error}; install it: apt-get install qemu-utils"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{tool} {args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

pub(crate) fn qemu_img(args: &[&str]) -> String {
    run("qemu-img", args)
}

/// A directory of images that goes with the test.
pub(crate) struct Images(TempDir);

impl Images {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// An empty QCOW2 image with `-o options`.
    pub(crate) fn create(&self, name: &str, size: &str, options: &str) -> PathBuf {
        let path = self.path(name);
        let mut args = vec!["create", "-q", "-f", "qcow2"];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend([text(&path), size]);
        qemu_img(&args);
        path
    }

    /// A raw file of those bytes.
    pub(crate) fn raw(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The guest's bytes as qemu-img reads them.
    pub(crate) fn truth(&self, image: &Path) -> Vec<u8> {
        let raw = self.path("truth.raw");
        qemu_img(&["convert", "-t", "unsafe", "-f", "qcow2", "-O", "raw", text(image), text(&raw)]);
        std::fs::read(&raw).unwrap()
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs qemu-io commands on an image.
pub(crate) fn qemu_io(image: &Path, commands: &[&str]) {
    let mut args = vec!["-t", "unsafe", "-f", "qcow2"];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(text(image));
    let output = run("qemu-io", &args);
    assert!(!output.contains("rror"), "qemu-io {commands:?}: {output}");
}

pub(crate) fn open_source(source: Arc<dyn Source>) -> Result<Disk> {
    block_on(diskferry_formats::open(source, Declared::Format(Format::Qcow2)))
}

pub(crate) fn open_bytes(bytes: Vec<u8>) -> Result<Disk> {
    open_source(Arc::new(MemorySource::new("image.qcow2", bytes)))
}

pub(crate) fn open(path: &Path) -> Disk {
    open_bytes(std::fs::read(path).unwrap()).unwrap()
}

/// All extents of the disk, asked for in windows of `window` bytes; checks that they cover it.
pub(crate) fn try_extents(disk: &Disk, window: u64) -> Result<Vec<Extent>> {
    let mut all: Vec<Extent> = Vec::new();
    let mut at = GuestOffset::ZERO;
    while at.get() < disk.virtual_bytes() {
        let end = at.get().saturating_add(window).min(disk.virtual_bytes());
        let answer = block_on(disk.extents(GuestRange::between(at, GuestOffset::new(end))))?;
        for extent in answer {
            // A coded unit that began before the window is there already.
            if extent.guest.end() <= at {
                continue;
            }
            let coded = matches!(extent.kind, ExtentKind::Coded(_));
            if coded && all.last().is_some_and(|last| last.guest.end() > extent.guest.start()) {
                continue;
            }
            assert_eq!(extent.guest.start(), at, "a gap or an overlap");
            assert!(!extent.guest.is_empty());
            at = extent.guest.end();
            all.push(extent);
        }
    }
    assert_eq!(at.get(), disk.virtual_bytes());
    Ok(all)
}

pub(crate) fn extents(disk: &Disk) -> Vec<Extent> {
    try_extents(disk, u64::MAX).unwrap()
}

/// The guest's bytes, read through the map.
pub(crate) fn try_read_all(disk: &Disk, window: u64) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for extent in try_extents(disk, window)? {
        let start = out.len();
        out.resize(start + extent.guest.len() as usize, 0);
        let Some(stored) = extent.to_fetch() else { continue };
        let bytes = block_on(disk.file(stored.file)?.read(stored.range))?;
        match &extent.kind {
            ExtentKind::Coded(coded) => {
                coded
                    .codec
                    .decode(extent.guest, &bytes, &mut out[start..], &mut Tally::default())
                    .map_err(|error| error.at(stored.range.start()))?;
            }
            _ => out[start..].copy_from_slice(&bytes),
        }
    }
    Ok(out)
}

pub(crate) fn read_all(disk: &Disk) -> Vec<u8> {
    try_read_all(disk, u64::MAX).unwrap()
}

/// Fails unless `ours` is `truth`, saying where they part, not what they hold.
pub(crate) fn assert_same(ours: &[u8], truth: &[u8], what: &str) {
    let first = ours.iter().zip(truth).position(|(a, b)| a != b);
    assert_eq!(first, None, "{what}: the first byte that differs");
    assert_eq!(ours.len(), truth.len(), "{what}: the lengths");
}

/// Fails unless the image reads as qemu-img reads it, in one window and in odd ones.
pub(crate) fn assert_reads_as_qemu(images: &Images, image: &Path, what: &str) -> Disk {
    let disk = open(image);
    let truth = images.truth(image);
    assert_same(&read_all(&disk), &truth, what);
    let odd = (disk.virtual_bytes() / 7).max(1) | 1;
    assert_same(&try_read_all(&disk, odd).unwrap(), &truth, &format!("{what}, in windows of {odd}"));
    disk
}

pub(crate) fn warnings(disk: &Disk) -> Vec<&'static str> {
    disk.warnings().list().into_iter().map(|warning| warning.code).collect()
}

/// Bytes that look like data: no two clusters alike, and compressible.
pub(crate) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 64);
    while bytes.len() < len {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let run = (state >> 59) as usize + 1;
        bytes.resize(bytes.len() + run, (state >> 33) as u8);
    }
    bytes.truncate(len);
    bytes
}

/// The kind and place of an error, for tables of tests.
pub(crate) fn said(error: &Error) -> (&'static str, Option<u64>) {
    (error.kind().code(), error.offset())
}
